//! Raw files as the verification reads them: the `csv` crate makes records of bytes, and each is checked against its
//! bytes.
//!
//! Owns its own rules of reading: a record counts only if its cells, written again, give exactly its bytes. It knows
//! nothing of the agents' tokeniser.

use std::path::Path;

use anyhow::Context;
use encoding_rs::{Encoding, UTF_8};

/// How the files are to be read.
#[derive(Debug, Clone)]
pub struct Reading {
    pub delimiter: u8,
    pub encoding: String,
    /// Steps that make spellings of one key equal.
    pub normalise: Vec<String>,
}

/// A file's bytes, in an encoding in which a quote is one byte.
pub(super) struct Raw {
    pub(super) header: Vec<String>,
    bytes: Vec<u8>,
    encoding: &'static Encoding,
    delimiter: u8,
    has_header: bool,
    /// Whether its conversion to UTF-8 lost something: then a replacement character is not a cell's own.
    has_lost: bool,
}

pub(super) enum RawRow {
    /// Its cells; `None` for a cell whose bytes are not of the encoding.
    Cells(Vec<Option<String>>),
    /// Another width than the header's.
    Ragged,
    /// Its quotes follow no rule.
    Broken,
}

impl RawRow {
    pub(super) fn cells(&self) -> Option<&[Option<String>]> {
        if let Self::Cells(cells) = self { Some(cells) } else { None }
    }

    /// All cells, where each can be read.
    pub(super) fn whole(&self) -> Option<Vec<String>> {
        self.cells()?.iter().cloned().collect()
    }

    pub(super) const fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

impl Raw {
    pub(super) fn read(file: &Path, reading: &Reading, header: Option<&[String]>) -> anyhow::Result<Self> {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        let named = Encoding::for_label(reading.encoding.as_bytes()).context("unknown encoding")?;
        let (encoding, mark) = Encoding::for_bom(&bytes).unwrap_or((named, 0));
        let bytes = bytes.get(mark..).unwrap_or_default();
        // In wide encodings a quote is more than one byte: these are converted to UTF-8 first.
        let (bytes, encoding, has_lost) = if encoding.is_ascii_compatible() {
            (bytes.to_vec(), encoding, false)
        } else {
            let (text, has_lost) = encoding.decode_without_bom_handling(bytes);
            (text.into_owned().into_bytes(), UTF_8, has_lost)
        };
        let has_header = header.is_none();
        let mut raw =
            Self { header: Vec::new(), bytes, encoding, delimiter: reading.delimiter, has_header, has_lost };
        raw.header = match header {
            Some(header) => header.to_vec(),
            None => {
                let first = raw.records().next().context("the file is empty")?;
                raw.row(&first, None).and_then(|row| row.whole()).context("the header cannot be read")?
            }
        };
        Ok(raw)
    }

    /// The rows up to the first one after which nothing can be trusted.
    pub(super) fn rows(&self) -> impl Iterator<Item = RawRow> + '_ {
        let mut is_over = false;
        self.records().skip(usize::from(self.has_header)).map_while(move |record| {
            if is_over {
                return None;
            }
            let row = self.row(&record, Some(self.header.len()));
            is_over = row.is_none();
            Some(row.unwrap_or(RawRow::Broken))
        })
    }

    fn records(&self) -> impl Iterator<Item = (csv::ByteRecord, &[u8])> + '_ {
        let reader = || {
            csv::ReaderBuilder::new()
                .delimiter(self.delimiter)
                .has_headers(false)
                .flexible(true)
                .from_reader(self.bytes.as_slice())
        };
        let start = |record: &csv::ByteRecord| {
            let at = record.position().map_or(0, csv::Position::byte);
            usize::try_from(at).unwrap_or(usize::MAX)
        };
        let mut following = reader().into_byte_records().skip(1);
        reader().into_byte_records().map_while(Result::ok).map(move |record| {
            let end = following.next().and_then(Result::ok).map_or(self.bytes.len(), |next| start(&next));
            let raw = self.bytes.get(start(&record)..end).unwrap_or_default();
            (record, raw)
        })
    }

    /// A record as a row; `None` where nothing after it can be trusted.
    fn row(&self, (record, raw): &(csv::ByteRecord, &[u8]), width: Option<usize>) -> Option<RawRow> {
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let from = raw.iter().position(|byte| !is_end(byte)).unwrap_or(raw.len());
        let to = raw.iter().rposition(|byte| !is_end(byte)).map_or(from, |last| last + 1);
        let written = raw.get(from..to).unwrap_or_default();
        if !self.is_written(record, written) {
            let is_alone = !written.iter().any(is_end) && Some(self.pieces(written)) == width.map(Some);
            return is_alone.then_some(RawRow::Broken);
        }
        if width.is_some_and(|width| width != record.len()) {
            return Some(RawRow::Ragged);
        }
        let text = |cell: &[u8]| {
            let read = self.encoding.decode_without_bom_handling_and_without_replacement(cell)?.into_owned();
            let is_lost = self.has_lost && read.contains(char::REPLACEMENT_CHARACTER);
            (!is_lost && !read.contains('\0')).then_some(read)
        };
        Some(RawRow::Cells(record.iter().map(text).collect()))
    }

    /// Whether these cells, written by the rule, give these bytes.
    fn is_written(&self, record: &csv::ByteRecord, mut written: &[u8]) -> bool {
        for (index, cell) in record.iter().enumerate() {
            if index > 0 {
                match written.split_first() {
                    Some((byte, rest)) if *byte == self.delimiter => written = rest,
                    _ => return false,
                }
            }
            let mut expected = Vec::with_capacity(cell.len() + 2);
            if written.first() == Some(&b'"') {
                expected.push(b'"');
                for byte in cell {
                    expected.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
                }
                expected.push(b'"');
            } else {
                expected.extend_from_slice(cell);
                if cell.trim_ascii_start().first() == Some(&b'"') {
                    return false;
                }
            }
            match written.strip_prefix(expected.as_slice()) {
                Some(rest) => written = rest,
                None => return false,
            }
        }
        written.is_empty()
    }

    /// How many pieces a line has, cut at the delimiters after an even number of quotes; `None` where the quotes do not
    /// pair up.
    fn pieces(&self, line: &[u8]) -> Option<usize> {
        let parts: Vec<&[u8]> = line.split(|byte| *byte == b'"').collect();
        let is_even = parts.len() % 2 == 1;
        let outside = parts.iter().step_by(2).flat_map(|part| part.iter());
        is_even.then(|| 1 + outside.filter(|byte| **byte == self.delimiter).count())
    }
}
