//! The other side of a fan-out: NATS JetStream, with a subject for each municipality.
//!
//! Owns the server of a round, its stream, and the order in which its producer and its consumers begin.

use anyhow::Context as _;
use async_nats::jetstream::stream::{Config, StorageType};
use indicatif::ProgressBar;
use parts::nats::Nats;

use crate::measure::measured;
use crate::outcome::{Measured, NATS, Process, since};
use crate::process::{Part, taken};
use crate::rows::now_micros;
use crate::scenario::Scenario;

const STREAM: &str = "addresses";
const PRODUCER: &str = "NATS producer";
const CONSUMERS: &str = "NATS consumers";

/// Measures the scenario on JetStream: its server counts as the broker.
pub(crate) async fn measure(scenario: &Scenario, bar: &ProgressBar) -> anyhow::Result<Measured> {
    let server = Nats::start()?;
    let client = async_nats::connect(server.url()).await?;
    let subjects = vec![format!("{STREAM}.>")];
    let stream =
        Config { name: STREAM.to_owned(), subjects, storage: StorageType::File, ..Config::default() };
    async_nats::jetstream::new(client).create_stream(stream).await?;
    let dir = tempfile::Builder::new().prefix("dit-load-nats-").tempdir()?;
    let url = server.url();
    let [count, events] =
        [u64::from(scenario.consumers()), scenario.events()].map(|number| number.to_string());
    let to = ["--server", &url, "--stream", STREAM];
    let arguments = [&["nats-consumers", "--count", &count], &to[..]].concat();
    let mut consumers = Part::start("nats-consumers", dir.path(), &arguments, &[])?;
    let start = dir.path().join("start");
    let begin = start.display().to_string();
    let own = ["nats-producer", "--events", &events, "--municipalities", &count, "--start", &begin];
    let mut producer = Part::start("nats-producer", dir.path(), &[&own, &to[..]].concat(), &[])?;
    consumers.until("they were subscribed", |line| line.ready).await?;
    producer.until("its events were made", |line| line.ready).await?;
    let pid = server.pid().context("the server has no process")?;
    let all = |producer: &Part, consumers: &Part| {
        let each = [(PRODUCER, producer.taken()), (CONSUMERS, consumers.taken()), (NATS, taken(pid))];
        each.map(|(name, taken)| Process { name: name.to_owned(), taken }).to_vec()
    };
    let before = all(&producer, &consumers);
    let begun = now_micros();
    std::fs::write(&start, "")?;
    let mut found = measured(&mut consumers, scenario, begun, bar).await?;
    found.processes = since(&before, all(&producer, &consumers));
    producer.stop().await?;
    consumers.stop().await?;
    Ok(found)
}
