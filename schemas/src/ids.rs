//! Ids as types: text that was checked once, at the edge, and is never checked again.
//!
//! Owns the alphabets and lengths of names. Fields stay private: an id that exists is valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is not valid: {rule}")]
pub struct IdError {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

const NAME_RULE: &str = "1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or a digit";

fn is_name(text: &str) -> bool {
    let starts_well = text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    starts_well
        && text.len() <= limits::MAX_NAME_BYTES
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError { kind: $kind, text: text.chars().take(80).collect(), rule: NAME_RULE })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_id!(
    /// The name of one of several routers that share a certificate. It keeps the name through restarts, as a pod does.
    RouterInstance,
    "router instance"
);
name_id!(
    /// An institution, by its registration number.
    ParticipantId,
    "participant"
);
name_id!(
    /// An agent's name, unique within its participant.
    AgentName,
    "agent"
);
name_id!(
    /// A channel's name; also the stem of its topics' names.
    ChannelName,
    "channel"
);
name_id!(
    /// An agreement's number as VIRSIS gives it.
    AgreementNumber,
    "agreement number"
);

/// One agent of one participant, as its certificate names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AgentId {
    /// Whose agent it is.
    pub participant: ParticipantId,
    /// Which of the participant's agents it is.
    pub agent: AgentName,
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.participant, self.agent)
    }
}

impl FromStr for AgentId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (participant, agent) = text.split_once('/').ok_or_else(|| IdError {
            kind: "agent id",
            text: text.chars().take(80).collect(),
            rule: "participant/agent",
        })?;
        Ok(Self { participant: participant.parse()?, agent: agent.parse()? })
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a number that already has this meaning.
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            pub const fn get(self) -> $inner {
                self.0
            }

            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// A record's position in one partition; grows, and may have gaps.
    Offset,
    u64
);
number_id!(
    /// The number of a partition in its channel.
    Partition,
    u32
);
number_id!(
    /// The number of a producer's event in its epoch and partition.
    Sequence,
    u64
);

impl Sequence {
    /// The sequence so many events later.
    #[must_use]
    pub const fn after(self, count: u32) -> Self {
        Self(self.0.saturating_add(count as u64))
    }
}

number_id!(
    /// A schema's id in the registry, as Confluent's framing carries it.
    SchemaId,
    u32
);
number_id!(
    /// A version of an agreement; the first is 1.
    AgreementVersion,
    u32
);
number_id!(
    /// A version of a subject in the registry; the first is 1.
    SchemaVersion,
    u32
);
number_id!(
    /// How often a control entity has changed; a change names the revision that it replaces.
    Revision,
    u64
);

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps 16 bytes that already have this meaning.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0_u8; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError {
                    kind: $kind,
                    text: text.chars().take(80).collect(),
                    rule: "32 hexadecimal digits",
                })?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

bytes_id!(
    /// A producer agent's session, as a random id. Its opening record names the epoch that it replaces.
    Epoch,
    "epoch"
);
bytes_id!(
    /// The first 128 bits of the chain over an epoch's records in one partition.
    Digest,
    "digest"
);
bytes_id!(
    /// A channel's log, named once at its creation: a topic that was created again has another.
    LogId,
    "log id"
);
bytes_id!(
    /// One snapshot: at its end mark, a replica drops the rows without this id.
    BootstrapId,
    "bootstrap id"
);
bytes_id!(
    /// The first 128 bits of SHA-256 over a schema's text.
    Fingerprint,
    "fingerprint"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_not_trusted() {
        assert!("40003032949".parse::<ParticipantId>().is_ok());
        for bad in ["", "-x", "a b", "a/b", "ā", &"x".repeat(65), "..", "a\n"] {
            assert!(bad.parse::<ParticipantId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_long_wrong_name_is_cut_in_its_error() {
        let error = "ā".repeat(10_000).parse::<ChannelName>().map_err(|e| e.to_string());
        assert!(error.is_err_and(|text| text.len() < 400));
    }

    #[test]
    fn agent_ids_have_two_parts() {
        let id: AgentId = "90000069281/main".parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(id.to_string(), "90000069281/main");
        assert!("90000069281".parse::<AgentId>().is_err());
    }

    #[test]
    fn byte_ids_survive_text() {
        let epoch = Epoch::new([7; 16]);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        assert!("07".parse::<Epoch>().is_err());
    }
}
