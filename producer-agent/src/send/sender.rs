//! The sender: does what the machine decides, with retries.
//!
//! Owns the requests to the router. A partition has a few batches under way, and waits for no other partition.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use platform::client::{Client, ClientError, send, send_json, unreachable_peer};
use platform::retry::Retry;
use platform::traces::{Stage, StageSpan};
use schemas::avro::binary::put_long;
use schemas::avro::container::{Header, put_block};
use schemas::ids::{ChannelName, Digest, Epoch, Partition, Sequence};
use schemas::publish::{ChannelStatus, OpenRequest, Position, batch_metadata, put_traces};
use schemas::trace::TraceContext;
use tokio::sync::watch;

use super::backlog::{Answered, Backlog, BatchHead};
use super::machine::{Doubt, SendMachine, Verdict};
use crate::agent::Agent;
use crate::agent::reopen::{Ends, OwnState, StateError};
use crate::outbox::{Content, Entry, OutboxError, SharedOutbox, StoredEntry, lock};

/// A request that takes longer is given up and made again.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// How often an agent with nothing to send asks for its channel's status.
const ASK_WHEN_IDLE: Duration = Duration::from_mins(1);

/// The first and the longest wait between two checks whether the state has passed the openings.
const STATE_FIRST_LOOK: Duration = Duration::from_millis(50);
const STATE_LAST_LOOK: Duration = Duration::from_secs(2);

/// Why sending has stopped. The outbox keeps its entries.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// A request to the router failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// Images or outbox do not agree with the log.
    #[error("{0}; the agent has to reopen the channel, which it does by itself")]
    Doubt(#[from] Doubt),
    /// The router answered, and took nothing: something before these batches is missing in the log.
    #[error(
        "the router took no batch of partition {partition}: what is before them is missing there; they are sent again"
    )]
    InVain { partition: Partition },
    /// No randomness for a container's marker.
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}

impl SendError {
    /// Whether the router is the cause and a retry may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::InVain { .. } => true,
            Self::Outbox(_) | Self::Doubt(_) | Self::Random(_) => false,
        }
    }
}

/// Why the channel's state was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadStateError {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The router's data, or the agent's images.
    #[error(transparent)]
    State(#[from] StateError),
}

impl ReadStateError {
    /// Whether the router is the cause and a retry may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::State(error) => matches!(error, StateError::Cut),
        }
    }
}

/// The progress of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Every entry below is acknowledged.
    pub acknowledged: u64,
    /// Events that were acknowledged since the sender began.
    pub settled: u64,
    /// Attempts that the router did not take since the sender began.
    pub failures: u64,
    /// Whether the router took the last attempt.
    pub is_connected: bool,
}

/// A partition's batch under way.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    partition: Partition,
    /// What was acknowledged when it was sent.
    asked_at: Sequence,
    /// The sequence behind it.
    end: Sequence,
}

/// A batch's request, and its answer.
type Request = BoxFuture<'static, (UnderWay, Result<Position, ClientError>)>;

/// The sender of one channel.
pub struct Sender {
    client: Client,
    channel: ChannelName,
    outbox: SharedOutbox,
    machine: SendMachine,
    /// The first position that may be unacknowledged.
    position: u64,
    sent: watch::Sender<Sent>,
    /// The first position that the synced images may lack.
    folded: Arc<AtomicU64>,
    /// The position up to which the outbox was let go.
    dropped: u64,
}

impl Sender {
    /// A sender for an outbox.
    pub fn new(
        client: Client,
        channel: ChannelName,
        outbox: SharedOutbox,
        machine: SendMachine,
        folded: Arc<AtomicU64>,
    ) -> Self {
        let position = lock(&outbox).first_position();
        let sent = watch::Sender::new(Sent { acknowledged: position, ..Sent::default() });
        Self { client, channel, outbox, machine, position, sent, folded, dropped: 0 }
    }

    pub fn sent(&self) -> watch::Receiver<Sent> {
        self.sent.subscribe()
    }

