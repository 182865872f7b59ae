//! Text that people see, on terminals and in logs: whatever a register, a request or a file's name says, it moves no
//! cursor, begins no line and turns no text around.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use platform::client::{send, send_json};
use platform::pki::{Authority, Subject};
use serde_json::{Value as Json, json};
use support::site::{Process, Site, eventually};

use crate::daily_site;

/// Sets a terminal's title, clears its screen, begins a line that lies, and turns the rest around.
const STRANGE: &str = "\u{1b}]0;x\u{7}\u{1b}[2J\r\nA-1: up to date\u{9b}31m\u{85}\u{2028}\u{202e}\u{2066}y";

/// Asserts that a text has no control characters but ends of lines, no turned text, and no line that lies.
fn assert_plain(what: &str, text: &str) {
    let is_turning =
        |c: char| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    let strange = text.char_indices().find(|(_, c)| (c.is_control() && *c != '\n') || is_turning(*c));
    if let Some((at, c)) = strange {
        let around: String =
            text.chars().skip(text[..at].chars().count().saturating_sub(60)).take(120).collect();
        panic!("{what} shows {c:?}: {around:?}");
    }
    assert!(
        !text.lines().any(|line| line.starts_with("A-1: up to date")),
        "{what} has a line that lies: {text}"
    );
}

struct Play {
    site: Site,
    dir: tempfile::TempDir,
    _running: Vec<Process>,
}

impl Play {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let schema: Json = serde_json::from_str(daily_site::SCHEMA).unwrap();
        let channel = json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 1,
            "key": {"fields": ["k"]}, "schema": schema});
        let rows = format!("t == \"R\" || v == {}", json!("x"));
        let agreement = json!({"number": "A-1", "version": 1, "provider": "4000", "consumer": "9000",
            "channel": "register", "purpose": STRANGE, "legal_basis": STRANGE, "valid_from": "2020-01-01T00:00:00Z",
            "history": "full", "schema_version": 1, "rows": rows, "fields": {"k": "keep", "v": "keep"}});
        let declared = [("channels/register.json", channel), ("agreements/a-1.json", agreement)];
        let site = Site::new(dir.path(), env!("CARGO_BIN_EXE_dit"), &declared).unwrap();
        site.participants(&["4000", "9000"]).unwrap();
        site.producer("4000/main", "register", daily_site::SCHEMA, "").unwrap();
        site.consumer("9000/main", "A-1", "register").unwrap();
        let running = ["router", "producer", "consumer"].map(|part| daily_site::start(&site, part));
        Self { site, dir, _running: running.into() }
    }

    fn dit(&self, words: &[&str]) -> String {
        support::site::typed(env!("CARGO_BIN_EXE_dit"), self.dir.path(), words).unwrap().1
    }

    fn write(&self, name: &str, json: &Json) -> String {
        std::fs::write(self.site.path(name), json.to_string()).unwrap();
        name.to_owned()
    }

    fn said(&self, part: &str, words: &str) {
        eventually("the log says it", || Ok(self.site.log(part).contains(words)))
            .unwrap_or_else(|e| panic!("{e:#}: {words:?}\n{}", self.site.log(part)));
    }
}

