//! `dit demo --register`: a user's own files as successive versions of a register.
//!
//! Owns the play: one consumer for each territory, one late joiner that may have all rows, amendments where the
//! header changes, and the verification at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use consumer_agent::sink::Sink;
use consumer_agent::sink::file::FileSink;
use consumer_agent::sink::postgres::MOST_FIELDS;
use platform::segments::disk::RealDisk;
use platform::shown;
use producer_agent::source::cells::in_quotes;
use producer_agent::source::file::source::FileSource;
use producer_agent::source::format::TableFormat;
use producer_agent::source::location::Location;
use producer_agent::take::guard::Guard;
use producer_agent::take::report::FileReport;
use schemas::agreement::Agreement;
use schemas::avro::schema::AvroSchema;
use schemas::channel::Channel;
use schemas::digest::hash128;
use schemas::ids::AgentId;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use super::backing::Backing;
use super::fault::{Fault, FaultySink, check_planted};
use super::layout::{Columns, territories};
use super::network::{Network, Producer};
use super::progress::Progress;
use super::raw::Reading;
use super::replicas::{Consumer, ReplicaVerdict, VersionVerdict};
use super::tables::ReplicaTable;
use super::verify::{Folded, Moved, Register, Version};

const PROVIDER: &str = "provider";
const CHANNEL: &str = "register";
const LATE_JOINER: &str = "late-joiner";
/// Consumers by default: a country has about so many municipalities.
const MOST_TERRITORIES: usize = 50;
/// Parked rows of a file that are listed one by one.
const TOLD: usize = 5;
/// Enough to show that order by key does not need one order of everything.
const PARTITIONS: u32 = 2;

/// What to play.
#[derive(Debug, Clone, Default)]
pub struct RegisterOptions {
    /// The versions, in order.
    pub files: Vec<PathBuf>,
    /// The key's columns.
    pub key: Vec<String>,
    /// The territory's column.
    pub territory: String,
    /// The character between cells.
    pub delimiter: Option<char>,
    pub encoding: String,
    /// The columns of files without a header line.
    pub header: Option<Vec<String>>,
    /// Steps that make spellings of one key equal.
    pub key_normalise: Vec<String>,
    /// The territories that get a consumer.
    pub territories: Option<Vec<String>>,
    /// What the network runs on.
    pub backing: Backing,
    /// The URL of a database for the replicas; files without it.
    pub postgres: Option<String>,
    /// Whether the guard holds files.
    pub guard: bool,
    /// Where to keep everything.
    pub keep: Option<PathBuf>,
    pub fault: Option<Fault>,
    /// Counts the versions that were begun, for a test that interferes.
    pub begun: watch::Sender<usize>,
}

/// The result of the play.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Whether every replica is equal.
    pub equal: bool,
    /// By file.
    pub versions: Vec<VersionVerdict>,
    /// By consumer.
    pub replicas: Vec<ReplicaVerdict>,
    /// A row that moved, as the verification saw it.
    pub moved: Option<Moved>,
    /// Rows of all versions that the verification could read.
    pub rows_read: usize,
    /// Rows that it could not read, or that contradict each other: these are parked, and their keys stay unchanged.
    pub rows_set_aside: usize,
    /// Seconds from the start to the verified end.
    pub seconds: f64,
    /// The most memory that the whole network and its verification took.
    pub peak_memory_bytes: Option<u64>,
    /// Where everything was kept.
    pub kept: Option<PathBuf>,
}

/// A delimiter as people write it: one character, or `\t`.
pub fn parse_delimiter(text: &str) -> anyhow::Result<char> {
    let mut chars = text.chars();
    match (text, chars.next(), chars.next()) {
        ("\\t" | "tab", ..) => Ok('\t'),
        (_, Some(only), None) if only.is_ascii() => Ok(only),
        _ => bail!("--delimiter takes one ASCII character, or \\t; not {text:?}"),
    }
}

/// A participant's id for a territory's name of any script: distinct for distinct names.
fn participant_of(territory: &str) -> String {
    let plain: String =
        territory.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let is_plain = plain == territory && !plain.is_empty();
    if is_plain {
        format!("t-{plain}")
    } else {
        format!("t-{plain}_{:08x}", hash128(territory.as_bytes()) >> 96)
    }
}

