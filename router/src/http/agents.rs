//! The agents' routes: publish, subscribe, and what one may have.
//!
//! Owns the requests' shapes. Every route takes the participant from the certificate, never from the request.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::{HeaderMap, Version, header};
use schemas::agreement::Agreement;
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::cursor::{Cursor, Place};
use schemas::delivery::{
    AGREEMENT_KEY, CHANNEL_KEY, DeliveryCodec, FINGERPRINT_KEY, LOG_ID_KEY, VERSION_KEY,
};
use schemas::error_code::ErrorCode;
use schemas::ids::{AgentId, AgreementNumber, ChannelName, Partition};
use schemas::limits;
use schemas::per_partition::PerPartition;
use schemas::promise::Promise;
use schemas::publish::{ChannelAgreements, ChannelStatus, Me, OpenRequest, Position};
use schemas::reconcile::Ask;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::problem::Refused;
use super::server::{PeerName, Reset};
use crate::Core;
use crate::audit::chain::Event;
use crate::channels::Running;
use crate::control::view::{AgreementEntry, Registered};
use crate::delivery::body::GatedBody;
use crate::delivery::encode::{Encoder, Format};
use crate::delivery::gate::Gate;
use crate::delivery::own_state::OwnState;
use crate::delivery::reckoning::{Question, Reckoning};
use crate::delivery::scopes::Scopes;
use crate::delivery::session::{QUEUE_FRAMES, Session, Telling};
use crate::delivery::start::{Beginning, From, StartError, begin};

