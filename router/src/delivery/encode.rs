//! Deliveries as bytes of a connection: container blocks for programs, NDJSON lines for people.
//!
//! Owns the frame: at most 64 KiB between two checks of the agreement, and the places that its reader reaches.
//! A delivery that cannot be written is an error for its caller; the rest of its frame is kept.

use std::collections::BTreeMap;

use bytes::Bytes;
use platform::traces::StageSpan;
use schemas::avro::binary::{Cursor as Datum, DatumError};
use schemas::avro::container::{self, Header, Sync};
use schemas::avro::json;
use schemas::avro::names;
use schemas::avro::schema::AvroSchema;
use schemas::cursor::Place;
use schemas::delivery::{Delivery, DeliveryCodec};
use schemas::limits::MAX_FRAME_BYTES;
use schemas::per_partition::PerPartition;
use scope::permit::{Outcome, Permitted, WrittenDelivery};
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

/// Bytes to hand over at once, and the places after them.
#[derive(Debug, Clone)]
pub struct Frame {
    /// At most 64 KiB, unless one delivery alone is larger.
    pub bytes: Bytes,
    /// The places after it.
    pub places: PerPartition<Place>,
    /// Deliveries of rows in it; marks and progress do not count.
    pub rows: usize,
    /// Spans of its traced deliveries.
    pub followed: Vec<StageSpan>,
}

/// What the writer needs besides datums. The codec's schemas are large: a stream of blocks does not keep them.
enum Form {
    Blocks,
    Lines(DeliveryCodec),
}

