//! Rows that a table refuses: parked by their keys, seen and decided by a person.

use consumer_agent::sink::effect::Effect;
use consumer_agent::sink::error::SinkErrorClass;
use consumer_agent::sink::postgres::{Decision, PostgresSink, PostgresTarget, decide, parked};
use consumer_agent::sink::{Batch, Sink};
use parts::postgres::Postgres;
use tokio_postgres::Client;

use crate::{NAME, SIZE, batch, begun, cursor, database, row, rows, schema, upsert};

/// A table with a person's constraint: no size is above 99.
pub(crate) async fn constrained(place: &PostgresTarget, admin: &Client) -> PostgresSink {
    let sink = begun(place, &schema(&format!("{NAME},{SIZE}"))).await;
    admin.batch_execute("ALTER TABLE dit.register ADD CHECK (size < 100)").await.unwrap();
    sink
}

#[tokio::test]
async fn a_refused_row_waits_by_its_key_and_the_others_flow() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let number = "A-1".parse().unwrap();
    let keys = async || {
        let rows = parked(&place, &number).await.unwrap();
        rows.into_iter().map(|row| (row.key, row.waiting)).collect::<Vec<_>>()
    };
    let of = |key: &str, waiting: i64| (key.to_owned(), waiting);
    let mut sink = constrained(&place, &admin).await;
    let mut snapshot =
        vec![Effect::BeginSnapshot, upsert("1", row("a\0", None)), upsert("2", row("b", Some(100)))];
    snapshot.extend((3..3_000).map(|n| upsert(&n.to_string(), row("c", Some(n % 100)))));
    snapshot.extend([upsert("k\0", row("d", None)), Effect::EndSnapshot]);
    sink.apply(&batch(snapshot, 5)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count(), sink.cursor()), (2_997, 3, Some(cursor(5))));
    // A good row waits behind a refused one of its key; a row of another key does not wait.
    let later = vec![upsert("2", row("b", Some(50))), upsert("3", row("e", None))];
    sink.apply(&batch(later, 6)).await.unwrap();
    assert_eq!(keys().await, [of("1", 0), of("2", 1), of("k\0", 0)]);
    let reasons: Vec<_> = parked(&place, &number).await.unwrap().into_iter().map(|row| row.reason).collect();
    assert!(reasons[0].contains("22021") && reasons[1].contains("23514"), "{reasons:?}");
    assert_eq!(rows(&admin).await.iter().filter(|row| row.contains(r#""name": "e""#)).count(), 1);

    // Another agent continues from here, and does what a person has decided.
    drop(sink);
    let mut sink = begun(&place, &schema(&format!("{NAME},{SIZE}"))).await;
    assert_eq!(sink.parked_count(), 3);
    assert_eq!(decide(&place, &number, Decision::Drop, Some(&["1".to_owned()])).await.unwrap(), 1);
    assert_eq!(decide(&place, &number, Decision::Retry, Some(&["2".to_owned()])).await.unwrap(), 1);
    assert_eq!(decide(&place, &number, Decision::Retry, Some(&["none".to_owned()])).await.unwrap(), 0);
    sink.apply(&batch(vec![], 7)).await.unwrap();
    assert_eq!((sink.row_count(), keys().await), (2_998, vec![of("k\0", 0)]));
    // The row is tried, refused, and parked again; a row that the register removes is not parked any more.
    assert_eq!(decide(&place, &number, Decision::Retry, None).await.unwrap(), 1);
    sink.apply(&batch(vec![], 8)).await.unwrap();
    assert_eq!((sink.parked_count(), keys().await), (1, vec![of("k\0", 0)]));
    sink.apply(&batch(vec![Effect::Remove { key: "k\0".to_owned() }], 9)).await.unwrap();
    assert_eq!((sink.parked_count(), keys().await), (0, vec![]));
}

#[tokio::test]
async fn what_was_dropped_gives_way_to_what_waited_and_a_snapshot_tries_all_anew() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let number = "A-1".parse().unwrap();
    let mut sink = constrained(&place, &admin).await;
    sink.apply(&batch(vec![Effect::BeginSnapshot, upsert("1", row("a", None)), Effect::EndSnapshot], 5))
        .await
        .unwrap();
    sink.apply(&batch(vec![upsert("1", row("a", Some(100)))], 6)).await.unwrap();
    sink.apply(&batch(vec![upsert("1", row("b", None))], 7)).await.unwrap();
    let stands = |name: &str| format!(r#"{{"name": "{name}", "size": null, "dit_key": "1"}}"#);
    assert_eq!(rows(&admin).await, [stands("a")], "the replica's row is as it was");
    decide(&place, &number, Decision::Drop, None).await.unwrap();
    sink.apply(&batch(vec![], 8)).await.unwrap();
    assert_eq!((sink.parked_count(), rows(&admin).await), (0, vec![stands("b")]));

    let refused = |key: &str| upsert(key, row("c", Some(100)));
    sink.apply(&batch(vec![refused("1"), refused("2"), refused("3")], 9)).await.unwrap();
    assert_eq!(sink.parked_count(), 3);
    // The snapshot is cut in two by a new start.
    let begin = Batch {
        effects: vec![Effect::BeginSnapshot, upsert("1", row("d", None)), refused("2")],
        ..batch(vec![], 10)
    };
    sink.apply(&begin).await.unwrap();
    let mut sink = begun(&place, &schema(&format!("{NAME},{SIZE}"))).await;
    assert_eq!(sink.parked_count(), 1);
    sink.apply(&batch(vec![Effect::EndSnapshot], 11)).await.unwrap();
    assert_eq!(rows(&admin).await, [stands("d")]);
    let left: Vec<_> = parked(&place, &number).await.unwrap().into_iter().map(|row| row.key).collect();
    assert_eq!(left, ["2"], "3 is gone from the register");
}

/// Constraints that are checked at the commit refuse rows, not batches.
#[tokio::test]
async fn a_row_that_a_deferred_constraint_refuses_is_parked_like_any_other() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let number = "A-1".parse().unwrap();
    let mut sink = begun(&place, &schema(&format!("{NAME},{SIZE}"))).await;
    let add = "ALTER TABLE dit.register ADD UNIQUE (size) DEFERRABLE INITIALLY DEFERRED,
        ADD FOREIGN KEY (name) REFERENCES dit.register (dit_key) DEFERRABLE INITIALLY DEFERRED";
    admin.batch_execute(add).await.unwrap();
    // Each row refers to the one before it, the first to itself.
    let leaning = |n: i64, size: i64| upsert(&n.to_string(), row(&(n - 1).max(1).to_string(), Some(size)));
    let snapshot = [
        vec![Effect::BeginSnapshot],
        (1..=40).rev().map(|n| leaning(n, n)).collect(),
        vec![Effect::EndSnapshot],
    ];
    sink.apply(&batch(snapshot.concat(), 5)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count()), (40, 0));
    // Rows that are right only together are taken together.
    sink.apply(&batch(vec![leaning(1, 2), leaning(2, 1)], 6)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count()), (40, 0));

    let mut mixed: Vec<_> = (41..=60).rev().map(|n| leaning(n, n)).collect();
    mixed.extend([upsert("a", row("nowhere", None)), upsert("b", row("1", Some(7)))]);
    sink.apply(&batch(mixed, 7)).await.unwrap();
    assert_eq!((sink.row_count(), sink.cursor()), (60, Some(cursor(7))));
    let reasons = parked(&place, &number).await.unwrap().into_iter().map(|row| (row.key, row.reason));
    let reasons: Vec<_> = reasons.collect();
    assert!(
        matches!(&reasons[..], [(a, foreign), (b, unique)]
        if a == "a" && foreign.contains("23503") && b == "b" && unique.contains("23505")),
        "{reasons:?}"
    );
    // The row that it refers to has come.
    sink.apply(&batch(vec![upsert("nowhere", row("1", None))], 8)).await.unwrap();
    assert_eq!(decide(&place, &number, Decision::Retry, None).await.unwrap(), 2);
    sink.apply(&batch(vec![], 9)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count()), (62, 1));
}

