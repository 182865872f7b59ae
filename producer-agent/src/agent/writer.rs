//! Batches of events into the outbox, and then into the images.
//!
//! Owns that order. A register's batches go into the outbox on a thread of their own, while the next ones are made and those
//! before them go into the images: each of its keys comes once, so that no event waits for the image of another one. The
//! thread is joined before the writer is done.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use platform::segments::SegmentError;
use platform::traces::{Stage, StageSpan};
use schemas::ids::Partition;

use super::wanted::{Wanted, WantedGroup};
use super::{Agent, AgentError};
use crate::outbox::{Content, lock};

/// Batches that wait for the thread.
const WAITING: usize = 1;

/// Events that share one sync of the outbox, and what they change.
pub(super) struct Batch {
    pub(super) contents: Vec<(Partition, Content)>,
    /// The rows of the group that became events.
    pub(super) changed: Vec<Wanted>,
    pub(super) group: Arc<WantedGroup>,
    /// The traced events.
    pub(super) followed: Vec<(Partition, StageSpan)>,
}

/// A batch that is in the outbox, and the position after it.
type Stored = (Batch, u64);

/// A thread that puts batches into the outbox.
pub(super) struct Behind<'a> {
    agent: &'a Agent,
    batches: SyncSender<Batch>,
    stored: Receiver<Stored>,
    thread: ScopedJoinHandle<'a, Result<(), AgentError>>,
}

/// Writes batches.
pub(super) enum Writer<'a> {
    /// At once.
    Here(&'a Agent),
    /// On a thread.
    Behind(Behind<'a>),
    /// The thread has ended.
    Done,
}

impl<'a> Behind<'a> {
    fn start(agent: &'a Agent, scope: &'a Scope<'a, '_>) -> std::io::Result<Self> {
        let (batches, waiting) = sync_channel::<Batch>(WAITING);
        // Never full: those that wait, the one that is being stored, and the next one.
        let (done, stored) = sync_channel::<Stored>(WAITING + 2);
        let store = move || {
            waiting.into_iter().try_for_each(|batch| {
                let next = agent.store(&batch)?;
                // Whoever reads no more has an error of its own.
                let _ = done.send((batch, next));
                Ok(())
            })
        };
        let thread = thread::Builder::new().name("outbox".to_owned()).spawn_scoped(scope, store)?;
        Ok(Self { agent, batches, stored, thread })
    }

    /// Hands a batch over, after those that are stored are in the images; whether the thread took it.
    fn put(&self, batch: Batch) -> Result<bool, AgentError> {
        self.stored.try_iter().try_for_each(|(batch, next)| self.agent.apply(&batch, next))?;
        Ok(self.batches.send(batch).is_ok())
    }

    /// Every batch that is stored goes into the images, or the images are lost: that is said before anything else.
    fn finish(self) -> Result<(), AgentError> {
        let Self { agent, batches, stored, thread } = self;
        drop(batches);
        let mut applied = Ok(());
        for (batch, next) in stored {
            applied = applied.and(agent.apply(&batch, next));
        }
        let written = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        applied.and(written)
    }
}

impl<'a> Writer<'a> {
    /// Writes on a thread, where the machine has one left.
    pub(super) fn behind(agent: &'a Agent, scope: &'a Scope<'a, '_>) -> Self {
        Behind::start(agent, scope).map_or_else(
            |error| {
                tracing::warn!(%error, "a register is taken without a thread of its own");
                Self::Here(agent)
            },
            Self::Behind,
        )
    }

    /// Writes a batch; on a thread, an error may be of an earlier one.
    pub(super) fn put(&mut self, batch: Batch) -> Result<(), AgentError> {
        let was_taken = match self {
            Self::Here(agent) => {
                let next = agent.store(&batch)?;
                return agent.apply(&batch, next);
            }
            Self::Behind(behind) => behind.put(batch)?,
            Self::Done => false,
        };
        if was_taken {
            return Ok(());
        }
        self.finish()?;
        let error = std::io::Error::other("its thread has ended");
        Err(SegmentError::Io { path: "outbox".into(), error }.into())
    }

    /// Waits until all batches are written.
    pub(super) fn finish(&mut self) -> Result<(), AgentError> {
        match std::mem::replace(self, Self::Done) {
            Self::Behind(behind) => behind.finish(),
            Self::Here(_) | Self::Done => Ok(()),
        }
    }
}

impl Agent {
    /// Puts events into the outbox; returns the position after them.
    fn store(&self, batch: &Batch) -> Result<u64, AgentError> {
        let within =
            |(partition, stage): &(Partition, StageSpan)| stage.within(Stage::Store, "outbox", *partition);
        let storing: Vec<_> = batch.followed.iter().map(within).collect();
        let next = {
            let mut outbox = lock(&self.outbox);
            outbox.append(&self.codec, &batch.contents)?;
            outbox.next_position()
        };
        drop(storing);
        self.appended.send_replace(next);
        Ok(next)
    }

    /// Applies what became events to the images, which then reflect the outbox up to a position.
    fn apply(&self, batch: &Batch, next: u64) -> Result<(), AgentError> {
        let changes: Vec<_> = batch.changed.iter().map(|wanted| batch.group.change(wanted)).collect();
        Ok(self.images.apply(&changes, next)?)
    }
}
