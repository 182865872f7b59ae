//! What may happen to a provider's batches on their way in, on each log, with two routers: each change counts once,
//! in order, or not at all.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::sync::Arc;
use std::time::Duration;

use event_log::Log;
use event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use event_log::memory::MemoryLog;
use schemas::change::Op;
use schemas::ids::{Epoch, Partition};
use support::network::{Network, agreement, row};
use support::publisher::{Publisher, datum};

/// Runs each scene on each log.
macro_rules! scenes {
    ($($scene:ident),* $(,)?) => {
        scenes!(@on memory, $($scene),*);
        scenes!(@on embedded, $($scene),*);
        #[cfg(feature = "kafka")]
        scenes!(@on kafka_of_one_node, $($scene),*);
        #[cfg(feature = "kafka")]
        scenes!(@on kafka_of_three_nodes, $($scene),*);
    };
    (@on $log:ident, $($scene:ident),*) => {
        mod $log {
            $(#[tokio::test(flavor = "multi_thread")] async fn $scene() { super::$scene(super::Pair::on(super::$log()).await).await; })*
        }
    };
}

scenes!(
    a_zombie_writer,
    a_batch_with_a_hole,
    a_repeat_through_another_router,
    a_pipelined_agent_that_changes_routers,
    batches_under_way_that_arrive_in_another_order,
    a_batch_behind_one_that_is_refused,
    a_restored_folder,
    blocks_that_overlap,
    a_fenced_materialiser,
);

type TestLog = (Arc<dyn Log>, Option<tempfile::TempDir>);

fn memory() -> TestLog {
    (Arc::new(MemoryLog::default()), None)
}

fn embedded() -> TestLog {
    let dir = tempfile::tempdir().unwrap();
    (Arc::new(EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).unwrap()), Some(dir))
}

#[cfg(feature = "kafka")]
fn kafka_of_one_node() -> TestLog {
    kafka(1)
}

#[cfg(feature = "kafka")]
fn kafka_of_three_nodes() -> TestLog {
    kafka(3)
}

#[cfg(feature = "kafka")]
fn kafka(nodes: u16) -> TestLog {
    use event_log::kafka::KafkaLog;
    use event_log::kafka_options::KafkaOptions;
    let brokers = parts::kafka::Kafka::shared(nodes.into()).unwrap();
    let prefix = format!("t{}.", hex::encode(platform::random::id().unwrap()));
    let options = KafkaOptions { brokers, prefix, replication: nodes, security: None };
    (Arc::new(KafkaLog::connect(&options).unwrap()), None)
}

const FIRST: Epoch = Epoch::new([1; 16]);
const SECOND: Epoch = Epoch::new([2; 16]);
/// A batch waits five seconds for the one before it, if that may still come.
const BEFORE_ITS_TIME: Duration = Duration::from_secs(4);

/// Two routers on one log, and the provider's agent through each.
struct Pair {
    log: Arc<dyn Log>,
    one: Network,
    two: Network,
    _dir: Option<tempfile::TempDir>,
}

impl Pair {
    async fn on((log, dir): TestLog) -> Self {
        let rows = agreement(1, "t == \"R\"");
        let one = Network::start_beside("r1", Arc::clone(&log), rows.clone()).await.unwrap();
        let two = Network::start_beside("r2", Arc::clone(&log), rows).await.unwrap();
        Self { log, one, two, _dir: dir }
    }

    /// The provider's agent in an epoch, through the first router and the second.
    fn agent(&self, epoch: Epoch) -> [Publisher; 2] {
        let first = Publisher::new(self.one.client("4000/main").unwrap(), epoch);
        let second = first.through(self.two.client("4000/main").unwrap());
        [first, second]
    }

    /// The end of the log's partition.
    async fn held(&self) -> u64 {
        self.log.bounds("dit.register.log", Partition::new(0)).await.unwrap().next.get()
    }

    /// The deliveries of both routers, of everything that counted.
    async fn delivered(&self, last: &str) -> Vec<String> {
        let mut all = Vec::new();
        for network in [&self.one, &self.two] {
            let mut stream = network.stream("9000/main", "earliest").await.unwrap();
            stream.until(|word| word == last).await.unwrap();
            all.push(stream.rows().into_iter().map(str::to_owned).collect::<Vec<_>>());
        }
        assert_eq!(all[0], all[1], "two routers read one log in one way");
        all.swap_remove(0)
    }
}

