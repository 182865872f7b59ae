//! The position of an event in its partition: the block that it is in, and its index there.
//!
//! Owns the order and the text of positions. Cursors have none: they stand between blocks.

use std::fmt;
use std::str::FromStr;

use crate::ids::Offset;
use crate::limits::MAX_BLOCK_CHANGES;

/// An event's position in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventPosition {
    /// The log offset of the event's block.
    pub offset: Offset,
    /// Counted from 0 in the block.
    pub index: u32,
}

/// A text that is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event's position is its block's offset and its index there, as in 12.0")]
pub struct PositionError;

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.offset, self.index)
    }
}

impl FromStr for EventPosition {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (offset, index) = text.split_once('.').ok_or(PositionError)?;
        let offset = Offset::new(offset.parse().map_err(|_| PositionError)?);
        Ok(Self { offset, index: index.parse().map_err(|_| PositionError)? })
    }
}

/// Positions as text: neighbours of one block are one run, as in `12.0+3 14.7`, which is 12.0, 12.1, 12.2 and 14.7.
pub fn runs(positions: &[EventPosition]) -> String {
    let mut text = String::new();
    let follows = |before: &EventPosition, at: &EventPosition| {
        before.offset == at.offset && before.index.checked_add(1) == Some(at.index)
    };
    for run in positions.chunk_by(follows) {
        let Some(first) = run.first() else { continue };
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&first.to_string());
        if run.len() > 1 {
            text.push_str(&format!("+{}", run.len()));
        }
    }
    text
}

/// The positions of [`runs`]: at most those of one block.
pub fn parse_runs(text: &str) -> Result<Vec<EventPosition>, PositionError> {
    let mut positions = Vec::new();
    for run in text.split_ascii_whitespace() {
        let (first, count) = match run.split_once('+') {
            None => (run, 1),
            Some((first, count)) => (first, count.parse().map_err(|_| PositionError)?),
        };
        let EventPosition { offset, index } = first.parse()?;
        let held = u32::try_from(positions.len()).unwrap_or(u32::MAX);
        let end = index.checked_add(count).ok_or(PositionError)?;
        if held.saturating_add(count) > MAX_BLOCK_CHANGES {
            return Err(PositionError);
        }
        positions.extend((index..end).map(|index| EventPosition { offset, index }));
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_positions_survive_their_runs(picked in proptest::collection::vec((0..4_u64, 0..6_u32), 0..40)) {
            let at = |(offset, index)| EventPosition { offset: Offset::new(offset), index };
            let positions: Vec<EventPosition> = picked.into_iter().map(at).collect();
            prop_assert_eq!(parse_runs(&runs(&positions)), Ok(positions));
        }
    }

    #[test]
    fn neighbours_are_one_run_and_no_run_is_longer_than_a_block() {
        let at = |offset, index| EventPosition { offset: Offset::new(offset), index };
        assert_eq!(runs(&[at(12, 0), at(12, 1), at(12, 2), at(14, 7)]), "12.0+3 14.7");
        for bad in ["12", "12.0+", "12.0+x", "1.0+2001", "1.0+2000 2.0", "1.4294967295+1", "+3"] {
            assert_eq!(parse_runs(bad), Err(PositionError), "{bad}");
        }
    }

    #[test]
    fn positions_are_ordered_by_block_and_survive_their_text() {
        let at = |offset, index| EventPosition { offset: Offset::new(offset), index };
        assert!(at(1, 9) < at(2, 0) && at(2, 0) < at(2, 1));
        assert_eq!(at(12, 3).to_string().parse(), Ok(at(12, 3)));
        for bad in ["", "12", "12.", ".3", "12.x", "-1.0"] {
            assert_eq!(bad.parse::<EventPosition>(), Err(PositionError), "{bad}");
        }
    }
}
