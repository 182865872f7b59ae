//! One bad thing never stops the rest.

use parts::postgres::Postgres;
use support::site::eventually;

use crate::daily_site::{self, site, start};
use crate::{typed, write};

#[test]
fn declarations_that_are_wrong_in_many_ways_keep_no_router_down() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    let good = std::fs::read_to_string(site.path("declared/agreements/a-1.json")).unwrap();
    for (name, text) in [
        ("b-open.json", "{\"number\": ".to_owned()),
        ("c-array.json", "[]".to_owned()),
        (
            "d-channel.json",
            good.replace("\"channel\": \"register\"", "\"channel\": \"nowhere\"").replace("A-1", "D-1"),
        ),
        ("e-consumer.json", good.replace("9000", "9999").replace("A-1", "E-1")),
        ("f-rows.json", good.replace("t == ", "nope == ").replace("A-1", "F-1")),
        ("g-field.json", good.replace("\"v\": \"keep\"", "\"w\": \"keep\"").replace("A-1", "G-1")),
        ("h-date.json", good.replace("2020-01-01T00:00:00Z", "soon").replace("A-1", "H-1")),
        ("i-bytes.json", "\u{0}".to_owned()),
    ] {
        write(&site.path("declared/agreements"), name, &text);
    }
    write(&site.path("declared/channels"), "broken.json", "{\"name\": \"broken\"}");
    let _running = ["router", "producer", "consumer"].map(|part| start(&site, part));
    daily_site::take_day(&site, 0);
    let log = site.log("router");
    for name in ["b-open", "c-array", "D-1", "E-1", "F-1", "G-1", "h-date", "i-bytes", "broken.json"] {
        let told =
            log.lines().filter(|line| line.contains("a declaration is passed over") && line.contains(name));
        assert!(told.count() == 1, "{name}: {log}");
    }
    // `dit check` shows all of them at once, before the start.
    let (code, said) = typed(dir.path(), &["check", "declared"]);
    assert!(code == Some(1) && said.lines().count() >= 9, "{said}");
}

#[test]
fn a_bad_file_and_a_bad_agreement_stop_no_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    let config = site.path("consumer.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    // One that does not exist, and one whose database does not exist either.
    let more = "[[agreement]]\nnumber = \"A-404\"\nchannel = \"register\"\n\n[[agreement]]\nnumber = \"A-405\"\nchannel = \"register\"\n\
        postgres.url = \"postgresql://nobody@127.0.0.1:1/none\"\n";
    std::fs::write(&config, format!("{text}\n{more}")).unwrap();
    let mut running = ["router", "producer", "consumer"].map(|part| start(&site, part));
    daily_site::take_day(&site, 0);
    let files: [(&str, &[u8]); 5] = [
        ("1-zip.csv", b"PK\x03\x04nothing"),
        ("2-header.csv", b"a,b,c\n1,2,3\n"),
        ("3-empty.csv", b""),
        ("4-array.json", b"[{\"k\": 1}]"),
        ("5-web.csv", b"<!DOCTYPE html><html>log in</html>"),
    ];
    for (name, bytes) in files {
        std::fs::write(site.path("drop").join(format!("{name}.part")), bytes).unwrap();
        std::fs::rename(site.path("drop").join(format!("{name}.part")), site.path("drop").join(name))
            .unwrap();
    }
    for (name, _) in files {
        eventually("it is refused", || Ok(site.path("drop/refused").join(name).exists()))
            .unwrap_or_else(|e| panic!("{name}: {e:#}\n{}", site.log("producer")));
    }
    daily_site::take_day(&site, 1);
    assert!(running.iter_mut().all(support::site::Process::is_running));
    let (code, said) = typed(dir.path(), &["status", "--config", "consumer.toml"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("A-1 (register): receiving") && said.contains("A-404") && said.contains("A-405"),
        "{said}"
    );
}

#[test]
fn a_second_agent_in_the_same_folder_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (site, mut running) = daily_site::settled(site(dir.path()));
    for part in ["producer", "consumer"] {
        let (code, said) = typed(dir.path(), &[part, "run", "--config", &format!("{part}.toml")]);
        assert!(code == Some(2) && said.contains("another process works in this folder"), "{said}");
    }
    daily_site::take_day(&site, 1);
    assert!(running.values_mut().all(support::site::Process::is_running));
}

