//! The change event: an Avro envelope around two images of a subject.
//!
//! Owns the envelope's schema for a subject's schema, its encoding around bytes that already are images, and its
//! decoding with full validation. The letters of `op` are Debezium's.

mod table;

use std::ops::Range;

use serde::Serialize;
use serde_json::json;

use self::table::PlacedImage;
pub use self::table::{BlockTable, PlacedChange};
use crate::avro::binary::{self, Cursor, DatumError};
use crate::avro::located::Located;
use crate::avro::schema::{AvroSchema, SchemaError};
use crate::block;
use crate::key::{KeyDeriver, KeyError, KeySpec};
use crate::marks::FRESHNESS_SCHEMA;
use crate::time::Millis;

/// What happened to a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Create,
    Update,
    Delete,
    /// It was read from a snapshot or the state.
    Read,
}

impl Op {
    const ALL: [Self; 4] = [Self::Create, Self::Update, Self::Delete, Self::Read];

    /// Debezium's letter.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
        }
    }

    /// Its index in the schema's enum.
    pub(crate) const fn index(self) -> i64 {
        match self {
            Self::Create => 0,
            Self::Update => 1,
            Self::Delete => 2,
            Self::Read => 3,
        }
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DatumError> {
        let at = cursor.at();
        let index = usize::try_from(cursor.long()?).ok();
        index
            .and_then(|i| Self::ALL.get(i))
            .copied()
            .ok_or(DatumError::Invalid { at, what: "op is none of c, u, d, r" })
    }
}

/// Where an event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Source<'a> {
    /// The kind of source: `file` (a whole register), `change_file`, `http` (single changes) or `reopen` (made again).
    pub kind: &'a str,
    /// Its name, as the provider knows it.
    pub name: &'a str,
    /// The position in it: a line number, a log position.
    pub position: &'a str,
    /// Whether it was found by comparing a whole snapshot.
    pub snapshot: bool,
}

/// A change event around borrowed images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    pub op: Op,
    pub key: &'a str,
    /// The image before; a datum of the subject's schema.
    pub before: Option<&'a [u8]>,
    /// The image after; a datum of the subject's schema.
    pub after: Option<&'a [u8]>,
    pub source: Source<'a>,
    /// When it happened, as far as the source knows.
    pub event_at: Millis,
    /// When the agent took it.
    pub captured_at: Millis,
}

/// An event's images in its own schema, with the ranges of their fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct Images<'a> {
    pub before: Option<Located<'a>>,
    pub after: Option<Located<'a>>,
}

