//! What the lint finds, and that it never gives a false alarm.

use proptest::prelude::*;
use schemas::avro::json::decode;

use super::*;
use crate::predicate::Truth;
use crate::scope::generated::{Kind, datum, kind, rows, schema as schema_of};

const SCHEMA: &str = r#"{"type": "record", "name": "R", "fields": [
    {"name": "t", "type": "string"}, {"name": "n", "type": "long"}, {"name": "b", "type": "boolean"},
    {"name": "o", "type": ["null", "string"]}, {"name": "x", "type": "double"},
    {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
    {"name": "d", "type": {"type": "int", "logicalType": "date"}}]}"#;

fn compiled(text: &str) -> (Predicate, AvroSchema) {
    let schema = AvroSchema::parse(SCHEMA).unwrap();
    (Predicate::compile(text, &schema).unwrap_or_else(|e| panic!("{text}: {e}")), schema)
}

#[test]
fn what_can_never_match_is_seen() {
    for never in [
        "t == \"a\" && t == \"b\"",
        "t in [\"a\", \"b\"] && t != \"a\" && !(t == \"b\")",
        "n > 5 && n < 6",
        "n > 5 && n <= 5",
        "t == null",
        "o == null && o == \"a\"",
        "o == null && o != \"a\"",
        "b && !b",
        "e != \"A\" && e != \"B\"",
        "t.startsWith(\"LV\") && t.startsWith(\"EE\")",
        "t.startsWith(\"LV-1\") && !t.startsWith(\"LV\")",
        "t.startsWith(\"b\") && t < \"b\"",
        "t.startsWith(\"a\") && t >= \"b\"",
        "d > date(\"2026-01-01\") && d < date(\"2026-01-02\")",
        "x > 1.0 && x < 1.0",
        "(t == \"a\" || t == \"b\") && t == \"c\"",
        "!(o in [\"a\", null])",
        "t < o && !(t < o)",
        "n in []",
        "false || (b && !b)",
    ] {
        let (predicate, schema) = compiled(never);
        assert!(predicate.is_never(&schema), "{never}");
        assert!(!predicate.is_always(&schema), "{never}");
    }
}

#[test]
fn what_always_matches_is_seen_and_null_is_not_forgotten() {
    for always in
        ["t == \"a\" || t != \"a\"", "n < 5 || n >= 5", "b || !b", "e in [\"A\", \"B\"]", "t != null"]
    {
        let (predicate, schema) = compiled(always);
        assert!(predicate.is_always(&schema), "{always}");
        assert!(!predicate.is_never(&schema), "{always}");
    }
    // A null makes both sides unknown.
    for not_always in
        ["o == \"a\" || o != \"a\"", "o != null", "x > 1.0 || x < 2.0 && n == 1", "t < o || t >= o"]
    {
        let (predicate, schema) = compiled(not_always);
        assert!(!predicate.is_always(&schema), "{not_always}");
    }
}

#[test]
fn clauses_that_others_make_superfluous_are_named() {
    for (text, clauses) in [
        ("t == \"a\" && t.startsWith(\"a\")", vec!["t.startsWith(\"a\")"]),
        ("t == \"a\" || t in [\"a\", \"b\"]", vec!["t == \"a\""]),
        ("n > 3 && n > 5", vec!["n > 3"]),
        ("o == \"a\" && o != null", vec!["o != null"]),
        ("b && b", vec!["b"]),
        ("t == \"a\" && (n == 1 || n in [1, 2])", vec!["n == 1"]),
        ("t == \"a\" || (n == 1 && n == 2)", vec!["(n == 1 && n == 2)"]),
        ("t == \"a\" && n == 1", vec![]),
        ("o == \"a\" || o == null", vec![]),
        ("t == \"a\"", vec![]),
    ] {
        let (predicate, schema) = compiled(text);
        let found: Vec<String> = predicate.superfluous(&schema).into_iter().map(|one| one.clause).collect();
        let bare: Vec<&str> = clauses.iter().map(|clause| clause.trim_matches(['(', ')'])).collect();
        let found: Vec<&str> = found.iter().map(|clause| clause.trim_matches(['(', ')'])).collect();
        assert_eq!(found, bare, "{text}");
    }
}

#[test]
fn what_is_too_large_is_let_be() {
    let many = (0..40).map(|n| format!("(n > {n} || x > {n}.0)")).collect::<Vec<_>>().join(" && ");
    let (predicate, schema) = compiled(&many);
    assert!(!predicate.is_never(&schema) && !predicate.is_always(&schema));
}

/// Fields, a predicate on them, and some rows.
fn case() -> impl Strategy<Value = (Vec<Kind>, String, Vec<Vec<u8>>)> {
    prop::collection::vec(kind(), 1..4).prop_flat_map(|fields| {
        (Just(fields.clone()), rows(&fields), prop::collection::vec(datum(&fields), 8))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_that_is_proven_is_untrue((fields, text, data) in case()) {
        let schema = AvroSchema::from_json(schema_of(&fields)).unwrap();
        let predicate = Predicate::compile(&text, &schema).unwrap();
        let is_never = predicate.is_never(&schema);
        let is_always = predicate.is_always(&schema);
        prop_assert!(!(is_never && is_always));
        // Its spelling compiles to the same predicate.
        let spelt = Predicate::compile(&predicate.to_string(), &schema);
        prop_assert_eq!(spelt.as_ref(), Ok(&predicate), "{}", predicate);
        let mut without = predicate.clone();
        let superfluous = predicate.superfluous(&schema);
        if let (Expression::And(operands) | Expression::Or(operands), false) = (&mut without.root, is_never || is_always) {
            // Of equal clauses the later ones are named.
            for clause in superfluous.iter().map(|one| one.clause.as_str()) {
                if let Some(last) = operands.iter().rposition(|operand| operand.to_string() == clause) {
                    operands.remove(last);
                }
            }
        }
        for datum in data {
            let value = decode(&schema, &datum).unwrap();
            let truth = predicate.evaluate(&value);
            prop_assert!(!is_never || truth != Truth::True, "{} is true of {:?}", text, value);
            prop_assert!(!is_always || truth == Truth::True, "{} is not true of {:?}", text, value);
            prop_assert_eq!(truth == Truth::True, without.evaluate(&value) == Truth::True, "{} {}", text, without);
            let clauses = predicate.clauses(&value);
            prop_assert!(!clauses.is_empty() || predicate.is_constant());
            prop_assert!(clauses.iter().all(|clause| clause.truth == truth), "{:?}", clauses);
        }
    }
}
