//! A delimited text file as records of cells, with the line that each begins at.
//!
//! Owns encodings, separators and quoting. A record that cannot be read is given with its line, not skipped.

use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};

use encoding_rs::{CoderResult, Decoder, Encoding};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

const BUFFER: usize = 64 * 1024;

/// How a file is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableFormat {
    /// One byte between cells; by default a comma, a tab for `.tsv`.
    pub delimiter: Option<char>,
    /// The name of an encoding (WHATWG): `utf-8`, `utf-16le`, `windows-1257`. A byte order mark overrides it.
    pub encoding: String,
    /// The columns' names when the file has no header line.
    pub header: Option<Vec<String>>,
    /// Whether cells may be quoted with `"`.
    pub quoting: bool,
    /// The column that says `c`, `u` or `d`. A file that has it is a change file; one without it is the register.
    pub operation_column: Option<String>,
}

impl Default for TableFormat {
    fn default() -> Self {
        Self {
            delimiter: None,
            encoding: "utf-8".to_owned(),
            header: None,
            quoting: true,
            operation_column: None,
        }
    }
}

impl TableFormat {
    /// Whether any file can be read so.
    pub fn check(&self) -> Result<(), TableError> {
        self.encoding()?;
        self.delimiter.map_or(Ok(()), |delimiter| one_byte(delimiter).map(drop))
    }

    fn encoding(&self) -> Result<&'static Encoding, TableError> {
        let found = Encoding::for_label(self.encoding.as_bytes());
        found.ok_or_else(|| TableError::Encoding(self.encoding.clone()))
    }
}

fn one_byte(delimiter: char) -> Result<u8, TableError> {
    u8::try_from(delimiter).ok().filter(u8::is_ascii).ok_or(TableError::Delimiter(delimiter))
}

/// Why a file cannot be read as a table at all.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// No such encoding.
    #[error("{0:?} is no encoding that is known; use utf-8, utf-16le, utf-16be or windows-1257")]
    Encoding(String),
    /// The delimiter is not one byte.
    #[error("the delimiter {0:?} is not one ASCII character")]
    Delimiter(char),
    /// Its header cannot be read.
    #[error("{path}: its header line cannot be read: {problem}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Bytes of a file as UTF-8, decoded as they come. What cannot be decoded becomes U+FFFD and is then seen as such.
struct Utf8<R> {
    inner: R,
    decoder: Decoder,
    raw: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let pending = self.raw.get(self.at..).unwrap_or_default();
            if pending.is_empty() && !self.ended {
                self.raw.resize(BUFFER, 0);
                let got = self.inner.read(&mut self.raw)?;
                self.raw.truncate(got);
                self.at = 0;
                self.ended = got == 0;
            }
            let pending = self.raw.get(self.at..).unwrap_or_default();
            let (result, read, written, _) = self.decoder.decode_to_utf8(pending, out, self.ended);
            self.at += read;
            if written > 0 || (self.ended && result == CoderResult::InputEmpty) {
                return Ok(written);
            }
            if result == CoderResult::OutputFull {
                // Fewer than four bytes of room: the caller's buffer is too small for one character.
                return Err(std::io::ErrorKind::InvalidInput.into());
            }
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The line that it begins at, counted from 1.
    pub line: u64,
    /// Its cells, or why they cannot be read.
    pub cells: Result<Vec<String>, String>,
}

type Text = BufReader<Utf8<File>>;

enum Reader {
    Delimited(Box<csv::Reader<Text>>, csv::StringRecord),
    /// One JSON object a line; the first one is kept to be read again as a row.
    Ndjson {
        lines: Lines<Text>,
        first: Option<String>,
        line: u64,
    },
}

/// A table being read.
pub struct Table {
    header: Vec<String>,
    reader: Reader,
    ended: bool,
}

