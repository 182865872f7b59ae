//! Random schemas, datums and agreements, for property tests.
//!
//! Owns the generators. Datums are written byte by byte from the specification, without a library, in every form of
//! blocks that it allows.

use proptest::prelude::*;
use schemas::agreement::Agreement;
use schemas::avro::binary::{put_bytes, put_long, put_string};
use schemas::avro::schema::AvroSchema;
use schemas::key::KeySpec;
use serde_json::{Value as Json, json};

use crate::compile::{Age, Terms};
use crate::secret::NetworkSecret;

/// An agreement of version 1 on schema version 1: its predicate, and its fields as JSON.
pub(crate) fn agreement_of(rows: &str, fields: &str) -> Agreement {
    let fields: Json = serde_json::from_str(fields).unwrap();
    serde_json::from_value(json!({
        "number": "A-1", "version": 1, "provider": "1", "consumer": "2", "channel": "c", "purpose": "p",
        "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full", "schema_version": 1,
        "rows": rows, "fields": fields,
    }))
    .unwrap()
}

/// Calls `then` with the terms for a schema with this key.
pub(crate) fn with_terms<T>(schema: &str, key: &str, then: impl FnOnce(&Terms<'_>) -> T) -> T {
    let schema = AvroSchema::parse(schema).unwrap();
    let secret = NetworkSecret::new(vec![1; 32]).unwrap();
    let key = KeySpec { fields: vec![key.to_owned()], normalise: vec![] };
    then(&Terms { agreed: &schema, writer: &schema, age: Age::Same, key: &key, secret: &secret })
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Date,
    Millis,
    Micros,
    Uuid,
    Decimal,
    Enum(usize),
    Fixed(usize),
    Array(Box<Kind>),
    Map(Box<Kind>),
    /// A union of several; null may be among them.
    Union(Vec<Kind>),
    Record(Vec<Kind>),
    /// A list: a record that refers to itself.
    List,
}

/// Texts that occur in predicates and in datums.
const TEXTS: [&str; 6] = ["", "a", "b", "ab", "LV-RIX", "ā"];
pub(crate) const SYMBOLS: [&str; 4] = ["A", "B", "C", "D"];

fn leaf() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Text),
        2 => Just(Kind::Long),
        2 => Just(Kind::Int),
        1 => Just(Kind::Null),
        1 => Just(Kind::Boolean),
        1 => Just(Kind::Float),
        1 => Just(Kind::Double),
        1 => Just(Kind::Bytes),
        1 => Just(Kind::Date),
        1 => Just(Kind::Millis),
        1 => Just(Kind::Micros),
        1 => Just(Kind::Uuid),
        1 => Just(Kind::Decimal),
        1 => (1..=SYMBOLS.len()).prop_map(Kind::Enum),
        1 => (0..20_usize).prop_map(Kind::Fixed),
        1 => Just(Kind::List),
    ]
}

fn optional(inner: impl Strategy<Value = Kind>) -> impl Strategy<Value = Kind> {
    (inner, any::<bool>()).prop_map(|(kind, is_null_first)| match kind {
        // A union holds no union, and null once.
        Kind::Union(_) | Kind::Null => kind,
        kind if is_null_first => Kind::Union(vec![Kind::Null, kind]),
        kind => Kind::Union(vec![kind, Kind::Null]),
    })
}

/// Any type that a field may have.
pub(crate) fn kind() -> impl Strategy<Value = Kind> {
    leaf().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            2 => optional(inner.clone()),
            1 => inner.clone().prop_map(|kind| Kind::Array(Box::new(kind))),
            1 => inner.clone().prop_map(|kind| Kind::Map(Box::new(kind))),
            1 => prop::collection::vec(inner, 0..4).prop_map(Kind::Record),
            1 => Just(Kind::Union(vec![Kind::Text, Kind::Long, Kind::Null])),
        ]
    })
}

/// The schema of a record of these fields, `f0` and so on.
pub(crate) fn schema(fields: &[Kind]) -> Json {
    let mut names = 0;
    let fields = fields.iter().enumerate();
    let fields: Vec<Json> = fields
        .map(|(index, kind)| json!({"name": format!("f{index}"), "type": kind.json(&mut names)}))
        .collect();
    json!({"type": "record", "name": "test.Row", "fields": fields})
}

