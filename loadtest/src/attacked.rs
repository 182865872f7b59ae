//! What honest agents feel of an attack on a router: in quiet, during an attack on another router, and during one on
//! their own, by turns in one run.
//!
//! Owns the honest agents and the table. A change passes the producer agent's endpoint, its router and a consumer's
//! stream; next to it, a client connects anew for each request. Attackers burn the CPU of the machine that all share
//! here; the attack on another router shows how much that alone costs.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use parts::ports;
use platform::client::send;
use platform::pki::{Authority, Subject};
use serde_json::json;
use support::network::Stream;
use support::publisher::SCHEMA;
use support::site::{Process, Site};
use tokio::process::{Child, Command};

use crate::parts::attackers::Kind;
use crate::process::taken;

/// Between two changes of the honest agents.
const PACE: Duration = Duration::from_millis(20);
const KEYS: u64 = 1_000;
/// A change that takes longer is lost, and the run fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long attackers have to begin.
const BEGINNING: Duration = Duration::from_secs(1);
/// The most that the slowest hundredth may take under an attack, as a multiple.
const MOST: f64 = 2.0;

/// The times of one turn, in microseconds.
struct Felt {
    changes: Histogram<u64>,
    connections: Histogram<u64>,
    /// The router's CPU seconds, and the seconds that passed.
    router: (f64, f64),
}

impl Felt {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { changes: Histogram::new(3)?, connections: Histogram::new(3)?, router: (0.0, 0.0) })
    }
}

struct Honest {
    site: Site,
    /// Another router, which no honest agent uses.
    other: Site,
    endpoint: String,
    http: reqwest::Client,
    stream: Stream,
    next: u64,
    router: Process,
    _running: Vec<Process>,
}

impl Honest {
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA)?;
        let channel = json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 1,
            "key": {"fields": ["k"]}, "schema": schema});
        let agreement = |number: &str, consumer: &str| {
            json!({"number": number, "version": 1, "provider": "4000", "consumer": consumer, "channel": "register",
                "purpose": "load", "legal_basis": "load", "valid_from": "2020-01-01T00:00:00Z", "history": "full",
                "schema_version": 1, "rows": "true", "fields": {"k": "keep", "t": "keep"}})
        };
        let declared = [
            ("channels/register.json", channel),
            ("agreements/1.json", agreement("A-1", "9000")),
            ("agreements/2.json", agreement("A-2", "9001")),
        ];
        let own = std::env::current_exe()?;
        let own = own.to_str().context("the program's path")?;
        let site = Site::new(&dir.join("attacked"), own, &declared)?;
        let other = Site::new(&dir.join("other"), own, &declared)?;
        for site in [&site, &other] {
            site.participants(&["4000", "9000", "9001"])?;
            let authority = Authority::open_or_create(&site.path("pki"), "test.dit")?;
            authority.issue_to(&site.path("pki"), ATTACKER, &Subject::Agent("9001/main".parse()?))?;
        }
        let listen = ports::address()?;
        site.producer("4000/main", "register", SCHEMA, &format!("[http]\nlisten = \"{listen}\"\n"))?;
        let start =
            |site: &Site, part| site.start(part, &["part", part, "--config", &format!("{part}.toml")]);
        let router = start(&site, "router")?;
        let running = vec![start(&other, "router")?, start(&site, "producer")?];
        let stream = Stream::open(&site.agent("9000/main")?, "A-1", "latest").await?;
        let endpoint = format!("http://{listen}/v1/changes");
        let mut honest = Self {
            site,
            other,
            endpoint,
            http: reqwest::Client::new(),
            stream,
            next: 0,
            router,
            _running: running,
        };
        // The agent listens when it has opened its channel.
        let begun = Instant::now();
        while honest.change().await.is_err() {
            anyhow::ensure!(
                begun.elapsed() < PATIENCE,
                "the agent does not listen: {}",
                honest.site.log("producer")
            );
            tokio::time::sleep(PACE).await;
        }
        Ok(honest)
    }

    /// Sends one change, and waits until a consumer has it.
    async fn change(&mut self) -> anyhow::Result<()> {
        self.next += 1;
        let key = format!("k{}", self.next % KEYS);
        let change = json!({"op": "u", "row": {"k": key, "t": self.next.to_string(), "secret": "x"}});
        let sent = self
            .http
            .post(&self.endpoint)
            .header("content-type", "application/json")
            .body(change.to_string());
        sent.send().await?.error_for_status()?;
        self.stream.words.clear();
        let word = format!("upsert {key} ");
        tokio::time::timeout(PATIENCE, self.stream.until(|said| said.starts_with(&word))).await?
    }

    async fn feel(&mut self, seconds: u64, felt: &mut Felt) -> anyhow::Result<()> {
        let mut turns = tokio::time::interval(PACE);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let turn = Instant::now();
        let before = taken(self.router.id());
        while turn.elapsed() < Duration::from_secs(seconds) {
            turns.tick().await;
            let begun = Instant::now();
            self.change().await.with_context(|| self.site.log("router"))?;
            felt.changes.record(micros(begun))?;
            let client = self.site.agent("9000/main")?;
            let begun = Instant::now();
            send(client.get("/v1/me")).await?;
            felt.connections.record(micros(begun))?;
        }
        felt.router.0 += taken(self.router.id()).cpu_seconds - before.cpu_seconds;
        felt.router.1 += turn.elapsed().as_secs_f64();
        Ok(())
    }
}

