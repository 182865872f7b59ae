//! Whether a reader's schema can read everything that a writer's schema writes.
//!
//! Owns the compatibility levels of the registry. apache-avro decides each pair. Only its `Full` counts, because it
//! calls some incompatible pairs partially compatible.

use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use serde::{Deserialize, Serialize};

use super::schema::AvroSchema;

/// Confluent's compatibility levels. Only the transitive ones look further back than the last version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Level {
    /// Any schema may follow.
    None,
    /// The new schema reads what the last one wrote.
    #[default]
    Backward,
    /// The new schema reads what every earlier one wrote.
    BackwardTransitive,
    /// The last schema reads what the new one writes.
    Forward,
    /// Every earlier schema reads what the new one writes.
    ForwardTransitive,
    /// `Backward` and `Forward`.
    Full,
    /// `BackwardTransitive` and `ForwardTransitive`.
    FullTransitive,
}

/// Why a schema cannot follow another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at the level {level:?} it does not fit version {version}: {reason}")]
pub struct Incompatible {
    level: Level,
    version: usize,
    reason: String,
}

/// Whether `reader` reads all that `writer` writes; the reason when it does not.
pub fn can_read(writer: &AvroSchema, reader: &AvroSchema) -> Result<(), String> {
    match SchemaCompatibility::can_read(writer.parsed(), reader.parsed()) {
        Ok(Compatibility::Full) => Ok(()),
        Ok(_) => Err("only some of the values could be read".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Judges `new` against the versions before it (oldest first).
pub fn judge(level: Level, earlier: &[AvroSchema], new: &AvroSchema) -> Result<(), Incompatible> {
    let transitive =
        matches!(level, Level::BackwardTransitive | Level::ForwardTransitive | Level::FullTransitive);
    let backward =
        matches!(level, Level::Backward | Level::BackwardTransitive | Level::Full | Level::FullTransitive);
    let forward =
        matches!(level, Level::Forward | Level::ForwardTransitive | Level::Full | Level::FullTransitive);
    let first = if transitive { 0 } else { earlier.len().saturating_sub(1) };
    for (index, old) in earlier.iter().enumerate().skip(first) {
        let against = |reason| Incompatible { level, version: index + 1, reason };
        if backward {
            can_read(old, new).map_err(against)?;
        }
        if forward {
            can_read(new, old).map_err(against)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &str) -> AvroSchema {
        AvroSchema::parse(&format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_new_field_needs_a_default_to_read_the_past() {
        let one = schema(r#"{"name":"a","type":"string"}"#);
        let two = schema(r#"{"name":"a","type":"string"},{"name":"b","type":"string"}"#);
        let three = schema(r#"{"name":"a","type":"string"},{"name":"b","type":"string","default":""}"#);
        assert!(judge(Level::Backward, std::slice::from_ref(&one), &two).is_err());
        assert!(judge(Level::Backward, std::slice::from_ref(&one), &three).is_ok());
        assert!(judge(Level::Forward, std::slice::from_ref(&one), &two).is_ok());
        assert!(judge(Level::None, &[one], &two).is_ok());
    }

    #[test]
    fn only_the_transitive_levels_look_further_back_than_the_last() {
        let one = schema(r#"{"name":"a","type":"string"}"#);
        let two = schema("");
        let three = schema(r#"{"name":"a","type":"long","default":0}"#);
        assert!(judge(Level::Backward, &[one.clone(), two.clone()], &three).is_ok());
        assert!(judge(Level::BackwardTransitive, &[one, two], &three).is_err());
    }
}
