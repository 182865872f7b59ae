//! An empty input is never a success.

use support::site::eventually;

use crate::daily_site::{self, settled, site};
use crate::{typed, write};

#[test]
fn what_there_is_not_is_never_well() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, text) in [
        ("header.csv", "k,t\n"),
        ("ragged.csv", "k,t\n1,R,x\n2,J,x\n"),
        ("zero.csv", ""),
        ("blank.csv", "\n\n\n"),
        ("good.csv", "k,t\n1,R\n2,J\n3,R\n"),
        ("misplaced/agrements/a.json", "{}"),
        ("misplaced/channels/c.JSN", "{}"),
        (
            "consumer.toml",
            "router = \"https://x\"\ndata_dir = \"d\"\n[identity]\ncertificate = \"c\"\nkey = \"k\"\nauthorities = \"a\"\n",
        ),
    ] {
        write(dir, name, text);
    }
    std::fs::create_dir(dir.join("empty")).unwrap();
    let by = ["--key", "k", "--territory", "t"];
    let demo = |file: &'static str| [&["demo", "--register", file][..], &by].concat();
    let situations: [(Vec<&str>, &str); 11] = [
        (demo("header.csv"), "FAILED: no row could be read, so nothing was verified"),
        (demo("ragged.csv"), "FAILED: no row could be read, so nothing was verified"),
        (demo("zero.csv"), "the file is empty"),
        (demo("blank.csv"), "blank.csv"),
        (vec!["demo", "header.csv"], "none of its 0 row(s) can be read"),
        (
            [&demo("good.csv")[..], &["--territories", "Q"]].concat(),
            "no version has a row of territory \"Q\"",
        ),
        (vec!["check", "empty"], "it declares nothing"),
        (vec!["check", "misplaced"], "not looked at: misplaced/agrements, misplaced/channels/c.JSN"),
        (vec!["scope", "lint", "--declared", "empty"], "there is no agreement to look at"),
        (
            vec!["status", "--config", "consumer.toml"],
            "there is no [[agreement]], so there is no status to show",
        ),
        (vec!["consumer", "run", "--config", "consumer.toml"], "there is no [[agreement]] to receive"),
    ];
    for (words, expected) in situations {
        let (code, said) = typed(dir, &words);
        assert_ne!(code, Some(0), "{words:?}: {said}");
        assert!(said.contains(expected) && !said.contains("VERIFIED"), "{words:?}: {said}");
    }
    assert_eq!(typed(dir, &demo("good.csv")).0, Some(0));
}

/// A register that cannot be read in part, or rows that are parked: every place where people look shows it.
#[test]
fn what_is_held_or_parked_is_told_wherever_people_look() {
    let dir = tempfile::tempdir().unwrap();
    let (site, _running) = settled(site(dir.path()));
    let before = daily_site::replica(&site);
    let metric = |name: &str| {
        let url = format!("http://{}/metrics", site.observed("producer").unwrap());
        let (_, text) = support::watcher::get(&url, &[]).unwrap();
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let looked_at = || metric("dit_producer_source_freshness_timestamp_seconds");
    let fresh = looked_at();
    assert_eq!(metric("dit_producer_register_partial"), 0.0);
    let (text, _) = daily_site::register(0);
    // An open quote in the middle: the rows before it count, those after it stay as they are.
    let half = text.len() / 2;
    let cut = text[..half].rfind('\n').unwrap();
    site.drop_file("half.csv", &format!("{}\n\"open{}", &text[..cut], &text[cut..])).unwrap();
    eventually("it is told", || Ok(site.log("producer").contains("no row is deleted by it")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("producer")));
    eventually("whoever watches sees it", || Ok(metric("dit_producer_register_partial") > 0.0)).unwrap();
    assert!(fresh > 0.0 && looked_at() <= fresh, "the source was not looked at as a whole");
    // Rows that cannot be read are reported, and their keys stay as they were.
    let ragged: String = text
        .lines()
        .enumerate()
        .map(|(n, line)| format!("{line}{}\n", if n % 7 == 1 { ",x" } else { "" }))
        .collect();
    site.drop_file("ragged.csv", &ragged).unwrap();
    eventually("it is told", || Ok(site.log("producer").matches("row(s) are parked").count() > 1)).unwrap();
    assert_eq!(daily_site::replica(&site), before, "no row is lost by either");
    let (code, said) = typed(dir.path(), &["status", "--config", "consumer.toml"]);
    assert!(code == Some(0) && said.contains("the source was looked at"), "{said}");
    assert!(said.contains(&format!("{} rows", before.len())), "{said}");
}
