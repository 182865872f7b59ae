//! An agreement's body: a versioned, time-bounded permission of one participant for one channel.
//!
//! Owns the form that is sent and signed. `scope` decides what it permits; the router owns its status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{AgreementNumber, AgreementVersion, ChannelName, ParticipantId, SchemaVersion};
use crate::time::Millis;

/// How much of the past (events, not the present state) is part of the agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// No past events.
    None,
    /// Events from a time on, with its offset from UTC.
    Since(Timestamp),
    /// All events that the log still holds.
    Full,
}

impl std::fmt::Display for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Since(since) => write!(f, "since {since}"),
            Self::Full => f.write_str("full"),
        }
    }
}

/// What becomes of a named field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transform {
    /// As it is.
    Keep,
    /// Always null.
    Null,
    /// HMAC-SHA-256 under a key of this agreement: equal values stay equal, within the agreement.
    Hash,
    /// The first characters stay, the rest are asterisks.
    Mask {
        /// How many characters stay.
        keep: u32,
    },
    /// A date's year: 1 January, type kept.
    Year,
}

/// An agreement's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// VIRSIS's number.
    pub number: AgreementNumber,
    /// Its version; grows by one.
    pub version: AgreementVersion,
    /// Whose data it is.
    pub provider: ParticipantId,
    /// Who may have it.
    pub consumer: ParticipantId,
    pub channel: ChannelName,
    /// What for.
    pub purpose: String,
    /// By which law or contract.
    pub legal_basis: String,
    /// Not before, with its offset from UTC.
    pub valid_from: Timestamp,
    /// Not at or after this time, with its offset from UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<Timestamp>,
    /// How much of the past.
    pub history: History,
    /// The version of the subject's schema that it was written against.
    pub schema_version: SchemaVersion,
    /// Which rows: a predicate in the CEL subset.
    pub rows: String,
    /// Which fields, and how; a field that is not named never leaves.
    pub fields: BTreeMap<String, Transform>,
}

/// Why an agreement's body is unusable with any schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    /// Versions begin at 1.
    #[error("agreement {0}: version 0; versions begin at 1")]
    VersionZero(AgreementNumber),
    /// It ends before it begins.
    #[error("agreement {0}: valid_to is not after valid_from")]
    NeverValid(AgreementNumber),
    /// Only keys would ever be delivered.
    #[error("agreement {0}: it names no field; name at least one")]
    NoFields(AgreementNumber),
    /// Data without a purpose may not leave.
    #[error("agreement {0}: purpose and legal_basis must not be empty")]
    NoPurpose(AgreementNumber),
}

impl Agreement {
    /// Checks what can be checked without a schema.
    pub fn validate(&self) -> Result<(), AgreementError> {
        let number = || self.number.clone();
        if self.version.get() == 0 {
            return Err(AgreementError::VersionZero(number()));
        }
        if self.valid_to.is_some_and(|to| to <= self.valid_from) {
            return Err(AgreementError::NeverValid(number()));
        }
        if self.fields.is_empty() {
            return Err(AgreementError::NoFields(number()));
        }
        if self.purpose.trim().is_empty() || self.legal_basis.trim().is_empty() {
            return Err(AgreementError::NoPurpose(number()));
        }
        Ok(())
    }

    /// Whether `now` lies in its dates.
    pub fn is_valid_at(&self, now: Millis) -> bool {
        now >= Millis::from(self.valid_from) && self.valid_to.is_none_or(|to| now < Millis::from(to))
    }
}

/// Whether an agreement is in force, or why it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In force within its dates.
    Active,
    /// Held for a while; may become active again.
    Suspended,
    /// Ended for good, by a party.
    Revoked,
    /// Ended for good, by its date.
    Expired,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(change: impl FnOnce(&mut serde_json::Value)) -> Result<Agreement, serde_json::Error> {
        let mut json = serde_json::json!({
            "number": "A-1", "version": 1, "provider": "1", "consumer": "2", "channel": "c",
            "purpose": "p", "legal_basis": "l", "valid_from": "2026-01-01T00:00:00+02:00",
            "history": {"since": "2026-02-01T00:00:00+02:00"}, "schema_version": 1, "rows": "true",
            "fields": {"a": "keep", "b": {"mask": {"keep": 4}}}
        });
        change(&mut json);
        serde_json::from_value(json)
    }

    #[test]
    fn dates_carry_their_offset_and_bound_the_agreement() {
        let agreement = body(|_| {}).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(agreement.validate(), Ok(()));
        let start: Timestamp = "2025-12-31T22:00:00Z".parse().unwrap_or_else(|e| panic!("{e}"));
        assert!(agreement.is_valid_at(start.into()));
        assert!(!agreement.is_valid_at(Millis::from(start).plus(-1)));
        assert!(body(|j| j["valid_from"] = "2026-01-01T00:00:00".into()).is_err(), "a date without a zone");
    }

    #[test]
    fn unknown_keys_and_impossible_bodies_are_refused() {
        assert!(body(|j| j["rowz"] = "true".into()).is_err());
        let check = |change: fn(&mut serde_json::Value)| body(change).map(|a| a.validate());
        assert!(matches!(check(|j| j["version"] = 0.into()), Ok(Err(AgreementError::VersionZero(_)))));
        assert!(matches!(
            check(|j| j["fields"] = serde_json::json!({})),
            Ok(Err(AgreementError::NoFields(_)))
        ));
        assert!(matches!(check(|j| j["purpose"] = " ".into()), Ok(Err(AgreementError::NoPurpose(_)))));
        let ends_first = |j: &mut serde_json::Value| j["valid_to"] = "2025-01-01T00:00:00Z".into();
        assert!(matches!(check(ends_first), Ok(Err(AgreementError::NeverValid(_)))));
    }
}
