//! `dit demo`: a made-up network through four days, with everything that agreements are for.
//!
//! Owns the play: two registers, six consumers under different agreements, a late joiner, the merger of
//! municipalities of 2021, a revocation in mid-stream, single changes to measure by, and the verification.

mod cast;
mod expect;
mod generate;
mod story;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use consumer_agent::phase::Phase;
use consumer_agent::sink::Sink;
use consumer_agent::sink::file::FileSink;
use platform::segments::disk::RealDisk;
use producer_agent::source::file::source::FileSource;
use producer_agent::source::format::TableFormat;
use producer_agent::take::guard::Guard;
use producer_agent::take::report::FileReport;
use schemas::cursor::in_words;
use schemas::ids::{AgentId, Offset};
use serde::Serialize;
use tokio::task::JoinHandle;

use self::cast::{BUREAU, COMPANIES, IKSKILE, OGRE, PLACES, Part, REGISTER, RIGA};
use self::expect::{Ledger, View, held, holds_denied};
use self::generate::{COMPANY_COLUMNS, Companies, MERGERS, OPERATION, PLACE_COLUMNS, TradingPlaces};
use super::backing::Backing;
use super::fault::{Fault, FaultySink, check_planted};
use super::network::{Network, PATIENCE, Producer};
use super::progress::Progress;
use super::replicas::{Consumer, ReplicaVerdict, VersionVerdict};

const COMPANY_COUNT: u64 = 12_000;
const PLACE_COUNT: u64 = 300;
/// Single changes by which the latency is measured.
const SINGLE_CHANGES: usize = 25;

/// What to play.
#[derive(Debug, Clone)]
pub struct CompanyOptions {
    /// The seed of the made-up registers.
    pub seed: u64,
    /// What the network runs on.
    pub backing: Backing,
    /// Where to keep everything.
    pub keep: Option<PathBuf>,
    pub fault: Option<Fault>,
}

/// The result of the revocation.
#[derive(Debug, Clone, Serialize)]
pub struct Revocation {
    /// The consumer whose agreement it was.
    pub participant: String,
    /// The last position delivered, by partition.
    pub position: String,
    /// The router's message to its agent.
    pub told: String,
    /// Milliseconds from the operator's request to the acknowledgement.
    pub acknowledged_ms: f64,
    /// Offsets of the channel that were logged after that position, and never reached the consumer.
    pub withheld: u64,
    /// Whether its replica holds only rows from before the acknowledgement, holds all that did not change meanwhile,
    /// and has its cursor before it.
    pub holds: bool,
}

/// From a change file to the row in a municipality's agent, one change at a time; files are written when it is quiet.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Changes.
    pub samples: usize,
    pub median_ms: f64,
    pub worst_ms: f64,
}

/// The result of the play.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Whether every replica is what it should be.
    pub equal: bool,
    /// By file.
    pub versions: Vec<VersionVerdict>,
    /// By consumer.
    pub replicas: Vec<ReplicaVerdict>,
    pub revoked: Revocation,
    pub latency: Latency,
    /// Seconds from the start to the verified end.
    pub seconds: f64,
    /// The most memory that the whole network and its verification took.
    pub peak_memory_bytes: Option<u64>,
    /// Where everything was kept.
    pub kept: Option<PathBuf>,
}

/// The router's acknowledgement of a revocation.
struct Acknowledged {
    /// How long the operator waited for it.
    after: Duration,
    /// The end of the log then, by partition.
    ends: Vec<Offset>,
}

struct Play {
    options: CompanyOptions,
    dir: PathBuf,
    network: Network,
    progress: Progress,
    companies: Companies,
    places: TradingPlaces,
    register: Producer,
    municipality: Producer,
    consumers: Vec<(Part, Consumer)>,
    ledgers: [Ledger; 2],
    versions: Vec<VersionVerdict>,
}

/// Plays it and verifies every replica.
pub async fn play(options: CompanyOptions) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let temporary = tempfile::tempdir()?;
    let dir = super::folder(options.keep.as_deref(), temporary.path())?;
    let mut play = Play::prepare(options, dir).await?;
    let outcome = play.days(began).await;
    play.progress.end();
    play.network.stop().await?;
    outcome
}

