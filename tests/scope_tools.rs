//! `dit scope` and `dit explain`, as a person types them: on declarations, and on a router as a channel's provider.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::path::Path;

use platform::client::send_json;
use platform::pki::Subject;
use schemas::change::Op;
use schemas::error_code::ErrorCode;
use schemas::publish::{ChannelAgreements, ShadowCounts};
use serde_json::{Value as Json, json};
use support::network::{Network, agreement, refusal, row};

const CHANNEL: &str = "companies";

fn dit(words: &[&str]) -> (Option<i32>, String) {
    support::site::typed(env!("CARGO_BIN_EXE_dit"), Path::new("."), words).unwrap()
}

fn field(name: &str, kind: &Json) -> Json {
    json!({"name": name, "type": kind})
}

fn schema(more: &[Json]) -> Json {
    let mut fields = vec![field("code", &json!("string")), field("territory", &json!("string"))];
    fields.extend(more.iter().cloned());
    json!({"type": "record", "name": "lv.Company", "fields": fields})
}

fn companies(number: &str, consumer: &str, rows: &str, fields: &Json) -> Json {
    json!({"number": number, "version": 1, "provider": "4000", "consumer": consumer, "channel": CHANNEL,
        "purpose": "test", "legal_basis": "test", "valid_from": "2020-01-01T00:00:00Z", "history": "full",
        "schema_version": 1, "rows": rows, "fields": fields})
}

