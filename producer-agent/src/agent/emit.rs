//! From new images to events in the outbox, group by group.
//!
//! Owns the order *outbox first, then images*. The before image comes from the agent's own images, or from an earlier
//! change of the same group.

use std::collections::HashMap;

use platform::clock::now;
use platform::traces::{Stage, StageSpan};
use schemas::block::OpenBlock;
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::ids::Partition;
use schemas::marks::Freshness;
use schemas::partition;
use schemas::per_partition::PerPartition;
use schemas::trace::TraceContext;

use super::{Agent, AgentError, GROUP};
use crate::image::ImageChange;
use crate::outbox::{Block, Content, OutboxError, lock};
use crate::source::port as sources;

/// Bytes of events that share one sync: rows may be large, and a group is in memory three times.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// The freshness of a source that was checked just now and taken as a whole.
pub(super) fn looked_at_now() -> Freshness {
    Freshness { at: now() }
}

/// The origin of events, as each event's source block names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    kind: &'static str,
    name: &'a str,
    /// Whether a whole register was compared. All other sources name their changes themselves.
    is_snapshot: bool,
}

impl<'a> Origin<'a> {
    /// Events that did not count, made again.
    pub(super) const REOPEN: Self = Self { kind: "reopen", name: "", is_snapshot: false };
    /// A local system's report of freshness, without events.
    pub(super) const WORD: Self = Self { kind: "http", name: "", is_snapshot: false };

    pub(super) fn of(source: &'a (dyn sources::Source + 'a)) -> Self {
        let is_snapshot = source.content() == sources::Content::Register;
        Self { kind: source.kind(), name: source.name(), is_snapshot }
    }

    const fn source(self, position: &'a str) -> Source<'a> {
        Source { kind: self.kind, name: self.name, position, snapshot: self.is_snapshot }
    }
}

/// A block that still has room.
#[derive(Debug, Clone, Default)]
struct TracedBlock {
    changes: OpenBlock,
    traces: Vec<(usize, TraceContext)>,
}

impl TracedBlock {
    /// Takes the block out, if it has changes.
    fn take(&mut self) -> Option<Content> {
        let Self { changes, traces } = std::mem::take(self);
        (!changes.is_empty()).then(|| Content::Block(Block::new(changes, traces)))
    }
}

/// Puts a source's changes into the outbox, group by group, and applies them to the images.
pub(super) struct Emitter<'a> {
    agent: &'a Agent,
    origin: Origin<'a>,
    /// Whole blocks of this group.
    contents: Vec<(Partition, Content)>,
    /// The block of each partition that still has room.
    open: PerPartition<TracedBlock>,
    /// Changes of this group, and their bytes.
    changes: usize,
    bytes: usize,
    /// The traced events of this group.
    followed: Vec<(Partition, StageSpan)>,
    image_changes: Vec<ImageChange>,
    /// Images after this group's changes: a key may change again before the group is folded.
    pending: HashMap<String, Option<Vec<u8>>>,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(agent: &'a Agent, origin: Origin<'a>) -> Self {
        Self {
            agent,
            origin,
            contents: Vec::new(),
            open: PerPartition::filled(agent.channel.partitions, TracedBlock::default()),
            changes: 0,
            bytes: 0,
            followed: Vec::new(),
            image_changes: Vec::with_capacity(GROUP),
            pending: HashMap::new(),
        }
    }

    /// Whether nothing waits to be put into the outbox.
    pub(super) fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// Makes the event from a key's present image to its new one; `false` if the two are equal.
    pub(super) fn put(&mut self, key: &str, after: Option<Vec<u8>>, line: u64) -> Result<bool, AgentError> {
        let before = match self.pending.get(key) {
            Some(image) => image.clone(),
            None => self.agent.images.get(key)?,
        };
        let op = match (&before, &after) {
            (before, after) if before == after => return Ok(false),
            (None, None) => return Ok(false),
            (None, Some(_)) => Op::Create,
            (Some(_), Some(_)) => Op::Update,
            (Some(_), None) => Op::Delete,
        };
        let at = now();
        let position = if line == 0 { String::new() } else { line.to_string() };
        let source = self.origin.source(&position);
        let change = Change {
            op,
            key,
            before: before.as_deref(),
            after: after.as_deref(),
            source,
            event_at: at,
            captured_at: at,
        };
        let mut datum = Vec::new();
        ChangeCodec::encode(&change, &mut datum);
        self.bytes += datum.len();
        let partition = partition::of_key(key.as_bytes(), self.agent.channel.partitions);
        let (followed, trace) = StageSpan::create(self.agent.channel.name.as_str(), partition).unzip();
        self.followed
            .extend(followed.map(|stage| (partition, stage.with("dit.source.kind", self.origin.kind))));
        self.add(partition, &datum, trace)?;
        self.pending.insert(key.to_owned(), after.clone());
        self.image_changes.push(ImageChange { key: key.to_owned(), after });
        if self.changes >= GROUP || self.bytes >= GROUP_BYTES {
            self.flush()?;
        }
        Ok(true)
    }

    /// Adds a change to its partition's block; a full block is closed before.
    fn add(
        &mut self,
        partition: Partition,
        datum: &[u8],
        trace: Option<TraceContext>,
    ) -> Result<(), AgentError> {
        // A key's partition is always one of the channel's.
        let Some(open) = self.open.get_mut(partition) else {
            return Err(OutboxError::NoPartition { partition }.into());
        };
        if !open.changes.has_room_for(datum.len()) {
            self.contents.extend(open.take().map(|block| (partition, block)));
        }
        let index = usize::try_from(open.changes.count()).unwrap_or(usize::MAX);
        open.traces.extend(trace.map(|trace| (index, trace)));
        open.changes.push(datum);
        self.changes += 1;
        Ok(())
    }

    /// Closes every block.
    fn close(&mut self) {
        for (partition, open) in self.open.iter_mut() {
            self.contents.extend(open.take().map(|block| (partition, block)));
        }
    }

    fn flush(&mut self) -> Result<(), AgentError> {
        self.close();
        let within =
            |(partition, stage): &(Partition, StageSpan)| stage.within(Stage::Store, "outbox", *partition);
        let storing: Vec<_> = self.followed.iter().map(within).collect();
        let next = {
            let mut outbox = lock(&self.agent.outbox);
            outbox.append(&self.agent.codec, &self.contents)?;
            outbox.next_position()
        };
        drop(storing);
        self.agent.images.apply(&self.image_changes, next)?;
        self.agent.appended.send_replace(next);
        (self.changes, self.bytes) = (0, 0);
        self.contents.clear();
        self.followed.clear();
        self.image_changes.clear();
        self.pending.clear();
        Ok(())
    }

    /// Puts the remaining events into the outbox, then a known freshness for every partition; syncs the images.
    pub(super) fn finish(mut self, freshness: Option<Freshness>) -> Result<(), AgentError> {
        if let Some(datum) = freshness.map(|freshness| freshness.encode()) {
            // Behind the last changes.
            self.close();
            let of = |partition| (partition, Content::Freshness(datum.clone()));
            self.contents.extend(Partition::all(self.agent.channel.partitions).map(of));
        }
        self.flush()?;
        let position = self.agent.images.position()?;
        self.agent.sync_images(position)
    }

    /// Single changes say nothing about the source's other rows. They are safe in the outbox; the images can be rebuilt
    /// from there, and are synced only from time to time.
    pub(super) fn finish_items(mut self) -> Result<(), AgentError> {
        self.flush()?;
        self.agent.sync_images_when_due()
    }
}
