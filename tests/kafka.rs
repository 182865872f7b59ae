//! The main job on a real Kafka, with two routers that may be killed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod two_routers;

use std::path::PathBuf;
use std::process::Command;

use consumer_agent::receive::machine::Tally;
use dit::demo::register::{RegisterOptions, play};
use parts::kafka::Kafka;
use parts::postgres::Postgres;
use support::real_data;

/// As a user types it.
#[test]
fn the_demo_ends_verified_on_kafka() {
    let brokers = Kafka::shared(1).unwrap();
    let arguments = ["demo", "--kafka", &brokers, "--output", "json"];
    let output = Command::new(env!("CARGO_BIN_EXE_dit")).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let result: serde_json::Value = serde_json::from_str(said.lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{e}: {said}\n{}", String::from_utf8_lossy(&output.stderr)));
    assert!(output.status.success() && result["equal"] == true, "{result}");
    assert_eq!(result["revoked"]["holds"], true);
    assert!(said.contains("a router on Kafka at "), "{said}");
}

/// Done when, 1, after the main job's 2.
#[tokio::test(flavor = "multi_thread")]
async fn the_territorial_reform_through_two_routers_one_of_them_killed() {
    let Some(dir) = real_data::folder("the territorial reform on Kafka", "lv-places") else { return };
    let files: Vec<PathBuf> = ["2019-09-17", "2020-10-23", "2021-06-24", "2024-04-12"]
        .map(|day| dir.join(format!("LV.{day}.tsv")))
        .to_vec();
    let place = tempfile::tempdir().unwrap();
    let (routers, backing) = two_routers::start(place.path()).await;
    let (begun, killing) = two_routers::kill_at(routers, 4);
    let outcome = play(RegisterOptions {
        key: ["postal_code", "place", "parish"].map(str::to_owned).to_vec(),
        territory: "admin1_code".to_owned(),
        encoding: "utf-8".to_owned(),
        header: Some(real_data::LV_HEADER.split(',').map(str::to_owned).collect()),
        territories: Some(real_data::territories(&files)),
        files,
        backing,
        postgres: Some(Postgres::shared().unwrap()),
        begun,
        ..RegisterOptions::default()
    })
    .await
    .unwrap();
    drop(killing.await.unwrap());
    assert!(outcome.equal, "{outcome:?}");
    let counts: Vec<_> = outcome.versions.iter().map(|v| [v.create, v.update, v.delete, v.parked]).collect();
    assert_eq!(counts, [[5973, 0, 0, 4], [124, 2269, 0, 4], [0, 0, 0, 4], [0, 2847, 0, 4]]);
    assert_eq!(outcome.replicas.len(), 122);
    assert_eq!(outcome.replicas.iter().filter(|replica| replica.rows == 0).count(), 78);
    assert_eq!(outcome.replicas.last().unwrap().rows, 6097);
    let moved = |count: fn(&Tally) -> u64| outcome.replicas.iter().map(|r| count(&r.delivered)).sum::<u64>();
    let replicas: Vec<_> = outcome.replicas.iter().map(|r| (&r.territory, r.rows, r.delivered)).collect();
    assert_eq!((moved(|tally| tally.left), moved(|tally| tally.entered)), (2847, 2847), "{replicas:?}");
}