impl Play {
    async fn prepare(options: CompanyOptions, dir: PathBuf) -> anyhow::Result<Self> {
        let progress = Progress::new();
        progress.step("starting");
        std::fs::create_dir_all(dir.join("files"))?;
        let network = Network::start(&dir, &options.backing).await?;
        network.spawn(progress.clone().draw());
        let parts = cast::cast();
        network.participant(REGISTER, "Uzņēmumu reģistrs").await?;
        for part in &parts {
            network.participant(part.participant, part.name).await?;
        }
        for channel in cast::channels() {
            network.channel(&serde_json::from_value(channel)?).await?;
        }
        let sender = |participant: &str| -> anyhow::Result<AgentId> {
            Ok(AgentId { participant: participant.parse()?, agent: "sender".parse()? })
        };
        let register = network.producer(&sender(REGISTER)?, &COMPANIES.parse()?).await?;
        let municipality = network.producer(&sender(OGRE)?, &PLACES.parse()?).await?;
        progress.watch_sender(register.sent());
        progress.watch_sender(municipality.sent());
        progress.say(format!(
            "A made-up network, seed {}: {}, two registers, {} consumers under different agreements.",
            options.seed,
            network.words(),
            parts.len()
        ));
        Ok(Self {
            companies: Companies::new(options.seed, COMPANY_COUNT),
            places: TradingPlaces::new(options.seed, PLACE_COUNT),
            options,
            dir,
            network,
            progress,
            register,
            municipality,
            consumers: Vec::new(),
            ledgers: [Ledger::default(), Ledger::default()],
            versions: Vec::new(),
        })
    }

    async fn days(&mut self, began: Instant) -> anyhow::Result<Outcome> {
        for part in cast::cast() {
            if part.participant != RIGA {
                self.join(part).await?;
            }
        }
        self.day("2021-06-29", "the registers as they stand").await?;
        self.companies.ordinary_day();
        self.places.ordinary_day();
        self.day("2021-06-30", "an ordinary day").await?;
        self.settle(&[]).await?;
        let riga =
            cast::cast().into_iter().find(|part| part.participant == RIGA).context("the late joiner")?;
        self.network.materialised(&riga.channel.parse()?).await?;
        self.progress.say(format!("{} joins late: each present row once, then what happens.", riga.name));
        self.join(riga).await?;
        let (acknowledged, known) = self.merger().await?;
        self.companies.ordinary_day();
        self.places.ordinary_day();
        self.day("2021-07-02", "business goes on").await?;
        self.settle(&[BUREAU]).await?;
        let latency = self.single_changes().await?;
        self.settle(&[BUREAU]).await?;
        self.progress.step("verifying");
        let revoked = self.revocation(&acknowledged, &known).await?;
        let replicas = self.verify(&revoked)?;
        let found = replicas.iter().all(|replica| replica.equal);
        let equal = found && revoked.holds && check_planted(self.options.fault, found);
        Ok(Outcome {
            equal,
            versions: std::mem::take(&mut self.versions),
            replicas,
            revoked,
            latency,
            seconds: began.elapsed().as_secs_f64(),
            peak_memory_bytes: super::peak_memory_bytes(),
            kept: self.options.keep.clone(),
        })
    }

    /// Merges one municipality after another; meanwhile an agreement is revoked. Returns every state of the register up
    /// to the acknowledgement, too.
    async fn merger(&mut self) -> anyhow::Result<(Acknowledged, Vec<Ledger>)> {
        let mut known = vec![self.companies_ledger().clone()];
        let revoking = self.revoke_in_mid_stream().await?;
        for (number, (from, into)) in MERGERS.iter().enumerate() {
            let was_acknowledged = revoking.is_finished();
            self.companies.merge(from, into);
            self.day(&format!("2021-07-01-{number}"), &format!("{from} becomes part of {into}")).await?;
            if !was_acknowledged {
                known.push(self.companies_ledger().clone());
            }
        }
        let acknowledged = revoking.await??;
        self.progress.say(format!(
            "{BUREAU}'s agreement was revoked while that went on; acknowledged after {:.1} ms.",
            millis(acknowledged.after)
        ));
        Ok((acknowledged, known))
    }

    fn companies_ledger(&self) -> &Ledger {
        let [companies, _] = &self.ledgers;
        companies
    }

