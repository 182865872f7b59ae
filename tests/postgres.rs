//! Replica tables in a real PostgreSQL: what a sink writes, refuses and survives.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::collections::BTreeMap;

use consumer_agent::receive::machine::Effect;
use consumer_agent::sink::postgres::{Decision, PostgresPlace, PostgresSink, decide, parked};
use consumer_agent::sink::{Batch, Sink, StreamHead};
use parts::postgres::Postgres;
use schemas::avro::binary::{put_bytes, put_long, put_string};
use schemas::avro::schema::AvroSchema;
use schemas::cursor::{Cursor, Place};
use schemas::ids::{AgreementVersion, LogId, Offset};
use schemas::reconcile::texts;
use tokio_postgres::{Client, NoTls};

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A database whose role `agent` may write schema `dit`, and nothing else.
async fn database(url: &str) -> (Client, PostgresPlace) {
    let admin = connect(url).await;
    let name = url.rsplit_once('/').unwrap().1;
    admin
        .batch_execute(&format!(
            "DO $$ BEGIN CREATE ROLE agent LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             CREATE SCHEMA dit AUTHORIZATION agent; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
             REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO agent;"
        ))
        .await
        .unwrap();
    let url = url.replace("postgres@", "agent@");
    (admin, PostgresPlace { url, password_file: None, ca: None, schema: "dit".to_owned(), table: None })
}

fn sink(place: &PostgresPlace) -> PostgresSink {
    PostgresSink::new(place.clone(), "A-1".parse().unwrap(), "register")
}

