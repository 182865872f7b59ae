//! The built-in schema registry's REST interface, with Confluent's paths.
//!
//! Owns the translation; registration itself is in `registry`. Every holder of a certificate of the network may
//! read; a channel's owner may register for its own channels.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::StatusCode;
use schemas::avro::compatibility;
use schemas::avro::schema::AvroSchema;
use schemas::ids::SchemaId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Refused;
use super::server::PeerName;
use crate::control::view::ControlView;
use crate::registry::RegisterError;
use crate::registry::external::ExternalError;
use crate::service::Core;

/// The routes, below `/registry`.
pub fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/registry/subjects", get(subjects))
        .route("/registry/subjects/{subject}/versions", get(versions).post(register_version))
        .route("/registry/subjects/{subject}/versions/{version}", get(version))
        .route("/registry/schemas/ids/{id}", get(by_id))
        .route("/registry/config", get(config))
        .route("/registry/compatibility/subjects/{subject}/versions/{version}", post(compatible))
}

/// An error in Confluent's form: a status and a code of its own.
struct RegistryError(StatusCode, u32, String);

impl IntoResponse for RegistryError {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error_code": self.1, "message": self.2}))).into_response()
    }
}

impl From<Refused> for RegistryError {
    fn from(refused: Refused) -> Self {
        let status = StatusCode::from_u16(refused.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self(status, u32::from(status.as_u16()), refused.0.detail)
    }
}

fn no_subject(subject: &str) -> RegistryError {
    RegistryError(StatusCode::NOT_FOUND, 40_401, format!("Subject '{subject}' not found."))
}

fn no_version(version: &str) -> RegistryError {
    RegistryError(StatusCode::NOT_FOUND, 40_402, format!("Version {version} not found."))
}

fn invalid_schema(error: impl std::fmt::Display) -> RegistryError {
    RegistryError(StatusCode::UNPROCESSABLE_ENTITY, 42_201, format!("Invalid schema: {error}"))
}

/// Any name of the network may read.
fn check_reader(peer: &PeerName) -> Result<(), RegistryError> {
    match &peer.0 {
        Ok(_) => Ok(()),
        Err(error) => Err(RegistryError(StatusCode::FORBIDDEN, 403, error.to_string())),
    }
}

async fn subjects(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
) -> Result<Json<Vec<String>>, RegistryError> {
    check_reader(&peer)?;
    Ok(Json(core.control.view().subjects.keys().cloned().collect()))
}

async fn versions(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path(subject): Path<String>,
) -> Result<Json<Vec<usize>>, RegistryError> {
    check_reader(&peer)?;
    let view = core.control.view();
    let found = view.subjects.get(&subject).ok_or_else(|| no_subject(&subject))?;
    Ok(Json((1..=found.versions.len()).collect()))
}

async fn version(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path((subject, version)): Path<(String, String)>,
) -> Result<Json<Value>, RegistryError> {
    check_reader(&peer)?;
    let view = core.control.view();
    let (number, schema) = find_version(&view, &subject, &version)?;
    let id = view.find_schema(&subject, &schema);
    Ok(Json(json!({"subject": subject, "version": number, "id": id, "schema": schema.text()})))
}

fn find_version(
    view: &ControlView,
    subject: &str,
    version: &str,
) -> Result<(usize, AvroSchema), RegistryError> {
    if !view.subjects.contains_key(subject) {
        return Err(no_subject(subject));
    }
    let all = view.versions(subject);
    let number = if version == "latest" { all.len() } else { version.parse().unwrap_or(0) };
    let found = number.checked_sub(1).and_then(|index| all.get(index));
    found.map(|registered| (number, registered.schema.clone())).ok_or_else(|| no_version(version))
}

async fn by_id(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path(id): Path<SchemaId>,
) -> Result<Json<Value>, RegistryError> {
    check_reader(&peer)?;
    let view = core.control.view();
    let found = view.schemas.get(&id);
    let missing = || RegistryError(StatusCode::NOT_FOUND, 40_403, format!("Schema {id} not found"));
    Ok(Json(json!({"schema": found.ok_or_else(missing)?.schema.text()})))
}

async fn config(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
) -> Result<Json<Value>, RegistryError> {
    check_reader(&peer)?;
    Ok(Json(json!({"compatibilityLevel": core.control.view().level("")})))
}

#[derive(Debug, Deserialize)]
struct SchemaRequest {
    schema: String,
}

async fn register_version(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path(subject): Path<String>,
    Json(request): Json<SchemaRequest>,
) -> Result<Json<Value>, RegistryError> {
    let agent = peer.agent()?;
    let view = core.control.view();
    let own = view
        .channels
        .values()
        .any(|entry| entry.channel.registry_subject() == subject && entry.channel.owner == agent.participant);
    if !own {
        let text = format!("subject {subject} belongs to no channel of {}", agent.participant);
        return Err(RegistryError(StatusCode::FORBIDDEN, 403, text));
    }
    let schema = AvroSchema::parse(&request.schema).map_err(invalid_schema)?;
    schemas::change::ChangeCodec::from_block_schema(schema.text()).map_err(invalid_schema)?;
    let id =
        core.registry.register(&agent.to_string(), &subject, &schema).await.map_err(|error| match error {
            RegisterError::Incompatible(error) => RegistryError(StatusCode::CONFLICT, 409, error.to_string()),
            RegisterError::External(ExternalError::Refused(text)) => {
                RegistryError(StatusCode::CONFLICT, 409, text)
            }
            other => Refused::from(other).into(),
        })?;
    Ok(Json(json!({"id": id})))
}

async fn compatible(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path((subject, version)): Path<(String, String)>,
    Json(request): Json<SchemaRequest>,
) -> Result<Json<Value>, RegistryError> {
    check_reader(&peer)?;
    let view = core.control.view();
    let (_, old) = find_version(&view, &subject, &version)?;
    let new = AvroSchema::parse(&request.schema).map_err(invalid_schema)?;
    let fits = compatibility::judge(view.level(&subject), &[old], &new).is_ok();
    Ok(Json(json!({"is_compatible": fits})))
}
