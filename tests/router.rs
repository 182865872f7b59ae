//! The router's interface: streams under agreements that change, late joiners, the audit, the registry.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use event_log::memory::MemoryLog;
use platform::client::{send, send_json};
use router::audit::chain::{Chain, Event};
use router::audit::service::AuditPage;
use schemas::agreement::Status;
use schemas::change::Op;
use schemas::error_code::ErrorCode;
use schemas::ids::Offset;
use schemas::reconcile::{RangeDigests, Ranges};
use support::network::{Network, Stream, agreement, refusal, row};

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_leaves_without_its_new_image_and_enters_without_its_old_one() {
    let mut network = Network::opened().await.unwrap();
    let inside = row("a", "R");
    let outside = row("a", "J");
    network.publish(Op::Create, "a", None, Some(&inside)).await.unwrap();
    let mut stream = network.stream("9000/main", "earliest").await.unwrap();
    network.publish(Op::Update, "a", Some(&inside), Some(&outside)).await.unwrap();
    network.publish(Op::Update, "a", Some(&outside), Some(&inside)).await.unwrap();
    network.publish(Op::Delete, "a", Some(&inside), None).await.unwrap();
    stream.until(|word| word == "remove a Change").await.unwrap();
    assert_eq!(stream.rows(), ["upsert a Change", "remove a Leave", "upsert a Enter", "remove a Change"]);
    let whole = String::from_utf8_lossy(&stream.bytes);
    assert!(!whole.contains("SECRET") && !whole.contains("secret"), "a field that is not named never leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_joiner_gets_the_state_once_and_then_what_happens() {
    let mut network = Network::opened().await.unwrap();
    let one = row("a", "R");
    let two = row("b", "R");
    network.publish(Op::Create, "a", None, Some(&one)).await.unwrap();
    network.publish(Op::Create, "b", None, Some(&two)).await.unwrap();
    network.publish(Op::Delete, "a", Some(&one), None).await.unwrap();
    network.materialised().await.unwrap();
    let mut stream = network.stream("9000/main", "state").await.unwrap();
    stream.until(|word| word == "end").await.unwrap();
    network.publish(Op::Create, "a", None, Some(&one)).await.unwrap();
    stream.until(|word| word == "upsert a Change").await.unwrap();
    assert_eq!(stream.rows(), ["upsert b State", "upsert a Change"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_broke_off_is_gone_on_with_by_another_router() {
    let log = Arc::new(MemoryLog::default());
    let mut first = Network::start_on(log.clone()).await.unwrap();
    first.open().await.unwrap();
    let large = |key: &str| {
        let mut out = row(key, "R");
        // The field that no agreement gives is large: the state takes several reads, the stream only a few bytes.
        out.truncate(out.len() - "SECRET".len() - 1);
        schemas::avro::binary::put_string(&mut out, &"x".repeat(30_000));
        out
    };
    let keys: Vec<String> = (0..60).map(|number| format!("k{number:02}")).collect();
    for key in &keys {
        first.publish(Op::Create, key, None, Some(&large(key))).await.unwrap();
    }
    first.materialised().await.unwrap();
    let mut broken = first.stream("9000/main", "state").await.unwrap();
    broken.until(|word| word == "snapshot").await.unwrap();
    let snapshot = broken.snapshot.clone().unwrap();
    let published = first.published();
    let before_pass = broken.words.iter().rposition(|word| word == "snapshot").unwrap();
    broken.words.truncate(before_pass);
    assert!(!broken.words.contains(&"end".to_owned()) && !broken.rows().is_empty());
    let cursor = first.snapshot_cursor(snapshot).unwrap().to_string();
    assert!(first.router.stop(Duration::from_secs(10)).await);

    let mut second = Network::start_on(log).await.unwrap();
    second.publish_after(published);
    second.publish(Op::Delete, "k00", Some(&large("k00")), None).await.unwrap();
    let mut rest = second.stream("9000/main", &cursor).await.unwrap();
    rest.until(|word| word == "remove k00 Change").await.unwrap();
    let all: Vec<&str> = broken.rows().into_iter().chain(rest.rows()).collect();
    let mut expected: Vec<String> = keys.iter().map(|key| format!("upsert {key} State")).collect();
    expected.push("remove k00 Change".to_owned());
    assert_eq!(all, expected, "each key once, then what happened since");
    let mut forged: schemas::cursor::Cursor = cursor.parse().unwrap();
    forged.snapshot.as_mut().unwrap().places.values_mut().next().unwrap().end = Offset::new(3);
    let refused = second.stream_refused("9000/main", "A-1", &forged.to_string()).await.unwrap();
    assert_eq!(refused, ErrorCode::CursorForeign, "a snapshot ends where a router said, nowhere else");
    let mut old: schemas::cursor::Cursor = cursor.parse().unwrap();
    old.snapshot.as_mut().unwrap().begun_at = schemas::time::Millis::new(0);
    let refused = second.stream_refused("9000/main", "A-1", &old.to_string()).await.unwrap();
    assert_eq!(refused, ErrorCode::CursorForeign, "nor may its age be chosen");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_during_a_snapshot_comes_after_it_once() {
    let mut network = Network::opened().await.unwrap();
    for key in ["a", "b", "c"] {
        network.publish(Op::Create, key, None, Some(&row(key, "R"))).await.unwrap();
    }
    network.materialised().await.unwrap();
    // The snapshot's ends are fixed when the request is answered; this client has read nothing of it yet.
    let mut stream = network.stream("9000/main", "state").await.unwrap();
    network.publish(Op::Update, "a", Some(&row("a", "R")), Some(&row("a", "J"))).await.unwrap();
    network.publish(Op::Create, "d", None, Some(&row("d", "R"))).await.unwrap();
    stream.until(|word| word == "upsert d Change").await.unwrap();
    let expected =
        ["upsert a State", "upsert b State", "upsert c State", "remove a Leave", "upsert d Change"];
    assert_eq!(stream.rows(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_loses_a_named_field_stops_the_stream_at_its_first_record() {
    let mut network = Network::opened().await.unwrap();
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    let mut stream = network.stream("9000/main", "earliest").await.unwrap();
    stream.until(|word| word == "upsert a Change").await.unwrap();
    let without = r#"{"type":"record","name":"test.Row","fields":[
        {"name":"k","type":"string"},{"name":"secret","type":"string"}]}"#;
    let codec =
        schemas::change::ChangeCodec::new(&schemas::avro::schema::AvroSchema::parse(without).unwrap())
            .unwrap();
    let client = network.client("4000/main").unwrap();
    let body = serde_json::json!({"schema": codec.block_schema().text()});
    let path = "/registry/subjects/dit.register.log-value/versions";
    let registered: serde_json::Value = send_json(client.post(path).json(&body)).await.unwrap();
    let id = u32::try_from(registered["id"].as_u64().unwrap()).unwrap();
    let mut image = Vec::new();
    for text in ["b", "SECRET"] {
        schemas::avro::binary::put_string(&mut image, text);
    }
    network.append_framed(schemas::ids::SchemaId::new(id), Op::Create, "b", &image).await.unwrap();
    stream.until(|_| false).await.unwrap();
    assert_eq!(stream.rows(), ["upsert a Change"]);
    let last = stream.words.last().unwrap();
    assert!(last.starts_with("closing Stop schema_mismatch"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_bites_in_mid_stream_and_for_good() {
    let mut network = Network::opened().await.unwrap();
    let mut stream = network.stream("9000/main", "latest").await.unwrap();
    let first = row("a", "R");
    network.publish(Op::Create, "a", None, Some(&first)).await.unwrap();
    stream.until(|word| word == "upsert a Change").await.unwrap();
    network.set_status("revoked").await.unwrap();
    network.publish(Op::Create, "b", None, Some(&row("b", "R"))).await.unwrap();
    stream.until(|_| false).await.unwrap();
    assert_eq!(stream.rows(), ["upsert a Change"], "nothing after the acknowledgement");
    let last = stream.words.last().unwrap();
    assert!(last.starts_with("closing Stop revoked") && last.contains(" at 0:"), "{last}");
    assert_eq!(network.stream_refused("9000/main", "A-1", "state").await.unwrap(), ErrorCode::AgreementEnded);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agreement_past_its_last_day_closes_its_streams() {
    let network = Network::opened().await.unwrap();
    let mut stream = network.stream("9000/main", "latest").await.unwrap();
    let mut ending = agreement(2, "t == \"R\"");
    let last = platform::clock::now().plus(2_500).to_string();
    ending["valid_to"] = last.into();
    let _: serde_json::Value = send_json(network.operator.put("/v1/agreements").json(&ending)).await.unwrap();
    stream.until(|_| false).await.unwrap();
    assert!(stream.words.last().unwrap().starts_with("closing Resync amended"));
    let mut second = network.stream("9000/main", "latest").await.unwrap();
    second.until(|_| false).await.unwrap();
    assert!(second.words.last().unwrap().starts_with("closing Stop expired"), "{:?}", second.words);
    assert_eq!(network.stream_refused("9000/main", "A-1", "state").await.unwrap(), ErrorCode::AgreementEnded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrower_version_closes_the_stream_with_resync() {
    let mut network = Network::opened().await.unwrap();
    let mut stream = network.stream("9000/main", "latest").await.unwrap();
    stream.until(|word| word == "progress").await.unwrap();
    let narrower = agreement(2, "t == \"R\" && k == \"b\"");
    let _: serde_json::Value =
        send_json(network.operator.put("/v1/agreements").json(&narrower)).await.unwrap();
    stream.until(|_| false).await.unwrap();
    assert!(stream.words.last().unwrap().starts_with("closing Resync amended"), "{:?}", stream.words);
    for key in ["a", "b"] {
        network.publish(Op::Create, key, None, Some(&row(key, "R"))).await.unwrap();
    }
    let mut second: Stream = network.stream("9000/main", "earliest").await.unwrap();
    second.until(|word| word.starts_with("upsert")).await.unwrap();
    assert_eq!(second.rows(), ["upsert b Change"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_batch_counts_once_and_a_zombies_never() {
    let mut network = Network::opened().await.unwrap();
    let body = network.batch(Op::Create, "a", None, Some(&row("a", "R"))).unwrap();
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    let again = network.post("4000/main", body.clone()).await.unwrap();
    assert_eq!(again.counted.unwrap().next.get(), 1, "the table's word stays");
    let zombie = network.post("4000/other", body).await.unwrap();
    assert_eq!(zombie.counted.unwrap().agent.to_string(), "4000/main");
    network.publish(Op::Create, "b", None, Some(&row("b", "R"))).await.unwrap();
    let mut stream = network.stream("9000/main", "earliest").await.unwrap();
    stream.until(|word| word == "upsert b Change").await.unwrap();
    assert_eq!(stream.rows(), ["upsert a Change", "upsert b Change"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_bounds_the_past_and_a_time_finds_it() {
    let mut network = Network::opened().await.unwrap();
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    let between = platform::clock::now().plus(1);
    while platform::clock::now() <= between {
        tokio::task::yield_now().await;
    }
    network.publish(Op::Create, "b", None, Some(&row("b", "R"))).await.unwrap();
    let mut since = network.stream("9000/main", &between.to_string()).await.unwrap();
    since.until(|word| word == "upsert b Change").await.unwrap();
    assert_eq!(since.rows(), ["upsert b Change"]);
    let mut none = agreement(2, "true");
    none["history"] = "none".into();
    let _: serde_json::Value = send_json(network.operator.put("/v1/agreements").json(&none)).await.unwrap();
    for from in ["earliest", &between.to_string()] {
        assert_eq!(network.stream_refused("9000/main", "A-1", from).await.unwrap(), ErrorCode::HistoryDenied);
    }
    let mut state = network.stream("9000/main", "latest").await.unwrap();
    state.until(|word| word == "progress").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_lines_of_json() {
    let mut network = Network::opened().await.unwrap();
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    let client = network.client("9000/main").unwrap();
    let request = client.get("/v1/agreements/A-1/stream").query(&[("from", "earliest")]);
    let mut response = send(request.header("accept", "application/x-ndjson")).await.unwrap();
    let mut text = String::new();
    while !text.contains("\"key\"") {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    let line = text.lines().find(|line| line.contains("\"key\"")).unwrap();
    let first: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&first["key"], &first["after"]["t"]), (&"a".into(), &"R".into()));
    assert!(!text.contains("SECRET"));
}

async fn audit(network: &Network) -> (Vec<Event>, Chain, AuditPage) {
    let page: AuditPage = send_json(network.operator.get("/v1/audit")).await.unwrap();
    let mut chain = Chain::new("r");
    let events = page.entries.iter().map(|text| chain.take(text.as_bytes()).unwrap().event).collect();
    (events, chain, page)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_names_who_was_admitted_until_when_and_goes_on_after_a_restart() {
    let log = Arc::new(MemoryLog::default());
    let mut network = Network::start_on(log.clone()).await.unwrap();
    network.open().await.unwrap();
    let mut stream = network.stream("9000/main", "earliest").await.unwrap();
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    stream.until(|word| word == "upsert a Change").await.unwrap();
    network.set_status("revoked").await.unwrap();
    stream.until(|_| false).await.unwrap();
    assert_eq!(network.stream_refused("9000/main", "A-1", "state").await.unwrap(), ErrorCode::AgreementEnded);
    assert!(network.router.stop(Duration::from_secs(10)).await);

    let second = Network::start_on(log).await.unwrap();
    let count_starts =
        |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Started)).count();
    // The audit's writer begins at the same time as the server.
    let begun = async {
        loop {
            let audited = audit(&second).await;
            if count_starts(&audited.0) == 2 {
                return audited;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (events, chain, page) = tokio::time::timeout(Duration::from_secs(20), begun).await.unwrap();
    let admitted =
        events.iter().position(|event| matches!(event, Event::Admitted { from, .. } if from == "earliest"));
    let revoked =
        events.iter().position(|event| matches!(event, Event::Status { status: Status::Revoked, .. }));
    let ended = events.iter().position(|event| match event {
        Event::Ended { reason, places, .. } => {
            reason == "revoked" && places.values().next().is_some_and(|place| place.offset > Offset::new(0))
        }
        _ => false,
    });
    assert!(admitted < revoked && admitted < ended && admitted.is_some(), "{events:?}");
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Admitted { .. })).count(), 1);
    let head = &page.heads[0];
    let mut until_head = Chain::new("r");
    let count = usize::try_from(head.next).unwrap();
    page.entries[..count].iter().for_each(|text| drop(until_head.take(text.as_bytes()).unwrap()));
    assert_eq!(head.head, until_head.head, "control holds where the chain stood");
    assert!(head.next >= chain.next - 1, "a router's last word is its whole chain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_open_streams_with_a_word_and_the_audit_has_it() {
    let log = Arc::new(MemoryLog::default());
    let first = Network::start_on(log.clone()).await.unwrap();
    first.open().await.unwrap();
    let mut stream = first.stream("9000/main", "latest").await.unwrap();
    let (stopped, read) = tokio::join!(first.router.stop(Duration::from_secs(10)), stream.until(|_| false));
    assert!(stopped, "in time");
    read.unwrap();
    assert!(stream.words.last().unwrap().starts_with("closing Continue draining"), "{:?}", stream.words);
    let (events, ..) = audit(&Network::start_on(log).await.unwrap()).await;
    let ended = |event: &Event| matches!(event, Event::Ended { reason, .. } if reason == "draining");
    assert!(events.iter().any(ended), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_read_costs_nobody_a_stop() {
    let mut network = Network::opened().await.unwrap();
    let mut wide = agreement(2, "true");
    wide["fields"]["secret"] = "keep".into();
    let _: serde_json::Value = send_json(network.operator.put("/v1/agreements").json(&wide)).await.unwrap();
    for number in 0..60 {
        let key = format!("k{number}");
        let mut image = row(&key, "R");
        image.truncate(image.len() - "SECRET".len() - 1);
        schemas::avro::binary::put_string(&mut image, &"x".repeat(30_000));
        network.publish(Op::Create, &key, None, Some(&image)).await.unwrap();
    }
    let stalled = network.stream("9000/main", "earliest").await.unwrap();
    network.set_status("revoked").await.unwrap();
    let has_ended = async {
        loop {
            let (events, ..) = audit(&network).await;
            let ended = |event: &Event| matches!(event, Event::Ended { reason, .. } if reason == "revoked");
            if events.iter().any(ended) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), has_ended).await.unwrap();
    assert!(network.router.stop(Duration::from_secs(15)).await, "the stalled stream was reset");
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agreement_has_a_bounded_number_of_streams() {
    let network = Network::opened().await.unwrap();
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(network.stream("9000/main", "latest").await.unwrap());
    }
    assert_eq!(
        network.stream_refused("9000/main", "A-1", "latest").await.unwrap(),
        ErrorCode::StreamsTooMany
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_told_what_its_rows_come_to_where_its_stream_stands() {
    let mut network = Network::opened().await.unwrap();
    let inside = row("a", "R");
    let outside = row("a", "J");
    for key in ["a", "b", "c"] {
        network.publish(Op::Create, key, None, Some(&row(key, "R"))).await.unwrap();
    }
    network.publish(Op::Create, "d", None, Some(&row("d", "J"))).await.unwrap();
    network.materialised().await.unwrap();
    // Events that the state does not have yet are read from the log: one leaves, one enters.
    network.publish(Op::Update, "a", Some(&inside), Some(&outside)).await.unwrap();
    network.publish(Op::Update, "d", Some(&row("d", "J")), Some(&row("d", "R"))).await.unwrap();
    let client = network.client("9000/main").unwrap();
    let told = async |offset: Option<u64>, ask: &str| {
        let from = network.cursor(offset).unwrap().to_string();
        let query = [("from", from.as_str()), ("reconcile", ask)];
        let mut stream = Stream::asking(&client, "A-1", &query).await.unwrap();
        stream.until(|word| word.starts_with("digests") || word.starts_with("range")).await.unwrap();
        let answer = stream.words.pop().unwrap();
        (answer, stream.words, String::from_utf8_lossy(&stream.bytes).into_owned())
    };
    let expected = |keys: &BTreeSet<&str>| {
        let mut digests = RangeDigests::new(Ranges::whole(), 0);
        keys.iter().for_each(|key| digests.add(key, &[Some((*key).to_owned()), Some("R".to_owned())]));
        format!("digests of {} rows: {:x}", keys.len(), digests.announce().total)
    };
    assert_eq!(told(None, "digests.0.0:0").await.0, expected(&BTreeSet::from(["b", "c", "d"])));
    // From an earlier cursor the digest comes within the stream, over what the stream has given until then.
    let (answer, words, _) = told(Some(1), "digests.0.0:0").await;
    let mut keys = BTreeSet::new();
    for word in &words {
        match word.split(' ').collect::<Vec<_>>()[..] {
            ["upsert", key, _] => drop(keys.insert(key)),
            ["remove", key, _] => drop(keys.remove(key)),
            _ => {}
        }
    }
    assert!(keys.len() == 3 && answer == expected(&keys), "{answer} after {words:?}");
    let (range, _, bytes) = told(None, "rows.0:0").await;
    assert_eq!(range, "range 0: b c d");
    assert!(!bytes.contains("SECRET") && !bytes.contains("secret"), "a field that is not named never leaves");
    let from = network.cursor(None).unwrap().to_string();
    for query in [
        [("from", "state"), ("reconcile", "digests.0.0:0")],
        [("from", "latest"), ("reconcile", "digests.0.0:0")],
        [("from", from.as_str()), ("reconcile", "digests.26.0:0")],
        [("from", from.as_str()), ("reconcile", "everything")],
    ] {
        let request = client.get("/v1/agreements/A-1/stream").query(&query);
        assert_eq!(refusal(send(request).await).unwrap(), ErrorCode::RequestMalformed, "{query:?}");
    }
}
