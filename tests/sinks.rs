//! What every sink must do: one suite of laws, run on each kind. Files on a disk, files in memory, a table in a real
//! PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use consumer_agent::sink::effect::Effect;
use consumer_agent::sink::file::FileSink;
use consumer_agent::sink::postgres::{PostgresSink, PostgresTarget};
use consumer_agent::sink::{Batch, Sink, StreamHead};
use parts::postgres::Postgres;
use platform::segments::disk::RealDisk;
use platform::segments::memory_disk::MemoryDisk;
use schemas::avro::binary::{put_long, put_string};
use schemas::avro::schema::AvroSchema;
use schemas::cursor::{Cursor, Place, Snapshot, SnapshotPlace};
use schemas::ids::{AgreementVersion, BootstrapId, LogId, Offset};
use schemas::per_partition::PerPartition;
use schemas::time::Millis;

/// Where a replica is kept; a new sink finds what an earlier one left.
enum Target {
    Disk(tempfile::TempDir),
    Memory(Arc<MemoryDisk>),
    Table(PostgresTarget),
}

impl Target {
    fn disk() -> Self {
        Self::Disk(tempfile::tempdir().unwrap())
    }

    fn memory() -> Self {
        Self::Memory(Arc::new(MemoryDisk::default()))
    }

    async fn table() -> Self {
        let url = Postgres::shared().unwrap();
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("CREATE SCHEMA dit").await.unwrap();
        Self::Table(PostgresTarget {
            url,
            password_file: None,
            ca: None,
            schema: "dit".to_owned(),
            table: None,
        })
    }

    /// The sink as an agent opens it at its start.
    async fn open(&self) -> Box<dyn Sink> {
        let mut sink: Box<dyn Sink> = match self {
            Self::Disk(dir) => Box::new(FileSink::open(Arc::new(RealDisk), dir.path(), "register").unwrap()),
            Self::Memory(disk) => {
                let disk = Arc::clone(disk);
                Box::new(FileSink::open(disk, Path::new("/replica"), "register").unwrap())
            }
            Self::Table(target) => {
                Box::new(PostgresSink::new(target.clone(), "A-1".parse().unwrap(), "register"))
            }
        };
        sink.ready().await.unwrap();
        sink
    }

    /// The sink as opened, after a stream of the first schema has begun.
    async fn begun(&self) -> Box<dyn Sink> {
        let mut sink = self.open().await;
        sink.begin(&head(ONE)).await.unwrap();
        sink
    }
}

/// Runs each law on each kind of sink.
macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        laws!(@on files, super::Target::disk(), $($law),*);
        laws!(@on files_in_memory, super::Target::memory(), $($law),*);
        laws!(@on table, super::Target::table().await, $($law),*);
    };
    (@on $kind:ident, $target:expr, $($law:ident),*) => {
        mod $kind {
            $(#[tokio::test] async fn $law() { super::$law(&$target).await; })*
        }
    };
}

laws!(
    a_new_replica_stands_nowhere_and_has_no_row,
    rows_and_cursor_are_found_again_after_a_start,
    the_last_effect_on_a_key_counts,
    what_is_removed_twice_or_was_never_there_is_gone,
    a_snapshot_is_the_replica_from_its_end_on,
    a_snapshot_that_was_told_of_is_gone_on_with_after_a_start,
    a_snapshot_that_nobody_was_told_of_is_begun_anew,
    another_snapshot_takes_the_place_of_one_that_is_not_over,
    a_cursor_alone_moves_and_changes_no_row,
    a_stream_of_another_schema_brings_its_rows_in_a_snapshot,
    keys_and_values_of_any_text_come_back,
    to_settle_again_changes_nothing,
);

const ONE: &str = r#"{"name":"name","type":"string"},{"name":"size","type":["null","long"],"default":null}"#;
const TWO: &str = r#"{"name":"name","type":"string"},{"name":"town","type":"string","default":""}"#;

