//! Records of delimited text: where each cell begins, and its text.
//!
//! Owns quotes and delimiters (RFC 4180, or as configured). A record that follows no rule is a fault with its position,
//! never a guess. It knows lines, not files.

use compact_str::CompactString;

use crate::source::format::Quoting;

/// A cell as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// Where it begins in the record's text.
    pub(super) start: usize,
    /// Where it ends there.
    pub(super) end: usize,
    pub(super) text: CompactString,
}

/// What breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// Text between a closing quote and the next delimiter.
    BehindQuote,
    /// A quote that nothing closes.
    Open,
    /// Blanks before a quote that would open its cell.
    BeforeQuote,
    /// A backslash before a character that it does not escape.
    Escape,
}

impl FaultKind {
    /// What is wrong, with what to do.
    pub(super) const fn in_words(self) -> &'static str {
        match self {
            Self::BehindQuote => {
                "text follows a closing quote: a quote within a quoted cell is doubled (\"\"), or say quoting = \"lenient\" or \"backslash\""
            }
            Self::Open => "a quote is opened here and nowhere closed",
            Self::BeforeQuote => {
                "a blank stands before a quote: remove it, or say quoting = \"lenient\" and the quote is part of the text"
            }
            Self::Escape => "a backslash stands before a character that it does not escape",
        }
    }
}

/// A fault and where it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) kind: FaultKind,
}

/// Whether a record ends with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Whole,
    /// A quoted cell continues in the next line.
    Open,
    /// It follows no rule.
    Broken(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    CellStart,
    Unquoted,
    Quoted,
    QuoteInQuoted,
}

/// One record, line by line.
#[derive(Debug)]
pub(super) struct Scan {
    delimiter: u8,
    quoting: Quoting,
    state: State,
    at: usize,
    cell: Found,
    pub(super) cells: Vec<Found>,
    /// The first quote within an unquoted cell: other programs may read it differently.
    pub(super) loose: Option<usize>,
}

impl Scan {
    /// Of a record that should have so many cells.
    pub(super) fn new(delimiter: u8, quoting: Quoting, cells: usize) -> Self {
        Self {
            delimiter,
            quoting,
            state: State::CellStart,
            at: 0,
            cell: Found::default(),
            cells: Vec::with_capacity(cells),
            loose: None,
        }
    }

    /// Where the open cell begins.
    pub(super) const fn open_at(&self) -> usize {
        self.cell.start
    }

    /// Continues: `text` is the whole record so far, up to the end of a line; the last `end` bytes are that line's end.
    pub(super) fn line(&mut self, text: &str, end: usize) -> Progress {
        let stop = text.len() - end;
        let bytes = text.as_bytes();
        while self.at < stop {
            if let Err(kind) = self.step(text, bytes, stop) {
                return Progress::Broken(Fault { at: self.at, kind });
            }
        }
        match self.state {
            State::Quoted => {
                self.cell.text.push_str(text.get(stop..).unwrap_or_default());
                self.at = text.len();
                Progress::Open
            }
            _ => {
                self.finish(stop);
                self.at = text.len();
                Progress::Whole
            }
        }
    }

    fn step(&mut self, text: &str, bytes: &[u8], stop: usize) -> Result<(), FaultKind> {
        let byte = bytes.get(self.at).copied().unwrap_or_default();
        let is_quoting = self.quoting != Quoting::None;
        let is_escaping = self.quoting == Quoting::Backslash;
        match self.state {
            State::CellStart if byte == b'"' && is_quoting => {
                self.state = State::Quoted;
                self.at += 1;
            }
            State::CellStart => self.state = State::Unquoted,
            State::Unquoted if byte == self.delimiter => self.next_cell(),
            State::Unquoted if is_escaping && byte == b'\\' => self.escape(text, stop)?,
            State::Unquoted => {
                if byte == b'"' && is_quoting {
                    self.loose.get_or_insert(self.at);
                    if self.cell.text.trim().is_empty() && self.quoting != Quoting::Lenient {
                        return Err(FaultKind::BeforeQuote);
                    }
                }
                self.take(text, stop, self.delimiter);
            }
            State::Quoted if byte == b'"' => {
                self.state = State::QuoteInQuoted;
                self.at += 1;
            }
            State::Quoted if is_escaping && byte == b'\\' => self.escape(text, stop)?,
            State::Quoted => self.take(text, stop, b'"'),
            State::QuoteInQuoted if byte == b'"' => {
                self.cell.text.push('"');
                self.state = State::Quoted;
                self.at += 1;
            }
            State::QuoteInQuoted if byte == self.delimiter => self.next_cell(),
            State::QuoteInQuoted => return Err(FaultKind::BehindQuote),
        }
        Ok(())
    }

    /// Takes at least one character, and all up to a quote, to this byte, or to a backslash that escapes.
    fn take(&mut self, text: &str, stop: usize, special: u8) {
        let rest = text.as_bytes().get(self.at + 1..stop).unwrap_or_default();
        let found = match self.quoting {
            Quoting::Backslash => memchr::memchr3(b'"', special, b'\\', rest),
            _ => memchr::memchr2(b'"', special, rest),
        };
        let end = found.map_or(stop, |length| self.at + 1 + length);
        self.cell.text.push_str(text.get(self.at..end).unwrap_or_default());
        self.at = end;
    }

    fn escape(&mut self, text: &str, stop: usize) -> Result<(), FaultKind> {
        let escaped = text.get(self.at + 1..).and_then(|rest| rest.chars().next());
        // A backslash keeps a line's end in the cell; only a quoted cell continues in the next line.
        if self.at + 1 >= stop {
            self.at += 1;
            return if self.state == State::Quoted { Ok(()) } else { Err(FaultKind::Escape) };
        }
        let c = match escaped {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(c) if matches!(c, '"' | '\\') || u32::from(c) == u32::from(self.delimiter) => c,
            Some('N') => {
                self.cell.text.push('\\');
                'N'
            }
            _ => return Err(FaultKind::Escape),
        };
        self.cell.text.push(c);
        self.at += 1 + escaped.map_or(0, char::len_utf8);
        Ok(())
    }