fn micros(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

const ATTACKER: &str = "attacker";

fn attacking(kind: Kind, site: &Site) -> anyhow::Result<Child> {
    let name = kind.to_possible_value().context("a kind")?;
    let router = site.agents().replace("https://", "");
    let counted = std::fs::File::create(site.path("attempts"))?;
    // Attackers would have machines of their own. Here they share one core, which any other process takes at once.
    let mut idle = Command::new("chrt");
    idle.env("TOKIO_WORKER_THREADS", "1").args(["--idle", "0"]).arg(std::env::current_exe()?);
    idle.args([
        "part",
        "attackers",
        "--kind",
        name.get_name(),
        "--router",
        &router,
        "--stem",
        ATTACKER,
        "--pki",
    ]);
    let child = idle.arg(site.path("pki")).stdout(counted).stderr(Stdio::null()).kill_on_drop(true).spawn();
    child.context("the attackers could not be started")
}

/// The slowest hundredth, in microseconds: in quiet, while another router is attacked, and while this one is.
struct Slowest([u64; 3]);

#[allow(clippy::cast_precision_loss, reason = "microseconds of minutes are far below 2^52")]
impl Slowest {
    /// As a multiple of the time in quiet.
    fn beside_quiet(&self) -> f64 {
        self.0[2] as f64 / self.0[0] as f64
    }

    /// As a multiple of the time during an attack on another router.
    fn beside_other(&self) -> f64 {
        self.0[2] as f64 / self.0[1] as f64
    }
}

impl std::fmt::Display for Slowest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [quiet, other, attacked] = self.0;
        write!(
            f,
            "{quiet:>6} {other:>6} {attacked:>6} {:>5.2} {:>5.2}",
            self.beside_quiet(),
            self.beside_other()
        )
    }
}

/// Measures one turn under an attack; how many attempts there were.
async fn attacked(
    honest: &mut Honest,
    kind: Kind,
    is_other: bool,
    seconds: u64,
    felt: &mut Felt,
) -> anyhow::Result<String> {
    let site = if is_other { &honest.other } else { &honest.site };
    let mut child = attacking(kind, site)?;
    let counted = site.path("attempts");
    // The start of the attack is not measured.
    tokio::time::sleep(BEGINNING).await;
    honest.feel(seconds, felt).await?;
    child.kill().await?;
    let counted = std::fs::read_to_string(counted)?;
    Ok(counted.lines().last().context("the attackers told nothing")?.to_owned())
}

/// Attacks of these kinds, or of all kinds where none is named: turns of so many seconds, so many times; whether honest
/// agents felt little of every attack.
pub(crate) async fn run(kinds: &[Kind], seconds: u64, rounds: u32) -> anyhow::Result<bool> {
    let dir = tempfile::Builder::new().prefix("dit-attacked-").tempdir()?;
    let mut honest = Honest::start(dir.path()).await?;
    honest.feel(seconds.min(3), &mut Felt::new()?).await?;
    println!(
        "The slowest hundredth, in microseconds: in quiet, beside an attack on another router, under attack;"
    );
    println!(
        "and under attack as a multiple of the first and of the second. The router's CPU is in hundredths of a core."
    );
    println!(
        "{:<17} {:>8}  {:>32}  {:>32}  {:>16}",
        "attack",
        "attempts",
        "a change until it is received",
        "a request on a new connection",
        "the router's CPU"
    );
    let mut is_good = true;
    let kinds = if kinds.is_empty() { Kind::value_variants() } else { kinds };
    for kind in kinds {
        let mut felt = [Felt::new()?, Felt::new()?, Felt::new()?];
        let [quiet, other, under] = &mut felt;
        let mut attempts = String::new();
        for _ in 0..rounds {
            honest.feel(seconds, quiet).await?;
            attacked(&mut honest, *kind, true, seconds, other).await?;
            attempts = attacked(&mut honest, *kind, false, seconds, under).await?;
        }
        let slowest = |of: fn(&Felt) -> &Histogram<u64>| {
            Slowest(felt.each_ref().map(|felt| of(felt).value_at_quantile(0.99)))
        };
        let changes = slowest(|felt| &felt.changes);
        let connections = slowest(|felt| &felt.connections);
        let name = kind.to_possible_value().context("a kind")?.get_name().to_owned();
        let [quiet, other, under] = felt.each_ref().map(|felt| 100.0 * felt.router.0 / felt.router.1);
        println!(
            "{name:<17} {attempts:>8}  {changes}  {connections}  {quiet:>4.0} {other:>5.0} {under:>5.0}"
        );
        let is_felt_little = changes.beside_other() <= MOST && connections.beside_other() <= MOST;
        if !is_felt_little {
            println!("{name}: felt more than {MOST} times as much as beside the other router");
        }
        is_good &= is_felt_little;
    }
    Ok(is_good)
}
