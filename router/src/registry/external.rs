//! An external schema registry, by Confluent's REST interface: it assigns the ids and also judges compatibility.
//!
//! Owns the calls and their errors. Control keeps its answers: it is asked once for each schema, and may be down
//! afterwards.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use platform::retry::Retry;
use schema_registry_converter::async_impl::schema_registry::{SrSettings, get_schema_by_id, post_schema};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use schemas::avro::schema::AvroSchema;
use schemas::ids::SchemaId;
use serde::Deserialize;

/// Attempts at a schema that is refused: others may be registering it right now.
const ATTEMPTS: u32 = 4;
/// How long it may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The `[registry]` table of a router's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryOptions {
    /// Its base URL, such as `http://registry:8080/apis/ccompat/v7`.
    pub url: String,
    /// Name and password, where it asks for them.
    pub username: Option<String>,
    /// A file that holds the password, and nothing else.
    pub password_file: Option<PathBuf>,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExternalError {
    /// It does not take the schema.
    #[error("the schema registry refused it: {0}")]
    Refused(String),
    /// It is down, or answers unexpectedly.
    #[error("the schema registry is not available: {0}")]
    Unavailable(String),
    /// The file of its password cannot be used.
    #[error("registry.password_file: {0}")]
    Password(String),
}

/// An external registry; clones share its connections.
#[derive(Debug, Clone)]
pub struct External {
    settings: SrSettings,
    /// Why the last call had no answer.
    fault: Arc<Mutex<Option<String>>>,
}

impl External {
    /// Makes the client; the first call finds out whether the registry is down.
    pub fn new(options: &RegistryOptions) -> Result<Self, ExternalError> {
        let mut builder = SrSettings::new_builder(options.url.trim_end_matches('/').to_owned());
        builder.set_timeout(ANSWER_LIMIT).no_proxy();
        if let Some(username) = &options.username {
            let read = |file: &PathBuf| {
                platform::closed::password(file).map_err(|error| ExternalError::Password(error.to_string()))
            };
            let password = options.password_file.as_ref().map(read).transpose()?;
            builder.set_basic_authorization(username, password.as_deref());
        }
        Ok(Self { settings: builder.build().map_err(unavailable)?, fault: Arc::default() })
    }

    /// Why a schema waits for it. It is asked again only after a call without an answer: a registry that is not needed
    /// is not asked.
    pub async fn fault(&self) -> Option<String> {
        let fault = self.last_fault();
        if fault.is_some() {
            drop(self.get(SchemaId::new(1)).await);
        }
        self.last_fault()
    }

    fn last_fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn noted<T>(&self, outcome: Result<T, ExternalError>) -> Result<T, ExternalError> {
        let fault = match &outcome {
            Err(ExternalError::Unavailable(why)) => Some(why.clone()),
            Ok(_) | Err(ExternalError::Refused(_) | ExternalError::Password(_)) => None,
        };
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        outcome
    }

    /// Registers a schema, or finds it; returns its id.
    pub async fn register(&self, subject: &str, schema: &AvroSchema) -> Result<SchemaId, ExternalError> {
        let mut retry = Retry::default();
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.register_once(subject, schema).await {
                // If two routers register one schema at once, one is refused; its next call gets the id.
                Err(ExternalError::Refused(_)) if attempts < ATTEMPTS => {
                    tokio::time::sleep(retry.next_wait()).await;
                }
                outcome => return self.noted(outcome),
            }
        }
    }

    async fn register_once(&self, subject: &str, schema: &AvroSchema) -> Result<SchemaId, ExternalError> {
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, schema.text().to_owned());
        let posted = post_schema(&self.settings, subject.to_owned(), supplied).await;
        posted.map(|registered| SchemaId::new(registered.id)).map_err(|error| {
            match ["status 409", "status 422"].iter().any(|status| error.error.contains(status)) {
                true => ExternalError::Refused(in_words(&error)),
                false => unavailable(error),
            }
        })
    }

    /// The schema of an id; `None` when it has none.
    pub async fn get(&self, id: SchemaId) -> Result<Option<AvroSchema>, ExternalError> {
        let outcome = match get_schema_by_id(id.get(), &self.settings).await {
            Ok(found) => AvroSchema::parse(&found.schema)
                .map(Some)
                .map_err(|error| ExternalError::Refused(format!("schema {id}: {error}"))),
            Err(error) if error.error.contains("status 404") => Ok(None),
            Err(error) => Err(unavailable(error)),
        };
        self.noted(outcome)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn unavailable(error: SRCError) -> ExternalError {
    ExternalError::Unavailable(in_words(&error))
}

fn in_words(error: &SRCError) -> String {
    match &error.cause {
        Some(cause) => format!("{}: {cause}", error.error),
        None => error.error.clone(),
    }
}
