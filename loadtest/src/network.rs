//! A network of real processes in a folder of its own: certificates, declarations, configurations.
//!
//! Owns the configuration of a run's parts, and their start until each can take load. The folder is removed at the end, unless a
//! measurement failed.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use parts::ports;
use platform::client::{Client, send_json};
use platform::identity::{Identity, IdentityFiles};
use platform::retry::Retry;
use platform::shutdown::Tasks;
use schemas::cursor::{Cursor, Place};
use schemas::ids::{AgreementVersion, Offset};
use schemas::per_partition::PerPartition;
use schemas::publish::ChannelStatus;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::declared::{CHANNEL, DOMAIN, certificates, declarations};
use crate::gate::Gate;
use crate::outcome::ROUTER;
use crate::process::Part;
use crate::rows::SCHEMA;
use crate::scenario::{Disturbance, LogKind, Scenario, SinkKind, Watched};

/// How long an agent may take until its endpoint answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often metrics are scraped, where a scenario asks for it.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// The settings of a network besides its load.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'s> {
    pub(crate) watched: &'s Watched,
    pub(crate) collector: Option<&'s str>,
    pub(crate) disturbance: Option<Disturbance>,
    /// Where the router's log is.
    pub(crate) log: LogKind,
}

pub(crate) struct Network {
    dir: TempDir,
    router: Part,
    producer: Part,
    endpoint: SocketAddr,
    consumers: Part,
    beside: Vec<Part>,
    scraping: Option<JoinHandle<()>>,
    gate: Option<Gate>,
    tasks: Tasks,
    /// Where the router listens.
    listens: SocketAddr,
}

fn identity(stem: &str) -> String {
    format!(
        "[identity]\ncertificate = \"pki/{stem}.pem\"\nkey = \"pki/{stem}-key.pem\"\nauthorities = \"pki/ca.pem\"\n"
    )
}

/// A router's configuration but for its log; it listens at two addresses.
pub(crate) fn router_text(stem: &str, [router, operators]: [SocketAddr; 2], more: &str) -> String {
    format!(
        "listen = \"{router}\"\nadmin_listen = \"{operators}\"\ndomain = \"{DOMAIN}\"\n\
         network_secret = \"secret\"\n{more}\n{}\n",
        identity(stem)
    )
}

/// A producer agent, for its configuration.
pub(crate) struct Sending<'s> {
    pub(crate) channel: &'s str,
    pub(crate) stem: &'s str,
    pub(crate) router: SocketAddr,
    pub(crate) endpoint: SocketAddr,
    /// Its own, and where files are dropped.
    pub(crate) folders: [&'s str; 2],
}

pub(crate) fn producer_text(agent: &Sending<'_>) -> String {
    let Sending { channel, stem, router, endpoint, folders: [data, drop] } = agent;
    format!(
        "router = \"https://{router}\"\ndomain = \"{DOMAIN}\"\nchannel = \"{channel}\"\nschema = \"schema.avsc\"\n\
         data_dir = \"{data}\"\ndrop_dir = \"{drop}\"\n\n{}\n[http]\nlisten = \"{endpoint}\"\n\n[guard]\n\
         max_delete_percent = 100\nmax_change_percent = 100\n",
        identity(stem)
    )
}

/// Where the network's processes listen.
struct Addresses {
    router: SocketAddr,
    /// Where the producer finds its router.
    way: SocketAddr,
    operators: SocketAddr,
    endpoint: SocketAddr,
    /// Where router and producer serve their metrics.
    observed: [SocketAddr; 2],
}

impl Addresses {
    fn new() -> anyhow::Result<Self> {
        let router = ports::address()?;
        Ok(Self {
            router,
            way: router,
            endpoint: ports::address()?,
            observed: [ports::address()?, ports::address()?],
            operators: ports::address()?,
        })
    }

    /// Writes the files of router and producer into the network's folder.
    fn configure(&self, path: &Path, brokers: &str, setting: Setting<'_>) -> anyhow::Result<()> {
        let Self { router, way, operators, endpoint, observed } = self;
        platform::closed::write(&path.join("secret"), hex::encode(platform::random::bytes::<32>()?))?;
        std::fs::write(path.join("schema.avsc"), SCHEMA)?;
        std::fs::create_dir_all(path.join("drop"))?;
        let observe = |address: SocketAddr| match setting.watched.scraped {
            true => format!("observe_listen = \"{address}\"\n"),
            false => String::new(),
        };
        let prefix = hex::encode(platform::random::bytes::<6>()?);
        let log = match setting.log {
            LogKind::Embedded => String::new(),
            LogKind::Kafka => {
                format!("[kafka]\nbrokers = \"{brokers}\"\nprefix = \"t{prefix}.\"\nreplication = 1\n")
            }
        };
        std::fs::write(path.join("log.toml"), &log)?;
        let declared = match setting.log {
            LogKind::Embedded => "declared = \"declared\"\nlog_dir = \"log\"\n",
            LogKind::Kafka => "declared = \"declared\"\n",
        };
        let router = router_text("router", [*router, *operators], declared) + &log;
        std::fs::write(path.join("router.toml"), observe(observed[0]) + &router)?;
        let producer = producer_text(&Sending {
            channel: CHANNEL,
            stem: "provider",
            router: *way,
            endpoint: *endpoint,
            folders: ["producer", "drop"],
        });
        Ok(std::fs::write(path.join("producer.toml"), observe(observed[1]) + &producer)?)
    }
}