impl Table {
    /// Opens a file and reads its header.
    pub fn open(path: &Path, format: &TableFormat) -> Result<Self, TableError> {
        let encoding = format.encoding()?;
        let by_name = if path.extension().is_some_and(|e| e == "tsv") { '\t' } else { ',' };
        let delimiter = format.delimiter.unwrap_or(by_name);
        let byte = one_byte(delimiter)?;
        let io = |error| TableError::Io { path: path.to_owned(), error };
        let inner = File::open(path).map_err(io)?;
        let utf8 = Utf8 { inner, decoder: encoding.new_decoder(), raw: Vec::new(), at: 0, ended: false };
        if path.extension().is_some_and(|extension| extension == "ndjson") {
            return Self::open_ndjson(path, BufReader::with_capacity(BUFFER, utf8));
        }
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(byte)
            .quoting(format.quoting)
            .has_headers(false)
            .flexible(true)
            .from_reader(BufReader::with_capacity(BUFFER, utf8));
        let mut record = csv::StringRecord::new();
        let header = match &format.header {
            Some(header) => header.clone(),
            None => {
                let read = reader.read_record(&mut record);
                let wrong = |problem: String| TableError::Header { path: path.to_owned(), problem };
                match read {
                    Ok(true) => record.iter().map(str::to_owned).collect(),
                    Ok(false) => return Err(wrong("the file is empty".to_owned())),
                    Err(error) => return Err(wrong(error.to_string())),
                }
            }
        };
        Ok(Self { header, reader: Reader::Delimited(Box::new(reader), record), ended: false })
    }

    /// The first object's names are the columns.
    fn open_ndjson(path: &Path, text: Text) -> Result<Self, TableError> {
        let wrong = |problem: String| TableError::Header { path: path.to_owned(), problem };
        let mut lines = text.lines();
        let first = match lines.next() {
            Some(Ok(line)) => line,
            Some(Err(error)) => return Err(TableError::Io { path: path.to_owned(), error }),
            None => return Err(wrong("the file is empty".to_owned())),
        };
        let object: Map<String, Json> = serde_json::from_str(&first).map_err(|e| wrong(e.to_string()))?;
        let header = object.keys().cloned().collect();
        Ok(Self { header, reader: Reader::Ndjson { lines, first: Some(first), line: 0 }, ended: false })
    }

    /// The columns' names, as in the file.
    pub fn header(&self) -> &[String] {
        &self.header
    }
}

impl Iterator for Table {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.ended {
            return None;
        }
        let row = match &mut self.reader {
            Reader::Delimited(reader, record) => next_record(reader, record, self.header.len()),
            Reader::Ndjson { lines, first, line } => {
                *line += 1;
                let text = first.take().map(Ok).or_else(|| lines.next());
                text.map(|text| match text {
                    Ok(text) => (Row { line: *line, cells: object_cells(&text, &self.header) }, false),
                    Err(error) => (Row { line: *line, cells: Err(error.to_string()) }, true),
                })
            }
        };
        self.ended = row.as_ref().is_none_or(|(_, is_last)| *is_last);
        row.map(|(row, _)| row)
    }
}

/// The next record of a delimited file, and whether nothing can be read after it.
fn next_record(
    reader: &mut csv::Reader<Text>,
    record: &mut csv::StringRecord,
    width: usize,
) -> Option<(Row, bool)> {
    let line = reader.position().line();
    match reader.read_record(record) {
        Ok(false) => None,
        Ok(true) => {
            let line = record.position().map_or(line, csv::Position::line);
            let cells = if record.len() == width {
                Ok(record.iter().map(str::to_owned).collect())
            } else {
                Err(format!("it has {} cells, the header has {width}", record.len()))
            };
            Some((Row { line, cells }, false))
        }
        Err(error) => {
            let is_last = matches!(error.kind(), csv::ErrorKind::Io(_));
            Some((Row { line, cells: Err(error.to_string()) }, is_last))
        }
    }
}

