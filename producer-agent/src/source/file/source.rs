//! A file as a source: the whole register, or changes where its header has an operation column.
//!
//! Owns the position of a change file's operations, and the remarks about a file's columns and quotes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemas::avro::schema::AvroSchema;
use schemas::key::{Key, KeySpec};

use super::table::{Table, TableError};
use crate::source::cells::{Cell, Cells, Columns};
use crate::source::format::TableFormat;
use crate::source::location::Location;
use crate::source::port::{Content, Notes, Rows, Source, SourceError, SourceRow};
use crate::source::reader::{FitError, RowReader};
use crate::source::row::{Extent, Parked, Row};

/// The most names of members without a field that are reported.
const NAMED: usize = 40;

/// A file that does not change any more.
#[derive(Debug, Clone)]
pub struct FileSource {
    path: PathBuf,
    name: String,
    format: TableFormat,
    operation: Option<OperationAt>,
}

/// A file that does not fit its channel.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {error}")]
struct Misfit {
    name: String,
    error: FitError,
}

/// Where a row's operation is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum OperationAt {
    Column(usize),
    /// The member of this name.
    Member(String),
}

impl From<TableError> for SourceError {
    fn from(error: TableError) -> Self {
        Self::Unfit(Box::new(error))
    }
}

impl FileSource {
    /// Looks at a file's head: whether it is the whole register, or changes.
    pub fn open(path: &Path, format: &TableFormat) -> Result<Self, SourceError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let table = Table::open(path, format)?;
        let operation = OperationAt::find(&table, format)
            .map_err(|problem| SourceError::Unreliable { name: name.clone(), problem })?;
        Ok(Self { path: path.to_owned(), name, format: format.clone(), operation })
    }
}

impl Source for FileSource {
    fn kind(&self) -> &'static str {
        match self.content() {
            Content::Register => "file",
            Content::Changes => "change_file",
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn content(&self) -> Content {
        if self.operation.is_some() { Content::Changes } else { Content::Register }
    }

    fn rows(&self, schema: &AvroSchema, key: &KeySpec) -> Result<Box<dyn Rows + '_>, SourceError> {
        let table = Table::open(&self.path, &self.format)?;
        let misfit = |error| SourceError::Unfit(Box::new(Misfit { name: self.name.clone(), error }));
        let reader = RowReader::new(schema, key, table.columns(), &self.format).map_err(misfit)?;
        let reading = Reading { source: self, reader, unknown: BTreeSet::new() };
        Ok(Box::new(FileRows { table, reading }))
    }
}

impl OperationAt {
    /// Where a change file's operations are; `None` in a whole register.
    fn find(table: &Table, format: &TableFormat) -> Result<Option<Self>, String> {
        let Some(name) = format.operation_column.as_ref() else { return Ok(None) };
        let bare = |column: &str| column.trim().to_lowercase();
        let mut alike = table.header().iter().enumerate().filter(|(_, column)| bare(column) == bare(name));
        match (alike.next(), alike.next()) {
            (None, _) => Ok(None),
            (Some((location, column)), None) if column == name => Ok(Some(match table.columns() {
                Columns::Named(_) => Self::Column(location),
                Columns::Open => Self::Member(name.clone()),
            })),
            // A change file that is read as a register would delete every row that it does not name.
            (Some((_, column)), None) => {
                Err(format!("it has a column {column:?}, operation_column is {name:?}: write them alike"))
            }
            (Some(_), Some(_)) => Err(format!("the operation column {name:?} stands there twice")),
        }
    }

    fn read<'c>(&self, cells: &'c Cells) -> Option<&'c str> {
        let cell = match self {
            Self::Column(index) => cells.get(*index),
            Self::Member(name) => cells.member(name),
        };
        match cell? {
            Cell::Plain(text) | Cell::Text(text) => Some(text),
            _ => None,
        }
    }
}

struct FileRows<'s> {
    table: Table,
    reading: Reading<'s>,
}

/// How a file's rows are read.
struct Reading<'s> {
    source: &'s FileSource,
    reader: RowReader,
    /// Members without a field, at most [`NAMED`].
    unknown: BTreeSet<String>,
}

impl Reading<'_> {
    fn of_register(&mut self, row: &Row) -> SourceRow<'_> {
        if let Ok(cells) = row.content()
            && let Some(name) = self.reader.unknown(cells)
        {
            if Some(name) == self.source.format.operation_column.as_deref() {
                let reason = format!(
                    "this row has {name:?}, but the first row does not: the file must hold either changes or a whole register"
                );
                return set_aside(row.location, None, reason, Extent::File);
            }
            if self.unknown.len() < NAMED {
                self.unknown.insert(name.to_owned());
            }
        }
        self.reader.read(row)
    }

    fn of_changes(&mut self, row: &Row, operation: &OperationAt) -> SourceRow<'_> {
        let Ok(cells) = row.content() else { return self.reader.read(row) };
        let location = row.location;
        match operation.read(cells) {
            Some("c" | "u") => self.reader.read(row),
            // Only the key is read: the other cells may be empty or absent.
            Some("d") => match self.reader.key(cells) {
                Some(key) => SourceRow::Deleted { location, key },
                None => {
                    let reason = "the key of what it deletes cannot be read".to_owned();
                    set_aside(location, None, reason, Extent::Row)
                }
            },
            _ => {
                let reason = "its operation is none of c, u, d".to_owned();
                set_aside(location, self.reader.key(cells), reason, Extent::Row)
            }
        }
    }
}

fn set_aside(location: Location, key: Option<Key<'_>>, reason: String, extent: Extent) -> SourceRow<'_> {
    SourceRow::Parked { key, parked: Parked { location, column: None, reason }, extent }
}

impl Rows for FileRows<'_> {
    fn next_row(&mut self) -> Option<SourceRow<'_>> {
        let row = self.table.next_row()?;
        Some(match &self.reading.source.operation {
            None => self.reading.of_register(row),
            Some(operation) => self.reading.of_changes(row, operation),
        })
    }

    fn notes(&self) -> Notes {
        let mut remarks = Vec::new();
        if let Some((count, location)) = self.table.loose() {
            remarks.push(format!(
                "{count} row(s) have a quote within a cell that is not quoted, taken as it stands; the first at line {}, character {}",
                location.line, location.character
            ));
        }
        if let Some((count, location)) = self.table.rows_in_quotes() {
            remarks.push(format!(
                "{count} row(s) have quotes around lines that look like rows, taken as text; the first at line {}, character {}: look whether a quote is missing there",
                location.line, location.character
            ));
        }
        let Reading { source, reader, unknown } = &self.reading;
        let is_operation = |column: &&String| {
            source.operation.is_some() && Some(*column) == source.format.operation_column.as_ref()
        };
        let ignored = reader.ignored().iter().filter(|column| !is_operation(column));
        let ignored_columns = ignored.chain(unknown).cloned().collect();
        Notes { rows: self.table.rows(), remarks, ignored_columns }
    }
}
