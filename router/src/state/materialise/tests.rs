//! The materialiser on a log in memory: the state is each key's last counted image, whichever router writes it and
//! whatever happens to the log.

use std::collections::BTreeMap;

use async_trait::async_trait;
use event_log::memory::MemoryLog;
use event_log::{Cleanup, Log, TopicSpec};
use platform::shutdown::Tasks;
use reading::codecs::{CodecError, Codecs};
use reading::located::LocatedBlock;
use schemas::block;
use schemas::change::ChangeCodec;
use schemas::channel::ChannelKind;
use schemas::epoch_table::{EpochTable, Opening};
use schemas::ids::{Epoch, LogId, Partition};
use schemas::record::Provenance;

use super::*;
use crate::fanout::FanOut;
use crate::fanout::observer::ChannelObserver;
use crate::fixtures::{self, Chain, Moved};
use crate::state::bootstrap::{Bootstrap, BootstrapError};

const TOPIC: &str = "dit.c.log";
const STATE: &str = "dit.c.state";
const P0: Partition = Partition::new(0);
const LOG: LogId = LogId::new([1; 16]);
const SCHEMA: SchemaId = SchemaId::new(3);
/// Bytes of a record's frame.
const FRAME: usize = 5;
const FIRST: Epoch = Epoch::new([7; 16]);
const SECOND: Epoch = Epoch::new([8; 16]);

struct OneSchema(Arc<ChangeCodec>);

#[async_trait]
impl Codecs for OneSchema {
    async fn codec(&self, _: SchemaId) -> Result<Arc<ChangeCodec>, CodecError> {
        Ok(Arc::clone(&self.0))
    }
}

/// One partition, its provider, and a router's feed of it.
struct Channel {
    log: Arc<MemoryLog>,
    feed: Arc<Feed>,
    chain: Chain,
    tasks: Tasks,
}

fn put<'a>(key: &'a str, from: Option<&'a str>, to: &'a str) -> Moved<'a> {
    Moved { key, from, to: Some(to) }
}

fn agent() -> schemas::ids::AgentId {
    "4000/a".parse().unwrap()
}

fn codec() -> Arc<ChangeCodec> {
    Arc::new(ChangeCodec::new(&fixtures::subject()).unwrap())
}

impl Channel {
    /// With a log that begins with its checkpoint, and the first epoch.
    async fn open() -> Self {
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
        let mut channel = Self { log, feed, chain: Chain::begin(FIRST), tasks };
        channel.begin(FIRST, None).await;
        channel
    }

    async fn append(&self, record: Record) -> Offset {
        self.log.append(TOPIC, P0, vec![record]).await.unwrap()
    }

    async fn begin(&mut self, epoch: Epoch, replaces: Option<Epoch>) {
        let opening = Opening { agent: agent(), epoch, replaces };
        self.append(marks::record(Kind::Opening, &opening.encode())).await;
        self.chain = Chain::begin(epoch);
    }

    /// The next event of the epoch.
    fn event(&mut self, change: Moved<'_>) -> Record {
        let datum = change.datum();
        let Chain { epoch, next: sequence, .. } = self.chain;
        self.chain.add(&datum);
        let provenance = Provenance { agent: agent(), epoch, sequence, count: 1, digest: self.chain.digest };
        let headers = [vec![Kind::Block.header()], provenance.headers().to_vec()].concat();
        let value = Some(framing::frame(SCHEMA, &block::of_one(&datum)));
        Record { key: None, value, headers }
    }

    async fn changed(&mut self, changes: &[Moved<'_>]) {
        for change in changes {
            let event = self.event(*change);
            self.append(event).await;
        }
    }

    /// A tenure of the partition's shard, as a router begins one: the previous holder is fenced.
    async fn tenure(&self) -> Arc<Tenure> {
        Arc::new(Tenure::new(self.log.open_writer("dit.state.0").await.unwrap()))
    }

    async fn stand(&self) -> Materialiser {
        let state = StateWatch::new(STATE, P0);
        Materialiser::stand(Arc::clone(&self.feed), self.tenure().await, state).await.unwrap()
    }

    /// Waits until the feed has read the whole log.
    async fn read_all(&self) {
        let end = self.log.bounds(TOPIC, P0).await.unwrap().next;
        let mut tail = self.feed.watch();
        let read = tail.wait_for(|tail| tail.next >= end);
        tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
    }

    /// Commits the whole log.
    async fn materialise(&self, materialiser: &mut Materialiser) {
        self.read_all().await;
        step(materialiser).await.unwrap();
    }

    /// The state from its topic, read record by record: each key's last value.
    async fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        for stored in self.records(STATE).await {
            let key = stored.record.key.clone().unwrap();
            let Ok(key) = String::from_utf8(key) else { continue };
            let Some(value) = stored.record.value.as_deref() else {
                state.remove(&key);
                continue;
            };
            let (_, datum) = framing::unframe(value).unwrap();
            let codec = codec();
            let image = codec.decode_only(datum).unwrap().after.unwrap();
            // A string comes after its length, one byte here.
            let value = image.get(usize::from(image[0] / 2) + 2..).unwrap();
            state.insert(key, String::from_utf8(value.to_vec()).unwrap());
        }
        state
    }

