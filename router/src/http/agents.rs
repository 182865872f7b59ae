//! The agents' routes: publish, subscribe, and read what a participant has.
//!
//! Owns the requests' shapes. Every route takes the participant from the certificate, never from the request.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::{HeaderMap, Version, header};
use platform::connection_reset::ConnectionReset;
use schemas::change::ChangeCodec;
use schemas::error_code::ErrorCode;
use schemas::ids::{AgreementNumber, ChannelName, Partition};
use schemas::limits;
use schemas::publish::{ChannelAgreements, ChannelStatus, Me, OpenRequest, Position};
use schemas::reconcile::ReconcileQuery;
use serde::Deserialize;

use super::problem::Refused;
use super::server::PeerName;
use crate::control::view::{AgreementEntry, Registered};
use crate::delivery::encode::Format;
use crate::delivery::service::StreamRequest;
use crate::delivery::start::StartPosition;
use crate::service::Core;

pub fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/v1/me", get(me))
        .route("/v1/channels/{channel}", get(channel_status))
        .route("/v1/channels/{channel}/agreements", get(own_agreements))
        .route("/v1/channels/{channel}/state", get(own_state))
        .route("/v1/channels/{channel}/partitions/{partition}/openings", post(open))
        .route("/v1/channels/{channel}/partitions/{partition}/batches", post(publish))
        .route("/v1/agreements/{number}/stream", get(subscribe))
        .layer(DefaultBodyLimit::max(limits::MAX_BATCH_BYTES))
}

async fn me(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
) -> Result<Json<Me>, Refused> {
    let agent = peer.agent()?.clone();
    let view = core.control.view();
    let mine = |entry: &&Arc<AgreementEntry>| entry.agreement.consumer == agent.participant;
    let agreements = view.agreements.values().filter(mine).map(|entry| entry.as_told());
    let channels = view.channels.values().filter(|entry| entry.channel.owner == agent.participant);
    Ok(Json(Me {
        agreements: agreements.collect(),
        channels: channels.map(|entry| entry.channel.clone()).collect(),
        agent,
    }))
}

async fn channel_status(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path(channel): Path<ChannelName>,
) -> Result<Json<ChannelStatus>, Refused> {
    Ok(Json(core.publisher.status(peer.agent()?, &channel).await?))
}

/// An owner is a party to every agreement on its channel.
async fn own_agreements(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path(channel): Path<ChannelName>,
) -> Result<Json<ChannelAgreements>, Refused> {
    let running = core.publisher.owned(peer.agent()?, &channel).await?;
    let view = core.control.view();
    let on_it = view.agreements.values().filter(|entry| entry.agreement.channel == channel);
    let agreements = on_it.map(|entry| entry.as_told()).collect();
    let channel = running.entry.channel.clone();
    let subject = |registered: &Arc<Registered>| {
        ChangeCodec::from_block_schema(registered.schema.text()).map(|codec| codec.subject().json().clone())
    };
    let schemas = view.versions(&channel.registry_subject()).iter().map(subject).collect::<Result<_, _>>();
    let schemas = schemas.map_err(|error| Refused::new(ErrorCode::Internal, error.to_string()))?;
    Ok(Json(ChannelAgreements { channel, schemas, agreements }))
}

/// An owner may always read its own channel.
async fn own_state(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path(channel): Path<ChannelName>,
) -> Result<Response, Refused> {
    let running = core.publisher.owned(peer.agent()?, &channel).await?;
    let blocks = core.deliveries.own_state(&running).await?;
    Ok(([(header::CONTENT_TYPE, Format::Avro.media_type())], Body::from_stream(blocks)).into_response())
}

async fn open(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path((channel, partition)): Path<(ChannelName, Partition)>,
    Json(request): Json<OpenRequest>,
) -> Result<Json<Position>, Refused> {
    Ok(Json(core.publisher.open(peer.agent()?, &channel, partition, request).await?))
}

async fn publish(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path((channel, partition)): Path<(ChannelName, Partition)>,
    body: Bytes,
) -> Result<Json<Position>, Refused> {
    Ok(Json(core.publisher.publish(peer.agent()?, &channel, partition, body).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamQuery {
    from: String,
    /// What the consumer's rows should come to, or which rows some ranges have: [`ReconcileQuery`] as text.
    reconcile: Option<String>,
}

async fn subscribe(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Extension(connection): Extension<ConnectionReset>,
    Path(agreement): Path<AgreementNumber>,
    Query(query): Query<StreamQuery>,
    version: Version,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let agent = peer.agent()?.clone();
    if version < Version::HTTP_2 {
        // The router cannot bound HTTP/1's buffers: rows could leave long after a revocation.
        let problem = "a stream needs HTTP/2 (curl --http2)";
        return Err(Refused::new(ErrorCode::RequestMalformed, problem));
    }
    let from = StartPosition::parse(&query.from)?;
    let reconcile = query.reconcile.map(|text| text.parse::<ReconcileQuery>()).transpose()?;
    let format = match headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) {
        Some(accept) if accept.contains("ndjson") || accept.contains("text/") => Format::Ndjson,
        _ => Format::Avro,
    };
    let request = StreamRequest { agent, agreement, from, reconcile, format, connection };
    let body = core.deliveries.open(request).await?;
    Ok(([(header::CONTENT_TYPE, format.media_type())], Body::new(body)).into_response())
}
