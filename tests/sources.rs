//! What every source must do: one suite of laws, run on each kind. A table and objects of a whole register; a table and
//! objects of changes; a local request, plain and as CloudEvents.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::path::PathBuf;
use std::sync::Arc;

use platform::segments::memory_disk::MemoryDisk;
use producer_agent::agent::{Agent, AgentError, Opening};
use producer_agent::image::memory::MemoryImages;
use producer_agent::outbox::{Content as Stored, lock};
use producer_agent::source::file::source::FileSource;
use producer_agent::source::format::TableFormat;
use producer_agent::source::http::{RequestSource, items};
use producer_agent::source::location::Location;
use producer_agent::source::port::{Content, Rows, Source, SourceRow};
use producer_agent::source::row::{Extent, Parked};
use producer_agent::take::guard::Guard;
use schemas::avro::binary::{put_long, put_string};
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::ids::LogId;
use schemas::key::{Key, KeySpec};
use serde_json::json;

/// A source by its kind, with whatever it reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Table,
    Objects,
    ChangeTable,
    ChangeObjects,
    Request,
    CloudEvents,
}

/// What a registry says of one row, in terms that every kind has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Row(&'static str, i64),
    /// Only sources of changes can say so.
    Gone(&'static str),
    /// Its number cannot be read as one.
    Spoilt(&'static str),
    NoKey,
    /// A change that is neither of the three.
    Unknown(&'static str),
}

/// A text where a number should be: no message may show it.
const SECRET: &str = "a secret";

struct HandedOver {
    _file: Option<tempfile::TempDir>,
    source: Box<dyn Source>,
}

impl Kind {
    fn content(self) -> Content {
        match self {
            Self::Table | Self::Objects => Content::Register,
            Self::ChangeTable | Self::ChangeObjects | Self::Request | Self::CloudEvents => Content::Changes,
        }
    }

    fn hand_over(self, rows: &[Said]) -> HandedOver {
        match self {
            Self::Table => file("r.csv", "k,n\n", rows, |said| {
                let Object { k, n, .. } = said.object();
                format!("{},{}\n", k.unwrap_or_default(), n.as_ref().map_or_else(String::new, text))
            }),
            Self::ChangeTable => file("r.csv", "op,k,n\n", rows, |said| {
                let Object { op, k, n } = said.object();
                format!("{op},{},{}\n", k.unwrap_or_default(), n.as_ref().map_or_else(String::new, text))
            }),
            Self::Objects => file("r.ndjson", "", rows, |said| format!("{}\n", said.row())),
            Self::ChangeObjects => file("r.ndjson", "", rows, |said| {
                let mut object = said.row();
                object["op"] = json!(said.object().op);
                format!("{object}\n")
            }),
            Self::Request => request(false, &rows.iter().map(|said| said.item()).collect::<Vec<_>>()),
            Self::CloudEvents => request(true, &rows.iter().map(|said| said.event()).collect::<Vec<_>>()),
        }
    }
}

/// The members of a row, before they are written.
struct Object {
    op: &'static str,
    k: Option<&'static str>,
    n: Option<serde_json::Value>,
}

impl Said {
    fn object(self) -> Object {
        match self {
            Self::Row(k, n) => Object { op: "u", k: Some(k), n: Some(json!(n)) },
            Self::Gone(k) => Object { op: "d", k: Some(k), n: None },
            Self::Spoilt(k) => Object { op: "u", k: Some(k), n: Some(json!(SECRET)) },
            Self::NoKey => Object { op: "u", k: None, n: Some(json!(1)) },
            Self::Unknown(k) => Object { op: "x", k: Some(k), n: Some(json!(1)) },
        }
    }

    fn row(self) -> serde_json::Value {
        let Object { k, n, .. } = self.object();
        let members = [("k", k.map(|k| json!(k))), ("n", n)];
        let present = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        serde_json::Value::Object(present.collect())
    }

    fn item(self) -> serde_json::Value {
        json!({"op": self.object().op, "row": self.row()})
    }

    fn event(self) -> serde_json::Value {
        json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "change", "data": self.item()})
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn file(name: &str, head: &str, rows: &[Said], line: impl Fn(Said) -> String) -> HandedOver {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let lines: String = rows.iter().map(|said| line(*said)).collect();
    std::fs::write(&path, head.to_owned() + &lines).unwrap();
    let format = TableFormat { operation_column: Some("op".to_owned()), ..TableFormat::default() };
    let source = Box::new(FileSource::open(&path, &format).unwrap());
    HandedOver { _file: Some(dir), source }
}

fn request(is_cloud_events: bool, items: &[serde_json::Value]) -> HandedOver {
    let body = serde_json::to_vec(items).unwrap();
    let items = items::parse(&body, is_cloud_events).unwrap();
    HandedOver { _file: None, source: Box::new(RequestSource::new(items)) }
}

const FIELDS: &str = r#"{"name":"k","type":"string"},{"name":"n","type":"long"}"#;

fn schema(fields: &str) -> AvroSchema {
    AvroSchema::parse(&format!(r#"{{"type":"record","name":"t.Row","fields":[{fields}]}}"#)).unwrap()
}

fn key() -> KeySpec {
    KeySpec { fields: vec!["k".to_owned()], normalise: vec![] }
}

/// A row that a source gave.
#[derive(Debug, PartialEq)]
enum Given {
    Present { location: Location, key: String, datum: Vec<u8> },
    Deleted { location: Location, key: String },
    Parked { key: Option<String>, parked: Parked, extent: Extent },
}

impl Given {
    fn of(row: SourceRow<'_>) -> Self {
        match row {
            SourceRow::Present { location, key, datum } => {
                Self::Present { location, key: key.into_string(), datum: datum.to_vec() }
            }
            SourceRow::Deleted { location, key } => Self::Deleted { location, key: key.into_string() },
            SourceRow::Parked { key, parked, extent } => {
                Self::Parked { key: key.map(Key::into_string), parked, extent }
            }
        }
    }
}

fn all(rows: &mut dyn Rows) -> Vec<Given> {
    std::iter::from_fn(|| rows.next_row().map(Given::of)).collect()
}

fn given(handed_over: &HandedOver) -> Vec<Given> {
    all(handed_over.source.rows(&schema(FIELDS), &key()).unwrap().as_mut())
}

/// A row's datum, put together by hand.
fn datum(k: &str, n: i64) -> Vec<u8> {
    let mut datum = Vec::new();
    put_string(&mut datum, k);
    put_long(&mut datum, n);
    datum
}

/// An agent of one channel on a disk that can crash.
struct Site {
    disk: MemoryDisk,
    agent: Agent,
}

/// An event of the outbox: its key, what it does, its row's number, and its source block.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    key: String,
    op: &'static str,
    n: Option<i64>,
    kind: String,
    is_snapshot: bool,
}

const OPEN: Guard = Guard { max_delete_percent: 100, max_change_percent: 100, max_parked_percent: None };

impl Site {
    fn new() -> Self {
        Self::on(MemoryDisk::new())
    }

    /// The agent with its images lost: they are made again from what its disk has.
    fn on(disk: MemoryDisk) -> Self {
        let channel = json!({"name": "c", "kind": "distribution", "owner": "1", "partitions": 1,
            "key": {"fields": ["k"]}, "schema": schema(FIELDS).parsed()});
        let agent = Agent::open(Opening {
            dir: PathBuf::from("/agent"),
            disk: Arc::new(disk.clone()),
            images: Box::new(MemoryImages::default()),
            channel: serde_json::from_value(channel).unwrap(),
            log_id: LogId::new([7; 16]),
            schema: schema(FIELDS),
        });
        Self { disk, agent: agent.unwrap() }
    }

    fn take(&self, kind: Kind, rows: &[Said]) -> Result<(), AgentError> {
        let handed_over = kind.hand_over(rows);
        match kind {
            Kind::Request | Kind::CloudEvents => {
                self.agent.take_singles(handed_over.source.as_ref(), || Ok(())).map(drop)
            }
            _ => self.agent.take(handed_over.source.as_ref(), OPEN, true).map(drop),
        }
    }

    fn events(&self) -> Vec<Event> {
        let codec = ChangeCodec::new(&schema(FIELDS)).unwrap();
        let mut events = Vec::new();
        let each = &mut |stored: producer_agent::outbox::StoredEntry| {
            let block = match &stored.entry.content {
                Stored::Block(block) => codec.decode_block(block.datum()).unwrap(),
                Stored::Freshness(_) => Vec::new(),
            };
            for change in block.into_iter().map(|found| found.change) {
                let key = change.key.to_owned();
                let n = change.after.map(|after| {
                    let zigzag = u64::from(*after.last().unwrap());
                    i64::try_from(zigzag / 2).unwrap()
                });
                let source = change.source;
                let kind = source.kind.to_owned();
                events.push(Event { key, op: change.op.letter(), n, kind, is_snapshot: source.snapshot });
            }
            true
        };
        lock(&self.agent.outbox()).for_each(0, each).unwrap();
        events
    }

    /// The key, the operation and the number of each event, in order.
    fn done(&self) -> Vec<(String, &'static str, Option<i64>)> {
        self.events().into_iter().map(|event| (event.key, event.op, event.n)).collect()
    }
}

fn done(expected: &[(&str, &'static str, Option<i64>)]) -> Vec<(String, &'static str, Option<i64>)> {
    expected.iter().map(|(key, op, n)| ((*key).to_owned(), *op, *n)).collect()
}

/// Runs each law on each kind of source.
macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        laws!(@on table, Table, $($law),*);
        laws!(@on objects, Objects, $($law),*);
        laws!(@changes $($law),*);
    };
    (@changes $($law:ident),* $(,)?) => {
        laws!(@on change_table, ChangeTable, $($law),*);
        laws!(@on change_objects, ChangeObjects, $($law),*);
        laws!(@on request, Request, $($law),*);
        laws!(@on cloud_events, CloudEvents, $($law),*);
    };
    (@on $kind:ident, $variant:ident, $($law:ident),*) => {
        mod $kind {
            $(#[test] fn $law() { super::$law(super::Kind::$variant); })*
        }
    };
}

laws!(
    rows_come_in_their_order_and_again_when_they_are_asked_for_again,
    keys_and_images_are_those_of_any_other_kind,
    a_row_that_cannot_be_read_hides_no_other,
    a_row_without_a_key_is_given_as_such,
    no_message_has_a_value,
    a_channel_that_it_does_not_fit_gets_no_row,
    what_is_taken_outlives_a_crash_and_is_taken_once,
    a_disk_that_takes_no_more_loses_nothing,
    events_say_what_they_were_made_from,
);

/// Laws of sources that give changes alone.
mod changes {
    use super::*;

    laws!(@changes
        what_is_not_named_stays,
        a_delete_needs_the_key_alone,
        changes_of_one_key_keep_their_order,
        what_is_no_operation_is_set_aside,
    );
}

/// Laws of sources that give a whole register.
mod registers {
    use super::*;

    laws!(@on table, Table, what_is_not_named_is_gone, what_cannot_be_read_is_not_gone);
    laws!(@on objects, Objects, what_is_not_named_is_gone, what_cannot_be_read_is_not_gone);
}

fn rows_come_in_their_order_and_again_when_they_are_asked_for_again(kind: Kind) {
    let handed_over = kind.hand_over(&[Said::Row("b", 2), Said::Spoilt("c"), Said::Row("a", 1)]);
    assert_eq!(handed_over.source.content(), kind.content());
    let first = given(&handed_over);
    let keys: Vec<_> = first
        .iter()
        .map(|given| match given {
            Given::Present { key, .. } | Given::Deleted { key, .. } => key.clone(),
            Given::Parked { .. } => "?".to_owned(),
        })
        .collect();
    assert_eq!(keys, ["b", "?", "a"]);
    assert_eq!(given(&handed_over), first);
    let mut rows = handed_over.source.rows(&schema(FIELDS), &key()).unwrap();
    let count = u64::try_from(all(rows.as_mut()).len()).unwrap();
    assert_eq!(rows.notes().rows, count);
}

fn keys_and_images_are_those_of_any_other_kind(kind: Kind) {
    let found = given(&kind.hand_over(&[Said::Row("ā b", 7), Said::Row("x", -3)]));
    let found: Vec<_> = found
        .into_iter()
        .map(|given| match given {
            Given::Present { key, datum, .. } => (key, datum),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, [("ā b".to_owned(), datum("ā b", 7)), ("x".to_owned(), datum("x", -3))]);
}

fn a_row_that_cannot_be_read_hides_no_other(kind: Kind) {
    let found = given(&kind.hand_over(&[Said::Row("a", 1), Said::Spoilt("b"), Said::Row("c", 3)]));
    assert!(
        matches!(&found[0], Given::Present { .. }) && matches!(&found[2], Given::Present { .. }),
        "{found:?}"
    );
    let Given::Parked { key, parked, .. } = &found[1] else { panic!("{found:?}") };
    assert_eq!(key.as_deref(), Some("b"));
    assert_eq!(parked.column.as_deref(), Some("n"));
}

fn a_row_without_a_key_is_given_as_such(kind: Kind) {
    let found = given(&kind.hand_over(&[Said::Row("a", 1), Said::NoKey]));
    assert!(matches!(&found[..], [Given::Present { .. }, Given::Parked { key: None, .. }]), "{found:?}");
}

fn no_message_has_a_value(kind: Kind) {
    for given in given(&kind.hand_over(&[Said::Row("a", 1), Said::Spoilt("b"), Said::Unknown("c")])) {
        if let Given::Parked { parked, .. } = given {
            assert!(!parked.reason.contains(SECRET) && !parked.reason.is_empty(), "{parked:?}");
        }
    }
}

fn a_channel_that_it_does_not_fit_gets_no_row(kind: Kind) {
    let other = schema(r#"{"name":"k","type":"string"},{"name":"missing","type":"long"}"#);
    let handed_over = kind.hand_over(&[Said::Row("a", 1)]);
    match handed_over.source.rows(&other, &key()) {
        Err(error) => assert!(error.to_string().contains("missing"), "{error}"),
        Ok(mut rows) => {
            let found = all(rows.as_mut());
            assert!(matches!(&found[..], [Given::Parked { .. }]), "{found:?}");
        }
    }
}

fn what_is_taken_outlives_a_crash_and_is_taken_once(kind: Kind) {
    let site = Site::new();
    let rows = [Said::Row("a", 1), Said::Row("b", 2)];
    site.take(kind, &rows).unwrap();
    site.disk.crash(|_| 0);
    let site = Site::on(site.disk);
    let expected = done(&[("a", "c", Some(1)), ("b", "c", Some(2))]);
    assert_eq!(site.done(), expected);
    // A registry that did not get the answer hands the rows over again.
    site.take(kind, &rows).unwrap();
    assert_eq!(site.done(), expected);
}

fn a_disk_that_takes_no_more_loses_nothing(kind: Kind) {
    let site = Site::new();
    let rows = [Said::Row("a", 1), Said::Row("b", 2)];
    site.disk.set_room(Some(0));
    let error = site.take(kind, &rows).unwrap_err();
    assert!(error.is_passing() && !error.is_of_the_file(), "{error}");
    assert_eq!(site.done(), []);
    site.disk.set_room(None);
    site.take(kind, &rows).unwrap();
    assert_eq!(site.done(), done(&[("a", "c", Some(1)), ("b", "c", Some(2))]));
}

fn events_say_what_they_were_made_from(kind: Kind) {
    let site = Site::new();
    site.take(kind, &[Said::Row("a", 1)]).unwrap();
    let expected = match kind {
        Kind::Table | Kind::Objects => "file",
        Kind::ChangeTable | Kind::ChangeObjects => "change_file",
        Kind::Request | Kind::CloudEvents => "http",
    };
    let event = &site.events()[0];
    assert_eq!((event.kind.as_str(), event.is_snapshot), (expected, kind.content() == Content::Register));
}

fn what_is_not_named_stays(kind: Kind) {
    let site = Site::new();
    site.take(kind, &[Said::Row("a", 1), Said::Row("b", 2)]).unwrap();
    site.take(kind, &[Said::Row("b", 3)]).unwrap();
    assert_eq!(site.done(), done(&[("a", "c", Some(1)), ("b", "c", Some(2)), ("b", "u", Some(3))]));
}

fn a_delete_needs_the_key_alone(kind: Kind) {
    let site = Site::new();
    site.take(kind, &[Said::Row("a", 1)]).unwrap();
    site.take(kind, &[Said::Gone("a"), Said::Gone("never there")]).unwrap();
    assert_eq!(site.done(), done(&[("a", "c", Some(1)), ("a", "d", None)]));
}

fn changes_of_one_key_keep_their_order(kind: Kind) {
    let site = Site::new();
    site.take(kind, &[Said::Row("a", 1), Said::Row("a", 2), Said::Gone("a"), Said::Row("a", 3)]).unwrap();
    let expected = [("a", "c", Some(1)), ("a", "u", Some(2)), ("a", "d", None), ("a", "c", Some(3))];
    assert_eq!(site.done(), done(&expected));
}

fn what_is_no_operation_is_set_aside(kind: Kind) {
    let site = Site::new();
    site.take(kind, &[Said::Unknown("a"), Said::Row("b", 2)]).unwrap();
    assert_eq!(site.done(), done(&[("b", "c", Some(2))]));
}

fn what_is_not_named_is_gone(kind: Kind) {
    let site = Site::new();
    site.take(kind, &[Said::Row("a", 1), Said::Row("b", 2)]).unwrap();
    site.take(kind, &[Said::Row("b", 2)]).unwrap();
    assert_eq!(site.done(), done(&[("a", "c", Some(1)), ("b", "c", Some(2)), ("a", "d", None)]));
}

fn what_cannot_be_read_is_not_gone(kind: Kind) {
    let site = Site::new();
    let both = done(&[("a", "c", Some(1)), ("b", "c", Some(2))]);
    site.take(kind, &[Said::Row("a", 1), Said::Row("b", 2)]).unwrap();
    site.take(kind, &[Said::Row("a", 1), Said::Spoilt("b")]).unwrap();
    assert_eq!(site.done(), both, "its key can be read");
    site.take(kind, &[Said::Row("a", 1), Said::NoKey]).unwrap();
    assert_eq!(site.done(), both, "its key cannot be read: it may be any of those that are not named");
}
