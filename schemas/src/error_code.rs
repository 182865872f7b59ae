//! Public error codes: what went wrong, in a word that a program can act on.
//!
//! Owns the alphabetical list and, for each code, its HTTP status, whether a retry can help, and whether the
//! request may have had an effect. A code, once published, keeps its meaning.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The agreement was revoked or has expired: it gives nothing more, and what it gave must be purged.
    AgreementEnded,
    /// The agreement is not in force now: suspended, or not begun.
    AgreementNotActive,
    /// The append may or may not appear in the log; ask for the positions or send again.
    AppendUnknown,
    /// The body is not a container file of the expected form.
    BatchMalformed,
    /// More records or bytes than one batch may have.
    BatchTooLarge,
    /// The certificate names no participant of this network.
    CertificateForeign,
    /// The named channel does not exist.
    ChannelUnknown,
    /// The change names a version that is no longer current.
    ControlConflict,
    /// The cursor belongs to another channel, or to a log that was removed.
    CursorForeign,
    /// The cursor cannot be read.
    CursorMalformed,
    /// The cursor is older than the first checkpoint still held; start over from the state.
    CursorTooOld,
    /// A datum does not follow its schema.
    DatumMalformed,
    /// An event or a block is larger than it may be.
    EventTooLarge,
    /// The agreement does not give so much of the past.
    HistoryDenied,
    /// Something broke on our side; the log names it.
    Internal,
    /// A key is missing, too long, or not the one that the datum gives.
    KeyMismatch,
    /// The topic is not the one that the channel was created with.
    LostTopic,
    /// The caller may not do this.
    NotPermitted,
    /// The log is not the cursor's, and does not hold the whole register yet: the consumer keeps its rows.
    RegisterIncomplete,
    /// The request cannot be read.
    RequestMalformed,
    /// The request's body took too long to arrive.
    RequestSlow,
    /// The participant sends more requests, or holds more connections, than it may.
    RequestsTooMany,
    /// There is no such path, or it does not take this method.
    RouteUnknown,
    /// The schema cannot replace the one before it.
    SchemaIncompatible,
    /// A schema is not valid Avro, or is past a limit.
    SchemaInvalid,
    /// A field that the agreement names is missing or has another type.
    SchemaMismatch,
    /// No such schema id, subject or version.
    SchemaUnknown,
    /// The process is stopping; another router will answer.
    ShuttingDown,
    /// The state was left behind by the log's retention; the provider must reopen.
    StateOvertaken,
    /// The agreement has as many streams open as it may.
    StreamsTooMany,
    /// The log or a disk cannot take more now.
    Unavailable,
}

impl ErrorCode {
    /// Every code, in alphabetical order.
    pub const ALL: [Self; 31] = [
        Self::AgreementEnded,
        Self::AgreementNotActive,
        Self::AppendUnknown,
        Self::BatchMalformed,
        Self::BatchTooLarge,
        Self::CertificateForeign,
        Self::ChannelUnknown,
        Self::ControlConflict,
        Self::CursorForeign,
        Self::CursorMalformed,
        Self::CursorTooOld,
        Self::DatumMalformed,
        Self::EventTooLarge,
        Self::HistoryDenied,
        Self::Internal,
        Self::KeyMismatch,
        Self::LostTopic,
        Self::NotPermitted,
        Self::RegisterIncomplete,
        Self::RequestMalformed,
        Self::RequestSlow,
        Self::RequestsTooMany,
        Self::RouteUnknown,
        Self::SchemaIncompatible,
        Self::SchemaInvalid,
        Self::SchemaMismatch,
        Self::SchemaUnknown,
        Self::ShuttingDown,
        Self::StateOvertaken,
        Self::StreamsTooMany,
        Self::Unavailable,
    ];

