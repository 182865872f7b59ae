//! A file as rows of cells, each with its location.
//!
//! Owns a file's form, and how far a fault in it reaches. A row that cannot be read is given with its location, not
//! skipped; where nothing after it can be trusted, it says so and is the last row.

mod records;

use std::fs::File;
use std::io::{Chain, Cursor, Read};
use std::path::{Path, PathBuf};

use super::sniff;
use super::text::{Line, Lines, MAX_RECORD_BYTES};
use super::trailer::Trailer;
use crate::source::cells::{Cell, Cells, Columns};
use crate::source::format::{FormatError, Quoting, TableFormat};
use crate::source::location::Location;
use crate::source::objects;
use crate::source::row::{Bad, Extent, Row};

/// Why a file cannot be read as a table at all.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("{path}: {error}")]
    Io {
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    #[error("[format]: {0}")]
    Format(#[from] FormatError),
    /// It is no table.
    #[error("{path}: {problem}")]
    NoTable {
        path: PathBuf,
        /// What it is, and what to drop instead.
        problem: String,
    },
    /// Its header cannot be read.
    #[error("{path}: its header line cannot be read: {problem}")]
    Header { path: PathBuf, problem: String },
}

type Text = Lines<Chain<Cursor<Vec<u8>>, File>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Delimited {
        delimiter: u8,
        quoting: Quoting,
    },
    /// One JSON object a line.
    Objects,
}

/// The first object must be within this many lines.
const LOOKED_AT: usize = 100;

/// A row that begins with a line, still without cells.
struct Begun {
    row: Row,
    /// Positions of the line that could not be decoded, and their bytes in the file.
    bad: Vec<(usize, usize)>,
    /// How many bytes of the line are its end.
    end: usize,
}

/// How many rows a person should know of, and the location of the first.
pub type Noted = Option<(u64, Location)>;

/// A table being read.
pub struct Table {
    header: Vec<String>,
    form: Form,
    lines: Text,
    /// Where the next line begins.
    next: Location,
    trailer: Option<Trailer>,
    rows: u64,
    loose: Noted,
    rows_in_quotes: Noted,
    ended: bool,
    /// The row that was read last: the next one takes its memory.
    row: Option<Row>,
}

impl Table {
    /// Opens a file and reads its header.
    pub fn open(path: &Path, format: &TableFormat) -> Result<Self, TableError> {
        let io = |error| TableError::Io { path: path.to_owned(), error };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.is_dir() {
            let problem = "it is a folder; give a file".to_owned();
            return Err(TableError::NoTable { path: path.to_owned(), problem });
        }
        let form = form_of(path, format)?;
        let mut head = Vec::with_capacity(sniff::HEAD);
        let most = u64::try_from(sniff::HEAD).unwrap_or(u64::MAX);
        (&file).take(most).read_to_end(&mut head).map_err(io)?;
        let encoding = format.encoding()?;
        if let Some(problem) = sniff::no_table(&head, !encoding.is_ascii_compatible()) {
            return Err(TableError::NoTable { path: path.to_owned(), problem: problem.to_owned() });
        }
        let lines = Lines::new(Cursor::new(head).chain(file), encoding);
        let trailer = format.trailer.as_deref().map(Trailer::new);
        let next = Location::START;
        let mut table = Self {
            header: Vec::new(),
            form,
            lines,
            next,
            trailer,
            rows: 0,
            loose: None,
            rows_in_quotes: None,
            ended: false,
            row: None,
        };
        table.read_header(format).map_err(|problem| TableError::Header { path: path.to_owned(), problem })?;
        Ok(table)
    }