fn schema(fields: &str) -> StreamHead {
    let text = format!(r#"{{"type":"record","name":"t.Row","fields":[{fields}]}}"#);
    StreamHead { derived: AvroSchema::parse(&text).unwrap() }
}

const NAME: &str = r#"{"name":"name","type":"string","doc":"it's the owner's name"}"#;
const SIZE: &str = r#"{"name":"size","type":["null","long"],"default":null}"#;

fn row(name: &str, size: Option<i64>) -> Vec<u8> {
    let mut image = Vec::new();
    put_string(&mut image, name);
    put_long(&mut image, i64::from(size.is_some()));
    size.into_iter().for_each(|size| put_long(&mut image, size));
    image
}

fn upsert(key: &str, image: Vec<u8>) -> Effect {
    Effect::Upsert { key: key.to_owned(), image }
}

fn cursor(offset: u64) -> Cursor {
    let place = Place { offset: Offset::new(offset), checkpoint: Offset::new(0) };
    Cursor { log_id: LogId::new([1; 16]), version: AgreementVersion::new(1), places: vec![place], pass: None }
}

fn batch(effects: Vec<Effect>, offset: u64) -> Batch {
    Batch { effects, cursor: Some(cursor(offset)), freshness: None }
}

async fn begun(place: &PostgresPlace, head: &StreamHead) -> PostgresSink {
    let mut sink = sink(place);
    sink.ready().await.unwrap();
    sink.begin(head).await.unwrap();
    sink
}

async fn rows(admin: &Client) -> Vec<String> {
    let select = "SELECT (to_jsonb(t) - 'dit_generation')::text FROM dit.register t ORDER BY dit_key";
    admin.query(select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn rows_and_cursor_move_together_and_are_found_again() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let head = schema(&format!("{NAME},{SIZE}"));
    let mut first = begun(&place, &head).await;
    assert_eq!(first.cursor(), None, "it begins with the state");
    let pass =
        vec![Effect::Begin, upsert("1", row("a", Some(7))), upsert("2", row("b\\'", None)), Effect::End];
    first.apply(&batch(pass, 5)).await.unwrap();
    let changes = vec![
        upsert("3", row("x", None)),
        upsert("3", row("c", Some(1))),
        Effect::Remove { key: "1".to_owned() },
    ];
    first.apply(&batch(changes, 8)).await.unwrap();
    assert_eq!(first.row_count(), 2);
    let expected =
        [r#"{"name": "b\\'", "size": null, "dit_key": "2"}"#, r#"{"name": "c", "size": 1, "dit_key": "3"}"#];
    assert_eq!(rows(&admin).await, expected);
    let comment = "SELECT col_description('dit.register'::regclass, attnum) FROM pg_attribute
        WHERE attrelid = 'dit.register'::regclass AND attname = 'name'";
    assert_eq!(admin.query_one(comment, &[]).await.unwrap().get::<_, &str>(0), "it's the owner's name");

    let mut second = sink(&place);
    second.ready().await.unwrap();
    assert_eq!((second.cursor(), second.row_count()), (Some(cursor(8)), 2));
    second.begin(&head).await.unwrap();
    second.apply(&batch(vec![upsert("4", row("d", None))], 9)).await.unwrap();
    // The first knows nothing of that: it must not turn the second back.
    let turned = first.apply(&batch(vec![Effect::Remove { key: "4".to_owned() }], 9)).await;
    assert!(turned.unwrap_err().to_string().contains("another agent writes table dit.register"));
    assert_eq!(rows(&admin).await.len(), 3);
}

#[tokio::test]
async fn a_pass_leaves_only_what_it_brought_and_fields_go_with_the_schema() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let mut sink = begun(&place, &schema(&format!("{NAME},{SIZE}"))).await;
    let pass = vec![Effect::Begin, upsert("1", row("a", Some(7))), upsert("2", row("b", None)), Effect::End];
    sink.apply(&batch(pass, 5)).await.unwrap();

    let narrow =
        schema(&format!(r#"{NAME},{{"name":"since","type":{{"type":"int","logicalType":"date"}}}}"#));
    sink.begin(&narrow).await.unwrap();
    let image = |name: &str| {
        let mut image = Vec::new();
        put_string(&mut image, name);
        put_long(&mut image, 18_809);
        image
    };
    let begun =
        Batch { effects: vec![Effect::Begin, upsert("2", image("b"))], cursor: None, freshness: None };
    sink.apply(&begun).await.unwrap();
    assert_eq!(sink.cursor(), None, "only the pass leads anywhere");
    assert_eq!(
        rows(&admin).await[1],
        r#"{"name": "b", "size": null, "since": "2021-07-01", "dit_key": "2"}"#
    );
    sink.apply(&batch(vec![upsert("3", image("c")), Effect::End], 9)).await.unwrap();
    assert_eq!(
        rows(&admin).await,
        [
            r#"{"name": "b", "since": "2021-07-01", "dit_key": "2"}"#,
            r#"{"name": "c", "since": "2021-07-01", "dit_key": "3"}"#
        ]
    );
    assert_eq!(sink.row_count(), 2);
    // What the agent itself left, it takes again.
    drop(self::begun(&place, &narrow).await);
}

#[tokio::test]
async fn a_table_that_a_person_altered_or_made_is_refused_by_name() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let head = schema(&format!("{NAME},{SIZE}"));
    drop(begun(&place, &head).await);
    admin
        .batch_execute("ALTER TABLE dit.register ALTER COLUMN name TYPE varchar(20), ADD COLUMN note text")
        .await
        .unwrap();
    let mut altered = sink(&place);
    altered.ready().await.unwrap();
    let error = altered.begin(&head).await.unwrap_err();
    assert!(error.needs_a_person());
    let words = error.to_string();
    assert!(words.contains("column name is character varying(20), it was text"), "{words}");
    assert!(words.contains("column note (text) was added"), "{words}");

    admin.batch_execute("CREATE TABLE dit.mine (a int)").await.unwrap();
    let mut foreign = PostgresSink::new(place.clone(), "A-2".parse().unwrap(), "mine");
    foreign.ready().await.unwrap();
    let words = foreign.begin(&head).await.unwrap_err().to_string();
    assert!(words.contains("table dit.mine exists and was not made by this agreement's agent"), "{words}");
    let mut taken = PostgresSink::new(place.clone(), "A-3".parse().unwrap(), "register");
    assert!(taken.ready().await.unwrap_err().to_string().contains("dit.register exists"));
}

#[tokio::test]
async fn the_role_writes_its_own_schema_and_nothing_beyond() {
    let (_admin, place) = database(&Postgres::shared().unwrap()).await;
    let public = PostgresPlace { schema: "public".to_owned(), ..place.clone() };
    let words = sink(&public).ready().await.unwrap_err().to_string();
    assert!(words.contains("CREATE SCHEMA public AUTHORIZATION"), "{words}");
    let missing = PostgresPlace { schema: "nowhere".to_owned(), ..place };
    assert!(sink(&missing).ready().await.unwrap_err().to_string().contains("no schema nowhere"));
}

#[tokio::test]
async fn a_server_that_is_killed_in_mid_transaction_has_taken_the_batch_or_not() {
    let mut server = Postgres::start().unwrap();
    let (admin, place) = database(&server.database().unwrap()).await;
    let head = schema(&format!("{NAME},{SIZE}"));
    let mut sink = begun(&place, &head).await;
    sink.apply(&batch(vec![Effect::Begin, upsert("1", row("a", None)), Effect::End], 5)).await.unwrap();
    // The next batch waits for a lock that the administrator holds: it is in mid-transaction when the server dies.
    admin.batch_execute("BEGIN; LOCK TABLE dit.register IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let killing = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while admin.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        let kill = move || server.kill().and_then(|()| server.run()).map(|()| server);
        tokio::task::spawn_blocking(kill).await.unwrap().unwrap()
    };
    let next = batch(vec![upsert("2", row("b", None))], 6);
    let (failed, _server) = tokio::join!(sink.apply(&next), killing);
    let failed = failed.unwrap_err();
    assert!(!failed.needs_a_person(), "{failed}");
    sink.ready().await.unwrap();
    assert_eq!(
        (sink.cursor(), sink.row_count()),
        (Some(cursor(5)), 1),
        "nothing of it, and the cursor says so"
    );
    sink.begin(&head).await.unwrap();
    sink.apply(&batch(vec![upsert("2", row("b", None))], 6)).await.unwrap();
    assert_eq!(sink.row_count(), 2);
}

/// A table of which a person has said that no size is above 99.
async fn constrained(place: &PostgresPlace, admin: &Client) -> PostgresSink {
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
    let mut pass = vec![Effect::Begin, upsert("1", row("a\0", None)), upsert("2", row("b", Some(100)))];
    pass.extend((3..3_000).map(|n| upsert(&n.to_string(), row("c", Some(n % 100)))));
    pass.extend([upsert("k\0", row("d", None)), Effect::End]);
    sink.apply(&batch(pass, 5)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count(), sink.cursor()), (2_997, 3, Some(cursor(5))));
    // What would fit waits behind what does not; another key's does not wait.
    let later = vec![upsert("2", row("b", Some(50))), upsert("3", row("e", None))];
    sink.apply(&batch(later, 6)).await.unwrap();
    assert_eq!(keys().await, [of("1", 0), of("2", 1), of("k\0", 0)]);
    let reasons: Vec<_> = parked(&place, &number).await.unwrap().into_iter().map(|row| row.reason).collect();
    assert!(reasons[0].contains("22021") && reasons[1].contains("23514"), "{reasons:?}");
    assert_eq!(rows(&admin).await.iter().filter(|row| row.contains(r#""name": "e""#)).count(), 1);

    // Another agent goes on where this one was, and does what a person has decided.
    drop(sink);
    let mut sink = begun(&place, &schema(&format!("{NAME},{SIZE}"))).await;
    assert_eq!(sink.parked_count(), 3);
    assert_eq!(decide(&place, &number, Decision::Drop, Some(&["1".to_owned()])).await.unwrap(), 1);
    assert_eq!(decide(&place, &number, Decision::Retry, Some(&["2".to_owned()])).await.unwrap(), 1);
    assert_eq!(decide(&place, &number, Decision::Retry, Some(&["none".to_owned()])).await.unwrap(), 0);
    sink.apply(&batch(vec![], 7)).await.unwrap();
    assert_eq!((sink.row_count(), keys().await), (2_998, vec![of("k\0", 0)]));
    // It is tried, refused, and parked again; what is gone from the register waits for nothing.
    assert_eq!(decide(&place, &number, Decision::Retry, None).await.unwrap(), 1);
    sink.apply(&batch(vec![], 8)).await.unwrap();
    assert_eq!((sink.parked_count(), keys().await), (1, vec![of("k\0", 0)]));
    sink.apply(&batch(vec![Effect::Remove { key: "k\0".to_owned() }], 9)).await.unwrap();
    assert_eq!((sink.parked_count(), keys().await), (0, vec![]));
}

#[tokio::test]
async fn what_was_dropped_gives_way_to_what_waited_and_a_pass_tries_all_anew() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let number = "A-1".parse().unwrap();
    let mut sink = constrained(&place, &admin).await;
    sink.apply(&batch(vec![Effect::Begin, upsert("1", row("a", None)), Effect::End], 5)).await.unwrap();
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
    // The pass is cut in two by a new start.
    let begin = Batch {
        effects: vec![Effect::Begin, upsert("1", row("d", None)), refused("2")],
        ..batch(vec![], 10)
    };
    sink.apply(&begin).await.unwrap();
    let mut sink = begun(&place, &schema(&format!("{NAME},{SIZE}"))).await;
    assert_eq!(sink.parked_count(), 1);
    sink.apply(&batch(vec![Effect::End], 11)).await.unwrap();
    assert_eq!(rows(&admin).await, [stands("d")]);
    let left: Vec<_> = parked(&place, &number).await.unwrap().into_iter().map(|row| row.key).collect();
    assert_eq!(left, ["2"], "3 is gone from the register");
}

/// Constraints that wait for the commit refuse rows, not batches.
#[tokio::test]
async fn a_row_that_a_deferred_constraint_refuses_is_parked_like_any_other() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let number = "A-1".parse().unwrap();
    let mut sink = begun(&place, &schema(&format!("{NAME},{SIZE}"))).await;
    let add = "ALTER TABLE dit.register ADD UNIQUE (size) DEFERRABLE INITIALLY DEFERRED,
        ADD FOREIGN KEY (name) REFERENCES dit.register (dit_key) DEFERRABLE INITIALLY DEFERRED";
    admin.batch_execute(add).await.unwrap();
    // Each row leans on the one before it, the first on itself.
    let leaning = |n: i64, size: i64| upsert(&n.to_string(), row(&(n - 1).max(1).to_string(), Some(size)));
    let pass = [vec![Effect::Begin], (1..=40).rev().map(|n| leaning(n, n)).collect(), vec![Effect::End]];
    sink.apply(&batch(pass.concat(), 5)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count()), (40, 0));
    // What is right only as a whole is taken as a whole.
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
    // What it leans on has come.
    sink.apply(&batch(vec![upsert("nowhere", row("1", None))], 8)).await.unwrap();
    assert_eq!(decide(&place, &number, Decision::Retry, None).await.unwrap(), 2);
    sink.apply(&batch(vec![], 9)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count()), (62, 1));
}

#[tokio::test]
async fn a_table_that_refuses_everything_is_a_persons_to_mend() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let mut sink = constrained(&place, &admin).await;
    let all = (0..101).map(|n| upsert(&n.to_string(), row("a", Some(100)))).collect::<Vec<_>>();
    let error = sink.apply(&batch([vec![Effect::Begin], all.clone(), vec![Effect::End]].concat(), 5)).await;
    let error = error.unwrap_err();
    assert!(error.needs_a_person() && error.to_string().contains("refuses more than 100 keys"), "{error}");
    sink.ready().await.unwrap();
    assert_eq!((sink.cursor(), sink.parked_count()), (None, 0), "nothing is taken for done");
    admin.batch_execute("ALTER TABLE dit.register DROP CONSTRAINT register_size_check").await.unwrap();
    sink.begin(&schema(&format!("{NAME},{SIZE}"))).await.unwrap();
    sink.apply(&batch([vec![Effect::Begin], all, vec![Effect::End]].concat(), 5)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count()), (101, 0));
}

