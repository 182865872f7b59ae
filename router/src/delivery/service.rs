//! The entry of delivery: streams for consumers, a state for its owner, counts for a proposed agreement.
//!
//! Owns the conditions before anything leaves: the agreement is the caller's and in force, its bounds are kept, the
//! audit has an entry, and the agreement names every field. It knows nothing of HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use platform::clock::now;
use platform::connection_reset::ConnectionReset;
use platform::shutdown::Tasks;
use schemas::agreement::{Agreement, History};
use schemas::avro::schema::AvroSchema;
use schemas::delivery::{
    AGREEMENT_KEY, CHANNEL_KEY, DeliveryCodec, FINGERPRINT_KEY, LOG_ID_KEY, VERSION_KEY,
};
use schemas::ids::{AgentId, AgreementNumber};
use schemas::promise::Promise;
use schemas::publish::ShadowCounts;
use schemas::reconcile::ReconcileQuery;
use scope::secret::NetworkSecret;
use tokio::sync::{mpsc, oneshot};

use super::admissions::Admissions;
use super::body::{GatedBody, GatedBodyParts};
use super::encode::{Encoder, Format};
use super::error::{OpenError, OwnStateError};
use super::gate::Gate;
use super::own_state::{OwnState, StateBlocks};
use super::reconcile::{PendingReconciliation, Reconciliation};
use super::session::{QUEUE_FRAMES, Session, SessionParts};
use super::shadow::{Shadow, ShadowError};
use super::start::{Beginning, StartPosition, StartPositionError, begin};
use crate::audit::chain::Event;
use crate::audit::service::Audit;
use crate::channels::{Channels, Running};
use crate::control::service::Control;
use crate::control::view::AgreementEntry;
use crate::grants::{Grant, GrantError};
use crate::lease::service::Lease;
use crate::metrics::Metrics;

/// Deliveries of a router; clones share them.
#[derive(Clone)]
pub struct Deliveries {
    control: Control,
    channels: Channels,
    lease: Lease,
    audit: Audit,
    metrics: Metrics,
    secret: Arc<NetworkSecret>,
    admissions: Admissions,
    tasks: Tasks,
}

/// What deliveries are made of.
pub struct DeliveriesParts {
    pub control: Control,
    /// The channels at work.
    pub channels: Channels,
    /// Whether data may be handed over.
    pub lease: Lease,
    /// Who is admitted to what.
    pub audit: Audit,
    pub metrics: Metrics,
    /// For keyed hashes and seals.
    pub secret: Arc<NetworkSecret>,
    /// Runs the streams.
    pub tasks: Tasks,
}

/// A stream, as a consumer asks for it.
#[derive(Debug)]
pub struct StreamRequest {
    /// Who asks, by its certificate.
    pub agent: AgentId,
    pub agreement: AgreementNumber,
    pub from: StartPosition,
    /// The reconciliation that the consumer asks for.
    pub reconcile: Option<ReconcileQuery>,
    pub format: Format,
    /// Breaks the consumer's connection.
    pub connection: ConnectionReset,
}

/// An operator's request for the counts of a proposed agreement.
#[derive(Debug)]
pub struct ShadowRequest {
    /// Who asks, by its certificate.
    pub operator: String,
    pub proposed: Agreement,
    /// Where the log is judged from.
    pub from: StartPosition,
    /// How long it may take.
    pub within: Duration,
}

impl Deliveries {
    /// No stream is open yet.
    pub fn new(parts: DeliveriesParts) -> Self {
        let DeliveriesParts { control, channels, lease, audit, metrics, secret, tasks } = parts;
        let admissions = Admissions::default();
        Self { control, channels, lease, audit, metrics, secret, admissions, tasks }
    }

    /// Opens a stream. Its pump runs until the stream is over, the connection is gone, or the router stops.
    pub async fn open(&self, request: StreamRequest) -> Result<GatedBody, OpenError> {
        self.until_known(&request).await?;
        let entry = self.entry_in_force(&request)?;
        if request.reconcile.is_some() && !request.from.is_in_log() {
            return Err(StartPositionError::ReconcileWithoutCursor.into());
        }
        let running = self.channels.at_work(&entry.agreement.channel).await?;
        let agreement = Arc::new(entry.agreement.clone());
        let admission = self.admissions.admit(&agreement.number)?;
        let grant = self.grant(&running, Arc::clone(&agreement))?;
        let admitted = Event::Admitted {
            agreement: agreement.number.clone(),
            version: agreement.version,
            agent: request.agent.clone(),
            channel: agreement.channel.clone(),
            from: request.from.to_string(),
            digest: entry.digest(),
        };
        let beginning = begin(&running, &agreement, &self.secret, request.from).await?;
        if let Some(field) = unnamed(grant.derived(), &agreement) {
            self.metrics.break_promise(Promise::DefaultDeny);
            return Err(OpenError::Unnamed(field));
        }
        let codec = DeliveryCodec::new(grant.derived())?;
        let sync = platform::random::id()?;
        let encoder = || Encoder::new(request.format, &codec, sync);
        let header = encoder().header(&codec, metadata(&running, &agreement, &grant));
        let gate =
            Gate::new(self.control.watch(), self.lease.clone(), agreement.number.clone(), agreement.version);
        let (out, outbound) = mpsc::channel(QUEUE_FRAMES);
        let meter = self.metrics.stream(&agreement);
        let body = GatedBody::new(GatedBodyParts {
            header,
            outbound,
            gate: gate.clone(),
            encoder: encoder(),
            delivered: beginning.places(),
            meter: meter.connection(),
        });
        self.audit.record(admitted).await?;
        let reconciliation = match request.reconcile {
            Some(query) => self.reconcile(&running, &agreement, query)?,
            None => PendingReconciliation::None,
        };
        let session = Session::new(SessionParts {
            encoder: encoder(),
            grant,
            subscription: running.fan_out.subscribe(),
            view: self.control.watch(),
            gate,
            out,
            places: beginning.places(),
            audit: self.audit.clone(),
            agent: request.agent,
            connection: request.connection,
            meter,
            reconciliation,
            admission,
        });
        self.tasks.spawn(session.run(beginning, self.tasks.stopping()));
        Ok(body)
    }