struct Play {
    options: RegisterOptions,
    format: TableFormat,
    versions: Vec<(PathBuf, Columns)>,
    network: Network,
    progress: Progress,
    channel: Channel,
    dir: PathBuf,
    provider: AgentId,
    consumers: Vec<Consumer>,
    territories: Vec<String>,
    /// The version of the subject's schema in force.
    schema_version: u32,
    schema: AvroSchema,
    /// The columns in force.
    columns: Columns,
}

/// Plays all versions and verifies every replica.
pub async fn play(options: RegisterOptions) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let temporary = tempfile::tempdir()?;
    let dir = super::folder(options.keep.as_deref(), temporary.path())?;
    let mut play = Play::prepare(options, dir).await?;
    let mut producer = play.network.producer(&play.provider, &play.channel.name).await?;
    play.progress.watch_sender(producer.sent());
    play.start_consumers().await?;
    let mut reports = Vec::new();
    let count = play.versions.len();
    for index in 0..count {
        // Late, but before the end: it receives the state and live changes.
        if index + 1 == count && count > 1 {
            play.start_late_joiner().await?;
        }
        reports.push(play.version(index, &mut producer).await?);
    }
    if count == 1 {
        producer.drained().await?;
        play.start_late_joiner().await?;
    }
    producer.drained().await?;
    play.settle().await?;
    let (replicas, read, moved) = play.verify(&reports).await?;
    let Play { network, options, versions, progress, .. } = play;
    progress.end();
    network.stop().await?;
    // An empty comparison is no success.
    let equal = read.rows > 0 && !replicas.is_empty() && replicas.iter().all(|replica| replica.equal);
    Ok(Outcome {
        equal: equal && check_planted(options.fault, equal),
        versions: reports
            .into_iter()
            .zip(&versions)
            .map(|(report, (file, _))| VersionVerdict::of(report, file))
            .collect(),
        replicas,
        moved,
        rows_read: read.rows,
        rows_set_aside: read.set_aside,
        seconds: began.elapsed().as_secs_f64(),
        peak_memory_bytes: super::peak_memory_bytes(),
        kept: options.keep,
    })
}

impl Play {
    async fn prepare(options: RegisterOptions, dir: PathBuf) -> anyhow::Result<Self> {
        let format = TableFormat {
            delimiter: options.delimiter,
            encoding: options.encoding.clone(),
            header: options.header.clone(),
            ..TableFormat::default()
        };
        let mut versions = Vec::new();
        for file in &options.files {
            let columns = Columns::read(file, &format, &options.key, &options.territory)?;
            versions.push((file.clone(), columns));
        }
        let (_, first) = versions.first().context("there is no file")?;
        let schema = first.schema(None)?;
        let columns = first.clone();
        let channel: Channel = serde_json::from_value(json!({
            "name": CHANNEL, "kind": "distribution", "owner": PROVIDER, "partitions": PARTITIONS,
            "key": {"fields": first.key_fields(), "normalise": options.key_normalise},
            "schema": schema.json(),
        }))?;
        if let (Some(_), Some((file, columns))) =
            (&options.postgres, versions.iter().find(|(_, columns)| columns.header.len() > MOST_FIELDS))
        {
            bail!(
                "{}: {} columns are more than a table of PostgreSQL takes",
                file.display(),
                columns.header.len()
            );
        }
        let known = territories(&versions, &format)?;
        let territories = match &options.territories {
            Some(chosen) => chosen.clone(),
            None => known.iter().take(MOST_TERRITORIES).map(|(name, _)| name.clone()).collect(),
        };
        let is_known = |name: &&String| known.iter().any(|(known, _)| known == *name);
        if let Some(unknown) = territories.iter().find(|name| !is_known(name)) {
            let known = in_quotes(known.iter().map(|(name, _)| name));
            bail!("no version has a row of territory {unknown:?}; there are {known}");
        }
        let network = Network::start(&dir, &options.backing).await?;
        let progress = Progress::new();
        network.spawn(progress.clone().draw());
        network.participant(PROVIDER, "the register").await?;
        network.channel(&channel).await?;
        progress.say(format!(
            "{}, one provider, {} consumers and a late joiner; {} version(s) of {}.",
            network.words(),
            territories.len(),
            versions.len(),
            options.files.first().map(|file| file.display().to_string()).unwrap_or_default(),
        ));
        let provider = AgentId { participant: PROVIDER.parse()?, agent: "main".parse()? };
        Ok(Self {
            options,
            format,
            versions,
            network,
            progress,
            channel,
            dir,
            provider,
            consumers: Vec::new(),
            territories,
            schema_version: 1,
            schema,
            columns,
        })
    }

