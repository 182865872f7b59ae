//! A channel of one partition on a log in memory, its provider, and a router's feed of it.
//!
//! Owns its own reading of the state topic, for tests that judge the real one. It is compiled for tests alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use event_log::memory::MemoryLog;
use event_log::{Cleanup, Log, TopicSpec};
use platform::shutdown::Tasks;
use reading::codecs::{CodecError, Codecs};
use reading::source::PartitionSource;
use schemas::block;
use schemas::change::ChangeCodec;
use schemas::channel::ChannelKind;
use schemas::epoch_table::{EpochTable, Opening};
use schemas::framing;
use schemas::ids::{Epoch, LogId, Offset, Partition, SchemaId};
use schemas::marks::{self, Checkpoint};
use schemas::record::{Kind, Provenance, Record};

use super::bootstrap::{Bootstrap, PresentImages};
use super::group::Group;
use super::materialise::{Materialiser, StateError};
use super::tenure::{StateWatch, Tenure};
use crate::fanout::FanOut;
use crate::fanout::observer::{ChannelObserver, Feed};
use crate::fixtures::{self, Chain, Moved};

pub(super) const TOPIC: &str = "dit.c.log";
pub(super) const STATE: &str = "dit.c.state";
pub(super) const P0: Partition = Partition::new(0);
const LOG: LogId = LogId::new([1; 16]);
pub(super) const SCHEMA: SchemaId = SchemaId::new(3);
/// Bytes of a record's frame.
pub(super) const FRAME: usize = 5;
pub(super) const FIRST: Epoch = Epoch::new([7; 16]);
pub(super) const SECOND: Epoch = Epoch::new([8; 16]);

struct OneSchema(Arc<ChangeCodec>);

#[async_trait]
impl Codecs for OneSchema {
    async fn codec(&self, _: SchemaId) -> Result<Arc<ChangeCodec>, CodecError> {
        Ok(Arc::clone(&self.0))
    }
}

/// One partition, its provider, and a router's feed of it.
pub(super) struct Channel {
    pub(super) log: Arc<MemoryLog>,
    pub(super) feed: Arc<Feed>,
    /// What the router knows of its state.
    pub(super) state: StateWatch,
    chain: Chain,
    pub(super) tasks: Tasks,
}

pub(super) fn put<'a>(key: &'a str, from: Option<&'a str>, to: &'a str) -> Moved<'a> {
    Moved { key, from, to: Some(to) }
}

pub(super) fn agent() -> schemas::ids::AgentId {
    "4000/a".parse().unwrap()
}

pub(super) fn codec() -> Arc<ChangeCodec> {
    Arc::new(ChangeCodec::new(&fixtures::subject()).unwrap())
}