    fn next_cell(&mut self) {
        self.finish(self.at);
        self.at += 1;
        self.cell = Found { start: self.at, ..Found::default() };
        self.state = State::CellStart;
    }

    fn finish(&mut self, end: usize) {
        let cell = std::mem::take(&mut self.cell);
        self.cells.push(Found { end, ..cell });
    }
}

/// Reads one line that RFC 4180 does not explain. A quote closes its cell only before a delimiter or the line's end; a
/// cell whose quote is never closed is taken unchanged.
pub(super) fn lenient(line: &str, delimiter: u8) -> Vec<Found> {
    let mut cells = Vec::new();
    let mut start = 0;
    let ends_cell = |at: usize| line.as_bytes().get(at).is_none_or(|byte| *byte == delimiter);
    loop {
        let closing = line.get(start..).and_then(|rest| rest.strip_prefix('"')).and_then(|rest| {
            let quotes = rest.match_indices('"').map(|(at, _)| start + 1 + at);
            quotes.into_iter().find(|at| ends_cell(at + 1))
        });
        let (end, text) = match closing {
            Some(quote) => {
                let inner = line.get(start + 1..quote).unwrap_or_default();
                (quote + 1, undoubled(inner).into())
            }
            None => {
                let rest = line.as_bytes().get(start..).unwrap_or_default();
                let end = rest.iter().position(|byte| *byte == delimiter).map_or(line.len(), |at| start + at);
                (end, line.get(start..end).unwrap_or_default().into())
            }
        };
        cells.push(Found { start, end, text });
        if end >= line.len() {
            return cells;
        }
        start = end + 1;
    }
}

/// A doubled quote becomes one quote; a single one is text.
fn undoubled(inner: &str) -> String {
    inner.replace("\"\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(text: &str, quoting: Quoting) -> Result<Vec<String>, Fault> {
        let mut scan = Scan::new(b',', quoting, 0);
        let mut read = 0;
        for line in text.split_inclusive('\n') {
            read += line.len();
            let end = line.len() - line.trim_end_matches('\n').len();
            match scan.line(&text[..read], end) {
                Progress::Whole => return Ok(scan.cells.into_iter().map(|cell| cell.text.into()).collect()),
                Progress::Open => {}
                Progress::Broken(fault) => return Err(fault),
            }
        }
        Err(Fault { at: scan.open_at(), kind: FaultKind::Open })
    }

    #[test]
    fn a_record_is_read_by_the_rule_or_not_at_all() {
        let read = |text| scan(text, Quoting::Rfc4180);
        assert_eq!(read("a,\"x, \"\"y\"\"\",\n"), Ok(vec!["a".into(), "x, \"y\"".into(), String::new()]));
        assert_eq!(read("\"1\n2\",b"), Ok(vec!["1\n2".into(), "b".into()]));
        assert_eq!(read("a,SIA \"Mid\" x"), Ok(vec!["a".into(), "SIA \"Mid\" x".into()]));
        for (text, at, kind) in [
            ("1,\"SIA \"Ozols\"\",a", 8, FaultKind::BehindQuote),
            ("1,\"Liepa\" SIA,e", 9, FaultKind::BehindQuote),
            ("1,\"a\" ,e", 5, FaultKind::BehindQuote),
            ("1, \"a\",e", 3, FaultKind::BeforeQuote),
            ("17,\"new note\n18,N", 3, FaultKind::Open),
            ("17,\"new note\n18,\"quoted\"\n", 17, FaultKind::BehindQuote),
        ] {
            assert_eq!(read(text), Err(Fault { at, kind }), "{text}");
        }
    }

    #[test]
    fn other_rules_are_told() {
        let backslash = |text| scan(text, Quoting::Backslash).ok();
        assert_eq!(
            backslash(r#"a,"no \"x\" twice",\N"#),
            Some(vec!["a".into(), "no \"x\" twice".into(), "\\N".into()])
        );
        assert_eq!(backslash(r"a\,b,c\\d,\t"), Some(vec!["a,b".into(), r"c\d".into(), "\t".into()]));
        assert_eq!(backslash(r"a\q"), None);
        assert_eq!(scan("\"a,\"b", Quoting::None), Ok(vec!["\"a".into(), "\"b".into()]));
        let lenient = |text| lenient(text, b',').into_iter().map(|cell| cell.text).collect::<Vec<_>>();
        assert_eq!(lenient("1,\"SIA \"Ozols\"\",a"), ["1", "SIA \"Ozols\"", "a"]);
        assert_eq!(lenient("\"Liepa\" SIA,e"), ["\"Liepa\" SIA", "e"]);
        assert_eq!(lenient("a,\"open"), ["a", "\"open"]);
        assert_eq!(lenient("a,\"b\","), ["a", "b", ""]);
    }

    proptest! {
        #[test]
        fn what_a_writer_quotes_is_read_as_it_was(cells in prop::collection::vec("[a,\"\\n ā]{0,6}", 1..5)) {
            let quoted: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
            prop_assert_eq!(scan(&quoted.join(","), Quoting::Rfc4180), Ok(cells));
        }

        #[test]
        fn nothing_panics(text in "[a,\"\\\\\\n ā]{0,24}") {
            for quoting in [Quoting::Rfc4180, Quoting::Lenient, Quoting::Backslash, Quoting::None] {
                let _ = scan(&text, quoting);
            }
            let _ = lenient(&text, b',');
        }
    }
}