fn head(fields: &str) -> StreamHead {
    let text = format!(r#"{{"type":"record","name":"t.Row","fields":[{fields}]}}"#);
    StreamHead { derived: AvroSchema::parse(&text).unwrap() }
}

fn image(name: &str, size: Option<i64>) -> Vec<u8> {
    let mut image = Vec::new();
    put_string(&mut image, name);
    put_long(&mut image, i64::from(size.is_some()));
    size.into_iter().for_each(|size| put_long(&mut image, size));
    image
}

fn put(key: &str, name: &str) -> Effect {
    Effect::Upsert { key: key.to_owned(), image: image(name, None) }
}

fn remove(key: &str) -> Effect {
    Effect::Remove { key: key.to_owned() }
}

fn cursor(offset: u64) -> Cursor {
    let place = Place { offset: Offset::new(offset), checkpoint: Offset::new(0) };
    Cursor {
        log_id: LogId::new([1; 16]),
        version: AgreementVersion::new(1),
        places: PerPartition::filled(1, place),
        snapshot: None,
    }
}

/// A cursor within a snapshot.
fn within(id: u8, next: u64) -> Cursor {
    let place = SnapshotPlace { next: Offset::new(next), end: Offset::new(100) };
    let snapshot = Snapshot {
        id: BootstrapId::new([id; 16]),
        begun_at: Millis::new(1),
        places: PerPartition::filled(1, place),
        seal: "s".to_owned(),
    };
    Cursor { places: PerPartition::none(), snapshot: Some(snapshot), ..cursor(0) }
}

async fn apply(sink: &mut dyn Sink, effects: Vec<Effect>, cursor: Option<Cursor>) {
    sink.apply(&Batch { effects, cursor, freshness: None }).await.unwrap();
}

/// A snapshot of some rows, from its begin to its end, at a cursor.
async fn whole(sink: &mut dyn Sink, rows: &[(&str, &str)], offset: u64) {
    let mut effects = vec![Effect::BeginSnapshot];
    effects.extend(rows.iter().map(|(key, name)| put(key, name)));
    effects.push(Effect::EndSnapshot);
    apply(sink, effects, Some(cursor(offset))).await;
}

/// Each row by its key: the first of its values.
async fn rows(sink: &mut dyn Sink) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    sink.scan(&mut |key, texts| {
        let before = found.insert(key.to_owned(), texts[0].clone().unwrap());
        assert_eq!(before, None, "{key} is shown twice");
    })
    .await
    .unwrap();
    assert_eq!(sink.row_count(), found.len());
    found
}

fn expected(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    rows.iter().map(|(key, name)| ((*key).to_owned(), (*name).to_owned())).collect()
}

async fn a_new_replica_stands_nowhere_and_has_no_row(target: &Target) {
    let mut sink = target.open().await;
    assert_eq!((sink.cursor(), sink.row_count(), sink.parked_count()), (None, 0, 0));
    sink.begin(&head(ONE)).await.unwrap();
    assert_eq!(sink.cursor(), None);
    sink.settle().await.unwrap();
    assert_eq!(rows(sink.as_mut()).await, expected(&[]));
}

async fn rows_and_cursor_are_found_again_after_a_start(target: &Target) {
    let mut sink = target.begun().await;
    whole(sink.as_mut(), &[("1", "a"), ("2", "b")], 5).await;
    apply(sink.as_mut(), vec![put("3", "c"), remove("1")], Some(cursor(8))).await;
    sink.settle().await.unwrap();
    drop(sink);
    let mut again = target.begun().await;
    assert_eq!(again.cursor(), Some(cursor(8)));
    assert_eq!(rows(again.as_mut()).await, expected(&[("2", "b"), ("3", "c")]));
    apply(again.as_mut(), vec![put("4", "d")], Some(cursor(9))).await;
    assert_eq!(rows(again.as_mut()).await, expected(&[("2", "b"), ("3", "c"), ("4", "d")]));
}

async fn the_last_effect_on_a_key_counts(target: &Target) {
    let mut sink = target.begun().await;
    whole(sink.as_mut(), &[("1", "a")], 5).await;
    let effects = vec![put("2", "x"), put("2", "y"), put("3", "z"), remove("3"), remove("1"), put("1", "w")];
    apply(sink.as_mut(), effects, Some(cursor(9))).await;
    sink.settle().await.unwrap();
    assert_eq!(rows(sink.as_mut()).await, expected(&[("1", "w"), ("2", "y")]));
}

async fn what_is_removed_twice_or_was_never_there_is_gone(target: &Target) {
    let mut sink = target.begun().await;
    whole(sink.as_mut(), &[("1", "a"), ("2", "b")], 5).await;
    apply(sink.as_mut(), vec![remove("1"), remove("1"), remove("9")], Some(cursor(7))).await;
    sink.settle().await.unwrap();
    assert_eq!(rows(sink.as_mut()).await, expected(&[("2", "b")]));
    assert_eq!(sink.cursor(), Some(cursor(7)));
}

async fn a_snapshot_is_the_replica_from_its_end_on(target: &Target) {
    let mut sink = target.begun().await;
    whole(sink.as_mut(), &[("1", "a"), ("2", "b")], 5).await;
    apply(sink.as_mut(), vec![Effect::BeginSnapshot, put("2", "new")], Some(within(3, 4))).await;
    assert_eq!(sink.cursor(), Some(within(3, 4)));
    apply(sink.as_mut(), vec![put("7", "g"), Effect::EndSnapshot], Some(cursor(20))).await;
    sink.settle().await.unwrap();
    assert_eq!(sink.cursor(), Some(cursor(20)));
    assert_eq!(rows(sink.as_mut()).await, expected(&[("2", "new"), ("7", "g")]));
}

