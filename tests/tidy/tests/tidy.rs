//! Checks the rules of the house: floors run one way, every file says what it owns, nothing is too long or dead.
//!
//! Owns the limits below. A rule that is in the way is changed here, with its reason, and not gone around.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use tidy::{root, sources};

/// A file longer than this is two rooms.
const MAX_FILE_LINES: usize = 520;
/// A function longer than this does two things.
const MAX_FUNCTION_LINES: usize = 72;
/// Names of rooms without a purpose.
const GRAB_BAGS: [&str; 6] = ["utils", "util", "common", "helpers", "misc", "manager"];

/// The floors that each package may depend on.
fn floors() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let agents = ["schemas", "platform"];
    BTreeMap::from([
        ("schemas", BTreeSet::new()),
        ("scope", BTreeSet::from(["schemas"])),
        ("platform", BTreeSet::from(["schemas"])),
        ("parts", BTreeSet::new()),
        ("event-log", BTreeSet::from(["schemas", "platform", "parts"])),
        ("reading", BTreeSet::from(["schemas", "platform", "event-log"])),
        ("router", BTreeSet::from(["schemas", "scope", "platform", "event-log", "reading"])),
        ("producer-agent", BTreeSet::from(agents)),
        ("consumer-agent", BTreeSet::from(agents)),
        (
            "loadtest",
            BTreeSet::from([
                "schemas",
                "platform",
                "router",
                "producer-agent",
                "consumer-agent",
                "parts",
                "support",
            ]),
        ),
        (
            "simulation",
            BTreeSet::from([
                "schemas",
                "scope",
                "platform",
                "event-log",
                "router",
                "producer-agent",
                "consumer-agent",
                "support",
            ]),
        ),
        ("support", BTreeSet::from(["schemas", "scope", "platform", "event-log", "router", "parts"])),
        ("tidy", BTreeSet::new()),
        (
            "dit",
            BTreeSet::from([
                "schemas",
                "scope",
                "platform",
                "event-log",
                "router",
                "producer-agent",
                "consumer-agent",
                "parts",
                "support",
            ]),
        ),
    ])
}

/// Packages that a pure floor must never depend on.
const IMPURE: [&str; 6] = ["tokio", "rdkafka", "axum", "reqwest", "hyper", "sled"];

fn all_sources() -> Vec<(PathBuf, String)> {
    let files = sources(root()).unwrap().into_iter();
    files.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn floors_run_one_way() {
    let metadata = metadata();
    let floors = floors();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(ours, floors.keys().copied().collect(), "every package has its floor here");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let below = dependency["name"].as_str().unwrap();
            let is_dev = dependency["kind"] == "dev";
            assert!(
                !ours.contains(below) || floors[name].contains(below),
                "{name} must not stand on {below}"
            );
            assert!(
                !matches!(name, "schemas" | "scope") || is_dev || !IMPURE.contains(&below),
                "{name} is pure and must not depend on {below}"
            );
        }
    }
}

#[test]
fn every_file_says_what_it_owns_and_is_one_room() {
    for (path, text) in all_sources() {
        let name = shown(&path);
        assert!(text.starts_with("//! "), "{name} has no header");
        let lines = text.lines().count();
        assert!(lines <= MAX_FILE_LINES, "{name} has {lines} lines");
        for part in Path::new(&name).iter().map(|part| part.to_string_lossy()) {
            let stem = part.trim_end_matches(".rs");
            assert!(!GRAB_BAGS.contains(&stem), "{name}: a room without a purpose");
        }
    }
}

/// Whether a line begins a function, whatever comes before its `fn`.
fn is_function(line: &str) -> bool {
    let mut rest = line;
    if let Some(after) = rest.strip_prefix("pub") {
        rest = after.strip_prefix('(').and_then(|of| of.split_once(')')).map_or(after, |(_, after)| after);
        rest = rest.trim_start();
    }
    while let Some(after) =
        ["const ", "async ", "unsafe ", "extern \"C\" "].iter().find_map(|word| rest.strip_prefix(word))
    {
        rest = after;
    }
    rest.starts_with("fn ")
}

#[test]
fn a_function_is_seen_whatever_stands_before_it() {
    for line in
        ["fn a() {", "pub fn a() {", "pub(crate) async fn a(", "pub(in crate::b) const fn a() -> u8 {"]
    {
        assert!(is_function(line), "{line}");
    }
    for line in ["pub struct A {", "let fn_name = 1;", "constant fn", "public fn a() {", "// fn a() {"] {
        assert!(!is_function(line), "{line}");
    }
}

#[test]
fn no_function_does_two_things() {
    for (path, text) in all_sources() {
        let mut open: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let begins = line.trim_start();
            if is_function(begins) && open.is_none() && !begins.ends_with(';') && !begins.ends_with('}') {
                open = Some((number, indent, begins.chars().take(50).collect()));
            } else if let Some((first, column, function)) = &open
                && indent == *column
                && (begins == "}" || begins.ends_with(';'))
            {
                let lines = number - first + 1;
                assert!(lines <= MAX_FUNCTION_LINES, "{}: {function}… has {lines} lines", shown(&path));
                open = None;
            }
        }
    }
}

