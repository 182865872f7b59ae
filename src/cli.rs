//! The command line.
//!
//! Owns subcommands and options; their doc comments are the help.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::sync::watch;

use crate::audit::{self, AuditArgs};
use crate::demo::backing::Backing;
use crate::demo::company::{self, CompanyOptions};
use crate::demo::fault::Fault;
use crate::demo::guess;
use crate::demo::register::{self, RegisterOptions};
use crate::parked::{self, ParkedArgs};
use crate::{check, explain, scope, status, tools};

/// The version, and what this binary was built with.
const VERSION: &str = match (cfg!(feature = "kafka"), cfg!(feature = "kafka-tls")) {
    (_, true) => concat!(env!("CARGO_PKG_VERSION"), " (embedded log; Kafka, with TLS)"),
    (true, false) => concat!(env!("CARGO_PKG_VERSION"), " (embedded log; Kafka, without TLS)"),
    (false, false) => concat!(env!("CARGO_PKG_VERSION"), " (embedded log; without Kafka)"),
};

/// Moves registers' changes between institutions, under agreements.
#[derive(Debug, Parser)]
#[command(name = "dit", version = VERSION)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays a whole network in this process, on an embedded log or a real Kafka, and verifies what every consumer holds.
    Demo(Box<DemoArgs>),
    /// Makes a development PKI: an authority and certificates of agents, routers and operators.
    Pki(tools::PkiArgs),
    /// Checks configuration files and declarations, and says what is wrong and where.
    Check(check::CheckArgs),
    /// Runs a router.
    Router(router::process::RunArgs),
    /// Runs a producer agent, writes its first configuration, or accepts a file that is held.
    Producer(tools::ProducerArgs),
    /// Runs a consumer agent, writes its first configuration, or has it compare its replicas now.
    Consumer(tools::ConsumerArgs),
    /// Reads every router's audit chain, and says whether it is whole.
    Audit(AuditArgs),
    /// Shows the progress of each replica of a consumer agent.
    Status(tools::ConfigArgs),
    /// Checks agreements before anybody receives under them: lint, what a new schema would change, and trials in counts.
    Scope(scope::ScopeArgs),
    /// Explains what a participant gets of an event: which clause admitted or denied it, which fields leave.
    Explain(explain::ExplainArgs),
    /// Shows the rows that a replica's PostgreSQL refuses, and takes a person's decision on them.
    Parked(ParkedArgs),
}

/// How the result is shown at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON object on the last line.
    Json,
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("own").args(["files", "register"])))]
struct DemoArgs {
    /// The versions of your own register, in order: delimited text. What you do not specify is guessed, and shown.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The first version of your own register; nothing is guessed. Without any file, a network is made up.
    #[arg(long, value_name = "FILE", requires_all = ["key", "territory"])]
    register: Option<PathBuf>,
    /// The next versions, in order.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "register")]
    then: Vec<PathBuf>,
    /// The columns that identify a row.
    #[arg(long, value_name = "COLS", value_delimiter = ',', requires = "own")]
    key: Vec<String>,
    /// The column with the territory of each row.
    #[arg(long, value_name = "COL", requires = "own")]
    territory: Option<String>,
    /// The seed of the made-up network.
    #[arg(long, default_value_t = 2021, conflicts_with = "own")]
    seed: u64,
    /// The character between cells; a comma by default, a tab for `.tsv`.
    #[arg(long, requires = "own")]
    delimiter: Option<String>,
    /// The files' encoding; with `--register`, utf-8 by default.
    #[arg(long, requires = "own")]
    encoding: Option<String>,
    /// The columns' names, for files without a header line.
    #[arg(long, value_name = "COLS", value_delimiter = ',', requires = "own")]
    header: Option<Vec<String>>,
    /// What makes spellings of one key equal.
    #[arg(long, value_name = "HOW", value_parser = ["lowercase", "trim", "nfc"], requires = "own")]
    key_normalise: Vec<String>,
    /// The territories that get a consumer each; by default the 50 largest over all versions.
    #[arg(long, value_delimiter = ',', requires = "own")]
    territories: Option<Vec<String>>,
    /// Hold files that delete or change too much, instead of only reporting them.
    #[arg(long, requires = "own")]
    guard: bool,
    /// Play on a real Kafka instead of an embedded log; needs a binary with the feature `kafka`.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Write the replicas into this database, each consumer's into a schema of its own.
    #[arg(long, value_name = "URL", requires = "own")]
    postgres: Option<String>,
    /// Keep everything in this folder; the replicas are in `replica/`.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Plant a fault; the demo must then fail.
    #[arg(long)]
    fault: Option<Fault>,
    /// How the result is shown.
    #[arg(long, default_value = "text")]
    output: Output,
}

impl Cli {
    /// Runs the command; whether all that it verified holds.
    pub fn run(self) -> anyhow::Result<bool> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("the runtime could not be started")?;
        runtime.block_on(async {
            match self.command {
                Command::Demo(args) => demo(*args).await,
                Command::Pki(args) => tools::pki(&args).map(|()| true),
                Command::Check(args) => check::run(&args).await,
                Command::Router(args) => router::process::run(args).await.map(|()| true),
                Command::Producer(args) => tools::producer(args).await.map(|()| true),
                Command::Consumer(args) => tools::consumer(args).await,
                Command::Audit(args) => audit::audit(&args).await,
                Command::Status(args) => status::run(&args).await,
                Command::Scope(args) => scope::run(args).await,
                Command::Explain(args) => explain::run(args).await,
                Command::Parked(args) => parked::run(args).await,
            }
        })
    }
}

async fn demo(args: DemoArgs) -> anyhow::Result<bool> {
    let format = platform::telemetry::Format::Text;
    let _telemetry = platform::telemetry::init("dit-demo", format, "warn,sled=error")?;
    let json = args.output == Output::Json;
    let backing = args.kafka.map_or(Backing::Embedded, Backing::Kafka);
    let mut options = RegisterOptions {
        files: args.register.iter().chain(&args.then).cloned().collect(),
        key: args.key,
        territory: args.territory.unwrap_or_default(),
        backing: backing.clone(),
        postgres: args.postgres,
        delimiter: args.delimiter.as_deref().map(register::parse_delimiter).transpose()?,
        encoding: args.encoding.clone().unwrap_or_else(|| "utf-8".to_owned()),
        header: args.header,
        key_normalise: args.key_normalise,
        territories: args.territories,
        guard: args.guard,
        keep: args.keep.clone(),
        fault: args.fault,
        begun: watch::Sender::default(),
    };
    if let Some(first) = args.files.first() {
        guess::fill(&mut options, first, args.encoding.as_deref())?;
        options.files = args.files;
    }
    let (equal, outcome) = match options.files.is_empty() {
        false => {
            let outcome = register::play(options).await?;
            outcome.story();
            (outcome.equal, serde_json::to_string(&outcome)?)
        }
        true => {
            let options = CompanyOptions { seed: args.seed, backing, keep: args.keep, fault: args.fault };
            let outcome = company::play(options).await?;
            outcome.story();
            (outcome.equal, serde_json::to_string(&outcome)?)
        }
    };
    if json {
        platform::say!("{}", platform::shown::json(&outcome));
    }
    Ok(equal)
}
