//! A provider agent's sender before a router in this process: the outbox's events count once, whatever the log does,
//! and where the log knows otherwise there is doubt.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by failing")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use event_log::Log;
use event_log::memory::{Faults, MemoryLog};
use platform::segments::memory_disk::MemoryDisk;
use producer_agent::agent::{Agent, Opening};
use producer_agent::image::memory::MemoryImages;
use producer_agent::outbox::lock;
use producer_agent::send::machine::{Doubt, SendMachine};
use producer_agent::send::sender::{SendError, Sender};
use producer_agent::source::http::RequestSource;
use producer_agent::source::http::items::{Item, Operation};
use schemas::avro::binary::Cursor as Datums;
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::channel::Channel;
use schemas::ids::{AgentId, Epoch, LogId, Offset, Partition};
use serde_json::json;
use support::counting::{Counter, Counts};
use support::network::Network;
use support::publisher::{Publisher, SCHEMA};

const P0: Partition = Partition::new(0);
/// Enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A provider's agent on a disk of its own, and the router's log.
struct Provider {
    network: Network,
    log: Arc<MemoryLog>,
    disk: MemoryDisk,
    agent: Agent,
}

fn me() -> AgentId {
    "4000/main".parse().unwrap()
}

fn channel() -> Channel {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let channel = json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 1,
        "key": {"fields": ["k"]}, "schema": schema});
    serde_json::from_value(channel).unwrap()
}

/// The agent of a disk; its images are made again from its outbox.
fn agent(disk: &MemoryDisk) -> Agent {
    let opening = Opening {
        dir: PathBuf::from("/agent"),
        disk: Arc::new(disk.clone()),
        images: Box::new(MemoryImages::default()),
        channel: channel(),
        log_id: LogId::new([7; 16]),
        schema: AvroSchema::parse(SCHEMA).unwrap(),
    };
    Agent::open(opening).unwrap()
}

impl Provider {
    async fn begin(faults: Faults) -> Self {
        let log = Arc::new(MemoryLog::default());
        let network = Network::start_on(Arc::clone(&log) as Arc<dyn Log>).await.unwrap();
        log.misbehave(faults);
        let disk = MemoryDisk::new();
        let agent = agent(&disk);
        Self { network, log, disk, agent }
    }

    fn sender(&self, agent: &Agent) -> Sender {
        let outbox = agent.outbox();
        let machine = SendMachine::new(me(), lock(&outbox).epoch(), 1);
        let client = self.network.client("4000/main").unwrap();
        Sender::new(client, "register".parse().unwrap(), outbox, machine, agent.folded())
    }

    /// Sends until the whole outbox is acknowledged.
    async fn drain(&self, sender: &mut Sender) -> Result<(), SendError> {
        let end = lock(&self.agent.outbox()).next_position();
        let mut sent = sender.sent();
        let acknowledged = sent.wait_for(|sent| sent.acknowledged >= end);
        let drained = tokio::time::timeout(PATIENCE, async {
            tokio::select! {
                ended = sender.run(self.agent.appended()) => ended,
                _ = acknowledged => Ok(()),
            }
        });
        drained.await.unwrap()
    }

    /// Rows by key from the log's counted events, in its order, by the tests' own counting; and how many events.
    async fn counted(&self) -> (BTreeMap<String, String>, usize) {
        let bounds = self.log.bounds("dit.register.log", P0).await.unwrap();
        let mut counter = Counter::default();
        let codec = ChangeCodec::new(&AvroSchema::parse(SCHEMA).unwrap()).unwrap();
        let mut rows = BTreeMap::new();
        let mut events = 0;
        let mut next = Offset::new(0);
        while next < bounds.next {
            let read = self.log.read("dit.register.log", P0, next, 1 << 20, Duration::ZERO).await.unwrap();
            assert!(read.next > next);
            next = read.next;
            for stored in &read.records {
                let Some(Counts::Changes { count, datums }) = counter.pass(&stored.record) else { continue };
                let mut datums = Datums::new(datums);
                for _ in 0..count {
                    let change = codec.decode(&mut datums).unwrap();
                    events += 1;
                    rows.insert(change.key.to_owned(), format!("{:?}", change.after));
                }
                datums.end().unwrap();
            }
        }
        (rows, events)
    }
}

