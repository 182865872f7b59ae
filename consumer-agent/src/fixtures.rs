//! Fixtures for tests of the agent and the receiver: a router that follows a script, and the bytes of a stream.
//!
//! Owns the host that carries an agent's requests to the script and records them. It is compiled only for tests: no
//! real router breaks the rules of a stream.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use platform::client::Client;
use platform::host::{self, Answer, Host, Task};
use platform::identity::Identity;
use platform::pki::{Authority, Subject};
use platform::segments::memory_disk::MemoryDisk;
use platform::unreachable::Unreachable;
use schemas::avro::binary::put_string;
use schemas::avro::container::{Header, put_block};
use schemas::avro::schema::AvroSchema;
use schemas::change::Op;
use schemas::cursor::{Cursor, Place};
use schemas::delivery::{
    AGREEMENT_KEY, CHANNEL_KEY, CloseReason, Delivery, DeliveryCodec, Event, LOG_ID_KEY, Next, Progress,
    Reason, VERSION_KEY,
};
use schemas::error_code::{ErrorCode, Problem};
use schemas::ids::{AgreementNumber, AgreementVersion, BootstrapId, LogId, Offset, Partition};
use schemas::per_partition::PerPartition;
use schemas::position::EventPosition;
use schemas::time::Millis;
use tokio::time::Instant;

use crate::sink::Sink;
use crate::sink::file::FileSink;

pub(crate) const P0: Partition = Partition::new(0);
pub(crate) const LOG: LogId = LogId::new([1; 16]);
pub(crate) const SNAPSHOT: BootstrapId = BootstrapId::new([3; 16]);
const SYNC: [u8; 16] = [9; 16];

/// What the router does with a request.
pub(crate) enum Reply {
    /// It cannot be reached.
    Away,
    Refused(ErrorCode),
    /// It begins an answer, sends these bytes one after the other, and ends the connection.
    Stream(Vec<Vec<u8>>),
    /// Like `Stream`, but the connection stays open and silent.
    Silence(Vec<Vec<u8>>),
    /// It takes the request and does not answer.
    Mute,
}

/// A router that answers one request after the other, and cannot be reached after its script's end.
pub(crate) struct Script {
    replies: Mutex<VecDeque<Reply>>,
    /// Each request's query, and when it came.
    asked: Mutex<Vec<(String, Instant)>>,
    begun: Instant,
}

impl Script {
    pub(crate) fn new(replies: impl IntoIterator<Item = Reply>) -> Arc<Self> {
        let replies = Mutex::new(replies.into_iter().collect());
        Arc::new(Self { replies, asked: Mutex::default(), begun: Instant::now() })
    }

    /// The queries, each with the time since the request before it.
    pub(crate) fn asked(&self) -> Vec<(String, Duration)> {
        let asked = self.asked.lock().unwrap();
        let before = std::iter::once(self.begun).chain(asked.iter().map(|(_, at)| *at));
        asked.iter().zip(before).map(|((query, at), before)| (query.clone(), *at - before)).collect()
    }

    /// Runs a future whose requests this router answers.
    pub(crate) async fn serve<T>(self: &Arc<Self>, act: impl Future<Output = T>) -> T {
        let mut act = pin!(act);
        poll_fn(|context| host::enter(Arc::clone(self) as Arc<dyn Host>, || act.as_mut().poll(context))).await
    }
}

impl Host for Script {
    fn now(&self) -> Millis {
        Millis::new(i64::try_from(self.since_boot().as_millis()).unwrap())
    }

    fn since_boot(&self) -> Duration {
        self.begun.elapsed()
    }

    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }

    fn below(&self, bound: u64) -> u64 {
        bound / 2
    }

    fn send(&self, request: reqwest::Request) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let url = request.url().clone();
        self.asked.lock().unwrap().push((url.query().unwrap_or_default().to_owned(), Instant::now()));
        let reply = self.replies.lock().unwrap().pop_front().unwrap_or(Reply::Away);
        Box::pin(async move {
            let (status, body) = match reply {
                Reply::Away => {
                    return Err(Unreachable { url: url.to_string(), problem: "nobody is there".to_owned() });
                }
                Reply::Mute => return std::future::pending().await,
                Reply::Refused(code) => {
                    let problem = serde_json::to_vec(&Problem::new(code, "the script says so")).unwrap();
                    (code.status(), reqwest::Body::from(problem))
                }
                Reply::Stream(parts) => {
                    let parts = stream::iter(parts).map(Ok::<_, std::io::Error>);
                    (200, reqwest::Body::wrap_stream(parts))
                }
                Reply::Silence(parts) => {
                    let parts = stream::iter(parts).chain(stream::pending()).map(Ok::<_, std::io::Error>);
                    (200, reqwest::Body::wrap_stream(parts))
                }
            };
            Ok(http::Response::builder().status(status).body(body).unwrap().into())
        })
    }

    fn spawn(&self, task: Task) {
        tokio::spawn(task);
    }
}

