//! The folds at places where readers have begun: when a router ends, all its streams begin at a few places at once.
//!
//! Owns how many of them are kept, and that each is read once, however many readers wait for it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use schemas::cursor::Place;
use schemas::ids::Offset;

use crate::error::ReaderError;
use crate::fold::Fold;
use crate::source::PartitionSource;

/// Places of a partition that are kept: streams that keep up stand at one, or at the few where chunks ended last.
const KEPT: usize = 16;

/// A fold that was reached from a checkpoint.
struct Known {
    checkpoint: Offset,
    offset: Offset,
    fold: Fold,
}

#[derive(Default)]
struct Kept {
    places: VecDeque<Known>,
    /// The first offset that was held, and where a reader of everything began then.
    earliest: Option<(Offset, Fold, Offset)>,
    /// How often all was forgotten.
    losses: u64,
}

#[derive(Default)]
pub(crate) struct Places {
    kept: Mutex<Kept>,
    /// One reader reads at a time; the next one finds what it has read.
    turn: tokio::sync::Mutex<()>,
}

impl Places {
    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets everything: the log may be another one.
    pub(crate) fn forget(&self) {
        self.with(|kept| *kept = Kept { losses: kept.losses + 1, ..Kept::default() });
    }

    /// The fold at a place of a log that holds everything from `first` on, and the offset to read from: the place's, unless
    /// its checkpoint begins behind it.
    pub(crate) async fn fold_at(
        &self,
        source: &PartitionSource,
        place: Place,
        first: Offset,
    ) -> Result<(Fold, Offset), ReaderError> {
        if place.checkpoint < first {
            return Err(ReaderError::TooOld { wanted: place.checkpoint });
        }
        let _turn = self.turn.lock().await;
        let (losses, nearest) = self.with(|kept| (kept.losses, kept.nearest(place)));
        let (mut fold, mut at) = match nearest {
            Some(known) => known,
            None => source.at_checkpoint(place.checkpoint).await?,
        };
        if at >= place.offset {
            return Ok((fold, at));
        }
        while at < place.offset {
            at = source.fold_on(&mut fold, at, place.offset).await?;
        }
        let Place { checkpoint, offset } = place;
        self.with(|kept| kept.keep(losses, Known { checkpoint, offset, fold: fold.clone() }));
        Ok((fold, at))
    }

    /// The fold at the first checkpoint that is still held, and the offset to read from.
    pub(crate) async fn earliest(&self, source: &PartitionSource) -> Result<(Fold, Offset), ReaderError> {
        let first = source.bounds().await?.first;
        let _turn = self.turn.lock().await;
        let (losses, known) = self.with(|kept| (kept.losses, kept.earliest.clone()));
        if let Some((held, fold, offset)) = known
            && held == first
        {
            return Ok((fold, offset));
        }
        let (fold, offset) = source.first_checkpoint().await?;
        self.with(|kept| {
            if kept.losses == losses {
                kept.earliest = Some((first, fold.clone(), offset));
            }
        });
        Ok((fold, offset))
    }
}

impl Kept {
    /// The last fold before a place, or at it, that was reached from the place's own checkpoint.
    fn nearest(&self, place: Place) -> Option<(Fold, Offset)> {
        let before = |known: &&Known| known.checkpoint == place.checkpoint && known.offset <= place.offset;
        let nearest = self.places.iter().filter(before).max_by_key(|known| known.offset)?;
        Some((nearest.fold.clone(), nearest.offset))
    }

    fn keep(&mut self, losses: u64, known: Known) {
        if self.losses != losses {
            return;
        }
        self.places.push_back(known);
        if self.places.len() > KEPT {
            self.places.pop_front();
        }
    }
}
