//! A router in this process on the memory log, and clients of every kind of identity.
//!
//! Owns a small network for tests of the router's interface: one provider, two consumers, one channel, one agreement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use event_log::Log;
use event_log::memory::MemoryLog;
use platform::client::{Client, ClientError, send, send_json};
use platform::pki::{Authority, Subject};
use router::declarations::Declared;
use router::registry::external::External;
use router::{Parts, Router, Routers, Watched};
use schemas::avro::binary::{Cursor as Datums, put_string};
use schemas::avro::container::Decoder;
use schemas::block;
use schemas::change::Op;
use schemas::cursor::{Cursor, Place, Snapshot, in_words};
use schemas::delivery::{Delivery, DeliveryCodec};
use schemas::digest;
use schemas::error_code::ErrorCode;
use schemas::framing;
use schemas::ids::{AgreementVersion, Digest, Epoch, Offset, Partition, SchemaId, Sequence};
use schemas::per_partition::PerPartition;
use schemas::publish::{OpenRequest, Position};
use schemas::record::{Kind, Provenance, Record};
use scope::secret::NetworkSecret;
use serde_json::json;

use crate::publisher::{self, SCHEMA};

pub const DOMAIN: &str = "test.dit";
const EPOCH: Epoch = Epoch::new([7; 16]);
const LIMIT: Duration = Duration::from_secs(30);

pub struct Network {
    pub router: Router,
    /// The authority that all parties trust.
    pub authority: Authority,
    /// An operator's client of the admin listener.
    pub operator: Client,
    next: Sequence,
    digest: Digest,
}

/// The agreement that a network begins with, in a version and with row rules.
pub fn agreement(version: u32, rows: &str) -> serde_json::Value {
    json!({"number": "A-1", "version": version, "provider": "4000", "consumer": "9000", "channel": "register",
        "purpose": "test", "legal_basis": "test", "valid_from": "2020-01-01T00:00:00Z", "history": "full",
        "schema_version": 1, "rows": rows, "fields": {"k": "keep", "t": "keep"}})
}

/// The datum of a row.
pub fn row(key: &str, territory: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for text in [key, territory, "SECRET"] {
        put_string(&mut out, text);
    }
    out
}

/// The contents of a stream so far, as words: `upsert k`, `remove k`, marks and the closing's reason.
pub struct Stream {
    /// When the last row came.
    pub last_row: Option<Instant>,
    response: reqwest::Response,
    decoder: Decoder,
    codec: Option<DeliveryCodec>,
    /// All bytes that came.
    pub bytes: Vec<u8>,
    /// The deliveries in them, as words.
    pub words: Vec<String>,
    /// The progress of a snapshot.
    pub snapshot: Option<Snapshot>,
}

impl Stream {
    /// Begins a stream of an agreement.
    pub async fn open(client: &Client, number: &str, from: &str) -> anyhow::Result<Self> {
        Self::asking(client, number, &[("from", from)]).await
    }

    /// Begins a stream of an agreement by any query.
    pub async fn asking(client: &Client, number: &str, query: &[(&str, &str)]) -> anyhow::Result<Self> {
        let path = format!("/v1/agreements/{number}/stream");
        let response = send(client.get(&path).query(query)).await?;
        Ok(Self {
            last_row: None,
            response,
            decoder: Decoder::new(),
            codec: None,
            bytes: Vec::new(),
            words: Vec::new(),
            snapshot: None,
        })
    }

