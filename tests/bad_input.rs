//! The table of bad input: each is refused with its code, and nothing is lost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::sync::Arc;
use std::time::Duration;

use event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use event_log::memory::MemoryLog;
use platform::client::{ClientError, send, send_json};
use platform::pki::{Authority, Subject};
use platform::segments::memory_disk::MemoryDisk;
use schemas::avro::schema::AvroSchema;
use schemas::change::{ChangeCodec, Op};
use schemas::error_code::ErrorCode;
use schemas::ids::SchemaId;
use schemas::limits;
use support::network::{DOMAIN, Network, agreement, refusal, row};
use support::publisher::datum;

fn refused(outcome: Result<impl Sized, ClientError>) -> ErrorCode {
    refusal(outcome).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_batches_have_codes_and_change_nothing() {
    let mut network = Network::opened().await.unwrap();
    let good = network.batch(Op::Create, "a", None, Some(&row("a", "R"))).unwrap();
    let cut = good[..good.len() - 3].to_vec();
    let wrong_key = network.batch(Op::Create, "b", None, Some(&row("a", "R"))).unwrap();
    let images = network.batch(Op::Delete, "a", None, Some(&row("a", "R"))).unwrap();
    let garbage = network.raw_batch(&[0xff; 40]).unwrap();
    let large = row(&"x".repeat(10), &"R".repeat(limits::MAX_DATUM_BYTES));
    let large = network.batch(Op::Create, &"x".repeat(10), None, Some(&large)).unwrap();
    let create = |key: &str| datum(Op::Create, key, None, Some(&row(key, "R")));
    let wide = |key: &str| datum(Op::Create, key, None, Some(&row(key, &"R".repeat(70_000))));
    let other = datum(Op::Create, "b", None, Some(&row("a", "R")));
    let table = [
        ("no container", b"hello".to_vec(), ErrorCode::BatchMalformed),
        ("a frame cut short", cut, ErrorCode::BatchMalformed),
        ("malformed Avro", garbage, ErrorCode::DatumMalformed),
        ("images that do not fit", images, ErrorCode::DatumMalformed),
        ("another key", wrong_key, ErrorCode::KeyMismatch),
        ("an oversized event", large, ErrorCode::EventTooLarge),
        ("a block without changes", network.block(&[]).unwrap(), ErrorCode::DatumMalformed),
        (
            "a block of too many changes",
            network.block(&vec![create("a"); 2_001]).unwrap(),
            ErrorCode::DatumMalformed,
        ),
        (
            "a block of too many bytes",
            network.block(&[wide("a"), wide("b")]).unwrap(),
            ErrorCode::EventTooLarge,
        ),
        (
            "a wrong change behind a right one",
            network.block(&[create("a"), other]).unwrap(),
            ErrorCode::KeyMismatch,
        ),
    ];
    for (what, body, expected) in table {
        assert_eq!(refused(network.post("4000/main", body).await), expected, "{what}");
    }
    assert_eq!(refused(network.post("9000/main", good).await), ErrorCode::NotPermitted, "another's channel");
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_for_streams_have_codes() {
    let network = Network::opened().await.unwrap();
    let foreign = schemas::cursor::Cursor {
        log_id: schemas::ids::LogId::new([9; 16]),
        version: schemas::ids::AgreementVersion::new(1),
        places: schemas::per_partition::PerPartition::none(),
        snapshot: None,
    };
    let foreign = foreign.to_string();
    let table = [
        ("9000/main", "A-1", "yesterday", ErrorCode::RequestMalformed),
        ("9000/main", "A-1", "c1.zz", ErrorCode::CursorMalformed),
        // Its log was replaced, and this one holds nothing of the register yet.
        ("9000/main", "A-1", foreign.as_str(), ErrorCode::RegisterIncomplete),
        ("9001/main", "A-1", "state", ErrorCode::NotPermitted),
        ("9000/main", "A-2", "state", ErrorCode::NotPermitted),
    ];
    for (agent, number, from, expected) in table {
        assert_eq!(
            network.stream_refused(agent, number, from).await.unwrap(),
            expected,
            "{agent} {number} {from}"
        );
    }
    network.set_status("suspended").await.unwrap();
    assert_eq!(
        network.stream_refused("9000/main", "A-1", "state").await.unwrap(),
        ErrorCode::AgreementNotActive
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_control_changes_have_codes() {
    let network = Network::opened().await.unwrap();
    let put = |body: serde_json::Value| {
        send_json::<serde_json::Value>(network.operator.put("/v1/agreements").json(&body))
    };
    let nested = format!("{}true{}", "(".repeat(1000), ")".repeat(1000));
    assert_eq!(refused(put(agreement(2, &nested)).await), ErrorCode::RequestMalformed);
    assert_eq!(refused(put(agreement(2, "nope == 1")).await), ErrorCode::RequestMalformed);
    assert_eq!(
        refused(put(agreement(5, "true")).await),
        ErrorCode::RequestMalformed,
        "a version is left out"
    );
    let mut unknown = agreement(2, "true");
    unknown["schema_version"] = 9.into();
    assert_eq!(refused(put(unknown).await), ErrorCode::SchemaUnknown);
    let agent = network.client("4000/main").unwrap();
    let me: schemas::publish::Me = send_json(agent.get("/v1/me")).await.unwrap();
    assert_eq!((me.channels.len(), me.agreements.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_framework_refuses_has_codes_too() {
    let network = Network::opened().await.unwrap();
    let mut unknown_key = agreement(2, "true");
    unknown_key["purpouse"] = "x".into();
    let put = network.operator.put("/v1/agreements").json(&unknown_key);
    assert_eq!(refused(send(put).await), ErrorCode::RequestMalformed);
    let agent = network.client("9000/main").unwrap();
    assert_eq!(refused(send(agent.get("/v1/agreements/A-1/stream")).await), ErrorCode::RequestMalformed);
    let large = vec![0; limits::MAX_BATCH_BYTES + 1];
    assert_eq!(refused(network.post("4000/main", large).await), ErrorCode::BatchTooLarge);

    let admin = format!("https://{}", network.router.admin_address());
    let identity = network.authority.identity(&Subject::Agent("9000/main".parse().unwrap())).unwrap();
    let client = platform::client::Client::new(&admin, &identity).unwrap();
    assert_eq!(refused(send(client.get("/v1/agreements")).await), ErrorCode::NotPermitted, "no operator");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_is_wrong_is_passed_over_and_keeps_no_router_down() {
    let nested = format!("{}true{}", "(".repeat(1000), ")".repeat(1000));
    let network = Network::start_with(Arc::new(MemoryLog::default()), agreement(1, &nested)).await.unwrap();
    let known: serde_json::Value = send_json(network.operator.get("/v1/agreements")).await.unwrap();
    assert_eq!(known, serde_json::json!([]), "it is not in force");
    let put = network.operator.put("/v1/agreements").json(&agreement(1, "true"));
    send_json::<serde_json::Value>(put).await.unwrap();
    let known: serde_json::Value = send_json(network.operator.get("/v1/agreements")).await.unwrap();
    assert_eq!(known[0]["agreement"]["number"], "A-1", "the channel and its parties stand: {known}");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_certificates_and_silent_clients_get_nothing_and_block_nobody() {
    use tokio::io::AsyncReadExt;
    let network = Network::opened().await.unwrap();
    let mut silent = tokio::net::TcpStream::connect(network.router.address()).await.unwrap();

    let base = format!("https://{}", network.router.address());
    let stranger = Authority::new(DOMAIN).unwrap();
    let identity = stranger.identity(&Subject::Agent("9000/main".parse().unwrap())).unwrap();
    let client = platform::client::Client::new(&base, &identity).unwrap();
    assert!(
        matches!(send(client.get("/v1/me")).await, Err(ClientError::Unreachable(_))),
        "another authority"
    );

    let operator = network.authority.identity(&Subject::Operator("o".to_owned())).unwrap();
    let operator = platform::client::Client::new(&base, &operator).unwrap();
    assert_eq!(refused(send(operator.get("/v1/me")).await), ErrorCode::NotPermitted);
    let agent = network.client("9000/main").unwrap();
    assert!(send(agent.get("/v1/me")).await.is_ok(), "the silent client blocks nobody");
    let mut byte = [0; 1];
    let read = tokio::time::timeout(std::time::Duration::from_secs(30), silent.read(&mut byte)).await;
    assert_eq!(read.unwrap().unwrap(), 0, "it is given up after a while");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_gets_nothing() {
    let network = Network::opened().await.unwrap();
    let base = format!("https://{}", network.router.address());
    let an_hour_ago = std::time::SystemTime::now() - Duration::from_hours(1);
    let subject = Subject::Agent("9000/main".parse().unwrap());
    let issued = network.authority.issue_until(&subject, an_hour_ago).unwrap();
    let identity = network.authority.identity_of(issued).unwrap();
    let client = platform::client::Client::new(&base, &identity).unwrap();
    assert!(identity.expired().is_some(), "its own agent can tell why");
    let outcome = send(client.get("/v1/me")).await.map(drop);
    assert!(matches!(outcome, Err(ClientError::Unreachable(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_loses_nothing() {
    let disk = MemoryDisk::new();
    let folder = std::path::Path::new("/log");
    let log = || EmbeddedLog::open_on(Arc::new(disk.clone()), folder, EmbeddedOptions::default(), None);
    let mut network = Network::start_on(Arc::new(log().unwrap())).await.unwrap();
    network.open().await.unwrap();
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    network.materialised().await.unwrap();
    let mut stream = network.stream("9000/main", "earliest").await.unwrap();
    disk.set_room(Some(20));
    let second = network.batch(Op::Create, "b", None, Some(&row("b", "R"))).unwrap();
    assert_eq!(refused(network.post("4000/main", second).await), ErrorCode::Unavailable);
    let put = network.operator.put("/v1/agreements").json(&agreement(2, "true"));
    assert_eq!(refused(send_json::<serde_json::Value>(put).await), ErrorCode::Unavailable);
    let unaudited = network.stream_refused("9000/main", "A-1", "earliest").await.unwrap();
    assert_eq!(unaudited, ErrorCode::Unavailable, "nothing is admitted that cannot be audited");
    stream.until(|word| word == "upsert a Change").await.unwrap();
    disk.set_room(None);
    network.publish(Op::Create, "b", None, Some(&row("b", "R"))).await.unwrap();
    stream.until(|word| word == "upsert b Change").await.unwrap();
    assert_eq!(stream.rows(), ["upsert a Change", "upsert b Change"]);
    network.materialised().await.unwrap();
    let mut late = network.stream("9000/main", "state").await.unwrap();
    late.until(|word| word == "end").await.unwrap();
    assert_eq!(late.rows(), ["upsert a State", "upsert b State"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_an_unknown_schema_id_waits_for_the_registry() {
    let mut network = Network::opened().await.unwrap();
    let mut stream = network.stream("9000/main", "earliest").await.unwrap();
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    stream.until(|word| word == "upsert a Change").await.unwrap();
    // Another router appended it; this one's view of the registry is older. The next id will be 2.
    let wider =
        support::publisher::SCHEMA.replace("]}", r#",{"name":"extra","type":"string","default":""}]}"#);
    let wider = ChangeCodec::new(&AvroSchema::parse(&wider).unwrap()).unwrap();
    let mut image = row("b", "R");
    schemas::avro::binary::put_string(&mut image, "x");
    network.append_framed(SchemaId::new(2), Op::Create, "b", &image).await.unwrap();
    let waiting =
        tokio::time::timeout(Duration::from_millis(300), stream.until(|word| word.contains(" b "))).await;
    assert!(waiting.is_err(), "{:?}", stream.words);
    let client = network.client("4000/main").unwrap();
    let body = serde_json::json!({"schema": wider.block_schema().text()});
    let path = "/registry/subjects/dit.register.log-value/versions";
    let registered: serde_json::Value = send_json(client.post(path).json(&body)).await.unwrap();
    assert_eq!(registered["id"], 2);
    stream.until(|word| word == "upsert b Change").await.unwrap();
    network.publish(Op::Create, "c", None, Some(&row("c", "R"))).await.unwrap();
    stream.until(|word| word == "upsert c Change").await.unwrap();
    assert_eq!(stream.rows(), ["upsert a Change", "upsert b Change", "upsert c Change"]);
}
