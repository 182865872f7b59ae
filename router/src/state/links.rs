//! Whether a reading of a state topic has met everything that was committed.
//!
//! Owns the check. Offsets have gaps, so that they do not tell; each checkpoint names the one before it and the number of
//! its blocks, which stand right before it.

use schemas::ids::Offset;

/// What a checkpoint says of the records before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Link {
    /// The checkpoint before; `None` for the first.
    pub(super) previous: Option<Offset>,
    /// Blocks of its commit.
    pub(super) blocks: u64,
}

/// A record that should be there and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Missing {
    #[error("the checkpoint at {0} is missing")]
    Checkpoint(Offset),
    #[error("a block before the checkpoint at {0} is missing")]
    Block(Offset),
}

/// What a reading has met so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    first: Offset,
    checkpoint: Option<Offset>,
    /// Since that checkpoint.
    blocks: u64,
}

impl Links {
    /// A reading that begins at an offset.
    pub(super) const fn from(first: Offset) -> Self {
        Self { first, checkpoint: None, blocks: 0 }
    }

    /// The reading met a block.
    pub(super) const fn block(&mut self) {
        self.blocks += 1;
    }

    /// The reading met a checkpoint: is everything before it that the reading should have met?
    pub(super) fn checkpoint(&mut self, at: Offset, link: Link) -> Result<(), Missing> {
        let previous = link.previous.filter(|previous| *previous >= self.first);
        if let Some(previous) = previous.filter(|previous| self.checkpoint != Some(*previous)) {
            return Err(Missing::Checkpoint(previous));
        }
        // The reading may have begun within the commit.
        let due = link.blocks.min(at.get().saturating_sub(self.first.get()));
        if self.blocks < due {
            return Err(Missing::Block(at));
        }
        self.checkpoint = Some(at);
        self.blocks = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Commits at consecutive offsets, with a gap behind each: true for a block, false for a checkpoint.
    fn topic(sizes: &[u64]) -> Vec<(u64, Option<Link>)> {
        let mut records = Vec::new();
        let mut next = 3;
        let mut previous = None;
        for size in sizes {
            records.extend((0..*size).map(|block| (next + block, None)));
            let checkpoint = next + size;
            records.push((checkpoint, Some(Link { previous, blocks: *size })));
            previous = Some(Offset::new(checkpoint));
            next = checkpoint + 2;
        }
        records
    }

    fn read(records: &[(u64, Option<Link>)], first: u64) -> Result<(), Missing> {
        let mut links = Links::from(Offset::new(first));
        records.iter().filter(|(at, _)| *at >= first).try_for_each(|(at, link)| match link {
            None => {
                links.block();
                Ok(())
            }
            Some(link) => links.checkpoint(Offset::new(*at), *link),
        })
    }

    proptest! {
        /// From wherever a whole topic is read, it is whole; and without any record but the last it is not.
        #[test]
        fn a_missing_record_is_noticed(sizes in proptest::collection::vec(0..4_u64, 1..6), from in any::<prop::sample::Index>(), lost in any::<prop::sample::Index>()) {
            let records = topic(&sizes);
            let from = from.index(records.len());
            let first = records[from].0;
            prop_assert_eq!(read(&records, first), Ok(()));
            let lost = lost.index(records.len());
            if lost >= from && lost + 1 < records.len() {
                let mut without = records.clone();
                without.remove(lost);
                prop_assert!(read(&without, first).is_err(), "{records:?} from {first} without {lost}");
            }
        }
    }
}
