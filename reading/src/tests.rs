//! Followers of one partition: from the shared tail or from the log, they get the same changes in the same order.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use event_log::memory::MemoryLog;
use event_log::{Cleanup, Log, TopicSpec};
use platform::shutdown::Tasks;
use schemas::avro::binary::put_string;
use schemas::avro::schema::AvroSchema;
use schemas::block::{self, OpenBlock};
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::channel::ChannelKind;
use schemas::cursor::Place;
use schemas::digest;
use schemas::epoch_table::{EpochTable, Opening};
use schemas::framing::frame;
use schemas::ids::{AgentId, Digest, Epoch, LogId, Offset, Partition, SchemaId, Sequence};
use schemas::marks::{Checkpoint, Freshness, Resync, record};
use schemas::position::EventPosition;
use schemas::record::{Kind, Provenance, Record};
use schemas::time::Millis;

use crate::chunk::{CHUNK_CHANGES, Item, Note};
use crate::codecs::{CodecError, Codecs};
use crate::error::ReaderError;
use crate::feed::{Counts, Feed, Move, Observer};
use crate::follower::Follower;
use crate::ring::KEPT_CHUNKS;
use crate::source::PartitionSource;
use crate::tail::Tail;

mod leading;
mod returning;

const TOPIC: &str = "dit.c.log";
const P0: Partition = Partition::new(0);
const LOG: LogId = LogId::new([1; 16]);
const EPOCH: Epoch = Epoch::new([7; 16]);
const SCHEMA: SchemaId = SchemaId::new(3);
/// More changes than a ring has chunks: here each chunk has one change.
const MANY: u64 = KEPT_CHUNKS as u64 + 10;

struct OneSchema(Arc<ChangeCodec>);

#[async_trait]
impl Codecs for OneSchema {
    async fn codec(&self, _: SchemaId) -> Result<Arc<ChangeCodec>, CodecError> {
        // Other readers come while one reads.
        tokio::task::yield_now().await;
        Ok(Arc::clone(&self.0))
    }
}

struct NumberOfItems(usize);

impl Note for NumberOfItems {
    fn size(&self) -> usize {
        self.0
    }
}

/// Notes how many items each chunk has, and keeps the counts.
#[derive(Default)]
struct Counting(Mutex<Vec<Counts>>);

impl Observer for Counting {
    type Note = NumberOfItems;

    fn note(&self, _: Partition, items: &[Item]) -> Option<NumberOfItems> {
        Some(NumberOfItems(items.len()))
    }

    fn read(&self, counts: Counts) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(counts);
    }

    fn moves(&self, _: Partition, _: Move<'_, NumberOfItems>, step: &mut dyn FnMut() -> Arc<Tail>) {
        step();
    }
}

/// One partition and its one provider.
struct Channel {
    log: Arc<MemoryLog>,
    source: PartitionSource,
    next: Sequence,
    digest: Digest,
    tasks: Tasks,
}

impl Channel {
    /// A partition that begins with the checkpoint of a log, and an epoch.
    async fn begun(log_id: LogId) -> Self {
        let log = Arc::new(MemoryLog::default());
        let spec = TopicSpec { name: TOPIC.to_owned(), partitions: 1, cleanup: Cleanup::KeepAll };
        log.ensure_topic(&spec).await.unwrap();
        let subject = r#"{"type":"record","name":"R","fields":[{"name":"k","type":"string"}]}"#;
        let codec = Arc::new(ChangeCodec::new(&AvroSchema::parse(subject).unwrap()).unwrap());
        let source = PartitionSource {
            log: Arc::clone(&log) as Arc<dyn Log>,
            codecs: Arc::new(OneSchema(codec)),
            topic: TOPIC.to_owned(),
            partition: P0,
            kind: ChannelKind::Distribution,
            log_id: LOG,
        };
        let digest = digest::first(EPOCH);
        let channel = Self { log, source, next: Sequence::new(0), digest, tasks: Tasks::new() };
        let table = EpochTable::default();
        channel.checkpoint(log_id, Offset::new(0), table).await;
        channel
    }

