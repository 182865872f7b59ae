//! Who did what, on every change: in the audit, in words, and by every filter.

use platform::client::{send, send_json};
use platform::pki::{Authority, Subject};
use schemas::error_code::ErrorCode;
use serde_json::{Value as Json, json};
use support::network::refusal;

use crate::daily_site::{settled, site};
use crate::typed;

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_names_persons_reasons_and_digests_and_shows_what_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (site, _running) = tokio::task::block_in_place(|| settled(site(dir.path())));
    let operator = site.operator().unwrap();
    let set = |reason: &str, status: &str| {
        operator.post("/v1/agreements/A-1/status").json(&json!({"status": status, "reason": reason}))
    };
    for reason in ["", "   ", "\u{a0}\u{2003}", "-", "…", "\u{200b}"] {
        assert_eq!(
            refusal(send(set(reason, "suspended")).await).unwrap(),
            ErrorCode::RequestMalformed,
            "{reason:?}"
        );
    }
    let _: Json = send_json(set("the court\u{2019}s word 12/2026", "suspended")).await.unwrap();
    let _: Json = send_json(set("lifted", "active")).await.unwrap();
    let second = json!({"number": "A-1", "version": 2, "provider": "4000", "consumer": "9000", "channel": "register",
        "purpose": "test", "legal_basis": "test", "valid_from": "2020-01-01T00:00:00Z", "history": "full",
        "schema_version": 1, "rows": "t == \"J\"", "fields": {"k": "keep", "v": "keep"}});
    let _: Json = send_json(operator.put("/v1/agreements").json(&second)).await.unwrap();
    let _: Json = send_json(operator.put("/v1/participants").json(&json!({"id": "9001", "name": "nine"})))
        .await
        .unwrap();
    let authority = Authority::open_or_create(&site.path("pki"), "test.dit").unwrap();
    authority.issue_to(&site.path("pki"), "anna", &Subject::Operator("anna".to_owned())).unwrap();
    let admin = site.admin();
    let audit = |more: &[&str]| {
        let asked = [&["audit", "--admin", &admin, "--identity", "pki/anna.pem"][..], more].concat();
        typed(dir.path(), &asked)
    };
    let (code, all) = audit(&[]);
    assert_eq!(code, Some(0), "{all}");
    for words in [
        "by o: the court\u{2019}s word 12/2026",
        "by o: lifted",
        "version 2, by o (SHA-256",
        "9000/main was admitted",
        "by declared",
    ] {
        assert!(all.contains(words), "{words}: {all}");
    }
    for debug in ["Operator(", "Some(", "None", "Agent(", "AgreementNumber", "Participant(", "\\\""] {
        assert!(!all.contains(debug), "{debug}: {all}");
    }
    let entries = |text: &str| text.lines().filter(|line| line.starts_with("20")).count();
    let shown = |more: &[&str]| {
        let (code, text) = audit(more);
        assert_eq!(code, Some(0), "{more:?}: {text}");
        entries(&text)
    };
    let by_o = shown(&["--by", "o"]);
    let by_files = shown(&["--by", "declared"]);
    assert_eq!((by_o, by_files), (3, 1), "{all}");
    assert!(shown(&["--agreement", "A-1"]) >= 4);
    assert_eq!((shown(&["--agreement", "A-2"]), shown(&["--since", "2999-01-01"])), (0, 0));
    assert_eq!(shown(&["--since", "2020-01-01"]), entries(&all));
    assert_eq!(shown(&["--participant", "9000"]), shown(&["--agreement", "A-1"]));
    assert_eq!(shown(&["--participant", "9009"]), 0);
    assert_eq!(shown(&["--by", "nobody"]), 0);
    let (_, none) = audit(&["--by", "nobody"]);
    assert!(none.contains("no entry fits these options"), "{none}");
    // As JSON: each line is one entry, and the last line says whether all chains are whole.
    let (_, text) = audit(&["--json", "--agreement", "A-1"]);
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["whole"], true);
    let with_digest = lines.iter().filter(|line| line.to_string().contains("digest")).count();
    assert!(with_digest >= 3, "versions and admissions say what they were: {text}");
}
