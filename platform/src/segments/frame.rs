//! One frame: length and checksum (little-endian, 4 bytes each), then the payload; or a gap, which gives the number of
//! positions without a payload.
//!
//! Owns the eight bytes. A frame that is cut short or does not match its checksum counts as absent.

use super::error::SegmentError;

/// Bytes before a payload.
pub(super) const HEAD: usize = 8;
/// The largest payload: more than a record of the log needs.
pub(super) const MAX_PAYLOAD: usize = 64 * 1024 * 1024;

/// The bit that marks a gap, in the length.
const GAP: u32 = 0x8000_0000;
/// Bytes of a gap's payload, which is its number of positions.
pub(super) const GAP_PAYLOAD: usize = 8;

/// Appends a frame to a buffer.
pub(super) fn put(out: &mut Vec<u8>, payload: &[u8]) {
    put_with(out, |out| out.extend_from_slice(payload));
}

/// Appends a frame whose payload is written in place.
fn put_with(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    write(out);
    let Some((head, payload)) = out.get_mut(start..).and_then(|frame| frame.split_at_mut_checked(HEAD))
    else {
        return;
    };
    let (length, sum) = head.split_at_mut(4);
    length.copy_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    sum.copy_from_slice(&checksum(b"dit", payload).to_le_bytes());
}

/// Frames that are appended together.
#[derive(Debug, Default)]
pub struct Frames {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u64,
    largest: usize,
}

impl Frames {
    /// Empties it, and keeps its memory for the next frames.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.count, self.largest) = (0, 0);
    }

    /// Refuses a frame that is too large: it could be written, but never be read.
    pub(super) const fn check(&self) -> Result<(), SegmentError> {
        match self.largest > MAX_PAYLOAD {
            true => Err(SegmentError::TooLarge { size: self.largest, limit: MAX_PAYLOAD }),
            false => Ok(()),
        }
    }

    /// Adds a frame whose payload is written in place.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        put_with(&mut self.bytes, write);
        self.largest = self.largest.max((self.bytes.len() - before).saturating_sub(HEAD));
        self.count += 1;
    }
}

/// Appends a gap to a buffer.
pub(super) fn put_gap(out: &mut Vec<u8>, positions: u64) {
    let payload = positions.to_le_bytes();
    out.extend_from_slice(&(GAP | u32::try_from(GAP_PAYLOAD).unwrap_or(0)).to_le_bytes());
    out.extend_from_slice(&checksum(b"gap", &payload).to_le_bytes());
    out.extend_from_slice(&payload);
}

/// The beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A whole frame with its payload.
    Payload(&'a [u8]),
    /// A gap of so many positions.
    Gap(u64),
    /// The buffer ends inside the frame, which needs so many bytes in all.
    Short(usize),
    Damaged,
}

/// Parses the beginning of a buffer.
pub(super) fn parse(bytes: &[u8]) -> Found<'_> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else { return Found::Short(HEAD) };
    let (Some(length), Some(sum)) = (word(head, 0), word(head, 4)) else { return Found::Damaged };
    let is_gap = length & GAP != 0;
    let Ok(length) = usize::try_from(length & !GAP) else { return Found::Damaged };
    if length > MAX_PAYLOAD || (is_gap && length != GAP_PAYLOAD) {
        return Found::Damaged;
    }
    match (rest.get(..length), is_gap) {
        (None, _) => Found::Short(HEAD + length),
        (Some(payload), false) if checksum(b"dit", payload) == sum => Found::Payload(payload),
        (Some(payload), true) if checksum(b"gap", payload) == sum => {
            payload.try_into().map_or(Found::Damaged, |bytes| Found::Gap(u64::from_le_bytes(bytes)))
        }
        (Some(_), _) => Found::Damaged,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// A checksum that depends on the kind of frame; not zero for an empty payload, so that zero bytes are no frame.
fn checksum(kind: &[u8; 3], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(kind);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_or_is_none() {
        let mut bytes = Vec::new();
        put(&mut bytes, b"hello");
        assert_eq!(parse(&bytes), Found::Payload(b"hello"));
        for end in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..end]), Found::Short(_)));
        }
        for at in 4..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert_eq!(parse(&wrong), Found::Damaged);
        }
        assert_eq!(parse(&[0; 64]), Found::Damaged, "zeros are no frames");
        let mut gap = Vec::new();
        put_gap(&mut gap, 1_000_000);
        assert_eq!(parse(&gap), Found::Gap(1_000_000));
        gap[3] ^= 0x80;
        assert_eq!(parse(&gap), Found::Damaged, "a gap is no payload");
    }
}