    /// A participant's agreement, for the columns in force.
    fn agreement(
        &self,
        participant: &str,
        territory: Option<&str>,
        version: u32,
    ) -> anyhow::Result<Agreement> {
        let quoted = |text: &str| serde_json::to_string(text);
        let field = self.columns.territory_field();
        let rows = match territory {
            None => "true".to_owned(),
            Some(own) => {
                let other = self.territories.iter().find(|other| Some(other.as_str()) != territory);
                let is_first = self.territories.first().map(String::as_str) == territory;
                match other.filter(|_| is_first && self.options.fault == Some(Fault::Leak)) {
                    Some(other) => format!("{field} in [{}, {}]", quoted(own)?, quoted(other)?),
                    None => format!("{field} == {}", quoted(own)?),
                }
            }
        };
        let record = self.schema.record()?.record;
        let fields: BTreeMap<&str, &str> = record.fields.iter().map(|f| (f.name.as_str(), "keep")).collect();
        Ok(serde_json::from_value(json!({
            "number": format!("A-{participant}"), "version": version, "provider": PROVIDER,
            "consumer": participant, "channel": CHANNEL, "purpose": "demo", "legal_basis": "demo",
            "valid_from": "2020-01-01T00:00:00Z", "history": "full", "schema_version": self.schema_version,
            "rows": rows, "fields": fields,
        }))?)
    }