    fn read_header(&mut self, format: &TableFormat) -> Result<(), String> {
        if let (Some(header), Form::Delimited { .. }) = (&format.header, self.form) {
            self.header.clone_from(header);
            let Some(line) = self.lines.next().map_err(|error| error.to_string())? else {
                return Err("the file is empty".to_owned());
            };
            self.lines.unread(std::iter::once(line));
            return Ok(());
        }
        if self.form == Form::Objects {
            return self.read_names();
        }
        if self.next_row().is_none() {
            return Err("the file is empty".to_owned());
        }
        // A byte order mark may have changed it.
        let encoding = self.lines.encoding().name();
        let row = self.row.as_ref().ok_or("the file is empty")?;
        let cells = row.content().map_err(|bad| format!("line {}: {}", bad.location.line, bad.reason))?;
        let name = |cell: Cell<&str>| match cell {
            Cell::Plain(name) => Ok(name.to_owned()),
            Cell::Undecodable(Some(looks_like)) => Err(format!(
                "its bytes are not {encoding}; it looks like {looks_like}: say encoding = {looks_like:?} in [format], or --encoding {looks_like}"
            )),
            _ => Err(format!("its bytes are not {encoding}")),
        };
        let header = cells.iter().map(name).collect::<Result<_, String>>()?;
        self.header = header;
        (self.rows, self.ended) = (0, false);
        Ok(())
    }

    /// Reads the names of the first readable object; the rows before it are parked by themselves.
    fn read_names(&mut self) -> Result<(), String> {
        let mut looked_at = Vec::new();
        let mut problem = "the file is empty".to_owned();
        while let Some(line) = self.lines.next().map_err(|error| error.to_string())? {
            let content = line.content().trim().to_owned();
            looked_at.push(line);
            if content.is_empty() {
                continue;
            }
            match first_names(&content) {
                Ok(names) => {
                    self.header = names;
                    self.lines.unread(looked_at.into_iter());
                    return Ok(());
                }
                Err(words) if !content.starts_with('{') || !content.ends_with('}') => return Err(words),
                Err(words) => problem = words,
            }
            if looked_at.len() >= LOOKED_AT {
                break;
            }
        }
        Err(problem)
    }

