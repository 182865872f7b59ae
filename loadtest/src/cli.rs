//! The command line: `run` for people, `part` for the processes that a run starts of itself.
//!
//! Owns the arguments, and the choice of the part to run.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::parts::{
    attackers, consumers, nats_consumers, nats_producer, raw_consumers, raw_producer, raw_reader,
};
use crate::{attacked, compare, run};

/// Loads a dit network, and raw Kafka for comparison.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios and writes a report of each: `<name>.json` and `<name>.html`.
    Run {
        /// The scenarios' files.
        #[arg(required = true)]
        scenarios: Vec<PathBuf>,
        /// Where reports go.
        #[arg(long, default_value = "loadtest-results")]
        out: PathBuf,
    },
    /// Compares two measurements of one scenario: is a difference more than the noise of their rounds? Ends with 1 where
    /// a figure is worse.
    Compare {
        /// A report (`<name>.json`), or a folder of reports whose rounds count together.
        before: PathBuf,
        /// The report, or the folder, of the other measurement.
        after: PathBuf,
    },
    /// Attacks a router in every known way, and shows what honest agents feel of it.
    Attacked {
        /// How long each turn takes.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Turns in quiet and under attack, for each kind.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// A kind of attack; may be given more than once. All kinds without it.
        #[arg(long)]
        kind: Vec<attackers::Kind>,
    },
    /// One process of a run.
    #[command(subcommand, hide = true)]
    Part(Part),
}

/// A process that a run starts.
#[derive(Debug, Subcommand)]
enum Part {
    /// A router, unchanged.
    Router(router::process::RunArgs),
    /// A producer agent, unchanged.
    Producer {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Attackers of a router.
    Attackers(attackers::Args),
    /// Consumer agents whose sinks measure.
    Consumers(consumers::Args),
    /// A producer on NATS JetStream.
    NatsProducer(nats_producer::Args),
    /// Consumers on NATS JetStream.
    NatsConsumers(nats_consumers::Args),
    /// A producer on librdkafka alone.
    RawProducer(raw_producer::Args),
    /// Consumers on librdkafka alone.
    RawConsumers(raw_consumers::Args),
    /// A reader of a file with the `csv` crate alone.
    RawReader(raw_reader::Args),
}

impl Cli {
    /// Runs the command; whether its result was good.
    pub fn run(self) -> anyhow::Result<bool> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.context("the runtime could not be started")?.block_on(async {
            match self.command {
                Command::Run { scenarios, out } => run::all(&scenarios, &out).await.map(|()| true),
                Command::Compare { before, after } => compare::run(&before, &after),
                Command::Attacked { seconds, rounds, kind } => attacked::run(&kind, seconds, rounds).await,
                Command::Part(Part::Attackers(args)) => attackers::run(args).await.map(|()| true),
                Command::Part(Part::Router(args)) => router::process::run(args).await.map(|()| true),
                Command::Part(Part::Producer { config }) => {
                    producer_agent::process::run(&config).await.map(|()| true)
                }
                Command::Part(Part::Consumers(args)) => consumers::run(args).await.map(|()| true),
                Command::Part(Part::NatsProducer(args)) => nats_producer::run(args).await.map(|()| true),
                Command::Part(Part::NatsConsumers(args)) => nats_consumers::run(args).await.map(|()| true),
                Command::Part(Part::RawProducer(args)) => raw_producer::run(args).await.map(|()| true),
                Command::Part(Part::RawConsumers(args)) => raw_consumers::run(args).await.map(|()| true),
                Command::Part(Part::RawReader(args)) => raw_reader::run(args).await.map(|()| true),
            }
        })
    }
}
