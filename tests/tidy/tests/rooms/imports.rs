//! Reads from the sources alone which module of a crate imports which other module of it.
//!
//! Owns the reading of paths (`use`, and any path within code and macros) and of re-exports. It must never say
//! which import is right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Attribute, Item, UseTree, Visibility};

/// The names of the modules from a crate's root down to one module: empty for the root.
pub(crate) type ModulePath = Vec<String>;

/// One module's file.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) module: ModulePath,
    pub(crate) file: String,
    pub(crate) text: String,
}

/// A path in one module that leads to another module of the same crate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    pub(crate) importer: ModulePath,
    pub(crate) imported: ModulePath,
    pub(crate) file: String,
}

/// Reads every module below a crate's root folder.
pub(crate) fn read_sources(root: &Path, shown_from: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    read_folder(root, &mut Vec::new(), shown_from, &mut sources);
    sources
}

fn read_folder(folder: &Path, module: &mut ModulePath, shown_from: &Path, sources: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            module.push(stem);
            read_folder(&path, module, shown_from, sources);
            module.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_folder_root = matches!(stem.as_str(), "mod" | "lib" | "main");
            let own = if is_folder_root { None } else { Some(stem) };
            sources.push(Source {
                module: module.iter().cloned().chain(own).collect(),
                file: path.strip_prefix(shown_from).unwrap().display().to_string(),
                text: std::fs::read_to_string(&path).unwrap(),
            });
        }
    }
}

/// The rooms of a crate: the modules right below its root, but for tests.
pub(crate) fn rooms(sources: &[Source]) -> BTreeSet<String> {
    let krate = Crate::of(&parsed(sources));
    let others = sources.iter().filter(|source| !krate.is_test(&source.module));
    others.filter_map(|source| source.module.first().cloned()).collect()
}

fn parsed(sources: &[Source]) -> Vec<(&Source, syn::File)> {
    sources.iter().map(|source| (source, syn::parse_file(&source.text).unwrap())).collect()
}

/// All imports between different modules of one crate, without those of its tests.
pub(crate) fn imports(sources: &[Source]) -> BTreeSet<Import> {
    let parsed = parsed(sources);
    let krate = Crate::of(&parsed);
    let mut found = BTreeSet::new();
    for (source, file) in &parsed {
        if krate.is_test(&source.module) {
            continue;
        }
        for path in paths(&source.module, &file.items) {
            let imported = krate.module_of(path);
            if imported != source.module && !krate.is_test(&imported) {
                found.insert(Import { importer: source.module.clone(), imported, file: source.file.clone() });
            }
        }
    }
    found
}

/// The facts of a whole crate that decide where a path leads.
#[derive(Default)]
struct Crate {
    modules: BTreeSet<ModulePath>,
    tests: BTreeSet<ModulePath>,
    /// The path behind a name in a module, where the module re-exports it.
    re_exports: BTreeMap<ModulePath, ModulePath>,
}

impl Crate {
    fn of(parsed: &[(&Source, syn::File)]) -> Self {
        let mut krate = Self::default();
        for (source, file) in parsed {
            krate.modules.insert(source.module.clone());
            krate.learn(&source.module, &file.items);
        }
        krate
    }

