//! Locations in a file, for people who must find what is wrong there.
//!
//! Owns the counting of lines, characters and bytes. Every end of a line counts once: LF, CR LF, or CR alone.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use serde::Serialize;

/// A position in a file, as the file is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The line, counted from 1.
    pub line: u64,
    /// The character within the line, counted from 1.
    pub character: u64,
    /// The byte within the file, counted from 0.
    pub byte: u64,
}

impl Location {
    /// A location in no file.
    pub const NONE: Self = Self { line: 0, character: 0, byte: 0 };
    /// Where a file begins.
    pub const START: Self = Self { line: 1, character: 1, byte: 0 };

    /// The location after a text that begins here and has these widths.
    pub fn behind(self, text: &str, widths: &Widths) -> Self {
        let mut location = Self { byte: self.byte + widths.of(text), ..self };
        let bytes = text.as_bytes();
        let mut from = 0;
        for end in memchr::memchr2_iter(b'\n', b'\r', bytes) {
            // It ends with its line feed.
            if bytes.get(end..end + 2) != Some(b"\r\n") {
                (location.line, location.character, from) = (location.line + 1, 1, end + 1);
            }
        }
        let last = text.get(from..).unwrap_or_default().chars().count();
        location.character += u64::try_from(last).unwrap_or(u64::MAX);
        location
    }
}

/// How many bytes a decoded text takes in its file.
#[derive(Debug, Clone)]
pub struct Widths {
    encoding: &'static Encoding,
    /// What could not be decoded: its position in the text, and its bytes in the file.
    bad: Vec<(usize, usize)>,
}

impl Widths {
    /// For a text of this encoding, with the positions that could not be decoded.
    pub const fn new(encoding: &'static Encoding, bad: Vec<(usize, usize)>) -> Self {
        Self { encoding, bad }
    }

    fn of(&self, text: &str) -> u64 {
        let mut bytes = 0;
        let mut from = 0;
        for (at, width) in self.bad.iter().take_while(|(at, _)| *at < text.len()) {
            bytes += self.decoded(text.get(from..*at).unwrap_or_default()) + width;
            from = at + char::REPLACEMENT_CHARACTER.len_utf8();
        }
        bytes += self.decoded(text.get(from..).unwrap_or_default());
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn decoded(&self, text: &str) -> usize {
        if self.encoding == UTF_8 {
            text.len()
        } else if self.encoding == UTF_16LE || self.encoding == UTF_16BE {
            text.chars().map(|c| c.len_utf16() * 2).sum()
        } else if self.encoding.is_single_byte() {
            text.chars().count()
        } else {
            self.encoding.encode(text).0.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_a_line_counts_once() {
        let widths = Widths::new(UTF_8, vec![]);
        let at = |text: &str| {
            let location = Location::START.behind(text, &widths);
            (location.line, location.character, location.byte)
        };
        assert_eq!(at(""), (1, 1, 0));
        assert_eq!(at("ā,b"), (1, 4, 4));
        assert_eq!(at("a\r\nb\rc\nd"), (4, 2, 8));
    }

    #[test]
    fn bytes_are_the_files_own() {
        let behind = |encoding, bad: &[(usize, usize)], text: &str| {
            Location::START.behind(text, &Widths::new(encoding, bad.to_vec())).byte
        };
        assert_eq!(behind(UTF_16LE, &[], "aā😀"), 8);
        assert_eq!(behind(encoding_rs::WINDOWS_1257, &[], "aāž"), 3);
        assert_eq!(behind(UTF_8, &[(1, 1)], "a\u{fffd}b"), 3);
        assert_eq!(behind(encoding_rs::SHIFT_JIS, &[], "a表"), 3);
    }
}
