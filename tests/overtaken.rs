//! A state that the log has left behind: refused with its reason, and repaired by the provider's reopen.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod daily_site;

use std::path::Path;

use daily_site::{register, replica, settled, site, start, take_day};
use parts::kafka::Kafka;
use support::site::eventually;

fn alter_state_topic(kafka: &Kafka, change: [&str; 2]) {
    let bootstrap = kafka.bootstrap();
    let topic = ["--bootstrap-server", &bootstrap, "--alter", "--topic", "dit.register.state"];
    kafka.tool("kafka.admin.ConfigCommand", &[&topic[..], &change[..]].concat()).unwrap();
}

/// Acts as retention after a long time: nothing of the log is left, not even a checkpoint.
fn delete_all_records(kafka: &Kafka, dir: &Path) {
    let file = dir.join("delete.json");
    let partitions: Vec<_> = (0..3)
        .map(|number| serde_json::json!({"topic": "dit.register.log", "partition": number, "offset": -1}))
        .collect();
    std::fs::write(&file, serde_json::json!({"partitions": partitions, "version": 1}).to_string()).unwrap();
    let bootstrap = kafka.bootstrap();
    let arguments = ["--bootstrap-server", &bootstrap, "--offset-json-file", file.to_str().unwrap()];
    kafka.tool("org.apache.kafka.tools.DeleteRecordsCommand", &arguments).unwrap();
}

#[test]
fn a_state_that_the_log_has_left_behind_is_repaired_by_its_provider() {
    let kafka = Kafka::start(1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let site = site(dir.path());
    site.on_kafka(&kafka.bootstrap()).unwrap();
    let (site, mut running) = settled(site);
    // From now on the state takes only markers of transactions; the log continues, and live consumers with it.
    alter_state_topic(&kafka, ["--add-config", "max.message.bytes=100"]);
    take_day(&site, 1);
    eventually("a commit fails", || Ok(site.log("router").contains("the state cannot be written")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("router")));
    for part in ["producer", "consumer", "router"] {
        running.remove(part).unwrap().kill().unwrap();
    }
    delete_all_records(&kafka, dir.path());
    alter_state_topic(&kafka, ["--delete-config", "max.message.bytes"]);
    // A consumer without a replica would be given day 0 as the present.
    std::fs::remove_dir_all(site.path("consumer")).unwrap();
    for part in ["router", "consumer"] {
        running.insert(part, start(&site, part));
    }
    eventually("the consumer is refused", || Ok(site.log("consumer").contains("state_overtaken")))
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", site.log("router"), site.log("consumer")));
    assert!(site.log("router").contains("state_overtaken"), "the operator's alarm");
    assert!(replica(&site).is_empty());
    running.insert("producer", start(&site, "producer"));
    let (_, part) = register(1);
    eventually("the replica equals the register's part", || Ok(replica(&site) == part))
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", site.log("router"), site.log("producer")));
    assert!(site.log("producer").contains("the channel is reopened"), "{}", site.log("producer"));
    take_day(&site, 2);
}
