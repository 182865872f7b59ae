//! Encodes a row's cells as a datum of the subject's schema.
//!
//! Owns the mapping of columns to fields (by name, by alias) and each cell's value in its field's type: exact, or
//! refused. Values stay as in the file; only the key is normalised, elsewhere.

mod cell;
mod header;
mod kind;

use std::collections::{BTreeSet, HashMap};

use schemas::avro::names::column_name;
use schemas::avro::schema::AvroSchema;

use super::format::TableFormat;
use kind::{Kind, Styles};

pub use cell::{Cell, Cells};
pub use header::{HeaderError, hint, in_quotes};

/// The columns that rows have.
#[derive(Debug, Clone, Copy)]
pub enum Columns<'h> {
    /// These, in order.
    Named(&'h [String]),
    /// Each row names its own.
    Open,
}

/// A cell that is not a value of its field's type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column:?}: {problem}")]
pub struct CellError {
    /// The column, as in the file.
    pub column: String,
    /// Its index among the row's cells, if it is there.
    pub index: Option<usize>,
    /// What is wrong, without the value.
    pub problem: String,
}

#[derive(Debug, Clone)]
struct Field {
    /// Its column's name: as in the file, where it has a header.
    column: String,
    kind: Kind,
    /// Its cell's index, where the rows have a header.
    index: Option<usize>,
    /// Its encoded value where it is left out.
    default: Option<Vec<u8>>,
}

/// Encodes the rows of one file.
#[derive(Debug, Clone)]
pub struct RowEncoder {
    fields: Vec<Field>,
    /// Every name that a member may have, and its field; none where the rows have a header.
    members: Option<HashMap<String, usize>>,
    ignored: Vec<String>,
    styles: Styles,
}

impl RowEncoder {
    /// Fits columns to a schema: each field takes the column of its own name, or of an alias.
    pub fn new(schema: &AvroSchema, columns: Columns<'_>, format: &TableFormat) -> Result<Self, HeaderError> {
        let unsupported = || HeaderError::Unsupported("the schema".to_owned());
        let record = schema.record().map_err(|_| unsupported())?.record;
        let mut used = BTreeSet::new();
        let mut fields = Vec::with_capacity(record.fields.len());
        let mut members = HashMap::new();
        for (index, field) in record.fields.iter().enumerate() {
            let kind = Kind::of(&field.schema).ok_or_else(|| HeaderError::Unsupported(field.name.clone()))?;
            let names: Vec<String> = std::iter::once(&field.name)
                .chain(&field.aliases)
                .map(|name| column_name(name).unwrap_or_else(|| name.clone()))
                .collect();
            let default = field.default.as_ref().and_then(|default| kind.default(default));
            let mut column = names.first().cloned().unwrap_or_default();
            let index = match columns {
                Columns::Open => {
                    // A field's own name wins over an equal alias of another field.
                    members.insert(column.clone(), index);
                    for name in names {
                        members.entry(name).or_insert(index);
                    }
                    None
                }
                Columns::Named(header) => {
                    let found = header::find(header, &field.name, &names)?;
                    if found.is_none() && default.is_none() {
                        return Err(header::missing(header, &field.name, &names));
                    }
                    used.extend(found);
                    column = found.and_then(|index| header.get(index)).cloned().unwrap_or(column);
                    found
                }
            };
            fields.push(Field { column, kind, index, default });
        }
        let ignored = match columns {
            Columns::Open => Vec::new(),
            Columns::Named(header) => {
                let unused = header.iter().enumerate().filter(|(index, _)| !used.contains(index));
                unused.map(|(_, column)| column.clone()).collect()
            }
        };
        let members = matches!(columns, Columns::Open).then_some(members);
        Ok(Self { fields, members, ignored, styles: Styles::of(format) })
    }

    /// Columns without a field: they are not read.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// A row's first member without a field.
    pub fn unknown<'c>(&self, cells: &'c Cells) -> Option<&'c str> {
        let known = self.members.as_ref()?;
        cells.names()?.find(|name| !known.contains_key(*name))
    }

    /// Writes a row's datum into memory that had another one.
    pub fn encode(&self, cells: &Cells, datum: &mut Vec<u8>) -> Result<(), CellError> {
        datum.clear();
        match cells.names() {
            None => {
                let mut fields = self.fields.iter();
                fields.try_for_each(|field| self.put(field, field.index, cells, datum))
            }
            Some(names) => {
                let indexes = self.indexes(names)?;
                let mut fields = self.fields.iter().zip(indexes);
                fields.try_for_each(|(field, index)| self.put(field, index, cells, datum))
            }
        }
    }

    /// The index of each field's member.
    fn indexes<'c>(&self, names: impl Iterator<Item = &'c str>) -> Result<Vec<Option<usize>>, CellError> {
        let mut indexes: Vec<Option<usize>> = vec![None; self.fields.len()];
        for (index, name) in names.enumerate() {
            let field = self.members.as_ref().and_then(|known| known.get(name));
            let Some(member) = field.and_then(|field| indexes.get_mut(*field)) else { continue };
            if member.replace(index).is_some() {
                let problem = "another member stands for the same field".to_owned();
                return Err(CellError { column: name.to_owned(), index: Some(index), problem });
            }
        }
        Ok(indexes)
    }

    fn put(
        &self,
        field: &Field,
        index: Option<usize>,
        cells: &Cells,
        out: &mut Vec<u8>,
    ) -> Result<(), CellError> {
        let cell = index.and_then(|index| cells.get(index));
        let wrong = |problem: String| CellError { column: field.column.clone(), index, problem };
        match (cell, &field.default) {
            (Some(cell), _) => field.kind.put(cell, &self.styles, out).map_err(wrong),
            (None, Some(default)) => {
                out.extend_from_slice(default);
                Ok(())
            }
            (None, None) => {
                let left_out = "it is not there, and its field has no default and may not be null";
                field.kind.put_null(out).ok_or_else(|| wrong(left_out.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
