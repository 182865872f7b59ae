//! One frame: length and checksum (little-endian, 4 bytes each), then the payload.
//!
//! Owns the eight bytes. A frame that is cut short or does not match its checksum does not exist.

/// Bytes before a payload.
pub(super) const HEAD: usize = 8;
/// No payload is larger: a record of the log, with room.
pub(super) const MAX_PAYLOAD: usize = 64 * 1024 * 1024;

/// Appends a frame to a buffer.
pub(super) fn put(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&checksum(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// What stands at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A whole frame with its payload.
    Payload(&'a [u8]),
    /// The buffer ends inside it; so many bytes are needed in all.
    Short(usize),
    /// No frame.
    Damaged,
}

/// Looks at the beginning of a buffer.
pub(super) fn parse(bytes: &[u8]) -> Found<'_> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else { return Found::Short(HEAD) };
    let (Some(length), Some(sum)) = (word(head, 0), word(head, 4)) else { return Found::Damaged };
    let Ok(length) = usize::try_from(length) else { return Found::Damaged };
    if length > MAX_PAYLOAD {
        return Found::Damaged;
    }
    match rest.get(..length) {
        None => Found::Short(HEAD + length),
        Some(payload) if checksum(payload) == sum => Found::Payload(payload),
        Some(_) => Found::Damaged,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// Never zero for an empty payload, so that a run of zero bytes is no frame.
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
