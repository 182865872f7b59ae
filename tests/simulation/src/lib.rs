//! The simulation: a whole network in one seeded run with faults, and a checker for every promise.
//!
//! Owns no rule of the protocols: routers and agents are the real ones, on clocks, disks, a log and a network that
//! misbehave by seed. The same seed gives the same history.

pub mod acknowledged;
pub mod broker;
pub mod consumer;
pub mod disk;
pub mod dropped;
pub mod fault;
pub mod network;
pub mod operator;
pub mod oracle;
pub mod parties;
pub mod plan;
pub mod provider;
pub mod register;
pub mod replay;
pub mod routers;
pub mod world;

use std::sync::Arc;

use anyhow::Context;
use platform::simulation::schedule::Schedule;

use crate::parties::Identities;
use crate::world::{Outcome, World};

/// Runs one seed from its beginning to its end; `prints` prints the history in words.
pub fn run(seed: u64, prints: bool, identities: &Identities) -> anyhow::Result<Outcome> {
    let files = tempfile::tempdir().context("no folder for files")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let schedule = Schedule::new(seed);
    let main =
        async { World::new(seed, prints, identities, files.path(), Arc::clone(&schedule))?.run().await };
    let outcome = runtime.block_on(schedule.run(main));
    // Tasks hold their schedule: without this, those that are left would never be freed.
    runtime.block_on(async { schedule.clear() });
    outcome
}
