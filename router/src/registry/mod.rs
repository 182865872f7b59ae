//! The router's own small schema registry, a view of control.
//!
//! Owns registration under a compatibility level and the codecs of registered envelopes. Its REST face, with
//! Confluent's paths and codes, is in `http/`.

pub mod codecs;

use schemas::avro::compatibility::{self, Incompatible};
use schemas::avro::schema::{AvroSchema, SchemaError};
use schemas::change::ChangeCodec;
use schemas::channel::Channel;
use schemas::ids::SchemaId;

use crate::control::change::Body;
use crate::control::service::{Control, ControlError};

/// Why a schema was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Not a schema for us.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// It cannot follow the versions before it.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// Control did not take it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It is there already; seen while registering.
    #[error("the schema is registered already as {0}")]
    Known(SchemaId),
}

/// Registers a schema under a subject, or finds it there; its id.
pub async fn register(
    control: &Control,
    by: &str,
    subject: &str,
    schema: &AvroSchema,
) -> Result<SchemaId, RegisterError> {
    let outcome = control
        .change_with(by, |view| {
            if let Some(id) = view.find_schema(subject, schema) {
                return Err(RegisterError::Known(id));
            }
            let earlier: Vec<AvroSchema> =
                view.versions(subject).into_iter().map(|registered| registered.schema.clone()).collect();
            compatibility::judge(view.level(subject), &earlier, schema)?;
            Ok(Body::Schema { subject: subject.to_owned(), schema: schema.json().clone() })
        })
        .await;
    match outcome {
        Ok(()) => {
            control.view().find_schema(subject, schema).ok_or(RegisterError::Control(ControlError::Stopped))
        }
        Err(RegisterError::Known(id)) => Ok(id),
        Err(error) => Err(error),
    }
}

/// Registers the envelope around a channel's subject schema; its id.
pub async fn register_subject(
    control: &Control,
    by: &str,
    channel: &Channel,
    subject_schema: &serde_json::Value,
) -> Result<SchemaId, RegisterError> {
    let subject = AvroSchema::from_json(subject_schema.clone())?;
    let codec = ChangeCodec::new(&subject)?;
    register(control, by, &channel.registry_subject(), codec.envelope()).await
}