async fn a_snapshot_that_was_told_of_is_gone_on_with_after_a_start(target: &Target) {
    let mut sink = target.begun().await;
    apply(sink.as_mut(), vec![Effect::BeginSnapshot, put("1", "a")], Some(within(3, 4))).await;
    sink.settle().await.unwrap();
    drop(sink);
    let mut again = target.begun().await;
    assert_eq!(again.cursor(), Some(within(3, 4)));
    apply(again.as_mut(), vec![put("2", "b"), Effect::EndSnapshot], Some(cursor(9))).await;
    again.settle().await.unwrap();
    assert_eq!(rows(again.as_mut()).await, expected(&[("1", "a"), ("2", "b")]));
}

async fn a_snapshot_that_nobody_was_told_of_is_begun_anew(target: &Target) {
    let mut sink = target.begun().await;
    apply(sink.as_mut(), vec![Effect::BeginSnapshot, put("1", "stray")], None).await;
    drop(sink);
    let mut again = target.begun().await;
    assert_eq!(again.cursor(), None, "only a snapshot leads anywhere");
    whole(again.as_mut(), &[("2", "b")], 9).await;
    again.settle().await.unwrap();
    assert_eq!(rows(again.as_mut()).await, expected(&[("2", "b")]));
}

async fn another_snapshot_takes_the_place_of_one_that_is_not_over(target: &Target) {
    let mut sink = target.begun().await;
    whole(sink.as_mut(), &[("1", "a")], 5).await;
    apply(sink.as_mut(), vec![Effect::BeginSnapshot, put("2", "stray")], Some(within(3, 4))).await;
    apply(sink.as_mut(), vec![Effect::BeginSnapshot, put("3", "c")], Some(within(4, 1))).await;
    apply(sink.as_mut(), vec![Effect::EndSnapshot], Some(cursor(20))).await;
    sink.settle().await.unwrap();
    assert_eq!(rows(sink.as_mut()).await, expected(&[("3", "c")]));
}

async fn a_cursor_alone_moves_and_changes_no_row(target: &Target) {
    let mut sink = target.begun().await;
    whole(sink.as_mut(), &[("1", "a")], 5).await;
    sink.settle().await.unwrap();
    apply(sink.as_mut(), Vec::new(), Some(cursor(50))).await;
    sink.settle().await.unwrap();
    drop(sink);
    let mut again = target.begun().await;
    assert_eq!(again.cursor(), Some(cursor(50)));
    assert_eq!(rows(again.as_mut()).await, expected(&[("1", "a")]));
}

async fn a_stream_of_another_schema_brings_its_rows_in_a_snapshot(target: &Target) {
    let mut sink = target.begun().await;
    whole(sink.as_mut(), &[("1", "a"), ("2", "b")], 5).await;
    sink.settle().await.unwrap();
    sink.begin(&head(TWO)).await.unwrap();
    let mut town = Vec::new();
    put_string(&mut town, "c");
    put_string(&mut town, "Ogre");
    let row = Effect::Upsert { key: "3".to_owned(), image: town };
    apply(sink.as_mut(), vec![Effect::BeginSnapshot, row, Effect::EndSnapshot], Some(cursor(9))).await;
    sink.settle().await.unwrap();
    let mut found = Vec::new();
    sink.scan(&mut |key, texts| found.push((key.to_owned(), texts))).await.unwrap();
    let texts = vec![Some("c".to_owned()), Some("Ogre".to_owned())];
    assert_eq!(found, [("3".to_owned(), texts)]);
}

async fn keys_and_values_of_any_text_come_back(target: &Target) {
    let odd = [
        ("", "empty key"),
        (" ", ""),
        ("'", "it's"),
        ("[\"ā\",1]", "Ķekava 🏛"),
        ("a\\b", "\\N"),
        ("a\nb", "two\nlines\t\"quoted\""),
    ];
    let mut sink = target.begun().await;
    whole(sink.as_mut(), &odd, 5).await;
    sink.settle().await.unwrap();
    drop(sink);
    let mut again = target.begun().await;
    assert_eq!(rows(again.as_mut()).await, expected(&odd));
}

async fn to_settle_again_changes_nothing(target: &Target) {
    let mut sink = target.begun().await;
    whole(sink.as_mut(), &[("1", "a")], 5).await;
    for _ in 0..3 {
        sink.settle().await.unwrap();
    }
    assert_eq!(rows(sink.as_mut()).await, expected(&[("1", "a")]));
    assert_eq!(sink.cursor(), Some(cursor(5)));
}
