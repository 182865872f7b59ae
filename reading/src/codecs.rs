//! The port to the schemas of a log's values.
//!
//! Owns only the port. A router asks its registry.

use std::sync::Arc;

use async_trait::async_trait;
use schemas::avro::schema::SchemaError;
use schemas::change::ChangeCodec;
use schemas::ids::SchemaId;

/// Why there is no codec for a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The registered schema is not a block's.
    #[error("schema {0} is not an array of change envelopes: {1}")]
    NotABlock(SchemaId, SchemaError),
    /// The source of schemas has stopped.
    #[error("the control reader has stopped")]
    Stopped,
}

/// Codecs of registered schemas.
#[async_trait]
pub trait Codecs: Send + Sync + 'static {
    /// The codec of a schema. Waits for a schema that is not known yet: its records are never parked.
    async fn codec(&self, schema: SchemaId) -> Result<Arc<ChangeCodec>, CodecError>;
}