/// Names that PostgreSQL uses itself, names that are too long for it, and too many of them.
#[test]
fn a_table_that_cannot_be_made_is_told_by_name_and_one_that_can_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let database = Postgres::shared().unwrap();
    let long = "x".repeat(70);
    let header = format!("id,t,xmin,xmax,ctid,tableoid,cmin,cmax,dit_key,dit_generation,{long},{long}y");
    let row = |id: u32, t: &str| {
        format!("{id},{t},{}", (0..10).map(|n| format!("{id}{n}")).collect::<Vec<_>>().join(","))
    };
    write(dir.path(), "a.csv", &format!("{header}\n{}\n{}\n{}\n", row(1, "R"), row(2, "J"), row(3, "R")));
    write(dir.path(), "b.csv", &format!("{header}\n{}\n{}\n", row(1, "J"), row(2, "J")));
    let asked = [
        "demo",
        "--register",
        "a.csv",
        "--then",
        "b.csv",
        "--key",
        "id",
        "--territory",
        "t",
        "--postgres",
        &database,
    ];
    let (code, said) = typed(dir.path(), &asked);
    assert!(code == Some(0) && said.contains("VERIFIED"), "{said}");
    let many: Vec<String> = (0..1_700).map(|n| format!("c{n}")).collect();
    write(dir.path(), "many.csv", &format!("id,t,{}\n1,R,{}\n", many.join(","), many.join(",")));
    let (code, said) = typed(
        dir.path(),
        &["demo", "--register", "many.csv", "--key", "id", "--territory", "t", "--postgres", &database],
    );
    assert!(code == Some(2) && said.contains("more than a table of PostgreSQL takes"), "{said}");
    // `dit check` shows what can be known before the start.
    let fields: Vec<String> = (0..1_600).map(|n| format!("\"f{n}\": \"keep\"")).collect();
    let agreement = format!(
        "{{\"number\": \"A\", \"version\": 1, \"provider\": \"1\", \"consumer\": \"2\", \"channel\": \"c\", \"purpose\": \"p\",
          \"legal_basis\": \"l\", \"valid_from\": \"2026-01-01T00:00:00Z\", \"history\": \"full\", \"schema_version\": 1,
          \"rows\": \"true\", \"fields\": {{{}}}}}",
        fields.join(", ")
    );
    write(dir.path(), "wide.json", &agreement);
    let (code, said) = typed(dir.path(), &["check", "wide.json"]);
    assert!(code == Some(0) && said.contains("more fields than a table of PostgreSQL takes"), "{said}");
    typed(dir.path(), &["pki", "--agent", "2/main"]);
    for (place, words) in [
        ("url = \"postgresql://a@db.example/x\"", "the server is on another machine: write ca"),
        ("url = \"postgresql://a@db.example/x\"\nca = \"none.pem\"", "none.pem"),
        ("url = \"mysql://a@localhost/x\"", "write postgresql://user@host:port/database"),
        ("url = \"postgresql://a@localhost/x\"\npassword_file = \"none\"", "none: "),
    ] {
        let text = format!(
            "router = \"https://x\"\ndata_dir = \"d\"\n[identity]\ncertificate = \"pki/2-main.pem\"\nkey = \"pki/2-main-key.pem\"\n\
             authorities = \"pki/ca.pem\"\n[[agreement]]\nnumber = \"A\"\nchannel = \"c\"\n[agreement.postgres]\n{place}\n"
        );
        write(dir.path(), "consumer.toml", &text);
        let (code, said) = typed(dir.path(), &["check", "consumer.toml"]);
        assert!(code == Some(1) && said.contains(words), "{place}: {said}");
    }
    // A row that is too large is parked; the demo says so, and verifies the rest.
    let large = "x".repeat(450_000);
    write(dir.path(), "large.csv", &format!("id,t,v\n1,R,a\n2,R,{large}\n"));
    let (code, said) =
        typed(dir.path(), &["demo", "--register", "large.csv", "--key", "id", "--territory", "t"]);
    assert!(code == Some(0) && said.contains("1 row(s) were parked") && said.contains("line 3"), "{said}");
}
