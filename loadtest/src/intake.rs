//! From a dropped file to a full outbox, and the same file read without dit.
//!
//! Owns the file, and the measurement of its taking, during which nothing is sent.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::gate::Gate;
use crate::network::Network;
use crate::outcome::{Measured, Process, since};
use crate::process::Part;
use crate::rows::{Row, now_micros};
use crate::scenario::Scenario;

/// How often it is looked whether the file was taken.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long the taking of a file may last.
const PATIENCE: Duration = Duration::from_mins(10);

/// Writes a file of so many rows into a drop folder, under a name that the agent leaves alone.
pub(crate) fn write_file(drop: &Path, events: u64, municipalities: u32) -> anyhow::Result<()> {
    write_rows(&drop.join("load.part"), events, municipalities)
}

/// Gives the file its name: the agent takes it.
pub(crate) fn drop_file(drop: &Path) -> anyhow::Result<()> {
    Ok(std::fs::rename(drop.join("load.part"), drop.join("load.tsv"))?)
}

fn write_rows(path: &Path, events: u64, municipalities: u32) -> anyhow::Result<()> {
    let mut text = Row::header().to_owned();
    for number in 0..events {
        Row::new(number, municipalities, 0).line(&mut text);
    }
    Ok(std::fs::write(path, text)?)
}

/// Closes the line to the router, and waits until the agent has taken a file of so many rows. Returns when it was dropped,
/// in microseconds since 1970.
pub(crate) async fn fill(gate: &Gate, drop: &Path, events: u64, municipalities: u32) -> anyhow::Result<i64> {
    gate.close();
    write_file(drop, events, municipalities)?;
    let begun = now_micros();
    drop_file(drop)?;
    let taken = drop.join("taken/load.tsv");
    let mut look = tokio::time::interval(LOOK_EVERY);
    let until = async {
        while !taken.exists() {
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.context("the agent did not take the file")?;
    Ok(begun)
}

/// The agent of the network takes the scenario's file.
pub(crate) async fn fill_network(scenario: &Scenario, network: &Network) -> anyhow::Result<i64> {
    let gate = network.gate().context("the line to the router cannot be closed")?;
    fill(gate, &network.path("drop"), scenario.events(), scenario.consumers()).await
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^52")]
fn measured(scenario: &Scenario, begun: i64, ended: i64, processes: Vec<Process>) -> Measured {
    let seconds = (ended - begun) as f64 / 1e6;
    let events = scenario.events();
    let course = vec![(0.0, 0), (seconds, events)];
    Measured { events, seconds, processes, course, ..Measured::default() }
}

fn producer(network: &Network) -> Vec<Process> {
    let [(name, part), ..] = network.parts();
    vec![Process { name: name.to_owned(), taken: part.taken() }]
}

/// The agent takes the file.
pub(crate) async fn ours(scenario: &Scenario, network: &Network) -> anyhow::Result<Measured> {
    let before = producer(network);
    let begun = fill_network(scenario, network).await?;
    let ended = now_micros();
    Ok(measured(scenario, begun, ended, since(&before, producer(network))))
}

/// A plain reader reads it.
pub(crate) async fn raw(scenario: &Scenario) -> anyhow::Result<Measured> {
    let dir = tempfile::Builder::new().prefix("dit-load-raw-").tempdir()?;
    let file = dir.path().join("load.tsv");
    write_rows(&file, scenario.events(), scenario.consumers())?;
    let start = dir.path().join("start");
    let arguments =
        ["raw-reader", "--file", &file.display().to_string(), "--start", &start.display().to_string()];
    let mut reader = Part::start("raw-reader", dir.path(), &arguments, &[])?;
    reader.until("it was there", |line| line.ready).await?;
    let taken = |reader: &Part| vec![Process { name: "raw reader".to_owned(), taken: reader.taken() }];
    let before = taken(&reader);
    let begun = now_micros();
    std::fs::write(&start, "")?;
    let last = reader.until("all rows were read", |line| line.events >= scenario.events()).await?;
    ensure!(last.events == scenario.events(), "{} rows were new of {}", last.events, scenario.events());
    let measured = measured(scenario, begun, last.last_at, since(&before, taken(&reader)));
    reader.stop().await?;
    Ok(measured)
}
