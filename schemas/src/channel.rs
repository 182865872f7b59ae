//! A channel's declaration: its owner, its content, and how its events are keyed and partitioned.
//!
//! Owns the declaration's form, its checks and the names of its topics; it never opens a topic.

use serde::{Deserialize, Serialize};

use crate::avro::schema::{AvroSchema, SchemaError};
use crate::ids::{ChannelName, ParticipantId};
use crate::key::{KeyDeriver, KeyError, KeySpec};
use crate::limits;

/// Who may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// DIK: one owner sends, many receive.
    Distribution,
    /// DSK: many send, one owner receives.
    Collection,
}

/// How much a field says about a person; the schema carries it as the field's `classification`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Classification {
    /// Anybody may know.
    Public,
    /// Not about a person, but not for everybody.
    Restricted,
    /// About a person.
    Personal,
    /// A special category (health, belief, …).
    Special,
}

/// A channel's declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Its name; the stem of its topics.
    pub name: ChannelName,
    /// Who may send.
    pub kind: ChannelKind,
    /// The participant whose channel it is.
    pub owner: ParticipantId,
    /// Partitions; never changes.
    pub partitions: u32,
    /// What identifies a subject.
    pub key: KeySpec,
    /// The first version of the subject's schema.
    pub schema: serde_json::Value,
}

/// Why a channel's declaration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Partition count out of range.
    #[error("a channel has 1 to {max} partitions, not {0}", max = limits::MAX_PARTITIONS)]
    Partitions(u32),
    /// The schema is not usable.
    #[error("the subject's schema: {0}")]
    Schema(#[from] SchemaError),
    /// A field's classification is unknown.
    #[error("field {field}: classification {found} is none of public, restricted, personal, special")]
    Classification { field: String, found: String },
    /// The key does not fit the schema.
    #[error("the key: {0}")]
    Key(#[from] KeyError),
}

/// Every classification of a field must be one of ours.
fn check_classifications(schema: &AvroSchema) -> Result<(), ChannelError> {
    schema.record()?;
    let fields = schema.json().get("fields").and_then(serde_json::Value::as_array);
    for field in fields.into_iter().flatten() {
        let Some(found) = field.get("classification") else { continue };
        if serde_json::from_value::<Classification>(found.clone()).is_err() {
            let name = field.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
            return Err(ChannelError::Classification { field: name.to_owned(), found: found.to_string() });
        }
    }
    Ok(())
}

impl Channel {
    /// Checks the declaration, and returns the parsed schema.
    pub fn validate(&self) -> Result<AvroSchema, ChannelError> {
        if self.partitions == 0 || self.partitions > limits::MAX_PARTITIONS {
            return Err(ChannelError::Partitions(self.partitions));
        }
        let schema = AvroSchema::from_json(self.schema.clone())?;
        check_classifications(&schema)?;
        KeyDeriver::new(&self.key, &schema)?;
        Ok(schema)
    }

    /// The topic of the history window.
    pub fn log_topic(&self) -> String {
        format!("dit.{}.log", self.name)
    }

    /// The topic of each key's present image.
    pub fn state_topic(&self) -> String {
        format!("dit.{}.state", self.name)
    }

    /// The registry's subject of the log's values.
    pub fn registry_subject(&self) -> String {
        format!("{}-value", self.log_topic())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(partitions: u32, key: &str) -> Channel {
        let json = serde_json::json!({
            "name": "companies", "kind": "distribution", "owner": "90000000001", "partitions": partitions,
            "key": {"fields": [key]},
            "schema": {"type": "record", "name": "lv.Company", "fields": [{"name": "regcode", "type": "string"}]},
        });
        serde_json::from_value(json).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_declaration_is_checked_as_a_whole() {
        assert!(channel(4, "regcode").validate().is_ok());
        assert_eq!(channel(0, "regcode").validate(), Err(ChannelError::Partitions(0)));
        assert!(matches!(channel(1, "nope").validate(), Err(ChannelError::Key(_))));
    }
}
