//! Avro's binary primitives over byte slices: read with bounds, append to a buffer.
//!
//! Owns varints and length prefixes; knows no schema.

/// A datum that is not what its schema says, with the byte where that was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatumError {
    /// The bytes end inside a value.
    #[error("the datum ends at byte {at} in the middle of a {what}")]
    Truncated {
        /// Byte within the datum.
        at: usize,
        /// Which kind of value was being read.
        what: &'static str,
    },
    /// A value that the schema does not allow.
    #[error("at byte {at}: {what}")]
    Invalid {
        /// Byte within the datum.
        at: usize,
        what: &'static str,
    },
    /// Bytes are left after the value.
    #[error("{extra} bytes are left after the datum's end at byte {at}")]
    Trailing {
        /// Where the value ended.
        at: usize,
        /// How many bytes follow.
        extra: usize,
    },
}

/// A position in a datum that only moves forward and never past the end.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The beginning of a datum.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// A position within a datum; a position past its end becomes the end.
    pub const fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        let at = if at < bytes.len() { at } else { bytes.len() };
        Self { bytes, at }
    }

    /// All bytes, passed or not.
    pub const fn whole(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many bytes were passed.
    pub const fn at(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The bytes that are left.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// The bytes between an earlier position and this one.
    pub fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], DatumError> {
        let end = self.at.checked_add(count).ok_or(DatumError::Truncated { at: self.at, what })?;
        let taken = self.bytes.get(self.at..end).ok_or(DatumError::Truncated { at: self.at, what })?;
        self.at = end;
        Ok(taken)
    }

    pub fn byte(&mut self, what: &'static str) -> Result<u8, DatumError> {
        let at = self.at;
        self.take(1, what)?.first().copied().ok_or(DatumError::Truncated { at, what })
    }

    /// A zig-zag varint of at most 64 bits.
    pub fn long(&mut self) -> Result<i64, DatumError> {
        let start = self.at;
        let mut raw = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte("number")?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            raw |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
            }
        }
        Err(DatumError::Invalid { at: start, what: "a number is longer than 64 bits" })
    }

    /// A zig-zag varint that fits 32 bits.
    pub fn int(&mut self) -> Result<i32, DatumError> {
        let start = self.at;
        i32::try_from(self.long()?)
            .map_err(|_| DatumError::Invalid { at: start, what: "an int is beyond 32 bits" })
    }

    /// A length, which must not be negative.
    pub fn length(&mut self) -> Result<usize, DatumError> {
        let start = self.at;
        usize::try_from(self.long()?)
            .map_err(|_| DatumError::Invalid { at: start, what: "a negative length" })
    }

    /// Length-prefixed bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], DatumError> {
        let length = self.length()?;
        self.take(length, "bytes")
    }

    /// Length-prefixed UTF-8.
    pub fn string(&mut self) -> Result<&'a str, DatumError> {
        let start = self.at;
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| DatumError::Invalid { at: start, what: "a string is not UTF-8" })
    }

    /// Fails if bytes are left.
    pub fn end(&self) -> Result<(), DatumError> {
        match self.left() {
            0 => Ok(()),
            extra => Err(DatumError::Trailing { at: self.at, extra }),
        }
    }
}

/// Appends a zig-zag varint.
pub fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.push(u8::try_from(raw & 0x7f).unwrap_or(0) | 0x80);
        raw >>= 7;
    }
    out.push(u8::try_from(raw).unwrap_or(0));
}

/// Appends a length; lengths of things in memory fit 63 bits.
pub fn put_length(out: &mut Vec<u8>, length: usize) {
    put_long(out, i64::try_from(length).unwrap_or(i64::MAX));
}

/// Appends length-prefixed bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends length-prefixed UTF-8.
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longs_round_trip_at_every_edge() {
        for value in [0, -1, 1, 63, -64, 64, 8192, -8193, i64::from(i32::MAX), i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put_long(&mut out, value);
            let mut cursor = Cursor::new(&out);
            assert_eq!(cursor.long(), Ok(value));
            assert_eq!(cursor.end(), Ok(()));
        }
    }

    #[test]
    fn an_endless_number_is_refused() {
        assert!(matches!(Cursor::new(&[0xff; 12]).long(), Err(DatumError::Invalid { .. })));
        assert!(matches!(Cursor::new(&[0xff; 3]).long(), Err(DatumError::Truncated { .. })));
    }

    #[test]
    fn a_length_beyond_the_end_allocates_nothing() {
        let mut out = Vec::new();
        put_long(&mut out, i64::MAX);
        assert!(matches!(Cursor::new(&out).bytes(), Err(DatumError::Truncated { .. })));
        let mut negative = Vec::new();
        put_long(&mut negative, -3);
        assert!(matches!(Cursor::new(&negative).bytes(), Err(DatumError::Invalid { .. })));
    }
}
