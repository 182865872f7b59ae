//! The transforms of a permitted field's value.
//!
//! Owns the transforms over decoded values, and the rule which types each one takes.

use apache_avro::types::Value;
use schemas::agreement::Transform;
use serde_json::Value as Json;

use crate::derive::{Shape, inner_type, is_one_of, shape};
use crate::secret::AgreementKey;

const MASK: char = '*';

/// Why a transform does not fit a field's type; `None` when it does.
pub(crate) fn misfit(transform: &Transform, kind: &Json) -> Option<&'static str> {
    let simple = shape(kind) != Shape::Union;
    let inner = inner_type(kind);
    match transform {
        Transform::Keep | Transform::Null => None,
        Transform::Hash
            if simple && is_one_of(inner, &["string", "int", "long", "enum"], &["date", "uuid"]) =>
        {
            None
        }
        Transform::Hash => Some("hash takes strings, whole numbers, dates and enums"),
        Transform::Mask { .. } if simple && is_one_of(inner, &["string"], &[]) => None,
        Transform::Mask { .. } => Some("mask takes strings"),
        Transform::Year
            if simple && is_one_of(inner, &[], &["date", "timestamp-millis", "timestamp-micros"]) =>
        {
            None
        }
        Transform::Year => Some("year takes dates and timestamps"),
    }
}

/// How one field leaves.
#[derive(Debug, Clone)]
pub(crate) struct FieldRule {
    /// The field's name. Hashes include it: equal values of different fields have different hashes.
    pub(crate) name: String,
    pub(crate) transform: Transform,
    /// The branch of null in the derived type, for `Transform::Null`.
    pub(crate) null_branch: u32,
}

impl FieldRule {
    /// The value as it leaves.
    pub(crate) fn apply(&self, key: &AgreementKey, value: &Value) -> Value {
        match (&self.transform, value) {
            (Transform::Keep, value) => value.clone(),
            (Transform::Null, _) => Value::Union(self.null_branch, Box::new(Value::Null)),
            (_, Value::Union(index, inner)) if matches!(**inner, Value::Null) => {
                Value::Union(*index, Box::new(Value::Null))
            }
            (_, Value::Union(index, inner)) => Value::Union(*index, Box::new(self.apply(key, inner))),
            (Transform::Hash, value) => Value::String(key.hash(&self.name, text(value).as_bytes())),
            (Transform::Mask { keep }, Value::String(text)) => Value::String(mask(text, *keep)),
            (Transform::Year, Value::Date(days)) => Value::Date(first_of_year(*days)),
            (Transform::Year, Value::TimestampMillis(ms)) => {
                Value::TimestampMillis(instant_of_year(ms.div_euclid(MILLIS_A_DAY)) * MILLIS_A_DAY)
            }
            (Transform::Year, Value::TimestampMicros(us)) => {
                Value::TimestampMicros(instant_of_year(us.div_euclid(MICROS_A_DAY)) * MICROS_A_DAY)
            }
            // A value that does not fit its own schema shows nothing.
            (Transform::Mask { .. }, _) => Value::String(String::new()),
            (Transform::Year, _) => Value::Date(0),
        }
    }
}

pub(crate) const MILLIS_A_DAY: i64 = 86_400_000;
pub(crate) const MICROS_A_DAY: i64 = 86_400_000_000;

fn text(value: &Value) -> String {
    match value {
        Value::String(text) | Value::Enum(_, text) => text.clone(),
        Value::Int(n) | Value::Date(n) => n.to_string(),
        Value::Long(n) => n.to_string(),
        Value::Uuid(uuid) => uuid.to_string(),
        other => format!("{other:?}"),
    }
}

pub(crate) fn mask(text: &str, keep: u32) -> String {
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    text.chars().enumerate().map(|(index, c)| if index < keep { c } else { MASK }).collect()
}

pub(crate) fn first_of_year(days: i32) -> i32 {
    i32::try_from(instant_of_year(i64::from(days))).unwrap_or(0)
}

/// The day number of 1 January of a day's year; 0 outside the calendar.
pub(crate) fn instant_of_year(days: i64) -> i64 {
    let epoch = jiff::civil::date(1970, 1, 1);
    let span = jiff::Span::new().try_days(days);
    let Some(date) = span.ok().and_then(|span| epoch.checked_add(span).ok()) else { return 0 };
    let first = jiff::civil::date(date.year(), 1, 1);
    first.since((jiff::Unit::Day, epoch)).map_or(0, |span| i64::from(span.get_days()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::NetworkSecret;

    fn apply(transform: Transform, value: &Value) -> Value {
        let secret = NetworkSecret::new(vec![1; 32]).unwrap_or_else(|e| panic!("{e}"));
        let key = secret.agreement_key(&"A-1".parse().unwrap_or_else(|e| panic!("{e}")));
        FieldRule { name: "f".to_owned(), transform, null_branch: 0 }.apply(&key, value)
    }

    #[test]
    fn masks_count_characters_not_bytes() {
        let masked = apply(Transform::Mask { keep: 3 }, &Value::String("Āžēls".to_owned()));
        assert_eq!(masked, Value::String("Āžē**".to_owned()));
    }

    #[test]
    fn a_year_keeps_the_type() {
        assert_eq!(apply(Transform::Year, &Value::Date(18_809)), Value::Date(18_628));
        assert_eq!(apply(Transform::Year, &Value::Date(-1)), Value::Date(-365));
        let millis = 18_809 * MILLIS_A_DAY + 5;
        assert_eq!(
            apply(Transform::Year, &Value::TimestampMillis(millis)),
            Value::TimestampMillis(18_628 * MILLIS_A_DAY)
        );
    }

    #[test]
    fn nulls_stay_nulls_and_say_nothing_else() {
        let null = Value::Union(1, Box::new(Value::Null));
        assert_eq!(apply(Transform::Hash, &null), null);
        let value = Value::Union(1, Box::new(Value::Long(5)));
        assert_eq!(apply(Transform::Null, &value), Value::Union(0, Box::new(Value::Null)));
    }

    #[test]
    fn each_transform_names_the_types_it_takes() {
        let json = |text: &str| serde_json::from_str::<Json>(text).unwrap_or_else(|e| panic!("{e}"));
        let date = json(r#"["null",{"type":"int","logicalType":"date"}]"#);
        assert_eq!(misfit(&Transform::Year, &date), None);
        assert_eq!(misfit(&Transform::Hash, &date), None);
        assert!(misfit(&Transform::Mask { keep: 1 }, &date).is_some());
        assert!(misfit(&Transform::Year, &json(r#""int""#)).is_some());
        assert!(misfit(&Transform::Hash, &json(r#"["int","string"]"#)).is_some());
        assert!(misfit(&Transform::Hash, &json(r#""double""#)).is_some());
    }
}