    /// Sends all present and later entries; `appended` changes when the outbox grows.
    pub async fn run(&mut self, mut appended: watch::Receiver<u64>) -> Result<(), SendError> {
        let mut retry = Retry::default();
        loop {
            let settled = self.sent.borrow().settled;
            let ended = self.send_all(&mut appended).await;
            if self.sent.borrow().settled > settled {
                retry.reset();
            }
            match ended {
                Ok(()) => return Ok(()),
                Err(error) if error.is_retryable() => {
                    self.sent.send_modify(|sent| {
                        sent.failures += 1;
                        sent.is_connected = false;
                    });
                    let wait = retry.next_wait();
                    tracing::warn!(channel = %self.channel, %error, ?wait, "the router cannot take events now");
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends what there is and what comes. Each partition's next batch goes out while a few before it are under way.
    async fn send_all(&mut self, appended: &mut watch::Receiver<u64>) -> Result<(), SendError> {
        self.open().await?;
        let partitions = self.machine.partitions();
        let mut backlog = Backlog::from(self.position, partitions);
        let mut in_flight = FuturesUnordered::new();
        let mut may_grow = true;
        loop {
            appended.borrow_and_update();
            let acknowledged = |partition| self.machine.acknowledged(partition);
            let events = backlog.fill(&lock(&self.outbox), acknowledged)?;
            self.advance(&backlog, events)?;
            for partition in Partition::all(partitions) {
                while let Some(request) = self.request(&backlog, partition)? {
                    in_flight.push(request);
                    backlog.send(partition);
                }
            }
            if in_flight.is_empty() && !may_grow {
                return Ok(());
            }
            tokio::select! {
                biased;
                Some((under_way, answer)) = in_flight.next() => {
                    if let Err(error) = self.settle(&mut backlog, under_way, answer).await {
                        // What is under way is not broken off: it may well count.
                        while in_flight.next().await.is_some() {}
                        return Err(error);
                    }
                }
                grown = tokio::time::timeout(ASK_WHEN_IDLE, appended.changed()), if may_grow => match grown {
                    Ok(grown) => may_grow = grown.is_ok(),
                    // The router may be away, or its table may have changed.
                    Err(_) if in_flight.is_empty() => self.open().await?,
                    Err(_) => {}
                },
            }
        }
    }

    /// The request with a partition's next batch, where it has one.
    fn request(&self, backlog: &Backlog, partition: Partition) -> Result<Option<Request>, SendError> {
        let entries = backlog.batch(partition);
        let Some((head, last)) = backlog.head().zip(entries.clone().last()) else { return Ok(None) };
        let asked_at = self.machine.acknowledged(partition);
        let under_way = UnderWay { partition, asked_at, end: last.entry.next() };
        let path = format!("/v1/channels/{}/partitions/{partition}/batches", self.channel);
        let before = backlog.digest_under_way(partition).unwrap_or_else(|| self.machine.digest(partition));
        let body = encode_batch(head, entries.clone(), before)?;
        let request = self.client.post(&path).timeout(REQUEST_LIMIT).body(body);
        let followed: Vec<StageSpan> = entries.flat_map(|stored| self.followed(stored)).collect();
        Ok(Some(Box::pin(
            async move { (under_way, answered(send_json::<Position>(request), followed).await) },
        )))
    }

    /// Takes the answer to a batch.
    async fn settle(
        &mut self,
        backlog: &mut Backlog,
        under_way: UnderWay,
        answer: Result<Position, ClientError>,
    ) -> Result<(), SendError> {
        let UnderWay { partition, asked_at, end } = under_way;
        if let Some(replaces) = self.take_position(&answer?, asked_at, Some(backlog))? {
            self.send_opening(partition, replaces).await?;
        }
        let Answered { events, in_vain } =
            backlog.answered(partition, end, self.machine.acknowledged(partition));
        self.sent.send_modify(|sent| sent.is_connected = true);
        self.advance(backlog, events)?;
        if in_vain { Err(SendError::InVain { partition }) } else { Ok(()) }
    }

    /// Says what is acknowledged, and drops whole segments.
    fn advance(&mut self, backlog: &Backlog, events: u64) -> Result<(), SendError> {
        let position = backlog.position();
        if position != self.position || events > 0 {
            self.position = position;
            self.sent.send_modify(|sent| {
                sent.settled += events;
                sent.acknowledged = position;
            });
        }
        // The images may be synced long after the last acknowledgement.
        let done = position.min(self.folded.load(Ordering::Acquire));
        if done > self.dropped {
            lock(&self.outbox).drop_before(done)?;
            self.dropped = done;
        }
        Ok(())
    }

    /// Replaces the current epoch of every partition by a new one of ours, and waits until the channel's state has
    /// passed the openings. Returns where the epochs before ended: batches under way may have counted until then.
    pub async fn reopen(&mut self, machine: SendMachine) -> Result<Ends, SendError> {
        self.machine = machine;
        let path = format!("/v1/channels/{}", self.channel);
        let status: ChannelStatus = send_json(self.client.get(&path).timeout(REQUEST_LIMIT)).await?;
        let mut passed = Vec::new();
        let mut ends = Ends::new();
        let start = Sequence::new(0);
        for position in status.positions {
            let mut position = position;
            while let Verdict::Open { replaces } =
                self.machine.on_position(&position, start, |_, _| true, true)
            {
                position = self.send_opening(position.partition, replaces).await?;
            }
            if let Verdict::Reopen(doubt) = self.machine.on_position(&position, start, |_, _| true, true) {
                return Err(doubt.into());
            }
            passed.push(position.read_to);
            ends.insert(
                position.partition,
                position.counted.map(|counted| counted.ended).unwrap_or_default(),
            );
        }
        let mut retry = Retry::new(STATE_FIRST_LOOK, STATE_LAST_LOOK);
        loop {
            let status: ChannelStatus = send_json(self.client.get(&path).timeout(REQUEST_LIMIT)).await?;
            if status.positions.iter().zip(&passed).all(|(position, passed)| position.state_to >= *passed) {
                return Ok(ends);
            }
            tokio::time::sleep(retry.next_wait()).await;
        }
    }

    /// Reads the channel's own state into the agent's images.
    pub async fn read_state(&self, agent: &Agent) -> Result<(), ReadStateError> {
        let path = format!("/v1/channels/{}/state", self.channel);
        // A router that stops answering is given up: the state is read again from its beginning.
        let within = |_| StateError::Cut;
        let begun = tokio::time::timeout(REQUEST_LIMIT, send(self.client.get(&path)));
        let mut response = begun.await.map_err(within)??;
        let mut state = OwnState::new();
        loop {
            let chunk = tokio::time::timeout(REQUEST_LIMIT, response.chunk()).await.map_err(within)?;
            let Some(bytes) = chunk.map_err(|error| unreachable_peer(&error))? else { break };
            state.push(&bytes, agent)?;
        }
        Ok(state.finish()?)
    }

    /// Continues from a position of the outbox, in the machine's epoch.
    pub fn continue_at(&mut self, position: u64) {
        self.position = position;
        self.sent.send_modify(|sent| sent.acknowledged = position);
    }

    /// The first position that may be unacknowledged, by the table's last answers.
    pub fn first_unacknowledged(&self) -> Result<u64, SendError> {
        let mut first = None;
        let outbox = lock(&self.outbox);
        outbox.for_each(self.position, &mut |stored| {
            let entry = &stored.entry;
            if entry.sequence >= self.machine.acknowledged(entry.partition) {
                first = Some(stored.position);
            }
            first.is_none()
        })?;
        Ok(first.unwrap_or_else(|| outbox.next_position()))
    }

    /// Asks for the table, and opens unopened partitions; no data goes out before all openings are read back.
    pub async fn open(&mut self) -> Result<(), SendError> {
        let request = self.client.get(&format!("/v1/channels/{}", self.channel)).timeout(REQUEST_LIMIT);
        let status: ChannelStatus = send_json(request).await?;
        let mut doubt = None;
        for position in status.positions {
            let mut position = position;
            loop {
                let asked_at = self.machine.acknowledged(position.partition);
                match self.take_position(&position, asked_at, None) {
                    Ok(None) => break,
                    Ok(Some(_)) if doubt.is_some() => break,
                    Ok(Some(replaces)) => position = self.send_opening(position.partition, replaces).await?,
                    // The other partitions are applied, too: a reopen must know what is acknowledged.
                    Err(SendError::Doubt(first)) => {
                        doubt.get_or_insert(first);
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some(doubt) = doubt {
            return Err(doubt.into());
        }
        self.sent.send_modify(|sent| sent.is_connected = true);
        Ok(())
    }

    /// Applies an answer to a request that was made when `asked_at` was acknowledged; `Some` when an opening is due.
    fn take_position(
        &mut self,
        position: &Position,
        asked_at: Sequence,
        backlog: Option<&Backlog>,
    ) -> Result<Option<Option<Epoch>>, SendError> {
        let mut failed = None;
        let partition = position.partition;
        let knows = |next: Sequence, digest| {
            if backlog.is_some_and(|backlog| backlog.has_end(partition, next, digest)) {
                return true;
            }
            match lock(&self.outbox).find(partition, next, digest) {
                Ok(found) => found.is_some(),
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        };
        let verdict = self.machine.on_position(position, asked_at, knows, false);
        if let Some(error) = failed {
            return Err(error.into());
        }
        match verdict {
            Verdict::Open { replaces } => Ok(Some(replaces)),
            Verdict::Acknowledged { .. } => Ok(None),
            Verdict::Reopen(doubt) => Err(doubt.into()),
        }
    }

    async fn send_opening(
        &self,
        partition: Partition,
        replaces: Option<Epoch>,
    ) -> Result<Position, SendError> {
        let path = format!("/v1/channels/{}/partitions/{partition}/openings", self.channel);
        let request = OpenRequest { epoch: self.machine.epoch(), replaces };
        Ok(send_json(self.client.post(&path).timeout(REQUEST_LIMIT).json(&request)).await?)
    }

    /// The stages of an entry's traced events.
    fn followed(&self, stored: &StoredEntry) -> Vec<StageSpan> {
        let Entry { partition, content, .. } = &stored.entry;
        let follow = |(_, trace): &(usize, TraceContext)| {
            StageSpan::on(Stage::Send, Some(trace), self.channel.as_str(), *partition)
        };
        content.traces().iter().filter_map(follow).collect()
    }
}

/// Sends a request as a stage of the traced events in it.
async fn answered(
    request: impl Future<Output = Result<Position, ClientError>>,
    followed: Vec<StageSpan>,
) -> Result<Position, ClientError> {
    let answer = request.await;
    if let Err(error) = &answer {
        let class = error.problem().map_or("unreachable", |problem| problem.code.as_str());
        followed.iter().for_each(|stage| stage.failed(class));
    }
    answer
}

/// A batch of one partition's entries, which follow each other and continue `before`.
fn encode_batch<'e>(
    head: &BatchHead,
    entries: impl Iterator<Item = &'e StoredEntry>,
    before: Digest,
) -> Result<Vec<u8>, SendError> {
    let mut datums = Vec::new();
    let mut traces = Vec::new();
    let mut events = 0;
    let mut count = 0;
    let mut first = None;
    for stored in entries {
        count += 1;
        first.get_or_insert(stored.entry.sequence);
        let content = &stored.entry.content;
        let branch = match content {
            Content::Block(_) => 0,
            Content::Freshness(_) => 1,
        };
        put_long(&mut datums, branch);
        datums.extend_from_slice(content.datum());
        traces.extend(content.traces().iter().map(|(index, trace)| (events + index, *trace)));
        events += usize::try_from(content.count()).unwrap_or(usize::MAX);
    }
    let sync = platform::random::id()?;
    let mut metadata = batch_metadata(head.epoch, first.unwrap_or(Sequence::new(0)), before);
    put_traces(&mut metadata, &traces);
    let mut body = Header { metadata, schema: head.batch_schema.clone(), sync }.encode();
    put_block(&mut body, count, &datums, &sync);
    Ok(body)
}
