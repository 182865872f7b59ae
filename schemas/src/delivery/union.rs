//! The Avro union of a stream's items, around a scope's derived schema.

use serde_json::json;

use crate::avro::schema::{AvroSchema, SchemaError};

/// The union's schema. Its first branch defines the derived schema; rows of ranges refer to it by its name.
pub(super) fn union_schema(derived: &AvroSchema) -> Result<AvroSchema, SchemaError> {
    let image = &derived.record()?.name;
    let millis = json!({"type": "long", "logicalType": "timestamp-millis"});
    let place = |name: &str| json!({"name": name, "type": "long"});
    let next = ["continue", "resync", "stop"];
    AvroSchema::from_json(json!([
        {"type": "record", "name": "lv.dit.Delivery", "fields": [
            {"name": "op", "type": {"type": "enum", "name": "lv.dit.Op", "symbols": ["c", "u", "d", "r"]}},
            {"name": "key", "type": "string"},
            {"name": "after", "type": ["null", derived.json()]},
            {"name": "reason", "type": {"type": "enum", "name": "lv.dit.Reason",
                "symbols": ["change", "enter", "leave", "state"]}},
            {"name": "partition", "type": "int"},
            place("offset"),
            {"name": "index", "type": "int"},
            {"name": "event_at", "type": millis},
            {"name": "logged_at", "type": millis},
            {"name": "traceparent", "type": ["null", "string"]},
        ]},
        {"type": "record", "name": "lv.dit.Begin", "fields": [
            {"name": "bootstrap", "type": {"type": "fixed", "name": "lv.dit.Id", "size": 16}},
        ]},
        {"type": "record", "name": "lv.dit.End", "fields": [
            {"name": "bootstrap", "type": "lv.dit.Id"},
            {"name": "places", "type": {"type": "array", "items": {"type": "record", "name": "lv.dit.Place",
                "fields": [place("offset"), place("checkpoint")]}}},
        ]},
        {"type": "record", "name": "lv.dit.Progress", "fields": [
            {"name": "partition", "type": "int"},
            {"name": "place", "type": "lv.dit.Place"},
            {"name": "freshness", "type": ["null", millis]},
            place("end"),
            {"name": "passed_at", "type": ["null", millis]},
        ]},
        {"type": "record", "name": "lv.dit.Closing", "fields": [
            {"name": "next", "type": {"type": "enum", "name": "lv.dit.Next", "symbols": next}},
            {"name": "reason", "type": "string"},
            {"name": "detail", "type": "string"},
            {"name": "places", "type": {"type": "array", "items": "lv.dit.Place"}},
        ]},
        {"type": "record", "name": "lv.dit.SnapshotProgress", "fields": [
            {"name": "bootstrap", "type": "lv.dit.Id"},
            {"name": "begun_at", "type": millis},
            {"name": "seal", "type": "string"},
            {"name": "places", "type": {"type": "array", "items": {"type": "record", "name": "lv.dit.SnapshotPlace",
                "fields": [place("next"), place("end")]}}},
        ]},
        {"type": "record", "name": "lv.dit.RangeDigests", "fields": [
            {"name": "places", "type": {"type": "array", "items": "lv.dit.Place"}},
            {"name": "rows", "type": "long"},
            {"name": "total", "type": {"type": "fixed", "name": "lv.dit.Total", "size": 16}},
            {"name": "digests", "type": {"type": "array",
                "items": {"type": "fixed", "name": "lv.dit.Sum", "size": 8}}},
        ]},
        {"type": "record", "name": "lv.dit.Range", "fields": [
            {"name": "number", "type": "long"},
            {"name": "rows", "type": {"type": "array", "items": {"type": "record", "name": "lv.dit.Row",
                "fields": [{"name": "key", "type": "string"}, {"name": "image", "type": image}]}}},
        ]},
    ]))
}
