//! Records of delimited text: where each cell begins, and its text.
//!
//! Owns quotes and delimiters (RFC 4180, or as configured). A record that follows no rule is a fault with its position,
//! never a guess. It knows lines, not files.

use std::ops::Range;

use crate::source::cells::Cells;
use crate::source::format::Quoting;

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
    pub(super) delimiter: u8,
    pub(super) quoting: Quoting,
    state: State,
    at: usize,
    /// Where the open cell begins.
    start: usize,
    /// The first quote within an unquoted cell: other programs may read it differently.
    pub(super) loose: Option<usize>,
}

impl Scan {
    pub(super) const fn new(delimiter: u8, quoting: Quoting) -> Self {
        Self { delimiter, quoting, state: State::CellStart, at: 0, start: 0, loose: None }
    }

    /// Where the open cell begins.
    pub(super) const fn open_at(&self) -> usize {
        self.start
    }

    /// Continues: the text of `cells` is the whole record so far, up to the end of a line; its last `end` bytes are that
    /// line's end.
    pub(super) fn line(&mut self, cells: &mut Cells, end: usize) -> Progress {
        let length = cells.text().len();
        let stop = length - end;
        while self.at < stop {
            if let Err(kind) = self.step(cells, stop) {
                return Progress::Broken(Fault { at: self.at, kind });
            }
        }
        self.at = length;
        match self.state {
            State::Quoted => {
                cells.take(stop..length);
                Progress::Open
            }
            _ => {
                cells.end_cell(self.start..stop);
                Progress::Whole
            }
        }
    }

    fn step(&mut self, cells: &mut Cells, stop: usize) -> Result<(), FaultKind> {
        let byte = cells.text().as_bytes().get(self.at).copied().unwrap_or_default();
        match self.state {
            State::CellStart if byte == b'"' && self.quoting != Quoting::None => {
                self.state = State::Quoted;
                self.at += 1;
            }
            State::CellStart | State::Unquoted => self.unquoted(cells, byte, stop)?,
            State::Quoted if byte == b'"' => {
                self.state = State::QuoteInQuoted;
                self.at += 1;
            }
            State::Quoted if self.is_escape(byte) => self.escape(cells, stop)?,
            State::Quoted => self.take(cells, stop, b'"'),
            State::QuoteInQuoted if byte == b'"' => {
                cells.take(self.at..self.at + 1);
                self.state = State::Quoted;
                self.at += 1;
            }
            State::QuoteInQuoted if byte == self.delimiter => self.next_cell(cells),
            State::QuoteInQuoted => return Err(FaultKind::BehindQuote),
        }
        Ok(())
    }

    fn unquoted(&mut self, cells: &mut Cells, byte: u8, stop: usize) -> Result<(), FaultKind> {
        self.state = State::Unquoted;
        if byte == self.delimiter {
            self.next_cell(cells);
        } else if self.is_escape(byte) {
            self.escape(cells, stop)?;
        } else {
            if byte == b'"' && self.quoting != Quoting::None {
                self.loose.get_or_insert(self.at);
                if cells.is_blank() && self.quoting != Quoting::Lenient {
                    return Err(FaultKind::BeforeQuote);
                }
            }
            self.take(cells, stop, self.delimiter);
        }
        Ok(())
    }

    fn is_escape(&self, byte: u8) -> bool {
        byte == b'\\' && self.quoting == Quoting::Backslash
    }

    /// Takes at least one character, and all up to a quote, to this byte, or to a backslash that escapes.
    fn take(&mut self, cells: &mut Cells, stop: usize, special: u8) {
        let rest = cells.text().as_bytes().get(self.at + 1..stop).unwrap_or_default();
        let found = match self.quoting {
            Quoting::Backslash => memchr::memchr3(b'"', special, b'\\', rest),
            _ => memchr::memchr2(b'"', special, rest),
        };
        let end = found.map_or(stop, |length| self.at + 1 + length);
        cells.take(self.at..end);
        self.at = end;
    }

