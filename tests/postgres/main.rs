//! Replica tables in a real PostgreSQL: what a sink writes, refuses and survives.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod columns;
mod parking;
mod types;

use consumer_agent::sink::effect::Effect;
use consumer_agent::sink::error::SinkErrorClass;
use consumer_agent::sink::postgres::{PostgresSink, PostgresTarget};
use consumer_agent::sink::{Batch, Sink, StreamHead};
use parts::postgres::Postgres;
use schemas::avro::binary::{put_long, put_string};
use schemas::avro::schema::AvroSchema;
use schemas::cursor::{Cursor, Place};
use schemas::ids::{AgreementVersion, LogId, Offset};
use tokio_postgres::{Client, NoTls};

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A database whose role `agent` may write schema `dit`, and nothing else.
async fn database(url: &str) -> (Client, PostgresTarget) {
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
    (admin, PostgresTarget { url, password_file: None, ca: None, schema: "dit".to_owned(), table: None })
}

fn sink(place: &PostgresTarget) -> PostgresSink {
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
    Cursor {
        log_id: LogId::new([1; 16]),
        version: AgreementVersion::new(1),
        places: schemas::per_partition::PerPartition::filled(1, place),
        snapshot: None,
    }
}

fn batch(effects: Vec<Effect>, offset: u64) -> Batch {
    Batch { effects, cursor: Some(cursor(offset)), freshness: None }
}

async fn begun(place: &PostgresTarget, head: &StreamHead) -> PostgresSink {
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
    let snapshot = vec![
        Effect::BeginSnapshot,
        upsert("1", row("a", Some(7))),
        upsert("2", row("b\\'", None)),
        Effect::EndSnapshot,
    ];
    first.apply(&batch(snapshot, 5)).await.unwrap();
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
    // The first agent knows nothing of that: it must not undo the second one's rows.
    let turned = first.apply(&batch(vec![Effect::Remove { key: "4".to_owned() }], 9)).await;
    assert!(turned.unwrap_err().to_string().contains("another agent writes table dit.register"));
    assert_eq!(rows(&admin).await.len(), 3);
}

#[tokio::test]
async fn a_pass_leaves_only_what_it_brought_and_fields_go_with_the_schema() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let mut sink = begun(&place, &schema(&format!("{NAME},{SIZE}"))).await;
    let snapshot = vec![
        Effect::BeginSnapshot,
        upsert("1", row("a", Some(7))),
        upsert("2", row("b", None)),
        Effect::EndSnapshot,
    ];
    sink.apply(&batch(snapshot, 5)).await.unwrap();

    let narrow =
        schema(&format!(r#"{NAME},{{"name":"since","type":{{"type":"int","logicalType":"date"}}}}"#));
    sink.begin(&narrow).await.unwrap();
    let image = |name: &str| {
        let mut image = Vec::new();
        put_string(&mut image, name);
        put_long(&mut image, 18_809);
        image
    };
    let begun = Batch {
        effects: vec![Effect::BeginSnapshot, upsert("2", image("b"))],
        cursor: None,
        freshness: None,
    };
    sink.apply(&begun).await.unwrap();
    assert_eq!(sink.cursor(), None, "only the snapshot leads anywhere");
    assert_eq!(
        rows(&admin).await[1],
        r#"{"name": "b", "size": null, "since": "2021-07-01", "dit_key": "2"}"#
    );
    sink.apply(&batch(vec![upsert("3", image("c")), Effect::EndSnapshot], 9)).await.unwrap();
    assert_eq!(
        rows(&admin).await,
        [
            r#"{"name": "b", "since": "2021-07-01", "dit_key": "2"}"#,
            r#"{"name": "c", "since": "2021-07-01", "dit_key": "3"}"#
        ]
    );
    assert_eq!(sink.row_count(), 2);
    // The agent accepts the table that it left itself.
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
    assert!(error.class == SinkErrorClass::Person);
    let words = error.to_string();
    assert!(words.contains("column name is character varying(20), it was text"), "{words}");
    assert!(words.contains("column note (text) was added"), "{words}");

    admin.batch_execute("CREATE TABLE dit.mine (a int)").await.unwrap();
    let mut foreign = PostgresSink::new(place.clone(), "A-2".parse().unwrap(), "mine");
    foreign.ready().await.unwrap();
    let words = foreign.begin(&head).await.unwrap_err().to_string();
    assert!(words.contains("table dit.mine belongs to another agreement, or was not made by dit"), "{words}");
    let mut taken = PostgresSink::new(place.clone(), "A-3".parse().unwrap(), "register");
    assert!(
        taken.ready().await.unwrap_err().to_string().contains("dit.register belongs to another agreement")
    );
}

#[tokio::test]
async fn the_role_writes_its_own_schema_and_nothing_beyond() {
    let (_admin, place) = database(&Postgres::shared().unwrap()).await;
    let public = PostgresTarget { schema: "public".to_owned(), ..place.clone() };
    let words = sink(&public).ready().await.unwrap_err().to_string();
    assert!(words.contains("CREATE SCHEMA public AUTHORIZATION"), "{words}");
    let missing = PostgresTarget { schema: "nowhere".to_owned(), ..place };
    assert!(sink(&missing).ready().await.unwrap_err().to_string().contains("schema nowhere does not exist"));
}

#[tokio::test]
async fn a_server_that_is_killed_in_mid_transaction_has_taken_the_batch_or_not() {
    let mut server = Postgres::start().unwrap();
    let (admin, place) = database(&server.database().unwrap()).await;
    let head = schema(&format!("{NAME},{SIZE}"));
    let mut sink = begun(&place, &head).await;
    sink.apply(&batch(vec![Effect::BeginSnapshot, upsert("1", row("a", None)), Effect::EndSnapshot], 5))
        .await
        .unwrap();
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
    assert!(failed.class == SinkErrorClass::Transient, "{failed}");
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
