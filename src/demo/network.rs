//! A network in one process: an authority, a router on a log, and agents over real mutual TLS.
//!
//! Owns the start and stop of parts, and the operator's requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use consumer_agent::agent::Agent as ConsumerAgent;
use consumer_agent::sink::Sink;
use consumer_agent::status::Status;
use platform::client::{Client, ClientError, send_json};
use platform::identity::Identity;
use platform::pki::{Authority, Subject};
use platform::retry::Retry;
use platform::segments::disk::RealDisk;
use platform::shutdown::{DRAIN_LIMIT, Tasks};
use producer_agent::agent::{Agent as ProducerAgent, Opening};
use producer_agent::image::disk_store::DiskImages;
use producer_agent::outbox::lock;
use producer_agent::send::machine::SendMachine;
use producer_agent::send::sender::{Sender, Sent};
use router::declarations::Declared;
use router::{Parts, Router, Watched};
use schemas::agreement::Agreement;
use schemas::avro::schema::AvroSchema;
use schemas::channel::Channel;
use schemas::cursor::Cursor;
use schemas::ids::{AgentId, AgreementNumber, ChannelName, Offset};
use schemas::publish::ChannelStatus;
use scope::secret::NetworkSecret;
use serde::Serialize;
use tokio::sync::watch;

use super::backing::{self, Backing, Opened};

const DOMAIN: &str = "demo.dit";
/// How long the demo waits for anything that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// The first and the longest wait between two looks whether the state has everything.
const STATE_FIRST_LOOK: Duration = Duration::from_millis(10);
const STATE_LAST_LOOK: Duration = Duration::from_millis(200);

pub struct Network {
    dir: PathBuf,
    authority: Authority,
    /// `None` where routers run elsewhere.
    router: Option<Router>,
    words: String,
    url: String,
    operator: Client,
    /// The owners' clients, by channel.
    owners: Mutex<HashMap<ChannelName, Client>>,
    secret: Vec<u8>,
    tasks: Tasks,
}

/// A producer agent at work.
pub struct Producer {
    pub agent: ProducerAgent,
    /// Why it does not send any more.
    fault: Arc<Mutex<Option<String>>>,
    sent: watch::Receiver<Sent>,
}

impl Producer {
    /// The progress of its sending.
    pub fn sent(&self) -> watch::Receiver<Sent> {
        self.sent.clone()
    }

    /// Waits until everything in the outbox is acknowledged.
    pub async fn drained(&mut self) -> anyhow::Result<()> {
        let end = lock(&self.agent.outbox()).next_position();
        let sent = self.sent.wait_for(|sent| sent.acknowledged >= end);
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => {
                let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
                bail!("the producer agent has stopped sending: {}", fault.unwrap_or_default())
            }
            Err(_) => bail!("the router did not acknowledge in time"),
        }
    }
}

/// Whether a cursor is at or past these ends.
pub fn has_reached(cursor: Option<&Cursor>, ends: &[Offset]) -> bool {
    cursor.is_some_and(|cursor| {
        let places = cursor.places.values();
        cursor.places.len() == ends.len() && places.zip(ends).all(|(place, end)| place.offset >= *end)
    })
}

impl Network {
    /// Starts a router on a log of its own, or joins running ones; `dir` is for everything that is kept.
    pub async fn start(dir: &Path, backing: &Backing) -> anyhow::Result<Self> {
        match backing {
            Backing::Embedded => Self::start_router(dir, backing::embedded(dir)?).await,
            Backing::Kafka(brokers) => Self::start_router(dir, backing::kafka(brokers)?).await,
            Backing::Elsewhere(elsewhere) => {
                let authority = Authority::open_or_create(&elsewhere.pki, &elsewhere.domain)?;
                let operator = authority.identity(&Subject::Operator("demo".to_owned()))?;
                Ok(Self {
                    dir: dir.to_owned(),
                    authority,
                    router: None,
                    words: format!("routers at {}", elsewhere.agents),
                    url: elsewhere.agents.clone(),
                    operator: Client::new(&elsewhere.operators, &operator)?,
                    owners: Mutex::default(),
                    secret: elsewhere.secret.clone(),
                    tasks: Tasks::new(),
                })
            }
        }
    }

