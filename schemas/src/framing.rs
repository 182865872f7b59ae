//! Confluent wire framing: 0x00, the schema id as 4 bytes big-endian, the bare datum.
//!
//! Owns the five bytes and nothing else.

use crate::ids::SchemaId;

/// A value that is not framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer than five bytes.
    #[error("the value has {0} bytes; the frame alone takes 5")]
    Short(usize),
    /// Another first byte than 0.
    #[error("the value begins with byte {0:#04x}, not with 0x00: it is not in Confluent's wire format")]
    Magic(u8),
}

/// Appends a frame; its datum follows.
pub fn put(id: SchemaId, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&id.get().to_be_bytes());
}

/// The datum with its frame in front.
pub fn frame(id: SchemaId, datum: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(datum.len() + 5);
    put(id, &mut out);
    out.extend_from_slice(datum);
    out
}

/// The schema id and the bare datum.
pub fn unframe(value: &[u8]) -> Result<(SchemaId, &[u8]), FrameError> {
    match value {
        [0, a, b, c, d, datum @ ..] => Ok((SchemaId::new(u32::from_be_bytes([*a, *b, *c, *d])), datum)),
        [magic, ..] if value.len() >= 5 => Err(FrameError::Magic(*magic)),
        _ => Err(FrameError::Short(value.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_off_as_they_went_on() {
        assert_eq!(unframe(&frame(SchemaId::new(258), b"xyz")), Ok((SchemaId::new(258), &b"xyz"[..])));
        assert_eq!(frame(SchemaId::new(258), b""), [0, 0, 0, 1, 2]);
    }

    #[test]
    fn a_short_or_foreign_frame_is_named() {
        assert_eq!(unframe(&[0, 0, 0, 1]), Err(FrameError::Short(4)));
        assert_eq!(unframe(b""), Err(FrameError::Short(0)));
        assert_eq!(unframe(&[0xc3, 1, 0, 0, 0, 0]), Err(FrameError::Magic(0xc3)));
    }
}
