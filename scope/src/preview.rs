//! The effect of a schema that is not registered yet on an agreement.
//!
//! Owns the comparison of what an agreement gives under the newest schema and under the proposed one.

use schemas::agreement::{Agreement, Transform};
use schemas::avro::schema::AvroSchema;
use schemas::key::KeySpec;
use serde::Serialize;

use crate::compile::{Age, CompileError, Compiled, Terms};
use crate::secret::NetworkSecret;

/// The effect of a proposed schema on an agreement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    /// It gives what it gave, and no field is new.
    Same,
    /// It gives what it gave; these fields are new, and denied until a version of it names them.
    Pending { fields: Vec<String> },
    /// It is suspended before the first event of that schema, for this reason.
    Suspended {
        /// Why, and what repairs it.
        reason: String,
    },
    /// It is suspended under the newest schema already, and stays so.
    StaysSuspended {
        /// Why, and what repairs it.
        reason: String,
    },
    /// It is suspended under the newest schema, and would not be under the proposed one.
    Resumed,
}

/// What a consumer would see under the proposed schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Previewed {
    #[serde(flatten)]
    pub change: Change,
    /// The fields that it would get, by the agreement's names; empty while the agreement is suspended.
    pub sees: Vec<(String, Transform)>,
}

/// A proposed schema, with the schemas before it.
#[derive(Debug, Clone, Copy)]
pub struct Proposal<'a> {
    /// The schema that the agreement was written against.
    pub agreed: &'a AvroSchema,
    /// The newest registered schema: perhaps the same.
    pub newest: &'a AvroSchema,
    pub proposed: &'a AvroSchema,
    pub key: &'a KeySpec,
}

/// Finds what a proposed schema would change for an agreement.
pub fn preview(agreement: &Agreement, proposal: &Proposal<'_>, secret: &NetworkSecret) -> Previewed {
    let Proposal { agreed, newest, proposed, key } = *proposal;
    let under = |writer: &AvroSchema| -> Result<Compiled, CompileError> {
        let age = if writer == agreed { Age::Same } else { Age::Newer };
        Compiled::new(agreement, &Terms { agreed, writer, age, key, secret })
    };
    let now = under(newest);
    let then = under(proposed);
    let sees = then.as_ref().map_or_else(|_| Vec::new(), |then| seen(agreement, then));
    let change = match (now, then) {
        (Ok(now), Ok(then)) => {
            let fields: Vec<String> = then.pending.into_iter().filter(|f| !now.pending.contains(f)).collect();
            if fields.is_empty() { Change::Same } else { Change::Pending { fields } }
        }
        (Ok(_), Err(error)) => Change::Suspended { reason: error.to_string() },
        (Err(_), Err(error)) => Change::StaysSuspended { reason: error.to_string() },
        (Err(_), Ok(_)) => Change::Resumed,
    };
    Previewed { change, sees }
}

fn seen(agreement: &Agreement, compiled: &Compiled) -> Vec<(String, Transform)> {
    let named = |name: &String| agreement.fields.get(name).map(|transform| (name.clone(), transform.clone()));
    compiled.rules.iter().filter_map(|(_, rule)| named(&rule.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::generated::agreement_of;

    fn schema(fields: &str) -> AvroSchema {
        AvroSchema::parse(&format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#)).unwrap()
    }

    const K: &str = r#"{"name": "k", "type": "string"}"#;
    const T: &str = r#"{"name": "t", "type": "string"}"#;

    fn change(newest: &str, proposed: &str) -> Change {
        let agreement = agreement_of("t == \"a\"", r#"{"k": "keep", "t": "hash"}"#);
        let secret = NetworkSecret::new(vec![1; 32]).unwrap();
        let agreed = schema(&format!("{K}, {T}"));
        let newest = schema(newest);
        let proposed = schema(proposed);
        let key = KeySpec { fields: vec!["k".to_owned()], normalise: vec![] };
        let proposal = Proposal { agreed: &agreed, newest: &newest, proposed: &proposed, key: &key };
        let previewed = preview(&agreement, &proposal, &secret);
        let is_off = matches!(previewed.change, Change::Suspended { .. } | Change::StaysSuspended { .. });
        assert_eq!(previewed.sees.len(), if is_off { 0 } else { 2 });
        previewed.change
    }

    #[test]
    fn what_is_new_is_pending_and_what_goes_suspends() {
        let old = format!("{K}, {T}");
        let wide = format!(r#"{K}, {T}, {{"name": "n", "type": "long"}}"#);
        assert_eq!(change(&old, &old), Change::Same);
        assert_eq!(change(&old, &wide), Change::Pending { fields: vec!["n".to_owned()] });
        assert_eq!(change(&wide, &wide), Change::Same, "it was pending before");
        let renamed = format!(r#"{K}, {{"name": "tt", "type": "string"}}"#);
        assert!(
            matches!(change(&old, &renamed), Change::Suspended { reason } if reason.contains("\"t\" is gone"))
        );
        let aliased = format!(r#"{K}, {{"name": "tt", "type": "string", "aliases": ["t"]}}"#);
        assert_eq!(change(&old, &aliased), Change::Same);
        let retyped = format!(r#"{K}, {{"name": "t", "type": "long"}}"#);
        assert!(matches!(change(&old, &retyped), Change::Suspended { .. }));
        assert!(matches!(change(&renamed, &retyped), Change::StaysSuspended { .. }));
        assert_eq!(change(&renamed, &old), Change::Resumed);
    }
}
