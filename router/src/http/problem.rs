//! Errors as answers: the one place where a cause becomes a code and a status.
//!
//! Owns the mapping, exhaustively. Internal causes stay in the log; the answer says what the caller can do.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use event_log::AppendError;
use http::{HeaderValue, StatusCode, header};
use reading::error::ReaderError;
use schemas::error_code::{ErrorCode, Problem};
use schemas::reconcile::ReconcileQueryError;

use crate::audit::service::AuditError;
use crate::control::service::ControlError;
use crate::control::view::Refusal;
use crate::declarations::DeclaredError;
use crate::delivery::error::{OpenError, OwnStateError};
use crate::delivery::shadow::ShadowError;
use crate::delivery::start::StartPositionError;
use crate::grants::GrantError;
use crate::ingest::batch::BatchError;
use crate::ingest::error::PublishError;
use crate::lease::service::NotSettled;
use crate::registry::RegisterError;
use crate::registry::external::ExternalError;
use crate::state::bootstrap::BootstrapError;

/// The framework's text that an answer may carry.
const MAX_DETAIL_BYTES: usize = 4_096;

/// When a caller that asks too often may ask again.
pub(super) const COME_AGAIN: Duration = Duration::from_secs(1);

/// A refusal as an answer.
#[derive(Debug)]
pub struct Refused(pub Problem);

impl Refused {
    /// A refusal with a code and words.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self(Problem::new(code, detail))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self.0.code {
            ErrorCode::Internal => tracing::error!(detail = %self.0.detail, "a request failed on our side"),
            // The caller tries again; the reason is for this router's operator.
            ErrorCode::Unavailable => tracing::warn!(detail = %self.0.detail, "cannot serve a request now"),
            code => tracing::debug!(%code, detail = %self.0.detail, "refused"),
        }
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let later = (status == StatusCode::TOO_MANY_REQUESTS)
            .then(|| [(header::RETRY_AFTER, HeaderValue::from(COME_AGAIN.as_secs()))]);
        let code = self.0.code;
        let answer = (status, kind, Extension(code), Json(self.0)).into_response();
        match later {
            Some(later) => (later, answer).into_response(),
            None => answer,
        }
    }
}

/// Answers an unknown path.
pub async fn unknown_route() -> Refused {
    Refused::new(ErrorCode::RouteUnknown, "there is no such path here, or it does not take this method")
}

/// Gives the framework's own refusals (a body that is no JSON, an unknown key, a parameter that is missing, too many
/// bytes) the form of all other refusals.
pub async fn in_our_words(response: Response) -> Response {
    let is_text = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !response.status().is_client_error() || !is_text {
        return response;
    }
    let code = match response.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::BatchTooLarge,
        _ => ErrorCode::RequestMalformed,
    };
    let text = axum::body::to_bytes(response.into_body(), MAX_DETAIL_BYTES).await.unwrap_or_default();
    Refused::new(code, String::from_utf8_lossy(&text)).into_response()
}

fn append_code(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::TooLarge { .. } => ErrorCode::EventTooLarge,
        AppendError::Refused(_) => ErrorCode::Unavailable,
        AppendError::Unknown(_) => ErrorCode::AppendUnknown,
    }
}

fn control_code(error: &ControlError) -> ErrorCode {
    match error {
        ControlError::Refused(Refusal::Conflict { .. }) => ErrorCode::ControlConflict,
        ControlError::Refused(Refusal::Rule(_)) => ErrorCode::RequestMalformed,
        ControlError::Append(error) => append_code(error),
        ControlError::Stopped => ErrorCode::ShuttingDown,
    }
}

fn register_code(error: &RegisterError) -> ErrorCode {
    match error {
        RegisterError::Schema(_) => ErrorCode::SchemaInvalid,
        RegisterError::Incompatible(_) => ErrorCode::SchemaIncompatible,
        RegisterError::Control(error) => control_code(error),
        RegisterError::External(ExternalError::Refused(_)) => ErrorCode::SchemaIncompatible,
        RegisterError::External(ExternalError::Unavailable(_) | ExternalError::Password(_)) => {
            ErrorCode::Unavailable
        }
        RegisterError::Known(_) => ErrorCode::Internal,
    }
}

fn batch_code(error: &BatchError) -> ErrorCode {
    match error {
        BatchError::TooLarge { .. } => ErrorCode::BatchTooLarge,
        BatchError::Container(_) | BatchError::Metadata(_) => ErrorCode::BatchMalformed,
        BatchError::Schema(_) => ErrorCode::SchemaInvalid,
        BatchError::Key(_) | BatchError::Partition { .. } => ErrorCode::KeyMismatch,
        BatchError::Change { error, .. } => match error {
            schemas::change::ChangeError::Datum(_) | schemas::change::ChangeError::Images { .. } => {
                ErrorCode::DatumMalformed
            }
            schemas::change::ChangeError::NoKey(_) | schemas::change::ChangeError::KeyMismatch(_) => {
                ErrorCode::KeyMismatch
            }
        },
        BatchError::EventTooLarge { .. } | BatchError::BlockTooLarge { .. } => ErrorCode::EventTooLarge,
    }
}

fn reader_code(error: &ReaderError) -> ErrorCode {
    match error {
        ReaderError::LostTopic { .. } => ErrorCode::LostTopic,
        ReaderError::TooOld { .. } => ErrorCode::CursorTooOld,
        ReaderError::Topic(_) => ErrorCode::Unavailable,
        ReaderError::Codec(_) | ReaderError::Frame(_) => ErrorCode::Internal,
    }
}

