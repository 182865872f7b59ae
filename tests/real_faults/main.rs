//! A whole network of real parts while any of them is killed, stopped, paused or cut off, in turn and at random: nothing
//! lost, nothing twice, nothing out of turn, nothing outside a scope.
//!
//! Owns the order of a run and its report. `DIT_FAULTS` asks for more faults than the short form's, `DIT_SEED` for a plan.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod fault;
mod flow;
mod network;
mod register;
mod replicas;
mod verdict;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parts::hosts;
use parts::kafka::Kafka;

use crate::fault::{Fault, Part, plan};
use crate::flow::Flow;
use crate::network::Network;
use crate::register::{History, Side};
use crate::replicas::Replicas;

/// Faults of the short form.
const FAULTS: usize = 10;
/// Recoveries without a fault, for comparison.
const NOTHINGS: usize = 10;
/// How long everything may take to be right again.
const LIMIT: Duration = Duration::from_secs(240);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Texts that no process may ever log: each tells of a repair that would hide an error from the test.
const HEALED: [&str; 3] = ["before image", "reopens the channel", "begins again"];

#[test]
fn nothing_is_lost_repeated_or_out_of_turn_whatever_fails() {
    if let Some(why) = hosts::cannot_be_made() {
        return eprintln!("LEFT OUT: real faults on hosts of their own: {why}");
    }
    // Inside there is no other network, so Kafka is fetched before.
    Kafka::fetch().unwrap();
    let inside = ["--exact", "--ignored", "--nocapture", "in_a_network_of_its_own"];
    let ended = hosts::alone(&std::env::current_exe().unwrap()).args(inside).status().unwrap();
    assert!(ended.success());
}

fn from_environment(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "the test above runs it where it is alone"]
async fn in_a_network_of_its_own() {
    let Some(history) = History::open("real faults").unwrap() else { return };
    let drawn = u64::from_be_bytes(platform::random::bytes().unwrap()) >> 32;
    let seed = from_environment("DIT_SEED").map_or(drawn, |seed| u64::try_from(seed).unwrap());
    let rounds = plan(seed, from_environment("DIT_FAULTS").unwrap_or(FAULTS));
    println!("seed {seed}: {} faults", rounds.iter().map(Vec::len).sum::<usize>());
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::start(dir.path(), history).await.unwrap();
    let outcome = run.play(&rounds).await;
    if let Err(error) = outcome {
        let logs: String = Part::all().map(|part| last_words(&run.network, part)).collect();
        panic!("seed {seed}: {error:#}\n{logs}");
    }
    run.network.end().unwrap();
}

fn last_words(network: &Network, part: Part) -> String {
    let log = network.log(part);
    let from = log.lines().count().saturating_sub(15);
    let last: Vec<_> = log.lines().skip(from).collect();
    if last.is_empty() { String::new() } else { format!("--- {part:?}\n{}\n", last.join("\n")) }
}

struct Run {
    network: Network,
    replicas: Replicas,
    flow: Flow,
    /// How long it took until everything was right again, by kind of fault.
    recoveries: BTreeMap<String, Vec<Duration>>,
}

impl Run {
    async fn start(dir: &std::path::Path, history: History) -> anyhow::Result<Self> {
        platform::identity::install_crypto();
        let mut network = Network::make(dir, env!("CARGO_BIN_EXE_dit")).await?;
        let replicas = Replicas::make(dir, &network.database).await?;
        tokio::task::block_in_place(|| network.begin_all())?;
        until("the tables are made", async || replicas.write_down().await).await?;
        let flow = Flow::start(dir, history);
        Ok(Self { network, replicas, flow, recoveries: BTreeMap::new() })
    }

