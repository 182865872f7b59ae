//! The decision against the promises: transition, default-deny, keys, schema change.

use proptest::prelude::*;
use schemas::avro::binary::put_string;
use schemas::key::KeySpec;

use super::generated::agreement_of;
use super::*;
use crate::compile::Age;
use crate::secret::NetworkSecret;

const V1: &str = r#"{"type":"record","name":"lv.C","fields":[
    {"name":"code","type":"string"},{"name":"territory","type":"string"},{"name":"phone","type":"string"}]}"#;

fn schema(text: &str) -> AvroSchema {
    AvroSchema::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

#[allow(clippy::needless_pass_by_value, reason = "tests read better with a literal")]
fn agreement(rows: &str, fields: serde_json::Value) -> Agreement {
    agreement_of(rows, &fields.to_string())
}

fn compile_with(agreement: &Agreement, writer: &str, age: Age) -> Result<Scope, CompileError> {
    let secret = NetworkSecret::new(vec![1; 32]).unwrap_or_else(|e| panic!("{e}"));
    let key = KeySpec { fields: vec!["code".to_owned()], normalise: vec![] };
    let agreed = schema(V1);
    let writer = schema(writer);
    Scope::compile(agreement, &Terms { agreed: &agreed, writer: &writer, age, key: &key, secret: &secret })
}

fn compile(agreement: &Agreement) -> Scope {
    compile_with(agreement, V1, Age::Same).unwrap_or_else(|e| panic!("{e}"))
}

fn image(texts: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    texts.iter().for_each(|text| put_string(&mut out, text));
    out
}

/// A scope's outcome for an event whose images are of the schema `writer`.
pub(super) fn judged(
    scope: &Scope,
    writer: &AvroSchema,
    op: Op,
    key: &str,
    before: Option<&[u8]>,
    after: Option<&[u8]>,
) -> Result<Option<Outcome>, Denial> {
    let mut first = Ends::default();
    let mut second = Ends::default();
    let before = before.map(|bytes| first.locate(writer.layout(), bytes)).transpose()?;
    let after = after.map(|bytes| second.locate(writer.layout(), bytes)).transpose()?;
    Ok(scope.judge(op, key, &Images { before, after })?.map(|permitted| permitted.get().clone()))
}

fn judge(scope: &Scope, op: Op, before: Option<&[u8]>, after: Option<&[u8]>) -> Option<Outcome> {
    judged(scope, &schema(V1), op, "k", before, after).unwrap_or_else(|e| panic!("{e}"))
}

fn keep_two() -> serde_json::Value {
    serde_json::json!({"code": "keep", "territory": "keep"})
}

#[test]
fn the_transition_rule_judges_both_images() {
    let scope = compile(&agreement("territory == \"R\"", keep_two()));
    let inside = image(&["k", "R", "1"]);
    let outside = image(&["k", "J", "2"]);
    let inside = Some(inside.as_slice());
    let outside = Some(outside.as_slice());
    let seen =
        |op, before, after| judge(&scope, op, before, after).map(|o| (o.op, o.reason, o.after.is_some()));
    assert_eq!(seen(Op::Create, None, inside), Some((Op::Create, Reason::Change, true)));
    assert_eq!(seen(Op::Update, inside, inside), Some((Op::Update, Reason::Change, true)));
    assert_eq!(seen(Op::Update, inside, outside), Some((Op::Delete, Reason::Leave, false)));
    assert_eq!(seen(Op::Update, outside, inside), Some((Op::Create, Reason::Enter, true)));
    assert_eq!(seen(Op::Delete, inside, None), Some((Op::Delete, Reason::Change, false)));
    assert_eq!(seen(Op::Read, None, inside), Some((Op::Read, Reason::Change, true)));
    for (op, before, after) in
        [(Op::Create, None, outside), (Op::Update, outside, outside), (Op::Delete, outside, None)]
    {
        assert_eq!(seen(op, before, after), None);
    }
}

#[test]
fn a_field_that_is_not_named_never_leaves() {
    let scope = compile(&agreement("true", keep_two()));
    let after = image(&["k", "R", "SECRET-PHONE"]);
    let outcome = judge(&scope, Op::Create, None, Some(&after));
    let bytes = outcome.and_then(|o| o.after).unwrap_or_default();
    assert_eq!(bytes, image(&["k", "R"]));
    assert_eq!(scope.pending(), ["phone"]);
    assert!(!scope.derived().text().contains("phone"));
}

#[test]
fn a_key_that_is_not_kept_leaves_as_a_hash_everywhere() {
    for fields in
        [serde_json::json!({"territory": "keep"}), serde_json::json!({"territory": "keep", "code": "hash"})]
    {
        let scope = compile(&agreement("territory == \"R\"", fields));
        let inside = image(&["k", "R", "1"]);
        let outside = image(&["k", "J", "1"]);
        let enter = judge(&scope, Op::Update, Some(&outside), Some(&inside));
        let leave = judge(&scope, Op::Update, Some(&inside), Some(&outside));
        let enter = enter.map(|o| o.key);
        let leave = leave.map(|o| o.key);
        assert_eq!(enter, leave);
        assert_eq!(enter.map(|key| key.len()), Some(64));
    }
    let joins = agreement("true", serde_json::json!({"code": {"mask": {"keep": 1}}}));
    assert!(matches!(compile_with(&joins, V1, Age::Same), Err(CompileError::JoinsKeys(_))));
}

#[test]
fn a_newer_schema_may_add_and_rename_with_an_alias_but_not_lose_or_retype() {
    let agreed = agreement("territory == \"R\"", keep_two());
    let renamed = r#"{"type":"record","name":"lv.C","fields":[{"name":"new","type":"string","default":""},
        {"name":"county","aliases":["territory"],"type":"string"},{"name":"code","doc":"d","type":"string"}]}"#;
    let scope = compile_with(&agreed, renamed, Age::Newer).unwrap_or_else(|e| panic!("{e}"));
    let after = image(&["n", "R", "k"]);
    let outcome = judged(&scope, &schema(renamed), Op::Create, "k", None, Some(&after));
    let bytes = outcome.unwrap_or_else(|e| panic!("{e}")).and_then(|outcome| outcome.after);
    assert_eq!(bytes, Some(image(&["k", "R"])), "in the agreement's own order and names");
    assert_eq!(scope.pending(), ["new"]);
    assert_eq!(scope.derived(), compile(&agreed).derived(), "a mere change of schema changes no stream");

    for lost in [
        r#"{"type":"record","name":"lv.C","fields":[{"name":"code","type":"string"},{"name":"county","type":"string"}]}"#,
        r#"{"type":"record","name":"lv.C","fields":[{"name":"code","type":"string"},{"name":"territory","type":"long"}]}"#,
    ] {
        let error = compile_with(&agreed, lost, Age::Newer).map(drop);
        assert!(error.is_err_and(|e| e.is_schema_mismatch()));
    }
    let rows_only = agreement("territory == \"R\"", serde_json::json!({"code": "keep"}));
    let gone = r#"{"type":"record","name":"lv.C","fields":[{"name":"code","type":"string"}]}"#;
    assert!(compile_with(&rows_only, gone, Age::Newer).is_err_and(|e| e.is_schema_mismatch()));
}

