//! A change of control as it is in the topic: JSON with a format version.
//!
//! Owns the record's shape and which entity a change is about.

use schemas::agreement::{Agreement, Status};
use schemas::avro::compatibility::Level;
use schemas::channel::Channel;
use schemas::ids::{AgreementNumber, LogId, Offset, ParticipantId, Revision, SchemaId};
use serde::{Deserialize, Serialize};

/// The version of the record's format; an older binary refuses a newer one and says which it knows.
pub const FORMAT: u32 = 2;
/// The format of changes that every version understands.
const FIRST_FORMAT: u32 = 1;

/// A participant as registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Participant {
    pub id: ParticipantId,
    /// The name, for people.
    pub name: String,
}

/// The end of a router's audit chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditHead {
    /// Whose chain.
    pub router: String,
    /// The number of its next entry.
    pub next: u64,
    /// The hash of its last one, hexadecimal.
    pub head: String,
    /// Entries after the head are at this offset of the audit topic or later.
    pub offset: Offset,
    /// Changes of agreements up to this control offset are in the chain.
    #[serde(default)]
    pub applied: Offset,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// A participant is registered or renamed.
    Participant(Participant),
    /// A channel is declared, with the id of its log.
    Channel {
        channel: Channel,
        /// Random; names the log for good.
        log_id: LogId,
    },
    /// An agreement's first or next version.
    Agreement(Box<Agreement>),
    /// An agreement is suspended, resumed, revoked or expires.
    AgreementStatus {
        number: AgreementNumber,
        status: Status,
        /// Why, for people.
        reason: String,
    },
    /// A schema becomes the next version of a registry subject.
    Schema {
        subject: String,
        schema: serde_json::Value,
        /// The id that an external registry gave it (format 2); without it, the next one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<SchemaId>,
    },
    /// A registry subject's compatibility level.
    Compatibility {
        /// The subject; empty for the default.
        subject: String,
        level: Level,
    },
    /// A router's audit chain has grown.
    AuditHead(AuditHead),
}

/// A change with what it replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The first format that has all that the body says: see [`Body::format`].
    pub format: u32,
    /// The entity's revision that it replaces; 0 where there is none yet.
    pub replaces: Revision,
    /// Who asked for it.
    pub by: String,
    pub body: Body,
}

impl Body {
    /// The oldest format that can carry this body, so that a rolling update stops no router.
    pub const fn format(&self) -> u32 {
        match self {
            Self::Schema { id: Some(_), .. } => FORMAT,
            _ => FIRST_FORMAT,
        }
    }

    /// The entity whose revision a change replaces. An agreement's body and status are one entity.
    pub fn entity(&self) -> String {
        match self {
            Self::Participant(participant) => format!("participant/{}", participant.id),
            Self::Channel { channel, .. } => format!("channel/{}", channel.name),
            Self::Agreement(agreement) => format!("agreement/{}", agreement.number),
            Self::AgreementStatus { number, .. } => format!("agreement/{number}"),
            Self::Schema { subject, .. } => format!("subject/{subject}"),
            Self::Compatibility { subject, .. } => format!("compatibility/{subject}"),
            Self::AuditHead(head) => format!("audit/{}", head.router),
        }
    }
}
