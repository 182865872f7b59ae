//! Batches of events into the outbox, and then into the images.
//!
//! Owns that order. A register's batches are written on a thread of their own, while the next ones are made: each of its keys
//! comes once, so that no event waits for the image of another one. The thread is joined before the writer is done.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
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

/// Writes batches.
pub(super) enum Writer<'a> {
    /// At once.
    Here(&'a Agent),
    /// On a thread.
    Behind(SyncSender<Batch>, ScopedJoinHandle<'a, Result<(), AgentError>>),
    /// The thread has ended.
    Done,
}

impl<'a> Writer<'a> {
    /// Writes on a thread, where the machine has one left.
    pub(super) fn behind(agent: &'a Agent, scope: &'a Scope<'a, '_>) -> Self {
        let (batches, written) = sync_channel::<Batch>(WAITING);
        let writing = move || written.into_iter().try_for_each(|batch| agent.write(batch));
        match thread::Builder::new().name("outbox".to_owned()).spawn_scoped(scope, writing) {
            Ok(thread) => Self::Behind(batches, thread),
            Err(error) => {
                tracing::warn!(%error, "a register is taken without a thread of its own");
                Self::Here(agent)
            }
        }
    }

    /// Writes a batch; on a thread, an error may be of an earlier one.
    pub(super) fn put(&mut self, batch: Batch) -> Result<(), AgentError> {
        let was_taken = match self {
            Self::Here(agent) => return agent.write(batch),
            Self::Behind(batches, _) => batches.send(batch).is_ok(),
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
        let Self::Behind(batches, thread) = std::mem::replace(self, Self::Done) else { return Ok(()) };
        drop(batches);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Agent {
    /// Puts events into the outbox, and then applies them to the images.
    fn write(&self, batch: Batch) -> Result<(), AgentError> {
        let Batch { contents, changed, group, followed } = batch;
        let within =
            |(partition, stage): &(Partition, StageSpan)| stage.within(Stage::Store, "outbox", *partition);
        let storing: Vec<_> = followed.iter().map(within).collect();
        let next = {
            let mut outbox = lock(&self.outbox);
            outbox.append(&self.codec, &contents)?;
            outbox.next_position()
        };
        drop(storing);
        let changes: Vec<_> = changed.iter().map(|wanted| group.change(wanted)).collect();
        self.images.apply(&changes, next)?;
        self.appended.send_replace(next);
        Ok(())
    }
}
