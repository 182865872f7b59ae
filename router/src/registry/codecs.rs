//! The codecs of registered envelopes, parsed once and shared.
//!
//! Owns the cache and the wait for a schema that the registry does not have yet: an unknown id is waited for,
//! never parked.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use schemas::avro::schema::SchemaError;
use schemas::change::ChangeCodec;
use schemas::ids::SchemaId;

use crate::control::service::Control;

/// Why there is no codec for an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The registered schema is not a change envelope.
    #[error("schema {0} is not a change envelope: {1}")]
    NotAnEnvelope(SchemaId, SchemaError),
    /// The control reader has stopped.
    #[error("the control reader has stopped")]
    Stopped,
}

/// A shared cache of codecs.
#[derive(Clone)]
pub struct Codecs {
    control: Control,
    known: Arc<RwLock<HashMap<SchemaId, Arc<ChangeCodec>>>>,
}

impl Codecs {
    /// Over a router's control.
    pub fn new(control: Control) -> Self {
        Self { control, known: Arc::default() }
    }

    /// The codec of an id; waits until the registry has it.
    pub async fn get(&self, id: SchemaId) -> Result<Arc<ChangeCodec>, CodecError> {
        if let Some(codec) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(codec));
        }
        let mut view = self.control.watch();
        if !view.borrow().schemas.contains_key(&id) {
            tracing::warn!(schema = %id, "a record names a schema that the registry does not have yet; its partition waits");
        }
        let found =
            view.wait_for(|view| view.schemas.contains_key(&id)).await.map_err(|_| CodecError::Stopped)?;
        let schema = found.schemas.get(&id).map(|registered| registered.schema.clone());
        drop(found);
        let schema = schema.ok_or(CodecError::Stopped)?;
        let codec = ChangeCodec::from_envelope_schema(schema.text())
            .map_err(|error| CodecError::NotAnEnvelope(id, error))?;
        let codec = Arc::new(codec);
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&codec));
        Ok(codec)
    }
}
