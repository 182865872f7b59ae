//! From a row to a key and an image, or to what is set aside.
//!
//! Owns the fit of columns to a channel's key and schema. A row that cannot be read gives its key where that can be read.

use schemas::avro::schema::AvroSchema;
use schemas::key::{Key, KeyDeriver, KeyError, KeySpec};
use schemas::limits;
use serde::Serialize;

use super::cells::{Cells, Columns, HeaderError, RowEncoder};
use super::format::TableFormat;
use super::place::Place;
use super::row::{Bad, Extent, Row};

/// A row that was set aside, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parked {
    /// Where what is wrong begins.
    #[serde(flatten)]
    pub place: Place,
    /// The column, where one is to blame.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// Reads rows of one file as keys and datums.
#[derive(Debug, Clone)]
pub struct RowReader {
    encoder: RowEncoder,
    keys: KeyDeriver,
    /// Only the key's fields: finds the key of a row that cannot be encoded as a whole.
    key: KeyReader,
}

/// Why a file does not fit its channel.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// Its header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The channel's key.
    #[error("the channel's key: {0}")]
    Key(#[from] KeyError),
    /// The channel's schema.
    #[error(transparent)]
    Schema(#[from] schemas::avro::schema::SchemaError),
}

/// What a row gave.
#[derive(Debug)]
pub enum Read {
    /// A key and its image.
    Good {
        key: Key,
        /// The image.
        datum: Vec<u8>,
    },
    /// Set aside; the key where it can be read.
    Bad {
        key: Option<Key>,
        /// Why.
        parked: Parked,
        /// How far it reaches.
        extent: Extent,
    },
}

/// Reads the key alone: of a row that cannot be read, or of which nothing else is told.
#[derive(Debug, Clone)]
pub struct KeyReader {
    encoder: RowEncoder,
    keys: KeyDeriver,
}

impl KeyReader {
    /// Fits columns to a channel's key.
    pub fn new(
        schema: &AvroSchema,
        spec: &KeySpec,
        columns: Columns<'_>,
        format: &TableFormat,
    ) -> Result<Self, FitError> {
        let record = schema.record()?;
        let fields = KeyDeriver::new(spec, schema)?;
        let fields = fields.field_indexes().filter_map(|index| record.fields.get(index)).cloned().collect();
        let schema = schema.with_fields(&record.name, fields)?;
        let encoder = RowEncoder::new(&schema, columns, format)?;
        Ok(Self { encoder, keys: KeyDeriver::new(spec, &schema)? })
    }

    /// The key of a row's cells, where it can be made.
    pub fn read(&self, cells: &Cells) -> Option<Key> {
        self.encoder.encode(cells).ok().and_then(|datum| self.keys.derive(&datum).ok())
    }
}

impl RowReader {
    /// Fits columns to a channel.
    pub fn new(
        schema: &AvroSchema,
        spec: &KeySpec,
        columns: Columns<'_>,
        format: &TableFormat,
    ) -> Result<Self, FitError> {
        Ok(Self {
            encoder: RowEncoder::new(schema, columns, format)?,
            key: KeyReader::new(schema, spec, columns, format)?,
            keys: KeyDeriver::new(spec, schema)?,
        })
    }

    /// Columns that stand for no field.
    pub fn ignored(&self) -> &[String] {
        self.encoder.ignored()
    }

    /// The first member of a row that stands for no field.
    pub fn unknown<'c>(&self, cells: &'c Cells) -> Option<&'c str> {
        self.encoder.unknown(cells)
    }

    /// The key alone, of a row that deletes.
    pub fn key(&self, cells: &Cells) -> Option<Key> {
        self.key.read(cells)
    }

    /// Reads one row.
    pub fn read(&self, row: &Row) -> Read {
        let parked = |place, column, reason: String| Parked { place, column, reason };
        let cells = match &row.content {
            Ok(cells) => cells,
            Err(Bad { place, reason, extent }) => {
                let parked = parked(*place, None, reason.clone());
                return Read::Bad { key: None, parked, extent: *extent };
            }
        };
        let extent = Extent::Row;
        match self.encoder.encode(cells) {
            Ok(datum) => match self.keys.derive(&datum) {
                Ok(key) if datum.len() > limits::MAX_IMAGE_BYTES => {
                    let size = datum.len();
                    let limit = limits::MAX_IMAGE_BYTES;
                    let reason = format!("it has {size} bytes; at most {limit} are taken");
                    Read::Bad { key: Some(key), parked: parked(row.place, None, reason), extent }
                }
                Ok(key) => Read::Good { key, datum },
                Err(error) => {
                    Read::Bad { key: None, parked: parked(row.place, None, error.to_string()), extent }
                }
            },
            Err(error) => {
                let place = error.index.map_or(row.place, |index| row.place_of(index));
                let parked = parked(place, Some(error.column), error.problem);
                Read::Bad { key: self.key.read(cells), parked, extent }
            }
        }
    }
}