impl Channel {
    /// With a log that begins with its checkpoint, and the first epoch.
    pub(super) async fn open() -> Self {
        let log = Arc::new(MemoryLog::default());
        for name in [TOPIC, STATE] {
            let spec = TopicSpec { name: name.to_owned(), partitions: 1, cleanup: Cleanup::KeepAll };
            log.ensure_topic(&spec).await.unwrap();
        }
        let begin =
            Checkpoint { log_id: LOG, as_of: Offset::new(0), freshness: None, table: EpochTable::default() };
        log.append(TOPIC, P0, vec![marks::record(Kind::Checkpoint, &begin.encode())]).await.unwrap();
        let source = PartitionSource {
            log: Arc::clone(&log) as Arc<dyn Log>,
            codecs: Arc::new(OneSchema(codec())),
            topic: TOPIC.to_owned(),
            partition: P0,
            kind: ChannelKind::Distribution,
            log_id: LOG,
        };
        let (fold, next) = source.first_checkpoint().await.unwrap();
        let meter = fixtures::metrics().reader(&"c".parse().unwrap());
        let feed = Feed::at(source, fold, next, ChannelObserver::new(Arc::new(FanOut::default()), meter));
        let tasks = Tasks::new();
        let reading = Arc::clone(&feed);
        let stopping = tasks.stopping();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                _ = reading.run() => {}
            }
        });
        let mut channel =
            Self { log, feed, state: StateWatch::new(STATE, P0), chain: Chain::begin(FIRST), tasks };
        channel.begin(FIRST, None).await;
        channel
    }

    pub(super) async fn append(&self, record: Record) -> Offset {
        self.log.append(TOPIC, P0, vec![record]).await.unwrap()
    }

    pub(super) async fn begin(&mut self, epoch: Epoch, replaces: Option<Epoch>) {
        let opening = Opening { agent: agent(), epoch, replaces };
        self.append(marks::record(Kind::Opening, &opening.encode())).await;
        self.chain = Chain::begin(epoch);
    }

    /// The next event of the epoch.
    pub(super) fn event(&mut self, change: Moved<'_>) -> Record {
        let datum = change.datum();
        let Chain { epoch, next: sequence, .. } = self.chain;
        self.chain.add(&datum);
        let provenance = Provenance { agent: agent(), epoch, sequence, count: 1, digest: self.chain.digest };
        let headers = [vec![Kind::Block.header()], provenance.headers().to_vec()].concat();
        let value = Some(framing::frame(SCHEMA, &block::of_one(&datum)));
        Record { key: None, value, headers }
    }

    pub(super) async fn changed(&mut self, changes: &[Moved<'_>]) {
        for change in changes {
            let event = self.event(*change);
            self.append(event).await;
        }
    }

    /// A tenure of the partition's shard, as a router begins one: the previous holder is fenced.
    pub(super) async fn tenure(&self) -> Arc<Tenure> {
        Arc::new(Tenure::new(self.log.open_writer("dit.state.0").await.unwrap()))
    }

    pub(super) async fn stand(&self) -> Materialiser {
        let state = self.state.clone();
        Materialiser::stand(Arc::clone(&self.feed), self.tenure().await, state).await.unwrap()
    }

    /// Waits until the feed has read the whole log.
    pub(super) async fn read_all(&self) {
        let end = self.log.bounds(TOPIC, P0).await.unwrap().next;
        let mut tail = self.feed.watch();
        let read = tail.wait_for(|tail| tail.next >= end);
        tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
    }

    /// Commits the whole log.
    pub(super) async fn materialise(&self, materialiser: &mut Materialiser) {
        self.read_all().await;
        step(materialiser).await.unwrap();
    }

    /// The blocks of the state's topic that its last checkpoint needs: each entry's key, and its town or that it is gone.
    pub(super) async fn blocks(&self) -> Vec<Vec<(String, Option<String>)>> {
        let records = self.records(STATE).await;
        let first = |stored: &event_log::Stored| stored.record.header_text("dit_first")?.parse().ok();
        let Some(end) = records.iter().rposition(|stored| first(stored).is_some()) else { return Vec::new() };
        let first = Offset::new(first(&records[end]).unwrap());
        let needed = records[..end].iter().filter(|stored| stored.offset >= first);
        let blocks = needed.filter(|stored| stored.record.header_text("dit_kind") == Some("images"));
        blocks
            .map(|stored| {
                let (_, datum) = framing::unframe(stored.record.value.as_deref().unwrap()).unwrap();
                let entry = |found: schemas::change::BlockChange<'_>| {
                    // A string comes after its length, one byte here.
                    let town = |image: &[u8]| image.get(usize::from(image[0] / 2) + 2..).unwrap().to_vec();
                    let town = found.change.after.map(|image| String::from_utf8(town(image)).unwrap());
                    (found.change.key.to_owned(), town)
                };
                codec().decode_block(datum).unwrap().into_iter().map(entry).collect()
            })
            .collect()
    }

    /// The state: each key's last entry.
    pub(super) async fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        for (key, town) in self.blocks().await.into_iter().flatten() {
            match town {
                Some(town) => state.insert(key, town),
                None => state.remove(&key),
            };
        }
        state
    }

    /// What a snapshot gives from where it stands, and each key once.
    pub(super) async fn given(mut snapshot: Bootstrap) -> BTreeMap<String, String> {
        let mut rows = BTreeMap::new();
        while let Some(blocks) = snapshot.next().await.unwrap() {
            for present in blocks.iter().flat_map(PresentImages::iter) {
                let town = present.image.bytes().get(present.key.len() + 2..).unwrap().to_vec();
                let before = rows.insert(present.key.to_owned(), String::from_utf8(town).unwrap());
                assert_eq!(before, None, "{} is given twice", present.key);
            }
        }
        rows
    }

    pub(super) async fn records(&self, topic: &str) -> Vec<event_log::Stored> {
        let bounds = self.log.bounds(topic, P0).await.unwrap();
        let read = self.log.read(topic, P0, bounds.first, 1 << 20, Duration::ZERO).await.unwrap();
        assert_eq!(read.next, bounds.next);
        read.records
    }

    pub(super) async fn snapshot(&self) -> Bootstrap {
        Bootstrap::begin(Arc::clone(&self.feed), &self.state).await.unwrap()
    }

    /// How many records of a kind the log has.
    pub(super) async fn count(&self, kind: Kind) -> usize {
        let records = self.records(TOPIC).await;
        records.iter().filter(|stored| stored.record.headers.contains(&kind.header())).count()
    }
}

/// Commits what there is.
pub(super) async fn step(materialiser: &mut Materialiser) -> Result<(), StateError> {
    loop {
        let mut group = Group::default();
        materialiser.gather(&mut group).await?;
        if group.begun.is_none() {
            return Ok(());
        }
        materialiser.write(group).await?;
    }
}

/// Waits until the state is committed up to an offset. Time is simulated: it moves on when all tasks wait.
pub(super) async fn until(state: &StateWatch, end: Offset) {
    while state.progress().to < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) fn rows(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
