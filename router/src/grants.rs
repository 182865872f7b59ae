//! The scopes of one stream: its agreement version compiled against each schema of its records.
//!
//! Owns which schema is older, the same, or newer than the one the agreement was written against.

use std::collections::HashMap;
use std::sync::Arc;

use schemas::agreement::Agreement;
use schemas::avro::schema::{AvroSchema, SchemaError};
use schemas::change::ChangeCodec;
use schemas::ids::{AgreementVersion, ChannelName, SchemaId, SchemaVersion};
use scope::compile::{Age, CompileError, Terms};
use scope::scope::Scope;
use scope::secret::NetworkSecret;

use crate::control::view::{ChannelEntry, ControlView};

/// Why an agreement gives no stream.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The agreement's schema version is not registered.
    #[error("the agreement was written against schema version {0}, which channel {1} does not have")]
    NoSuchVersion(SchemaVersion, String),
    /// The registered schema is not usable.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The agreement cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// An agreement's scopes by schema.
pub struct Grant {
    agreement: Arc<Agreement>,
    entry: Arc<ChannelEntry>,
    secret: Arc<NetworkSecret>,
    agreed: AvroSchema,
    derived: AvroSchema,
    by_schema: HashMap<SchemaId, Arc<Scope>>,
}

impl Grant {
    /// Compiles against the agreement's own schema; others follow with their first record.
    pub fn new(
        view: &ControlView,
        entry: Arc<ChannelEntry>,
        agreement: Arc<Agreement>,
        secret: Arc<NetworkSecret>,
    ) -> Result<Self, GrantError> {
        let version = agreement.schema_version;
        let subject = entry.channel.registry_subject();
        let missing = || GrantError::NoSuchVersion(version, entry.channel.name.to_string());
        let index = usize::try_from(version.get()).ok().and_then(|v| v.checked_sub(1)).ok_or_else(missing)?;
        let versions = view.versions(&subject);
        let registered = versions.get(index).ok_or_else(missing)?;
        let agreed = ChangeCodec::from_block_schema(registered.schema.text())?.subject().clone();
        let terms = Terms {
            agreed: &agreed,
            writer: &agreed,
            age: Age::Same,
            key: &entry.channel.key,
            secret: &secret,
        };
        let scope = Arc::new(Scope::compile(&agreement, &terms)?);
        let derived = scope.derived().clone();
        let by_schema = HashMap::from([(registered.id, scope)]);
        Ok(Self { agreement, entry, secret, agreed, derived, by_schema })
    }

    pub fn channel(&self) -> &ChannelName {
        &self.entry.channel.name
    }

    /// The schema of everything that this stream gives.
    pub const fn derived(&self) -> &AvroSchema {
        &self.derived
    }

    pub fn version(&self) -> AgreementVersion {
        self.agreement.version
    }

    /// The channel's newest schema with its scope. None where the agreement has no scope for it: its first record tells
    /// the stream why.
    pub fn newest(&mut self, view: &ControlView) -> Option<(SchemaId, Arc<Scope>)> {
        let newest = view.versions(&self.entry.channel.registry_subject()).pop()?;
        if let Some(scope) = self.by_schema.get(&newest.id) {
            return Some((newest.id, Arc::clone(scope)));
        }
        let codec = ChangeCodec::from_block_schema(newest.schema.text()).ok()?;
        Some((newest.id, self.scope(view, newest.id, &codec).ok()?))
    }

    /// The scope for records of a schema.
    pub fn scope(
        &mut self,
        view: &ControlView,
        id: SchemaId,
        codec: &ChangeCodec,
    ) -> Result<Arc<Scope>, GrantError> {
        if let Some(scope) = self.by_schema.get(&id) {
            return Ok(Arc::clone(scope));
        }
        let subject = self.entry.channel.registry_subject();
        let version = view.version_of(&subject, id);
        // A schema that the view lacks was registered after all schemas in the view.
        let age = match version.map(|version| version.cmp(&self.agreement.schema_version)) {
            Some(std::cmp::Ordering::Less) => Age::Older,
            Some(std::cmp::Ordering::Equal) => Age::Same,
            Some(std::cmp::Ordering::Greater) | None => Age::Newer,
        };
        let terms = Terms {
            agreed: &self.agreed,
            writer: codec.subject(),
            age,
            key: &self.entry.channel.key,
            secret: &self.secret,
        };
        let scope = Arc::new(Scope::compile(&self.agreement, &terms)?);
        self.by_schema.insert(id, Arc::clone(&scope));
        Ok(scope)
    }
}