    async fn start_router(dir: &Path, opened: Opened) -> anyhow::Result<Self> {
        let authority = Authority::new(DOMAIN)?;
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let identity = authority.identity(&Subject::Router { name: "demo".to_owned(), hosts })?;
        let secret = platform::random::bytes::<32>()?.to_vec();
        let parts = Parts {
            log: opened.log,
            routers: opened.routers,
            registry: None,
            identity,
            instance: None,
            domain: DOMAIN.to_owned(),
            secret: NetworkSecret::new(secret.clone())?,
            listen: loopback,
            admin_listen: loopback,
            declared: Declared::default(),
            watched: Watched::default(),
        };
        let router = Router::start(parts).await?;
        let operator = authority.identity(&Subject::Operator("demo".to_owned()))?;
        let operator = Client::new(&format!("https://{}", router.admin_address()), &operator)?;
        Ok(Self {
            dir: dir.to_owned(),
            authority,
            words: opened.words,
            url: format!("https://{}", router.address()),
            router: Some(router),
            operator,
            owners: Mutex::default(),
            secret,
            tasks: Tasks::new(),
        })
    }

    /// What it runs on, in words.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// The identity of an agent.
    pub fn identity(&self, agent: &AgentId) -> anyhow::Result<Identity> {
        Ok(self.authority.identity(&Subject::Agent(agent.clone()))?)
    }

    /// An operator's PUT.
    pub async fn put<T: Serialize + Sync>(&self, path: &str, body: &T) -> anyhow::Result<()> {
        let answer: serde_json::Value = send_json(self.operator.put(path).json(body)).await?;
        drop(answer);
        Ok(())
    }

    pub async fn participant(&self, id: &str, name: &str) -> anyhow::Result<()> {
        self.put("/v1/participants", &serde_json::json!({"id": id, "name": name})).await
    }

    pub async fn channel(&self, channel: &Channel) -> anyhow::Result<()> {
        self.put("/v1/channels", channel).await
    }

    /// Makes or amends an agreement.
    pub async fn agreement(&self, agreement: &Agreement) -> anyhow::Result<()> {
        self.put("/v1/agreements", agreement).await
    }

