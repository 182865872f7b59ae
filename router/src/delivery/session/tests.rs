//! A stream from its opening to its closing record, on its own core: what a consumer receives, and when the pump ends.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;

use event_log::Log;
use event_log::memory::MemoryLog;
use http_body::Body as _;
use schemas::agreement::{Agreement, Status};
use schemas::avro::binary::{Cursor as Datum, put_long};
use schemas::avro::container::{Decoder, Header, put_block};
use schemas::block::{self, OpenBlock};
use schemas::change::ChangeCodec;
use schemas::delivery::{DeliveryCodec, Next as Then};
use schemas::ids::{ChannelName, Epoch, Partition};
use schemas::publish::{OpenRequest, batch_metadata};
use scope::secret::NetworkSecret;
use serde_json::json;

use super::*;
use crate::control::change::Body;
use crate::declarations::Declared;
use crate::delivery::body::GatedBody;
use crate::delivery::encode::Format;
use crate::delivery::error::OpenError;
use crate::delivery::service::StreamRequest;
use crate::delivery::start::StartPosition;
use crate::fanout::observer::Follower;
use crate::fixtures::{self, Chain, Moved};
use crate::service::{Core, CoreParts, Routers};

const P0: Partition = Partition::new(0);
const EPOCH: Epoch = Epoch::new([7; 16]);
/// On a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A core with one channel, its provider, and an agreement on the rows of Riga.
struct Network {
    core: Core,
    chain: Chain,
}

impl Network {
    async fn begin() -> Self {
        let parsed = |value| serde_json::from_value(value).unwrap();
        let channel = json!({"name": "c", "kind": "distribution", "owner": "1", "partitions": 1,
            "key": {"fields": ["k"]}, "schema": fixtures::subject().json()});
        let agreement = json!({"number": "A-1", "version": 1, "provider": "1", "consumer": "2", "channel": "c",
            "purpose": "p", "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full",
            "schema_version": 1, "rows": "town == \"Riga\"", "fields": {"k": "keep", "town": "keep"}});
        let agreement: Agreement = serde_json::from_value(agreement).unwrap();
        let participants =
            ["1", "2"].map(|id| serde_json::from_value(json!({"id": id, "name": id})).unwrap());
        let identity = fixtures::identity();
        let core = Core::start(CoreParts {
            log: Arc::new(MemoryLog::default()) as Arc<dyn Log>,
            routers: Routers::One,
            registry: None,
            identity: &identity,
            name: "r".to_owned(),
            secret: NetworkSecret::new(vec![1; 32]).unwrap(),
            declared: Declared {
                participants: participants.into(),
                channels: vec![parsed(channel)],
                agreements: vec![agreement],
                ..Declared::default()
            },
            disks: Vec::new(),
        });
        let network = Self { core: core.await.unwrap(), chain: Chain::begin(EPOCH) };
        let request = OpenRequest { epoch: EPOCH, replaces: None };
        network.core.publisher.open(&provider(), &channel_name(), P0, request).await.unwrap();
        network
    }