/// Why a datum is not a change event of its channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It does not follow the schema.
    #[error(transparent)]
    Datum(#[from] DatumError),
    /// `op` and the images do not fit.
    #[error("op {op} {rule}")]
    Images { op: &'static str, rule: &'static str },
    /// An image gives no key.
    #[error("an image gives no key: {0}")]
    NoKey(#[from] KeyError),
    /// The key is not the one that an image gives.
    #[error("the event's key is not the one that its {0} image gives")]
    KeyMismatch(&'static str),
}

/// Encodes and decodes the change events of one subject schema.
#[derive(Debug, Clone)]
pub struct ChangeCodec {
    subject: AvroSchema,
    envelope: AvroSchema,
    block: AvroSchema,
    batch: AvroSchema,
}

/// A change of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockChange<'a> {
    pub change: Change<'a>,
    /// Where its own datum lies in the block.
    pub range: Range<usize>,
}

impl ChangeCodec {
    /// The codec for a subject's schema.
    pub fn new(subject: &AvroSchema) -> Result<Self, SchemaError> {
        let envelope = envelope_schema(subject)?;
        let freshness: serde_json::Value =
            serde_json::from_str(FRESHNESS_SCHEMA).map_err(|e| SchemaError::NotJson(e.to_string()))?;
        let block = AvroSchema::from_json(json!({"type": "array", "items": envelope.json()}))?;
        let batch = AvroSchema::from_json(json!([block.json(), freshness]))?;
        Ok(Self { subject: subject.clone(), envelope, block, batch })
    }

    /// The codec for a batch's schema, as [`ChangeCodec::batch_schema`] gives it.
    pub fn from_batch_schema(text: &str) -> Result<Self, SchemaError> {
        let batch = AvroSchema::parse(text)?;
        let codec = batch.json().get(0).ok_or_else(not_ours).and_then(Self::from_block)?;
        if codec.batch == batch { Ok(codec) } else { Err(not_ours()) }
    }

    /// The codec for a block's schema, as the registry holds it.
    pub fn from_block_schema(text: &str) -> Result<Self, SchemaError> {
        let block = AvroSchema::parse(text)?;
        let codec = Self::from_block(block.json())?;
        if codec.block == block { Ok(codec) } else { Err(not_ours()) }
    }

    fn from_block(block: &serde_json::Value) -> Result<Self, SchemaError> {
        let subject = block.pointer("/items/fields/2/type/1").ok_or_else(not_ours)?;
        Self::new(&AvroSchema::from_json(subject.clone())?)
    }

    pub const fn subject(&self) -> &AvroSchema {
        &self.subject
    }

    /// The schema of one change.
    pub const fn envelope(&self) -> &AvroSchema {
        &self.envelope
    }

    /// The schema of a block, an array of changes: what the registry holds.
    pub const fn block_schema(&self) -> &AvroSchema {
        &self.block
    }

    /// The schema of a published batch's items: a union of a block and a freshness record.
    pub const fn batch_schema(&self) -> &AvroSchema {
        &self.batch
    }

    /// Appends the event's bare datum.
    pub fn encode(change: &Change<'_>, out: &mut Vec<u8>) {
        binary::put_long(out, change.op.index());
        binary::put_string(out, change.key);
        for image in [change.before, change.after] {
            match image {
                None => out.push(0),
                Some(image) => {
                    binary::put_long(out, 1);
                    out.extend_from_slice(image);
                }
            }
        }
        for text in [change.source.kind, change.source.name, change.source.position] {
            binary::put_string(out, text);
        }
        out.push(u8::from(change.source.snapshot));
        binary::put_long(out, change.event_at.get());
        binary::put_long(out, change.captured_at.get());
    }

    /// Reads a block that is all of `datum`.
    pub fn decode_block<'a>(&self, datum: &'a [u8]) -> Result<Vec<BlockChange<'a>>, DatumError> {
        let mut cursor = Cursor::new(datum);
        let mut changes = Vec::new();
        let see = &mut |change: &Change<'a>, _: &Images<'_>, range| {
            changes.push(BlockChange { change: *change, range })
        };
        self.pass_block(&mut cursor, &mut BlockTable::default(), see)?;
        cursor.end().map(|()| changes)
    }

    /// Finds the changes of a block that is all of `datum`.
    pub fn locate_block(&self, datum: &[u8]) -> Result<BlockTable, DatumError> {
        let mut cursor = Cursor::new(datum);
        let mut table = BlockTable::default();
        self.pass_block(&mut cursor, &mut table, &mut |_, _, _| {})?;
        cursor.end()?;
        table.shrink();
        Ok(table)
    }

    /// Reads a block and moves past it; shows each change, its images, and the range of its datum, and places it in the
    /// table.
    pub fn pass_block<'a>(
        &self,
        cursor: &mut Cursor<'a>,
        table: &mut BlockTable,
        see: &mut dyn FnMut(&Change<'a>, &Images<'_>, Range<usize>),
    ) -> Result<(), DatumError> {
        let count = block::begin(cursor)?;
        for _ in 0..count {
            let start = cursor.at();
            let change = self.read(cursor, table)?;
            see(&change, &table.last_images(cursor.whole()), start..cursor.at());
        }
        block::end(cursor)
    }

    /// Reads one event and moves past it, validating both images.
    fn read<'a>(&self, cursor: &mut Cursor<'a>, table: &mut BlockTable) -> Result<Change<'a>, DatumError> {
        let op = Op::decode(cursor)?;
        let key = cursor.string()?;
        let key_end = cursor.at();
        let (before, placed_before) = self.image(cursor, table)?.unzip();
        let (after, placed_after) = self.image(cursor, table)?.unzip();
        let rest = cursor.at();
        let [kind, name, position] = [cursor.string()?, cursor.string()?, cursor.string()?];
        let at = cursor.at();
        let snapshot = match cursor.byte("boolean")? {
            0 => false,
            1 => true,
            _ => return Err(DatumError::Invalid { at, what: "a boolean is neither 0 nor 1" }),
        };
        let source = Source { kind, name, position, snapshot };
        let event_at = Millis::new(cursor.long()?);
        let captured_at = Millis::new(cursor.long()?);
        let images = [placed_before, placed_after];
        table.add(op, key_end - key.len()..key_end, images, rest..cursor.at(), event_at)?;
        Ok(Change { op, key, before, after, source, event_at, captured_at })
    }

    /// Reads an event that is all of `datum`.
    pub fn decode_all<'a>(&self, datum: &'a [u8]) -> Result<Change<'a>, DatumError> {
        let mut cursor = Cursor::new(datum);
        let change = self.decode(&mut cursor)?;
        cursor.end().map(|()| change)
    }

    /// Reads one event and moves past it, validating both images.
    pub fn decode<'a>(&self, cursor: &mut Cursor<'a>) -> Result<Change<'a>, DatumError> {
        self.read(cursor, &mut BlockTable::default())
    }

    fn image<'a>(
        &self,
        cursor: &mut Cursor<'a>,
        table: &mut BlockTable,
    ) -> Result<Option<(&'a [u8], PlacedImage)>, DatumError> {
        let at = cursor.at();
        match cursor.long()? {
            0 => Ok(None),
            1 => {
                let start = cursor.at();
                let placed = table.image(self.subject.layout(), cursor)?;
                Ok(Some((cursor.since(start), placed)))
            }
            _ => Err(DatumError::Invalid { at, what: "a union has no such branch" }),
        }
    }
}

