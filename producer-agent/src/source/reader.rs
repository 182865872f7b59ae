//! Turns a row into a key and an image, or sets it aside.
//!
//! Owns the fit of columns to a channel's key and schema. A row that cannot be read still gives its key where possible.

use schemas::avro::located::Ends;
use schemas::avro::schema::AvroSchema;
use schemas::key::{Key, KeyDeriver, KeyError, KeySpec};
use schemas::limits;

use super::cells::{Cells, Columns, HeaderError, RowEncoder};
use super::format::TableFormat;
use super::location::Location;
use super::port::SourceRow;
use super::row::{Bad, Extent, Parked, Row};

/// Reads rows of one file as keys and datums, each into the memory of the one before.
#[derive(Debug, Clone)]
pub struct RowReader {
    encoder: RowEncoder,
    keys: KeyDeriver,
    datum: Vec<u8>,
    ends: Ends,
    /// Only the key's fields: finds the key of a row that cannot be encoded as a whole.
    key: KeyReader,
}

/// Why a file does not fit its channel.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the channel's key: {0}")]
    Key(#[from] KeyError),
    #[error(transparent)]
    Schema(#[from] schemas::avro::schema::SchemaError),
}

/// Reads only the key: of a row that cannot be read as a whole, or of a row that deletes.
#[derive(Debug, Clone)]
pub struct KeyReader {
    encoder: RowEncoder,
    keys: KeyDeriver,
    datum: Vec<u8>,
    ends: Ends,
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
        Ok(Self { encoder, keys: KeyDeriver::new(spec, &schema)?, datum: Vec::new(), ends: Ends::default() })
    }

    /// The key of a row's cells; `None` where it cannot be derived.
    pub fn read(&mut self, cells: &Cells) -> Option<Key<'_>> {
        self.encoder.encode(cells, &mut self.datum).ok()?;
        self.keys.derive(&self.datum, &mut self.ends).ok()
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
            datum: Vec::new(),
            ends: Ends::default(),
        })
    }

    /// Columns without a field.
    pub fn ignored(&self) -> &[String] {
        self.encoder.ignored()
    }

    /// A row's first member without a field.
    pub fn unknown<'c>(&self, cells: &'c Cells) -> Option<&'c str> {
        self.encoder.unknown(cells)
    }

    /// The key of a row that deletes.
    pub fn key(&mut self, cells: &Cells) -> Option<Key<'_>> {
        self.key.read(cells)
    }

    pub fn read(&mut self, row: &Row) -> SourceRow<'_> {
        match row.content() {
            Ok(cells) => self.read_cells(cells, row.location, |index| row.location_of(index)),
            Err(Bad { location, reason, extent }) => {
                let parked = Parked { location: *location, column: None, reason: reason.clone() };
                SourceRow::Parked { key: None, parked, extent: *extent }
            }
        }
    }

    /// Reads the cells of a row at `location`; `location_of` gives the location of its nth cell.
    pub fn read_cells(
        &mut self,
        cells: &Cells,
        location: Location,
        location_of: impl Fn(usize) -> Location,
    ) -> SourceRow<'_> {
        let set_aside = |key, location, column, reason| {
            let parked = Parked { location, column, reason };
            SourceRow::Parked { key, parked, extent: Extent::Row }
        };
        if let Err(error) = self.encoder.encode(cells, &mut self.datum) {
            let location = error.index.map_or(location, location_of);
            return set_aside(self.key.read(cells), location, Some(error.column), error.problem);
        }
        let datum = &self.datum;
        match self.keys.derive(datum, &mut self.ends) {
            Ok(key) if datum.len() > limits::MAX_IMAGE_BYTES => {
                let size = datum.len();
                let limit = limits::MAX_IMAGE_BYTES;
                let reason = format!("it has {size} bytes; at most {limit} are taken");
                set_aside(Some(key), location, None, reason)
            }
            Ok(key) => SourceRow::Present { location, key, datum },
            Err(error) => set_aside(None, location, None, error.to_string()),
        }
    }
}