    /// The provider publishes changes in one batch, in this order.
    async fn tell(&mut self, moves: &[Moved<'_>]) {
        let codec = ChangeCodec::new(&fixtures::subject()).unwrap();
        let Chain { epoch, next, digest } = self.chain;
        let mut datums = Vec::new();
        for moved in moves {
            let datum = moved.datum();
            self.chain.add(&datum);
            put_long(&mut datums, 0);
            datums.extend(block::of_one(&datum));
        }
        let sync = [9; 16];
        let metadata = batch_metadata(epoch, next, digest);
        let schema = codec.batch_schema().text().to_owned();
        let mut body = Header { metadata, schema, sync }.encode();
        put_block(&mut body, moves.len(), &datums, &sync);
        let published =
            self.core.publisher.publish(&provider(), &channel_name(), P0, body.into()).await.unwrap();
        assert_eq!(published.counted.unwrap().next, self.chain.next);
    }

    /// The provider publishes new rows of Riga in one block.
    async fn tell_block(&mut self, keys: &[String]) {
        let codec = ChangeCodec::new(&fixtures::subject()).unwrap();
        let Chain { epoch, next, digest } = self.chain;
        let mut changes = OpenBlock::default();
        keys.iter().for_each(|key| changes.push(&Moved::into(key, "Riga").datum()));
        let count = changes.count();
        let mut datums = Vec::new();
        put_long(&mut datums, 0);
        datums.extend(changes.finish());
        let sync = [9; 16];
        let schema = codec.batch_schema().text().to_owned();
        let mut body = Header { metadata: batch_metadata(epoch, next, digest), schema, sync }.encode();
        put_block(&mut body, 1, &datums, &sync);
        let published =
            self.core.publisher.publish(&provider(), &channel_name(), P0, body.into()).await.unwrap();
        let counted = published.counted.unwrap();
        assert_eq!(counted.next, next.after(count));
        (self.chain.next, self.chain.digest) = (counted.next, counted.digest);
    }

    async fn try_open(&self, from: StartPosition) -> Result<Stream, OpenError> {
        let request = StreamRequest {
            agent: "2/main".parse().unwrap(),
            agreement: "A-1".parse().unwrap(),
            from,
            reconcile: None,
            format: Format::Avro,
            connection: ConnectionReset::default(),
        };
        let connection = request.connection.clone();
        let body = self.core.deliveries.open(request).await?;
        Ok(Stream {
            body,
            connection,
            decoder: Decoder::new(),
            codec: None,
            waiting: VecDeque::new(),
            closed_at: None,
        })
    }

    async fn open(&self, from: StartPosition) -> Stream {
        self.try_open(from).await.unwrap()
    }

    async fn revoke(&self) {
        let body = Body::AgreementStatus {
            number: "A-1".parse().unwrap(),
            status: Status::Revoked,
            reason: "the purpose has ended".to_owned(),
        };
        self.core.control.change("operator", body).await.unwrap();
    }
}

fn provider() -> AgentId {
    "1/main".parse().unwrap()
}

fn channel_name() -> ChannelName {
    "c".parse().unwrap()
}

/// A consumer's end of a stream.
struct Stream {
    body: GatedBody,
    connection: ConnectionReset,
    decoder: Decoder,
    codec: Option<DeliveryCodec>,
    waiting: VecDeque<Told>,
    /// The place in the closing record.
    closed_at: Option<u64>,
}

/// A delivery, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Row(String, &'static str),
    Begin,
    End,
    Progress { offset: u64, end: u64 },
    Closing(CloseReason, Then),
}

fn row(key: &str, op: &'static str) -> Told {
    Told::Row(key.to_owned(), op)
}

impl Stream {
    /// The next delivery; `None` once the body has ended.
    async fn next(&mut self) -> Option<Told> {
        tokio::time::timeout(PATIENCE, self.next_of_body()).await.expect("the stream says nothing")
    }

    async fn next_of_body(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.waiting.pop_front() {
                return Some(told);
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await?;
            self.decoder.push(&frame.unwrap().into_data().unwrap());
            if self.codec.is_none() {
                let Some(header) = self.decoder.header().unwrap() else { continue };
                self.codec = Some(DeliveryCodec::from_union_schema(&header.schema).unwrap());
            }
            let codec = self.codec.as_ref().unwrap();
            while let Some(block) = self.decoder.block().unwrap() {
                let mut datums = Datum::new(&block.datums);
                for _ in 0..block.count {
                    let delivery = codec.decode(&mut datums).unwrap();
                    if let Delivery::Closing { places, .. } = &delivery {
                        self.closed_at = places.get(P0).map(|place| place.offset.get());
                    }
                    self.waiting.extend(in_short(&delivery));
                }
            }
        }
    }

    /// The next row, mark or closing record; progress is left out.
    async fn next_but_progress(&mut self) -> Option<Told> {
        loop {
            match self.next().await {
                Some(Told::Progress { .. }) => {}
                told => return told,
            }
        }
    }

