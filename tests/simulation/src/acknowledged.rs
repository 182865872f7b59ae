//! The check of a provider's acknowledgements: what its agent calls acknowledged has counted in the log.
//!
//! Owns the entries between their append and their acknowledgement. It believes no answer of a router: the oracle counts
//! the log itself. Without it, an agent that forgets entries too early would be seen only if no later reopen repairs it.

use std::collections::VecDeque;

use anyhow::Context;
use producer_agent::agent::Agent;
use producer_agent::outbox::{StoredEntry, lock};
use producer_agent::send::sender::Sent;
use schemas::ids::ChannelName;
use schemas::promise::Promise;
use tokio::sync::watch;

use crate::oracle::Oracle;

/// Checks each acknowledgement of a sender, until the agent ends.
pub async fn check(
    oracle: &Oracle,
    channel: &ChannelName,
    agent: &Agent,
    mut sent: watch::Receiver<Sent>,
) -> anyhow::Result<()> {
    let topic = format!("dit.{channel}.log");
    let outbox = agent.outbox();
    let mut appended = agent.appended();
    let mut next = sent.borrow().acknowledged;
    let mut waiting: VecDeque<StoredEntry> = VecDeque::new();
    loop {
        appended.borrow_and_update();
        lock(&outbox).for_each(next, &mut |stored| {
            next = stored.position + 1;
            waiting.push_back(stored);
            true
        })?;
        let acknowledged = sent.borrow_and_update().acknowledged;
        anyhow::ensure!(next >= acknowledged, "entries from {next} on were removed before they were seen");
        while let Some(stored) = waiting.pop_front_if(|stored| stored.position < acknowledged) {
            let (partition, sequence) = (stored.entry.partition, stored.entry.sequence);
            if !oracle.has_counted(&topic, partition, stored.entry.digest) {
                let what = format!("{topic}/{partition}: {sequence} was acknowledged, and has not counted");
                oracle.broken(Promise::AcceptedOnce, what);
            }
        }
        tokio::select! {
            biased;
            changed = appended.changed() => changed.context("the agent has ended")?,
            changed = sent.changed() => changed.context("the sender has ended")?,
        }
    }
}
