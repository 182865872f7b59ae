//! From new images to events in the outbox, group by group.
//!
//! Owns the order *outbox first, then images*. The before image comes from the agent's own images, or from an earlier
//! change of the same group.

use std::collections::HashMap;
use std::fmt::Write as _;

use platform::clock::now;
use platform::traces::{Stage, StageSpan};
use schemas::block::OpenBlock;
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::ids::Partition;
use schemas::marks::Freshness;
use schemas::partition;
use schemas::per_partition::PerPartition;
use schemas::trace::TraceContext;

use super::{Agent, AgentError};
use crate::image::ImageChange;
use crate::outbox::{Block, Content, OutboxError, lock};
use crate::source::port as sources;
use crate::take::spool::SpooledRow;

/// Changes that share one sync of the outbox, over all partitions: enough for full blocks in each, and for a sync to
/// cost little beside them.
const GROUP: usize = 16_000;
/// Keys that are looked up together: their images may be large.
const LOOKED_UP: usize = 128;
/// Bytes of events after which the rest of a group waits for the next sync: their images before count, too.
const SYNC_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of new images that share one sync: rows may be large, and a group is in memory some five times.
const GROUP_BYTES: usize = 2 * 1024 * 1024;

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

/// A key's new image, wanted by the source.
struct Wanted {
    key: String,
    after: Option<Vec<u8>>,
    /// The line in the source; 0 where it has none.
    line: u64,
    /// Whether a survey found that the key has no image.
    is_new: bool,
}