fn create(key: &str) -> Vec<u8> {
    datum(Op::Create, key, None, Some(&row(key, "R")))
}

fn created(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| format!("upsert {key} Change")).collect()
}

async fn a_zombie_writer(pair: Pair) {
    let [mut old, _] = pair.agent(FIRST);
    old.open(None).await.unwrap();
    old.publish(&[create("a")]).await.unwrap();
    let [_, mut new] = pair.agent(SECOND);
    new.open(Some(FIRST)).await.unwrap();
    // The old agent does not know that it was replaced, and sends on through its own router.
    let told = old.send(old.body(&[create("zombie")]).unwrap()).await.unwrap().counted.unwrap();
    assert_eq!(told.epoch, SECOND, "the table's word says whose turn it is");
    new.publish(&[create("b")]).await.unwrap();
    assert_eq!(pair.delivered("upsert b Change").await, created(&["a", "b"]));
}

async fn a_batch_with_a_hole(pair: Pair) {
    let [mut agent, _] = pair.agent(FIRST);
    agent.open(None).await.unwrap();
    agent.publish(&[create("a")]).await.unwrap();
    let beyond = agent.after(&[create("b")]);
    let told = beyond.send(beyond.body(&[create("c")]).unwrap()).await.unwrap().counted.unwrap();
    assert_eq!(told.next, agent.next, "what comes behind a hole does not count");
    agent.publish(&[create("b"), create("c")]).await.unwrap();
    assert_eq!(pair.delivered("upsert c Change").await, created(&["a", "b", "c"]));
}

async fn a_repeat_through_another_router(pair: Pair) {
    let [mut first, second] = pair.agent(FIRST);
    first.open(None).await.unwrap();
    let body = first.body(&[create("a"), create("b")]).unwrap();
    let told = first.send(body.clone()).await.unwrap().counted.unwrap();
    // The answer was lost: the batch is sent again, through the other router, twice.
    for _ in 0..2 {
        assert_eq!(second.send(body.clone()).await.unwrap().counted.unwrap(), told);
    }
    (first.next, first.digest) = (told.next, told.digest);
    first.publish(&[create("c")]).await.unwrap();
    assert_eq!(pair.delivered("upsert c Change").await, created(&["a", "b", "c"]));
}

async fn a_pipelined_agent_that_changes_routers(pair: Pair) {
    let [one, two] = pair.agent(FIRST);
    one.open(None).await.unwrap();
    let a = vec![create("a")];
    let b = vec![create("b")];
    let behind = two.after(&[create("a")]);
    // Both batches were under way; the second took another router and came first.
    let early = behind.send(behind.body(&b).unwrap()).await.unwrap().counted.unwrap();
    assert_eq!(early.next, one.next);
    one.send(one.body(&a).unwrap()).await.unwrap();
    let told = behind.send(behind.body(&b).unwrap()).await.unwrap().counted.unwrap();
    // A late repeat of the first batch, through the router that has passed it.
    let again = two.send(two.body(&a).unwrap()).await.unwrap().counted.unwrap();
    assert_eq!(told, again);
    let mut after = behind.after(&[create("b")]);
    assert_eq!((told.next, told.digest), (after.next, after.digest), "agent and router agree on the digest");
    after.publish(&[create("c")]).await.unwrap();
    assert_eq!(pair.delivered("upsert c Change").await, created(&["a", "b", "c"]));
}

async fn batches_under_way_that_arrive_in_another_order(pair: Pair) {
    let [mut agent, _] = pair.agent(FIRST);
    agent.open(None).await.unwrap();
    let keys = ["a", "b", "c", "d"];
    let mut under_way = Vec::new();
    for key in keys {
        let changes = [create(key)];
        under_way.push((agent.clone(), agent.body(&changes).unwrap()));
        agent = agent.after(&changes);
    }
    let held = pair.held().await;
    let answers = under_way.iter().rev().map(|(agent, body)| async {
        let told = agent.send(body.clone()).await.unwrap().counted.unwrap();
        assert!(told.next >= agent.next.next(), "none is answered before it counts");
    });
    futures_util::future::join_all(answers).await;
    assert_eq!(pair.held().await, held + 4, "each was appended once, and none in vain");
    agent.publish(&[create("e")]).await.unwrap();
    assert_eq!(pair.delivered("upsert e Change").await, created(&["a", "b", "c", "d", "e"]));
}

