//! `dit parked`: rows that a replica's PostgreSQL refuses, for a person to see and to decide on.
//!
//! Owns the words; the consumer agent carries out the decisions.

use std::path::PathBuf;

use anyhow::bail;
use consumer_agent::config::ConsumerConfig;
use consumer_agent::sink::postgres::{Decision, ParkedRow, PostgresTarget, decide, parked};
use platform::shown;
use schemas::ids::AgreementNumber;
use schemas::time::Millis;

/// `dit parked`.
#[derive(Debug, clap::Args)]
pub struct ParkedArgs {
    #[command(subcommand)]
    command: ParkedCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ParkedCommand {
    /// Names each parked row, why it was refused, and how many later events wait behind it.
    List(Replicas),
    /// Has the agent try the latest row of the keys again.
    Retry(Chosen),
    /// Gives up the refused row, and tries what waits behind it; if nothing waits, the replica's row stays as it was.
    Drop(Chosen),
}

/// Which replicas.
#[derive(Debug, clap::Args)]
struct Replicas {
    /// The consumer agent's configuration file.
    #[arg(long)]
    config: PathBuf,
    /// Only this agreement.
    #[arg(long)]
    agreement: Option<AgreementNumber>,
}

/// Which rows.
#[derive(Debug, clap::Args)]
struct Chosen {
    #[command(flatten)]
    replicas: Replicas,
    /// The keys, as `dit parked list` shows them.
    #[arg(required_unless_present = "all")]
    keys: Vec<String>,
    /// All parked rows.
    #[arg(long, conflicts_with = "keys")]
    all: bool,
}

impl Replicas {
    fn targets(&self) -> anyhow::Result<Vec<(AgreementNumber, PostgresTarget)>> {
        let config = ConsumerConfig::read(&self.config)?;
        let of = |number: &AgreementNumber| self.agreement.as_ref().is_none_or(|only| only == number);
        let agreements = config.agreement.into_iter().filter(|agreement| of(&agreement.number));
        let targets: Vec<_> = agreements.filter_map(|a| Some((a.number, a.postgres?))).collect();
        match (&self.agreement, targets.is_empty()) {
            (Some(number), true) => {
                bail!("{}: {number} has no replica in PostgreSQL", self.config.display())
            }
            (None, true) => bail!("{}: no replica is in PostgreSQL", self.config.display()),
            (_, false) => Ok(targets),
        }
    }
}

/// Lists parked rows, or writes a person's decision; whether nothing is parked, or a row was found.
pub async fn run(args: ParkedArgs) -> anyhow::Result<bool> {
    match args.command {
        ParkedCommand::List(replicas) => list(&replicas).await,
        ParkedCommand::Retry(chosen) => ask(&chosen, Decision::Retry).await,
        ParkedCommand::Drop(chosen) => ask(&chosen, Decision::Drop).await,
    }
}

async fn list(replicas: &Replicas) -> anyhow::Result<bool> {
    let mut none = true;
    for (number, target) in replicas.targets()? {
        for row in parked(&target, &number).await? {
            none = false;
            platform::say_lines!("{number} {}", in_words(&row, platform::clock::now()));
        }
    }
    if none {
        platform::say!("nothing is parked");
    }
    Ok(none)
}

fn in_words(row: &ParkedRow, now: Millis) -> String {
    let ParkedRow { key, reason, since, waiting, asked } = row;
    let asked = asked
        .as_ref()
        .map(|asked| format!("; the agent has not done yet what was asked: {asked}"))
        .unwrap_or_default();
    let ago = now.since(*since) / 1_000;
    let key = shown::value(key);
    let reason = shown::value(reason);
    format!("{key}\n  refused {ago} s ago: {reason}; {waiting} later event(s) wait{asked}")
}

async fn ask(chosen: &Chosen, decision: Decision) -> anyhow::Result<bool> {
    let keys = (!chosen.all).then_some(chosen.keys.as_slice());
    let mut asked = 0;
    for (number, target) in chosen.replicas.targets()? {
        asked += decide(&target, &number, decision, keys).await?;
    }
    match asked {
        0 => platform::say!("no such row is parked; the agent has nothing to do"),
        _ => platform::say!(
            "{asked} row(s) marked; a running agent acts on them with its next batch, within seconds"
        ),
    }
    Ok(asked > 0)
}