/// Puts a source's changes into the outbox, group by group, and applies them to the images.
pub(super) struct Emitter<'a> {
    agent: &'a Agent,
    origin: Origin<'a>,
    /// What the source wants of this group, and its bytes.
    wanted: Vec<Wanted>,
    bytes: usize,
    /// For each key that was wanted so far, whether it became an event.
    became_event: Vec<bool>,
    /// Whole blocks of this group.
    contents: Vec<(Partition, Content)>,
    /// The block of each partition that still has room.
    open: PerPartition<TracedBlock>,
    /// The traced events of this group.
    followed: Vec<(Partition, StageSpan)>,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(agent: &'a Agent, origin: Origin<'a>) -> Self {
        Self {
            agent,
            origin,
            wanted: Vec::new(),
            bytes: 0,
            became_event: Vec::new(),
            contents: Vec::new(),
            open: PerPartition::filled(agent.channel.partitions, TracedBlock::default()),
            followed: Vec::new(),
        }
    }

    /// Takes a key's new image; the event from its present one is made with its group.
    pub(super) fn put(&mut self, key: String, after: Option<Vec<u8>>, line: u64) -> Result<(), AgentError> {
        self.want(Wanted { key, after, line, is_new: false })
    }

    /// Takes a row that a survey has put aside.
    pub(super) fn put_row(&mut self, row: SpooledRow) -> Result<(), AgentError> {
        let SpooledRow { key, datum, line, is_new, .. } = row;
        self.want(Wanted { key, after: Some(datum), line, is_new })
    }

    fn want(&mut self, wanted: Wanted) -> Result<(), AgentError> {
        self.bytes += wanted.key.len() + wanted.after.as_ref().map_or(0, Vec::len);
        self.wanted.push(wanted);
        match self.wanted.len() >= GROUP || self.bytes >= GROUP_BYTES {
            true => self.store(None),
            false => Ok(()),
        }
    }

    /// Makes the events of wanted images until there are enough for a sync; returns how many it looked at.
    fn make_events(&mut self, wanted: &[Wanted]) -> Result<usize, AgentError> {
        let at = now();
        // A key may change again before this is folded into the images.
        let mut last: HashMap<&str, usize> = HashMap::with_capacity(wanted.len());
        let mut position = String::new();
        let mut datum = Vec::new();
        let mut made = 0;
        for (number, group) in wanted.chunks(LOOKED_UP).enumerate() {
            let known = group.iter().filter(|wanted| !wanted.is_new);
            let keys: Vec<&str> = known.map(|wanted| wanted.key.as_str()).collect();
            let mut images = self.agent.images.get(&keys)?.into_iter();
            for (index, one) in group.iter().enumerate() {
                let image = if one.is_new { None } else { images.next().flatten() };
                let earlier = last.insert(&one.key, number * LOOKED_UP + index);
                let earlier = earlier.and_then(|index| wanted.get(index));
                let before = earlier.map_or(&image, |earlier| &earlier.after).as_deref();
                let after = one.after.as_deref();
                let op = match (before, after) {
                    (before, after) if before == after => None,
                    (None, _) => Some(Op::Create),
                    (Some(_), Some(_)) => Some(Op::Update),
                    (Some(_), None) => Some(Op::Delete),
                };
                self.became_event.push(op.is_some());
                let Some(op) = op else { continue };
                position.clear();
                if one.line > 0 {
                    // Writing to a string does not fail.
                    let _ = write!(position, "{}", one.line);
                }
                let source = self.origin.source(&position);
                let change =
                    Change { op, key: &one.key, before, after, source, event_at: at, captured_at: at };
                datum.clear();
                ChangeCodec::encode(&change, &mut datum);
                made += datum.len();
                self.add(&one.key, &datum)?;
            }
            if made >= SYNC_BYTES {
                return Ok(wanted.len().min((number + 1) * LOOKED_UP));
            }
        }
        Ok(wanted.len())
    }

    /// Adds a key's change to its partition's block; a full block is closed before.
    fn add(&mut self, key: &str, datum: &[u8]) -> Result<(), AgentError> {
        let partition = partition::of_key(key.as_bytes(), self.agent.channel.partitions);
        let (followed, trace) = StageSpan::create(self.agent.channel.name.as_str(), partition).unzip();
        self.followed
            .extend(followed.map(|stage| (partition, stage.with("dit.source.kind", self.origin.kind))));
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
        Ok(())
    }

    /// Makes the events of this group, and puts them into the outbox with what comes behind them.
    fn store(&mut self, behind: Option<&Content>) -> Result<(), AgentError> {
        let mut wanted = std::mem::take(&mut self.wanted);
        self.bytes = 0;
        // The rows of a whole register have no order; neighbouring keys are looked up together. All other changes keep
        // theirs.
        if self.origin.is_snapshot {
            wanted.sort_by(|one, other| one.key.cmp(&other.key));
        }
        loop {
            let first = self.became_event.len();
            let made = self.make_events(&wanted)?;
            let is_event = self.became_event.get(first..).unwrap_or_default();
            let changed = wanted.drain(..made).zip(is_event).filter(|(_, is_event)| **is_event);
            let changes = changed.map(|(Wanted { key, after, .. }, _)| ImageChange { key, after }).collect();
            if wanted.is_empty() {
                return self.append(changes, behind);
            }
            self.append(changes, None)?;
        }
    }

    /// Puts the made events into the outbox, with what comes behind them, and applies them to the images.
    fn append(&mut self, changes: Vec<ImageChange>, behind: Option<&Content>) -> Result<(), AgentError> {
        for (partition, open) in self.open.iter_mut() {
            self.contents.extend(open.take().map(|block| (partition, block)));
        }
        if let Some(behind) = behind {
            let of = |partition| (partition, behind.clone());
            self.contents.extend(Partition::all(self.agent.channel.partitions).map(of));
        }
        let within =
            |(partition, stage): &(Partition, StageSpan)| stage.within(Stage::Store, "outbox", *partition);
        let storing: Vec<_> = self.followed.iter().map(within).collect();
        let next = {
            let mut outbox = lock(&self.agent.outbox);
            outbox.append(&self.agent.codec, &self.contents)?;
            outbox.next_position()
        };
        drop(storing);
        self.agent.images.apply(changes, next)?;
        self.agent.appended.send_replace(next);
        self.contents.clear();
        self.followed.clear();
        Ok(())
    }

    /// Puts what waits into the outbox; returns whether any event was made so far.
    pub(super) fn flush(&mut self) -> Result<bool, AgentError> {
        self.store(None)?;
        Ok(self.became_event.contains(&true))
    }

    /// Puts the remaining events into the outbox, then a known freshness for every partition; the images are synced behind
    /// that, since they can be made again from the outbox.
    pub(super) fn finish(mut self, freshness: Option<Freshness>) -> Result<(), AgentError> {
        // Behind the last changes.
        let freshness = freshness.map(|freshness| Content::Freshness(freshness.encode()));
        self.store(freshness.as_ref())?;
        Ok(self.agent.images.sync_behind()?)
    }

    /// Single changes say nothing about the source's other rows. They are safe in the outbox; the images can be rebuilt
    /// from there, and are synced only from time to time. Returns for each key in its order whether it became an event.
    pub(super) fn finish_items(mut self) -> Result<Vec<bool>, AgentError> {
        self.flush()?;
        self.agent.sync_images_when_due()?;
        Ok(self.became_event)
    }
}
