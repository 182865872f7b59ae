//! The cost of each stage of a block's way through a router, for an event: nanoseconds and allocations.
//!
//! `cargo bench -p router --bench stages`. The last lines are the budget's table in docs/performance.md.

#![allow(clippy::unwrap_used, reason = "a benchmark ends at the first thing that is wrong")]

#[path = "../tests/stages/mod.rs"]
mod stages;

use std::time::{Duration, Instant};

use stages::Block;

/// A block as it is when changes come in bulk.
const EVENTS: usize = 500;
/// Each stage is repeated for so long.
const LONG: Duration = Duration::from_secs(2);

/// The median time of one run, and its allocations, both for an event.
fn measured<T>(mut ready: impl FnMut() -> T, mut stage: impl FnMut(T)) -> (f64, f64) {
    let given = ready();
    let allocations = allocation_counter::measure(|| stage(given)).count_total;
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < LONG {
        let given = ready();
        let at = Instant::now();
        stage(given);
        times.push(at.elapsed());
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    (median.as_nanos() as f64 / EVENTS as f64, allocations as f64 / EVENTS as f64)
}

fn main() {
    let mut block = Block::of(EVENTS);
    let judge = measured(|| (), |()| assert_eq!(block.judge_batch(), 1));
    let count = measured(|| (block.fold(), block.stored()), |(fold, stored)| block.count(fold, &stored));
    let locate = measured(|| block.stored(), |stored| assert_eq!(block.locate(stored), EVENTS));
    let matching = measured(|| (), |()| assert_eq!(block.match_items(), EVENTS));
    let frame = measured(|| (), |()| assert!(block.frame() > EVENTS));
    println!("| stage | ns an event | allocations an event |\n|---|---|---|");
    for (stage, (nanos, allocations)) in [
        ("judge a batch", judge),
        ("count", count),
        ("locate", locate),
        ("match", matching),
        ("frame", frame),
    ] {
        println!("| {stage} | {nanos:.0} | {allocations:.3} |");
    }
}