    async fn records(&self, topic: &str) -> Vec<event_log::Stored> {
        let bounds = self.log.bounds(topic, P0).await.unwrap();
        let read = self.log.read(topic, P0, bounds.first, 1 << 20, Duration::ZERO).await.unwrap();
        assert_eq!(read.next, bounds.next);
        read.records
    }

    /// How many records of a kind the log has.
    async fn count(&self, kind: Kind) -> usize {
        let records = self.records(TOPIC).await;
        records.iter().filter(|stored| stored.record.headers.contains(&kind.header())).count()
    }
}

/// Commits what there is.
async fn step(materialiser: &mut Materialiser) -> Result<(), StateError> {
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
async fn until(state: &StateWatch, end: Offset) {
    while state.progress().to < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn rows(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn the_state_is_each_keys_last_image() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    let gone = Moved { key: "b", from: Some("1"), to: None };
    channel.changed(&[put("a", None, "1"), put("b", None, "1"), put("a", Some("1"), "2"), gone]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.state().await, rows(&[("a", "2")]));
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    assert_eq!(materialiser.state.progress(), StateProgress { to: end, overtaken: None });
    assert_eq!(channel.count(Kind::Resync).await, 0);
}

#[tokio::test]
async fn a_commit_has_the_last_record_of_a_key_alone() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    let gone = Moved { key: "a", from: Some("2"), to: None };
    channel.changed(&[put("a", None, "1"), put("b", None, "1"), put("a", Some("1"), "2"), gone]).await;
    channel.changed(&[put("b", Some("1"), "2"), put("a", None, "3")]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.state().await, rows(&[("a", "3"), ("b", "2")]));
    let committed = channel.records(STATE).await;
    assert_eq!(committed.len(), 3, "two images and a checkpoint");
    let positions = committed.iter().filter_map(|stored| records::log_position(&stored.record));
    assert!(positions.is_sorted(), "in the log's order");
    assert_eq!(
        channel.count(Kind::Resync).await,
        0,
        "within a commit, too, each before image is the state's"
    );
    channel.changed(&[put("a", Some("3"), "4"), Moved { key: "b", from: Some("2"), to: None }]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.state().await, rows(&[("a", "4")]));
    assert_eq!(channel.count(Kind::Resync).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_for_more_but_not_longer_than_said() {
    let mut channel = Channel::open().await;
    let materialiser = channel.stand().await;
    let state = materialiser.state.clone();
    channel.read_all().await;
    let running = tokio::spawn(materialiser.run());
    let begun = tokio::time::Instant::now();
    channel.changed(&[put("a", None, "1")]).await;
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    until(&state, end).await;
    let took = begun.elapsed();
    assert!(took >= COMMIT_EVERY && took < COMMIT_EVERY * 2, "{took:?}");
    let many: Vec<String> = (0..BATCH_RECORDS).map(|number| number.to_string()).collect();
    let changes: Vec<Moved<'_>> = many.iter().map(|key| put(key, None, "1")).collect();
    channel.changed(&changes).await;
    let begun = tokio::time::Instant::now();
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    until(&state, end).await;
    assert!(begun.elapsed() < COMMIT_EVERY, "a full one does not wait");
    running.abort();
}

#[tokio::test]
async fn who_takes_over_goes_on_where_the_state_ends_and_writes_nothing_twice() {
    let mut channel = Channel::open().await;
    let mut first = channel.stand().await;
    channel.changed(&[put("a", None, "1"), put("b", None, "1")]).await;
    channel.materialise(&mut first).await;
    let before = channel.records(STATE).await.len();
    channel.changed(&[put("a", Some("1"), "2")]).await;
    let mut second = channel.stand().await;
    channel.materialise(&mut second).await;
    assert_eq!(channel.state().await, rows(&[("a", "2"), ("b", "1")]));
    let written = channel.records(STATE).await.len() - before;
    assert_eq!(written, 2, "one image and one checkpoint");
    assert_eq!(channel.count(Kind::Resync).await, 0, "it knows the images of the one before");
}

#[tokio::test]
async fn who_is_fenced_writes_nothing_more() {
    let mut channel = Channel::open().await;
    let mut old = channel.stand().await;
    let _new = channel.tenure().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.read_all().await;
    let ended = step(&mut old).await;
    assert!(matches!(ended, Err(StateError::Commit(CommitError::Fenced))), "{ended:?}");
    assert_eq!(channel.state().await, rows(&[]));
    assert_eq!(old.state.progress().to, Offset::new(0), "and it says nothing of it");
}

#[tokio::test]
async fn what_does_not_count_is_not_in_the_state() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    let first = channel.event(put("a", None, "1"));
    channel.append(first.clone()).await;
    channel.append(first).await;
    let lost = channel.event(put("b", None, "1"));
    channel.changed(&[put("c", None, "behind the gap")]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.state().await, rows(&[("a", "1")]), "once, and nothing behind the gap");
    drop(lost);
}

#[tokio::test]
async fn a_before_image_that_is_not_the_states_orders_one_resync() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut materialiser).await;
    channel.changed(&[put("a", Some("another"), "2")]).await;
    channel.materialise(&mut materialiser).await;
    channel.changed(&[put("a", Some("yet another"), "3")]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.count(Kind::Resync).await, 1, "the second comes too soon");
    assert_eq!(channel.state().await, rows(&[("a", "3")]), "the log's word is the state's");
}

