//! From new images to events in the outbox, group by group.
//!
//! Owns the order *outbox first, then images*. The before image comes from the agent's own images and from what
//! the same group has made of them.

use std::collections::HashMap;

use platform::clock::now;
use platform::traces::{Stage, StageSpan};
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::ids::Partition;
use schemas::marks::Freshness;
use schemas::partition;

use super::{Agent, AgentError, GROUP};
use crate::image::ImageChange;
use crate::outbox::{Content, lock};
use crate::source::port as sources;

/// Bytes of events that share one sync: rows may be large, and a group is in memory three times.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// The word that the source was looked at just now, and all of it is told.
pub(super) fn looked_at_now() -> Freshness {
    Freshness { at: now() }
}

/// What events are made from; each event's source block says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    kind: &'static str,
    name: &'a str,
    /// Whether a whole register was compared. All other sources say themselves what has changed.
    is_snapshot: bool,
}

impl<'a> Origin<'a> {
    /// Events that did not count, made again.
    pub(super) const REOPEN: Self = Self { kind: "reopen", name: "", is_snapshot: false };
    /// A local system's word on freshness: there are no events.
    pub(super) const WORD: Self = Self { kind: "http", name: "", is_snapshot: false };

    pub(super) fn of(source: &'a (dyn sources::Source + 'a)) -> Self {
        let is_snapshot = source.content() == sources::Content::Register;
        Self { kind: source.kind(), name: source.name(), is_snapshot }
    }

    const fn source(self, position: &'a str) -> Source<'a> {
        Source { kind: self.kind, name: self.name, position, snapshot: self.is_snapshot }
    }
}

/// Puts a source's changes into the outbox, group by group, and applies them to the images.
pub(super) struct Emitter<'a> {
    agent: &'a Agent,
    origin: Origin<'a>,
    contents: Vec<(Partition, Content)>,
    /// Bytes of the contents.
    bytes: usize,
    /// Events of this group that somebody follows.
    followed: Vec<(Partition, StageSpan)>,
    image_changes: Vec<ImageChange>,
    /// What this group has made of a key: a key may change again before the group is folded.
    pending: HashMap<String, Option<Vec<u8>>>,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(agent: &'a Agent, origin: Origin<'a>) -> Self {
        Self {
            agent,
            origin,
            contents: Vec::with_capacity(GROUP),
            bytes: 0,
            followed: Vec::new(),
            image_changes: Vec::with_capacity(GROUP),
            pending: HashMap::new(),
        }
    }

    /// Whether nothing waits to be put into the outbox.
    pub(super) fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Makes the event of a key's new image, on top of the present one; whether there is one.
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
        self.contents.push((partition, Content::Change { key: key.to_owned(), datum, trace }));
        self.pending.insert(key.to_owned(), after.clone());
        self.image_changes.push(ImageChange { key: key.to_owned(), after });
        if self.contents.len() >= GROUP || self.bytes >= GROUP_BYTES {
            self.flush()?;
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), AgentError> {
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
        self.bytes = 0;
        self.contents.clear();
        self.followed.clear();
        self.image_changes.clear();
        self.pending.clear();
        Ok(())
    }

    /// How fresh the register is now follows its events, in every partition; nothing where nobody knows.
    pub(super) fn finish(mut self, freshness: Option<Freshness>) -> Result<(), AgentError> {
        if let Some(datum) = freshness.map(|freshness| freshness.encode()) {
            let of = |partition| (partition, Content::Freshness(datum.clone()));
            self.contents.extend(Partition::all(self.agent.channel.partitions).map(of));
        }
        self.flush()?;
        let position = self.agent.images.position()?;
        self.agent.sync_images(position)
    }

    /// Single changes say nothing of what else there may be. They are safe in the outbox; the images follow from it, and
    /// are synced from time to time only.
    pub(super) fn finish_items(mut self) -> Result<(), AgentError> {
        self.flush()?;
        self.agent.sync_images_when_due()
    }
}
