//! Schemas and their ids: a view of control, perhaps with an external registry behind it.
//!
//! Owns registration under a compatibility level and the codecs of registered envelopes. An external registry, if there
//! is one, assigns the ids; control keeps them. The REST interface, with Confluent's paths and codes, is in `http/`.

pub mod codecs;
pub mod external;

use schemas::avro::compatibility::{self, Incompatible};
use schemas::avro::schema::{AvroSchema, SchemaError};
use schemas::change::ChangeCodec;
use schemas::channel::Channel;
use schemas::ids::SchemaId;

use crate::control::change::Body;
use crate::control::service::{Control, ControlError};
use crate::control::view::ControlView;
use external::{External, ExternalError};

/// Why a schema was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Not a usable schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// It cannot follow the versions before it.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    #[error(transparent)]
    External(#[from] ExternalError),
    /// Control did not take it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It was registered meanwhile.
    #[error("the schema is registered already as {0}")]
    Known(SchemaId),
}

/// Schemas and their ids; clones share it.
#[derive(Clone)]
pub struct Registry {
    control: Control,
    external: Option<External>,
}

impl Registry {
    /// Over control, with an external registry behind it if there is one.
    pub const fn new(control: Control, external: Option<External>) -> Self {
        Self { control, external }
    }

    /// The control that it is a view of.
    pub const fn control(&self) -> &Control {
        &self.control
    }

    pub const fn external(&self) -> Option<&External> {
        self.external.as_ref()
    }

    /// Why an unknown schema cannot be registered now.
    pub async fn fault(&self) -> Option<String> {
        match &self.external {
            Some(external) => external.fault().await,
            None => None,
        }
    }

    /// Registers a schema under a subject, or finds it; returns its id.
    pub async fn register(
        &self,
        by: &str,
        subject: &str,
        schema: &AvroSchema,
    ) -> Result<SchemaId, RegisterError> {
        // Each batch comes here: a known schema asks neither control nor an external registry.
        if let Some(known) = self.control.view().find_schema(subject, schema) {
            return Ok(known);
        }
        let mut id = None;
        if let Some(external) = &self.external {
            // An incompatible schema is not offered.
            judge(&self.control.view(), subject, schema)?;
            id = Some(external.register(subject, schema).await?);
        }
        let outcome = self.control.change_with(by, |view| {
            judge(view, subject, schema)?;
            Ok(Body::Schema { subject: subject.to_owned(), schema: schema.json().clone(), id })
        });
        match outcome.await {
            Ok(()) => {
                let found = self.control.view().find_schema(subject, schema);
                found.ok_or(RegisterError::Control(ControlError::Stopped))
            }
            Err(RegisterError::Known(id)) => Ok(id),
            Err(error) => Err(error),
        }
    }

    /// Registers the block schema around a channel's subject schema; returns its id.
    pub async fn register_subject(
        &self,
        by: &str,
        channel: &Channel,
        subject_schema: &serde_json::Value,
    ) -> Result<SchemaId, RegisterError> {
        let subject = AvroSchema::from_json(subject_schema.clone())?;
        let codec = ChangeCodec::new(&subject)?;
        self.register(by, &channel.registry_subject(), codec.block_schema()).await
    }
}

fn judge(view: &ControlView, subject: &str, schema: &AvroSchema) -> Result<(), RegisterError> {
    if let Some(id) = view.find_schema(subject, schema) {
        return Err(RegisterError::Known(id));
    }
    let earlier: Vec<AvroSchema> =
        view.versions(subject).into_iter().map(|registered| registered.schema.clone()).collect();
    Ok(compatibility::judge(view.level(subject), &earlier, schema)?)
}