fn write(path: &Path, json: &Json) -> String {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, json.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Declarations of one channel and two agreements.
fn declared(dir: &Path) -> String {
    let channel = json!({"name": CHANNEL, "kind": "distribution", "owner": "4000", "partitions": 1,
        "key": {"fields": ["code"]}, "schema": schema(&[field("size", &json!(["null", "long"]))])});
    write(&dir.join("channels/companies.json"), &channel);
    let all = json!({"code": "keep", "territory": "keep", "size": "keep"});
    write(&dir.join("agreements/1.json"), &companies("A-1", "9000", "territory == \"R\" && size > 5", &all));
    let few = json!({"code": "hash", "territory": "keep"});
    write(&dir.join("agreements/2.json"), &companies("A-2", "9001", "territory in [\"R\", \"J\"]", &few));
    dir.to_str().unwrap().to_owned()
}

#[test]
fn an_event_is_explained_to_each_participant() {
    let dir = tempfile::tempdir().unwrap();
    let declared = declared(&dir.path().join("declared"));
    let event = json!({"before": {"code": "1", "territory": "R", "size": 9},
        "after": {"code": "1", "territory": "J", "size": 9}});
    let event = write(&dir.path().join("event.json"), &event);
    let asked = ["explain", "--declared", &declared, "--channel", CHANNEL, "--event", &event];
    let (code, said) = dit(&[&asked[..], &["--participant", "9000"]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("A-1 version 1 for 9000: gets a delete: the row has left its scope"), "{said}");
    assert!(said.contains("after: denied by territory == \"R\" (territory is \"J\")"), "{said}");
    assert!(
        said.contains("of the row nothing leaves but its key") && !said.contains("fields that leave"),
        "{said}"
    );
    assert!(!said.contains("A-2"), "{said}");
    let (_, said) = dit(&[&asked[..], &["--agreement", "A-2"]].concat());
    assert!(
        said.contains("gets the update")
            && said.contains("fields that the agreement does not name, so they do not leave: size"),
        "{said}"
    );
    assert!(
        said.contains("code (as a keyed hash)") && said.contains("the key leaves as a keyed hash"),
        "{said}"
    );
    let (code, said) = dit(&[&asked[..], &["--participant", "9009"]].concat());
    assert_eq!(code, Some(1), "{said}");

    let unknown = json!({"after": {"code": "2", "territory": "R", "size": null}});
    let unknown = write(&dir.path().join("unknown.json"), &unknown);
    let asked = ["explain", "--declared", &declared, "--channel", CHANNEL, "--event", &unknown, "--json"];
    let (_, said) = dit(&asked);
    let lines: Vec<Json> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let after = &lines[0]["explanation"]["after"];
    assert_eq!((&lines[0]["agreement"], &after["truth"]), (&json!("A-1"), &json!("unknown")));
    assert_eq!(
        after["clauses"],
        json!([{"text": "size > 5", "truth": "unknown", "found": [["size", "null"]]}])
    );
    assert_eq!(lines[1]["explanation"]["outcome"], json!(["create", "change"]));

    assert_eq!((&lines[0]["consumer"], &lines[0]["idle"]), (&json!("9000"), &Json::Null));
    let mut early = companies("A-3", "9002", "nope == 1", &json!({"code": "keep"}));
    early["valid_from"] = "2099-01-01T00:00:00Z".into();
    write(&Path::new(&declared).join("agreements/3.json"), &early);
    let asked = ["explain", "--declared", &declared, "--channel", CHANNEL, "--event", &unknown];
    let (code, said) = dit(&[&asked[..], &["--agreement", "A-3"]].concat());
    assert!(code == Some(1) && said.contains("no decision: row predicate, character 1"), "{said}");
    assert!(said.contains("gives nothing now: it is not valid before 2099-01-01T00:00:00Z"), "{said}");
    let (code, said) = dit(&[&asked[..], &["--agreement", "A-3", "--json"]].concat());
    let line: Json = serde_json::from_str(&said).unwrap();
    assert!(code == Some(1) && line["error"].as_str().unwrap().contains("there is no field"), "{said}");

    let wrong = json!({"after": {"code": "2", "territory": "R", "size": "many"}});
    let wrong = write(&dir.path().join("wrong.json"), &wrong);
    let (code, said) = dit(&["explain", "--declared", &declared, "--channel", CHANNEL, "--event", &wrong]);
    assert!(code == Some(2) && said.contains("wrong.json") && said.contains("after: size"), "{said}");
}

#[test]
fn what_an_agreement_can_hardly_mean_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let declared = declared(&dir.path().join("declared"));
    let (code, said) = dit(&["scope", "lint", "--declared", &declared]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("A-2: field \"code\" is part of the key and hashed"), "{said}");
    assert!(said.contains("2 agreement(s), 1 finding(s)"), "{said}");
    let all = json!({"code": "keep", "territory": "keep"});
    let draft = |name: &str, rows: &str| write(&dir.path().join(name), &companies("A-3", "9000", rows, &all));
    let never = draft("never.json", "territory == \"R\" && territory == \"J\"");
    let (code, said) = dit(&["scope", "lint", "--declared", &declared, &never]);
    assert!(code == Some(1) && said.contains("A-3: rows: no row can match"), "{said}");
    let absent = draft("absent.json", "teritory == \"R\"");
    let (code, said) = dit(&["scope", "lint", "--declared", &declared, &absent]);
    assert!(
        code == Some(1) && said.contains("A-3: refused: row predicate, character 1: there is no field"),
        "{said}"
    );
    let (_, said) = dit(&["scope", "lint", "--declared", &declared, &never, &absent]);
    assert!(said.contains("2 agreement(s), 2 finding(s)"), "two for one channel: {said}");
    let mut astray = companies("A-4", "9000", "nonsense", &all);
    astray["channel"] = "companes".into();
    let astray = write(&dir.path().join("declared/agreements/4.json"), &astray);
    let (code, said) = dit(&["scope", "lint", "--declared", &declared]);
    assert!(code == Some(2) && said.contains("agreement A-4: there is no channel companes"), "{said}");
    std::fs::remove_file(astray).unwrap();
    let nowhere = dir.path().join("nowhere").to_str().unwrap().to_owned();
    for asked in [&["scope", "lint", "--declared", &nowhere][..], &["check", &nowhere]] {
        let (code, said) = dit(asked);
        assert!(code != Some(0) && said.contains("nowhere"), "{said}");
    }
    let good = draft("good.json", "territory.startsWith(\"LV-\")");
    let (code, said) = dit(&["scope", "lint", "--declared", &declared, &good]);
    assert_eq!((code, said.as_str()), (Some(0), "1 agreement(s), 0 finding(s)\n"));
}

#[test]
fn a_registry_sees_before_it_registers_a_schema_who_would_see_what() {
    let dir = tempfile::tempdir().unwrap();
    let declared = declared(&dir.path().join("declared"));
    let diff = |fields: &[Json]| {
        let proposed = write(&dir.path().join("proposed.avsc"), &schema(fields));
        dit(&["scope", "diff", "--declared", &declared, "--channel", CHANNEL, "--schema", &proposed])
    };
    let size = field("size", &json!(["null", "long"]));
    let (code, said) = diff(&[size.clone(), field("phone", &json!(["null", "string"]))]);
    assert_eq!(code, Some(1), "a null that is no default: {said}");
    assert!(said.contains("NOT TO BE REGISTERED") && said.contains("phone"), "{said}");
    let phone = json!({"name": "phone", "type": ["null", "string"], "default": null});
    let (code, said) = diff(&[size, phone]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("A-1 for 9000: as before, and does not see phone; sees code, territory, size"),
        "{said}"
    );
    let (code, said) = diff(&[field("employees", &json!(["null", "long"]))]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("A-1 for 9000: SUSPENDED: schema_mismatch: field \"size\" is gone"), "{said}");
    assert!(said.contains("A-2 for 9001: as before, and does not see employees"), "{said}");
    assert!(said.contains("2 agreement(s), 1 would be suspended"), "{said}");
    let renamed = json!({"name": "employees", "type": ["null", "long"], "aliases": ["size"]});
    let (code, said) = diff(&[renamed]);
    assert!(
        code == Some(0) && said.contains("A-1 for 9000: as before; sees code, territory, size"),
        "{said}"
    );
    for (name, is_none) in [
        ("list.avsc", json!("string")),
        (
            "keyless.avsc",
            json!({"type": "record", "name": "lv.Company",
        "fields": [field("territory", &json!("string"))]}),
        ),
    ] {
        let proposed = write(&dir.path().join(name), &is_none);
        let (code, said) =
            dit(&["scope", "diff", "--declared", &declared, "--channel", CHANNEL, "--schema", &proposed]);
        assert!(code == Some(2) && said.contains(name), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_asks_a_router_about_its_own_channel_and_nobody_else_may() {
    let network = Network::start().await.unwrap();
    let path = "/v1/channels/register/agreements";
    let consumer = network.client("9000/main").unwrap();
    let refused = send_json::<ChannelAgreements>(consumer.get(path)).await;
    assert_eq!(refusal(refused).unwrap(), ErrorCode::NotPermitted);
    let owner = network.client("4000/main").unwrap();
    let told = send_json::<ChannelAgreements>(owner.get(path)).await.unwrap();
    assert_eq!((told.schemas.len(), told.agreements.len()), (1, 1));

    let dir = tempfile::tempdir().unwrap();
    network.authority.issue_to(dir.path(), "agent", &Subject::Agent("4000/main".parse().unwrap())).unwrap();
    std::fs::write(dir.path().join("ca.pem"), network.authority.certificate_pem()).unwrap();
    let router = format!("https://{}", network.router.address());
    let identity = dir.path().join("agent.pem");
    let proposed = json!({"type": "record", "name": "test.Row", "fields": [field("k", &json!("string"))]});
    let proposed = write(&dir.path().join("proposed.avsc"), &proposed);
    let asking = ["scope", "diff", "--router", &router, "--identity", identity.to_str().unwrap()];
    let asking = [&asking[..], &["--channel", "register", "--schema", &proposed]].concat();
    let diff = move || {
        let asking: Vec<String> = asking.iter().map(ToString::to_string).collect();
        tokio::task::spawn_blocking(move || dit(&asking.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let (code, said) = diff().await.unwrap();
    assert!(code == Some(1) && said.contains("A-1 for 9000: SUSPENDED"), "{said}");
    // An agreement that has ended does not count any more.
    network.set_status("revoked").await.unwrap();
    let (code, said) = diff().await.unwrap();
    assert_eq!((code, said.as_str()), (Some(0), "0 agreement(s), 0 would be suspended\n"));
}

/// A request to count a proposed agreement.
fn shadow(network: &Network, rows: &str, from: &str, seconds: &str) -> reqwest::RequestBuilder {
    let mut proposed = agreement(2, rows);
    proposed["fields"] = json!({"k": "keep"});
    network.operator.post("/v1/shadow").query(&[("from", from), ("seconds", seconds)]).json(&proposed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposed_agreement_is_counted_over_the_log_and_over_what_comes() {
    let mut network = Network::opened().await.unwrap();
    let r = row("a", "R");
    let j = row("a", "J");
    network.publish(Op::Create, "a", None, Some(&r)).await.unwrap();
    network.publish(Op::Update, "a", Some(&r), Some(&j)).await.unwrap();
    network.publish(Op::Update, "a", Some(&j), Some(&r)).await.unwrap();
    network.publish(Op::Create, "b", None, Some(&row("b", "L"))).await.unwrap();
    let asked = shadow(&network, "t in [\"J\", \"L\"]", "earliest", "30");
    let counts: ShadowCounts = send_json(asked).await.unwrap();
    assert_eq!((counts.events, counts.change, counts.enter, counts.leave, counts.nothing), (4, 1, 1, 1, 1));
    // The agreement in force gives the rows of territory R: the first three events.
    assert_eq!((counts.gained, counts.lost, counts.parked, counts.is_whole), (1, 1, 0, true));
    assert_eq!(counts.beside.map(|version| version.get()), Some(1));
    assert_eq!(counts.pending.into_iter().collect::<Vec<_>>(), ["secret", "t"]);
    let no_time: ShadowCounts = send_json(shadow(&network, "t == \"R\"", "earliest", "0")).await.unwrap();
    assert!(!no_time.is_whole && no_time.events == 0, "{no_time:?}");

    let counting = tokio::spawn(send_json::<ShadowCounts>(shadow(&network, "true", "latest", "2")));
    let mut published = 0;
    while !counting.is_finished() {
        let key = format!("c{published}");
        network.publish(Op::Create, &key, None, Some(&row(&key, "R"))).await.unwrap();
        published += 1;
    }
    let counts = counting.await.unwrap().unwrap();
    assert!(counts.is_whole && counts.events > 0 && counts.events <= published, "{counts:?} of {published}");
    assert_eq!((counts.change, counts.gained), (counts.events, 0));
    network.set_status("suspended").await.unwrap();
    let counts: ShadowCounts =
        send_json(shadow(&network, "t in [\"J\", \"L\"]", "earliest", "30")).await.unwrap();
    assert_eq!((counts.beside, counts.gained, counts.lost), (None, 3, 0), "nothing stands now");
    let wrong = send_json::<ShadowCounts>(shadow(&network, "true", "state", "2")).await;
    assert_eq!(refusal(wrong).unwrap(), ErrorCode::RequestMalformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_had_what_counted_is_in_the_audit() {
    let mut network = Network::opened().await.unwrap();
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    network.authority.issue_to(dir.path(), "operator", &Subject::Operator("anna".to_owned())).unwrap();
    std::fs::write(dir.path().join("ca.pem"), network.authority.certificate_pem()).unwrap();
    let proposed = write(&dir.path().join("proposed.json"), &agreement(2, "k == \"a\""));
    let identity = dir.path().join("operator.pem").to_str().unwrap().to_owned();
    let admin = format!("https://{}", network.router.admin_address());
    let typed = move |words: Vec<String>| {
        tokio::task::spawn_blocking(move || dit(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let asked = words(&["scope", "shadow", "--admin", &admin, "--identity", &identity, &proposed]);
    let (code, said) = typed(asked).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 event(s), to 0:") && said.contains("gives 1 change(s)"), "{said}");
    let (_, said) = typed(words(&["audit", "--admin", &admin, "--identity", &identity])).await.unwrap();
    assert!(said.contains("anna ran a shadow with the rows k == \"a\" over register"), "{said}");
}
