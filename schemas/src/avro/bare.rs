//! The part of a type, in a schema's text, that decides its values and their bytes.
//!
//! Owns the list of attributes that do not. Names and the order of fields do.

use serde_json::{Map, Value as Json};

/// A type without the attributes that change no byte. `{"type": "string"}` becomes `"string"`.
pub fn bare(kind: &Json) -> Json {
    match kind {
        Json::Array(items) => items.iter().map(bare).collect(),
        Json::Object(object) => {
            let kept = object.iter().filter(|(name, _)| {
                !matches!(name.as_str(), "doc" | "aliases" | "default" | "order" | "classification")
            });
            let kept: Map<String, Json> = kept.map(|(name, value)| (name.clone(), bare(value))).collect();
            match (kept.len(), kept.get("type")) {
                (1, Some(only @ Json::String(_))) => only.clone(),
                _ => Json::Object(kept),
            }
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_people_read_and_defaults_are_left_out_at_any_depth() {
        let said = json!({"type": "record", "name": "R", "doc": "a row", "fields": [
            {"name": "a", "type": {"type": "string"}, "classification": "personal"},
            {"name": "b", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": null}]});
        let plain = json!({"type": "record", "name": "R", "fields": [
            {"name": "a", "type": "string"},
            {"name": "b", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]}]});
        assert_eq!(bare(&said), plain);
    }
}
