//! The receiver: connects, reads blocks, lets the machine decide, gives batches to the sink.
//!
//! Owns one stream at a time. A block of the container is one batch: its effects and the cursor after it are applied
//! together. Changes of a block of the log that has not come as a whole wait for the next batch.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use platform::client::{Client, ClientError, send, unreachable_peer};
use platform::traces::{Stage, StageSpan};
use schemas::avro::binary::{Cursor as Datums, DatumError};
use schemas::avro::container::{Block, ContainerError, Decoder, Header};
use schemas::avro::schema::SchemaError;
use schemas::cursor::Cursor;
use schemas::delivery::{
    AGREEMENT_KEY, CHANNEL_KEY, CloseReason, Delivery, DeliveryCodec, LOG_ID_KEY, Next, VERSION_KEY,
};
use schemas::ids::{AgreementNumber, AgreementVersion, LogId, Partition};
use schemas::limits::MAX_BLOCK_CHANGES;
use schemas::per_partition::PerPartition;
use schemas::reconcile::{AnnouncedDigests, Ranges, ReconcileQuery};

use super::machine::{Closed, InBlock, ProtocolError, ReceiveMachine, Received};
use super::reconciler::{Finding, Now, Reconciled, Reconciler, Unasked};
use super::repair::{self, Repair};
use super::request::ReconcileRequest;
use super::settling::Settling;
use crate::sink::effect::Effect;
use crate::sink::error::SinkError;
use crate::sink::{Batch, Sink, StreamHead};

/// The longest wait for a stream to begin: a slow router waits for its log, and another router may not have to.
const ADMISSION_LIMIT: Duration = Duration::from_mins(1);
/// A stream that is silent for longer is broken: the router reports progress every few seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// The sink settles after a pause of this length.
const QUIET: Duration = Duration::from_millis(100);