    /// Opens an owner's reading of its own channel's state; the caller has checked the owner.
    pub async fn own_state(&self, running: &Running) -> Result<StateBlocks, OwnStateError> {
        let state = OwnState::begin(&self.control.view(), running).await?;
        Ok(state.into_blocks(&self.tasks))
    }

    /// Counts what a proposed agreement would give. A predicate's counts can reveal single rows, so the audit records
    /// the operator and the predicate before anything is judged.
    pub async fn shadow(&self, request: ShadowRequest) -> Result<ShadowCounts, ShadowError> {
        let ShadowRequest { operator, proposed, from, within } = request;
        let channel = proposed.channel.clone();
        let running = self.channels.get(&channel).ok_or_else(|| ShadowError::NoChannel(channel.clone()))?;
        // A shadow may read the whole log, whatever history is proposed.
        let proposed = Arc::new(Agreement { history: History::Full, ..proposed });
        let view = self.control.view();
        let in_force = view.agreements.get(&proposed.number).filter(|entry| entry.stands_at(now()));
        let in_force = in_force.map(|entry| self.grant(&running, Arc::new(entry.agreement.clone())));
        let grant = self.grant(&running, Arc::clone(&proposed))?;
        let shadow = Shadow::new(grant, in_force.transpose()?, self.control.watch());
        let is_live = from == StartPosition::Latest;
        let _turn = self.admissions.check().await;
        self.audit.record(Event::Shadowed { operator, channel, rows: proposed.rows.clone() }).await?;
        let Beginning::Log(followers) = begin(&running, &proposed, &self.secret, from).await? else {
            return Err(ShadowError::NotTheLog);
        };
        shadow.run(followers, is_live, within).await
    }

    fn grant(&self, running: &Running, agreement: Arc<Agreement>) -> Result<Grant, GrantError> {
        let view = self.control.view();
        Grant::new(&view, Arc::clone(&running.entry), agreement, Arc::clone(&self.secret))
    }

    /// Another router may have sent a version that this one has not read yet (docs/protocol.md, 5).
    async fn until_known(&self, request: &StreamRequest) -> Result<(), OpenError> {
        let StartPosition::Cursor(cursor) = &request.from else { return Ok(()) };
        let view = self.control.view();
        let known = view.agreements.get(&request.agreement).map(|entry| entry.agreement.version);
        if known.is_some_and(|known| cursor.version <= known) {
            return Ok(());
        }
        Ok(self.control.catch_up().await?)
    }

    /// The agreement, if it is the caller's and in force now.
    fn entry_in_force(&self, request: &StreamRequest) -> Result<Arc<AgreementEntry>, OpenError> {
        let participant = &request.agent.participant;
        let number = &request.agreement;
        let view = self.control.view();
        let entry = view.agreements.get(number).filter(|entry| entry.agreement.consumer == *participant);
        let entry = entry.ok_or_else(|| OpenError::NoAgreement {
            participant: participant.clone(),
            number: number.clone(),
        })?;
        if let Some(reason) = entry.verdict(entry.agreement.version) {
            let number = number.clone();
            let detail = entry.reason.clone();
            return Err(OpenError::Ended { number, reason, detail });
        }
        if !entry.agreement.is_valid_at(self.lease.log_time()) {
            let from = entry.agreement.valid_from.into();
            return Err(OpenError::NotYet { number: number.clone(), from });
        }
        Ok(Arc::clone(entry))
    }

    /// Begins to read the state for a consumer's reconciliation; its stream continues meanwhile.
    fn reconcile(
        &self,
        running: &Arc<Running>,
        agreement: &Arc<Agreement>,
        query: ReconcileQuery,
    ) -> Result<PendingReconciliation, OpenError> {
        let grant = self.grant(running, Arc::clone(agreement))?;
        let (mut answer, answered) = oneshot::channel();
        let running = Arc::clone(running);
        let view = self.control.watch();
        let admissions = self.admissions.clone();
        let stopping = self.tasks.stopping();
        self.tasks.spawn(async move {
            let ready = async {
                let _turn = admissions.check().await;
                Reconciliation::begin(&running, grant, view, query).await
            };
            let ready = tokio::select! {
                biased;
                () = stopping => return,
                // The stream is over.
                () = answer.closed() => return,
                ready = ready => ready,
            };
            // The stream may have ended.
            drop(answer.send(ready));
        });
        Ok(PendingReconciliation::Reading(answered))
    }
}

/// The metadata in a stream's header.
fn metadata(running: &Running, agreement: &Agreement, grant: &Grant) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from(
        [
            (AGREEMENT_KEY, agreement.number.to_string()),
            (VERSION_KEY, agreement.version.to_string()),
            (CHANNEL_KEY, agreement.channel.to_string()),
            (LOG_ID_KEY, running.entry.log_id.to_string()),
            (FINGERPRINT_KEY, grant.derived().fingerprint().to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value.into_bytes())),
    )
}

/// A field of the derived schema that the agreement does not name: a check in addition to the compiler's.
fn unnamed(derived: &AvroSchema, agreement: &Agreement) -> Option<String> {
    let record = derived.record().ok()?.record;
    let mut names = record.fields.iter().map(|field| &field.name);
    names.find(|name| !agreement.fields.contains_key(*name)).cloned()
}