const CHANNEL_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// The routes.
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
        ChangeCodec::from_envelope_schema(registered.schema.text())
            .map(|codec| codec.subject().json().clone())
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
    let body = OwnState::begin(&core, &running).await?.into_body(&core);
    Ok(([(header::CONTENT_TYPE, Format::Avro.media_type())], body).into_response())
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
    Ok(Json(core.publisher.publish(peer.agent()?, &channel, partition, &body).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamQuery {
    from: String,
    /// What the consumer's rows should come to, or which rows some ranges have: [`Ask`] as text.
    check: Option<String>,
}

async fn subscribe(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<PeerName>,
    Extension(reset): Extension<Reset>,
    Path(number): Path<AgreementNumber>,
    Query(query): Query<StreamQuery>,
    (version, headers): (Version, HeaderMap),
) -> Result<Response, Refused> {
    let agent = peer.agent()?;
    if version < Version::HTTP_2 {
        // Its buffers are not bounded by us: rows could leave long after a revocation.
        let problem = "a stream needs HTTP/2 (curl --http2)";
        return Err(Refused::new(ErrorCode::RequestMalformed, problem));
    }
    let from = From::parse(&query.from)?;
    until_known(&core, &number, &from).await?;
    let entry = standing_agreement(&core, agent, &number)?;
    let ask = query.check.map(|text| text.parse::<Ask>()).transpose()?;
    if ask.is_some() && !matches!(from, From::Cursor(Cursor { pass: None, .. })) {
        return Err(StartError::CheckWithoutCursor.into());
    }
    let channel = &entry.agreement.channel;
    let running = core.channels.wait_for(channel, CHANNEL_WAIT).await;
    let not_at_work = || {
        let why = core.channels.faults().remove(channel).unwrap_or_else(|| "it is being started".to_owned());
        Refused::new(ErrorCode::Unavailable, format!("channel {channel} is not at work here: {why}"))
    };
    let running = running.ok_or_else(not_at_work)?;
    let format = match headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) {
        Some(accept) if accept.contains("ndjson") || accept.contains("text/") => Format::Ndjson,
        _ => Format::Avro,
    };
    let admitted = Event::Admitted {
        agreement: number,
        version: entry.agreement.version,
        agent: agent.clone(),
        channel: channel.clone(),
        from: from.to_string(),
        digest: entry.digest(),
    };
    let asked = (from, ask, format);
    let body = start_stream(&core, &running, &entry, asked, (agent, admitted, reset)).await?;
    Ok(([(header::CONTENT_TYPE, format.media_type())], body.into_body()).into_response())
}

/// Another router may have told of a version before this one has read of it (protocols, 5).
async fn until_known(core: &Core, number: &AgreementNumber, from: &From) -> Result<(), Refused> {
    let From::Cursor(cursor) = from else { return Ok(()) };
    let known = core.control.view().agreements.get(number).map(|entry| entry.agreement.version);
    if known.is_some_and(|known| cursor.version <= known) {
        return Ok(());
    }
    let caught_up = core.control.catch_up().await;
    caught_up.map_err(|error| Refused::new(ErrorCode::Unavailable, error.to_string()))
}

/// The agreement, if it is the caller's and in force now.
fn standing_agreement(
    core: &Core,
    agent: &AgentId,
    number: &AgreementNumber,
) -> Result<Arc<AgreementEntry>, Refused> {
    let view = core.control.view();
    let entry = view.agreements.get(number).filter(|entry| entry.agreement.consumer == agent.participant);
    let entry = entry.ok_or_else(|| {
        Refused::new(ErrorCode::NotPermitted, format!("{} has no agreement {number}", agent.participant))
    })?;
    if let Some(reason) = entry.verdict(entry.agreement.version) {
        let detail = format!("agreement {number} is {}: {}", reason.as_str(), entry.reason);
        return Err(Refused::new(reason.code().unwrap_or(ErrorCode::AgreementNotActive), detail));
    }
    if !entry.agreement.is_valid_at(core.lease.log_time()) {
        let detail = format!("agreement {number} is in force only from {}", entry.agreement.valid_from);
        return Err(Refused::new(ErrorCode::AgreementNotActive, detail));
    }
    Ok(Arc::clone(entry))
}

/// A field of what would leave that the agreement does not name: a second look, beside the one that made it.
fn unnamed(derived: &AvroSchema, agreement: &Agreement) -> Option<String> {
    let record = derived.record().ok()?.record;
    let mut names = record.fields.iter().map(|field| &field.name);
    names.find(|name| !agreement.fields.contains_key(*name)).cloned()
}

async fn start_stream(
    core: &Core,
    running: &Arc<Running>,
    entry: &AgreementEntry,
    (from, ask, format): (From, Option<Ask>, Format),
    (agent, admitted, reset): (&AgentId, Event, Reset),
) -> Result<GatedBody, Refused> {
    let agreement = Arc::new(entry.agreement.clone());
    let admission = core.admissions.admit(&agreement.number)?;
    let view = core.control.view();
    let scopes =
        Scopes::new(&view, Arc::clone(&running.entry), Arc::clone(&agreement), Arc::clone(&core.secret))?;
    let beginning = begin(running, &agreement, &core.secret, from).await?;
    let invalid = |e: schemas::avro::schema::SchemaError| Refused::new(ErrorCode::Internal, e.to_string());
    let codec = DeliveryCodec::new(scopes.derived()).map_err(invalid)?;
    let sync = platform::random::id()?;
    let encoder = || Encoder::new(format, &codec, sync);
    let metadata = BTreeMap::from(
        [
            (AGREEMENT_KEY, agreement.number.to_string()),
            (VERSION_KEY, agreement.version.to_string()),
            (CHANNEL_KEY, agreement.channel.to_string()),
            (LOG_ID_KEY, running.entry.log_id.to_string()),
            (FINGERPRINT_KEY, scopes.derived().fingerprint().to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value.into_bytes())),
    );
    let gate = {
        let (number, version) = (agreement.number.clone(), agreement.version);
        Gate::new(core.control.watch(), core.lease.clone(), number, version)
    };
    let (out, steps) = mpsc::channel(QUEUE_FRAMES);
    let header = encoder().header(&codec, metadata);
    let places: PerPartition<Place> = match &beginning {
        Beginning::Log(followers) => {
            followers.values().map(crate::channel::follower::Follower::place).collect()
        }
        Beginning::State(..) => PerPartition::none(),
    };
    let meter = core.metrics.stream(&agreement);
    if let Some(field) = unnamed(scopes.derived(), &agreement) {
        core.metrics.break_promise(Promise::DefaultDeny);
        return Err(Refused::new(ErrorCode::Internal, format!("field {field:?} is none of the agreement's")));
    }
    let body = GatedBody::new(header, steps, gate.clone(), encoder(), places.clone(), meter.connection());
    core.audit.record(admitted).await?;
    let question = match ask {
        Some(ask) => reckon(core, running, &agreement, ask)?,
        None => Question::None,
    };
    let (view, audit, agent) = (core.control.watch(), core.audit.clone(), agent.clone());
    let session = Session {
        encoder: encoder(),
        scopes,
        seat: running.audience.sit(),
        view,
        gate,
        out,
        places,
        pass: None,
        audit,
        agent,
        reset,
        meter,
        followed: Vec::new(),
        telling: Telling::new(),
        question,
        _admission: admission,
    };
    core.tasks.spawn(session.run(beginning, core.tasks.stopping()));
    Ok(body)
}

/// Begins to read the state for a consumer's question; its stream goes on meanwhile.
fn reckon(
    core: &Core,
    running: &Arc<Running>,
    agreement: &Arc<Agreement>,
    ask: Ask,
) -> Result<Question, Refused> {
    let view = core.control.watch();
    let entry = Arc::clone(&running.entry);
    let scopes = Scopes::new(&view.borrow(), entry, Arc::clone(agreement), Arc::clone(&core.secret))?;
    let (mut answer, answered) = oneshot::channel();
    let (running, admissions, stopping) =
        (Arc::clone(running), core.admissions.clone(), core.tasks.stopping());
    core.tasks.spawn(async move {
        let reckoned = async {
            let _turn = admissions.check().await;
            Reckoning::begin(&running, scopes, view, ask).await
        };
        let reckoned = tokio::select! {
            biased;
            () = stopping => return,
            // The stream is over.
            () = answer.closed() => return,
            reckoned = reckoned => reckoned,
        };
        // Nobody waits any more.
        drop(answer.send(reckoned));
    });
    Ok(Question::Asked(answered))
}