/// Asks for metrics, as a Prometheus would.
async fn scrape(urls: Vec<String>) {
    let client = reqwest::Client::new();
    let mut turn = tokio::time::interval(SCRAPE_EVERY);
    loop {
        turn.tick().await;
        for url in &urls {
            if let Ok(answer) = client.get(url).send().await {
                // Prometheus would keep the contents; only the reading to the end costs the process.
                drop(answer.bytes().await);
            }
        }
    }
}

impl Network {
    /// Starts everything; returns when streams are open and the agent takes changes.
    pub(crate) async fn start(
        scenario: &Scenario,
        brokers: &str,
        setting: Setting<'_>,
    ) -> anyhow::Result<Self> {
        let watched = setting.watched;
        let dir = tempfile::Builder::new().prefix("dit-load-").tempdir()?;
        let path = dir.path();
        certificates(path, scenario.agreements())?;
        declarations(path, scenario)?;
        let mut addresses = Addresses::new()?;
        let tasks = Tasks::new();
        let gate = match scenario.has_gate() {
            true => Some(Gate::before(vec![addresses.router], &tasks).await?),
            false => None,
        };
        addresses.way = gate.as_ref().map_or(addresses.router, Gate::address);
        addresses.configure(path, brokers, setting)?;
        let Addresses { router, endpoint, observed, .. } = addresses;
        let environment = environment(watched, setting.collector);
        let of_router = with_allocator(&environment);
        let mut running = Part::start("router", path, &["router", "--config", "router.toml"], &of_router)?;
        running.until("it listened", |line| line.ready).await?;
        let producer =
            Part::start("producer", path, &["producer", "--config", "producer.toml"], &environment)?;
        std::fs::create_dir_all(path.join("consumers"))?;
        let consumers = |name, numbers: Range<u32>, sink: SinkKind, line: Option<u32>| {
            let arguments = consumer_arguments(router, numbers, sink, line);
            Part::start(name, path, &arguments, &environment)
        };
        let counting = scenario.consumers();
        let others = scenario.beside;
        let mut beside = Vec::new();
        let idle = counting + others.idle;
        let stalled = idle + others.stalled;
        let trickling = stalled + others.trickling;
        for (name, numbers, line) in [
            ("idle consumers", counting..idle, None),
            ("stalled consumers", idle..stalled, Some(0)),
            ("trickling consumers", stalled..trickling, Some(1)),
            ("matching consumers", trickling..trickling + others.matching, None),
        ] {
            if !numbers.is_empty() {
                beside.push(consumers(name, numbers, SinkKind::None, line)?);
            }
        }
        let mut consumers = consumers("consumers", 0..counting, scenario.sink, None)?;
        for part in beside.iter_mut().chain([&mut consumers]) {
            part.until("its streams were open", |line| line.ready).await?;
        }
        answers(endpoint).await?;
        let scraping = watched.scraped.then(|| {
            tokio::spawn(scrape(observed.map(|address| format!("http://{address}/metrics")).to_vec()))
        });
        Ok(Self {
            dir,
            router: running,
            producer,
            endpoint,
            consumers,
            beside,
            scraping,
            gate,
            tasks,
            listens: router,
        })
    }

    /// Waits until the channel's state has everything that the router has read.
    pub(crate) async fn until_materialised(&self) -> anyhow::Result<ChannelStatus> {
        let identity = Identity::load(&IdentityFiles::beside(&self.path("pki/provider.pem")))?;
        let client = Client::new(&format!("https://{}", self.listens), &identity)?;
        let mut retry = Retry::new(Duration::from_millis(10), Duration::from_millis(200));
        let until = async {
            loop {
                let status: ChannelStatus = send_json(client.get(&format!("/v1/channels/{CHANNEL}"))).await?;
                if status.is_materialised() {
                    return anyhow::Ok(status);
                }
                tokio::time::sleep(retry.next_wait()).await;
            }
        };
        tokio::time::timeout(PATIENCE, until).await.context("the state does not get everything")?
    }

