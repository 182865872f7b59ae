//! From new images to events in the outbox, group by group.
//!
//! Owns the order *outbox first, then images*. The before image comes from the agent's own images and from what
//! the same group has made of them.

use std::collections::HashMap;

use platform::clock::now;
use platform::traces::{Step, Stepping};
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::ids::Partition;
use schemas::marks::Freshness;
use schemas::partition;

use super::{Agent, AgentError, GROUP};
use crate::image::Fold;
use crate::outbox::{Content, lock};

/// Bytes of events that share one sync: rows may be large, and a group is in memory three times.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// The word that the source was looked at just now, and all of it is told.
pub(super) fn looked_at_now() -> Freshness {
    Freshness { at: now() }
}

/// Puts a file's changes into the outbox, group by group, and folds them into the images.
pub(super) struct Emitter<'a> {
    agent: &'a Agent,
    /// The kind of source, and its name.
    source: (&'a str, &'a str),
    contents: Vec<(Partition, Content)>,
    /// Bytes of the contents.
    bytes: usize,
    /// Events of this group that somebody follows.
    followed: Vec<(Partition, Stepping)>,
    folds: Vec<Fold>,
    /// What this group has made of a key: a key may change again before the group is folded.
    pending: HashMap<String, Option<Vec<u8>>>,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(agent: &'a Agent, file: &'a str) -> Self {
        Self::of(agent, "file", file)
    }

    pub(super) fn of(agent: &'a Agent, kind: &'a str, name: &'a str) -> Self {
        Self {
            agent,
            source: (kind, name),
            contents: Vec::with_capacity(GROUP),
            bytes: 0,
            followed: Vec::new(),
            folds: Vec::with_capacity(GROUP),
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
        let (kind, name) = self.source;
        let source = Source { kind, name, position: &position, snapshot: kind == "file" };
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
        let (followed, trace) = Stepping::create(self.agent.channel.name.as_str(), partition).unzip();
        self.followed.extend(followed.map(|step| (partition, step.with("dit.source.kind", kind.to_owned()))));
        self.contents.push((partition, Content::Change { key: key.to_owned(), datum, trace }));
        self.pending.insert(key.to_owned(), after.clone());
        self.folds.push(Fold { key: key.to_owned(), after });
        if self.contents.len() >= GROUP || self.bytes >= GROUP_BYTES {
            self.flush()?;
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), AgentError> {
        let within =
            |(partition, step): &(Partition, Stepping)| step.within(Step::Store, "outbox", *partition);
        let storing: Vec<_> = self.followed.iter().map(within).collect();
        let next = {
            let mut outbox = lock(&self.agent.outbox);
            outbox.append(&self.agent.codec, &self.contents)?;
            outbox.next_position()
        };
        drop(storing);
        self.agent.images.apply(&self.folds, next)?;
        self.agent.appended.send_replace(next);
        self.bytes = 0;
        self.contents.clear();
        self.followed.clear();
        self.folds.clear();
        self.pending.clear();
        Ok(())
    }

    /// How fresh the register is now follows its events, in every partition; nothing where nobody knows.
    pub(super) fn finish(mut self, freshness: Option<Freshness>) -> Result<(), AgentError> {
        if let Some(datum) = freshness.map(|freshness| freshness.encode()) {
            let of = |number| (Partition::new(number), Content::Freshness(datum.clone()));
            self.contents.extend((0..self.agent.channel.partitions).map(of));
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