    /// Waits until the stream reports progress at the log's end, and gives the deliveries before that.
    async fn rows_to_the_end(&mut self) -> Vec<Told> {
        let mut rows = Vec::new();
        loop {
            match self.next().await.expect("the stream goes on") {
                Told::Progress { offset, end } if offset >= end => return rows,
                Told::Progress { .. } => {}
                told => rows.push(told),
            }
        }
    }
}

fn in_short(delivery: &Delivery<'_>) -> Option<Told> {
    Some(match delivery {
        Delivery::Event(event) => Told::Row(event.key.to_owned(), event.op.letter()),
        Delivery::SnapshotBegin { .. } => Told::Begin,
        Delivery::SnapshotEnd { .. } => Told::End,
        Delivery::Progress(progress) => {
            Told::Progress { offset: progress.place.offset.get(), end: progress.end.get() }
        }
        Delivery::Closing { reason, next, .. } => Told::Closing(*reason, *next),
        _ => return None,
    })
}

#[tokio::test]
async fn a_snapshot_comes_between_its_marks_and_then_what_happens() {
    let mut network = Network::begin().await;
    network.tell(&[Moved::into("1", "Riga"), Moved::into("2", "Tukums"), Moved::into("3", "Riga")]).await;
    let state = network.core.channels.get(&channel_name()).unwrap().materialised.get(P0).unwrap().clone();
    let end = network.core.channels.get(&channel_name()).unwrap().feeds.get(P0).unwrap().tail().next;
    while state.progress().to < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut stream = network.open(StartPosition::State).await;
    assert_eq!(stream.next_but_progress().await, Some(Told::Begin));
    let mut rows = [stream.next_but_progress().await.unwrap(), stream.next_but_progress().await.unwrap()];
    rows.sort_by_key(|told| format!("{told:?}"));
    assert_eq!(rows, [row("1", "r"), row("3", "r")]);
    assert_eq!(stream.next_but_progress().await, Some(Told::End));
    network.tell(&[Moved::into("4", "Riga")]).await;
    assert_eq!(stream.next_but_progress().await, Some(row("4", "c")));
}

#[tokio::test]
async fn a_row_that_moves_out_is_taken_back_and_one_that_moves_in_is_new() {
    let mut network = Network::begin().await;
    let mut stream = network.open(StartPosition::Earliest).await;
    network.tell(&[Moved::into("1", "Riga"), Moved::into("2", "Tukums"), Moved::into("3", "Tukums")]).await;
    let out = Moved { key: "1", from: Some("Riga"), to: Some("Tukums") };
    let within = Moved { key: "2", from: Some("Tukums"), to: Some("Riga") };
    let elsewhere = Moved { key: "3", from: Some("Tukums"), to: None };
    network.tell(&[out, within, elsewhere]).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(stream.next_but_progress().await.unwrap());
    }
    assert_eq!(told, [row("1", "c"), row("1", "d"), row("2", "c")]);
    network.tell(&[Moved::into("9", "Riga")]).await;
    assert_eq!(stream.next_but_progress().await, Some(row("9", "c")), "of the third nothing is told");
}

#[tokio::test]
async fn who_is_given_nothing_is_told_how_far_it_stands() {
    let mut network = Network::begin().await;
    let mut stream = network.open(StartPosition::Earliest).await;
    network.tell(&[Moved::into("1", "Tukums"), Moved::into("2", "Tukums")]).await;
    assert_eq!(stream.rows_to_the_end().await, [], "nothing is of Riga");
}