    /// Starts the agent of the last agreement, whose replica is empty.
    pub(crate) fn join_late(&self, scenario: &Scenario, status: &ChannelStatus) -> anyhow::Result<Part> {
        let number = scenario.agreements() - 1;
        let mut arguments = consumer_arguments(self.listens, number..number + 1, scenario.sink, None);
        if scenario.is_from_earliest() {
            let begin = Place { offset: Offset::new(0), checkpoint: Offset::new(0) };
            let places = PerPartition::filled(scenario.partitions, begin);
            let version = AgreementVersion::new(1);
            let cursor = Cursor { log_id: status.log_id, version, places, snapshot: None };
            arguments.push(format!("--cursor={cursor}"));
        }
        Part::start("late joiner", self.dir.path(), &arguments, &[])
    }

    /// Where its router listens.
    pub(crate) const fn listens(&self) -> SocketAddr {
        self.listens
    }

    /// Runs what is to end with it.
    pub(crate) const fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Keeps its folder, and says where the logs are.
    pub(crate) fn keep_logs(&mut self) -> String {
        self.dir.disable_cleanup(true);
        format!("logs are in {}", self.dir.path().display())
    }

    /// A path in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The producer agent's endpoint.
    pub(crate) const fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }

    /// The line between agent and router, where it can be closed.
    pub(crate) const fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// The part that counts the events that arrived.
    pub(crate) const fn consumers(&mut self) -> &mut Part {
        &mut self.consumers
    }

    /// Waits until the matching consumers have everything, too.
    pub(crate) async fn until_matched(&mut self, scenario: &Scenario) -> anyhow::Result<()> {
        let all = scenario.events() * u64::from(scenario.beside.matching);
        match self.beside.last_mut() {
            // They are the last of those beside.
            Some(matching) if all > 0 => {
                matching.until("everything had arrived", |line| line.events >= all).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Its processes by name.
    pub(crate) fn parts(&self) -> [(&'static str, &Part); 3] {
        [("producer agent", &self.producer), (ROUTER, &self.router), ("consumer agents", &self.consumers)]
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        if let Some(scraping) = self.scraping {
            scraping.abort();
        }
        for part in self.beside {
            part.stop().await?;
        }
        self.consumers.stop().await?;
        self.producer.stop().await?;
        self.router.stop().await?;
        anyhow::ensure!(self.tasks.stop_and_join(PATIENCE).await, "the line to the router did not end");
        Ok(())
    }
}

/// The arguments of consumer agents in a process of their own.
pub(crate) fn consumer_arguments(
    router: SocketAddr,
    numbers: Range<u32>,
    sink: SinkKind,
    line: Option<u32>,
) -> Vec<String> {
    let url = format!("https://{router}");
    let sink = format!("{sink:?}").to_lowercase();
    let fixed = ["consumers", "--router", &url, "--sink", &sink, "--pki", "pki", "--data", "consumers"];
    let mut arguments = fixed.map(ToOwned::to_owned).to_vec();
    arguments.extend([format!("--first={}", numbers.start), format!("--count={}", numbers.len())]);
    arguments.extend(line.map(|rate| format!("--line={rate}")));
    arguments
}

fn environment(watched: &Watched, collector: Option<&str>) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let mut all = vec![pair("RUST_LOG", "warn".to_owned())];
    if let (Some(ratio), Some(url)) = (watched.traced, collector) {
        all.push(pair("OTEL_EXPORTER_OTLP_ENDPOINT", url.to_owned()));
        all.push(pair("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()));
        all.push(pair("OTEL_TRACES_SAMPLER_ARG", ratio.to_string()));
    }
    all
}

/// Of a router: its service unit and the chart set these, so that large buffers go back to the system.
fn with_allocator(environment: &[(String, String)]) -> Vec<(String, String)> {
    let thresholds = [("MALLOC_MMAP_THRESHOLD_", "524288"), ("MALLOC_TRIM_THRESHOLD_", "1048576")];
    let thresholds = thresholds.map(|(name, value)| (name.to_owned(), value.to_owned()));
    environment.iter().cloned().chain(thresholds).collect()
}

/// Waits until a producer agent takes changes.
pub(crate) async fn answers(endpoint: SocketAddr) -> anyhow::Result<()> {
    let mut retry = Retry::new(Duration::from_millis(10), Duration::from_millis(200));
    let until = async {
        while tokio::net::TcpStream::connect(endpoint).await.is_err() {
            tokio::time::sleep(retry.next_wait()).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.context("the producer agent's endpoint did not answer")
}
