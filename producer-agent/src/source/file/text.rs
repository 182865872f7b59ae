//! A file's bytes as lines of text.
//!
//! Owns decoding and the ends of lines. It marks the positions that cannot be decoded: a replacement character that is
//! in the file itself has no such mark.

use std::collections::VecDeque;
use std::io::{self, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding};

use crate::source::location::{Location, Widths};

const BUFFER: usize = 64 * 1024;
/// A longer record has lost its end: an image takes at most a tenth of this.
pub(super) const MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;

/// A line with its end, as decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Line {
    /// Its text, with its end.
    pub(super) text: String,
    /// How many bytes of the text are its end.
    pub(super) end: usize,
    /// Positions of the text that could not be decoded, and their bytes in the file.
    pub(super) bad: Vec<(usize, usize)>,
    /// Whether its end was not found within [`MAX_RECORD_BYTES`].
    pub(super) is_cut: bool,
}

impl Line {
    /// Its text without its end.
    pub(super) fn content(&self) -> &str {
        self.text.get(..self.text.len() - self.end).unwrap_or_default()
    }
}

pub(super) struct Lines<R> {
    input: R,
    decoder: Decoder,
    raw: Vec<u8>,
    at: usize,
    ended: bool,
    /// Decoded text; what begins at `from` is not split into lines yet.
    text: String,
    from: usize,
    bad: VecDeque<(usize, usize)>,
    mark: u64,
    unread: VecDeque<Line>,
    /// Memory for a line.
    spare: String,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R, encoding: &'static Encoding) -> Self {
        Self {
            input,
            decoder: encoding.new_decoder(),
            raw: Vec::new(),
            at: 0,
            ended: false,
            text: String::new(),
            from: 0,
            bad: VecDeque::new(),
            mark: 0,
            unread: VecDeque::new(),
            spare: String::new(),
        }
    }

    /// Takes back the memory of a line that nobody reads any more.
    pub(super) fn reuse(&mut self, spare: String) {
        self.spare = spare;
    }

    /// Where the text begins: after a byte order mark.
    pub(super) const fn start(&self) -> Location {
        Location { byte: self.mark, ..Location::START }
    }

    /// The widths of a text of this file.
    pub(super) fn widths(&self, bad: Vec<(usize, usize)>) -> Widths {
        Widths::new(self.decoder.encoding(), bad)
    }

    /// The file's encoding, which a byte order mark may have changed.
    pub(super) fn encoding(&self) -> &'static Encoding {
        self.decoder.encoding()
    }

    /// Puts lines back: they are read next.
    pub(super) fn unread(&mut self, lines: impl DoubleEndedIterator<Item = Line>) {
        lines.rev().for_each(|line| self.unread.push_front(line));
    }

    /// The next line; `None` at the end. Of a line beyond [`MAX_RECORD_BYTES`] only the beginning is useful.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        if let Some(line) = self.unread.pop_front() {
            return Ok(Some(line));
        }
        let mut searched = self.from;
        loop {
            let bytes = self.text.as_bytes();
            let rest = bytes.get(searched..).unwrap_or_default();
            let found = memchr::memchr2(b'\n', b'\r', rest).map(|index| index + searched);
            let length = self.text.len() - self.from;
            match found.map(|index| (index, bytes.get(index), bytes.get(index + 1))) {
                Some((index, Some(b'\r'), Some(b'\n'))) => return Ok(Some(self.split(index + 2, 2))),
                // The next byte may be the line feed that belongs to it.
                Some((index, Some(b'\r'), None)) if !self.ended => searched = index,
                Some((index, ..)) => return Ok(Some(self.split(index + 1, 1))),
                None if self.ended && length == 0 => return Ok(None),
                None if self.ended => return Ok(Some(self.split(self.text.len(), 0))),
                None if length > MAX_RECORD_BYTES => {
                    return Ok(Some(Line { is_cut: true, ..self.split(self.text.len(), 0) }));
                }
                None => searched = self.text.len(),
            }
            searched -= self.from;
            self.fill()?;
        }
    }

    /// The line that ends here.
    fn split(&mut self, to: usize, end: usize) -> Line {
        let mut text = std::mem::take(&mut self.spare);
        text.clear();
        text.push_str(self.text.get(self.from..to).unwrap_or_default());
        let mut bad = Vec::new();
        while let Some((at, width)) = self.bad.pop_front_if(|(at, _)| *at < to) {
            bad.push((at - self.from, width));
        }
        self.from = to;
        Line { text, end, bad, is_cut: false }
    }

    /// Reads more bytes; text that is not split yet moves to the beginning.
    fn fill(&mut self) -> io::Result<()> {
        self.text.drain(..self.from);
        self.bad.iter_mut().for_each(|(at, _)| *at -= self.from);
        self.from = 0;
        if self.at == self.raw.len() && !self.ended {
            let is_first = self.raw.is_empty();
            self.raw.resize(BUFFER, 0);
            let got = read_some(&mut self.input, &mut self.raw)?;
            self.raw.truncate(got);
            self.at = 0;
            self.ended = got == 0;
            if is_first {
                self.mark =
                    Encoding::for_bom(&self.raw).map_or(0, |(_, length)| u64::try_from(length).unwrap_or(0));
            }
        }
        loop {
            let pending = self.raw.get(self.at..).unwrap_or_default();
            let room = self.decoder.max_utf8_buffer_length_without_replacement(pending.len());
            self.text.reserve(room.unwrap_or(BUFFER * 3));
            let (result, read) =
                self.decoder.decode_to_string_without_replacement(pending, &mut self.text, self.ended);
            self.at += read;
            match result {
                DecoderResult::InputEmpty => return Ok(()),
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(length, _) => {
                    self.bad.push_back((self.text.len(), usize::from(length)));
                    self.text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
    }
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use encoding_rs::{UTF_8, WINDOWS_1257};
    use proptest::prelude::*;

    /// Gives few bytes at a time.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(out.len());
            let (now, later) = self.0.split_at(length);
            out[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    fn lines(bytes: &[u8], step: usize, encoding: &'static Encoding) -> Vec<Line> {
        let mut lines = Lines::new(Drops(bytes, step), encoding);
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn what_cannot_be_decoded_is_told_from_a_replacement_character() {
        let found = lines("a\u{fffd}b\n".as_bytes(), 1, UTF_8);
        assert_eq!((found[0].content(), found[0].bad.len()), ("a\u{fffd}b", 0));
        let found = lines(b"x\na\xe2b\xffc", 1, UTF_8);
        assert_eq!(found[1].text, "a\u{fffd}b\u{fffd}c");
        assert_eq!(found[1].bad, [(1, 1), (5, 1)]);
    }

    #[test]
    fn an_encoding_without_a_mark_is_what_it_is_said_to_be() {
        let (bytes, ..) = WINDOWS_1257.encode("ž\r\nū");
        let found = lines(&bytes, 1, WINDOWS_1257);
        assert_eq!((found[0].content(), found[0].end, found[1].content()), ("ž", 2, "ū"));
    }

    proptest! {
        #[test]
        fn lines_are_the_text_however_it_comes(text in "[aā\r\n😀]{0,40}", step in 1..5_usize) {
            let found = lines(text.as_bytes(), step, UTF_8);
            prop_assert_eq!(found.iter().map(|line| line.text.as_str()).collect::<String>(), text.as_str());
            let unified = text.replace("\r\n", "\n").replace('\r', "\n");
            let expected: Vec<&str> = unified.split_inclusive('\n').map(|line| line.trim_end_matches('\n')).collect();
            prop_assert_eq!(found.iter().map(Line::content).collect::<Vec<_>>(), expected);
        }
    }
}
