//! The derived schema of a scope: the fields that an agreement names, with the types that its transforms give.
//!
//! Owns the JSON of derived fields. Fields are in the order of the agreement's schema.

use schemas::agreement::Transform;
use serde_json::{Map, Value, json};

/// Which part of a field's type a transform works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    /// The other branch of a union with null.
    Nullable {
        /// The index of the null branch.
        null: usize,
    },
    Union,
}

pub(crate) fn shape(kind: &Value) -> Shape {
    let Some(branches) = kind.as_array() else { return Shape::Plain };
    match branches.iter().position(|branch| branch == "null") {
        Some(null) if branches.len() == 2 => Shape::Nullable { null },
        _ => Shape::Union,
    }
}

/// The type itself, or the other branch of a union with null.
pub(crate) fn inner_type(kind: &Value) -> &Value {
    match (shape(kind), kind.as_array()) {
        (Shape::Nullable { null }, Some(branches)) => branches.get(1 - null.min(1)).unwrap_or(kind),
        _ => kind,
    }
}

/// Whether a type is one of these primitives, or of these logical types.
pub(crate) fn is_one_of(kind: &Value, primitives: &[&str], logical: &[&str]) -> bool {
    let object = kind.as_object();
    let logical_type = object.and_then(|o| o.get("logicalType")).and_then(Value::as_str);
    let base = kind.as_str().or_else(|| object.and_then(|o| o.get("type")).and_then(Value::as_str));
    match logical_type {
        Some(found) => logical.contains(&found),
        None => base.is_some_and(|base| primitives.contains(&base)),
    }
}

/// The derived field of a schema's field under a transform that was found to fit.
pub(crate) fn field(original: &Value, transform: &Transform) -> Value {
    let mut field = original.as_object().cloned().unwrap_or_else(Map::new);
    let kind = field.get("type").cloned().unwrap_or(Value::Null);
    let derived = match transform {
        Transform::Keep | Transform::Mask { .. } | Transform::Year => kind,
        Transform::Hash => match shape(&kind) {
            Shape::Nullable { null: 0 } => json!(["null", "string"]),
            Shape::Nullable { .. } => json!(["string", "null"]),
            _ => json!("string"),
        },
        Transform::Null => match (shape(&kind), kind) {
            (Shape::Plain, plain) => json!(["null", plain]),
            (Shape::Union, Value::Array(branches)) if !branches.contains(&json!("null")) => {
                Value::Array(std::iter::once(json!("null")).chain(branches).collect())
            }
            (_, kind) => kind,
        },
    };
    field.insert("type".to_owned(), derived);
    if *transform != Transform::Keep {
        field.remove("default");
    }
    Value::Object(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_change_types_only_as_far_as_they_must() {
        let derived = |kind: Value, transform: &Transform| {
            field(&json!({"name": "a", "type": kind, "default": "x"}), transform)["type"].clone()
        };
        assert_eq!(derived(json!("long"), &Transform::Hash), json!("string"));
        assert_eq!(derived(json!(["long", "null"]), &Transform::Hash), json!(["string", "null"]));
        assert_eq!(derived(json!("long"), &Transform::Null), json!(["null", "long"]));
        assert_eq!(derived(json!(["long", "null"]), &Transform::Null), json!(["long", "null"]));
        assert_eq!(derived(json!(["long", "string"]), &Transform::Null), json!(["null", "long", "string"]));
        assert_eq!(derived(json!("string"), &Transform::Mask { keep: 1 }), json!("string"));
    }

    #[test]
    fn a_default_stays_only_where_the_value_stays() {
        let original = json!({"name": "a", "type": "string", "default": "x", "doc": "d"});
        assert_eq!(field(&original, &Transform::Keep), original);
        assert_eq!(field(&original, &Transform::Hash), json!({"name": "a", "type": "string", "doc": "d"}));
    }
}
