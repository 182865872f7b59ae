//! The targets: each takes bytes as they may come from outside, and checks what must hold for any bytes.
//!
//! Owns the checks. Only a check that fails may panic. Nothing is read or allocated beyond what the bytes hold.

use std::sync::LazyLock;

use schemas::agreement::Agreement;
use schemas::avro::binary::{Cursor, DatumError};
use schemas::avro::container::{Block, ContainerError, Decoder};
use schemas::avro::json::decode;
use schemas::avro::located::Ends;
use schemas::avro::schema::AvroSchema;
use schemas::change::{BlockChange, ChangeCodec, Images, Op};
use schemas::delivery::DeliveryCodec;
use schemas::epoch_table::Opening;
use schemas::framing::unframe;
use schemas::key::KeySpec;
use schemas::marks::{Checkpoint, Freshness};
use scope::compile::{Age, Terms};
use scope::model::Model;
use scope::predicate::{Filter, Predicate, Truth};
use scope::scope::Scope;
use scope::secret::NetworkSecret;
use serde_json::{Value as Json, json};

/// Fields of most types, some of them nested.
const SCHEMA: &str = r#"{"type": "record", "name": "f.Row", "fields": [
    {"name": "k", "type": "string"}, {"name": "t", "type": ["null", "string"]}, {"name": "n", "type": "long"},
    {"name": "b", "type": ["boolean", "null"]}, {"name": "x", "type": "double"}, {"name": "y", "type": ["null", "float"]},
    {"name": "d", "type": ["null", {"type": "int", "logicalType": "date"}]},
    {"name": "s", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}},
    {"name": "u", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "m", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
    {"name": "z", "type": {"type": "fixed", "name": "Z", "size": 3}},
    {"name": "a", "type": {"type": "array", "items": ["null", "long", "string"]}},
    {"name": "p", "type": {"type": "map", "values": {"type": "array", "items": "bytes"}}},
    {"name": "r", "type": ["null", {"type": "record", "name": "Inner", "fields": [
        {"name": "q", "type": "int"}, {"name": "l", "type": {"type": "record", "name": "List", "fields": [
            {"name": "item", "type": "string"}, {"name": "rest", "type": ["null", "List"]}]}}]}]}]}"#;