    /// Reads until a word satisfies the condition, or the stream ends.
    pub async fn until(&mut self, wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        while !self.words.iter().any(|word| wanted(word)) {
            let chunk = tokio::time::timeout(LIMIT, self.response.chunk()).await;
            let Some(bytes) = chunk.with_context(|| format!("waited in vain: {:?}", self.words))?? else {
                break;
            };
            self.bytes.extend_from_slice(&bytes);
            self.decoder.push(&bytes);
            if self.codec.is_none()
                && let Some(header) = self.decoder.header()?
            {
                self.codec = Some(DeliveryCodec::from_union_schema(&header.schema)?);
            }
            let Some(codec) = &self.codec else { continue };
            while let Some(block) = self.decoder.block()? {
                let mut datums = Datums::new(&block.datums);
                for _ in 0..block.count {
                    let delivery = codec.decode(&mut datums)?;
                    if let Delivery::SnapshotProgress(snapshot) = &delivery {
                        self.snapshot = Some(snapshot.clone());
                    }
                    if matches!(delivery, Delivery::Event(_)) {
                        self.last_row = Some(Instant::now());
                    }
                    self.words.push(word(&delivery));
                }
            }
        }
        Ok(())
    }

    /// Words about rows only.
    pub fn rows(&self) -> Vec<&str> {
        let is_row = |word: &&str| word.starts_with("upsert") || word.starts_with("remove");
        self.words.iter().map(String::as_str).filter(is_row).collect()
    }
}

/// The code of a request that must have been refused.
pub fn refusal(outcome: Result<impl Sized, ClientError>) -> anyhow::Result<ErrorCode> {
    match outcome.map(|_| ()) {
        Err(ClientError::Refused(_, problem)) => Ok(problem.code),
        other => anyhow::bail!("it was not refused: {other:?}"),
    }
}

fn word(delivery: &Delivery<'_>) -> String {
    match delivery {
        Delivery::Event(event) if event.after.is_some() => format!("upsert {} {:?}", event.key, event.reason),
        Delivery::Event(event) => format!("remove {} {:?}", event.key, event.reason),
        Delivery::SnapshotBegin { .. } => "begin".to_owned(),
        Delivery::SnapshotProgress(_) => "snapshot".to_owned(),
        Delivery::SnapshotEnd { .. } => "end".to_owned(),
        Delivery::Progress { .. } => "progress".to_owned(),
        Delivery::Digests { announced, .. } => {
            format!("digests of {} rows: {:x}", announced.rows, announced.total)
        }
        Delivery::Range { number, rows } => {
            let keys: Vec<_> = rows.iter().map(|(key, _)| *key).collect();
            format!("range {number}: {}", keys.join(" "))
        }
        Delivery::Closing { next, reason, detail, places } => {
            format!("closing {next:?} {} {detail} at {}", reason.as_str(), in_words(places))
        }
    }
}

impl Network {
    /// Starts the router and opens the provider's epoch.
    pub async fn opened() -> anyhow::Result<Self> {
        let network = Self::start().await?;
        network.open().await?;
        Ok(network)
    }

