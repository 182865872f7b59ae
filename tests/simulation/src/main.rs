//! The command of the simulation: runs seeds, prints what broke, and how often each kind of fault fired.
//!
//! Owns the report. A run that broke a promise prints its seed, which gives the same run again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use simulation::fault::{Counts, Fault};
use simulation::parties::Identities;
use simulation::world::Outcome;

/// Runs seeds of the simulation.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// How many at a time.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Prints all that happened in words: for one seed.
    #[arg(long)]
    trace: bool,
    /// Ends with the first seed that breaks a promise.
    #[arg(long)]
    until_broken: bool,
}

#[derive(Default)]
struct Report {
    faults: Counts,
    broken: BTreeMap<u64, String>,
    runs: u64,
    changes: i64,
    compared: u64,
    fewest: Option<u64>,
}

impl Report {
    fn take(&mut self, seed: u64, outcome: anyhow::Result<Outcome>) {
        self.runs += 1;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                self.broken.insert(seed, format!("{error:#}"));
                return println!("seed {seed}: {error:#}");
            }
        };
        let total = outcome.faults.values().sum();
        self.fewest = Some(self.fewest.map_or(total, |fewest| fewest.min(total)));
        for (fault, count) in &outcome.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        self.changes += outcome.changes;
        self.compared += outcome.compared;
        if let Some((promise, what)) = outcome.broken.first() {
            println!("seed {seed}: {} broken: {what}", promise.as_str());
            self.broken.insert(seed, promise.as_str().to_owned());
        }
    }

    fn print(&self, took: f64) {
        println!(
            "{} seeds, {} changes, {} replicas compared equal, {took:.0} s",
            self.runs, self.changes, self.compared
        );
        for fault in Fault::ALL {
            println!("{:>9}  {}", self.faults.get(&fault).copied().unwrap_or(0), fault.as_str());
        }
        println!(
            "{:>9}  in all; the fewest in one seed: {}",
            self.faults.values().sum::<u64>(),
            self.fewest.unwrap_or(0)
        );
        match self.broken.len() {
            0 => println!("no promise was broken"),
            count => println!("{count} seeds broke a promise: {:?}", self.broken.keys().collect::<Vec<_>>()),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.trace {
        tracing_subscriber::fmt().without_time().with_ansi(false).with_env_filter("info").init();
    }
    let identities = Identities::issue()?;
    let report = Mutex::new(Report::default());
    let next = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let lock = || report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if number >= arguments.seeds || (arguments.until_broken && !lock().broken.is_empty()) {
                        return;
                    }
                    let seed = arguments.first + number;
                    let outcome = simulation::run(seed, arguments.trace, &identities);
                    lock().take(seed, outcome);
                }
            });
        }
    });
    let report = report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.print(begun.elapsed().as_secs_f64());
    anyhow::ensure!(report.broken.is_empty(), "a promise was broken");
    anyhow::ensure!(report.fewest.is_none_or(|fewest| fewest >= 20), "a seed has fewer than 20 faults");
    Ok(())
}
