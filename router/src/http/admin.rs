//! The operators' routes: participants, channels, agreements and their status.
//!
//! Owns the second listener's requests, loopback by default and always under an operator's certificate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, State};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use event_log::Stored;
use schemas::agreement::{Agreement, Status};
use schemas::channel::Channel;
use schemas::error_code::ErrorCode;
use schemas::ids::{AgreementNumber, Offset};
use schemas::publish::{AgreementStatus, ShadowCounts};
use serde::Deserialize;

use super::problem::Refused;
use super::server::PeerName;
use crate::audit;
use crate::audit::service::AuditPage;
use crate::control::change::{Body, Participant};
use crate::control::service::ControlError;
use crate::control::view::ControlView;
use crate::declarations::declare_channel;
use crate::delivery::service::ShadowRequest;
use crate::delivery::shadow::ShadowError;
use crate::delivery::start::StartPosition;
use crate::service::Core;

pub fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/v1/participants", put(put_participant))
        .route("/v1/channels", put(put_channel))
        .route("/v1/agreements", put(put_agreement))
        .route("/v1/agreements", get(list_agreements))
        .route("/v1/shadow", post(shadow))
        .route("/v1/agreements/{number}/status", post(set_status))
        .route("/v1/audit", get(read_audit))
}

async fn put_participant(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Json(participant): Json<Participant>,
) -> Result<Json<Participant>, Refused> {
    let operator = peer.operator()?;
    core.control.change(operator, Body::Participant(participant.clone())).await?;
    Ok(Json(participant))
}

async fn put_channel(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Json(channel): Json<Channel>,
) -> Result<Json<Channel>, Refused> {
    let operator = peer.operator()?;
    declare_channel(&core.registry, operator, &channel).await?;
    Ok(Json(channel))
}

/// Makes a change unless it is made already: an earlier request may have lost its answer, perhaps at another router a
/// moment ago.
async fn bring(
    core: &Core,
    operator: &str,
    body: Body,
    is_made: impl Fn(&ControlView) -> bool,
) -> Result<(), ControlError> {
    if is_made(&core.control.view()) {
        return Ok(());
    }
    match core.control.change(operator, body).await {
        Err(_) if is_made(&core.control.view()) => Ok(()),
        outcome => outcome,
    }
}

async fn put_agreement(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Json(agreement): Json<Agreement>,
) -> Result<Json<Agreement>, Refused> {
    let operator = peer.operator()?;
    core.check_agreement(&agreement)?;
    let body = Body::Agreement(Box::new(agreement.clone()));
    let is_in_force = |view: &ControlView| {
        view.agreements.get(&agreement.number).is_some_and(|entry| entry.agreement == agreement)
    };
    bring(&core, operator, body, is_in_force).await?;
    core.lease.settle(core.control.view().applied).await?;
    Ok(Json(agreement))
}

async fn list_agreements(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
) -> Result<Json<Vec<AgreementStatus>>, Refused> {
    peer.operator()?;
    let view = core.control.view();
    Ok(Json(view.agreements.values().map(|entry| entry.as_told()).collect()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShadowQuery {
    /// `earliest`, a time, or `latest` for what comes.
    from: String,
    /// How long it may take, at most a minute.
    seconds: u64,
}

/// Counts of a proposed agreement, over the log or new events.
async fn shadow(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Query(query): Query<ShadowQuery>,
    Json(proposed): Json<Agreement>,
) -> Result<Json<ShadowCounts>, Refused> {
    let operator = peer.operator()?.to_owned();
    proposed.validate().map_err(|error| Refused::new(ErrorCode::RequestMalformed, error.to_string()))?;
    let from = StartPosition::parse(&query.from)?;
    if matches!(from, StartPosition::State | StartPosition::Cursor(_)) {
        return Err(ShadowError::NotTheLog.into());
    }
    let within = Duration::from_secs(query.seconds);
    let request = ShadowRequest { operator, proposed, from, within };
    Ok(Json(core.deliveries.shadow(request).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    /// An offset of the audit topic.
    #[serde(default)]
    from: u64,
}

/// A page of entries as they are in the topic, with the heads that control knows.
async fn read_audit(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditPage>, Refused> {
    peer.operator()?;
    let read = audit::service::read(core.channels.log().as_ref(), Offset::new(query.from)).await;
    let (records, next) =
        read.map_err(|error| Refused::new(ErrorCode::RequestMalformed, error.to_string()))?;
    let text =
        |stored: Stored| String::from_utf8_lossy(&stored.record.value.unwrap_or_default()).into_owned();
    let entries = records.into_iter().map(text).collect();
    let heads = core.control.view().audit_heads.values().cloned().collect();
    Ok(Json(AuditPage { entries, next, heads }))
}

/// An agreement's new status, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusRequest {
    status: Status,
    reason: String,
}

async fn set_status(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Path(number): Path<AgreementNumber>,
    Json(request): Json<StatusRequest>,
) -> Result<Json<AgreementStatus>, Refused> {
    let operator = peer.operator()?;
    let asked = Instant::now();
    let StatusRequest { status, reason } = request;
    if !reason.chars().any(char::is_alphanumeric) {
        let problem = "the reason has no word; write why, for the parties and the audit";
        return Err(Refused::new(ErrorCode::RequestMalformed, problem));
    }
    let body = Body::AgreementStatus { number: number.clone(), status, reason };
    let has_status =
        |view: &ControlView| view.agreements.get(&number).is_some_and(|entry| entry.status == status);
    bring(&core, operator, body, has_status).await?;
    // The answer waits until no router works against the change.
    core.lease.settle(core.control.view().applied).await?;
    core.metrics.settled(asked.elapsed());
    tracing::info!(agreement = %number, %status, "acknowledged");
    let view = core.control.view();
    let entry = view.agreements.get(&number);
    let gone = || Refused::new(ErrorCode::Internal, "the agreement is gone");
    let entry = entry.ok_or_else(gone)?;
    Ok(Json(entry.as_told()))
}