pub(crate) fn identity() -> Identity {
    platform::identity::install_crypto();
    Authority::new("test.dit").unwrap().identity(&Subject::Agent("9000/main".parse().unwrap())).unwrap()
}

pub(crate) fn client() -> Client {
    Client::new("https://router", &identity()).unwrap()
}

pub(crate) fn number() -> AgreementNumber {
    "A-1".parse().unwrap()
}

/// The schema of the rows: a key and a town.
pub(crate) fn derived() -> AvroSchema {
    let fields = r#"{"name":"k","type":"string"},{"name":"town","type":"string"}"#;
    AvroSchema::parse(&format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)).unwrap()
}

pub(crate) fn image(key: &str, town: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, key);
    put_string(&mut out, town);
    out
}

pub(crate) fn place(offset: u64) -> Place {
    Place { offset: Offset::new(offset), checkpoint: Offset::new(0) }
}

pub(crate) fn cursor(offset: u64) -> Cursor {
    let places = PerPartition::filled(1, place(offset));
    Cursor { log_id: LOG, version: AgreementVersion::new(1), places, snapshot: None }
}

/// The metadata in a stream's header.
pub(crate) fn metadata() -> BTreeMap<String, Vec<u8>> {
    let log_id = LOG.to_string();
    [(AGREEMENT_KEY, "A-1"), (VERSION_KEY, "1"), (CHANNEL_KEY, "c"), (LOG_ID_KEY, &log_id)]
        .map(|(key, text)| (key.to_owned(), text.as_bytes().to_vec()))
        .into()
}

/// The first bytes of a stream.
pub(crate) fn header(metadata: BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let codec = DeliveryCodec::new(&derived()).unwrap();
    Header { metadata, schema: codec.union().text().to_owned(), sync: SYNC }.encode()
}

/// One block of a stream.
pub(crate) fn block(deliveries: &[Delivery<'_>]) -> Vec<u8> {
    let mut datums = Vec::new();
    deliveries.iter().for_each(|delivery| DeliveryCodec::encode(delivery, &mut datums));
    let mut out = Vec::new();
    put_block(&mut out, deliveries.len(), &datums, &SYNC);
    out
}

/// A row's change in a block of its own at this offset; without an image the row is deleted.
pub(crate) fn event<'a>(offset: u64, key: &'a str, image: Option<&'a [u8]>) -> Delivery<'a> {
    event_at(EventPosition { offset: Offset::new(offset), index: 0 }, key, image)
}

/// A row's change at this position.
pub(crate) fn event_at<'a>(position: EventPosition, key: &'a str, image: Option<&'a [u8]>) -> Delivery<'a> {
    Delivery::Event(Event {
        op: if image.is_some() { Op::Update } else { Op::Delete },
        key,
        after: image,
        reason: Reason::Change,
        partition: P0,
        position,
        event_at: Millis::new(0),
        logged_at: Millis::new(0),
        trace: None,
    })
}

/// Everything up to the log's end, `offset`, was delivered.
pub(crate) fn progress(offset: u64) -> Delivery<'static> {
    let end = Offset::new(offset);
    let (freshness, passed_at) = (Some(Millis::new(5)), None);
    Delivery::Progress(Progress { partition: P0, place: place(offset), freshness, end, passed_at })
}

pub(crate) fn closing(next: Next, reason: CloseReason) -> Delivery<'static> {
    Delivery::Closing { next, reason, detail: "the script says so".to_owned(), places: PerPartition::none() }
}

/// A snapshot of the rows up to this offset of the log.
pub(crate) fn snapshot(rows: &[(&str, &str)], offset: u64) -> Vec<u8> {
    let images: Vec<_> = rows.iter().map(|(key, town)| image(key, town)).collect();
    let mut deliveries = vec![Delivery::SnapshotBegin { bootstrap: SNAPSHOT }];
    for ((key, _), image) in rows.iter().zip(&images) {
        let Delivery::Event(event) = event(0, key, Some(image)) else { continue };
        deliveries.push(Delivery::Event(Event { op: Op::Read, reason: Reason::State, ..event }));
    }
    let places = PerPartition::filled(1, place(offset));
    deliveries.push(Delivery::SnapshotEnd { bootstrap: SNAPSHOT, places });
    block(&deliveries)
}

/// The disk's replica, opened as after a restart.
pub(crate) fn replica(disk: &MemoryDisk) -> FileSink {
    FileSink::open(Arc::new(disk.clone()), Path::new("/replica"), "rows").unwrap()
}

/// A replica's rows: its keys and the towns.
pub(crate) async fn rows(sink: &mut dyn Sink) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    let mut see = |key: &str, texts: schemas::reconcile::Texts| {
        rows.insert(key.to_owned(), texts.get(1).cloned().flatten().unwrap_or_default());
    };
    sink.scan(&mut see).await.unwrap();
    rows
}

pub(crate) fn towns(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    rows.iter().map(|(key, town)| ((*key).to_owned(), (*town).to_owned())).collect()
}
