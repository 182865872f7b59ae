//! Two router processes on a real Kafka, as a demo's network joins them.

use std::path::Path;

use dit::demo::backing::{Backing, Elsewhere};
use parts::kafka::Kafka;
use support::routers::{DOMAIN, Routers};

/// Starts them; their files are in `dir`.
#[allow(dead_code, reason = "not every test that has two routers does without a registry")]
pub(crate) async fn start(dir: &Path) -> (Routers, Backing) {
    platform::identity::install_crypto();
    let brokers = Kafka::shared(1).unwrap();
    let routers = Routers::start(dir, env!("CARGO_BIN_EXE_dit"), &brokers, 2).await.unwrap();
    joined(routers)
}

/// Starts them in front of an external schema registry.
#[allow(dead_code, reason = "not every test that has two routers has a registry")]
pub(crate) async fn start_before(dir: &Path, registry: &str) -> (Routers, Backing) {
    platform::identity::install_crypto();
    let brokers = Kafka::shared(1).unwrap();
    let dit = env!("CARGO_BIN_EXE_dit");
    joined(Routers::start_before(dir, dit, &brokers, 2, registry).await.unwrap())
}

fn joined(routers: Routers) -> (Routers, Backing) {
    let elsewhere = Elsewhere {
        pki: routers.pki(),
        domain: DOMAIN.to_owned(),
        agents: routers.agents(),
        operators: routers.operators(),
        secret: routers.secret().to_vec(),
    };
    (routers, Backing::Elsewhere(elsewhere))
}

#[allow(dead_code, reason = "not every test that has two routers plays versions")]
/// Kills the first when so many versions were begun: their changes are under way then.
pub(crate) fn kill_at(
    mut routers: Routers,
    version: usize,
) -> (tokio::sync::watch::Sender<usize>, tokio::task::JoinHandle<Routers>) {
    let begun = tokio::sync::watch::Sender::default();
    let mut watching: tokio::sync::watch::Receiver<usize> = begun.subscribe();
    let killing = tokio::spawn(async move {
        watching.wait_for(|begun| *begun >= version).await.unwrap();
        routers.kill(0).unwrap();
        routers
    });
    (begun, killing)
}
