//! Rows of delimited text: which lines make one, and what its cells are.
//!
//! Owns how far a broken quote reaches. Where a quote may have turned rows into text, it refuses the row or reports it.

use super::super::delimited::{Fault, FaultKind, Found, Progress, Scan, lenient};
use super::super::text::{Line, MAX_RECORD_BYTES};
use super::{Extent, Noted, Row, Table};
use crate::source::cells::{Cell, Cells};
use crate::source::format::Quoting;
use crate::source::location::Location;

/// By RFC 4180 such lines are a cell; where quotes may be broken, they may be rows.
const ROW_LIKE: &str = "the quote that is opened here takes lines for text that look like rows: correct it, or say quoting = \"rfc4180\" \
     if the source writes such cells";

fn note(noted: &mut Noted, location: Location) {
    let (count, first) = noted.unwrap_or((0, location));
    *noted = Some((count + 1, first));
}

impl Table {
    pub(super) fn delimited(&mut self, first: Line, delimiter: u8, quoting: Quoting) -> Row {
        let mut scan = Scan::new(delimiter, quoting, self.header.len());
        let mut progress = scan.line(&first.text, first.end);
        if progress == Progress::Whole {
            return self.line(first, scan, quoting);
        }
        let mut bad = first.bad.clone();
        let mut taken = vec![first.clone()];
        let (mut row, _) = self.begin(first);
        while progress == Progress::Open && row.text.len() <= MAX_RECORD_BYTES {
            let Ok(Some(line)) = self.lines.next() else { break };
            bad.extend(line.bad.iter().map(|(at, width)| (at + row.text.len(), *width)));
            row.text.push_str(&line.text);
            progress = scan.line(&row.text, line.end);
            taken.push(line);
        }
        row.widths = self.lines.widths(bad.clone());
        if let (Some(at), Quoting::Rfc4180) = (scan.loose, quoting)
            && progress == Progress::Whole
        {
            note(&mut self.loose, row.behind(at));
        }
        let fault = match progress {
            Progress::Whole if self.may_hold_rows(&taken, delimiter) => {
                return self.quoted_rows(row, scan.cells, &bad, quoting);
            }
            Progress::Whole => return self.cells(row, scan.cells, &bad),
            Progress::Broken(fault) => fault,
            Progress::Open => Fault { at: scan.open_at(), kind: FaultKind::Open },
        };
        if quoting == Quoting::Lenient && taken.first().is_some_and(|line| line.end > 0 || taken.len() == 1) {
            return self.leniently(taken, delimiter);
        }
        let words = fault.kind.in_words();
        if taken.len() == 1 && self.pairs_up(&row.text, delimiter) {
            return row.broken(fault.at, words.to_owned(), Extent::Quotes);
        }
        // The quote must be corrected where it was opened; where the fault was seen shows which quote is meant.
        let at = scan.open_at();
        let seen = row.behind(fault.at);
        let reason = format!(
            "the quote that is opened here, in row {}, is broken; at line {}, character {}: {words}; nothing from here on can be trusted",
            self.rows, seen.line, seen.character
        );
        row.broken(at, reason, Extent::Rest)
    }

    /// A row of one line: almost every one.
    fn line(&mut self, line: Line, scan: Scan, quoting: Quoting) -> Row {
        let bad = line.bad.clone();
        let (row, _) = self.begin(line);
        if let (Some(at), Quoting::Rfc4180) = (scan.loose, quoting) {
            note(&mut self.loose, row.behind(at));
        }
        self.cells(row, scan.cells, &bad)
    }

    /// Whether lines of one row have the delimiters of rows: one inner line, or two of them all.
    fn may_hold_rows(&self, taken: &[Line], delimiter: u8) -> bool {
        let wanted = self.header.len().saturating_sub(1);
        let count = |line: &Line| line.content().bytes().filter(|byte| *byte == delimiter).count();
        let is_like = |line: &&Line| count(line) >= wanted;
        let within = taken.get(1..taken.len().saturating_sub(1)).unwrap_or_default();
        wanted > 0 && (within.iter().any(|line| is_like(&line)) || taken.iter().filter(is_like).count() > 1)
    }

    /// A row whose lines could be rows: lenient quoting refuses it; otherwise it is taken, and reported.
    fn quoted_rows(&mut self, row: Row, found: Vec<Found>, bad: &[(usize, usize)], quoting: Quoting) -> Row {
        let several = found.iter().find(|cell| cell.text.contains(['\n', '\r']));
        let at = several.map_or(0, |cell| cell.start);
        if quoting == Quoting::Lenient {
            return row.broken(at, ROW_LIKE.to_owned(), Extent::Quotes);
        }
        let row = self.cells(row, found, bad);
        if row.content.is_ok() {
            note(&mut self.rows_in_quotes, row.behind(at));
        }
        row
    }

    /// Whether a line's quotes pair up, and leave as many delimiters outside of them as the header has. Then it is one
    /// row, however it is read, and the next row begins after it.
    fn pairs_up(&self, line: &str, delimiter: u8) -> bool {
        let mut is_outside = true;
        let mut delimiters = 0;
        for byte in line.bytes() {
            match byte {
                b'"' => is_outside = !is_outside,
                byte if byte == delimiter && is_outside => delimiters += 1,
                _ => {}
            }
        }
        is_outside && delimiters + 1 == self.header.len()
    }

    /// Reads the first line by itself; the lines after it are read again.
    fn leniently(&mut self, lines: Vec<Line>, delimiter: u8) -> Row {
        let mut lines = lines.into_iter();
        let first = lines.next().unwrap_or_default();
        self.lines.unread(lines);
        let cells = lenient(first.content(), delimiter);
        let bad = first.bad.clone();
        let (row, _) = self.begin(first);
        self.cells(row, cells, &bad)
    }

    fn cells(&self, mut row: Row, found: Vec<Found>, bad: &[(usize, usize)]) -> Row {
        let count = found.len();
        let width = self.header.len();
        if width > 0 && count != width {
            return row.broken(0, format!("it has {count} cells, the header has {width}"), Extent::Row);
        }
        let looks_like = if bad.is_empty() { None } else { self.looks_like(&row.text, bad) };
        let cell = |found: Found| {
            let next = bad.partition_point(|(at, _)| *at < found.start);
            let is_bad = bad.get(next).is_some_and(|(at, _)| *at < found.end);
            if is_bad { Cell::Undecodable(looks_like) } else { Cell::Plain(found.text) }
        };
        row.starts = found.iter().map(|found| found.start).collect();
        row.content = Ok(Cells::Ordered(found.into_iter().map(cell).collect()));
        row
    }

    /// Recognises another encoding only in a file read as UTF-8: the bytes are lost, but not their positions.
    fn looks_like(&self, text: &str, bad: &[(usize, usize)]) -> Option<&'static str> {
        let is_utf8 = self.lines.encoding() == encoding_rs::UTF_8;
        let is_plain =
            bad.iter().all(|(_, width)| *width == 1) && text.chars().all(|c| c.is_ascii() || c == '\u{fffd}');
        (is_utf8 && is_plain).then_some("windows-1257")
    }
}
