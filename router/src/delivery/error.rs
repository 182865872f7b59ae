//! Why a stream, a reading or a shadow cannot be opened.
//!
//! Owns the causes of each operation. It knows no codes: the routes give each cause its code.

use event_log::TopicError;
use schemas::avro::schema::SchemaError;
use schemas::delivery::CloseReason;
use schemas::ids::{AgreementNumber, ChannelName, ParticipantId};
use schemas::time::Millis;

use super::admissions::TooManyStreams;
use super::start::StartPositionError;
use crate::audit::service::AuditError;
use crate::channels::{NotAtWork, READINGS_AT_ONCE};
use crate::grants::GrantError;
use crate::ingest::error::PublishError;
use crate::state::bootstrap::BootstrapError;

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such agreement, or it is another's.
    #[error("{participant} has no agreement {number}")]
    NoAgreement { participant: ParticipantId, number: AgreementNumber },
    /// The agreement is not in force any more.
    #[error("agreement {number} is {}: {detail}", reason.as_str())]
    Ended {
        number: AgreementNumber,
        reason: CloseReason,
        /// For people.
        detail: String,
    },
    /// The agreement is not in force yet.
    #[error("agreement {number} is in force only from {from}")]
    NotYet { number: AgreementNumber, from: Millis },
    /// This router has not read all of control.
    #[error(transparent)]
    Control(#[from] TopicError),
    #[error(transparent)]
    NotAtWork(#[from] NotAtWork),
    #[error(transparent)]
    TooMany(#[from] TooManyStreams),
    /// The agreement gives no stream.
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Start(#[from] StartPositionError),
    /// The schema of the deliveries.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The derived schema has a field that the agreement does not name.
    #[error("the agreement does not name field {0:?}")]
    Unnamed(String),
    /// Nothing is sent without an admission in the audit.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// No marker for the stream's blocks.
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}

/// Why an owner cannot read its channel's state.
#[derive(Debug, thiserror::Error)]
pub enum OwnStateError {
    /// The channel is not the caller's, or not at work.
    #[error(transparent)]
    Channel(#[from] PublishError),
    /// It is being read already.
    #[error(
        "the owner already reads channel {0} {READINGS_AT_ONCE} times at once; try again when one reading has ended"
    )]
    TooMany(ChannelName),
    /// Nothing was ever registered for it.
    #[error("the channel has no schema")]
    NoSchema,
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// No marker for the file's blocks.
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}