    async fn open() -> Self {
        let channel = Self::begun(LOG).await;
        let opening = Opening { agent: agent(), epoch: EPOCH, replaces: None };
        channel.append(record(Kind::Opening, &opening.encode())).await;
        channel
    }

    async fn append(&self, record: Record) -> Offset {
        self.log.append(TOPIC, P0, vec![record]).await.unwrap()
    }

    async fn checkpoint(&self, log_id: LogId, as_of: Offset, table: EpochTable) {
        let checkpoint = Checkpoint { log_id, as_of, freshness: None, table };
        self.append(record(Kind::Checkpoint, &checkpoint.encode())).await;
    }

    /// Appends a checkpoint of all present records; returns its offset `as_of`.
    async fn checkpoint_here(&self) -> Offset {
        let feed = self.feed().await;
        self.read_all(&feed).await;
        let end = feed.tail().next;
        self.checkpoint(LOG, end, feed.tail().fold.table.clone()).await;
        end
    }

    /// The next change of the epoch, with a key.
    fn change(&mut self, key: &str) -> Record {
        self.sequenced(Kind::Block, SCHEMA, &block::of_one(&datum(key)))
    }

    /// The next block of the epoch, with these keys.
    fn block(&mut self, keys: impl Iterator<Item = u64>) -> Record {
        let mut block = OpenBlock::default();
        keys.for_each(|key| block.push(&datum(&key.to_string())));
        self.sequenced(Kind::Block, SCHEMA, &block.finish())
    }

    fn sequenced(&mut self, kind: Kind, schema: SchemaId, datum: &[u8]) -> Record {
        self.digest = digest::next(self.digest, datum);
        let count = if kind == Kind::Block { block::count(datum).unwrap_or(1) } else { 1 };
        let sequence = self.next;
        let provenance = Provenance { agent: agent(), epoch: EPOCH, sequence, count, digest: self.digest };
        self.next = provenance.next();
        let headers = [vec![kind.header()], provenance.headers().to_vec()].concat();
        Record { key: None, value: Some(frame(schema, datum)), headers }
    }

    async fn changes(&mut self, from: u64, to: u64) {
        for number in from..to {
            let change = self.change(&number.to_string());
            self.append(change).await;
        }
    }

    /// The partition's feed, running from its beginning.
    async fn feed(&self) -> Arc<Feed<Counting>> {
        let (fold, next) = self.source.first_checkpoint().await.unwrap();
        let feed = Feed::at(self.source.clone(), fold, next, Counting::default());
        let reading = Arc::clone(&feed);
        let stopping = self.tasks.stopping();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                _ = reading.run() => {}
            }
        });
        feed
    }

    /// Waits until the feed has read all present records.
    async fn read_all(&self, feed: &Feed<Counting>) {
        let end = self.log.bounds(TOPIC, P0).await.unwrap().next;
        let mut tail = feed.watch();
        let read = tail.wait_for(|tail| tail.next >= end);
        tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
    }
}

/// The creation of a key.
fn datum(key: &str) -> Vec<u8> {
    let mut image = Vec::new();
    put_string(&mut image, key);
    let at = Millis::new(1);
    let change = Change {
        op: Op::Create,
        key,
        before: None,
        after: Some(&image),
        source: Source::default(),
        event_at: at,
        captured_at: at,
    };
    let mut datum = Vec::new();
    ChangeCodec::encode(&change, &mut datum);
    datum
}

fn agent() -> AgentId {
    "4000/a".parse().unwrap()
}

/// The keys of the changes that a follower gets now, in order; none twice.
async fn keys(follower: &mut Follower<Counting>) -> Vec<String> {
    let mut keys = Vec::new();
    while let Some(chunk) = follower.next().await.unwrap() {
        let wanted = follower.wanted();
        for item in &chunk.items {
            if let Item::Block(block) = item
                && block.offset >= wanted
            {
                keys.extend(block.changes().map(|found| found.change.key.to_owned()));
            }
        }
    }
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{keys:?}");
    keys
}