    /// Revokes an agreement when it is polled; completes when the router has acknowledged.
    pub fn revoke(&self, number: &str, reason: &str) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let body = serde_json::json!({"status": "revoked", "reason": reason});
        let request = self.operator.post(&format!("/v1/agreements/{number}/status")).json(&body);
        async move {
            let answer: serde_json::Value = send_json(request).await?;
            drop(answer);
            Ok(())
        }
    }

    /// The network's secret, to verify hashes with.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Runs something until the network stops.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.tasks.stopping();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = stopping => {}
            }
        });
    }

    /// Registers the next version of a channel's subject, as its provider.
    pub async fn register(
        &self,
        agent: &AgentId,
        channel: &Channel,
        schema: &AvroSchema,
    ) -> anyhow::Result<()> {
        let client = Client::new(&self.url, &self.identity(agent)?)?;
        let block = schemas::change::ChangeCodec::new(schema)?.block_schema().text().to_owned();
        let path = format!("/registry/subjects/{}/versions", channel.registry_subject());
        let answer: serde_json::Value =
            send_json(client.post(&path).json(&serde_json::json!({"schema": block}))).await?;
        drop(answer);
        Ok(())
    }

    /// Starts a producer agent and its sending.
    pub async fn producer(&self, id: &AgentId, channel: &ChannelName) -> anyhow::Result<Producer> {
        let client = Client::new(&self.url, &self.identity(id)?)?;
        let status: ChannelStatus = send_json(client.get(&format!("/v1/channels/{channel}"))).await?;
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(channel.clone(), client.clone());
        let dir = self.dir.join("producer").join(id.participant.as_str());
        let images = DiskImages::open(&dir.join("images"))?;
        let agent = ProducerAgent::open(Opening {
            dir,
            disk: Arc::new(RealDisk),
            images: Box::new(images),
            schema: AvroSchema::from_json(status.channel.schema.clone())?,
            log_id: status.log_id,
            channel: status.channel,
        })?;
        let outbox = agent.outbox();
        let epoch = lock(&outbox).epoch();
        let partitions = status.positions.len();
        let machine = SendMachine::new(id.clone(), epoch, u32::try_from(partitions)?);
        let mut sender = Sender::new(client, channel.clone(), outbox, machine, agent.folded());
        let sent = sender.sent();
        let appended = agent.appended();
        let fault = Arc::new(Mutex::new(None));
        let told = Arc::clone(&fault);
        self.spawn(async move {
            if let Err(error) = sender.run(appended).await {
                tracing::error!(%error, "the producer agent has stopped sending");
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
        });
        Ok(Producer { agent, fault, sent })
    }

    /// Starts a consumer agent on a sink; its replica is compared with the register so often.
    pub fn consumer(
        &self,
        id: &AgentId,
        number: AgreementNumber,
        sink: Box<dyn Sink>,
        reconcile_every: Option<Duration>,
    ) -> anyhow::Result<watch::Receiver<Status>> {
        let agent = ConsumerAgent::new(self.url.clone(), self.identity(id)?, number, sink);
        let agent = agent.with_reconciliation(reconcile_every);
        let status = agent.status();
        self.spawn(async move { drop(agent.run().await) });
        Ok(status)
    }

    /// The present end of each partition of a channel.
    pub async fn ends(&self, channel: &ChannelName) -> anyhow::Result<Vec<Offset>> {
        Ok(self.ends_later(channel)?.await?)
    }

    /// A request for the end of each partition, to send later and from anywhere.
    pub fn ends_later(
        &self,
        channel: &ChannelName,
    ) -> anyhow::Result<impl Future<Output = Result<Vec<Offset>, ClientError>> + Send + use<>> {
        let here = self.router.as_ref().and_then(|router| router.core().channels.get(channel));
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = owners.get(channel).context("the channel has no producer yet")?;
        let asked = owner.get(&format!("/v1/channels/{channel}"));
        Ok(async move {
            if let Some(running) = here {
                return Ok(running.feeds.values().map(|feed| feed.tail().next).collect());
            }
            let status: ChannelStatus = send_json(asked).await?;
            Ok(status.positions.iter().map(|position| position.read_to).collect())
        })
    }

    /// Waits until who joins gets everything from the channel's state.
    pub async fn materialised(&self, channel: &ChannelName) -> anyhow::Result<()> {
        let owner = {
            let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            owners.get(channel).context("the channel has no producer yet")?.clone()
        };
        let path = format!("/v1/channels/{channel}");
        let mut looks = Retry::new(STATE_FIRST_LOOK, STATE_LAST_LOOK);
        let until = async {
            loop {
                let status: ChannelStatus = send_json(owner.get(&path)).await?;
                if status.is_materialised() {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(looks.next_wait()).await;
            }
        };
        tokio::time::timeout(PATIENCE, until).await.context("the state did not get everything in time")?
    }

    /// Stops the agents, then the router.
    pub async fn stop(self) -> anyhow::Result<()> {
        let agents = self.tasks.stop_and_join(DRAIN_LIMIT).await;
        let router = match self.router {
            Some(router) => router.stop(DRAIN_LIMIT).await,
            None => true,
        };
        if !(agents && router) {
            bail!("something did not stop in time");
        }
        Ok(())
    }
}
