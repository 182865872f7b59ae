//! The position of an event in its partition: the block that it is in, and its index there.
//!
//! Owns the order and the text of positions. Cursors have none: they stand between blocks.

use std::fmt;
use std::str::FromStr;

use crate::ids::Offset;

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

#[cfg(test)]
mod tests {
    use super::*;

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