#[test]
fn a_record_in_an_older_schema_is_resolved_first() {
    let older = r#"{"type":"record","name":"lv.C","fields":[{"name":"code","type":"string"}]}"#;
    let v2 = r#"{"type":"record","name":"lv.C","fields":[
        {"name":"code","type":"string"},{"name":"territory","type":"string","default":"R"}]}"#;
    let secret = NetworkSecret::new(vec![1; 32]).unwrap_or_else(|e| panic!("{e}"));
    let key = KeySpec { fields: vec!["code".to_owned()], normalise: vec![] };
    let agreed = schema(v2);
    let writer = schema(older);
    let terms = Terms { agreed: &agreed, writer: &writer, age: Age::Older, key: &key, secret: &secret };
    let scope = Scope::compile(&agreement("territory == \"R\"", keep_two()), &terms)
        .unwrap_or_else(|e| panic!("{e}"));
    let outcome = judged(&scope, &writer, Op::Create, "k", None, Some(&image(&["k"])));
    assert_eq!(outcome.map(|outcome| outcome.and_then(|o| o.after)), Ok(Some(image(&["k", "R"]))));
}

#[test]
fn an_unknown_name_is_refused_with_what_there_is() {
    let wrong = agreement("true", serde_json::json!({"phonne": "keep"}));
    let error = compile_with(&wrong, V1, Age::Same).map(drop).map_err(|e| e.to_string());
    assert!(error.is_err_and(|text| text.contains("code, territory, phone")));
}

proptest! {
    /// The replica equation, for one scope: folding what is delivered gives the permitted part of the register,
    /// after every event.
    #[test]
    fn folding_the_deliveries_gives_the_permitted_part(
        steps in proptest::collection::vec((0..5_u8, proptest::option::of((0..3_u8, 0..3_u8))), 1..60),
    ) {
        let scope = compile(&agreement("territory == \"T1\"", keep_two()));
        let mut register = std::collections::BTreeMap::new();
        let mut replica = std::collections::BTreeMap::new();
        for (key, row) in steps {
            let key = format!("k{key}");
            let after = row.map(|(territory, phone)| image(&[&key, &format!("T{territory}"), &format!("P{phone}")]));
            let before: Option<Vec<u8>> = register.get(&key).cloned();
            let op = match (&before, &after) {
                (None, None) => continue,
                (None, Some(_)) => Op::Create,
                (Some(_), Some(_)) => Op::Update,
                (Some(_), None) => Op::Delete,
            };
            let judged = judged(&scope, &schema(V1), op, &key, before.as_deref(), after.as_deref());
            match judged.unwrap_or_else(|e| panic!("{e}")) {
                Some(Outcome { after: Some(row), key, .. }) => { replica.insert(key, row); }
                Some(Outcome { after: None, key, .. }) => { replica.remove(&key); }
                None => {}
            }
            match after {
                Some(after) => { register.insert(key, after); }
                None => { register.remove(&key); }
            }
            let expected: std::collections::BTreeMap<_, _> = register
                .iter()
                .filter(|(_, row)| row.windows(2).any(|w| w == b"T1"))
                .map(|(key, _)| (key.clone(), image(&[key, "T1"])))
                .collect();
            prop_assert_eq!(&replica, &expected);
        }
    }
}