/// An object's values as cells: text as it is, null as an empty cell, numbers and booleans as JSON writes them.
fn object_cells(text: &str, header: &[String]) -> Result<Vec<String>, String> {
    let mut object: Map<String, Json> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let cells = header.iter().map(|name| match object.remove(name) {
        None => Err(format!("it has no {name:?}, which the first row has")),
        Some(Json::String(text)) => Ok(text),
        Some(Json::Null) => Ok(String::new()),
        Some(Json::Array(_) | Json::Object(_)) => {
            Err(format!("{name:?} is nested; only plain values are read"))
        }
        Some(plain) => Ok(plain.to_string()),
    });
    let cells = cells.collect::<Result<Vec<_>, _>>()?;
    match object.keys().next() {
        Some(extra) => Err(format!("it has {extra:?}, which the first row has not")),
        None => Ok(cells),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, bytes: &[u8], format: &TableFormat) -> (Vec<String>, Vec<Row>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let table = Table::open(&path, format).unwrap();
        (table.header().to_vec(), table.collect())
    }

    fn cells(rows: &[Row]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.cells.clone().unwrap()).collect()
    }

    #[test]
    fn quotes_marks_and_tabs_are_read() {
        let (header, found) = rows(
            "a.csv",
            "\u{feff}a,b\n\"x, \"\"y\"\"\",\"1\n2\"\nz,3\n".as_bytes(),
            &TableFormat::default(),
        );
        assert_eq!(header, ["a", "b"], "the byte order mark is no part of a name");
        assert_eq!(cells(&found), [["x, \"y\"", "1\n2"], ["z", "3"]]);
        assert_eq!(found.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 4]);
        let (header, found) = rows("a.tsv", b"a\tb\n1\t\n", &TableFormat::default());
        assert_eq!(
            (header, cells(&found)),
            (vec!["a".into(), "b".into()], vec![vec!["1".into(), String::new()]])
        );
    }

    #[test]
    fn every_encoding_gives_the_same_text() {
        let text = "vārds,€\nŽīgurs,ņ\n";
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let marked: Vec<u8> = [vec![0xff, 0xfe], utf16.clone()].concat();
        let (baltic, _, _) = encoding_rs::WINDOWS_1257.encode(text);
        let named = |encoding: &str| TableFormat { encoding: encoding.to_owned(), ..TableFormat::default() };
        let plain = rows("a.csv", text.as_bytes(), &named("utf-8"));
        assert_eq!(rows("a.csv", &utf16, &named("utf-16le")), plain);
        assert_eq!(rows("a.csv", &marked, &named("utf-8")), plain, "a mark overrides the name");
        assert_eq!(rows("a.csv", &baltic, &named("windows-1257")), plain);
    }

    #[test]
    fn a_record_of_the_wrong_width_is_given_with_its_line() {
        let (_, found) = rows("a.csv", b"a,b\n1,2\n3\n4,5\n", &TableFormat::default());
        assert!(found[1].cells.as_ref().is_err_and(|e| e.contains("1 cells, the header has 2")));
        assert_eq!(found[1].line, 3);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn objects_a_line_are_rows_too() {
        let text = "{\"b\":1,\"a\":\"x\"}\n{\"a\":null,\"b\":true}\n{\"a\":\"y\"}\n{\"a\":[],\"b\":2}\nno\n";
        let (header, found) = rows("a.ndjson", text.as_bytes(), &TableFormat::default());
        assert_eq!(header, ["a", "b"]);
        assert_eq!(cells(&found[..2]), [["x", "1"], ["", "true"]]);
        for (row, words) in found[2..].iter().zip(["has no \"b\"", "nested", "expected"]) {
            assert!(row.cells.as_ref().is_err_and(|e| e.contains(words)), "{row:?}");
        }
        assert_eq!(found.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_cannot_be_a_table_is_named() {
        let error = |name: &str, format: &TableFormat| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            Table::open(&path, format).map(drop).unwrap_err().to_string()
        };
        assert!(error("a.csv", &TableFormat::default()).contains("the file is empty"));
        let unknown = TableFormat { encoding: "klingon".to_owned(), ..TableFormat::default() };
        assert!(error("a.csv", &unknown).contains("klingon"));
        let wide = TableFormat { delimiter: Some('€'), ..TableFormat::default() };
        assert!(error("a.csv", &wide).contains("not one ASCII character"));
    }
}
