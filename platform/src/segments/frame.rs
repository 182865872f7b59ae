//! One frame: length and checksum (little-endian, 4 bytes each), then the payload.
//!
//! Owns the eight bytes. A frame that is cut short or does not match its checksum counts as absent.

use super::error::SegmentError;

/// Bytes before a payload.
pub(super) const HEAD: usize = 8;
/// The largest payload: more than a record of the log needs.
pub(super) const MAX_PAYLOAD: usize = 64 * 1024 * 1024;

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
    sum.copy_from_slice(&checksum(payload).to_le_bytes());
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

/// The beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A whole frame with its payload.
    Payload(&'a [u8]),
    /// The buffer ends inside the frame, which needs so many bytes in all.
    Short(usize),
    Damaged,
}

/// Parses the beginning of a buffer.
pub(super) fn parse(bytes: &[u8]) -> Found<'_> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else { return Found::Short(HEAD) };
    let (Some(length), Some(sum)) = (word(head, 0), word(head, 4)) else { return Found::Damaged };
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= MAX_PAYLOAD) else {
        return Found::Damaged;
    };
    match rest.get(..length) {
        None => Found::Short(HEAD + length),
        Some(payload) if checksum(payload) == sum => Found::Payload(payload),
        Some(_) => Found::Damaged,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// A checksum that is not zero for an empty payload, so that zero bytes are no frame.
fn checksum(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(b"dit");
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
    }
}
