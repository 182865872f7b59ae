//! The codecs of registered envelopes, parsed once and shared.
//!
//! Owns the cache and the wait for a schema that the registry does not have yet: an unknown id is waited for,
//! never parked.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use platform::retry::Retry;
use reading::codecs::{CodecError, Codecs};
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::ids::SchemaId;

use super::Registry;

/// A shared cache of codecs.
pub struct RegistryCodecs {
    registry: Registry,
    known: RwLock<HashMap<SchemaId, Arc<ChangeCodec>>>,
}

#[async_trait]
impl Codecs for RegistryCodecs {
    async fn codec(&self, id: SchemaId) -> Result<Arc<ChangeCodec>, CodecError> {
        if let Some(codec) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(codec));
        }
        let mut view = self.registry.control().watch();
        if !view.borrow().schemas.contains_key(&id) {
            tracing::warn!(schema = %id, "a record names a schema that the registry does not have yet; its partition waits");
        }
        let schema = tokio::select! {
            biased;
            found = view.wait_for(|view| view.schemas.contains_key(&id)) => {
                let found = found.map_err(|_| CodecError::Stopped)?;
                found.schemas.get(&id).map(|registered| registered.schema.clone()).ok_or(CodecError::Stopped)?
            }
            schema = self.external_schema(id) => schema,
        };
        let codec = ChangeCodec::from_block_schema(schema.text())
            .map_err(|error| CodecError::NotABlock(id, error))?;
        let codec = Arc::new(codec);
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&codec));
        Ok(codec)
    }
}

impl RegistryCodecs {
    /// Over a router's registry.
    pub fn new(registry: Registry) -> Self {
        Self { registry, known: RwLock::default() }
    }

    /// An external registry's schema for an id that control does not know; waits until there is one.
    async fn external_schema(&self, id: SchemaId) -> AvroSchema {
        let Some(external) = self.registry.external() else { return std::future::pending().await };
        let mut retry = Retry::default();
        loop {
            match external.get(id).await {
                Ok(Some(schema)) => return schema,
                Ok(None) => {}
                Err(error) => tracing::warn!(schema = %id, %error, "the schema is asked for again"),
            }
            tokio::time::sleep(retry.next_wait()).await;
        }
    }
}