#[tokio::test]
async fn a_table_that_refuses_everything_is_a_persons_to_repair() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let mut sink = constrained(&place, &admin).await;
    let all = (0..101).map(|n| upsert(&n.to_string(), row("a", Some(100)))).collect::<Vec<_>>();
    let error = sink
        .apply(&batch([vec![Effect::BeginSnapshot], all.clone(), vec![Effect::EndSnapshot]].concat(), 5))
        .await;
    let error = error.unwrap_err();
    assert!(
        error.class == SinkErrorClass::Person && error.to_string().contains("refuses more than 100 keys"),
        "{error}"
    );
    sink.ready().await.unwrap();
    assert_eq!((sink.cursor(), sink.parked_count()), (None, 0), "nothing is taken for done");
    admin.batch_execute("ALTER TABLE dit.register DROP CONSTRAINT register_size_check").await.unwrap();
    sink.begin(&schema(&format!("{NAME},{SIZE}"))).await.unwrap();
    sink.apply(&batch([vec![Effect::BeginSnapshot], all, vec![Effect::EndSnapshot]].concat(), 5))
        .await
        .unwrap();
    assert_eq!((sink.row_count(), sink.parked_count()), (101, 0));
}

#[tokio::test]
async fn a_person_sees_what_is_parked_and_decides() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let mut sink = constrained(&place, &admin).await;
    let snapshot = vec![Effect::BeginSnapshot, upsert("[\"a\",1]", row("a", Some(100))), Effect::EndSnapshot];
    sink.apply(&batch(snapshot, 5)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("consumer.toml");
    let identity = "certificate = \"c\"\nkey = \"k\"\nauthorities = \"a\"";
    let replica = format!("number = \"A-1\"\nchannel = \"register\"\npostgres.url = {:?}", place.url);
    let text = format!(
        "router = \"https://localhost\"\ndata_dir = \"d\"\n[identity]\n{identity}\n[[agreement]]\n{replica}"
    );
    std::fs::write(&config, text).unwrap();
    let dit = |words: &[&str]| {
        let words = [&["parked"][..], words, &["--config", config.to_str().unwrap()]].concat();
        support::site::typed(env!("CARGO_BIN_EXE_dit"), dir.path(), &words).unwrap()
    };
    let (code, said) = dit(&["list"]);
    assert!(
        said.starts_with("A-1 [\"a\",1]\n  refused ") && said.contains("0 later event(s) wait"),
        "{said}"
    );
    assert_eq!(code, Some(1), "something is parked: {said}");
    assert_eq!(dit(&["retry", "none"]).0, Some(1));
    assert_eq!(dit(&["retry"]).0, Some(2), "of which keys?");
    assert_eq!(dit(&["drop", "[\"a\",1]"]).0, Some(0));
    assert!(dit(&["list"]).1.contains("; the agent has not done yet what was asked: drop"));
    let (_, said) = dit(&["list", "--agreement", "A-2"]);
    assert!(said.contains("A-2 has no replica in PostgreSQL"), "{said}");
    sink.apply(&batch(vec![], 6)).await.unwrap();
    assert_eq!(dit(&["list"]), (Some(0), "nothing is parked\n".to_owned()));
}

#[tokio::test]
async fn a_row_that_stands_on_a_removed_one_is_parked_and_does_not_vanish_with_it() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let mut sink = begun(&place, &schema(&format!("{NAME},{SIZE}"))).await;
    let add =
        "ALTER TABLE dit.register ADD FOREIGN KEY (name) REFERENCES dit.register (dit_key) ON DELETE CASCADE";
    admin.batch_execute(add).await.unwrap();
    let snapshot = vec![Effect::BeginSnapshot, upsert("a", row("a", None)), Effect::EndSnapshot];
    sink.apply(&batch(snapshot, 5)).await.unwrap();
    let removed = vec![Effect::Remove { key: "a".to_owned() }, upsert("b", row("a", None))];
    sink.apply(&batch(removed, 6)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count(), sink.cursor()), (0, 1, Some(cursor(6))));
    assert!(rows(&admin).await.is_empty());
}