    fn escape(&mut self, cells: &mut Cells, stop: usize) -> Result<(), FaultKind> {
        let escaped = cells.text().get(self.at + 1..).and_then(|rest| rest.chars().next());
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
                cells.take_escaped('\\');
                'N'
            }
            _ => return Err(FaultKind::Escape),
        };
        cells.take_escaped(c);
        self.at += 1 + escaped.map_or(0, char::len_utf8);
        Ok(())
    }

    fn next_cell(&mut self, cells: &mut Cells) {
        cells.end_cell(self.start..self.at);
        self.at += 1;
        self.start = self.at;
        self.state = State::CellStart;
    }
}

/// Reads one line that RFC 4180 does not explain; its last `end` bytes are its end. A quote closes its cell only before a
/// delimiter or the line's end; a cell whose quote is never closed is taken unchanged.
pub(super) fn lenient(cells: &mut Cells, end: usize, delimiter: u8) {
    cells.forget_cells();
    let stop = cells.text().len() - end;
    let mut start = 0;
    loop {
        let line = cells.text().get(..stop).unwrap_or_default();
        let is_delimiter = |byte: &u8| *byte == delimiter;
        let ends_cell = |at: usize| line.as_bytes().get(at).is_none_or(is_delimiter);
        let closing = line.get(start..).and_then(|rest| rest.strip_prefix('"')).and_then(|rest| {
            let mut quotes = rest.match_indices('"').map(|(at, _)| start + 1 + at);
            quotes.find(|at| ends_cell(at + 1))
        });
        let cell_end = match closing {
            Some(quote) => {
                undoubled(cells, start + 1..quote);
                quote + 1
            }
            None => {
                let rest = line.as_bytes().get(start..).unwrap_or_default();
                let end = rest.iter().position(is_delimiter).map_or(stop, |at| start + at);
                cells.take(start..end);
                end
            }
        };
        cells.end_cell(start..cell_end);
        if cell_end >= stop {
            return;
        }
        start = cell_end + 1;
    }
}

/// Takes a part of the line in which a doubled quote becomes one quote; a single one is text.
fn undoubled(cells: &mut Cells, inner: Range<usize>) {
    let text = cells.text().get(inner.clone()).unwrap_or_default();
    // Each pair's second quote is left out.
    let left_out: Vec<usize> = text.match_indices("\"\"").map(|(at, _)| inner.start + at + 1).collect();
    let mut from = inner.start;
    for quote in left_out {
        cells.take(from..quote);
        from = quote + 1;
    }
    cells.take(from..inner.end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::cells::Cell;
    use proptest::prelude::*;

    fn texts(cells: &Cells) -> Vec<String> {
        let text = |cell| if let Cell::Plain(text) = cell { str::to_owned(text) } else { panic!("{cell:?}") };
        cells.iter().map(text).collect()
    }

    fn scan(text: &str, quoting: Quoting) -> Result<Vec<String>, Fault> {
        let mut scan = Scan::new(b',', quoting);
        let mut cells = Cells::default();
        for line in text.split_inclusive('\n') {
            cells.push_line(line);
            let end = line.len() - line.trim_end_matches('\n').len();
            match scan.line(&mut cells, end) {
                Progress::Whole => return Ok(texts(&cells)),
                Progress::Open => {}
                Progress::Broken(fault) => return Err(fault),
            }
        }
        Err(Fault { at: scan.open_at(), kind: FaultKind::Open })
    }

    fn leniently(line: &str) -> Vec<String> {
        let mut cells = Cells::default();
        cells.push_line(line);
        lenient(&mut cells, 0, b',');
        texts(&cells)
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
        assert_eq!(leniently("1,\"SIA \"Ozols\"\",a"), ["1", "SIA \"Ozols\"", "a"]);
        assert_eq!(leniently("\"Liepa\" SIA,e"), ["\"Liepa\" SIA", "e"]);
        assert_eq!(leniently("a,\"open"), ["a", "\"open"]);
        assert_eq!(leniently("a,\"b\","), ["a", "b", ""]);
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
            let _ = leniently(&text);
        }
    }
}
