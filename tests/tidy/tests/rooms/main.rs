//! Checks which room of a crate imports which: the sources have to agree with `tests/tidy/rooms.toml`.
//!
//! Owns the rules over rooms. A room is a module right below a crate's root, with all that is in it. It must never read
//! code itself (`imports` does).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use tidy::root;

use self::imports::{Import, ModulePath, Source, imports, read_sources};

/// Of each room of one crate, from the ground up: the rooms that it may import.
type Rooms = IndexMap<String, Vec<String>>;

/// The table, by crate.
fn table() -> IndexMap<String, Rooms> {
    toml::from_str(&std::fs::read_to_string(root().join("tests/tidy/rooms.toml")).unwrap()).unwrap()
}

/// The folder of a crate's root module, as the table names crates.
fn folder(name: &str) -> PathBuf {
    if name == "dit" { root().join("src") } else { root().join(name).join("src") }
}

/// Every crate of this repository: each folder that has `src/lib.rs` or `src/main.rs`.
fn crates(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !path.is_dir() || name.starts_with('.') || name == "target" {
            continue;
        }
        let has_root = path.join("lib.rs").exists() || path.join("main.rs").exists();
        if has_root {
            found.push(path.clone());
        } else {
            crates(&path, found);
        }
    }
}

/// The room that a module is in, if it is not the crate's root.
fn room(module: &ModulePath) -> Option<&String> {
    module.first()
}

/// The imports between rooms that a crate's part of the table does not allow.
fn crossings<'a>(rooms: &Rooms, imports: &'a BTreeSet<Import>) -> Vec<&'a Import> {
    let is_crossing = |import: &&Import| match (room(&import.importer), room(&import.imported)) {
        (Some(importer), Some(imported)) if importer != imported => {
            !rooms.get(importer).is_some_and(|allowed| allowed.contains(imported))
        }
        _ => false,
    };
    imports.iter().filter(is_crossing).collect()
}

/// Modules of one parent that import each other in a circle.
fn circles(imports: &BTreeSet<Import>) -> Vec<BTreeSet<ModulePath>> {
    let mut beside: BTreeMap<ModulePath, BTreeSet<ModulePath>> = BTreeMap::new();
    for Import { importer, imported, .. } in imports {
        let shared = importer.iter().zip(imported).take_while(|(one, other)| one == other).count();
        // A module and what is inside it are one room.
        if importer.len() > shared && imported.len() > shared {
            beside.entry(importer[..=shared].to_vec()).or_default().insert(imported[..=shared].to_vec());
        }
    }
    let reached: BTreeMap<_, _> =
        beside.keys().map(|module| (module.clone(), reach(module, &beside))).collect();
    let in_circle = |module: &&ModulePath| reached[*module].contains(*module);
    let circle_of = |module: &ModulePath| {
        let returns =
            |other: &&ModulePath| reached.get(*other).is_some_and(|reached| reached.contains(module));
        reached[module].iter().filter(returns).cloned().collect::<BTreeSet<_>>()
    };
    let circles: BTreeSet<_> = beside.keys().filter(in_circle).map(circle_of).collect();
    circles.into_iter().collect()
}

/// All modules that `module` reaches by imports.
fn reach(module: &ModulePath, beside: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> BTreeSet<ModulePath> {
    let mut reached = BTreeSet::new();
    let mut open = vec![module];
    while let Some(next) = open.pop() {
        for imported in beside.get(next).into_iter().flatten() {
            if reached.insert(imported.clone()) {
                open.push(imported);
            }
        }
    }
    reached
}

#[test]
fn rooms_import_what_the_table_allows_and_nothing_else() {
    let mut wrong = Vec::new();
    for (name, rooms) in table() {
        let sources = read_sources(&folder(&name), root());
        let imports = imports(&sources);
        for Import { importer, imported, file } in crossings(&rooms, &imports) {
            wrong.push(format!(
                "{file}: `{}` must not import `{}`",
                importer.join("::"),
                imported.join("::")
            ));
        }
        let there = imports::rooms(&sources);
        for gone in rooms.keys().filter(|room| !there.contains(*room)) {
            wrong.push(format!("rooms.toml: {name} has no room `{gone}`"));
        }
        for absent in there.iter().filter(|room| !rooms.contains_key(*room)) {
            wrong.push(format!("rooms.toml: {name}'s room `{absent}` is missing"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_runs_from_the_ground_up_and_allows_nothing_that_nobody_uses() {
    let mut wrong = Vec::new();
    for (name, rooms) in table() {
        let imports = imports(&read_sources(&folder(&name), root()));
        let used: BTreeSet<_> =
            imports.iter().map(|import| (room(&import.importer), room(&import.imported))).collect();
        for (index, (importer, allowed)) in rooms.iter().enumerate() {
            for imported in allowed {
                if rooms.get_index_of(imported).is_none_or(|below| below >= index) {
                    wrong.push(format!("{name}: `{imported}` is not below `{importer}`"));
                }
                if !used.contains(&(Some(importer), Some(imported))) {
                    wrong.push(format!("{name}: `{importer}` does not import `{imported}`; take it out"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_crate_has_a_circle() {
    let mut found = Vec::new();
    crates(root(), &mut found);
    assert!(found.len() > 12, "{found:?}");
    let mut wrong = Vec::new();
    for folder in found {
        for circle in circles(&imports(&read_sources(&folder, root()))) {
            let modules: Vec<_> = circle.iter().map(|module| module.join("::")).collect();
            wrong.push(format!("{}: {}", folder.strip_prefix(root()).unwrap().display(), modules.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The sources of a crate with some lines added to one of its files.
fn with_lines(name: &str, file: &str, lines: &str) -> Vec<Source> {
    let mut sources = read_sources(&folder(name), root());
    let source = sources.iter_mut().find(|source| source.file == file).unwrap();
    source.text.push_str(lines);
    sources
}

#[test]
fn planted_crossings_are_found() {
    let planted = [
        ("router", "router/src/lease/board.rs", "\nuse crate::http::problem::Problem as Planted;\n", "http"),
        // In code, within a macro.
        (
            "consumer-agent",
            "consumer-agent/src/sink/effect.rs",
            "\nfn planted() { assert!(super::super::receive::machine::planted()); }\n",
            "receive",
        ),
        // Past a re-export: the root names what is in another room.
        ("schemas", "schemas/src/ids.rs", "\npub type Planted = crate::delivery::Delivery;\n", "delivery"),
    ];
    for (name, file, lines, room) in planted {
        let rooms = &table()[name];
        let whole = imports(&read_sources(&folder(name), root()));
        let with = imports(&with_lines(name, file, lines));
        assert!(crossings(rooms, &whole).is_empty(), "{name} is clean before");
        let found = crossings(rooms, &with);
        assert_eq!(found.len(), 1, "{file}: {found:?}");
        assert_eq!((found[0].file.as_str(), found[0].imported[0].as_str()), (file, room));
    }
}

#[test]
fn a_planted_circle_is_found() {
    let name = "router";
    let clean = circles(&imports(&read_sources(&folder(name), root())));
    let with = with_lines(name, "router/src/delivery/gate.rs", "\npub use super::body::planted;\n");
    let found = circles(&imports(&with));
    assert_eq!(found.len(), clean.len() + 1, "{found:?}");
}
