//! Makes `docs/configuration.md`, the reference of every configuration key, from the types that read them.
//!
//! `DIT_WRITE=1` writes the page; without it the test compares.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by failing")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use syn::{Attribute, Expr, Fields, GenericArgument, Item, Lit, Meta, PathArguments, Type};
use tidy::{root, sources};

/// Each file of a process, and the type that reads it.
const FILES: [(&str, &str); 3] = [
    ("router.toml", "RouterConfig"),
    ("producer.toml", "ProducerConfig"),
    ("consumer.toml", "ConsumerConfig"),
];
/// Folders whose types a configuration may be made of.
const FLOORS: [&str; 5] =
    ["platform/src", "log/src", "router/src", "producer-agent/src", "consumer-agent/src"];

/// One key, from its field.
struct Key {
    name: String,
    kind: Type,
    is_optional: bool,
    words: String,
}

/// Structs with their keys, and enums with their words, of everything that is read from a file.
#[derive(Default)]
struct Types {
    tables: BTreeMap<String, Vec<Key>>,
    words: BTreeMap<String, Vec<String>>,
}

/// The text within an attribute's brackets.
fn within(attributes: &[Attribute], name: &str) -> Vec<String> {
    let of = |attribute: &Attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident(name) => Some(list.tokens.to_string()),
        _ => None,
    };
    attributes.iter().filter_map(of).collect()
}

fn has(attributes: &[Attribute], name: &str, word: &str) -> bool {
    within(attributes, name)
        .iter()
        .any(|tokens| tokens.split([',', ' ', '(', ')']).any(|token| token == word))
}

fn doc(attributes: &[Attribute]) -> String {
    let line = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    attributes.iter().filter_map(line).collect::<Vec<_>>().join(" ")
}

/// `ScramSha` is written `scram_sha`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn types() -> Types {
    let mut files: Vec<_> = FLOORS.iter().flat_map(|floor| sources(&root().join(floor)).unwrap()).collect();
    let mut types = Types::default();
    files.sort();
    for file in files {
        for item in syn::parse_file(&std::fs::read_to_string(&file).unwrap()).unwrap().items {
            match item {
                Item::Struct(item) if is_read(&item.attrs) => {
                    let Fields::Named(fields) = item.fields else { continue };
                    let all_optional = has(&item.attrs, "serde", "default");
                    let keys = fields.named.into_iter().map(|field| Key {
                        name: field.ident.unwrap().to_string(),
                        is_optional: all_optional
                            || is_option(&field.ty)
                            || has(&field.attrs, "serde", "default"),
                        words: doc(&field.attrs),
                        kind: field.ty,
                    });
                    types.tables.insert(item.ident.to_string(), keys.collect());
                }
                Item::Enum(item) if is_read(&item.attrs) => {
                    let words = item.variants.iter().map(|variant| snake(&variant.ident.to_string()));
                    types.words.insert(item.ident.to_string(), words.collect());
                }
                _ => {}
            }
        }
    }
    types
}

fn is_read(attributes: &[Attribute]) -> bool {
    within(attributes, "derive").iter().any(|tokens| tokens.contains("Deserialize"))
}

/// The last word of a type's name, and the type within its brackets.
fn named(kind: &Type) -> (String, Option<&Type>) {
    let Type::Path(path) = kind else { return (String::new(), None) };
    let last = path.path.segments.last().unwrap();
    let inner = match &last.arguments {
        PathArguments::AngleBracketed(arguments) => {
            arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Type(kind) => Some(kind),
                _ => None,
            })
        }
        _ => None,
    };
    (last.ident.to_string(), inner)
}

fn is_option(kind: &Type) -> bool {
    named(kind).0 == "Option"
}

/// A type for people; its table, where it is one.
fn in_words(kind: &Type, types: &Types) -> (String, Option<String>) {
    let (name, inner) = named(kind);
    if let Some(words) = types.words.get(&name) {
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        return (words.join(", "), None);
    }
    if types.tables.contains_key(&name) {
        return ("a table".to_owned(), Some(name));
    }
    match (name.as_str(), inner) {
        ("Option", Some(inner)) => in_words(inner, types),
        ("Vec", Some(inner)) => match in_words(inner, types) {
            (_, Some(table)) => ("tables".to_owned(), Some(table)),
            (words, None) => (format!("a list of {words}s"), None),
        },
        ("PathBuf", _) => ("a path".to_owned(), None),
        ("SocketAddr", _) => ("`host:port`".to_owned(), None),
        ("SignedDuration", _) => ("a time, such as `10s`".to_owned(), None),
        ("u16" | "u32" | "u64" | "usize", _) => ("a number".to_owned(), None),
        ("bool", _) => ("`true` or `false`".to_owned(), None),
        ("char", _) => ("one character".to_owned(), None),
        _ => ("text".to_owned(), None),
    }
}

/// A table's keys, and the tables below it.
fn describe(page: &mut String, place: &str, table: &str, types: &Types) {
    let mut below = Vec::new();
    page.push_str("| key | | what it is |\n|---|---|---|\n");
    for key in types.tables.get(table).unwrap() {
        let (words, inner) = in_words(&key.kind, types);
        let must = if key.is_optional { "" } else { ", **needed**" };
        let text = key.words.replace('|', "\\|");
        assert!(!text.is_empty(), "{table}.{} has no words", key.name);
        writeln!(page, "| `{}` | {words}{must} | {text} |", key.name).unwrap();
        let brackets = if words == "tables" { ("[[", "]]") } else { ("[", "]") };
        below.extend(inner.map(|inner| (key.name.clone(), brackets, inner)));
    }
    for (name, (open, close), inner) in below {
        let place = if place.is_empty() { name } else { format!("{place}.{name}") };
        writeln!(page, "\n### `{open}{place}{close}`\n").unwrap();
        describe(page, &place, &inner, types);
    }
}

#[test]
fn the_reference_says_what_the_types_say() {
    let types = types();
    let mut page = "# Every key of the configuration\n\nMade from the types that read the files: `just configuration` writes \
        this page, and a test compares. Files are TOML. A key that\nis not known is refused with its line; `dit check FILE` looks at a \
        file. Relative paths are relative to the file.\n"
        .to_owned();
    for (file, table) in FILES {
        writeln!(page, "\n## {file}\n").unwrap();
        describe(&mut page, "", table, &types);
    }
    let path = root().join("docs/configuration.md");
    if std::env::var_os("DIT_WRITE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "docs/configuration.md is old: just configuration");
}