/// Why a stream ended without a closing record.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The router refused, or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The stream is not an Avro container.
    #[error("the stream: {0}")]
    Container(#[from] ContainerError),
    #[error("the stream's schema: {0}")]
    Schema(#[from] SchemaError),
    /// A delivery cannot be read.
    #[error("a delivery: {0}")]
    Datum(#[from] DatumError),
    /// The stream breaks its rules.
    #[error("the stream: {0}")]
    Protocol(#[from] ProtocolError),
    /// An answer to a query that was not asked.
    #[error("the stream: {0}")]
    Unasked(#[from] Unasked),
    #[error("the stream's header lacks a valid {0}")]
    Header(&'static str),
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The router did not answer whether it admits the stream.
    #[error("the router did not begin the stream within {} s", ADMISSION_LIMIT.as_secs())]
    NotAdmitted,
    #[error("the stream was silent for {} s", SILENCE_LIMIT.as_secs())]
    Silent,
    /// The connection ended early.
    #[error("the connection ended without a closing record")]
    Broken,
}

/// Why a stream is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The router closed it.
    Closed(Closed),
    /// The agent left it: the next stream carries a query.
    ToQuery,
}

fn from_parameter(cursor: Option<&Cursor>) -> String {
    cursor.map_or_else(|| "state".to_owned(), ToString::to_string)
}

/// When progress is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A block was applied, within this time.
    Applied(Duration),
    /// No more events came, and the sink has settled.
    Settled,
}

/// Receives the state of the stream and the sink, and the result of the last comparison.
pub type OnProgress<'p> = dyn FnMut(&ReceiveMachine, &dyn Sink, Option<Reconciled>, Moment) + Send + 'p;

/// The parts that receive one stream.
pub struct Receiving<'r> {
    /// A client for this stream alone.
    pub client: &'r Client,
    pub number: &'r AgreementNumber,
    /// Where to begin; `None` means with the state.
    pub cursor: Option<Cursor>,
    pub sink: &'r mut dyn Sink,
    pub reconciler: &'r mut Reconciler,
    /// A person's request to compare the replica now.
    pub request: &'r ReconcileRequest,
}

/// Receives one stream until it is closed or breaks.
pub async fn receive(stream: Receiving<'_>, on_progress: &mut OnProgress<'_>) -> Result<Ended, ReceiveError> {
    let Receiving { client, number, cursor, sink, reconciler, request } = stream;
    let path = format!("/v1/agreements/{number}/stream");
    let parameters = parameters(cursor.as_ref(), sink, reconciler);
    let admitted = tokio::time::timeout(ADMISSION_LIMIT, send(client.get(&path).query(&parameters)));
    let mut response = admitted.await.map_err(|_| ReceiveError::NotAdmitted)??;
    let mut decoder = Decoder::new();
    let mut stream: Option<Stream> = None;
    let mut settling = Settling::begin();
    let mut heard = tokio::time::Instant::now();
    let mut dirty = false;
    loop {
        if request.take() {
            reconciler.request(tokio::time::Instant::now());
        }
        let is_live = stream.as_ref().is_some_and(|stream: &Stream| stream.machine.is_live());
        let due = reconciler.due().filter(|_| is_live).map(|due| due - tokio::time::Instant::now());
        let pause = dirty.then(|| settling.rest().max(QUIET));
        let silence = SILENCE_LIMIT.saturating_sub(heard.elapsed());
        let wait = [pause, due].into_iter().flatten().fold(silence, Duration::min);
        if due == Some(Duration::ZERO) {
            sink.settle().await?;
            return Ok(Ended::ToQuery);
        }
        let bytes = match tokio::time::timeout(wait, response.chunk()).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => return Err(ReceiveError::Broken),
            Ok(Err(error)) => return Err(unreachable_peer(&error).into()),
            Err(_) if heard.elapsed() >= SILENCE_LIMIT => return Err(ReceiveError::Silent),
            Err(_) if dirty && settling.rest().is_zero() => {
                settling.settle(sink).await?;
                if let Some(stream) = &stream {
                    on_progress(&stream.machine, sink, reconciler.last(), Moment::Settled);
                }
                // Nobody listened while the sink settled.
                (dirty, heard) = (false, tokio::time::Instant::now());
                continue;
            }
            Err(_) => continue,
        };
        heard = tokio::time::Instant::now();
        decoder.push(&bytes);
        if stream.is_none()
            && let Some(header) = decoder.header()?
        {
            stream = Some(Stream::begin(header, number, cursor.as_ref(), sink).await?);
        }
        let Some(stream) = &mut stream else { continue };
        while let Some(block) = decoder.block()? {
            let arrived = Instant::now();
            let ended = stream.take(&block, sink, reconciler).await?;
            dirty = true;
            on_progress(&stream.machine, sink, reconciler.last(), Moment::Applied(arrived.elapsed()));
            if let Some(ended) = ended {
                sink.settle().await?;
                return Ok(ended);
            }
        }
        if dirty && settling.is_due() {
            settling.settle(sink).await?;
            dirty = false;
        }
    }
}

/// The parameters of a stream: where it begins and, when a reconciliation is due, its next query.
fn parameters(
    cursor: Option<&Cursor>,
    sink: &dyn Sink,
    reconciler: &mut Reconciler,
) -> Vec<(&'static str, String)> {
    let mut parameters = vec![("from", from_parameter(cursor))];
    let now = tokio::time::Instant::now();
    if cursor.is_none_or(|cursor| cursor.snapshot.is_some()) {
        reconciler.on_resync(now);
    } else if let Some(query) = reconciler.query(now, sink.row_count()) {
        let query = query.to_string();
        reconciler.moved(query.len());
        parameters.push(("reconcile", query));
    }
    parameters
}

/// The digests that the router announced, and the ranges that they were asked for.
struct Answer {
    within: Ranges,
    /// How fine the ranges are.
    bits: u8,
    announced: AnnouncedDigests,
}

struct Stream {
    channel: String,
    number: AgreementNumber,
    codec: DeliveryCodec,
    machine: ReceiveMachine,
    /// The requested rows that have come so far.
    repair: Option<Repair>,
    /// Changes of blocks that the position has not passed: at most one block for each partition.
    held: Vec<Held>,
}

/// A change that waits for the rest of its block.
struct Held {
    change: InBlock,
    followed: Option<(Partition, StageSpan)>,
}

impl Stream {
    async fn begin(
        header: &Header,
        number: &AgreementNumber,
        cursor: Option<&Cursor>,
        sink: &mut dyn Sink,
    ) -> Result<Self, ReceiveError> {
        if header.text(AGREEMENT_KEY) != Some(number.as_str()) {
            return Err(ReceiveError::Header(AGREEMENT_KEY));
        }
        let version = header.text(VERSION_KEY).and_then(|text| text.parse().ok());
        let version = AgreementVersion::new(version.ok_or(ReceiveError::Header(VERSION_KEY))?);
        let log_id: Option<LogId> = header.text(LOG_ID_KEY).and_then(|text| text.parse().ok());
        let log_id = log_id.ok_or(ReceiveError::Header(LOG_ID_KEY))?;
        let codec = DeliveryCodec::from_union_schema(&header.schema)?;
        sink.begin(&StreamHead { derived: codec.derived().clone() }).await?;
        let channel = header.text(CHANNEL_KEY).ok_or(ReceiveError::Header(CHANNEL_KEY))?.to_owned();
        let machine = ReceiveMachine::new(log_id, version, cursor);
        Ok(Self { channel, number: number.clone(), codec, machine, repair: None, held: Vec::new() })
    }

    /// The stage of a delivery whose event is traced.
    fn follow(&self, delivery: &Delivery<'_>) -> Option<(Partition, StageSpan)> {
        let Delivery::Event(event) = delivery else { return None };
        let partition = event.partition;
        let stage = StageSpan::on(Stage::Process, event.trace.as_ref(), &self.channel, partition)?;
        Some((partition, stage.with("dit.agreement", self.number.to_string())))
    }

    async fn take(
        &mut self,
        block: &Block,
        sink: &mut dyn Sink,
        reconciler: &mut Reconciler,
    ) -> Result<Option<Ended>, ReceiveError> {
        let mut datums = Datums::new(&block.datums);
        let mut effects = Vec::with_capacity(block.count);
        let mut closed = None;
        let mut answer = None;
        let mut repaired = false;
        for _ in 0..block.count {
            let at = datums.at();
            let delivery = self.codec.decode(&mut datums)?;
            match &delivery {
                Delivery::Digests { announced, .. } => {
                    // Before anything of the block is applied.
                    let Some(ReconcileQuery::Digests { within, bits }) = reconciler.open().cloned() else {
                        return Err(Unasked.into());
                    };
                    reconciler.moved(datums.at() - at);
                    answer = Some(Answer { within, bits, announced: announced.clone() });
                }
                Delivery::Range { rows, .. } => {
                    reconciler.moved(datums.at() - at);
                    repaired = self.take_range(rows, reconciler)?;
                }
                _ => {}
            }
            let stage = self.follow(&delivery);
            match self.machine.on_delivery(&delivery)? {
                Received::Nothing => {}
                Received::Closed(end) => closed = Some(end),
                Received::Effect(effect) => effects.push(effect),
                Received::InBlock(change) => self.held.push(Held { change, followed: stage }),
            }
        }
        datums.end()?;
        let followed = self.release(&mut effects);
        let is_elsewhere = effects.contains(&Effect::BeginSnapshot) || answer.is_some() || repaired;
        if is_elsewhere && !self.held.is_empty() {
            return Err(ProtocolError::WithinBlock.into());
        }
        self.check_held()?;
        let cursor = self.machine.cursor();
        let freshness = self.machine.freshness();
        let apply = |(partition, stage): &(Partition, StageSpan)| {
            let stage = stage.within(Stage::Apply, sink.system(), *partition);
            stage.with("db.system.name", sink.system())
        };
        let applying: Vec<_> = followed.iter().map(apply).collect();
        let applied = sink.apply(&Batch { effects, cursor, freshness }).await;
        if applied.is_err() {
            applying.iter().for_each(|stage| stage.failed("sink"));
        }
        applied?;
        match (closed, answer) {
            (Some(closed), _) => Ok(Some(Ended::Closed(closed))),
            (None, Some(answer)) => compare(&answer, sink, reconciler).await,
            (None, None) if repaired => self.repair(sink, reconciler).await.map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Adds the effects of held changes whose blocks have passed; returns their stages.
    fn release(&mut self, effects: &mut Vec<Effect>) -> Vec<(Partition, StageSpan)> {
        let machine = &self.machine;
        let passed = |held: &mut Held| machine.has_passed(held.change.partition, held.change.block);
        let mut followed = Vec::new();
        for Held { change, followed: stage } in self.held.extract_if(.., passed) {
            effects.push(change.effect);
            followed.extend(stage);
        }
        followed
    }

    /// At most one block of a partition is held.
    fn check_held(&self) -> Result<(), ProtocolError> {
        let mut by_partition: BTreeMap<Partition, usize> = BTreeMap::new();
        for held in &self.held {
            let partition = held.change.partition;
            let count = by_partition.entry(partition).or_default();
            *count += 1;
            if *count > MAX_BLOCK_CHANGES as usize {
                return Err(ProtocolError::TooManyInBlock(partition));
            }
        }
        Ok(())
    }

    /// Takes a requested range; returns whether it was the last.
    fn take_range(&mut self, rows: &[(&str, &[u8])], asked: &Reconciler) -> Result<bool, ReceiveError> {
        let Some(ReconcileQuery::Rows { within }) = asked.open() else { return Err(Unasked.into()) };
        let repair = self.repair.get_or_insert_with(|| Repair::new(within.clone()));
        Ok(repair.take(self.codec.derived(), rows)?)
    }

    async fn repair(&mut self, sink: &mut dyn Sink, asked: &mut Reconciler) -> Result<Ended, ReceiveError> {
        if let Some(repair) = self.repair.take() {
            let wrong = repair.apply(sink, self.machine.cursor(), self.machine.freshness()).await?;
            if wrong > 0 {
                tracing::error!(agreement = %self.number, rows = wrong, "rows of the replica were wrong and are repaired");
            }
            asked.on_repaired(wrong, sink.row_count());
        }
        Ok(Ended::ToQuery)
    }
}

/// Compares the replica with the digests that the router announced.
async fn compare(
    answer: &Answer,
    sink: &mut dyn Sink,
    reconciler: &mut Reconciler,
) -> Result<Option<Ended>, ReceiveError> {
    let own = repair::digests(sink, &answer.within, answer.bits).await?;
    let now = Now { wall: platform::clock::now(), instant: tokio::time::Instant::now() };
    Ok(match reconciler.on_digests(&own, &answer.announced, now)? {
        Finding::Over(_) => None,
        Finding::QueryOn => Some(Ended::ToQuery),
        Finding::Resync => Some(Ended::Closed(Closed {
            next: Next::Resync,
            reason: CloseReason::Resync,
            detail: "the replica differs in most of its rows: it is received anew".to_owned(),
            places: PerPartition::none(),
        })),
    })
}

#[cfg(test)]
mod tests;