impl Kind {
    fn json(&self, names: &mut usize) -> Json {
        let logical = |base: &str, kind: &str| json!({"type": base, "logicalType": kind});
        let mut name = || {
            *names += 1;
            format!("N{names}")
        };
        match self {
            Self::Null => json!("null"),
            Self::Boolean => json!("boolean"),
            Self::Int => json!("int"),
            Self::Long => json!("long"),
            Self::Float => json!("float"),
            Self::Double => json!("double"),
            Self::Bytes => json!("bytes"),
            Self::Text => json!("string"),
            Self::Date => logical("int", "date"),
            Self::Millis => logical("long", "timestamp-millis"),
            Self::Micros => logical("long", "timestamp-micros"),
            Self::Uuid => logical("string", "uuid"),
            Self::Decimal => json!({"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}),
            Self::Enum(count) => {
                json!({"type": "enum", "name": name(), "symbols": SYMBOLS.iter().take(*count).collect::<Vec<_>>()})
            }
            Self::Fixed(size) => json!({"type": "fixed", "name": name(), "size": size}),
            Self::Array(item) => json!({"type": "array", "items": item.json(names)}),
            Self::Map(item) => json!({"type": "map", "values": item.json(names)}),
            Self::Union(branches) => Json::Array(branches.iter().map(|branch| branch.json(names)).collect()),
            Self::Record(fields) => {
                let own = name();
                let fields = fields.iter().enumerate();
                let fields: Vec<Json> = fields
                    .map(|(index, kind)| json!({"name": format!("g{index}"), "type": kind.json(names)}))
                    .collect();
                json!({"type": "record", "name": own, "fields": fields})
            }
            Self::List => {
                let own = name();
                json!({"type": "record", "name": own, "fields": [
                    {"name": "item", "type": "string"}, {"name": "rest", "type": ["null", own]}]})
            }
        }
    }

    /// Whether each of its values has only one encoding, so that bytes can be compared.
    pub(crate) fn is_written_one_way(&self) -> bool {
        match self {
            Self::Array(_) | Self::Map(_) => false,
            Self::Union(inner) | Self::Record(inner) => inner.iter().all(Self::is_written_one_way),
            _ => true,
        }
    }

    /// The bytes of some value of it.
    pub(crate) fn datum(&self) -> BoxedStrategy<Vec<u8>> {
        let written = |write: fn(&mut Vec<u8>, i64)| {
            move |number: i64| {
                let mut out = Vec::new();
                write(&mut out, number);
                out
            }
        };
        let small = prop_oneof![3 => -3_i64..4, 1 => any::<i32>().prop_map(i64::from)];
        match self {
            Self::Null => Just(Vec::new()).boxed(),
            Self::Boolean => (0..2_u8).prop_map(|byte| vec![byte]).boxed(),
            Self::Int | Self::Date => small.prop_map(written(put_long)).boxed(),
            Self::Long => prop_oneof![small, any::<i64>()].prop_map(written(put_long)).boxed(),
            Self::Millis | Self::Micros => {
                (-4_000_000_000_000_i64..4_000_000_000_000).prop_map(written(put_long)).boxed()
            }
            Self::Float => (-2_i8..3).prop_map(|n| f32::from(n).to_le_bytes().to_vec()).boxed(),
            Self::Double => prop_oneof![
                3 => (-2_i8..3).prop_map(|n| f64::from(n).to_le_bytes().to_vec()),
                1 => any::<f64>().prop_filter("a number", |n| !n.is_nan()).prop_map(|n| n.to_le_bytes().to_vec()),
            ]
            .boxed(),
            Self::Bytes | Self::Decimal => {
                prop::collection::vec(any::<u8>(), 1..5).prop_map(|bytes| counted(&bytes)).boxed()
            }
            Self::Text => text().prop_map(|text| counted(text.as_bytes())).boxed(),
            Self::Uuid => any::<u128>()
                .prop_map(|number| counted(apache_avro::Uuid::from_u128(number).to_string().as_bytes()))
                .boxed(),
            Self::Enum(count) => (0..i64::try_from(*count).unwrap()).prop_map(written(put_long)).boxed(),
            Self::Fixed(size) => prop::collection::vec(any::<u8>(), *size).boxed(),
            Self::Array(item) => blocks(item.datum()),
            Self::Map(item) => blocks(keyed(item.datum())),
            Self::Union(branches) => {
                let each = branches.iter().enumerate().map(|(index, branch)| {
                    let branch = branch.datum();
                    branch.prop_map(move |value| {
                        let mut out = Vec::new();
                        put_long(&mut out, i64::try_from(index).unwrap());
                        out.extend(value);
                        out
                    })
                });
                prop::strategy::Union::new(each.collect::<Vec<_>>()).boxed()
            }
            Self::Record(fields) => datum(fields),
            Self::List => prop::collection::vec(text(), 1..4)
                .prop_map(|items| {
                    let mut out = Vec::new();
                    for (left, item) in (0..items.len()).rev().zip(&items) {
                        put_string(&mut out, item);
                        put_long(&mut out, i64::from(left > 0));
                    }
                    out
                })
                .boxed(),
        }
    }
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, bytes);
    out
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => prop::sample::select(&TEXTS[..]).prop_map(str::to_owned), 1 => ".{0,8}"]
}

