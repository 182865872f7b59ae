//! Deliveries as bytes of a connection: container blocks for programs, NDJSON lines for people.
//!
//! Owns the frame: at most 64 KiB between two looks at the agreement, and the places that it brings its reader to.

use std::collections::BTreeMap;

use bytes::Bytes;
use platform::traces::Stepping;
use schemas::avro::binary::Cursor as Datum;
use schemas::avro::container::{self, Header, Sync};
use schemas::avro::json;
use schemas::avro::names;
use schemas::avro::schema::AvroSchema;
use schemas::cursor::Place;
use schemas::delivery::{Delivery, DeliveryCodec};
use schemas::limits::MAX_FRAME_BYTES;
use scope::permit::{Outcome, Permitted, Standing};
use serde_json::json;

/// How a stream is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An Avro object container file.
    Avro,
    /// One JSON object a line.
    Ndjson,
}

impl Format {
    /// The response's media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Avro => "application/vnd.apache.avro.file",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// Bytes to hand over at once, and where they bring the reader.
#[derive(Debug, Clone)]
pub struct Frame {
    /// At most 64 KiB, unless one delivery alone is larger.
    pub bytes: Bytes,
    /// The places after it.
    pub places: Vec<Place>,
    /// Deliveries of rows in it; marks and progress do not count.
    pub rows: usize,
    /// Deliveries in it that somebody follows.
    pub followed: Vec<Stepping>,
}

/// What writing needs beside the datums. The codec's schemas are large: a stream of blocks does not keep them.
enum Form {
    Blocks,
    Lines(DeliveryCodec),
}

/// Collects deliveries into frames.
pub struct Encoder {
    form: Form,
    sync: Sync,
    datums: Vec<u8>,
    count: usize,
    rows: usize,
}

impl Encoder {
    /// An encoder for one stream.
    pub fn new(format: Format, codec: &DeliveryCodec, sync: Sync) -> Self {
        let form = match format {
            Format::Avro => Form::Blocks,
            Format::Ndjson => Form::Lines(codec.clone()),
        };
        Self { form, sync, datums: Vec::new(), count: 0, rows: 0 }
    }

    /// The stream's first bytes.
    pub fn header(&self, codec: &DeliveryCodec, metadata: BTreeMap<String, Vec<u8>>) -> Bytes {
        match self.form {
            Form::Blocks => {
                let schema = codec.union().text().to_owned();
                Header { metadata, schema, sync: self.sync }.encode().into()
            }
            Form::Lines(_) => Bytes::new(),
        }
    }

    /// Adds a permitted outcome.
    pub fn event(&mut self, permitted: &Permitted<Outcome>, standing: Standing) {
        permitted.encode(standing, &mut self.datums);
        self.count += 1;
        self.rows += 1;
    }

    /// Adds a range with all the rows that it has.
    pub fn range<'a>(&mut self, number: u32, rows: impl ExactSizeIterator<Item = &'a Permitted<Outcome>>) {
        self.rows += rows.len();
        Outcome::encode_range(number, rows, &mut self.datums);
        self.count += 1;
    }

    /// Adds a begin or end mark, progress, or the closing record.
    pub fn mark(&mut self, delivery: &Delivery<'_>) {
        DeliveryCodec::encode(delivery, &mut self.datums);
        self.count += 1;
    }

    /// Whether the frame should go now.
    pub fn is_full(&self) -> bool {
        // A block's own numbers and marker need some room too.
        self.datums.len() >= MAX_FRAME_BYTES - 8 * 1024
    }

    /// Deliveries of rows among the bytes collected so far.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The bytes collected so far; `None` when there are none.
    pub fn take(&mut self) -> Option<Bytes> {
        if self.count == 0 {
            return None;
        }
        let bytes = match &self.form {
            Form::Blocks => {
                let mut out = Vec::with_capacity(self.datums.len() + 48);
                container::put_block(&mut out, self.count, &self.datums, &self.sync);
                out
            }
            Form::Lines(codec) => lines(codec, &self.datums),
        };
        self.datums.clear();
        (self.count, self.rows) = (0, 0);
        Some(bytes.into())
    }
}

fn lines(codec: &DeliveryCodec, datums: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut cursor = Datum::new(datums);
    while let Ok(delivery) = codec.decode(&mut cursor) {
        out.extend_from_slice(line(codec.derived(), &delivery).to_string().as_bytes());
        out.push(b'\n');
        if cursor.left() == 0 {
            break;
        }
    }
    out
}

fn rendered(derived: &AvroSchema, image: &[u8]) -> Option<serde_json::Value> {
    let name = |field: &str| names::column_name(field).unwrap_or_else(|| field.to_owned());
    let value = json::decode(derived, image).ok()?;
    Some(json::render(derived.parsed(), &value, &name))
}

fn line(derived: &AvroSchema, delivery: &Delivery<'_>) -> serde_json::Value {
    match delivery {
        Delivery::Event(event) => {
            let after = event.after.and_then(|image| rendered(derived, image));
            json!({"op": event.op.letter(), "key": event.key, "after": after, "reason": event.reason,
                    "partition": event.partition, "offset": event.offset, "event_at": event.event_at.to_string()})
        }
        Delivery::Begin { bootstrap } => json!({"begin": bootstrap}),
        Delivery::Pass(pass) => json!({"pass": pass.id, "places": pass.places}),
        Delivery::End { bootstrap, places } => json!({"end": bootstrap, "places": places}),
        Delivery::Progress(progress) => json!({"progress": {"partition": progress.partition,
                "offset": progress.place.offset, "end": progress.end,
                "fresh_at": progress.freshness.map(|at| at.to_string())}}),
        Delivery::Sums { places, announced } => {
            let sums: Vec<String> = announced.sums.iter().map(|sum| format!("{sum:016x}")).collect();
            let total = format!("{:032x}", announced.total);
            json!({"sums": {"places": places, "rows": announced.rows, "total": total, "sums": sums}})
        }
        Delivery::Range { number, rows } => {
            let row = |(key, image): &(&str, &[u8])| json!({"key": key, "image": rendered(derived, image)});
            json!({"range": {"number": number, "rows": rows.iter().map(row).collect::<Vec<_>>()}})
        }
        Delivery::Closing { next, reason, detail, places } => {
            json!({"closing": {"next": next, "reason": reason, "detail": detail, "places": places}})
        }
    }
}
