//! A row as a source gives it: its cells with their location, or what is wrong and how far that reaches.

use serde::Serialize;

use super::cells::Cells;
use super::location::{Location, Widths};

/// How much of a file a fault in a row affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// This row alone.
    Row,
    /// A quote is broken within its line: the rows after it can be read, but it is not sure which rows there are.
    Quotes,
    /// Everything from here on.
    Rest,
    /// The file: it is not whole.
    File,
}

/// Why a row cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    pub location: Location,
    /// What is wrong, without a value.
    pub reason: String,
    pub extent: Extent,
}

/// A row that was set aside, with its location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parked {
    /// Where the fault begins.
    #[serde(flatten)]
    pub location: Location,
    /// The column, where one is to blame.
    pub column: Option<String>,
    pub reason: String,
}

impl Parked {
    /// What is wrong, with the column where one is to blame.
    pub fn in_words(&self) -> String {
        match &self.column {
            Some(column) => format!("{column}: {}", self.reason),
            None => self.reason.clone(),
        }
    }
}

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    pub location: Location,
    cells: Cells,
    /// Why its cells cannot be read.
    bad: Option<Bad>,
    widths: Widths,
}

impl Row {
    /// A row that begins here.
    pub(super) const fn new(location: Location, cells: Cells, widths: Widths) -> Self {
        Self { location, cells, bad: None, widths }
    }

    /// Its cells, or why they cannot be read.
    pub fn content(&self) -> Result<&Cells, &Bad> {
        self.bad.as_ref().map_or(Ok(&self.cells), Err)
    }

    /// Where one of its cells begins.
    pub fn location_of(&self, index: usize) -> Location {
        self.cells.start(index).map_or(self.location, |start| self.behind(start))
    }

    /// Its memory, for another row.
    pub(super) fn into_memory(self) -> Cells {
        self.cells
    }

    pub(super) fn text(&self) -> &str {
        self.cells.text()
    }

    /// Its cells, also of a row that turns out to be bad.
    pub(super) const fn cells(&self) -> &Cells {
        &self.cells
    }

    pub(super) const fn cells_mut(&mut self) -> &mut Cells {
        &mut self.cells
    }

    pub(super) fn bad_mut(&mut self) -> Option<&mut Bad> {
        self.bad.as_mut()
    }

    /// Takes the widths of a text that has grown.
    pub(super) fn set_widths(&mut self, widths: Widths) {
        self.widths = widths;
    }

    pub(super) fn behind(&self, start: usize) -> Location {
        self.location.behind(self.text().get(..start).unwrap_or_default(), &self.widths)
    }

    pub(super) fn end(&self) -> Location {
        self.behind(self.text().len())
    }

    pub(super) fn broken(mut self, at: usize, reason: String, extent: Extent) -> Self {
        self.bad = Some(Bad { location: self.behind(at), reason, extent });
        self
    }
}
