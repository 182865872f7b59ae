//! Warnings about terms that an agreement's writer can hardly mean.
//!
//! Owns the findings and their words. A finding refuses nothing: only the compiler refuses. No finding is a guess: it
//! says that a predicate never matches only where that is proven.

use schemas::agreement::{Agreement, Transform};
use schemas::key::KeyDeriver;

use crate::compile::{CompileError, Compiled, Terms};
use crate::predicate::{Superfluous, Why};

/// Something that should be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// No row can ever match.
    #[error("rows: no row can match {0}: the agreement gives nothing")]
    NeverMatches(String),
    /// Every row matches, though the predicate has conditions.
    #[error("rows: every row matches {0}: write true if all are meant")]
    AlwaysMatches(String),
    /// A clause changes nothing.
    #[error("rows: {} changes nothing: {}", .0.clause, reason(.0.why))]
    Superfluous(Superfluous),
    /// The agreement does not keep a field of the key: keys leave as keyed hashes.
    #[error(
        "field {field:?} is part of the key and {how}: the consumer gets keys as hashes, and cannot join them with anything else"
    )]
    HashedKey {
        field: String,
        /// What the agreement says of it.
        how: &'static str,
    },
}

const fn reason(why: Why) -> &'static str {
    match why {
        Why::Always => "it holds on every row",
        Why::Never => "no row can match it",
        Why::AskedForAlready => "the other clauses ask for it already",
        Why::HadAlready => "another alternative has its rows",
    }
}

/// Finds doubtful terms of an agreement. Fails only where the agreement cannot be compiled.
pub fn lint(agreement: &Agreement, terms: &Terms<'_>) -> Result<Vec<Finding>, CompileError> {
    let compiled = Compiled::new(agreement, terms)?;
    let predicate = &compiled.predicate;
    let schema = &compiled.effective;
    let mut findings = Vec::new();
    if predicate.is_never(schema) {
        findings.push(Finding::NeverMatches(predicate.to_string()));
    } else if predicate.is_always(schema) {
        let is_meant = predicate.is_constant();
        findings.extend((!is_meant).then(|| Finding::AlwaysMatches(predicate.to_string())));
    } else {
        findings.extend(predicate.superfluous(schema).into_iter().map(Finding::Superfluous));
    }
    let record = terms.agreed.record()?.record;
    for index in KeyDeriver::new(terms.key, terms.agreed)?.field_indexes() {
        let Some(field) = record.fields.get(index).map(|field| &field.name) else { continue };
        let how = match agreement.fields.get(field) {
            None => "not named",
            Some(Transform::Hash) => "hashed",
            Some(Transform::Null) => "made null",
            // The compiler refuses transforms that join keys.
            Some(Transform::Keep | Transform::Mask { .. } | Transform::Year) => continue,
        };
        findings.push(Finding::HashedKey { field: field.clone(), how });
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::generated::{agreement_of, with_terms};

    const SCHEMA: &str = r#"{"type": "record", "name": "R", "fields": [{"name": "k", "type": "string"},
        {"name": "t", "type": "string"}, {"name": "n", "type": ["null", "long"]}]}"#;

    fn found(rows: &str, fields: &str) -> Vec<String> {
        let agreement = agreement_of(rows, fields);
        let findings = with_terms(SCHEMA, "k", |terms| lint(&agreement, terms)).unwrap();
        findings.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn an_agreement_that_says_what_it_means_has_no_findings() {
        assert_eq!(found("t == \"a\" && n > 5", r#"{"k": "keep", "t": "keep", "n": "keep"}"#), [""; 0]);
        assert_eq!(found("true", r#"{"k": "keep"}"#), [""; 0]);
    }

    #[test]
    fn what_is_found_names_the_clause_or_the_field() {
        let all = r#"{"k": "keep", "t": "keep", "n": "keep"}"#;
        let one = |rows: &str, fields: &str| {
            let found = found(rows, fields);
            assert_eq!(found.len(), 1, "{found:?}");
            found.concat()
        };
        assert!(one("t == \"a\" && t == \"b\"", all).contains("no row can match t == \"a\" && t == \"b\""));
        assert!(one("t == \"a\" || t != \"a\"", all).contains("every row matches"));
        assert!(
            one("t == \"a\" && t.startsWith(\"a\")", all).contains("t.startsWith(\"a\") changes nothing")
        );
        for (rows, reason) in [
            ("t == \"a\" || n > 5 && n < 4", "n > 5 && n < 4 changes nothing: no row can match it"),
            ("t != null && n > 5", "t != null changes nothing: it holds on every row"),
            ("n > 5 || n > 6", "n > 6 changes nothing: another alternative has its rows"),
            ("n > 5 && n > 4", "n > 4 changes nothing: the other clauses ask for it already"),
        ] {
            assert!(one(rows, all).contains(reason), "{rows}: {}", one(rows, all));
        }
        assert!(one("true", r#"{"k": "hash"}"#).contains("\"k\" is part of the key and hashed"));
        assert!(one("true", r#"{"t": "keep"}"#).contains("\"k\" is part of the key and not named"));
    }

    #[test]
    fn what_would_take_too_long_to_see_through_is_let_be() {
        let fields: Vec<String> =
            (0..12).map(|n| format!(r#"{{"name": "f{n}", "type": ["null", "long"]}}"#)).collect();
        let schema = format!(
            r#"{{"type": "record", "name": "R", "fields": [{{"name": "k", "type": "string"}}, {}]}}"#,
            fields.join(", ")
        );
        let clauses: Vec<String> = (0..200).map(|n| format!("f{} == {n}", n % 12)).collect();
        let agreement = agreement_of(&clauses.join(" || "), r#"{"k": "keep"}"#);
        assert_eq!(with_terms(&schema, "k", |terms| lint(&agreement, terms)).unwrap(), []);
    }

    #[test]
    fn a_field_that_is_not_there_is_refused_with_its_place() {
        let agreement = agreement_of("t == \"ā\" && nn > 5", r#"{"k": "keep"}"#);
        let error = with_terms(SCHEMA, "k", |terms| lint(&agreement, terms)).unwrap_err();
        assert!(error.to_string().contains("character 13: there is no field \"nn\""), "{error}");
        let agreement = agreement_of("true", r#"{"kk": "keep"}"#);
        let error = with_terms(SCHEMA, "k", |terms| lint(&agreement, terms)).unwrap_err();
        assert!(matches!(error, CompileError::UnknownField { .. }), "{error}");
    }
}
