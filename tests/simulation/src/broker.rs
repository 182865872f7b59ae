//! The log as each router reaches it: over a line that is slow, is cut, loses answers and delivers late.
//!
//! Owns the misbehaviour of appends and commits; reports records to the oracle in the moment that they are in the log.
//! An append belongs to the broker once it was sent: it is made even if its router dies.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use event_log::memory::MemoryLog;
use event_log::{
    AppendError, Batch, Bounds, CommitError, Committed, FencedWriter, Log, ReadError, TopicError, TopicSpec,
};
use platform::host::Host as _;
use platform::simulation::node::Node;
use platform::simulation::random::Random;
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use schemas::time::Millis;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use crate::fault::{Fault, Sky};
use crate::oracle::Oracle;
use crate::plan::Late;

/// A client without an answer for so long calls the outcome unknown.
const OUTCOME_LIMIT: Duration = Duration::from_secs(10);
/// Readers fall behind in weather with delays as long as this, in milliseconds.
const SLOW: u64 = 1_000;
/// The most bytes of one read then.
const LITTLE: usize = 300;
/// The longest that a router's reads are late while it is not heard, in milliseconds: it lags by more than its lease.
const LATE: u64 = 4_000;
/// The topics of control and leases.
const CONTROL: [&str; 2] = ["dit.control", "dit.leases"];
/// How long a client tries to reach the log.
const REACH_LIMIT: Duration = Duration::from_secs(1);

/// The log and the lines to it.
pub struct Broker {
    pub log: MemoryLog,
    node: Node,
    lines: Vec<watch::Sender<bool>>,
    /// While a router's appends do not arrive: which of its reads are late.
    unheard: Vec<watch::Sender<Option<Late>>>,
    /// One queue for each router: its appends arrive in order.
    rows: Vec<tokio::sync::Mutex<()>>,
    sky: Arc<Sky>,
    oracle: Arc<Oracle>,
    random: Mutex<Random>,
}

impl Broker {
    /// An empty log with a line to each of so many routers.
    pub fn new(node: Node, routers: usize, sky: Arc<Sky>, oracle: Arc<Oracle>, seed: u64) -> Self {
        let lines = (0..routers).map(|_| watch::Sender::new(true)).collect();
        let unheard = (0..routers).map(|_| watch::Sender::default()).collect();
        let rows = (0..routers).map(|_| tokio::sync::Mutex::default()).collect();
        let random = Mutex::new(Random::new(seed));
        Self { log: MemoryLog::default(), node, lines, unheard, rows, sky, oracle, random }
    }

    /// Cuts or repairs a router's line.
    pub fn set_line(&self, router: usize, is_up: bool) {
        if let Some(line) = self.lines.get(router) {
            line.send_replace(is_up);
        }
    }

    /// A router's appends do not arrive, and these reads of it are late; or all is well again.
    pub fn set_unheard(&self, router: usize, late: Option<Late>) {
        if let Some(unheard) = self.unheard.get(router) {
            unheard.send_replace(late);
        }
    }

    /// Whether a router's reads of a topic are late.
    fn is_late(&self, router: usize, topic: &str) -> bool {
        match self.unheard.get(router).and_then(|late| *late.borrow()) {
            Some(Late::All) => true,
            Some(Late::Control) => CONTROL.contains(&topic),
            None => false,
        }
    }