    async fn join(&mut self, part: Part) -> anyhow::Result<()> {
        let is_victim = part.participant == OGRE;
        let rows = match self.options.fault {
            Some(Fault::Leak) if is_victim => r#"municipality in ["Ogres novads", "Rīga"]"#,
            _ => part.rows,
        };
        let agreement = serde_json::from_value(part.agreement(rows))?;
        self.network.agreement(&agreement).await?;
        let dir = self.dir.join("replica").join(part.participant);
        let sink: Box<dyn Sink> = Box::new(FileSink::open(Arc::new(RealDisk), &dir, part.channel)?);
        let sink = match self.options.fault.filter(|_| is_victim) {
            Some(fault) => Box::new(FaultySink::new(sink, fault)),
            None => sink,
        };
        let id = AgentId { participant: part.participant.parse()?, agent: "receiver".parse()? };
        let status = self.network.consumer(&id, agreement.number, sink, None)?;
        self.progress.watch_replica(status.clone());
        let consumer = Consumer {
            participant: part.participant.to_owned(),
            territory: part.territory.map(str::to_owned),
            channel: part.channel.parse()?,
            dir,
            table: None,
            version: 1,
            status,
        };
        self.consumers.push((part, consumer));
        Ok(())
    }

    /// Both registers drop their files of a day.
    async fn day(&mut self, name: &str, what: &str) -> anyhow::Result<()> {
        self.progress.step(name);
        let file = self.dir.join("files").join(format!("companies-{name}.csv"));
        self.companies.write(&file)?;
        let companies = take(&self.register, &file)?;
        let places = self.dir.join("files").join(format!("trading-places-{name}.csv"));
        self.places.write(&places)?;
        let report = take(&self.municipality, &places)?;
        let counts = companies.counts;
        self.progress.say(format!(
            "{name}, {what}: {} companies created, {} updated, {} deleted; {} trading places changed.",
            counts.create,
            counts.update,
            counts.delete,
            report.counts.create + report.counts.update + report.counts.delete
        ));
        self.versions.push(VersionVerdict::of(companies, &file));
        self.versions.push(VersionVerdict::of(report, &places));
        let [company_ledger, place_ledger] = &mut self.ledgers;
        company_ledger.fold(&file, first(&COMPANY_COLUMNS))?;
        place_ledger.fold(&places, first(&PLACE_COLUMNS))?;
        self.register.drained().await?;
        self.municipality.drained().await
    }

    /// The operator revokes the bureau's agreement as soon as the first of the next events has reached the bureau.
    async fn revoke_in_mid_stream(&self) -> anyhow::Result<JoinHandle<anyhow::Result<Acknowledged>>> {
        let (part, bureau) = self.consumer(BUREAU)?;
        let mut status = bureau.status.clone();
        let begun = self.network.ends(&bureau.channel).await?;
        let revoking = self.network.revoke(&part.number(), "the contract has ended");
        let ends = self.network.ends_later(&bureau.channel)?;
        Ok(tokio::spawn(async move {
            let moved = status.wait_for(|status| {
                let places = status.cursor.iter().flat_map(|cursor| cursor.places.values().zip(&begun));
                places.into_iter().any(|(place, begun)| place.offset > *begun)
            });
            tokio::time::timeout(PATIENCE, moved).await.context("nothing reached the bureau")??;
            let asked = Instant::now();
            revoking.await?;
            Ok(Acknowledged { after: asked.elapsed(), ends: ends.await? })
        }))
    }

    fn consumer(&self, participant: &str) -> anyhow::Result<&(Part, Consumer)> {
        let found = self.consumers.iter().find(|(part, _)| part.participant == participant);
        found.with_context(|| format!("{participant} does not take part"))
    }

    async fn settle(&mut self, without: &[&str]) -> anyhow::Result<()> {
        for (part, consumer) in &mut self.consumers {
            if !without.contains(&part.participant) {
                consumer.settle(&self.network).await?;
            }
        }
        Ok(())
    }

    /// One change at a time: from a change file to the row in Ogre's agent.
    async fn single_changes(&mut self) -> anyhow::Result<Latency> {
        self.progress.step("single changes");
        let mut status = self.consumer(OGRE)?.1.status.clone();
        let mut times = Vec::with_capacity(SINGLE_CHANGES);
        for number in 0..SINGLE_CHANGES {
            let file = self.dir.join("files").join(format!("companies-change-{number:02}.csv"));
            self.companies.write_one_change("Ogres novads", &file)?;
            let asked = Instant::now();
            let before = status.borrow().delivered.changed;
            let report = take(&self.register, &file)?;
            if report.counts.update != 1 {
                bail!("{}: not the one change that it is: {report:?}", file.display());
            }
            self.register.drained().await?;
            let arrived = status.wait_for(|status| status.delivered.changed > before);
            tokio::time::timeout(PATIENCE, arrived).await.context("a change did not arrive")??;
            times.push(asked.elapsed());
            self.versions.push(VersionVerdict::of(report, &file));
            let [company_ledger, _] = &mut self.ledgers;
            company_ledger.fold(&file, first(&COMPANY_COLUMNS))?;
        }
        times.sort_unstable();
        let at = |index: usize| times.get(index).copied().map(millis).unwrap_or_default();
        let latency = Latency {
            samples: times.len(),
            median_ms: at(times.len() / 2),
            worst_ms: at(times.len().saturating_sub(1)),
        };
        self.progress.say(format!(
            "{} single changes, one after another: {:.1} ms from the file to the row in Ogre's agent, {:.1} ms at worst.",
            latency.samples, latency.median_ms, latency.worst_ms
        ));
        Ok(latency)
    }

