//! Explains to the people of a register and of the network what a consumer gets of an event, and why.
//!
//! Owns the facts of an explanation: the engine's own decision, the clauses that decided it, and the fate of each
//! field. An explanation shows values of the event: it is only for people who have the event.

use apache_avro::types::Value;
use schemas::agreement::{Agreement, Transform};
use schemas::avro::json::decode;
use schemas::avro::located::Ends;
use schemas::avro::resolution::resolve_value;
use schemas::change::{Images, Op};
use schemas::delivery::Reason;
use serde::Serialize;

use crate::compile::{CompileError, Compiled, Terms};
use crate::denial::Denial;
use crate::predicate::{Clause, Truth};
use crate::scope::Scope;

/// Why an event cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The agreement cannot be compiled against the event's schema.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The event cannot be judged: it would be parked.
    #[error(transparent)]
    Denial(#[from] Denial),
}

/// The predicate's truth on an image, and the clauses that decided it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Only `true` admits the row.
    pub truth: Truth,
    pub clauses: Vec<Clause>,
}

/// What becomes of a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It leaves, after this transform.
    Named(Transform),
    /// The agreement does not name it: it never leaves.
    Denied,
}

/// An agreement's decision over an event, with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The verdict on the image before the event, if there is one.
    pub before: Option<Verdict>,
    /// The verdict on the image after it, if there is one.
    pub after: Option<Verdict>,
    /// What the consumer gets, and why; `None` where the predicate admits neither image.
    pub outcome: Option<(Op, Reason)>,
    /// Whether the key leaves as it is; else as a keyed hash.
    pub keeps_key: bool,
    /// Each field of the schema that is judged, in its order. A field that leaves has the agreement's name for it.
    pub fields: Vec<(String, Fate)>,
}

/// An event to explain.
#[derive(Debug, Clone, Copy)]
pub struct ExplainedEvent<'e> {
    pub op: Op,
    pub key: &'e str,
    /// The image before, in the terms' writer schema.
    pub before: Option<&'e [u8]>,
    /// The image after, in the same schema.
    pub after: Option<&'e [u8]>,
}

/// Explains what an agreement's consumer gets of an event, whose images are in the terms' writer schema.
pub fn explain(
    agreement: &Agreement,
    terms: &Terms<'_>,
    event: &ExplainedEvent<'_>,
) -> Result<Explanation, ExplainError> {
    let ExplainedEvent { op, key, before, after } = *event;
    let scope = Scope::compile(agreement, terms)?;
    let compiled = Compiled::new(agreement, terms)?;
    let mut first = Ends::default();
    let mut second = Ends::default();
    let layout = terms.writer.layout();
    let images = Images {
        before: before.map(|bytes| first.locate(layout, bytes)).transpose().map_err(Denial::from)?,
        after: after.map(|bytes| second.locate(layout, bytes)).transpose().map_err(Denial::from)?,
    };
    let outcome = scope.judge(op, key, &images)?;
    let outcome = outcome.as_ref().map(crate::permit::Permitted::get);
    let verdict = |image: Option<&[u8]>| image.map(|image| verdict(&compiled, terms, image)).transpose();
    Ok(Explanation {
        before: verdict(before)?,
        after: verdict(after)?,
        outcome: outcome.map(|outcome| (outcome.op(), outcome.reason())),
        keeps_key: compiled.keeps_key,
        fields: fates(agreement, &compiled)?,
    })
}

fn verdict(compiled: &Compiled, terms: &Terms<'_>, image: &[u8]) -> Result<Verdict, Denial> {
    let mut value: Value = decode(terms.writer, image)?;
    if compiled.is_resolved {
        value = resolve_value(value, &compiled.effective).map_err(|_| Denial::Unresolvable)?;
    }
    let truth = compiled.predicate.evaluate(&value);
    let clauses = compiled.predicate.clauses(&value);
    Ok(Verdict { truth, clauses })
}

fn fates(agreement: &Agreement, compiled: &Compiled) -> Result<Vec<(String, Fate)>, CompileError> {
    let record = compiled.effective.record()?.record;
    let fate = |(index, field): (usize, &apache_avro::schema::RecordField)| {
        let rule = compiled.rules.iter().find(|(field, _)| *field == index);
        match rule.and_then(|(_, rule)| agreement.fields.get_key_value(&rule.name)) {
            Some((name, transform)) => (name.clone(), Fate::Named(transform.clone())),
            None => (field.name.clone(), Fate::Denied),
        }
    };
    Ok(record.fields.iter().enumerate().map(fate).collect())
}

#[cfg(test)]
mod tests {
    use schemas::avro::binary::put_string;

    use super::*;
    use crate::scope::generated::{agreement_of, with_terms};

    const SCHEMA: &str = r#"{"type": "record", "name": "R", "fields": [{"name": "k", "type": "string"},
        {"name": "t", "type": "string"}, {"name": "p", "type": "string"}]}"#;

    fn image(texts: [&str; 3]) -> Vec<u8> {
        let mut out = Vec::new();
        texts.iter().for_each(|text| put_string(&mut out, text));
        out
    }

    #[test]
    fn a_move_out_of_the_scope_names_the_clause_that_fails() {
        let agreement = agreement_of("t in [\"R\", \"L\"] && k != \"x\"", r#"{"k": "hash", "t": "keep"}"#);
        let before = image(["1", "R", "secret"]);
        let after = image(["1", "J", "secret"]);
        let explained = with_terms(SCHEMA, "k", |terms| {
            explain(
                &agreement,
                terms,
                &ExplainedEvent { op: Op::Update, key: "1", before: Some(&before), after: Some(&after) },
            )
        });
        let explained = explained.unwrap();
        assert_eq!(explained.outcome, Some((Op::Delete, Reason::Leave)));
        assert_eq!((explained.keeps_key, explained.before.map(|v| v.clauses.len())), (false, Some(2)));
        let after = explained.after.unwrap();
        let clause = Clause {
            text: "t in [\"L\", \"R\"]".to_owned(),
            truth: Truth::False,
            found: vec![("t".to_owned(), "\"J\"".to_owned())],
        };
        assert_eq!((after.truth, after.clauses), (Truth::False, vec![clause]));
        let fates: Vec<_> = explained.fields.into_iter().map(|(_, fate)| fate).collect();
        assert_eq!(fates, [Fate::Named(Transform::Hash), Fate::Named(Transform::Keep), Fate::Denied]);
    }

    #[test]
    fn an_event_that_is_malformed_is_told_as_one() {
        let agreement = agreement_of("true", r#"{"k": "keep"}"#);
        let explained = with_terms(SCHEMA, "k", |terms| {
            explain(
                &agreement,
                terms,
                &ExplainedEvent { op: Op::Create, key: "1", before: None, after: Some(&[1, 2, 3]) },
            )
        });
        assert!(matches!(explained, Err(ExplainError::Denial(Denial::Undecodable(_)))));
    }
}
