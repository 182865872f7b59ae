//! Publishing: who may publish, what is appended, and what is answered.
//!
//! Owns the answer: never "yours is there", but the table's position once the router's own reader has passed the
//! append. Events below `next` are acknowledged, however they got there; the rest is sent again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use reading::error::ReaderError;
use reading::tail::Tail;
use schemas::channel::ChannelKind;
use schemas::epoch_table::{Opening, Writer};
use schemas::ids::{AgentId, ChannelName, Offset, Partition};
use schemas::marks;
use schemas::publish::{ChannelStatus, Counted, OpenRequest, Position};
use schemas::record::{Kind, Provenance, Record};

use super::batch::{Envelope, Judged};
use super::codecs::BatchCodecs;
use super::error::PublishError;
use super::followed::Followed;
use super::precedence::Precedence;
use super::turns::{Attempt, Batch, Turns};
use crate::channels::{Channels, Running};
use crate::control::service::Control;
use crate::fanout::observer::Feed;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::state::tenure::StateWatch;

/// How long a router waits to read its own append back before it answers that the outcome is unknown.
const READ_BACK: Duration = Duration::from_secs(20);

/// Publishing on a router's channels; clones share them.
#[derive(Clone)]
pub struct Publisher {
    control: Control,
    registry: Registry,
    channels: Channels,
    metrics: Metrics,
    codecs: BatchCodecs,
    turns: Turns,
    precedence: Precedence,
}

impl Publisher {
    /// Over a router's channels.
    pub fn new(registry: Registry, channels: Channels, metrics: Metrics) -> Self {
        let control = registry.control().clone();
        let (codecs, turns) = (BatchCodecs::default(), Turns::default());
        let precedence = Precedence::default();
        Self { control, registry, channels, metrics, codecs, turns, precedence }
    }

    /// A channel and the table's position in each of its partitions.
    pub async fn status(&self, agent: &AgentId, name: &ChannelName) -> Result<ChannelStatus, PublishError> {
        let running = self.owned(agent, name).await?;
        try_join_all(running.feeds.values().map(|feed| self.catch_up(feed))).await?;
        // Another router may write the state: its progress is read from the state topic.
        try_join_all(running.materialised.values().map(|state| self.look(state))).await?;
        let positions = Partition::all(running.entry.channel.partitions)
            .map(|partition| position(&running, agent, partition))
            .collect::<Option<Vec<_>>>();
        Ok(ChannelStatus {
            channel: running.entry.channel.clone(),
            log_id: running.entry.log_id,
            positions: positions.unwrap_or_default(),
        })
    }

    /// Appends an opening; returns the position after it.
    pub async fn open(
        &self,
        agent: &AgentId,
        name: &ChannelName,
        partition: Partition,
        request: OpenRequest,
    ) -> Result<Position, PublishError> {
        let running = self.owned(agent, name).await?;
        let feed = feed(&running, partition)?;
        let opening = Opening { agent: agent.clone(), epoch: request.epoch, replaces: request.replaces };
        let record = marks::record(Kind::Opening, &opening.encode());
        let last = self.append(feed, name, vec![record]).await?;
        self.answer(&running, agent, partition, last).await
    }

    /// Judges a batch, appends it, reads it back; returns the position after it.
    pub async fn publish(
        &self,
        agent: &AgentId,
        name: &ChannelName,
        partition: Partition,
        body: Bytes,
    ) -> Result<Position, PublishError> {
        let running = self.owned(agent, name).await?;
        let turn = self.turns.of(feed(&running, partition)?);
        let attempt = turn.attempt();
        self.rest(name, body.len()).await;
        let envelope = Envelope::parse(body, &self.codecs)?;
        let followed = Followed::of(&envelope, name, partition);
        let taken = async {
            let judged = self.judge(agent, &running, partition, envelope).await?;
            self.take(agent, &running, partition, attempt, judged, &followed).await
        };
        taken.await.inspect_err(|error| followed.failed(error))
    }

    /// Judges a batch: what is left of it is what the log gets.
    async fn judge(
        &self,
        agent: &AgentId,
        running: &Running,
        partition: Partition,
        envelope: Envelope,
    ) -> Result<Judged, PublishError> {
        let channel = &running.entry.channel;
        let subject = channel.registry_subject();
        let schema = envelope.codec.block_schema();
        let schema = self.registry.register(&agent.to_string(), &subject, schema).await?;
        Ok(envelope.judge(agent, channel, partition, schema)?)
    }

    /// Appends a batch when it is its turn.
    async fn take(
        &self,
        agent: &AgentId,
        running: &Running,
        partition: Partition,
        attempt: Attempt<'_>,
        judged: Judged,
        followed: &Followed,
    ) -> Result<Position, PublishError> {
        let feed = feed(running, partition)?;
        let channel = &running.entry.channel;
        let Judged { records, continues, end } = judged;
        if records.is_empty() {
            self.catch_up(feed).await?;
            return self.position(running, agent, partition).await;
        }
        let batch = Batch { feed, writer: Writer::of(channel.kind, agent), agent, continues };
        let mut held = attempt.wait(&batch).await;
        if held.is_none() {
            // Another router may have appended what is before it.
            let appends = attempt.appends();
            self.catch_up(feed).await?;
            held = attempt.take(&batch, appends).await;
        }
        let Some(held) = held else { return self.position(running, agent, partition).await };
        let source = feed.source();
        let appending = followed.appending(source.log.system(), &source.topic, partition);
        let begun = tokio::time::Instant::now();
        let last = self.append(feed, &channel.name, records).await?;
        drop(appending);
        attempt.appended(held, end, last);
        let answer = self.answer(running, agent, partition, last).await?;
        self.precedence.appended(&channel.name, begun.elapsed());
        Ok(answer)
    }

