//! The compiled engine compared with the plain model, on generated cases.
//!
//! Owns the properties: decisions and values are equal, nothing of a denied field leaves, nothing of the new image is
//! in a leave, a second projection changes nothing, and a malformed event gives a typed denial.

use std::collections::BTreeMap;

use apache_avro::types::Value;
use proptest::prelude::*;
use schemas::agreement::{Agreement, Transform};
use schemas::avro::json::decode;
use schemas::key::KeySpec;
use serde_json::{Value as Json, json};

use super::generated::{Kind, agreement_of, datum, kind, rows, schema};
use super::tests::judged;
use super::*;
use crate::compile::Age;
use crate::model::Model;
use crate::secret::NetworkSecret;
use crate::transform::misfit;

/// An agreement on a random schema, and an event.
#[derive(Debug, Clone)]
struct Case {
    fields: Vec<Kind>,
    agreement: Agreement,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
}

/// The first field is the key. `draws` decides which fields are named, and with which transforms.
fn agreement(schema: &Json, rows: &str, draws: &[u8]) -> Agreement {
    let mut named = serde_json::Map::new();
    let fields = schema["fields"].as_array().unwrap();
    for (index, (field, draw)) in fields.iter().zip(draws).enumerate() {
        let transform = match draw % 8 {
            0 | 1 => Transform::Keep,
            2 if index > 0 => Transform::Null,
            3 => Transform::Hash,
            4 if index > 0 => Transform::Mask { keep: 1 },
            5 if index > 0 => Transform::Year,
            _ => continue,
        };
        let fits = misfit(&transform, &field["type"]).is_none();
        let transform = if fits { transform } else { Transform::Keep };
        named.insert(field["name"].as_str().unwrap().to_owned(), serde_json::to_value(transform).unwrap());
    }
    named.entry("f0").or_insert_with(|| json!("keep"));
    agreement_of(rows, &Json::Object(named).to_string())
}

fn case() -> impl Strategy<Value = Case> {
    prop::collection::vec(kind(), 0..7)
        .prop_map(|others| std::iter::once(Kind::Text).chain(others).collect::<Vec<_>>())
        .prop_flat_map(|fields| {
            let image = || prop::option::weighted(0.8, datum(&fields));
            let draws = prop::collection::vec(any::<u8>(), fields.len());
            (rows(&fields), draws, image(), image(), Just(fields))
        })
        .prop_map(|(rows, draws, before, after, fields)| {
            let agreement = agreement(&schema(&fields), &rows, &draws);
            Case { fields, agreement, before, after }
        })
}

/// Events of a small register: each has the number of its subject, and the subject's image afterwards.
type History = Vec<(usize, Option<Vec<u8>>)>;

fn history() -> impl Strategy<Value = (Case, History)> {
    case().prop_flat_map(|case| {
        let event = (0..3_usize, prop::option::weighted(0.8, datum(&case.fields)));
        (Just(case), prop::collection::vec(event, 1..12))
    })
}

/// A newer schema: `draws` decides what happens to each field, and where new fields are added.
fn grown(fields: &[Kind], draws: &[u8]) -> Json {
    let old = schema(fields);
    let mut grown = Vec::new();
    for (index, (field, draw)) in old["fields"].as_array().unwrap().iter().zip(draws).enumerate() {
        let mut field = field.clone();
        match draw % 8 {
            // The key, which the predicate reads, stays.
            _ if index == 0 => {}
            0 => continue,
            1 => {
                field["aliases"] = json!([field["name"]]);
                field["name"] = json!(format!("n{index}"));
            }
            2 if !field["type"].is_array() && field["type"] != "null" => {
                field["type"] = json!(["null", field["type"]]);
            }
            3 if field["type"] == "int" => field["type"] = json!("long"),
            _ => {}
        }
        grown.push(field);
        if draw.is_multiple_of(3) {
            let (kind, default) = [
                (json!("string"), json!("new")),
                (json!(["null", "long"]), Json::Null),
                (json!("long"), json!(-7)),
                (json!(["boolean", "null"]), json!(true)),
                (json!({"type": "array", "items": "string"}), json!([])),
            ][index % 5]
                .clone();
            grown.push(json!({"name": format!("d{index}"), "type": kind, "default": default}));
        }
    }
    if draws.len() > 2 && draws[0].is_multiple_of(2) {
        grown[1..].reverse();
    }
    json!({"type": "record", "name": "test.Row", "fields": grown})
}

