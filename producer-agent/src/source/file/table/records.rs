//! Rows of delimited text: which lines make one, and what its cells are.
//!
//! Owns how far a broken quote reaches. Where a quote may have turned rows into text, it refuses the row or reports it.

use super::super::delimited::{Fault, FaultKind, Progress, Scan, lenient};
use super::super::text::{Line, MAX_RECORD_BYTES};
use super::{Begun, Extent, Noted, Row, Table};
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
        let mut scan = Scan::new(delimiter, quoting);
        let Begun { mut row, bad, end } = self.begin(first);
        let progress = scan.line(row.cells_mut(), end);
        if progress != Progress::Whole {
            return self.several_lines(Begun { row, bad, end }, scan, progress);
        }
        // A row of one line: almost every one.
        if let (Some(at), Quoting::Rfc4180) = (scan.loose, quoting) {
            note(&mut self.loose, row.behind(at));
        }
        self.cells(row, &bad)
    }

    /// A row that does not end with its first line.
    fn several_lines(&mut self, begun: Begun, mut scan: Scan, mut progress: Progress) -> Row {
        let Scan { delimiter, quoting, .. } = scan;
        let Begun { mut row, mut bad, end } = begun;
        let mut taken = vec![Line { text: row.text().to_owned(), end, bad: bad.clone(), is_cut: false }];
        while progress == Progress::Open && row.text().len() <= MAX_RECORD_BYTES {
            let Ok(Some(line)) = self.lines.next() else { break };
            bad.extend(line.bad.iter().map(|(at, width)| (at + row.text().len(), *width)));
            row.cells_mut().push_line(&line.text);
            progress = scan.line(row.cells_mut(), line.end);
            taken.push(line);
        }
        row.set_widths(self.lines.widths(bad.clone()));
        if let (Some(at), Quoting::Rfc4180) = (scan.loose, quoting)
            && progress == Progress::Whole
        {
            note(&mut self.loose, row.behind(at));
        }
        let fault = match progress {
            Progress::Whole if self.may_hold_rows(&taken, delimiter) => {
                return self.quoted_rows(row, &bad, quoting);
            }
            Progress::Whole => return self.cells(row, &bad),
            Progress::Broken(fault) => fault,
            Progress::Open => Fault { at: scan.open_at(), kind: FaultKind::Open },
        };
        if quoting == Quoting::Lenient && taken.first().is_some_and(|line| line.end > 0 || taken.len() == 1) {
            return self.leniently(taken, delimiter);
        }
        let words = fault.kind.in_words();
        if taken.len() == 1 && self.pairs_up(row.text(), delimiter) {
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

    /// Whether lines of one row have the delimiters of rows: one inner line, or two of them all.
    fn may_hold_rows(&self, taken: &[Line], delimiter: u8) -> bool {
        let wanted = self.header.len().saturating_sub(1);
        let count = |line: &Line| line.content().bytes().filter(|byte| *byte == delimiter).count();
        let is_like = |line: &&Line| count(line) >= wanted;
        let within = taken.get(1..taken.len().saturating_sub(1)).unwrap_or_default();
        wanted > 0 && (within.iter().any(|line| is_like(&line)) || taken.iter().filter(is_like).count() > 1)
    }

    /// A row whose lines could be rows: lenient quoting refuses it; otherwise it is taken, and reported.
    fn quoted_rows(&mut self, row: Row, bad: &[(usize, usize)], quoting: Quoting) -> Row {
        let at = row.cells().first_of_several_lines();
        if quoting == Quoting::Lenient {
            return row.broken(at, ROW_LIKE.to_owned(), Extent::Quotes);
        }
        let row = self.cells(row, bad);
        if row.content().is_ok() {
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
        let Begun { mut row, bad, end } = self.begin(first);
        lenient(row.cells_mut(), end, delimiter);
        self.cells(row, &bad)
    }

    fn cells(&self, mut row: Row, bad: &[(usize, usize)]) -> Row {
        let count = row.cells().len();
        let width = self.header.len();
        if width > 0 && count != width {
            return row.broken(0, format!("it has {count} cells, the header has {width}"), Extent::Row);
        }
        if !bad.is_empty() {
            let looks_like = self.looks_like(row.text(), bad);
            row.cells_mut().spoil(bad, looks_like);
        }
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
