//! A local request as a source: single changes that a local system hands over.
//!
//! Owns a request's changes as rows. A change that makes no sense is set aside by itself; the others continue. The
//! endpoint listens and answers.

pub mod items;

use schemas::avro::schema::AvroSchema;
use schemas::key::KeySpec;
use serde_json::value::RawValue;

use self::items::{Item, Operation};
use super::cells::{Cells, Columns};
use super::format::TableFormat;
use super::location::Location;
use super::objects;
use super::port::{Content, Notes, Rows, Source, SourceError, SourceRow};
use super::reader::RowReader;
use super::row::{Extent, Parked};

/// The changes of one request, in order.
#[derive(Debug, Clone)]
pub struct RequestSource {
    items: Vec<Result<Item, String>>,
}

impl RequestSource {
    /// A request's changes; a wrong one is its problem in words.
    pub const fn new(items: Vec<Result<Item, String>>) -> Self {
        Self { items }
    }
}

impl Source for RequestSource {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn name(&self) -> &'static str {
        ""
    }

    fn content(&self) -> Content {
        Content::Changes
    }

    fn rows(&self, schema: &AvroSchema, key: &KeySpec) -> Result<Box<dyn Rows + '_>, SourceError> {
        let reader = reader(schema, key);
        Ok(Box::new(RequestRows { items: self.items.iter(), reader, rows: 0 }))
    }
}

fn reader(schema: &AvroSchema, key: &KeySpec) -> Result<RowReader, String> {
    RowReader::new(schema, key, Columns::Open, &TableFormat::default()).map_err(|error| error.to_string())
}

struct RequestRows<'s> {
    items: std::slice::Iter<'s, Result<Item, String>>,
    /// `Err` is why the channel takes no single changes: each is refused with it.
    reader: Result<RowReader, String>,
    rows: u64,
}

impl Rows for RequestRows<'_> {
    fn next_row(&mut self) -> Option<SourceRow<'_>> {
        let item = self.items.next()?;
        self.rows += 1;
        Some(match (item, &mut self.reader) {
            (Ok(item), Ok(reader)) => read(reader, item),
            (Err(reason), _) => set_aside(reason.clone()),
            (_, Err(reason)) => set_aside(reason.clone()),
        })
    }

    fn notes(&self) -> Notes {
        Notes { rows: self.rows, ..Notes::default() }
    }
}

const fn set_aside(reason: String) -> SourceRow<'static> {
    let parked = Parked { location: Location::NONE, column: None, reason };
    SourceRow::Parked { key: None, parked, extent: Extent::Row }
}

fn read<'r>(reader: &'r mut RowReader, item: &Item) -> SourceRow<'r> {
    if let Some(column) = reader.unknown(&item.row) {
        return set_aside(format!("the schema has no field {column:?}"));
    }
    let location = Location::NONE;
    match item.op {
        Operation::Put => reader.read_cells(&item.row, location, |_| location),
        Operation::Delete => match reader.key(&item.row) {
            Some(key) => SourceRow::Deleted { location, key },
            None => set_aside("the key cannot be made of the row's fields".to_owned()),
        },
    }
}

/// A row's key and its datum, from an object of plain values, as a local system hands it over.
pub fn read_row(schema: &AvroSchema, key: &KeySpec, row: &RawValue) -> Result<(String, Vec<u8>), String> {
    let mut cells = Cells::default();
    objects::read(row.get(), &mut cells).map_err(|error| error.to_string())?;
    match read(&mut reader(schema, key)?, &Item { op: Operation::Put, row: cells }) {
        SourceRow::Present { key, datum, .. } => Ok((key.into_string(), datum.to_vec())),
        SourceRow::Deleted { .. } => Err("the row has no values".to_owned()),
        SourceRow::Parked { parked, .. } => Err(parked.in_words()),
    }
}