#[tokio::test]
async fn a_person_sees_what_is_parked_and_decides() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let mut sink = constrained(&place, &admin).await;
    let pass = vec![Effect::Begin, upsert("[\"a\",1]", row("a", Some(100))), Effect::End];
    sink.apply(&batch(pass, 5)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("consumer.toml");
    let identity = "certificate = \"c\"\nkey = \"k\"\nauthorities = \"a\"";
    let replica = format!("number = \"A-1\"\nchannel = \"register\"\npostgres.url = {:?}", place.url);
    let text = format!(
        "router = \"https://localhost\"\ndata_dir = \"d\"\n[identity]\n{identity}\n[[agreement]]\n{replica}"
    );
    std::fs::write(&config, text).unwrap();
    let dit = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dit"));
        let output = command.arg("parked").args(words).arg("--config").arg(&config).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
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
    assert!(dit(&["list"]).1.contains("; drop is asked for"));
    let (_, said) = dit(&["list", "--agreement", "A-2"]);
    assert!(said.contains("A-2 has no replica in PostgreSQL"), "{said}");
    sink.apply(&batch(vec![], 6)).await.unwrap();
    assert_eq!(dit(&["list"]), (Some(0), "nothing is parked\n".to_owned()));
}

/// Every type that has a column of its own, and some that share one.
const TYPES: &str = r#"{"name":"a","type":"boolean"},{"name":"b","type":"int"},{"name":"c","type":["null","long"]},
    {"name":"d","type":"float"},{"name":"e","type":"double"},{"name":"f","type":"bytes"},
    {"name":"g","type":{"type":"enum","name":"E","symbols":["x","y"]}},
    {"name":"h","type":{"type":"string","logicalType":"uuid"}},
    {"name":"i","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}},
    {"name":"j","type":{"type":"int","logicalType":"date"}},
    {"name":"l","type":{"type":"int","logicalType":"time-millis"}},
    {"name":"m","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"n","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"o","type":{"type":"long","logicalType":"timestamp-nanos"}},
    {"name":"p","type":{"type":"long","logicalType":"local-timestamp-nanos"}},
    {"name":"q","type":{"type":"map","values":"double"}},
    {"name":"r","type":{"type":"array","items":["null","string","long"]}},
    {"name":"s","type":["null","string","int"]}"#;

fn typed(seed: i64) -> Vec<u8> {
    let mut image = Vec::new();
    image.push(u8::from(seed % 2 == 0));
    put_long(&mut image, seed * 7 % 2_000_000_000);
    put_long(&mut image, i64::from(seed % 3 != 0));
    if seed % 3 != 0 {
        put_long(&mut image, seed.wrapping_mul(0x1234_5678_9abc));
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "any number will do")]
    let (single, double) = (seed as f32 / 3.0 * 1e12, (seed as f64 / 7.0).powi(9));
    image.extend_from_slice(&single.to_le_bytes());
    image.extend_from_slice(&double.to_le_bytes());
    put_bytes(&mut image, &seed.to_be_bytes());
    put_long(&mut image, seed % 2);
    put_string(&mut image, &format!("6F9619FF-8B86-D011-B42D-{seed:012X}"));
    put_bytes(&mut image, &i32::try_from(seed * 1_000 - 77).unwrap().to_be_bytes());
    for number in [seed * 11, seed * 3_601_007 % 86_400_000, seed * 777_777_777, seed * 777_777_777_777] {
        put_long(&mut image, number);
    }
    // Halves of a microsecond go both ways.
    put_long(&mut image, seed * 1_000_500);
    put_long(&mut image, seed * 1_000_000_001_500);
    put_long(&mut image, 3);
    for (key, value) in [("bb", 1.0), ("a", 1e21), ("\u{101}", 0.1)] {
        put_string(&mut image, key);
        image.extend_from_slice(&f64::to_le_bytes(value));
    }
    image.push(0);
    put_long(&mut image, 2);
    put_long(&mut image, 1);
    put_string(&mut image, "ķ\"\\\n");
    put_long(&mut image, 2);
    put_long(&mut image, i64::MAX);
    image.push(0);
    put_long(&mut image, 1);
    put_string(&mut image, "1e3");
    image
}

