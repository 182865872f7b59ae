//! The index compared with the scopes that are in it, each of which judges by itself.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::avro::located::Ends;
use schemas::avro::schema::AvroSchema;
use schemas::key::KeySpec;
use serde_json::json;

use super::*;
use crate::compile::{Age, Terms};
use crate::scope::generated::{Kind, datum, kind, rows, schema};
use crate::secret::NetworkSecret;

/// Scopes on one schema that are added and removed while events are judged.
#[derive(Debug, Clone)]
struct Case {
    fields: Vec<Kind>,
    rules: Vec<String>,
    turns: Vec<Turn>,
}

/// A scope that is added, perhaps one that is removed, and a pair of images.
#[derive(Debug, Clone)]
struct Turn {
    comes: prop::sample::Index,
    goes: Option<prop::sample::Index>,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
}

fn case() -> impl Strategy<Value = Case> {
    prop::collection::vec(kind(), 0..4)
        .prop_map(|others| [Kind::Text, Kind::Long].into_iter().chain(others).collect::<Vec<_>>())
        .prop_flat_map(|fields| {
            let image = || prop::option::weighted(0.8, datum(&fields));
            let goes = prop::option::weighted(0.3, any::<prop::sample::Index>());
            let turn = (any::<prop::sample::Index>(), goes, image(), image())
                .prop_map(|(comes, goes, before, after)| Turn { comes, goes, before, after });
            (prop::collection::vec(rows(&fields), 1..12), prop::collection::vec(turn, 1..24), Just(fields))
        })
        .prop_map(|(rules, turns, fields)| Case { fields, rules, turns })
}

fn scope(schema: &AvroSchema, number: usize, rows: &str) -> Arc<Scope> {
    // Every third scope hashes its key, so that no two of these are equal.
    let fields =
        if number.is_multiple_of(3) { json!({"f1": "keep"}) } else { json!({"f0": "keep", "f1": "keep"}) };
    let agreement = serde_json::from_value(json!({
        "number": format!("A-{number}"), "version": 1, "provider": "1", "consumer": "2", "channel": "c",
        "purpose": "p", "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full",
        "schema_version": 1, "rows": rows, "fields": fields,
    }))
    .unwrap();
    let secret = NetworkSecret::new(vec![1; 32]).unwrap();
    let key = KeySpec { fields: vec!["f0".to_owned()], normalise: vec![] };
    let terms = Terms { agreed: schema, writer: schema, age: Age::Same, key: &key, secret: &secret };
    Arc::new(Scope::compile(&agreement, &terms).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_tells_what_each_scope_would(case in case()) {
        let Case { fields, rules, turns } = case;
        let schema = AvroSchema::from_json(schema(&fields)).unwrap();
        let compiled: Vec<_> = rules.iter().enumerate().map(|(number, rule)| scope(&schema, number, rule)).collect();
        let mut index = Index::default();
        let mut lookup = Lookup::default();
        let mut present: Vec<(GroupId, Arc<Scope>)> = Vec::new();
        for Turn { comes, goes, before, after } in turns {
            let kept = index.clone();
            let scope = Arc::clone(comes.get(&compiled));
            present.push((index.add(Arc::clone(&scope)), scope));
            if let Some(goes) = goes {
                let (id, _) = present.swap_remove(goes.index(present.len()));
                index.remove(id);
            }
            prop_assert_eq!((index.len(), kept.len() + 1 - usize::from(goes.is_some())), (present.len(), present.len()));
            let mut first = Ends::default();
            let mut second = Ends::default();
            let locate = |ends: &'_ mut Ends, bytes: &Option<Vec<u8>>| {
                bytes.as_ref().map(|bytes| ends.locate(schema.layout(), bytes).map(|_| ())).transpose().unwrap();
            };
            locate(&mut first, &before);
            locate(&mut second, &after);
            let images = Images {
                before: before.as_ref().map(|bytes| first.of(bytes)),
                after: after.as_ref().map(|bytes| second.of(bytes)),
            };
            let mut told = BTreeMap::new();
            index
                .judge(Op::Update, "k", &images, &mut lookup, |id, found| {
                    let outcome = found.and_then(|found| found.outcome());
                    assert!(told.insert(id, outcome.map(|permitted| permitted.get().clone())).is_none(), "told twice");
                })
                .unwrap();
            for (id, scope) in &present {
                let expected = scope.judge(Op::Update, "k", &images).transpose();
                let expected = expected.map(|outcome| outcome.map(|permitted| permitted.get().clone()));
                prop_assert_eq!(told.get(id), expected.as_ref(), "{}", &rules[0]);
            }
            let ids: std::collections::BTreeSet<_> = present.iter().map(|(id, _)| *id).collect();
            prop_assert!(told.keys().all(|id| ids.contains(id)), "nobody else is told anything");
        }
    }
}

#[test]
fn equal_scopes_are_one_group_and_those_that_hash_are_not() {
    let schema = AvroSchema::from_json(schema(&[Kind::Text, Kind::Long])).unwrap();
    let mut index = Index::default();
    let ids: Vec<_> = [1, 2, 4, 3, 6].map(|number| index.add(scope(&schema, number, "f0 == \"a\""))).to_vec();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[1], ids[2]);
    assert_ne!(ids[3], ids[4], "their keys leave under other hashes");
    index.remove(ids[0]);
    assert_eq!(index.add(scope(&schema, 7, "f0 == \"a\"")), ids[1], "it is still there");
    assert_eq!(index.len(), 5);
}