fn bootstrap_code(error: &BootstrapError) -> ErrorCode {
    match error {
        BootstrapError::Overtaken => ErrorCode::CursorTooOld,
        BootstrapError::StateOvertaken { .. } => ErrorCode::StateOvertaken,
        BootstrapError::Reader(error) => reader_code(error),
        BootstrapError::Read(_) => ErrorCode::Unavailable,
    }
}

fn publish_code(error: &PublishError) -> ErrorCode {
    match error {
        PublishError::ChannelUnknown(_) | PublishError::PartitionUnknown(..) => ErrorCode::ChannelUnknown,
        PublishError::NotAtWork(_) => ErrorCode::Unavailable,
        PublishError::NotOwner { .. } | PublishError::Collection(_) => ErrorCode::NotPermitted,
        PublishError::Batch(error) => batch_code(error),
        PublishError::Register(error) => register_code(error),
        PublishError::Append(error) => append_code(error),
        PublishError::Lost(_) => ErrorCode::LostTopic,
        PublishError::NotReadBack(_) => ErrorCode::AppendUnknown,
    }
}

fn start_code(error: &StartPositionError) -> ErrorCode {
    match error {
        StartPositionError::Unreadable(_) | StartPositionError::ReconcileWithoutCursor => {
            ErrorCode::RequestMalformed
        }
        StartPositionError::Cursor(_) => ErrorCode::CursorMalformed,
        StartPositionError::Foreign { .. }
        | StartPositionError::OtherVersion(..)
        | StartPositionError::Unsealed => ErrorCode::CursorForeign,
        StartPositionError::Incomplete { .. } => ErrorCode::RegisterIncomplete,
        StartPositionError::History(_) | StartPositionError::BeforeHistory(_) => ErrorCode::HistoryDenied,
        StartPositionError::TooOld(_) => ErrorCode::CursorTooOld,
        StartPositionError::Lost(_) => ErrorCode::LostTopic,
        StartPositionError::Reader(error) => reader_code(error),
        StartPositionError::Bootstrap(error) => bootstrap_code(error),
        StartPositionError::Random(_) => ErrorCode::Internal,
    }
}

fn grant_code(error: &GrantError) -> ErrorCode {
    match error {
        GrantError::NoSuchVersion(..) => ErrorCode::SchemaUnknown,
        GrantError::Schema(_) => ErrorCode::SchemaInvalid,
        GrantError::Compile(error) if error.is_schema_mismatch() => ErrorCode::SchemaMismatch,
        GrantError::Compile(_) => ErrorCode::RequestMalformed,
    }
}

fn audit_code(error: &AuditError) -> ErrorCode {
    match error {
        AuditError::Stopped => ErrorCode::ShuttingDown,
        AuditError::Late => ErrorCode::Unavailable,
    }
}

macro_rules! refused_from {
    ($($error:ty => $code:expr;)*) => {
        $(impl From<$error> for Refused {
            fn from(error: $error) -> Self {
                let code: fn(&$error) -> ErrorCode = $code;
                Self::new(code(&error), error.to_string())
            }
        })*
    };
}

refused_from! {
    ControlError => control_code;
    RegisterError => register_code;
    PublishError => publish_code;
    ReconcileQueryError => |_| ErrorCode::RequestMalformed;
    StartPositionError => start_code;
    GrantError => grant_code;
    ShadowError => |error| match error {
        ShadowError::Reader(error) => reader_code(error),
        ShadowError::Grant(error) => grant_code(error),
        ShadowError::NoChannel(_) => ErrorCode::ChannelUnknown,
        ShadowError::Start(error) => start_code(error),
        ShadowError::NotTheLog => ErrorCode::RequestMalformed,
        ShadowError::Audit(error) => audit_code(error),
    };
    OpenError => |error| match error {
        OpenError::NoAgreement { .. } => ErrorCode::NotPermitted,
        OpenError::Ended { reason, .. } => reason.code().unwrap_or(ErrorCode::AgreementNotActive),
        OpenError::NotYet { .. } => ErrorCode::AgreementNotActive,
        OpenError::Control(_) | OpenError::NotAtWork(_) => ErrorCode::Unavailable,
        OpenError::TooMany(_) => ErrorCode::StreamsTooMany,
        OpenError::Grant(error) => grant_code(error),
        OpenError::Start(error) => start_code(error),
        OpenError::Audit(error) => audit_code(error),
        OpenError::Schema(_) | OpenError::Unnamed(_) | OpenError::Random(_) => ErrorCode::Internal,
    };
    OwnStateError => |error| match error {
        OwnStateError::Channel(error) => publish_code(error),
        OwnStateError::TooMany(_) => ErrorCode::StreamsTooMany,
        OwnStateError::Bootstrap(BootstrapError::Reader(error)) => reader_code(error),
        // Its owner asks again.
        OwnStateError::Bootstrap(_) => ErrorCode::Unavailable,
        OwnStateError::NoSchema | OwnStateError::Schema(_) | OwnStateError::Random(_) => ErrorCode::Internal,
    };
    DeclaredError => |error| match error {
        DeclaredError::Config(_) | DeclaredError::Agreement { .. } => ErrorCode::RequestMalformed,
        DeclaredError::Control(error) => control_code(error),
        DeclaredError::Register(error) => register_code(error),
        DeclaredError::Random(_) => ErrorCode::Internal,
    };
    platform::random::NoRandomness => |_| ErrorCode::Internal;
    NotSettled => |_| ErrorCode::Unavailable;
    AuditError => audit_code;
}