    async fn start_consumers(&mut self) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        for territory in self.territories.clone() {
            let participant = participant_of(&territory);
            if !seen.insert(participant.clone()) {
                bail!("territory {territory:?} is given twice");
            }
            self.start_consumer(&participant, Some(territory)).await?;
        }
        // A consumer that joined after the first version would find moved rows in their new territory, and get no move.
        for consumer in &mut self.consumers {
            consumer.joined().await?;
        }
        Ok(())
    }

    async fn start_late_joiner(&mut self) -> anyhow::Result<()> {
        self.network.materialised(&CHANNEL.parse()?).await?;
        self.start_consumer(LATE_JOINER, None).await
    }

    async fn start_consumer(&mut self, participant: &str, territory: Option<String>) -> anyhow::Result<()> {
        let agreement = self.agreement(participant, territory.as_deref(), 1)?;
        self.network.participant(participant, territory.as_deref().unwrap_or("all rows")).await?;
        self.network.agreement(&agreement).await?;
        let dir = self.dir.join("replica").join(participant);
        let table = match &self.options.postgres {
            Some(url) => Some(ReplicaTable::make(url, participant, CHANNEL).await?),
            None => None,
        };
        let sink: Box<dyn Sink> = match &table {
            Some(table) => Box::new(table.sink(&agreement.number)),
            None => Box::new(FileSink::open(Arc::new(RealDisk), &dir, CHANNEL)?),
        };
        let is_victim = self.consumers.is_empty();
        let sink = match self.options.fault.filter(|_| is_victim) {
            Some(fault) => Box::new(FaultySink::new(sink, fault)),
            None => sink,
        };
        let id = AgentId { participant: participant.parse()?, agent: "main".parse()? };
        let status = self.network.consumer(&id, agreement.number, sink, None)?;
        self.progress.watch_replica(status.clone());
        self.consumers.push(Consumer {
            participant: participant.to_owned(),
            territory,
            channel: self.channel.name.clone(),
            dir,
            table,
            version: 1,
            status,
        });
        Ok(())
    }

    async fn version(&mut self, index: usize, producer: &mut Producer) -> anyhow::Result<FileReport> {
        let (file, columns) = self.versions.get(index).cloned().context("no such version")?;
        let before =
            index.checked_sub(1).and_then(|i| self.versions.get(i)).map(|(_, columns)| columns.clone());
        if let Some(before) = before.filter(|before| before.header != columns.header) {
            producer.drained().await?;
            self.amend(&before, &columns, producer).await?;
        }
        self.progress.step(shown::value(&file.display().to_string()));
        self.options.begun.send_replace(index + 1);
        let guard = Guard::default();
        let accepted = !self.options.guard;
        let report = tokio::task::block_in_place(|| {
            producer.agent.take(&FileSource::open(&file, &self.format)?, guard, accepted)
        })?;
        let counts = report.counts;
        self.progress.say(format!(
            "{}: {} created, {} updated, {} deleted, {} unchanged, {} parked{}",
            shown::value(&report.file),
            counts.create,
            counts.update,
            counts.delete,
            counts.same,
            counts.parked,
            match (&report.guard, report.taken) {
                (None, _) => String::new(),
                (Some(why), true) => format!("; the guard would have held it: {why}"),
                (Some(why), false) => format!("; HELD by the guard: {why}"),
            }
        ));
        for parked in report.parked.iter().take(TOLD) {
            let column = parked.column.as_ref().map(|name| format!(", column {name:?}")).unwrap_or_default();
            let Location { line, character, .. } = parked.location;
            let reason = shown::value(&parked.reason);
            self.progress.say(format!("  parked line {line}, character {character}{column}: {reason}"));
        }
        if let Some(more) = report.parked.len().checked_sub(TOLD).filter(|more| *more > 0) {
            self.progress.say(format!("  and {more} more"));
        }
        for remark in &report.remarks {
            self.progress.say(format!("  {}", shown::value(remark)));
        }
        if let Some(why) = &report.deletes_held {
            self.progress.say(format!("  no row is deleted by it: {}", shown::value(why)));
        }
        producer.drained().await?;
        Ok(report)
    }

    /// The header has changed: the schema evolves, and every agreement is amended to it.
    async fn amend(
        &mut self,
        before: &Columns,
        columns: &Columns,
        producer: &mut Producer,
    ) -> anyhow::Result<()> {
        let schema = columns.schema(Some((before, &self.schema)))?;
        self.network.register(&self.provider, &self.channel, &schema).await?;
        self.schema_version += 1;
        self.schema = schema;
        self.columns = columns.clone();
        tokio::task::block_in_place(|| producer.agent.use_schema(&self.schema))?;
        for index in 0..self.consumers.len() {
            let Some(consumer) = self.consumers.get(index) else { break };
            let version = consumer.version + 1;
            let agreement = self.agreement(&consumer.participant, consumer.territory.as_deref(), version)?;
            self.network.agreement(&agreement).await?;
            if let Some(consumer) = self.consumers.get_mut(index) {
                consumer.version = version;
            }
        }
        self.progress.say(format!(
            "The header has changed: schema version {}, {} agreements amended.",
            self.schema_version,
            self.consumers.len()
        ));
        Ok(())
    }

    /// Waits until every consumer's files reflect the end of the log.
    async fn settle(&mut self) -> anyhow::Result<()> {
        self.progress.step("settling");
        for consumer in &mut self.consumers {
            consumer.settle(&self.network).await?;
        }
        Ok(())
    }

    async fn verify(
        &self,
        reports: &[FileReport],
    ) -> anyhow::Result<(Vec<ReplicaVerdict>, Folded, Option<Moved>)> {
        let first = self.versions.first().map(|(file, _)| file.clone()).unwrap_or_default();
        let ending = first.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let tab = ending.is_some_and(|ending| ["tsv", "tab"].contains(&ending.as_str()));
        let delimiter = self.options.delimiter.unwrap_or(if tab { '\t' } else { ',' });
        let reading = Reading {
            delimiter: u8::try_from(delimiter)?,
            encoding: self.options.encoding.clone(),
            normalise: self.options.key_normalise.clone(),
        };
        let keep_cells =
            self.versions.windows(2).any(|pair| matches!(pair, [a, b] if a.1.header != b.1.header));
        let mut register = Register::default();
        let mut read = Folded::default();
        for ((file, _), report) in self.versions.iter().zip(reports) {
            let header = self.options.header.as_deref();
            let key = self.options.key.as_slice();
            let territory = self.options.territory.as_str();
            let version = Version { file, header, key, territory };
            if report.taken {
                let folded = register.fold(&version, &reading, keep_cells)?;
                read.rows += folded.rows;
                read.set_aside += folded.set_aside;
            } else {
                register.pass_over(&version, &reading)?;
            }
        }
        let mut verdicts = Vec::with_capacity(self.consumers.len());
        for consumer in &self.consumers {
            let held = consumer.held().await?;
            let expected = register.part(consumer.territory.as_deref());
            verdicts.push(consumer.verdict(held.len(), held == expected, Vec::new()));
        }
        Ok((verdicts, read, register.moved(&self.territories)))
    }
}
