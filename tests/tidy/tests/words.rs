//! One word for one thing: no retired word is left, and the glossary lists the nouns of public types.
//!
//! Owns how names and texts are taken apart into words. The words themselves are in `tests/tidy/words.toml` and
//! `docs/glossary.md`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use tidy::root;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    retired: Vec<Retired>,
    nouns: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retired {
    word: String,
    now: String,
    #[serde(default)]
    except: Vec<String>,
}

/// Crates whose public types have names of the house.
const FLOORS: [&str; 8] =
    ["schemas", "scope", "platform", "log", "reading", "router", "producer-agent", "consumer-agent"];
/// Files that name retired words: the list, the decision, and the history.
const SPEAK_OF_THEM: [&str; 3] =
    ["tests/tidy/words.toml", "tests/tidy/tests/words.rs", "docs/adr/0022-rooms-that-import-one-way.md"];

fn words() -> Words {
    toml::from_str(&std::fs::read_to_string(root().join("tests/tidy/words.toml")).unwrap()).unwrap()
}

/// Every text of the repository, by its path: what git has, and what would be added.
fn texts() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    let kinds = ["rs", "md", "toml", "yaml", "json", "txt", "tpl", "sh", "mjs"];
    let paths = String::from_utf8(listed.stdout).unwrap();
    let is_text = |path: &&str| kinds.iter().any(|kind| path.ends_with(&format!(".{kind}")));
    let read = |path: &str| Some((path.to_owned(), std::fs::read_to_string(root().join(path)).ok()?));
    // Grafana's own schema is not ours to word.
    paths
        .lines()
        .filter(is_text)
        .filter(|path| !path.ends_with("dashboard.schema.json") && !path.ends_with("package-lock.json"))
        .filter_map(read)
        .collect()
}

/// The words of a text in lower case: names are taken apart where a capital or a `_` begins a word.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut before = ' ';
    for letter in text.chars() {
        let begins = letter.is_uppercase() && before.is_lowercase();
        if (!letter.is_alphabetic() || begins) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if letter.is_alphabetic() {
            word.extend(letter.to_lowercase());
        }
        before = letter;
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Whether a line, taken apart, has a retired word.
fn has(line: &str, words: &[String], retired: &Retired) -> bool {
    let is_words = retired.word.chars().all(|letter| letter.is_alphabetic() || letter == ' ');
    let wanted: Vec<&str> = retired.word.split(' ').collect();
    match is_words {
        true => words.windows(wanted.len()).any(|words| words == wanted.as_slice()),
        false => line.contains(&retired.word),
    }
}

#[test]
fn no_retired_word_is_left() {
    let texts = texts();
    let words = words();
    assert!(texts.len() > 400, "{}", texts.len());
    let mut found = Vec::new();
    for (path, text) in &texts {
        if SPEAK_OF_THEM.contains(&path.as_str()) {
            continue;
        }
        let retired: Vec<_> = words.retired.iter().filter(|word| !word.except.contains(path)).collect();
        for (index, line) in text.lines().enumerate() {
            let apart = split(line);
            for Retired { word, now, .. } in retired.iter().filter(|word| has(line, &apart, word)) {
                found.push(format!("{path}:{}: {word:?} is {now:?} now", index + 1));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_retired_word_is_found_in_names_and_sentences() {
    let retired = |word: &str| Retired { word: word.to_owned(), now: String::new(), except: Vec::new() };
    let is_found = |line: &str, word: &str| has(line, &split(line), &retired(word));
    for line in ["struct LikenessOf;", "let by_likeness = 1;", "A likeness.", "LIKENESS_BYTES"] {
        assert!(is_found(line, "likeness"), "{line}");
    }
    assert!(!is_found("fn unlikeness() {}", "likeness"));
    assert!(is_found("to check=1", "check=") && !is_found("to check 1", "check="));
    assert!(is_found("the Pass from the state", "pass from the state"));
    assert!(!is_found("a pass from", "pass from the state"));
}

/// The nouns of the glossary: the words of its first column.
fn glossary() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let first = |line: &str| Some(split(line.strip_prefix("| ")?.split('|').next()?));
    text.lines().filter_map(first).flatten().collect()
}

#[test]
fn the_glossary_lists_the_nouns_of_public_types() {
    let words = words();
    let glossary = glossary();
    let elsewhere: BTreeSet<&String> = words.nouns.values().flatten().collect();
    let mut unknown = Vec::new();
    let mut nouns = BTreeSet::new();
    for (path, text) in texts() {
        if !FLOORS.iter().any(|floor| path.starts_with(&format!("{floor}/src/"))) {
            continue;
        }
        let file = syn::parse_file(&text).unwrap();
        for (visibility, name) in file.items.iter().filter_map(named) {
            let noun = split(&name).pop().unwrap();
            let is_public = matches!(visibility, syn::Visibility::Public(_));
            let is_participle = noun.ends_with("ed") || noun.ends_with("able");
            let singular = noun.strip_suffix('s').unwrap_or(&noun).to_owned();
            let is_known =
                [&noun, &singular].iter().any(|noun| glossary.contains(*noun) || elsewhere.contains(noun));
            if is_public && !is_participle && !is_known {
                unknown.push(format!("{path}: {name}: what is a {noun:?}? docs/glossary.md says it"));
            }
            nouns.insert(noun);
        }
    }
    assert!(unknown.is_empty(), "\n{}", unknown.join("\n"));
    let unused: Vec<_> = elsewhere
        .iter()
        .filter(|noun| !nouns.contains(**noun) && !nouns.contains(&format!("{noun}s")))
        .collect();
    assert!(unused.is_empty(), "words.toml has nouns of no type: {unused:?}");
}

/// An item that has a name in the language of types.
fn named(item: &syn::Item) -> Option<(&syn::Visibility, String)> {
    match item {
        syn::Item::Struct(one) => Some((&one.vis, one.ident.to_string())),
        syn::Item::Enum(one) => Some((&one.vis, one.ident.to_string())),
        syn::Item::Trait(one) => Some((&one.vis, one.ident.to_string())),
        syn::Item::Type(one) => Some((&one.vis, one.ident.to_string())),
        _ => None,
    }
}

/// The map and the table of `ARCHITECTURE.md` name files and folders that exist.
#[test]
fn the_architecture_names_what_is_there() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what you want"));
    let mut wrong = Vec::new();
    let mut named = 0;
    for quoted in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        let is_path = quoted.contains('/') && !quoted.contains(' ') && !quoted.contains("::");
        if !is_path {
            continue;
        }
        // A room of a crate is named without the crate's `src`.
        let whole = root().join(quoted);
        let within = quoted.split_once('/').map(|(krate, rest)| root().join(krate).join("src").join(rest));
        let is_within = |path: &PathBuf| path.exists() || path.with_extension("rs").exists();
        let rooms = FLOORS.iter().any(|floor| {
            let mut found = Vec::new();
            folders(&root().join(floor).join("src"), &mut found);
            found.iter().any(|folder| folder.ends_with(quoted.trim_end_matches('/')))
        });
        named += 1;
        if !whole.exists() && !within.as_ref().is_some_and(is_within) && !rooms {
            wrong.push(quoted.to_owned());
        }
    }
    assert!(named > 60, "{named}");
    assert!(wrong.is_empty(), "ARCHITECTURE.md names what is not there: {wrong:?}");
}

fn folders(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            folders(&path, found);
            found.push(path);
        }
    }
}
