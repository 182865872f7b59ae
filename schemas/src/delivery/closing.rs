//! How a stream ends: why, and what its consumer does next.

use serde::{Deserialize, Serialize};

use crate::error_code::ErrorCode;

/// What follows a closed stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Connect again with the cursor.
    Continue,
    /// Connect again from the state.
    Resync,
    /// Do not connect again: the agreement gives nothing now.
    Stop,
}

impl Next {
    pub(super) const ALL: [Self; 3] = [Self::Continue, Self::Resync, Self::Stop];

    pub(super) const fn index(self) -> i64 {
        match self {
            Self::Continue => 0,
            Self::Resync => 1,
            Self::Stop => 2,
        }
    }
}

/// Why a stream was closed by the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The agreement was revoked: purge duty.
    Revoked,
    /// The agreement is suspended.
    Suspended,
    /// The agreement is past its last day.
    Expired,
    /// The agreement has another version.
    Amended,
    /// A newer schema loses or retypes a field that the agreement names.
    SchemaMismatch,
    /// The provider's images did not fit the state.
    Resync,
    /// What the reader needs was removed before it came.
    Overtaken,
    /// The router is stopping.
    Draining,
    /// Something broke at the router; its log says what.
    Internal,
}

impl CloseReason {
    pub(super) const ALL: [Self; 9] = [
        Self::Revoked,
        Self::Suspended,
        Self::Expired,
        Self::Amended,
        Self::SchemaMismatch,
        Self::Resync,
        Self::Overtaken,
        Self::Draining,
        Self::Internal,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::Amended => "amended",
            Self::SchemaMismatch => "schema_mismatch",
            Self::Resync => "resync",
            Self::Overtaken => "overtaken",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    /// What the consumer does then.
    pub const fn next(self) -> Next {
        match self {
            Self::Revoked | Self::Suspended | Self::Expired | Self::SchemaMismatch => Next::Stop,
            Self::Amended | Self::Resync | Self::Overtaken => Next::Resync,
            Self::Draining | Self::Internal => Next::Continue,
        }
    }

    /// The error code that would refuse a new connection; `None` where a new connection is possible.
    pub const fn code(self) -> Option<ErrorCode> {
        match self {
            Self::Revoked | Self::Expired => Some(ErrorCode::AgreementEnded),
            Self::Suspended => Some(ErrorCode::AgreementNotActive),
            Self::SchemaMismatch => Some(ErrorCode::SchemaMismatch),
            _ => None,
        }
    }
}