fn not_ours() -> SchemaError {
    SchemaError::NotAvro("it is not the schema of a change envelope".to_owned())
}

impl Change<'_> {
    /// Checks what the schema cannot say: the images fit `op`, and each image gives the event's key. `images` are this
    /// event's.
    pub fn check(&self, images: &Images<'_>, keys: &KeyDeriver) -> Result<(), ChangeError> {
        let op = self.op.letter();
        let rule = match (self.op, self.before.is_some(), self.after.is_some()) {
            (Op::Create | Op::Read, false, true) | (Op::Update, true, true) | (Op::Delete, true, false) => {
                None
            }
            (Op::Create | Op::Read, ..) => Some("has an image after and none before"),
            (Op::Update, ..) => Some("has both images"),
            (Op::Delete, ..) => Some("has an image before and none after"),
        };
        if let Some(rule) = rule {
            return Err(ChangeError::Images { op, rule });
        }
        for (image, name) in [(images.before, "before"), (images.after, "after")] {
            if let Some(image) = image
                && !keys.gives(image, self.key)?
            {
                return Err(ChangeError::KeyMismatch(name));
            }
        }
        Ok(())
    }
}

/// The deriver for a channel's key over this codec's subject.
pub fn key_deriver(codec: &ChangeCodec, key: &KeySpec) -> Result<KeyDeriver, KeyError> {
    KeyDeriver::new(key, codec.subject())
}