    /// Starts the router, with the agreement over rows of territory R.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_on(Arc::new(MemoryLog::default())).await
    }

    /// Starts the router on another log.
    pub async fn start_on(log: Arc<dyn Log>) -> anyhow::Result<Self> {
        Self::start_with(log, agreement(1, "t == \"R\"")).await
    }

    /// Starts the router on another log, with another agreement.
    pub async fn start_with(log: Arc<dyn Log>, agreement: serde_json::Value) -> anyhow::Result<Self> {
        Self::start_as("r", Routers::One, log, agreement, None).await
    }

    /// Starts a router with a name of its own, next to others on one log.
    pub async fn start_beside(
        name: &str,
        log: Arc<dyn Log>,
        agreement: serde_json::Value,
    ) -> anyhow::Result<Self> {
        Self::start_as(name, Routers::Several, log, agreement, None).await
    }

    /// Starts a router in front of an external schema registry.
    pub async fn start_before(registry: External, log: Arc<dyn Log>) -> anyhow::Result<Self> {
        Self::start_as("r", Routers::One, log, agreement(1, "t == \"R\""), Some(registry)).await
    }

    async fn start_as(
        name: &str,
        routers: Routers,
        log: Arc<dyn Log>,
        agreement: serde_json::Value,
        registry: Option<External>,
    ) -> anyhow::Result<Self> {
        platform::identity::install_crypto();
        let authority = Authority::new(DOMAIN)?;
        let hosts = vec!["127.0.0.1".to_owned()];
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let participants = ["4000", "9000", "9001"].map(|id| json!({"id": id, "name": id}));
        let channel = json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 1,
            "key": {"fields": ["k"]}, "schema": serde_json::from_str::<serde_json::Value>(SCHEMA)?});
        let declared = Declared {
            participants: participants.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?,
            channels: vec![serde_json::from_value(channel)?],
            agreements: vec![serde_json::from_value(agreement)?],
            ..Declared::default()
        };
        let router = Router::start(Parts {
            log,
            routers,
            registry,
            identity: authority.identity(&Subject::Router { name: name.to_owned(), hosts })?,
            instance: None,
            domain: DOMAIN.to_owned(),
            secret: NetworkSecret::new(vec![1; 32])?,
            listen: loopback,
            admin_listen: loopback,
            declared,
            watched: Watched::default(),
        })
        .await?;
        let operator = authority.identity(&Subject::Operator("o".to_owned()))?;
        let operator = Client::new(&format!("https://{}", router.admin_address()), &operator)?;
        let digest = digest::first(EPOCH);
        Ok(Self { router, authority, operator, next: Sequence::new(0), digest })
    }

    /// A client with an agent's certificate.
    pub fn client(&self, agent: &str) -> anyhow::Result<Client> {
        let identity = self.authority.identity(&Subject::Agent(agent.parse()?))?;
        Ok(Client::new(&format!("https://{}", self.router.address()), &identity)?)
    }

    /// Opens the provider's epoch.
    pub async fn open(&self) -> anyhow::Result<Position> {
        let request = OpenRequest { epoch: EPOCH, replaces: None };
        let client = self.client("4000/main")?;
        Ok(send_json(client.post("/v1/channels/register/partitions/0/openings").json(&request)).await?)
    }

    /// A batch of one change, without sending it.
    pub fn batch(
        &self,
        op: Op,
        key: &str,
        before: Option<&[u8]>,
        after: Option<&[u8]>,
    ) -> anyhow::Result<Vec<u8>> {
        self.raw_batch(&publisher::datum(op, key, before, after))
    }

    /// A batch of one datum of any kind.
    pub fn raw_batch(&self, datum: &[u8]) -> anyhow::Result<Vec<u8>> {
        publisher::body(EPOCH, self.next, self.digest, &[datum.to_vec()])
    }

    /// The code with which a stream is refused to an agent.
    pub async fn stream_refused(&self, agent: &str, number: &str, from: &str) -> anyhow::Result<ErrorCode> {
        let client = self.client(agent)?;
        let path = format!("/v1/agreements/{number}/stream");
        refusal(send(client.get(&path).query(&[("from", from)])).await)
    }

    /// Posts a batch as an agent.
    pub async fn post(&self, agent: &str, body: Vec<u8>) -> Result<Position, ClientError> {
        let client = self.client(agent).map_err(|e| ClientError::Identity(e.to_string()))?;
        send_json(client.post("/v1/channels/register/partitions/0/batches").body(body)).await
    }

    /// Publishes a change and moves on to the table's answer.
    pub async fn publish(
        &mut self,
        op: Op,
        key: &str,
        before: Option<&[u8]>,
        after: Option<&[u8]>,
    ) -> anyhow::Result<()> {
        let position = self.post("4000/main", self.batch(op, key, before, after)?).await?;
        let counted = position.counted.context("nobody has opened")?;
        anyhow::ensure!(counted.next == self.next.next(), "it did not count: {counted:?}");
        (self.next, self.digest) = (counted.next, counted.digest);
        Ok(())
    }

    /// A batch of one block.
    pub fn block(&self, datums: &[Vec<u8>]) -> anyhow::Result<Vec<u8>> {
        publisher::body_of_block(EPOCH, self.next, self.digest, datums)
    }

    /// Publishes changes in one block and moves on to the table's answer.
    pub async fn publish_block(&mut self, datums: &[Vec<u8>]) -> anyhow::Result<()> {
        let counted =
            self.post("4000/main", self.block(datums)?).await?.counted.context("nobody has opened")?;
        let count = u32::try_from(datums.len())?;
        anyhow::ensure!(counted.next == self.next.after(count), "it did not count: {counted:?}");
        (self.next, self.digest) = (counted.next, counted.digest);
        Ok(())
    }

    /// Appends a change straight to the log, as another router would, in a schema of the caller's choice.
    pub async fn append_framed(
        &mut self,
        schema: SchemaId,
        op: Op,
        key: &str,
        after: &[u8],
    ) -> anyhow::Result<()> {
        let datum = publisher::datum(op, key, None, Some(after));
        let datum = block::of_one(&datum);
        let digest = digest::next(self.digest, &datum);
        let agent = "4000/main".parse()?;
        let provenance = Provenance { agent, epoch: EPOCH, sequence: self.next, count: 1, digest };
        let headers = [vec![Kind::Block.header()], provenance.headers().to_vec()].concat();
        let value = Some(framing::frame(schema, &datum));
        let record = Record { key: None, value, headers };
        let running = self.router.core().channels.get(&"register".parse()?).context("the channel runs")?;
        let feed = running.feeds.get(Partition::new(0)).context("a partition")?;
        feed.source().log.append(&feed.source().topic, Partition::new(0), vec![record]).await?;
        (self.next, self.digest) = (self.next.next(), digest);
        Ok(())
    }

    /// Begins a stream of the agreement.
    pub async fn stream(&self, agent: &str, from: &str) -> anyhow::Result<Stream> {
        let client = self.client(agent)?;
        Stream::open(&client, "A-1", from).await
    }

    /// The cursor of an offset, or of the tail, under the agreement's first version.
    pub fn cursor(&self, offset: Option<u64>) -> anyhow::Result<Cursor> {
        let running = self.router.core().channels.get(&"register".parse()?).context("the channel runs")?;
        let log_id = running.entry.log_id;
        let version = AgreementVersion::new(1);
        let place = |tail| Place { offset: offset.map_or(tail, Offset::new), checkpoint: Offset::new(0) };
        let places = running.feeds.values().map(|feed| place(feed.tail().next)).collect();
        Ok(Cursor { log_id, version, places, snapshot: None })
    }

    /// The cursor of a snapshot under the agreement's first version.
    pub fn snapshot_cursor(&self, snapshot: Snapshot) -> anyhow::Result<Cursor> {
        let running = self.router.core().channels.get(&"register".parse()?).context("the channel runs")?;
        let log_id = running.entry.log_id;
        let version = AgreementVersion::new(1);
        Ok(Cursor { log_id, version, places: PerPartition::none(), snapshot: Some(snapshot) })
    }

    /// Continues where another network's publishing stopped, on the same log.
    pub const fn publish_after(&mut self, other: (Sequence, Digest)) {
        (self.next, self.digest) = other;
    }

    pub const fn published(&self) -> (Sequence, Digest) {
        (self.next, self.digest)
    }

    /// Brings the agreement to a status.
    pub async fn set_status(&self, status: &str) -> anyhow::Result<()> {
        let body = json!({"status": status, "reason": "the test says so"});
        let _: serde_json::Value =
            send_json(self.operator.post("/v1/agreements/A-1/status").json(&body)).await?;
        Ok(())
    }

    /// Waits until the state includes everything that was published.
    pub async fn materialised(&self) -> anyhow::Result<()> {
        let running = self.router.core().channels.get(&"register".parse()?).context("the channel runs")?;
        let end = running.feeds.get(Partition::new(0)).context("a partition")?.tail().next;
        let state = running.materialised.get(Partition::new(0)).context("a partition")?;
        let log = self.router.core().channels.log();
        let deadline = Instant::now() + LIMIT;
        // Another router may write it.
        while state.progress().to < end {
            anyhow::ensure!(Instant::now() < deadline, "the state stays at {}", state.progress().to);
            state.look(log.as_ref()).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