    async fn play(&mut self, rounds: &[Vec<Fault>]) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.recovered("the first register").await?;
        for _ in 0..NOTHINGS {
            self.recovered("(nothing)").await?;
        }
        for round in rounds {
            self.fail(round).await?;
        }
        let steps = self.flow.end().await?;
        until("every file is taken", async || self.flow.is_taken()).await?;
        // No change comes after these: replicas must be past the number before the last step's marks.
        let last = self
            .flow
            .changes()
            .into_iter()
            .map(|(side, changes)| (side, changes - u64::from(side.partitions())));
        let last = last.collect();
        until("all has arrived", async || self.replicas.are_past(&last).await).await?;
        self.are_well().await?;
        println!("{steps} steps, {:.0} s", begun.elapsed().as_secs_f64());
        self.report(rounds);
        let brokers = self.network.kafka.bootstrap();
        let registers = self.flow.take_registers();
        let verdict = verdict::judge(&brokers, &registers, &self.replicas, &self.network.database).await?;
        println!("{verdict}");
        anyhow::ensure!(verdict.is_good(), "a promise was broken");
        Ok(())
    }

    /// Some faults at once; each begins, lasts and ends, then all replicas must be right again.
    async fn fail(&mut self, round: &[Fault]) -> anyhow::Result<()> {
        let words: Vec<String> = round.iter().map(ToString::to_string).collect();
        self.are_unbroken().await?;
        // A part that is asked to end can drain, and one that starts again finds the others.
        let mut ordered = round.to_vec();
        ordered.sort_by_key(|fault| !fault.ends_it());
        for fault in &ordered {
            tokio::task::block_in_place(|| self.network.harm(fault))?;
        }
        let longest = round.iter().map(|fault| fault.lasts).max().unwrap_or_default();
        tokio::time::sleep(longest).await;
        for fault in ordered.iter().rev() {
            tokio::task::block_in_place(|| self.network.repair(fault))?;
        }
        let kind = match round {
            [fault] => fault.kind(),
            _ => "two at once".to_owned(),
        };
        let took = self.recovered(&kind).await?;
        println!("{}: right again in {:.1} s", words.join(" and "), took.as_secs_f64());
        // A router that cannot continue ends itself, and its supervisor starts it again; agents never end.
        for part in self.network.ended() {
            anyhow::ensure!(matches!(part, Part::Router(_)), "{part:?} has ended by itself");
            println!("{part:?} has ended by itself; it is started again");
            tokio::task::block_in_place(|| self.network.begin(part))?;
        }
        Ok(())
    }

    /// Waits until every replica shows a change that was made after this moment.
    async fn recovered(&mut self, kind: &str) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let changes = self.flow.changes();
        until(&format!("everything is right again after {kind}"), async || {
            self.replicas.are_past(&changes).await
        })
        .await?;
        let took = begun.elapsed();
        self.recoveries.entry(kind.to_owned()).or_default().push(took);
        Ok(took)
    }

    /// No process has noticed that a promise was broken, or had to repair a replica.
    async fn are_unbroken(&self) -> anyhow::Result<()> {
        for (part, url) in self.network.observed() {
            let told = reqwest::get(format!("{url}/metrics")).await?.text().await?;
            let broken = told.lines().filter(|line| line.starts_with("dit_promises_broken_total{"));
            let promises = broken.clone().count();
            anyhow::ensure!(promises == 11, "{part:?} counts {promises} promises");
            let repaired = told.lines().filter(|line| line.starts_with("dit_consumer_repaired_rows_total{"));
            let bad = broken.chain(repaired).find(|line| !line.ends_with(" 0"));
            anyhow::ensure!(bad.is_none(), "{part:?}: {bad:?}");
        }
        Ok(())
    }

    /// Every process is ready, every replica was found equal to its part of the register, and no log tells of a repair.
    async fn are_well(&self) -> anyhow::Result<()> {
        self.are_unbroken().await?;
        for (part, url) in self.network.observed() {
            until(&format!("{part:?} is ready"), async || {
                Ok(reqwest::get(format!("{url}/readyz")).await?.status().is_success())
            })
            .await?;
            if matches!(part, Part::Consumer(_)) {
                until(&format!("{part:?} has compared its replicas"), async || {
                    let told = reqwest::get(format!("{url}/metrics")).await?.text().await?;
                    let equal = told.lines().filter(|line| {
                        line.starts_with("dit_consumer_replica_equal{") && line.ends_with(" 1")
                    });
                    Ok(equal.count() == Side::BOTH.len())
                })
                .await?;
            }
            let log = self.network.log(part);
            let healed = log.lines().find(|line| HEALED.iter().any(|word| line.contains(word)));
            anyhow::ensure!(healed.is_none(), "{part:?} says: {healed:?}");
        }
        Ok(())
    }

    fn report(&self, rounds: &[Vec<Fault>]) {
        let faults = rounds.iter().map(Vec::len).sum::<usize>();
        println!("{faults} faults in {} rounds", rounds.len());
        println!("| fault | times | right again after, p50 | p99 | longest |\n|---|---|---|---|---|");
        for (kind, times) in &self.recoveries {
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let at = |share: usize| sorted[(sorted.len() * share).div_ceil(100).max(1) - 1].as_secs_f64();
            println!("| {kind} | {} | {:.1} s | {:.1} s | {:.1} s |", sorted.len(), at(50), at(99), at(100));
        }
    }
}

/// Looks until a condition holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let outcome = holds().await;
        match outcome {
            Ok(true) => return Ok(()),
            // A part that was just started may not answer yet.
            Ok(false) | Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            Ok(false) => anyhow::bail!("waited {} s in vain until {what}", LIMIT.as_secs()),
            Err(error) => return Err(error.context(format!("until {what}"))),
        }
    }
}