fn envelope_schema(subject: &AvroSchema) -> Result<AvroSchema, SchemaError> {
    let name = subject.record()?.name;
    AvroSchema::from_json(json!({
        "type": "record", "name": format!("{name}Change"),
        "doc": "A change of one subject: its images before and after, and where and when it came from.",
        "fields": [
            {"name": "op", "type": {"type": "enum", "name": "lv.dit.Op", "symbols": ["c", "u", "d", "r"]}},
            {"name": "key", "type": "string"},
            {"name": "before", "type": ["null", subject.json()]},
            {"name": "after", "type": ["null", name]},
            {"name": "source", "type": {"type": "record", "name": "lv.dit.Source", "fields": [
                {"name": "kind", "type": "string"},
                {"name": "name", "type": "string"},
                {"name": "position", "type": "string"},
                {"name": "snapshot", "type": "boolean"},
            ]}},
            {"name": "event_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "captured_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        ],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::OpenBlock;

    fn codec() -> ChangeCodec {
        let subject = AvroSchema::parse(
            r#"{"type":"record","name":"Company","namespace":"lv.ur","fields":[{"name":"regcode","type":"string"}]}"#,
        );
        ChangeCodec::new(&subject.unwrap_or_else(|e| panic!("{e}"))).unwrap_or_else(|e| panic!("{e}"))
    }

    fn change<'a>(op: Op, key: &'a str, before: Option<&'a [u8]>, after: Option<&'a [u8]>) -> Change<'a> {
        let source = Source { kind: "file", name: "register.csv", position: "2", snapshot: true };
        Change { op, key, before, after, source, event_at: Millis::new(1), captured_at: Millis::new(2) }
    }

    #[test]
    fn an_event_is_what_its_schema_says_and_comes_back() {
        let codec = codec();
        let event = change(Op::Update, "a", Some(&[2, b'a']), Some(&[2, b'a']));
        let mut datum = Vec::new();
        ChangeCodec::encode(&event, &mut datum);
        assert_eq!(codec.envelope().layout().validate(&datum), Ok(()));
        assert_eq!(codec.decode_all(&datum), Ok(event));
        for end in 0..datum.len() {
            assert!(codec.decode_all(&datum[..end]).is_err(), "{end}");
        }
        // Before the two times of one byte each.
        let boolean = datum.len() - 3;
        datum[boolean] = 7;
        assert!(codec.decode_all(&datum).is_err(), "a boolean is 0 or 1");
    }

    #[test]
    fn a_block_is_an_array_of_changes_and_comes_back() {
        let codec = codec();
        let first = change(Op::Create, "a", None, Some(&[2, b'a']));
        let second = change(Op::Update, "b", Some(&[2, b'b']), Some(&[2, b'b']));
        let third = change(Op::Delete, "b", Some(&[2, b'b']), None);
        let mut block = OpenBlock::default();
        for event in [first, second, third] {
            let mut datum = Vec::new();
            ChangeCodec::encode(&event, &mut datum);
            block.push(&datum);
        }
        let datum = block.finish();
        assert_eq!(codec.block_schema().layout().validate(&datum), Ok(()));
        let found = codec.decode_block(&datum).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found.iter().map(|found| found.change).collect::<Vec<_>>(), [first, second, third]);
        let table = codec.locate_block(&datum).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(table.len(), found.len());
        for (index, BlockChange { change, range }) in found.into_iter().enumerate() {
            assert_eq!(codec.decode_all(&datum[range]), Ok(change));
            let placed = table.get(index, &datum).unwrap_or_else(|| panic!("{index}"));
            assert_eq!((placed.op, placed.key, placed.event_at), (change.op, change.key, change.event_at));
            let images = [placed.images.before, placed.images.after].map(|image| image.map(Located::bytes));
            assert_eq!(images, [change.before, change.after]);
            let field = change.after.and_then(|_| placed.images.after?.field(0));
            assert_eq!(field, change.after, "the only field is the image");
            let [mut present, mut expected] = [Vec::new(), Vec::new()];
            placed.put_present(&mut present);
            let op = change.after.map_or(Op::Delete, |_| Op::Read);
            ChangeCodec::encode(&Change { op, before: None, ..change }, &mut expected);
            assert_eq!(present, expected);
        }
        assert!(table.get(3, &datum).is_none());
        for end in 0..datum.len() {
            assert!(codec.decode_block(&datum[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_codec_is_found_again_from_its_schemas() {
        let codec = codec();
        for found in [
            ChangeCodec::from_batch_schema(codec.batch_schema().text()),
            ChangeCodec::from_block_schema(codec.block_schema().text()),
        ] {
            assert_eq!(found.map(|c| c.subject().clone()), Ok(codec.subject().clone()));
        }
        assert!(ChangeCodec::from_batch_schema(r#"["null"]"#).is_err());
        assert!(ChangeCodec::from_block_schema(codec.envelope().text()).is_err());
    }

    #[test]
    fn images_must_fit_the_op_and_give_the_key() {
        let codec = codec();
        let spec = KeySpec { fields: vec!["regcode".to_owned()], normalise: vec![] };
        let keys = key_deriver(&codec, &spec).unwrap_or_else(|e| panic!("{e}"));
        let image: Option<&[u8]> = Some(&[2, b'a']);
        let check = |op, key, before, after| {
            let event = change(op, key, before, after);
            let mut datum = Vec::new();
            ChangeCodec::encode(&event, &mut datum);
            let datum = block::of_one(&datum);
            let table = codec.locate_block(&datum).unwrap_or_else(|e| panic!("{e}"));
            event.check(&table.last_images(&datum), &keys)
        };
        assert_eq!(check(Op::Create, "a", None, image), Ok(()));
        assert!(matches!(check(Op::Create, "a", image, image), Err(ChangeError::Images { .. })));
        assert!(matches!(check(Op::Delete, "a", None, None), Err(ChangeError::Images { .. })));
        assert_eq!(check(Op::Delete, "b", image, None), Err(ChangeError::KeyMismatch("before")));
    }
}