/// Else the first chunk would wake each of thousands of streams.
#[tokio::test]
async fn a_stream_has_subscribed_before_its_first_chunk_comes() {
    let mut network = Network::begin().await;
    let feed = Arc::clone(network.core.channels.get(&channel_name()).unwrap().feeds.get(P0).unwrap());
    let mut stream = network.open(StartPosition::Latest).await;
    assert_eq!(stream.rows_to_the_end().await, []);
    let mut follower = Follower::latest(feed);
    network.tell(&[Moved::into("1", "Tukums")]).await;
    let chunk = follower.next().await.unwrap().unwrap();
    let matches = chunk.note.as_ref().expect("the chunk was matched");
    assert!(matches.by_group.is_empty() && matches.changes == 1, "and gives the stream nothing");
}

#[tokio::test]
async fn a_revocation_is_the_last_word() {
    let mut network = Network::begin().await;
    let mut stream = network.open(StartPosition::Earliest).await;
    network.tell(&[Moved::into("1", "Riga")]).await;
    assert_eq!(stream.next_but_progress().await, Some(row("1", "c")));
    network.revoke().await;
    network.tell(&[Moved::into("2", "Riga")]).await;
    assert_eq!(stream.next_but_progress().await, Some(Told::Closing(CloseReason::Revoked, Then::Stop)));
    assert_eq!(stream.next().await, None);
    assert!(matches!(network.try_open(StartPosition::Latest).await, Err(OpenError::Ended { .. })));
}

#[tokio::test]
async fn a_stream_that_ends_within_a_block_ends_before_it() {
    let mut network = Network::begin().await;
    let block = network.core.channels.get(&channel_name()).unwrap().feeds.get(P0).unwrap().tail().next;
    // More than a frame holds.
    let keys: Vec<String> = (0..1_900).map(|number| format!("{number:020}")).collect();
    network.tell_block(&keys).await;
    let mut stream = network.open(StartPosition::Earliest).await;
    assert_eq!(stream.next_but_progress().await, Some(row(&keys[0], "c")));
    network.revoke().await;
    let mut rows = 1;
    let closing = loop {
        match stream.next_but_progress().await {
            Some(Told::Row(..)) => rows += 1,
            told => break told,
        }
    };
    assert_eq!(closing, Some(Told::Closing(CloseReason::Revoked, Then::Stop)));
    assert!(rows > 100 && rows < keys.len(), "{rows} rows: the end is not within the block");
    assert_eq!(stream.closed_at, Some(block.get()), "what was delivered of the block is no place");
}

#[tokio::test]
async fn a_router_that_stops_says_so_and_waits_for_nobody() {
    let network = Network::begin().await;
    let mut read = network.open(StartPosition::Latest).await;
    let unread = network.open(StartPosition::Latest).await;
    let reading = async {
        loop {
            if let told @ (None | Some(Told::Closing(..))) = read.next_but_progress().await {
                return (told, read.next().await);
            }
        }
    };
    let (told, stopped) = tokio::join!(reading, network.core.stop(PATIENCE));
    assert_eq!(told, (Some(Told::Closing(CloseReason::Draining, Then::Continue)), None));
    assert!(stopped, "the one that is not read is given up");
    tokio::time::timeout(PATIENCE, unread.connection.requested()).await.unwrap();
}

#[tokio::test]
async fn who_goes_away_gives_its_place_back() {
    let network = Network::begin().await;
    let mut streams = Vec::new();
    let refused = loop {
        match network.try_open(StartPosition::Latest).await {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
        assert!(streams.len() < 100, "nothing bounds an agreement's streams");
    };
    assert!(matches!(refused, OpenError::TooMany(_)), "{refused}");
    drop(streams.pop());
    let again = async {
        while network.try_open(StartPosition::Latest).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn who_does_not_read_holds_up_nobody_else() {
    let mut network = Network::begin().await;
    let mut read = network.open(StartPosition::Earliest).await;
    let mut unread = network.open(StartPosition::Earliest).await;
    let keys: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    for keys in keys.chunks(50) {
        network.tell(&keys.iter().map(|key| Moved::into(key, "Riga")).collect::<Vec<_>>()).await;
    }
    for stream in [&mut read, &mut unread] {
        for key in &keys {
            assert_eq!(stream.next_but_progress().await, Some(row(key, "c")));
        }
    }
}