/// A function takes inputs with names: several in one tuple are a struct without a name.
#[test]
fn no_input_is_a_tuple() {
    let mut wrong = Vec::new();
    for (path, text) in all_sources() {
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", shown(&path)));
        for function in functions(&parsed.items) {
            let is_tuple =
                |input: &&syn::FnArg| matches!(input, syn::FnArg::Typed(typed) if is_named_tuple(typed));
            if function.inputs.iter().any(|input| is_tuple(&input)) {
                wrong.push(format!("{}: {}", shown(&path), function.ident));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn is_named_tuple(input: &syn::PatType) -> bool {
    matches!((&*input.pat, &*input.ty), (syn::Pat::Tuple(_), syn::Type::Tuple(_)))
}

/// The functions of some items, and of what is inside them.
fn functions(items: &[syn::Item]) -> Vec<&syn::Signature> {
    fn of(item: &syn::Item) -> Vec<&syn::Signature> {
        match item {
            syn::Item::Fn(function) => vec![&function.sig],
            syn::Item::Impl(block) => block
                .items
                .iter()
                .filter_map(
                    |item| if let syn::ImplItem::Fn(function) = item { Some(&function.sig) } else { None },
                )
                .collect(),
            syn::Item::Trait(block) => block
                .items
                .iter()
                .filter_map(
                    |item| if let syn::TraitItem::Fn(function) = item { Some(&function.sig) } else { None },
                )
                .collect(),
            syn::Item::Mod(module) => module.content.iter().flat_map(|(_, items)| functions(items)).collect(),
            _ => Vec::new(),
        }
    }
    items.iter().flat_map(of).collect()
}

#[test]
fn no_file_is_dead() {
    let files = all_sources();
    for (path, _) in &files {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let dir = path.parent().unwrap();
        let in_tests = dir.file_name().is_some_and(|name| name == "tests" || name == "benches")
            && dir.parent().unwrap().join("Cargo.toml").exists();
        // Fuzz targets are programs that their manifest names.
        let manifest = dir.parent().map(|package| package.join("Cargo.toml"));
        let named = manifest.and_then(|manifest| std::fs::read_to_string(manifest).ok());
        let is_program =
            named.is_some_and(|text| text.contains(&format!("path = \"fuzz_targets/{stem}.rs\"")));
        let is_root = matches!(stem.as_str(), "main" | "lib" | "build") || is_program;
        if is_root || in_tests || dir == root().join("tests") {
            continue;
        }
        let owner = if stem == "mod" { dir.parent().unwrap() } else { dir };
        let module =
            if stem == "mod" { dir.file_name().unwrap().to_string_lossy().into_owned() } else { stem };
        let beside = owner.with_extension("rs");
        let declares = |text: &str| {
            text.lines().any(|line| line.trim_end_matches(';').trim_end().ends_with(&format!("mod {module}")))
        };
        let declared = files.iter().any(|(other, text)| {
            let is_parent =
                [owner.join("mod.rs"), owner.join("lib.rs"), owner.join("main.rs"), beside.clone()]
                    .contains(other);
            // Test targets, and benchmarks of a package, share a room by declaring it each.
            let has_targets = owner == root().join("tests")
                || owner.file_name().is_some_and(|name| name == "benches" || name == "tests")
                    && owner.parent().unwrap().join("Cargo.toml").exists();
            let is_target = has_targets && other.parent() == Some(owner);
            (is_parent || is_target) && declares(text)
        });
        assert!(declared, "{} is declared nowhere", shown(path));
    }
}

/// A planted bug that no longer applies tests nothing.
#[test]
fn every_planted_bug_fits_the_sources() {
    let planted = root().join("tests/simulation/planted");
    let mut count = 0;
    for entry in std::fs::read_dir(planted).unwrap() {
        let patch = entry.unwrap().path();
        let checked = Command::new("git").args(["apply", "--check"]).arg(&patch).current_dir(root()).output();
        let checked = checked.unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}: {said}", shown(&patch));
        count += 1;
    }
    assert_eq!(count, 27, "a planted bug more or less: say it here");
}

#[test]
fn nothing_is_left_behind() {
    let marks = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "X".repeat(3)];
    for (path, text) in all_sources() {
        for (number, line) in text.lines().enumerate() {
            for mark in &marks {
                assert!(!line.contains(mark), "{}:{}: {mark}", shown(&path), number + 1);
            }
        }
    }
}

/// A `select!` that chooses its first branch by chance has no history that a seed could give again.
#[test]
fn every_select_has_an_order() {
    let simulated = ["platform", "log", "reading", "router", "producer-agent", "consumer-agent"]
        .map(|name| root().join(name));
    for (path, text) in all_sources() {
        if !simulated.iter().any(|floor| path.starts_with(floor)) {
            continue;
        }
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
        for pair in lines.windows(2) {
            let is_select = pair[0].ends_with("tokio::select! {");
            assert!(!is_select || pair[1] == "biased;", "{}: {} without biased;", shown(&path), pair[0]);
        }
    }
}

/// What the digits behind a name say, wherever the name is.
fn numbers_behind<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let behind = text.split(name).skip(1);
    let digits = |rest: &'t str| {
        let rest = rest.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default()
    };
    behind.map(digits).collect()
}

#[test]
fn a_router_gets_the_same_allocator_wherever_it_runs() {
    let places = ["docs/keeping.md", "helm/dit/templates/router.yaml", "loadtest/src/network.rs"];
    for name in ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"] {
        let found: Vec<(&str, String)> = places
            .iter()
            .map(|place| {
                let text = std::fs::read_to_string(root().join(place)).unwrap();
                let numbers = numbers_behind(&text, name);
                assert_eq!(numbers.len(), 1, "{place} sets {name} once: {numbers:?}");
                (*place, numbers[0].to_owned())
            })
            .collect();
        assert!(found.iter().all(|(_, number)| *number == found[0].1), "{name}: {found:?}");
    }
}