fn put(agent: &Agent, keys: std::ops::Range<u32>, territory: &str) {
    let items = keys.map(|key| {
        let row = json!({"k": key.to_string(), "t": territory, "secret": "s"});
        Ok(Item::made(Operation::Put, row.as_object().unwrap()))
    });
    agent.take_singles(&RequestSource::new(items.collect()), || Ok(())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_outbox_counts_once_and_in_order() {
    let provider = Provider::begin(Faults::default()).await;
    put(&provider.agent, 0..3_000, "R");
    put(&provider.agent, 1_000..2_000, "J");
    let mut sender = provider.sender(&provider.agent);
    provider.drain(&mut sender).await.unwrap();
    let (rows, events) = provider.counted().await;
    assert_eq!((rows.len(), events), (3_000, 4_000));
    let sent = *sender.sent().borrow();
    assert!(sent.is_connected && sent.settled == 4_000 && sent.failures == 0, "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_know_what_it_took_is_sent_to_until_it_counts() {
    for seed in 1..4 {
        let provider = Provider::begin(Faults { seed, unknown: 150, cut: 150 }).await;
        let mut sender = provider.sender(&provider.agent);
        for round in 0..20 {
            put(&provider.agent, round * 50..round * 50 + 80, &format!("R{round}"));
            provider.drain(&mut sender).await.unwrap();
        }
        let (rows, events) = provider.counted().await;
        assert_eq!((rows.len(), events), (1_030, 20 * 80), "seed {seed}");
        let unknown = provider.log.unknown_appends();
        assert!(unknown >= 3, "seed {seed}: the log misbehaved {unknown} times: nothing was tried");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_of_another_agent_ends_the_sender() {
    let provider = Provider::begin(Faults::default()).await;
    put(&provider.agent, 0..10, "R");
    let mut sender = provider.sender(&provider.agent);
    provider.drain(&mut sender).await.unwrap();
    let other = Publisher::new(provider.network.client("4000/other").unwrap(), Epoch::new([3; 16]));
    let epoch = lock(&provider.agent.outbox()).epoch();
    other.open(Some(epoch)).await.unwrap();
    put(&provider.agent, 10..20, "R");
    let ended = provider.drain(&mut sender).await;
    let Err(SendError::Doubt(Doubt::Voided { agent, .. })) = ended else { panic!("{ended:?}") };
    assert_eq!(agent.to_string(), "4000/other");
    assert_eq!(provider.counted().await.1, 10, "nothing of the replaced epoch counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_from_a_backup_is_known_by_what_the_log_has() {
    let provider = Provider::begin(Faults::default()).await;
    put(&provider.agent, 0..10, "R");
    let backup = provider.disk.copy();
    put(&provider.agent, 10..20, "R");
    let mut sender = provider.sender(&provider.agent);
    provider.drain(&mut sender).await.unwrap();
    let restored = agent(&backup);
    put(&restored, 10..15, "J");
    let opened = provider.sender(&restored).open().await;
    assert!(matches!(opened, Err(SendError::Doubt(Doubt::RestoredFolder { .. }))), "{opened:?}");
    assert_eq!(provider.counted().await.1, 20, "and nothing was sent from it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_away_is_tried_again_and_told_of() {
    let provider = Provider::begin(Faults::default()).await;
    put(&provider.agent, 0..10, "R");
    let mut sender = provider.sender(&provider.agent);
    let mut sent = sender.sent();
    let Provider { network, agent, .. } = provider;
    assert!(network.router.stop(PATIENCE).await);
    let failed = sent.wait_for(|sent| sent.failures >= 2);
    let ended = tokio::time::timeout(PATIENCE, async {
        tokio::select! {
            ended = sender.run(agent.appended()) => Some(ended),
            failed = failed => { assert!(!failed.unwrap().is_connected); None },
        }
    });
    assert!(ended.await.unwrap().is_none(), "an absent router ends nothing");
    assert_eq!(lock(&agent.outbox()).first_position(), 0, "what is not acknowledged stays");
}