/// Drops files whose rows, headers and names the provider's agent reports.
fn drop_strange_files(play: &Play) {
    let cell = STRANGE.replace('"', "");
    play.site
        .drop_file("1.csv", &format!("k,t,v\n\"{cell}\",R,\"{cell}\"\n\"{cell}\",R,other\n2,R,x\n"))
        .unwrap();
    play.said("producer", "1.csv");
    play.site.drop_file("2.csv", &format!("k,t,\"{cell}\"\n1,R,x\n")).unwrap();
    play.site.drop_file("3.ndjson", &format!("{}\n", json!({"k": "3", "t": "R", STRANGE: 1}))).unwrap();
    for name in
        [&b"4\x1b[2J\nA-1: up to date.csv"[..], b"5\xff\x1b]0;x\x07.csv", "6\u{202e}vsc.exe".as_bytes()]
    {
        let path = play.site.path("drop").join(OsStr::from_bytes(name));
        std::fs::write(path, "k,t,v\n9,R,x\n").unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", play.site.path("drop").join("7\u{1b}[2J.csv")).unwrap();
    play.said("producer", "3.ndjson");
    play.said("producer", "7\\x1b");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_shown_moves_a_cursor_or_begins_a_line() {
    let play = Play::new();
    drop_strange_files(&play);
    eventually("a row comes", || Ok(!daily_site::replica(&play.site).is_empty())).unwrap();
    let authority = Authority::open_or_create(&play.site.path("pki"), "test.dit").unwrap();
    authority.issue_to(&play.site.path("pki"), "anna", &Subject::Operator("anna".to_owned())).unwrap();
    let admin = play.site.admin();
    let asking = ["--admin", &admin, "--identity", "pki/anna.pem"];
    let event = json!({"before": {"k": STRANGE, "t": STRANGE, "v": STRANGE}, "after": {"k": STRANGE, "t": "R", "v": STRANGE}});
    let event = play.write("event.json", &event);
    let wrong = play.write("wrong.json", &json!({"after": {"k": 1, STRANGE: STRANGE}}));
    let draft = json!({"number": "A-2", "version": 1, "provider": "4000", "consumer": "9000", "channel": "register",
        "purpose": STRANGE, "legal_basis": STRANGE, "valid_from": "2020-01-01T00:00:00Z", "history": "full",
        "schema_version": 1, "rows": format!("t == {}", json!(STRANGE)), "fields": {"k": "keep", STRANGE: "keep"}});
    let draft = play.write("draft.json", &draft);
    let misread = play.write("misread.json", &json!({"number": STRANGE, STRANGE: 1}));
    std::fs::write(
        play.site.path("strange.toml"),
        format!("router = \"{}\"\n\"\\u001b[2J\" = 1\n", "https://x"),
    )
    .unwrap();
    let explain = ["explain", "--declared", "declared", "--channel", "register", "--event"];
    let show = |when: &str| {
        let asked = [
            vec!["status", "--config", "consumer.toml"],
            [&["audit"][..], &asking].concat(),
            [&["audit", "--by", STRANGE][..], &asking].concat(),
            [&explain[..], &[&event]].concat(),
            [&explain[..], &[&wrong]].concat(),
            [&explain[..], &["no\u{1b}[2J\nfile"]].concat(),
            vec!["scope", "lint", "--declared", "declared", &draft],
            vec!["scope", "lint", "--declared", "declared", &misread],
            vec!["check", "declared", "producer.toml", "strange.toml", &misread, "no\u{1b}[2J\nfile"],
            vec!["producer", "accept", "--config", "producer.toml", STRANGE],
            vec!["parked", "list", "--config", "consumer.toml", "--agreement", "A-2"],
            vec!["consumer", "init", "--router", STRANGE],
            vec!["demo", "--register", "no\u{1b}[2J\nfile", "--key", STRANGE, "--territory", STRANGE],
        ];
        for words in asked {
            assert_plain(&format!("{when}: {words:?}"), &play.dit(&words));
        }
    };
    show("in force");
    let operator = play.site.operator().unwrap();
    let body = json!({"status": "suspended", "reason": STRANGE});
    let _: Json = send_json(operator.post("/v1/agreements/A-1/status").json(&body)).await.unwrap();
    play.said("consumer", "suspended");
    show("suspended");
    // Requests that any holder of a certificate can send to a router.
    let agent = play.site.agent("9000/main").unwrap();
    for path in
        ["/v1/%1b%5b2J%0aA-1:%20up%20to%20date", "/v1/agreements/%1b%5b2J/stream?from=state", "/v1/me?%0a"]
    {
        drop(send(agent.get(path)).await);
    }
    let from = [("from", STRANGE)];
    drop(send(agent.get("/v1/agreements/A-1/stream").query(&from)).await);
    for part in ["router", "producer", "consumer"] {
        assert_plain(part, &play.site.log(part));
    }
}