/// A delivery that has no text for people: its datum is valid only for programs, or is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a delivery cannot be written as JSON: {0}; ask for application/vnd.apache.avro.file")]
pub struct Unwritable(#[from] DatumError);

/// Collects deliveries into frames.
pub struct Encoder {
    form: Form,
    sync: Sync,
    /// Datums of a block, or whole lines.
    bytes: Vec<u8>,
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
        Self { form, sync, bytes: Vec::new(), count: 0, rows: 0 }
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

    /// Adds a permitted delivery.
    pub fn delivery(&mut self, permitted: &Permitted<WrittenDelivery<'_>>) -> Result<(), Unwritable> {
        self.add(|out| out.extend_from_slice(permitted.get().bytes))?;
        self.rows += 1;
        Ok(())
    }

    /// Adds a range with all its rows.
    pub fn range<'a>(
        &mut self,
        number: u32,
        rows: impl ExactSizeIterator<Item = &'a Permitted<Outcome>>,
    ) -> Result<(), Unwritable> {
        let count = rows.len();
        self.add(|out| Outcome::encode_range(number, rows, out))?;
        self.rows += count;
        Ok(())
    }

    /// Adds a begin or end mark, progress, or the closing record.
    pub fn mark(&mut self, delivery: &Delivery<'_>) -> Result<(), Unwritable> {
        self.add(|out| DeliveryCodec::encode(delivery, out))
    }

    fn add(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), Unwritable> {
        match &self.form {
            Form::Blocks => encode(&mut self.bytes),
            Form::Lines(codec) => {
                let mut datum = Vec::new();
                encode(&mut datum);
                let mut cursor = Datum::new(&datum);
                let delivery = codec.decode(&mut cursor)?;
                if cursor.left() > 0 {
                    let at = cursor.at();
                    let extra = cursor.left();
                    return Err(DatumError::Trailing { at, extra }.into());
                }
                self.bytes.extend_from_slice(line(codec.derived(), &delivery)?.to_string().as_bytes());
                self.bytes.push(b'\n');
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Whether the frame should go now.
    pub fn is_full(&self) -> bool {
        // A block's counts and sync marker need some room too.
        self.bytes.len() >= MAX_FRAME_BYTES - 8 * 1024
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
        let frame = match &self.form {
            Form::Blocks => {
                let mut out = Vec::with_capacity(self.bytes.len() + 48);
                container::put_block(&mut out, self.count, &self.bytes, &self.sync);
                self.bytes.clear();
                out
            }
            Form::Lines(_) => std::mem::take(&mut self.bytes),
        };
        self.count = 0;
        self.rows = 0;
        Some(frame.into())
    }
}

fn rendered(derived: &AvroSchema, image: &[u8]) -> Result<serde_json::Value, DatumError> {
    let name = |field: &str| names::column_name(field).unwrap_or_else(|| field.to_owned());
    let value = json::decode(derived, image)?;
    Ok(json::render(derived.parsed(), &value, &name))
}

fn line(derived: &AvroSchema, delivery: &Delivery<'_>) -> Result<serde_json::Value, DatumError> {
    Ok(match delivery {
        Delivery::Event(event) => {
            // A null image means that the row was removed: nothing else may look like that.
            let after = event.after.map(|image| rendered(derived, image)).transpose()?;
            json!({"op": event.op.letter(), "key": event.key, "after": after, "reason": event.reason,
                    "partition": event.partition, "offset": event.position.offset, "index": event.position.index,
                    "event_at": event.event_at.to_string()})
        }
        Delivery::SnapshotBegin { bootstrap } => json!({"begin": bootstrap}),
        Delivery::SnapshotProgress(snapshot) => json!({"snapshot": snapshot.id, "places": snapshot.places}),
        Delivery::SnapshotEnd { bootstrap, places } => json!({"end": bootstrap, "places": places}),
        Delivery::Progress(progress) => json!({"progress": {"partition": progress.partition,
                "offset": progress.place.offset, "end": progress.end,
                "fresh_at": progress.freshness.map(|at| at.to_string())}}),
        Delivery::Digests { places, announced } => {
            let digests: Vec<String> =
                announced.digests.iter().map(|digest| format!("{digest:016x}")).collect();
            let total = format!("{:032x}", announced.total);
            json!({"digests": {"places": places, "rows": announced.rows, "total": total, "digests": digests}})
        }
        Delivery::Range { number, rows } => {
            let row = |(key, image): &(&str, &[u8])| {
                Ok::<_, DatumError>(json!({"key": key, "image": rendered(derived, image)?}))
            };
            json!({"range": {"number": number, "rows": rows.iter().map(row).collect::<Result<Vec<_>, _>>()?}})
        }
        Delivery::Closing { next, reason, detail, places } => {
            json!({"closing": {"next": next, "reason": reason, "detail": detail, "places": places}})
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::change::Op;
    use schemas::delivery::{Event, Reason};
    use schemas::ids::{BootstrapId, Partition};
    use schemas::position::EventPosition;
    use schemas::time::Millis;

    fn encoder(format: Format) -> Encoder {
        let born = r#"{"type":"record","name":"lv.C","fields":[{"name":"born","type":{"type":"int","logicalType":"date"}}]}"#;
        let codec = DeliveryCodec::new(&AvroSchema::parse(born).unwrap()).unwrap();
        Encoder::new(format, &codec, [7; 16])
    }

    fn born(days: i64) -> Vec<u8> {
        let mut image = Vec::new();
        schemas::avro::binary::put_long(&mut image, days);
        image
    }

    fn event<'a>(key: &'a str, image: &'a [u8]) -> Delivery<'a> {
        Delivery::Event(Event {
            op: Op::Update,
            key,
            after: Some(image),
            reason: Reason::Change,
            partition: Partition::new(0),
            position: EventPosition::default(),
            event_at: Millis::new(0),
            logged_at: Millis::new(0),
            trace: None,
        })
    }

    fn keys(frame: &[u8]) -> Vec<String> {
        let lines = std::str::from_utf8(frame).unwrap().lines();
        let keys =
            lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].to_string());
        keys.collect()
    }

    #[test]
    fn what_has_no_text_is_told_and_takes_nothing_else_with_it() {
        let mut lines = encoder(Format::Ndjson);
        let good = born(20_000);
        let cut = Vec::new();
        let long = [born(1), born(1)].concat();
        lines.mark(&event("first", &good)).unwrap();
        assert!(lines.mark(&event("cut", &cut)).is_err(), "its image ends too early");
        lines.mark(&event("second", &good)).unwrap();
        assert!(lines.mark(&event("long", &long)).is_err(), "its image ends too late");
        lines.mark(&event("third", &good)).unwrap();
        assert_eq!(keys(&lines.take().unwrap()), [r#""first""#, r#""second""#, r#""third""#]);
        assert_eq!(lines.take(), None);
    }

    #[test]
    fn a_day_that_no_calendar_has_is_a_number_and_not_null() {
        let mut lines = encoder(Format::Ndjson);
        lines.mark(&event("late", &born(i64::from(i32::MAX)))).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&lines.take().unwrap()).unwrap();
        assert_eq!(line["after"]["born"], json!(i32::MAX));
    }

    #[test]
    fn a_frame_of_lines_is_full_by_its_own_bytes() {
        let mut lines = encoder(Format::Ndjson);
        let begin = Delivery::SnapshotBegin { bootstrap: BootstrapId::new([1; 16]) };
        while !lines.is_full() {
            lines.mark(&begin).unwrap();
        }
        let frame = lines.take().unwrap();
        assert!(frame.len() <= MAX_FRAME_BYTES && frame.len() > MAX_FRAME_BYTES / 2);
        assert!(!lines.is_full());
    }
}
