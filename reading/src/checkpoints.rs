//! The folds at checkpoints where readers have begun: when a router ends, all its streams begin at the same few.
//!
//! Owns how many of them are kept, and that each is read once, however many readers wait for it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use schemas::ids::Offset;

use crate::error::ReaderError;
use crate::fold::Fold;
use crate::source::PartitionSource;

/// Checkpoints of a partition that are kept: streams that keep up have passed the same one last.
const KEPT: usize = 4;

/// Where a reader begins: a fold, and the offset to read from.
type Begin = (Fold, Offset);

#[derive(Default)]
struct Kept {
    /// By the checkpoint's offset.
    known: VecDeque<(Offset, Begin)>,
    /// The first offset that was held, and where a reader of everything began then.
    earliest: Option<(Offset, Begin)>,
    /// How often all was forgotten.
    losses: u64,
}

#[derive(Default)]
pub(crate) struct Checkpoints {
    kept: Mutex<Kept>,
    /// One reader reads at a time; the next one finds what it has read.
    turn: tokio::sync::Mutex<()>,
}

impl Checkpoints {
    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps something, unless all was forgotten since it was begun.
    fn keep(&self, losses: u64, work: impl FnOnce(&mut Kept)) {
        self.with(|kept| {
            if kept.losses == losses {
                work(kept);
            }
        });
    }

    /// Forgets everything: the log may be another one.
    pub(crate) fn forget(&self) {
        self.with(|kept| *kept = Kept { losses: kept.losses + 1, ..Kept::default() });
    }

    /// Where a reader begins at a checkpoint of a log that holds everything from `first` on.
    pub(crate) async fn at(
        &self,
        source: &PartitionSource,
        checkpoint: Offset,
        first: Offset,
    ) -> Result<Begin, ReaderError> {
        let (fold, offset) = self.read(source, checkpoint).await?;
        match offset >= first {
            true => Ok((fold, offset)),
            false => Err(ReaderError::TooOld { wanted: offset }),
        }
    }

    async fn read(&self, source: &PartitionSource, checkpoint: Offset) -> Result<Begin, ReaderError> {
        let _turn = self.turn.lock().await;
        let find = |kept: &mut Kept| {
            let known = kept.known.iter().find(|(at, _)| *at == checkpoint);
            (kept.losses, known.map(|(_, begin)| begin.clone()))
        };
        let (losses, known) = self.with(find);
        if let Some(begin) = known {
            return Ok(begin);
        }
        let begin = source.at_checkpoint(checkpoint).await?;
        self.keep(losses, |kept| {
            kept.known.push_back((checkpoint, begin.clone()));
            if kept.known.len() > KEPT {
                kept.known.pop_front();
            }
        });
        Ok(begin)
    }

    /// Where a reader begins at the first checkpoint that is still held.
    pub(crate) async fn earliest(&self, source: &PartitionSource) -> Result<Begin, ReaderError> {
        let first = source.bounds().await?.first;
        let _turn = self.turn.lock().await;
        let (losses, known) = self.with(|kept| (kept.losses, kept.earliest.clone()));
        if let Some((held, begin)) = known
            && held == first
        {
            return Ok(begin);
        }
        let begin = source.first_checkpoint().await?;
        self.keep(losses, |kept| kept.earliest = Some((first, begin.clone())));
        Ok(begin)
    }
}