    async fn until_heard(&self, router: usize) {
        if let (Some(unheard), Some(row)) = (self.unheard.get(router), self.rows.get(router)) {
            let _first = row.lock().await;
            // The lines live as long as the broker.
            drop(unheard.subscribe().wait_for(Option::is_none).await);
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    fn chance(&self, thousandths: u64) -> bool {
        self.below(1_000) < thousandths
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(self.below(self.sky.weather().delay + 1))
    }

    fn line(&self, router: usize) -> watch::Receiver<bool> {
        self.lines.get(router).map_or_else(|| watch::Sender::new(true).subscribe(), watch::Sender::subscribe)
    }

    async fn until_up(&self, router: usize) {
        // The lines live as long as the broker.
        drop(self.line(router).wait_for(|is_up| *is_up).await);
    }

    async fn push(
        &self,
        topic: &str,
        partition: Partition,
        mut records: Vec<Record>,
    ) -> Result<Offset, AppendError> {
        let weather = self.sky.weather();
        let is_cut = records.len() > 1 && self.chance(weather.cut);
        if is_cut {
            let keep = usize::try_from(self.below(u64::try_from(records.len()).unwrap_or(1))).unwrap_or(0);
            records.truncate(keep);
            self.sky.fired(Fault::CutBatch);
        }
        let unknown = || Err(AppendError::Unknown("the connection broke".to_owned()));
        if records.is_empty() {
            return unknown();
        }
        let last = self.log.append(topic, partition, records.clone()).await?;
        self.oracle.logged(topic, partition, last, &records);
        if is_cut {
            return unknown();
        }
        if self.chance(weather.unknown) {
            self.sky.fired(Fault::UnknownAppend);
            return unknown();
        }
        Ok(last)
    }

    /// The time by the log's clock.
    pub fn now(&self) -> Millis {
        self.node.now()
    }

    /// Appends a foreign record.
    pub async fn poison(&self, topic: &str, partition: Partition, record: Record) {
        // A log whose first record is foreign is a lost topic.
        let is_begun =
            self.log.bounds(topic, partition).await.is_ok_and(|bounds| bounds.next > Offset::new(0));
        let records = vec![record];
        if is_begun && let Ok(last) = self.log.append(topic, partition, records.clone()).await {
            self.oracle.logged(topic, partition, last, &records);
            self.sky.fired(Fault::Poison);
        }
    }
}

/// The log over one router's line.
#[derive(Clone)]
pub struct Line {
    broker: Arc<Broker>,
    router: usize,
}

impl Line {
    pub const fn new(broker: Arc<Broker>, router: usize) -> Self {
        Self { broker, router }
    }

    async fn reach(&self) -> Result<(), TopicError> {
        let reached = tokio::time::timeout(REACH_LIMIT, self.broker.until_up(self.router)).await;
        reached.map_err(|_| TopicError::Unavailable("the line is cut".to_owned()))
    }
}

#[async_trait]
impl Log for Line {
    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<bool, TopicError> {
        self.reach().await?;
        self.broker.log.ensure_topic(spec).await
    }

    async fn append(
        &self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Offset, AppendError> {
        let (tell, told) = oneshot::channel();
        let broker = Arc::clone(&self.broker);
        let router = self.router;
        let topic = topic.to_owned();
        self.broker.node.spawn(async move {
            sleep(broker.delay()).await;
            broker.until_heard(router).await;
            broker.until_up(router).await;
            let outcome = broker.push(&topic, partition, records).await;
            sleep(broker.delay()).await;
            broker.until_up(router).await;
            // The router may have stopped waiting.
            drop(tell.send(outcome));
        });
        match tokio::time::timeout(OUTCOME_LIMIT, told).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(AppendError::Unknown("no answer".to_owned())),
        }
    }

    async fn read(
        &self,
        topic: &str,
        partition: Partition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Batch, ReadError> {
        self.reach().await?;
        let is_foul = self.broker.sky.weather().delay >= SLOW;
        // A reader may get little at a time, and late.
        let max_bytes = match is_foul && self.broker.chance(500) {
            true => {
                sleep(self.broker.delay()).await;
                LITTLE
            }
            false => max_bytes,
        };
        let mut line = self.broker.line(self.router);
        let late = async {
            let batch = self.broker.log.read(topic, partition, from, max_bytes, wait).await;
            if self.broker.is_late(self.router, topic) {
                // The batch was read a while ago, and comes only now.
                sleep(Duration::from_millis(self.broker.below(LATE))).await;
            }
            batch
        };
        tokio::select! {
            biased;
            _ = line.wait_for(|is_up| !*is_up) => Err(TopicError::Unavailable("the line was cut".to_owned()).into()),
            batch = late => batch,
        }
    }

    async fn bounds(&self, topic: &str, partition: Partition) -> Result<Bounds, TopicError> {
        self.reach().await?;
        self.broker.log.bounds(topic, partition).await
    }

    async fn offset_at(&self, topic: &str, partition: Partition, at: Millis) -> Result<Offset, TopicError> {
        self.reach().await?;
        self.broker.log.offset_at(topic, partition, at).await
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: Partition,
        before: Offset,
    ) -> Result<(), TopicError> {
        self.reach().await?;
        self.broker.log.delete_records(topic, partition, before).await
    }

    async fn open_writer(&self, id: &str) -> Result<Box<dyn FencedWriter>, TopicError> {
        self.reach().await?;
        let writer = Arc::new(tokio::sync::Mutex::new(self.broker.log.open_writer(id).await?));
        Ok(Box::new(Writer { line: self.clone(), writer }))
    }
}

struct Writer {
    line: Line,
    writer: Arc<tokio::sync::Mutex<Box<dyn FencedWriter>>>,
}

#[async_trait]
impl FencedWriter for Writer {
    async fn commit(
        &mut self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Committed, CommitError> {
        let (tell, told) = oneshot::channel();
        let broker = Arc::clone(&self.line.broker);
        let router = self.line.router;
        let topic = topic.to_owned();
        let writer = Arc::clone(&self.writer);
        self.line.broker.node.spawn(async move {
            sleep(broker.delay()).await;
            broker.until_heard(router).await;
            broker.until_up(router).await;
            let unknown = broker.chance(broker.sky.weather().unknown);
            let is_made = !unknown || broker.chance(500);
            let outcome = match is_made {
                true => writer.lock().await.commit(&topic, partition, records.clone()).await,
                false => Err(CommitError::Failed("it never came".to_owned())),
            };
            if let Ok(committed) = &outcome {
                broker.oracle.logged(&topic, partition, committed.last, &records);
            }
            sleep(broker.delay()).await;
            broker.until_up(router).await;
            drop(tell.send(match outcome {
                Ok(_) if unknown => {
                    broker.sky.fired(Fault::UnknownCommit);
                    Err(CommitError::Failed("the connection broke".to_owned()))
                }
                outcome => outcome,
            }));
        });
        match tokio::time::timeout(OUTCOME_LIMIT, told).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(CommitError::Failed("no answer".to_owned())),
        }
    }
}