    /// The columns' names, as in the file; for objects, those of the first one.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The columns that rows have.
    pub fn columns(&self) -> Columns<'_> {
        match self.form {
            Form::Delimited { .. } => Columns::Named(&self.header),
            Form::Objects => Columns::Open,
        }
    }

    /// Rows that were read so far, good or not.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows with a quote within an unquoted cell, and the location of the first: they are taken unchanged.
    pub const fn loose(&self) -> Noted {
        self.loose
    }

    /// Rows whose lines could be rows themselves, and the location of the first: the lines are text.
    pub const fn rows_in_quotes(&self) -> Noted {
        self.rows_in_quotes
    }

    fn pass(&mut self, line: &Line) {
        self.next = self.location().behind(&line.text, &self.lines.widths(line.bad.clone()));
    }

    fn location(&self) -> Location {
        if self.next == Location::START { self.lines.start() } else { self.next }
    }

    fn begin(&mut self, line: Line) -> Begun {
        let Line { text, end, bad, .. } = line;
        let mut cells = self.row.take().map(Row::into_memory).unwrap_or_default();
        cells.forget();
        self.lines.reuse(cells.replace_text(text));
        let row = Row::new(self.location(), cells, self.lines.widths(bad.clone()));
        Begun { row, bad, end }
    }

    /// A row of which nothing was read.
    fn begin_without_line(&mut self) -> Row {
        self.begin(Line::default()).row
    }

    /// The next line that may be a row; `None` at the end.
    fn first_line(&mut self) -> Option<Result<Line, Row>> {
        loop {
            let line = match self.lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => return None,
                Err(error) => {
                    let row = self.begin_without_line();
                    return Some(Err(row.broken(
                        0,
                        format!("the file cannot be read on: {error}"),
                        Extent::File,
                    )));
                }
            };
            let is_empty = match self.form {
                Form::Delimited { .. } => line.content().is_empty(),
                Form::Objects => line.content().trim().is_empty(),
            };
            if !is_empty {
                return Some(Ok(line));
            }
            self.pass(&line);
        }
    }

    /// The next row, or `None` at the end.
    fn record(&mut self) -> Option<Row> {
        let first = match self.first_line() {
            None => return self.missing_trailer(),
            Some(Err(row)) => return Some(row),
            Some(Ok(line)) => line,
        };
        if let Some(counted) = self.trailer.as_ref().and_then(|trailer| trailer.count(first.content()))
            && self.is_last()
        {
            return self.check_trailer(first, counted);
        }
        self.rows += 1;
        if first.is_cut {
            let Begun { row, .. } = self.begin(first);
            let reason =
                format!("the line has more than {MAX_RECORD_BYTES} bytes; nothing from here on is read");
            return Some(row.broken(0, reason, Extent::Rest));
        }
        Some(match self.form {
            Form::Objects => self.object(first),
            Form::Delimited { delimiter, quoting } => self.delimited(first, delimiter, quoting),
        })
    }

    /// Whether nothing but empty lines follows.
    fn is_last(&mut self) -> bool {
        match self.first_line() {
            None => true,
            Some(Ok(line)) => {
                self.lines.unread(std::iter::once(line));
                false
            }
            Some(Err(_)) => false,
        }
    }

    /// A file that is not read to its end has not shown its trailer.
    fn doubt_all_without_trailer(&self, bad: &mut Bad) {
        if let Some(trailer) = &self.trailer
            && bad.extent == Extent::Rest
        {
            bad.extent = Extent::File;
            bad.reason.push_str(&format!(", nor the trailer {:?} found", trailer.pattern()));
        }
    }

    fn missing_trailer(&mut self) -> Option<Row> {
        let trailer = self.trailer.take()?;
        let row = self.begin_without_line();
        let reason = format!("it ends without its trailer {:?}: it is not whole", trailer.pattern());
        Some(row.broken(0, reason, Extent::File))
    }

    fn check_trailer(&mut self, line: Line, counted: u64) -> Option<Row> {
        let rows = self.rows;
        self.trailer = None;
        self.ended = true;
        if counted == rows {
            return None;
        }
        let Begun { row, .. } = self.begin(line);
        let reason = format!("its trailer counts {counted} rows, it has {rows}: it is not whole");
        Some(row.broken(0, reason, Extent::File))
    }

    fn object(&mut self, line: Line) -> Row {
        let Begun { mut row, bad, end } = self.begin(line);
        let cells = row.cells_mut();
        let text = cells.replace_text(String::new());
        let read = objects::read(text.get(..text.len() - end).unwrap_or_default(), cells);
        cells.replace_text(text);
        if let Err(error) = read {
            let at = error.column().saturating_sub(1);
            let reason = format!("it is no JSON object in one line: {}", objects::in_words(&error));
            return row.broken(at, reason, Extent::Row);
        }
        match cells.spoil_members(&bad) {
            None => row,
            Some(at) => {
                let reason = "it holds bytes that are not of the file's encoding".to_owned();
                row.broken(at, reason, Extent::Row)
            }
        }
    }

    /// The next row, or `None` at the end.
    pub fn next_row(&mut self) -> Option<&Row> {
        if self.ended {
            return None;
        }
        let Some(mut row) = self.record() else {
            self.ended = true;
            return None;
        };
        self.next = row.end();
        if let Some(bad) = row.bad_mut() {
            self.doubt_all_without_trailer(bad);
            self.ended |= matches!(bad.extent, Extent::Rest | Extent::File);
        }
        Some(self.row.insert(row))
    }
}

/// A file's form by its name's ending, in upper or lower case.
fn form_of(path: &Path, format: &TableFormat) -> Result<Form, FormatError> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    match ending.as_str() {
        "ndjson" | "jsonl" | "json" => Ok(Form::Objects),
        "tsv" | "tab" => {
            Ok(Form::Delimited { delimiter: format.delimiter_of('\t')?, quoting: format.quoting })
        }
        _ => Ok(Form::Delimited { delimiter: format.delimiter_of(',')?, quoting: format.quoting }),
    }
}

fn first_names(line: &str) -> Result<Vec<String>, String> {
    let text = line.trim_start();
    if text.starts_with('[') {
        return Err("it is a JSON array; drop NDJSON: an object a line, without brackets and commas between (jq -c '.[]')".to_owned());
    }
    let mut cells = Cells::default();
    match objects::read(line, &mut cells) {
        Ok(()) => Ok(cells.names().into_iter().flatten().map(str::to_owned).collect()),
        Err(error) if error.is_eof() => {
            Err("its first line is no whole JSON object; drop NDJSON: an object a line (jq -c .)".to_owned())
        }
        Err(error) => Err(format!("{}; NDJSON has a JSON object a line", objects::in_words(&error))),
    }
}

#[cfg(test)]
mod tests;
