//! The schema registry's interface, by one suite: the router's own, and an external one behind it; and the external one
//! in trouble.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::sync::Arc;

use event_log::memory::MemoryLog;
use parts::registry::Registry;
use platform::client::{Client, send_json};
use router::registry::external::{External, RegistryOptions};
use schemas::avro::schema::AvroSchema;
use schemas::change::{ChangeCodec, Op};
use serde_json::{Value, json};
use support::network::{Network, row};
use support::publisher::{SCHEMA, datum};

const SUBJECT: &str = "dit.register.log-value";

fn external(registry: &Registry) -> External {
    platform::identity::install_crypto();
    External::new(&RegistryOptions { url: registry.url(), username: None, password_file: None }).unwrap()
}

fn envelope(schema: &str) -> String {
    ChangeCodec::new(&AvroSchema::parse(schema).unwrap()).unwrap().block_schema().text().to_owned()
}

async fn register(client: &Client, schema: &str) -> (u16, Value) {
    let path = format!("/registry/subjects/{SUBJECT}/versions");
    let answer = client.post(&path).json(&json!({"schema": envelope(schema)})).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

fn with_field(field: &str) -> String {
    SCHEMA.replace("]}", &format!(",{field}]}}"))
}

/// The behaviour of a registry, whichever registry gives the ids.
async fn behaves(network: &Network) {
    let client = network.client("4000/main").unwrap();
    let subjects: Vec<String> = send_json(client.get("/registry/subjects")).await.unwrap();
    assert_eq!(subjects, [SUBJECT]);
    let latest: Value =
        send_json(client.get(&format!("/registry/subjects/{SUBJECT}/versions/latest"))).await.unwrap();
    assert_eq!(latest["version"], 1);
    let first = latest["id"].clone();
    let by_id: Value = send_json(client.get(&format!("/registry/schemas/ids/{first}"))).await.unwrap();
    assert_eq!(by_id["schema"], latest["schema"]);
    assert_eq!(
        register(&client, SCHEMA).await,
        (200, json!({"id": first})),
        "the same schema has the same id"
    );

    let retyped = SCHEMA.replace("\"secret\",\"type\":\"string\"", "\"secret\",\"type\":\"long\"");
    let (status, problem) = register(&client, &retyped).await;
    assert_eq!((status, &problem["error_code"]), (409, &json!(409)));
    let body = json!({"schema": "{\"type\": \"nothing\"}"});
    let path = format!("/registry/subjects/{SUBJECT}/versions");
    let invalid = client.post(&path).json(&body).send().await.unwrap();
    assert_eq!(invalid.status(), 422);

    let wider = with_field(r#"{"name":"more","type":"string","default":""}"#);
    let (status, answer) = register(&client, &wider).await;
    assert_eq!(status, 200, "{answer}");
    assert_ne!(answer["id"], first);
    let versions: Vec<u32> = send_json(client.get(&path)).await.unwrap();
    assert_eq!(versions, [1, 2]);
    let missing = client.get("/registry/schemas/ids/999").send().await.unwrap();
    assert_eq!(missing.status(), 404);
    let foreign = network.client("9000/main").unwrap();
    assert_eq!(register(&foreign, &wider).await.0, 403, "a subject is its channel's owner's");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routers_own_registry_behaves() {
    behaves(&Network::opened().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_registry_behaves_the_same_and_knows_what_was_registered() {
    let registry = Registry::start().unwrap();
    let network = Network::start_before(external(&registry), Arc::new(MemoryLog::default())).await.unwrap();
    network.open().await.unwrap();
    behaves(&network).await;
    // Asked without the router, it has the same ids for the same schemas.
    let own = network.client("4000/main").unwrap();
    for version in [1, 2] {
        let path = format!("/registry/subjects/{SUBJECT}/versions/{version}");
        let ours: Value = send_json(own.get(&path)).await.unwrap();
        let id = u32::try_from(ours["id"].as_u64().unwrap()).unwrap();
        let theirs = external(&registry).get(schemas::ids::SchemaId::new(id)).await.unwrap().unwrap();
        assert_eq!(theirs.text(), ours["schema"].as_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_stops_no_event_of_a_known_schema() {
    let mut registry = Registry::start().unwrap();
    let mut network =
        Network::start_before(external(&registry), Arc::new(MemoryLog::default())).await.unwrap();
    network.open().await.unwrap();
    let client = network.client("4000/main").unwrap();
    let wider = with_field(r#"{"name":"more","type":"string","default":""}"#);
    let mut stream = network.stream("9000/main", "earliest").await.unwrap();
    registry.stop().unwrap();
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    stream.until(|word| word == "upsert a Change").await.unwrap();
    let (status, problem) = register(&client, &wider).await;
    assert_eq!(status, 503, "{problem}");
    assert!(
        problem["message"].as_str().unwrap().contains("the schema registry is not available"),
        "{problem}"
    );
    // It comes back empty: its next id is another schema's here.
    registry.run().unwrap();
    let (status, problem) = register(&client, &wider).await;
    assert!(status >= 400, "{problem}");
    let words = problem["message"].as_str().unwrap();
    assert!(words.contains("the registry is not the one that this network began with"), "{words}");
    network.publish(Op::Create, "b", None, Some(&row("b", "R"))).await.unwrap();
    stream.until(|word| word == "upsert b Change").await.unwrap();
}

/// Done when, 5: Kafka's console consumer, in Java, with Apicurio's Avro deserialiser.
#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn another_languages_consumer_reads_events_and_keys() {
    use event_log::kafka::KafkaLog;
    use event_log::kafka_options::KafkaOptions;
    use parts::kafka::Kafka;
    let kafka = Kafka::start(1).unwrap();
    let registry = Registry::start().unwrap();
    let options =
        KafkaOptions { brokers: kafka.bootstrap(), prefix: String::new(), replication: 1, security: None };
    let log = Arc::new(KafkaLog::connect(&options).unwrap());
    let mut network = Network::start_before(external(&registry), log).await.unwrap();
    network.open().await.unwrap();
    let images = [row("Ķekava", "R"), row("Rīga", "R")];
    let [first, second] = &images;
    let created = [("Ķekava", first), ("Rīga", second)];
    let mut changes = created.map(|(key, image)| datum(Op::Create, key, None, Some(image))).to_vec();
    changes.push(datum(Op::Delete, "Ķekava", Some(first), None));
    network.publish_block(&changes).await.unwrap();
    network.materialised().await.unwrap();
    // Its checkpoint, its opening, the block.
    let said = kafka.console_consumer("dit.register.log", &registry.url(), 3).unwrap();
    let blocks: Vec<&str> = said.lines().filter(|line| line.contains("dit_kind:block")).collect();
    let [block] = blocks.as_slice() else { panic!("one record for three changes: {said}") };
    assert!(block.contains("dit_count:3") && block.contains("\tnull\t[{"), "an array without a key: {block}");
    let at = |part: &str| block.find(part).unwrap_or_else(|| panic!("{part}: {block}"));
    let created = r#""op": "c", "key": "Ķekava""#;
    assert!(at(created) < at(r#""op": "c", "key": "Rīga""#), "in order");
    assert!(at(r#""key": "Rīga""#) < at(r#""op": "d", "key": "Ķekava""#), "in order");
    assert!(block.contains(r#""secret": "SECRET""#), "{block}");
    // The state's commit: present images and deleted keys as a block of the same form, and its checkpoint.
    let said = kafka.console_consumer("dit.register.state", &registry.url(), 2).unwrap();
    let images = said.lines().find(|line| line.contains("dit_kind:images") && line.contains("\tnull\t[{"));
    let images = images.unwrap_or_else(|| panic!("{said}"));
    assert!(images.contains(r#""op": "r", "key": "Rīga""#), "{images}");
    assert!(images.contains(r#""op": "d", "key": "Ķekava""#), "{images}");
}