    /// The HTTP status that carries it.
    pub const fn status(self) -> u16 {
        match self {
            Self::BatchMalformed
            | Self::CursorMalformed
            | Self::DatumMalformed
            | Self::KeyMismatch
            | Self::RequestMalformed => 400,
            Self::AgreementEnded
            | Self::AgreementNotActive
            | Self::CertificateForeign
            | Self::HistoryDenied
            | Self::NotPermitted => 403,
            Self::ChannelUnknown | Self::RouteUnknown | Self::SchemaUnknown => 404,
            Self::RequestSlow => 408,
            Self::ControlConflict | Self::CursorForeign | Self::SchemaIncompatible | Self::SchemaMismatch => {
                409
            }
            Self::CursorTooOld => 410,
            Self::BatchTooLarge | Self::EventTooLarge => 413,
            Self::SchemaInvalid => 422,
            Self::RequestsTooMany | Self::StreamsTooMany => 429,
            Self::Internal => 500,
            Self::AppendUnknown
            | Self::LostTopic
            | Self::RegisterIncomplete
            | Self::ShuttingDown
            | Self::StateOvertaken
            | Self::Unavailable => 503,
        }
    }

    /// Whether the same request can succeed later without an action by a person.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::AppendUnknown
                | Self::Internal
                | Self::RegisterIncomplete
                | Self::RequestSlow
                | Self::RequestsTooMany
                | Self::ShuttingDown
                | Self::StreamsTooMany
                | Self::Unavailable
        )
    }

    /// Whether the refused request may nevertheless have had an effect.
    pub const fn has_side_effects(self) -> bool {
        matches!(self, Self::AppendUnknown | Self::Internal)
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgreementEnded => "agreement_ended",
            Self::AgreementNotActive => "agreement_not_active",
            Self::AppendUnknown => "append_unknown",
            Self::BatchMalformed => "batch_malformed",
            Self::BatchTooLarge => "batch_too_large",
            Self::CertificateForeign => "certificate_foreign",
            Self::ChannelUnknown => "channel_unknown",
            Self::ControlConflict => "control_conflict",
            Self::CursorForeign => "cursor_foreign",
            Self::CursorMalformed => "cursor_malformed",
            Self::CursorTooOld => "cursor_too_old",
            Self::DatumMalformed => "datum_malformed",
            Self::EventTooLarge => "event_too_large",
            Self::HistoryDenied => "history_denied",
            Self::Internal => "internal",
            Self::KeyMismatch => "key_mismatch",
            Self::LostTopic => "lost_topic",
            Self::NotPermitted => "not_permitted",
            Self::RegisterIncomplete => "register_incomplete",
            Self::RequestMalformed => "request_malformed",
            Self::RequestSlow => "request_slow",
            Self::RequestsTooMany => "requests_too_many",
            Self::RouteUnknown => "route_unknown",
            Self::SchemaIncompatible => "schema_incompatible",
            Self::SchemaInvalid => "schema_invalid",
            Self::SchemaMismatch => "schema_mismatch",
            Self::SchemaUnknown => "schema_unknown",
            Self::ShuttingDown => "shutting_down",
            Self::StateOvertaken => "state_overtaken",
            Self::StreamsTooMany => "streams_too_many",
            Self::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of a refusal: problem+json (RFC 9457) with our code as an extension member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:dit:error:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: u16,
    pub code: ErrorCode,
    /// What went wrong and what to do about it, for a person.
    pub detail: String,
}

impl Problem {
    /// The problem of a code, with its detail.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { kind: format!("urn:dit:error:{code}"), status: code.status(), code, detail: detail.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_what_serde_writes() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).ok(), Some(serde_json::Value::from(code.as_str())));
        }
    }

    #[test]
    fn the_list_is_alphabetical() {
        assert!(ErrorCode::ALL.windows(2).all(|pair| matches!(pair, [a, b] if a.as_str() < b.as_str())));
    }

    #[test]
    fn a_code_without_effect_is_never_a_server_fault_that_hides_one() {
        for code in ErrorCode::ALL {
            assert!(!code.has_side_effects() || code.status() >= 500, "{code}");
        }
    }
}