struct Engines {
    schema: AvroSchema,
    scope: Scope,
    model: Model,
}

fn engines(fields: &[Kind], agreement: &Agreement) -> Engines {
    let schema = AvroSchema::from_json(schema(fields)).unwrap();
    let secret = NetworkSecret::new(vec![1; 32]).unwrap();
    let key = KeySpec { fields: vec!["f0".to_owned()], normalise: vec![] };
    let terms = Terms { agreed: &schema, writer: &schema, age: Age::Same, key: &key, secret: &secret };
    let scope = Scope::compile(agreement, &terms).unwrap_or_else(|e| panic!("{}: {e}", agreement.rows));
    let model = Model::compile(agreement, &terms).unwrap();
    Engines { scope, model, schema }
}

const fn op(before: bool, after: bool) -> Op {
    match (before, after) {
        (false, _) => Op::Create,
        (true, true) => Op::Update,
        (true, false) => Op::Delete,
    }
}

/// A value as text. The order of a map's keys makes no difference in it, and NaN equals NaN.
fn said(value: &Value) -> String {
    let all = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(", ");
    match value {
        Value::Union(branch, inner) => format!("{branch}: {}", said(inner)),
        Value::Array(items) => format!("[{}]", all(&mut items.iter().map(said))),
        Value::Map(entries) => {
            let sorted: std::collections::BTreeMap<_, _> = entries.iter().collect();
            format!(
                "{{{}}}",
                all(&mut sorted.into_iter().map(|(key, value)| format!("{key:?} {}", said(value))))
            )
        }
        Value::Record(fields) => {
            all(&mut fields.iter().map(|(name, value)| format!("{name}={}", said(value))))
        }
        // The number, without the count of its bytes.
        Value::Decimal(number) => format!("{number:?}").split(", len").next().unwrap_or_default().to_owned(),
        other => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_compiled_engine_equals_the_plain_model(case in case()) {
        let Case { fields, agreement, before, after } = case;
        let Engines { schema, scope, model } = engines(&fields, &agreement);
        let op = op(before.is_some(), after.is_some());
        let before = before.as_deref();
        let after = after.as_deref();
        let ours = judged(&scope, &schema, op, "k", before, after).unwrap();
        let expected = model.judge(op, "k", before, after).unwrap();
        let (Some(ours), Some(expected)) = (&ours, &expected) else {
            prop_assert_eq!(ours, expected, "{}", agreement.rows);
            return Ok(());
        };
        prop_assert_eq!((ours.op, &ours.key, ours.reason), (expected.op, &expected.key, expected.reason));
        prop_assert_eq!(ours.after.is_some(), expected.after.is_some());
        prop_assert!(ours.op != Op::Delete || ours.after.is_none(), "a delete or leave has no image");
        if let (Some(ours), Some(expected)) = (&ours.after, &expected.after) {
            let value = |bytes: &[u8]| decode(scope.derived(), bytes);
            prop_assert_eq!(value(ours), value(expected));
            if fields.iter().all(Kind::is_written_one_way) {
                prop_assert_eq!(ours, expected);
            }
        }
    }

    #[test]
    fn the_replica_equation_holds_at_every_prefix((case, history) in history()) {
        let Engines { schema, scope, model } = engines(&case.fields, &case.agreement);
        let said = |bytes: &[u8]| said(&decode(scope.derived(), bytes).unwrap());
        let mut register = BTreeMap::<usize, Vec<u8>>::new();
        let mut replica = BTreeMap::new();
        for (number, after) in history {
            let before = match &after {
                Some(image) => register.insert(number, image.clone()),
                None => register.remove(&number),
            };
            if before.is_none() && after.is_none() {
                continue;
            }
            let op = op(before.is_some(), after.is_some());
            let key = format!("k{number}");
            let given = judged(&scope, &schema, op, &key, before.as_deref(), after.as_deref()).unwrap();
            if let Some(given) = given {
                match &given.after {
                    Some(image) => replica.insert(given.key, said(image)),
                    None => replica.remove(&given.key),
                };
            }
            let mut expected = BTreeMap::new();
            for (number, image) in &register {
                let row = model.judge(Op::Read, &format!("k{number}"), None, Some(image)).unwrap();
                expected.extend(row.map(|row| (row.key, said(&row.after.unwrap()))));
            }
            prop_assert_eq!(&replica, &expected, "{}", case.agreement.rows);
        }
    }

    #[test]
    fn records_of_an_older_schema_are_resolved_as_over_values(
        case in case(), draws in prop::collection::vec(any::<u8>(), 7), transforms in prop::collection::vec(any::<u8>(), 14),
    ) {
        let writer = AvroSchema::from_json(schema(&case.fields)).unwrap();
        let grown = grown(&case.fields, &draws);
        let agreed = AvroSchema::from_json(grown.clone()).unwrap();
        let agreement = agreement(&grown, "f0 != \"a\"", &transforms);
        let secret = NetworkSecret::new(vec![1; 32]).unwrap();
        let key = KeySpec { fields: vec!["f0".to_owned()], normalise: vec![] };
        let terms = Terms { agreed: &agreed, writer: &writer, age: Age::Older, key: &key, secret: &secret };
        let scope = Scope::compile(&agreement, &terms).unwrap();
        let model = Model::compile(&agreement, &terms).unwrap();
        let op = op(case.before.is_some(), case.after.is_some());
        let before = case.before.as_deref();
        let after = case.after.as_deref();
        let ours = judged(&scope, &writer, op, "k", before, after);
        let expected = model.judge(op, "k", before, after);
        let word = |outcome: Option<Outcome>| outcome.map(|outcome| {
            let row = outcome.after.map(|bytes| said(&decode(scope.derived(), &bytes).unwrap()));
            (outcome.op, outcome.key, outcome.reason, row)
        });
        prop_assert_eq!(ours.map(word), expected.map(word), "{} from {}", grown, writer.json());
    }

    #[test]
    fn whatever_is_malformed_is_denied_and_nothing_else_happens(
        case in case(), flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
        cut in any::<prop::sample::Index>(), is_cut: bool,
    ) {
        let Case { fields, agreement, after, .. } = case;
        let Some(mut bytes) = after.filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        for (index, flip) in flips {
            *index.get_mut(&mut bytes) ^= flip;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let Engines { schema, scope, model } = engines(&fields, &agreement);
        let ours = judged(&scope, &schema, Op::Create, "k", None, Some(&bytes));
        let expected = model.judge(Op::Create, "k", None, Some(&bytes));
        prop_assert_eq!(ours.is_ok(), expected.is_ok(), "{:?} {:?}", ours, expected);
        if let (Ok(Some(ours)), Ok(Some(expected))) = (ours, expected) {
            let value = |bytes: Option<Vec<u8>>| bytes.map(|bytes| said(&decode(scope.derived(), &bytes).unwrap()));
            prop_assert_eq!(value(ours.after), value(expected.after));
        }
    }

    #[test]
    fn nothing_of_a_denied_field_leaves(draws in prop::collection::vec(any::<u8>(), 6), rows in "true|f1 == \"CANARY1\"") {
        let fields = vec![Kind::Text; 6];
        let agreement = agreement(&schema(&fields), &rows, &draws);
        let Engines { schema, scope, .. } = engines(&fields, &agreement);
        let mut image = Vec::new();
        (0..6).for_each(|field| schemas::avro::binary::put_string(&mut image, &format!("CANARY{field}")));
        let outcome = judged(&scope, &schema, Op::Create, "k", None, Some(&image)).unwrap();
        let Some(bytes) = outcome.and_then(|outcome| outcome.after) else { return Ok(()) };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for field in 0..6 {
            let is_kept = agreement.fields.get(&format!("f{field}")) == Some(&Transform::Keep);
            prop_assert_eq!(text.contains(&format!("CANARY{field}")), is_kept);
        }
    }

    #[test]
    fn projecting_twice_is_projecting_once(case in case()) {
        let Case { fields, mut agreement, after, .. } = case;
        agreement.fields.values_mut().for_each(|transform| *transform = Transform::Keep);
        "true".clone_into(&mut agreement.rows);
        let Engines { schema, scope, .. } = engines(&fields, &agreement);
        let Some(image) = after else { return Ok(()) };
        let once = judged(&scope, &schema, Op::Create, "k", None, Some(&image)).unwrap().and_then(|o| o.after);
        let secret = NetworkSecret::new(vec![1; 32]).unwrap();
        let key = KeySpec { fields: vec!["f0".to_owned()], normalise: vec![] };
        let derived = scope.derived().clone();
        let terms = Terms { agreed: &derived, writer: &derived, age: Age::Same, key: &key, secret: &secret };
        let again = Scope::compile(&agreement, &terms).unwrap();
        let twice = judged(&again, &derived, Op::Create, "k", None, once.as_deref()).unwrap().and_then(|o| o.after);
        prop_assert_eq!(once, twice);
    }
}