/// Agreements that a datum is judged by. The first byte of the data chooses one.
const AGREEMENTS: [(&str, &str); 5] = [
    ("true", r#"["k", "t", "n", "b", "x", "y", "d", "s", "e", "u", "m", "z", "a", "p", "r"]"#),
    ("t == \"R\" || n > 5", r#"["k", "n", "e"]"#),
    ("r.q in [1, 2] && !(b || e == \"A\")", r#"["k", "a", "r"]"#),
    ("t.startsWith(\"a\") || d < date(\"2026-01-01\") || x <= 1.0", r#"["p"]"#),
    ("t == null && s >= timestamp(\"1970-01-01T00:00:00Z\")", r#"["z", "m", "u"]"#),
];

/// Rows that predicates are evaluated on: one with values, and one with nulls.
const ROWS: [&[u8]; 2] = [
    b"\x02k\x02\x02R\x0a\x00\x01\x00\x00\x00\x00\x00\x00\xf0\x3f\x02\x00\x00\x80\x3f\x02\x04\x02\x02\
      \x48aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa\x02\x01xyz\x00\x00\x02\x02\x02i\x00",
    b"\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
      \x48aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa\x02\x00xyz\x00\x00\x00",
];

struct Engine {
    scope: Scope,
    model: Model,
}

static ROW: LazyLock<AvroSchema> = LazyLock::new(|| AvroSchema::parse(SCHEMA).expect("a good schema"));

static CHANGES: LazyLock<ChangeCodec> = LazyLock::new(|| ChangeCodec::new(&ROW).expect("a good schema"));

static DELIVERIES: LazyLock<DeliveryCodec> =
    LazyLock::new(|| DeliveryCodec::new(&ROW).expect("a good schema"));

static ENGINES: LazyLock<Vec<Engine>> = LazyLock::new(|| {
    let secret = NetworkSecret::new(vec![1; 32]).expect("a good secret");
    let key = KeySpec { fields: vec!["k".to_owned()], normalise: vec![] };
    let terms = Terms { agreed: &ROW, writer: &ROW, age: Age::Same, key: &key, secret: &secret };
    let engine = |(rows, fields): (&str, &str)| {
        let names: Vec<String> = serde_json::from_str(fields).expect("names");
        let named: serde_json::Map<String, Json> =
            names.into_iter().map(|name| (name, json!("keep"))).collect();
        let agreement: Agreement = serde_json::from_value(json!({
            "number": "A-1", "version": 1, "provider": "1", "consumer": "2", "channel": "c", "purpose": "p",
            "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full", "schema_version": 1,
            "rows": rows, "fields": named,
        }))
        .expect("a good agreement");
        let scope = Scope::compile(&agreement, &terms).expect("it compiles");
        Engine { scope, model: Model::compile(&agreement, &terms).expect("it compiles") }
    };
    AGREEMENTS.into_iter().map(engine).collect()
});

/// The plan runner. The data is a byte that chooses the agreement, and a datum. The scope decides as the model does.
pub fn plan(data: &[u8]) {
    let Some((choice, datum)) = data.split_first() else { return };
    let Some(Engine { scope, model }) = ENGINES.get(usize::from(*choice) % ENGINES.len()) else { return };
    let mut ends = Ends::default();
    let ours = ends
        .locate(ROW.layout(), datum)
        .map_err(scope::denial::Denial::from)
        .and_then(|located| scope.judge(Op::Create, "k", &Images { before: None, after: Some(located) }));
    let theirs = model.judge(Op::Create, "k", None, Some(datum));
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{ours:?} {theirs:?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    let ours = ours.as_ref().map(|ours| ours.get());
    let theirs = theirs.as_ref();
    assert_eq!(ours.is_some(), theirs.is_some());
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return };
    assert_eq!((ours.op(), ours.key(), ours.reason()), (theirs.op(), theirs.key(), theirs.reason()));
    let (Some(ours), Some(theirs)) = (ours.after(), theirs.after()) else {
        panic!("a created row has an image")
    };
    assert!(ours.len() <= datum.len(), "projection makes nothing");
    let value = |bytes: &[u8]| decode(scope.derived(), bytes).expect("what leaves can be read");
    let ours = value(ours);
    let theirs = value(theirs);
    // NaN equals nothing, not even itself.
    #[allow(clippy::eq_op)]
    if ours == ours {
        assert_eq!(ours, theirs);
    }
}

/// The predicate compiler. The data is a text. A predicate that compiles means the same when it is spelt anew, over
/// bytes and over values.
pub fn predicate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let predicate = match Predicate::compile(text, &ROW) {
        Ok(predicate) => predicate,
        Err(error) => return assert!(error.at <= text.chars().count() + 1, "{error}"),
    };
    let again = Predicate::compile(&predicate.to_string(), &ROW);
    assert_eq!(again.as_ref().ok(), Some(&predicate), "{predicate}: {again:?}");
    let filter = Filter::new(&predicate, &ROW);
    let is_never = predicate.is_never(&ROW);
    let is_always = predicate.is_always(&ROW);
    for row in ROWS {
        let mut ends = Ends::default();
        let truth = filter.truth(ends.locate(ROW.layout(), row).expect("a good row")).expect("a good row");
        let value = decode(&ROW, row).expect("a good row");
        assert_eq!(truth, predicate.evaluate(&value), "{predicate}");
        assert!(!is_never || truth != Truth::True, "{predicate}");
        assert!(!is_always || truth == Truth::True, "{predicate}");
        assert!(predicate.clauses(&value).iter().all(|clause| clause.truth == truth), "{predicate}");
    }
}

/// How many changes the data's block has, if it has one.
pub fn changes_of(data: &[u8]) -> usize {
    let framed = data.get(1..).and_then(|bytes| unframe(bytes).ok());
    framed.map_or(0, |(_, datum)| CHANGES.decode_block(datum).map_or(0, |block| block.len()))
}

/// The framing. The data is a byte, and then perhaps a container, a framed record, a mark or a delivery. The byte says
/// where a container is cut into two arrivals; the cut changes nothing.
pub fn framing(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    assert_eq!(contained(&[bytes]), contained(&[first, second]));
    if let Ok((_, datum)) = unframe(bytes) {
        // A change in a block is what its own bytes say.
        let table = CHANGES.locate_block(datum).unwrap_or_default();
        let changes = CHANGES.decode_block(datum).unwrap_or_default();
        assert_eq!(table.len(), changes.len());
        for (index, BlockChange { change, range }) in changes.into_iter().enumerate() {
            assert_eq!(
                format!("{:?}", Ok::<_, DatumError>(change)),
                format!("{:?}", CHANGES.decode_all(datum.get(range).unwrap_or_default()))
            );
            let images = table.get(index, datum).expect("a placed change").images;
            assert_eq!(images.after.map(|image| image.bytes()), change.after);
        }
    }
    if let Ok(opening) = Opening::decode(bytes) {
        assert_eq!(Opening::decode(&opening.encode()).as_ref(), Ok(&opening));
    }
    if let Ok(checkpoint) = Checkpoint::decode(bytes) {
        assert_eq!(Checkpoint::decode(&checkpoint.encode()).as_ref(), Ok(&checkpoint));
    }
    if let Ok(freshness) = Freshness::decode(bytes) {
        assert_eq!(Freshness::decode(&freshness.encode()).as_ref(), Ok(&freshness));
    }
    let mut cursor = Cursor::new(bytes);
    while DELIVERIES.decode(&mut cursor).is_ok() && cursor.end().is_err() {}
}

/// The blocks of a container that arrives in pieces, and the error after them.
fn contained(pieces: &[&[u8]]) -> (Vec<Block>, Option<ContainerError>) {
    let mut decoder = Decoder::new();
    let mut blocks = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.block() {
                Ok(Some(block)) => blocks.push(block),
                Ok(None) => break,
                Err(error) => return (blocks, Some(error)),
            }
        }
    }
    let end = decoder.finish().err();
    (blocks, end)
}
