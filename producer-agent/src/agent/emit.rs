//! From new images to events in the outbox, group by group.
//!
//! Owns the order *outbox first, then images*. The before image comes from the agent's own images, or from an earlier
//! change of the same group.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use platform::clock::now;
use platform::traces::StageSpan;
use schemas::block::OpenBlock;
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::ids::Partition;
use schemas::marks::Freshness;
use schemas::partition;
use schemas::per_partition::PerPartition;
use schemas::trace::TraceContext;

use super::wanted::{Wanted, WantedGroup};
use super::writer::{Batch, Writer};
use super::{Agent, AgentError};
use crate::image::ImageChange;
use crate::outbox::{Block, Content, OutboxError};
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

/// Puts a source's changes into the outbox, group by group, and applies them to the images.
pub(super) struct Emitter<'a> {
    agent: &'a Agent,
    origin: Origin<'a>,
    writer: Writer<'a>,
    /// What the source wants of this group.
    wanted: WantedGroup,
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
        Self::with_writer(agent, origin, Writer::Here(agent))
    }

    pub(super) fn with_writer(agent: &'a Agent, origin: Origin<'a>, writer: Writer<'a>) -> Self {
        Self {
            agent,
            origin,
            writer,
            wanted: WantedGroup::default(),
            became_event: Vec::new(),
            contents: Vec::new(),
            open: PerPartition::filled(agent.channel.partitions, TracedBlock::default()),
            followed: Vec::new(),
        }
    }

    /// Takes a key's new image; the event from its present one is made with its group.
    pub(super) fn put(&mut self, change: ImageChange<'_>, line: u64) -> Result<(), AgentError> {
        self.want(change, line, false)
    }

    /// Takes a row that a survey has put aside.
    pub(super) fn put_row(&mut self, row: SpooledRow<'_>) -> Result<(), AgentError> {
        let SpooledRow { key, datum, line, is_new, .. } = row;
        self.want(ImageChange { key, after: Some(datum) }, line, is_new)
    }

    fn want(&mut self, change: ImageChange<'_>, line: u64, is_new: bool) -> Result<(), AgentError> {
        self.wanted.put(change, line, is_new);
        match self.wanted.rows().len() >= GROUP || self.wanted.bytes() >= GROUP_BYTES {
            true => self.store(None),
            false => Ok(()),
        }
    }

    /// Makes the events of wanted images until there are enough for a sync; returns how many it looked at.
    fn make_events(&mut self, group: &WantedGroup, wanted: &[Wanted]) -> Result<usize, AgentError> {
        let at = now();
        // A key may change again before this is applied to the images. A register has each key once.
        let mut last: HashMap<&str, Option<&[u8]>> = HashMap::new();
        let mut position = String::new();
        let mut datum = Vec::new();
        let mut made = 0;
        for (number, part) in wanted.chunks(LOOKED_UP).enumerate() {
            let known = part.iter().filter(|wanted| !wanted.is_new);
            let keys: Vec<&str> = known.map(|wanted| group.change(wanted).key).collect();
            let mut images = self.agent.images.get(&keys)?.into_iter();
            for one in part {
                let ImageChange { key, after } = group.change(one);
                let image = if one.is_new { None } else { images.next().flatten() };
                let earlier = if self.origin.is_snapshot { None } else { last.insert(key, after) };
                let before = earlier.unwrap_or(image.as_deref());
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
                let change = Change { op, key, before, after, source, event_at: at, captured_at: at };
                datum.clear();
                ChangeCodec::encode(&change, &mut datum);
                made += datum.len();
                self.add(key, &datum)?;
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
        let mut group = std::mem::take(&mut self.wanted);
        // The rows of a whole register have no order; neighbouring keys are looked up together. All other changes keep
        // theirs.
        if self.origin.is_snapshot {
            group.sort();
        }
        let group = Arc::new(group);
        let mut wanted = group.rows();
        loop {
            let first = self.became_event.len();
            let made = self.make_events(&group, wanted)?;
            let is_event = self.became_event.get(first..).unwrap_or_default();
            let (looked_at, others) = wanted.split_at_checked(made).unwrap_or((wanted, &[]));
            let changed = looked_at.iter().zip(is_event).filter(|(_, is_event)| **is_event);
            let changed = changed.map(|(wanted, _)| wanted.clone()).collect();
            if others.is_empty() {
                return self.append(&group, changed, behind);
            }
            self.append(&group, changed, None)?;
            wanted = others;
        }
    }

    /// Lets the made events be written, with what comes behind them.
    fn append(
        &mut self,
        group: &Arc<WantedGroup>,
        changed: Vec<Wanted>,
        behind: Option<&Content>,
    ) -> Result<(), AgentError> {
        for (partition, open) in self.open.iter_mut() {
            self.contents.extend(open.take().map(|block| (partition, block)));
        }
        if let Some(behind) = behind {
            let of = |partition| (partition, behind.clone());
            self.contents.extend(Partition::all(self.agent.channel.partitions).map(of));
        }
        let contents = std::mem::take(&mut self.contents);
        let followed = std::mem::take(&mut self.followed);
        self.writer.put(Batch { contents, changed, group: Arc::clone(group), followed })
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
        self.writer.finish()?;
        Ok(self.agent.images.sync_behind()?)
    }

    /// Lets the events that were made go into the outbox, and no more.
    pub(super) fn give_up(mut self) -> Result<(), AgentError> {
        self.writer.finish()
    }

    /// Single changes say nothing about the source's other rows. They are safe in the outbox; the images can be rebuilt
    /// from there, and are synced only from time to time. Returns for each key in its order whether it became an event.
    pub(super) fn finish_items(mut self) -> Result<Vec<bool>, AgentError> {
        self.flush()?;
        self.agent.sync_images_when_due()?;
        Ok(self.became_event)
    }
}