fn numbers(from: u64, to: u64) -> Vec<String> {
    (from..to).map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn who_follows_from_the_log_and_who_follows_the_tail_read_the_same() {
    let mut channel = Channel::open().await;
    let feed = channel.feed().await;
    let mut early = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    channel.changes(0, 3).await;
    channel.read_all(&feed).await;
    assert_eq!(keys(&mut early).await, numbers(0, 3));
    // Each change is a chunk of its own: by the end the ring no longer has the beginning.
    for number in 3..MANY {
        channel.changes(number, number + 1).await;
        channel.read_all(&feed).await;
    }
    assert!(feed.chunk_at(Offset::new(0)).is_none(), "the ring is bounded");
    let mut late = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    assert_eq!(keys(&mut early).await, numbers(3, MANY));
    assert_eq!(keys(&mut late).await, numbers(0, MANY));
    assert_eq!((early.place(), early.fold()), (late.place(), late.fold()));
    let mut last = Follower::latest(Arc::clone(&feed));
    assert!(last.is_caught_up() && keys(&mut last).await.is_empty());
    assert_eq!(feed.tail().changes, MANY);
}

#[tokio::test]
async fn a_cursors_place_is_gone_on_from_without_gap_or_repeat() {
    let mut channel = Channel::open().await;
    channel.changes(0, 5).await;
    let end = channel.checkpoint_here().await;
    channel.changes(5, 12).await;
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
    for checkpoint in [Offset::new(0), end] {
        // The next one is the third change after the second checkpoint.
        let place = Place { offset: Offset::new(end.get() + 3), checkpoint };
        let mut follower = Follower::resume(Arc::clone(&feed), place).await.unwrap();
        assert_eq!(keys(&mut follower).await, numbers(7, 12), "from checkpoint {checkpoint}");
    }
    let beyond = Place { offset: Offset::new(1_000), checkpoint: Offset::new(0) };
    let refused = Follower::resume(Arc::clone(&feed), beyond).await.err().unwrap();
    assert!(matches!(refused, ReaderError::LostTopic { .. }), "{refused}");
    let nowhere = Place { offset: Offset::new(4), checkpoint: Offset::new(2) };
    let refused = Follower::resume(feed, nowhere).await.err().unwrap();
    assert!(matches!(refused, ReaderError::TooOld { .. }), "there is no checkpoint: {refused}");
}

#[tokio::test]
async fn what_does_not_count_is_counted_and_blocks_nothing() {
    let mut channel = Channel::open().await;
    let first = channel.change("0");
    channel.append(first.clone()).await;
    channel.append(first).await;
    channel.append(Record { key: None, value: Some(b"?".to_vec()), headers: Vec::new() }).await;
    let broken = channel.sequenced(Kind::Block, SCHEMA, &block::of_one(b"\xff"));
    channel.append(broken).await;
    let mark = Freshness { at: Millis::new(77) }.encode();
    let freshness = channel.sequenced(Kind::Freshness, schemas::marks::MARK_SCHEMA, &mark);
    channel.append(freshness).await;
    channel.append(record(Kind::Resync, &Resync { reason: "again".to_owned() }.encode())).await;
    channel.changes(1, 2).await;
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
    let mut follower = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    let mut seen = Vec::new();
    while let Some(chunk) = follower.next().await.unwrap() {
        for item in &chunk.items {
            match item {
                Item::Block(block) => seen.extend(block.changes().map(|found| found.change.key.to_owned())),
                Item::Poison { .. } => seen.push("poison".to_owned()),
                Item::Resync { reason, .. } => seen.push(reason.clone()),
            }
        }
    }
    assert_eq!(seen, ["0", "poison", "poison", "again", "1"]);
    let counted = feed.observer().0.lock().unwrap().clone();
    let sum = |of: fn(&Counts) -> u64| counted.iter().map(of).sum::<u64>();
    assert_eq!((sum(|one| one.changes), sum(|one| one.parked), sum(|one| one.skipped)), (2, 2, 1));
    assert_eq!(feed.tail().fold.freshness, Some(Millis::new(77)));
}

#[tokio::test]
async fn a_block_gives_its_changes_in_order_and_counts_as_a_whole() {
    let mut channel = Channel::open().await;
    let block = channel.block(0..3);
    let at = channel.append(block).await;
    // A block that says another number of changes than it has does not count, though it continues the digest.
    let (next, digest) = (channel.next, channel.digest);
    let mut miscounted = channel.block(90..92);
    miscounted
        .headers
        .iter_mut()
        .filter(|(name, _)| name == "dit_count")
        .for_each(|(_, count)| *count = b"1".into());
    channel.append(miscounted).await;
    (channel.next, channel.digest) = (next, digest);
    channel.changes(3, 4).await;
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
    let mut follower = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    let mut positions = Vec::new();
    let mut poison = 0;
    while let Some(chunk) = follower.next().await.unwrap() {
        for item in &chunk.items {
            match item {
                Item::Block(block) => {
                    positions
                        .extend(block.changes().map(|found| (found.change.key.to_owned(), found.position)));
                }
                Item::Poison { .. } => poison += 1,
                Item::Resync { .. } => panic!("nobody ordered it"),
            }
        }
    }
    let later = Offset::new(at.get() + 2);
    let expected =
        [(at, 0), (at, 1), (at, 2), (later, 0)].map(|(offset, index)| EventPosition { offset, index });
    let expected: Vec<_> = numbers(0, 4).into_iter().zip(expected).collect();
    assert_eq!((positions, poison), (expected, 1));
    assert_eq!(feed.tail().changes, 4);
}

#[tokio::test]
async fn a_chunk_of_small_changes_ends_at_a_block() {
    let mut channel = Channel::open().await;
    for number in 0..5 {
        let block = channel.block(number * 2_000..(number + 1) * 2_000);
        channel.append(block).await;
    }
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
    let mut follower = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    let mut keys = Vec::new();
    while let Some(chunk) = follower.next().await.unwrap() {
        let before = keys.len();
        for item in &chunk.items {
            let Item::Block(block) = item else { panic!("{item:?}") };
            keys.extend(block.changes().map(|found| found.change.key.to_owned()));
        }
        assert!(keys.len() - before < CHUNK_CHANGES + 2_000, "{} changes", keys.len() - before);
    }
    assert_eq!(keys, numbers(0, 10_000));
}

#[tokio::test]
async fn a_partition_that_is_not_the_channels_is_lost_by_name() {
    let channel = Channel::begun(LogId::new([9; 16])).await;
    let other = channel.source.first_checkpoint().await.unwrap_err();
    assert!(matches!(&other, ReaderError::LostTopic { why, .. } if why.contains("log id")), "{other}");
    let gone = PartitionSource { topic: "dit.gone.log".to_owned(), ..channel.source.clone() };
    let gone = gone.bounds().await.unwrap_err();
    assert!(matches!(gone, ReaderError::LostTopic { .. }), "{gone}");
}

#[tokio::test]
async fn a_feed_that_retention_has_passed_says_where_it_stood_and_goes_on_from_where_it_is_put() {
    let mut channel = Channel::open().await;
    channel.changes(0, 4).await;
    let (fold, next) = channel.source.first_checkpoint().await.unwrap();
    let feed = Feed::at(channel.source.clone(), fold, next, Counting::default());
    let end = channel.checkpoint_here().await;
    channel.log.expire(TOPIC, P0, end);
    let passed = tokio::time::timeout(Duration::from_secs(20), feed.run()).await.unwrap();
    assert_eq!(passed, next);
    let (fold, position) = channel.source.first_checkpoint().await.unwrap();
    feed.move_to(&fold, position);
    channel.changes(4, 6).await;
    let mut follower = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    assert_eq!(keys(&mut follower).await, [] as [&str; 0], "the feed has not read on yet");
    let reading = Arc::clone(&feed);
    channel.tasks.spawn(async move {
        let _passed = reading.run().await;
    });
    channel.read_all(&feed).await;
    assert_eq!(keys(&mut follower).await, numbers(4, 6));
}