#[tokio::test]
async fn rows_are_read_back_as_they_were_written_whatever_their_types() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    // What the server's own defaults are does not count.
    let odd = "ALTER ROLE agent SET timezone = 'Europe/Riga'; ALTER ROLE agent SET datestyle = 'German, DMY';
        ALTER ROLE agent SET bytea_output = 'escape'; ALTER ROLE agent SET extra_float_digits = -3";
    let head = schema(TYPES);
    admin.batch_execute(odd).await.unwrap();
    let mut sink = begun(&place, &head).await;
    admin.batch_execute("ALTER ROLE agent RESET ALL").await.unwrap();
    let images: BTreeMap<String, Vec<u8>> = (0..40).map(|n| (n.to_string(), typed(n * 1_237))).collect();
    let mut effects = vec![Effect::Begin];
    effects.extend(images.iter().map(|(key, image)| upsert(key, image.clone())));
    effects.push(Effect::End);
    sink.apply(&batch(effects, 5)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count()), (40, 0));
    let mut found = BTreeMap::new();
    sink.scan(&mut |key, texts| drop(found.insert(key.to_owned(), texts))).await.unwrap();
    for (key, image) in &images {
        assert_eq!(found.get(key), Some(&texts(&head.derived, image).unwrap()), "{key}");
    }
    admin.batch_execute("DELETE FROM dit.register WHERE dit_key = '7'").await.unwrap();
    let mut count = 0;
    sink.scan(&mut |_, _| count += 1).await.unwrap();
    assert_eq!((count, sink.row_count()), (39, 39));
}

#[tokio::test]
async fn a_parked_row_counts_as_the_row_of_its_key() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let mut sink = constrained(&place, &admin).await;
    let image = row("a\0b", None);
    sink.apply(&batch(vec![upsert("p", image.clone())], 90)).await.unwrap();
    assert_eq!(sink.parked_count(), 1);
    let mut found = BTreeMap::new();
    sink.scan(&mut |key, texts| drop(found.insert(key.to_owned(), texts))).await.unwrap();
    let head = schema(&format!("{NAME},{SIZE}"));
    assert_eq!(found.get("p"), Some(&texts(&head.derived, &image).unwrap()));
}