#[tokio::test]
async fn images_without_their_checkpoint_are_none() {
    let mut channel = Channel::open().await;
    let mut first = channel.stand().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut first).await;
    // A commit of many batches broke off after its first: its images are there, without a checkpoint.
    let event = channel.event(put("a", Some("1"), "2"));
    let offset = channel.append(event.clone()).await;
    channel.read_all().await;
    let stored = event_log::Stored { offset, logged_at: schemas::time::Millis::new(1), record: event };
    let block = LocatedBlock::locate(stored, SCHEMA, codec(), FRAME).unwrap();
    let torn = records::image(&block.change(0).unwrap());
    channel.tenure().await.commit(STATE, P0, vec![torn]).await.unwrap();
    let mut second = channel.stand().await;
    channel.materialise(&mut second).await;
    assert_eq!(channel.count(Kind::Resync).await, 0, "the image before is still that of the checkpoint");
    assert_eq!(channel.state().await, rows(&[("a", "2")]));
}

#[tokio::test]
async fn a_state_that_retention_has_passed_says_so_until_its_provider_has_begun_anew() {
    let mut channel = Channel::open().await;
    let mut first = channel.stand().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut first).await;
    channel.changed(&[put("a", Some("1"), "2"), put("b", None, "1")]).await;
    channel.read_all().await;
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    channel.log.expire(TOPIC, P0, end);
    let mut second = channel.stand().await;
    assert_eq!(second.state.progress(), StateProgress { to: end, overtaken: Some(end) });
    let found = StateWatch::new(STATE, P0).look(channel.log.as_ref()).await.unwrap().unwrap();
    assert_eq!(found.overtaken, Some(end), "every router learns of it");
    channel.changed(&[put("b", Some("1"), "2")]).await;
    channel.materialise(&mut second).await;
    assert_eq!(channel.count(Kind::Resync).await, 0, "that it differs is known");
    assert!(second.state.progress().overtaken.is_some(), "nobody has made it whole");
    channel.begin(SECOND, Some(FIRST)).await;
    channel.changed(&[put("a", None, "2")]).await;
    channel.materialise(&mut second).await;
    assert_eq!(second.state.progress().overtaken, None);
    assert!(channel.tasks.stop_and_join(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_snapshot_whose_end_the_log_has_lost_is_begun_anew_and_waits_for_no_provider() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut materialiser).await;
    let place = Bootstrap::begin(Arc::clone(&channel.feed), STATE.to_owned()).await.unwrap().place();
    let resumed = Bootstrap::resume(Arc::clone(&channel.feed), STATE.to_owned(), place).await.unwrap();
    assert_eq!(resumed.place(), place);
    channel.changed(&[put("a", Some("1"), "2")]).await;
    channel.materialise(&mut materialiser).await;
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    channel.log.expire(TOPIC, P0, end);
    let resumed = Bootstrap::resume(Arc::clone(&channel.feed), STATE.to_owned(), place).await;
    assert!(matches!(resumed, Err(BootstrapError::Overtaken)), "the state itself is whole");
    let anew = Bootstrap::begin(Arc::clone(&channel.feed), STATE.to_owned()).await.unwrap();
    assert!(anew.place().end > place.end);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_written_when_enough_was_appended_and_when_it_is_late() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    let at_first = channel.count(Kind::Checkpoint).await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first, "it is early, and little has come");
    tokio::time::advance(CHECKPOINT_EVERY).await;
    materialiser.checkpoint_when_due().await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first + 1);
    tokio::time::advance(CHECKPOINT_EVERY).await;
    materialiser.checkpoint_when_due().await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first + 1, "nothing has come since");
    tokio::time::advance(CHECKPOINT_WHEN_IDLE).await;
    materialiser.checkpoint_when_due().await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first + 2, "retention must leave one");
    materialiser.since_checkpoint = CHECKPOINT_EVERY_CHANGES;
    materialiser.checkpoint_when_due().await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first + 3);
}