    /// Verifies the bureau's replica: its rows are from some time up to the acknowledgement, and none is later.
    async fn revocation(&self, acknowledged: &Acknowledged, known: &[Ledger]) -> anyhow::Result<Revocation> {
        let (part, bureau) = self.consumer(BUREAU)?;
        let mut status = bureau.status.clone();
        let ended = status.wait_for(|status| status.phase == Phase::Ended);
        let status = tokio::time::timeout(PATIENCE, ended).await.context("the bureau was not told")??.clone();
        let view = part.view(self.network.secret());
        let views: Vec<Vec<String>> = known.iter().map(|ledger| view.of(ledger)).collect();
        let permitted: HashSet<&String> = views.iter().flatten().collect();
        let rows = held(&bureau.file())?;
        // Rows that never changed in that time must be there.
        let steady = |row: &&String| views.iter().all(|view| view.binary_search(row).is_ok());
        let has_steady = views.iter().flatten().filter(steady).all(|row| rows.binary_search(row).is_ok());
        let places = status.cursor.map(|cursor| cursor.places).unwrap_or_default();
        let is_before = places.len() == acknowledged.ends.len()
            && places.values().zip(&acknowledged.ends).all(|(place, end)| place.offset <= *end);
        let ends = self.network.ends(&bureau.channel).await?;
        let withheld =
            places.values().zip(&ends).map(|(place, end)| end.get().saturating_sub(place.offset.get())).sum();
        Ok(Revocation {
            participant: BUREAU.to_owned(),
            position: in_words(&places),
            told: status.last_error.unwrap_or_default(),
            acknowledged_ms: millis(acknowledged.after),
            withheld,
            holds: withheld > 0 && is_before && has_steady && rows.iter().all(|row| permitted.contains(row)),
        })
    }

    fn verify(&self, revoked: &Revocation) -> anyhow::Result<Vec<ReplicaVerdict>> {
        let [companies, places] = &self.ledgers;
        let mut verdicts = Vec::new();
        for (part, consumer) in &self.consumers {
            let (ledger, columns): (_, &[&str]) = match part.channel {
                COMPANIES => (companies, &COMPANY_COLUMNS),
                _ => (places, &PLACE_COLUMNS),
            };
            let view: View = part.view(self.network.secret());
            let rows = held(&consumer.file())?;
            let equal = match part.participant {
                BUREAU => revoked.holds,
                _ => rows == view.of(ledger),
            };
            let equal = equal && !holds_denied(&consumer.dir)?;
            verdicts.push(consumer.verdict(rows.len(), equal, part.trimmed(columns)));
        }
        let merged = verdicts.iter().find(|verdict| verdict.participant == IKSKILE);
        if merged.is_none_or(|verdict| verdict.rows > 0 && self.options.fault.is_none()) {
            bail!("the municipality that was merged still holds rows");
        }
        Ok(verdicts)
    }
}

fn take(producer: &Producer, file: &Path) -> anyhow::Result<FileReport> {
    let format = TableFormat {
        delimiter: Some(';'),
        operation_column: Some(OPERATION.to_owned()),
        ..TableFormat::default()
    };
    let report = tokio::task::block_in_place(|| {
        producer.agent.take(&FileSource::open(file, &format)?, Guard::default(), false)
    })?;
    match (&report.guard, report.parked.first()) {
        (Some(why), _) => bail!("{}: held by the guard: {why}", file.display()),
        (_, Some(parked)) => bail!("{}, line {}: {}", file.display(), parked.location.line, parked.reason),
        (None, None) => Ok(report),
    }
}

fn first(columns: &'static [&'static str]) -> &'static str {
    columns.first().copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