pub(crate) fn datum(fields: &[Kind]) -> BoxedStrategy<Vec<u8>> {
    let fields: Vec<_> = fields.iter().map(Kind::datum).collect();
    fields.prop_map(|fields| fields.concat()).boxed()
}

fn keyed(item: BoxedStrategy<Vec<u8>>) -> BoxedStrategy<Vec<u8>> {
    // Keys of one map differ: of two equal ones, a library would keep one.
    (any::<u64>(), item)
        .prop_map(|(key, value)| {
            let mut out = Vec::new();
            put_string(&mut out, &key.to_string());
            out.extend(value);
            out
        })
        .boxed()
}

/// Items in blocks, some of them with their sizes.
fn blocks(item: BoxedStrategy<Vec<u8>>) -> BoxedStrategy<Vec<u8>> {
    let block = (prop::collection::vec(item, 1..3), any::<bool>());
    prop::collection::vec(block, 0..3)
        .prop_map(|blocks| {
            let mut out = Vec::new();
            for (items, is_sized) in blocks {
                let count = i64::try_from(items.len()).unwrap();
                let bytes = items.concat();
                put_long(&mut out, if is_sized { -count } else { count });
                if is_sized {
                    put_long(&mut out, i64::try_from(bytes.len()).unwrap());
                }
                out.extend(bytes);
            }
            put_long(&mut out, 0);
            out
        })
        .boxed()
}

/// Conditions on the fields that can be compared, and on nulls.
pub(crate) fn rows(fields: &[Kind]) -> BoxedStrategy<String> {
    let mut atoms: Vec<BoxedStrategy<String>> =
        vec![Just("true".to_owned()).boxed(), Just("false".to_owned()).boxed()];
    for (index, kind) in fields.iter().enumerate() {
        atoms.extend(conditions(&format!("f{index}"), kind));
        if let Kind::Record(inner) = beside_null(kind) {
            for (nested, kind) in inner.iter().enumerate() {
                atoms.extend(conditions(&format!("f{index}.g{nested}"), kind));
            }
        }
    }
    let atom = prop::strategy::Union::new(atoms);
    atom.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
    .boxed()
}

fn beside_null(kind: &Kind) -> &Kind {
    match kind {
        Kind::Union(branches) => match branches.as_slice() {
            [Kind::Null, only] | [only, Kind::Null] => only,
            _ => kind,
        },
        kind => kind,
    }
}

fn conditions(name: &str, kind: &Kind) -> Vec<BoxedStrategy<String>> {
    let name = name.to_owned();
    let mut all = vec![Just(format!("{name} == null")).boxed()];
    let comparison = prop::sample::select(&["==", "!=", "<", "<=", ">", ">="][..]);
    let mut compare = |value: BoxedStrategy<String>| {
        let name = name.clone();
        all.push(
            (comparison.clone(), value).prop_map(move |(op, value)| format!("{name} {op} {value}")).boxed(),
        );
    };
    let quoted = || prop::sample::select(&TEXTS[..]).prop_map(|text| format!("{text:?}")).boxed();
    match beside_null(kind) {
        Kind::Text => {
            compare(quoted());
            let one = name.clone();
            let two = name.clone();
            all.push((quoted(), quoted()).prop_map(move |(a, b)| format!("{one} in [{a}, {b}]")).boxed());
            all.push(quoted().prop_map(move |prefix| format!("{two}.startsWith({prefix})")).boxed());
        }
        Kind::Int | Kind::Long => {
            compare((-3_i64..4).prop_map(|number| number.to_string()).boxed());
            all.push((-3..4).prop_map(move |number| format!("{name} in [{number}, null, 2]")).boxed());
        }
        Kind::Float | Kind::Double => compare((-2..3).prop_map(|number| format!("{number}.0")).boxed()),
        Kind::Boolean => all.push(Just(name).boxed()),
        Kind::Date => compare(Just("date(\"1970-01-02\")".to_owned()).boxed()),
        Kind::Millis | Kind::Micros => {
            compare(Just("timestamp(\"1970-01-02T00:00:00Z\")".to_owned()).boxed())
        }
        Kind::Enum(count) => {
            let symbols: Vec<String> =
                SYMBOLS.iter().take(*count).map(|symbol| format!("{symbol:?}")).collect();
            compare(prop::sample::select(symbols).boxed());
        }
        Kind::Uuid => compare(Just("\"00000000-0000-0000-0000-000000000000\"".to_owned()).boxed()),
        _ => {}
    }
    all
}
