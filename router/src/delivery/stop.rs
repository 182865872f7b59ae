//! Why a stream's pump ends, and which closing record each error asks for.

use reading::error::ReaderError;
use schemas::delivery::CloseReason;

use super::encode::Unwritable;
use super::gate::Closed;
use super::reconcile::ReconcileError;
use crate::grants::GrantError;
use crate::state::bootstrap::BootstrapError;

/// Why a pump ends.
pub(super) enum Stop {
    /// The connection has ended.
    Gone,
    /// A closing record is due.
    Close(Closed),
}

pub(super) fn close(reason: CloseReason, detail: impl Into<String>) -> Stop {
    Stop::Close(Closed { reason, detail: detail.into() })
}

impl From<ReaderError> for Stop {
    fn from(error: ReaderError) -> Self {
        match error {
            ReaderError::TooOld { .. } => close(CloseReason::Overtaken, error.to_string()),
            other => close(CloseReason::Internal, other.to_string()),
        }
    }
}

impl From<BootstrapError> for Stop {
    fn from(error: BootstrapError) -> Self {
        match error {
            BootstrapError::Overtaken => close(CloseReason::Overtaken, error.to_string()),
            other => close(CloseReason::Internal, other.to_string()),
        }
    }
}

impl From<ReconcileError> for Stop {
    fn from(error: ReconcileError) -> Self {
        match error {
            ReconcileError::Bootstrap(error) => error.into(),
            ReconcileError::Reader(error) => error.into(),
            ReconcileError::Grant(error) => error.into(),
            ReconcileError::TooMany => close(CloseReason::Resync, error.to_string()),
            ReconcileError::Row(_) | ReconcileError::Stopped => {
                close(CloseReason::Internal, error.to_string())
            }
        }
    }
}

impl From<Unwritable> for Stop {
    fn from(error: Unwritable) -> Self {
        close(CloseReason::Internal, error.to_string())
    }
}

impl From<GrantError> for Stop {
    fn from(error: GrantError) -> Self {
        match &error {
            GrantError::Compile(compile) if compile.is_schema_mismatch() => {
                close(CloseReason::SchemaMismatch, error.to_string())
            }
            _ => close(CloseReason::Internal, error.to_string()),
        }
    }
}