    /// Lets single changes of other channels pass, if the channel is in bulk and they are late.
    async fn rest(&self, name: &ChannelName, size: usize) {
        let rest = self.precedence.rest(name, size);
        if !rest.is_zero() {
            self.metrics.rested(rest);
            tokio::time::sleep(rest).await;
        }
    }

    /// A channel that the caller owns.
    pub async fn owned(&self, agent: &AgentId, name: &ChannelName) -> Result<Arc<Running>, PublishError> {
        let unknown = || PublishError::ChannelUnknown(name.clone());
        let declared = self.control.view().channels.get(name).map(Arc::clone).ok_or_else(unknown)?;
        if declared.channel.owner != agent.participant {
            return Err(PublishError::NotOwner {
                agent: agent.clone(),
                channel: name.clone(),
                owner: declared.channel.owner.to_string(),
            });
        }
        if declared.channel.kind == ChannelKind::Collection {
            return Err(PublishError::Collection(name.clone()));
        }
        Ok(self.channels.at_work(name).await?)
    }

    /// Waits until the reader has passed the log's present end: the answer then includes what another router has
    /// acknowledged.
    async fn catch_up(&self, feed: &Feed) -> Result<(), PublishError> {
        not_lost(&feed.tail())?;
        let bounds = feed.source().bounds().await;
        let end = bounds.map_err(|error| match error {
            lost @ ReaderError::LostTopic { .. } => PublishError::Lost(Arc::new(lost)),
            other => PublishError::NotReadBack(other.to_string()),
        })?;
        self.until_read(feed, end.next).await
    }

    async fn append(
        &self,
        feed: &Feed,
        name: &ChannelName,
        records: Vec<Record>,
    ) -> Result<Offset, PublishError> {
        let begun = Instant::now();
        let events = |record: &Record| Provenance::of(record).map_or(0, |said| u64::from(said.count));
        let count = records.iter().map(events).sum();
        let last = append(feed, records).await?;
        self.metrics.appended(name, count, begun.elapsed());
        Ok(last)
    }

    async fn look(&self, state: &StateWatch) -> Result<(), PublishError> {
        let looked = state.look(self.channels.log().as_ref()).await;
        looked.map(drop).map_err(|error| PublishError::NotReadBack(error.to_string()))
    }

    async fn answer(
        &self,
        running: &Running,
        agent: &AgentId,
        partition: Partition,
        last: Offset,
    ) -> Result<Position, PublishError> {
        let appended = Instant::now();
        self.until_read(feed(running, partition)?, last.next()).await?;
        self.metrics.read_back(appended.elapsed());
        self.position(running, agent, partition).await
    }

    /// The table's position in a partition.
    async fn position(
        &self,
        running: &Running,
        agent: &AgentId,
        partition: Partition,
    ) -> Result<Position, PublishError> {
        // Another router may know first that the provider has reopened.
        let state = running.materialised.get(partition);
        if let Some(state) = state.filter(|state| state.progress().overtaken.is_some()) {
            self.look(state).await?;
        }
        position(running, agent, partition)
            .ok_or_else(|| PublishError::PartitionUnknown(running.entry.channel.name.clone(), partition))
    }

    async fn until_read(&self, feed: &Feed, end: Offset) -> Result<(), PublishError> {
        let mut tail = feed.watch();
        let passed = tail.wait_for(|tail| tail.next >= end || tail.lost().is_some());
        let late = |why: &str| PublishError::NotReadBack(why.to_owned());
        match tokio::time::timeout(READ_BACK, passed).await {
            Ok(Ok(tail)) => not_lost(&tail),
            Ok(Err(_)) => Err(late("the reader has stopped")),
            Err(_) => {
                let tail = feed.tail();
                let next = tail.next;
                let waited = READ_BACK.as_secs();
                let stands = || format!("its reader is at offset {next} of {end} after {waited} s");
                Err(late(&tail.fault.as_ref().map_or_else(stands, ToString::to_string)))
            }
        }
    }
}

async fn append(feed: &Feed, records: Vec<Record>) -> Result<Offset, PublishError> {
    let tail = feed.tail();
    not_lost(&tail)?;
    let source = feed.source();
    let last = source.log.append(&source.topic, source.partition, records).await?;
    // A topic that was deleted and made again takes appends at offsets that were read before.
    if last < tail.next {
        let why =
            format!("an append got offset {last}, but everything before {} was already read", tail.next);
        return Err(PublishError::Lost(Arc::new(source.lost(why))));
    }
    Ok(last)
}

fn not_lost(tail: &Tail) -> Result<(), PublishError> {
    tail.lost().map_or(Ok(()), |fault| Err(PublishError::Lost(fault)))
}

fn feed(running: &Running, partition: Partition) -> Result<&Arc<Feed>, PublishError> {
    let name = &running.entry.channel.name;
    running.feed(partition).ok_or_else(|| PublishError::PartitionUnknown(name.clone(), partition))
}

fn position(running: &Running, agent: &AgentId, partition: Partition) -> Option<Position> {
    let tail = running.feed(partition)?.tail();
    let entry = tail.fold.table.entry(&Writer::of(running.entry.channel.kind, agent));
    let counted = entry.map(|entry| Counted {
        agent: entry.agent.clone(),
        epoch: entry.epoch,
        next: entry.next,
        digest: entry.digest,
        ended: entry.ended.clone(),
    });
    let state = running.materialised.get(partition)?.progress();
    let state_overtaken = state.overtaken.is_some();
    Some(Position { partition, counted, read_to: tail.next, state_to: state.to, state_overtaken })
}