async fn a_batch_behind_one_that_is_refused(pair: Pair) {
    let [mut agent, _] = pair.agent(FIRST);
    agent.open(None).await.unwrap();
    let no_change = vec![vec![9, 9, 9]];
    let behind = agent.after(&no_change);
    let refused = async {
        // Again and again, since it may come before the other one waits.
        loop {
            let body = agent.body(&no_change).unwrap();
            agent.send(body).await.unwrap_err();
        }
    };
    let waiting = behind.send(behind.body(&[create("b")]).unwrap());
    let told = tokio::select! {
        told = tokio::time::timeout(BEFORE_ITS_TIME, waiting) => told.unwrap(),
        () = refused => unreachable!("it has no end"),
    };
    assert_eq!(told.unwrap().counted.unwrap().next, agent.next, "it waits no longer for what was refused");
    agent.publish(&[create("c")]).await.unwrap();
    assert_eq!(pair.delivered("upsert c Change").await, created(&["c"]));
}

async fn a_restored_folder(pair: Pair) {
    let [mut agent, _] = pair.agent(FIRST);
    agent.open(None).await.unwrap();
    agent.publish(&[create("a")]).await.unwrap();
    let backup = agent.through(pair.two.client("4000/main").unwrap());
    agent.publish(&[create("b"), create("c")]).await.unwrap();
    // From the backup the agent makes other events with sequences that were used already.
    for count in 1..4 {
        let other: Vec<_> = (0..count).map(|number| create(&format!("restored{number}"))).collect();
        let told = backup.send(backup.body(&other).unwrap()).await.unwrap().counted.unwrap();
        assert_eq!(
            (told.next, told.digest),
            (agent.next, agent.digest),
            "it sees a digest that it does not know"
        );
    }
    agent.publish(&[create("d")]).await.unwrap();
    assert_eq!(pair.delivered("upsert d Change").await, created(&["a", "b", "c", "d"]));
}

async fn blocks_that_overlap(pair: Pair) {
    let [mut agent, _] = pair.agent(FIRST);
    agent.open(None).await.unwrap();
    agent.publish(&[create("a")]).await.unwrap();
    let restored = agent.through(pair.two.client("4000/main").unwrap());
    let block = agent.body_of_block(&[create("b"), create("c")]).unwrap();
    let told = agent.send(block.clone()).await.unwrap().counted.unwrap();
    assert_eq!(told.next, agent.next.after(2), "each change of a block has a sequence");
    // Events that are cut anew, with more behind them: nothing of the second block counts, not even what is new.
    let longer = restored.body_of_block(&[create("b"), create("c"), create("d")]).unwrap();
    let shorter = restored.body_of_block(&[create("b")]).unwrap();
    for other in [longer, shorter, block] {
        let seen = restored.send(other).await.unwrap().counted.unwrap();
        assert_eq!((seen.next, seen.digest), (told.next, told.digest));
    }
    (agent.next, agent.digest) = (told.next, told.digest);
    agent.publish(&[create("e")]).await.unwrap();
    assert_eq!(pair.delivered("upsert e Change").await, created(&["a", "b", "c", "e"]));
}

async fn a_fenced_materialiser(pair: Pair) {
    let [mut agent, mut other] = pair.agent(FIRST);
    agent.open(None).await.unwrap();
    let mut before = row("k", "R");
    agent.publish(&[create("k")]).await.unwrap();
    pair.two.materialised().await.unwrap();
    for round in 0..4 {
        // Another holder takes over every shard and disappears; the holder finds out at its next commit.
        for shard in 0..8 {
            drop(pair.log.open_writer(&format!("dit.state.{shard}")).await.unwrap());
        }
        let after = row("k", if round % 2 == 0 { "J" } else { "R" });
        (other.next, other.digest) = (agent.next, agent.digest);
        let changes = [datum(Op::Update, "k", Some(&before), Some(&after)), create(&format!("new{round}"))];
        other.publish(&changes).await.unwrap();
        (agent.next, agent.digest) = (other.next, other.digest);
        before = after;
        pair.two.materialised().await.unwrap();
    }
    for network in [&pair.one, &pair.two] {
        let mut stream = network.stream("9000/main", "state").await.unwrap();
        stream.until(|word| word == "end").await.unwrap();
        let mut rows = stream.rows();
        rows.sort_unstable();
        let expected = ["k", "new0", "new1", "new2", "new3"].map(|key| format!("upsert {key} State"));
        assert_eq!(rows, expected, "each key once, as it is now");
    }
}