    fn learn(&mut self, module: &ModulePath, items: &[Item]) {
        for item in items {
            match item {
                Item::Mod(inner) if is_for_tests(&inner.attrs) => {
                    self.tests.insert(joined(module, &inner.ident.to_string()));
                }
                Item::Use(used) if !matches!(used.vis, Visibility::Inherited) => {
                    for (path, name) in used_paths(&used.tree) {
                        if let Some(path) = absolute(module, &path) {
                            self.re_exports.insert(joined(module, &name), path);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn is_test(&self, module: &[String]) -> bool {
        self.tests.iter().any(|test| module.starts_with(test))
    }

    /// The module in which the thing at `path` is, past re-exports.
    fn module_of(&self, mut path: ModulePath) -> ModulePath {
        // A re-export of a re-export is rare, and a circle of them does not compile.
        for _ in 0..4 {
            let lengths = 1..=path.len();
            let Some((length, target)) = lengths
                .filter_map(|length| path.get(..length).map(|prefix| (length, prefix)))
                .find_map(|(length, prefix)| self.re_exports.get(prefix).map(|target| (length, target)))
            else {
                break;
            };
            path = target.iter().cloned().chain(path.iter().skip(length).cloned()).collect();
        }
        while !self.modules.contains(&path) && !path.is_empty() {
            path.pop();
        }
        path
    }
}

fn joined(module: &[String], name: &str) -> ModulePath {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.to_token_stream().to_string() == "# [cfg (test)]")
}

/// The attributes of an item that can be for tests alone.
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(one) => &one.attrs,
        Item::Enum(one) => &one.attrs,
        Item::Fn(one) => &one.attrs,
        Item::Impl(one) => &one.attrs,
        Item::Macro(one) => &one.attrs,
        Item::Mod(one) => &one.attrs,
        Item::Static(one) => &one.attrs,
        Item::Struct(one) => &one.attrs,
        Item::Trait(one) => &one.attrs,
        Item::Type(one) => &one.attrs,
        Item::Use(one) => &one.attrs,
        _ => &[],
    }
}

/// Every path into the own crate that a module has, from the crate's root.
fn paths(module: &ModulePath, items: &[Item]) -> Vec<ModulePath> {
    let mut found = Vec::new();
    for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
        match item {
            Item::Use(used) => {
                found.extend(used_paths(&used.tree).iter().filter_map(|(path, _)| absolute(module, path)));
            }
            Item::Mod(inner) => {
                if let Some((_, items)) = &inner.content {
                    found.extend(paths(&joined(module, &inner.ident.to_string()), items));
                }
            }
            other => scan(module, other.to_token_stream(), &mut found),
        }
    }
    found
}

/// The paths that a `use` names, each with the name that it gets here.
fn used_paths(tree: &UseTree) -> Vec<(ModulePath, String)> {
    match tree {
        UseTree::Path(path) => {
            let first = path.ident.to_string();
            let below = |(rest, name): (ModulePath, String)| {
                (std::iter::once(first.clone()).chain(rest).collect(), name)
            };
            used_paths(&path.tree).into_iter().map(below).collect()
        }
        UseTree::Name(name) if name.ident == "self" => vec![(Vec::new(), String::new())],
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(rename) => vec![(vec![rename.ident.to_string()], rename.rename.to_string())],
        UseTree::Glob(_) => vec![(Vec::new(), "*".to_owned())],
        UseTree::Group(group) => group.items.iter().flat_map(used_paths).collect(),
    }
}

/// Finds paths outside `use`, macros included.
fn scan(module: &ModulePath, tokens: TokenStream, found: &mut Vec<ModulePath>) {
    let mut path: ModulePath = Vec::new();
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Ident(name) => {
                if colons != 2 {
                    found.extend(absolute(module, &path));
                    path.clear();
                }
                path.push(name.to_string());
                colons = 0;
            }
            other => {
                found.extend(absolute(module, &path));
                path.clear();
                colons = 0;
                if let TokenTree::Group(group) = other {
                    scan(module, group.stream(), found);
                }
            }
        }
    }
    found.extend(absolute(module, &path));
}

/// A path from the crate's root, if it leads into the own crate.
fn absolute(module: &[String], path: &[String]) -> Option<ModulePath> {
    let (first, rest) = path.split_first()?;
    if rest.is_empty() {
        return None;
    }
    let mut whole: ModulePath = match first.as_str() {
        "crate" => Vec::new(),
        "self" => module.to_vec(),
        "super" => module.split_last()?.1.to_vec(),
        _ => return None,
    };
    for name in rest {
        if name == "super" {
            whole.pop();
        } else {
            whole.push(name.clone());
        }
    }
    Some(whole)
}
