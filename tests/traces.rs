//! The path of one event, from a source's file to a row in PostgreSQL, as a real collector sees it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::path::Path;

use parts::collector::{Collector, Received};
use parts::kafka::Kafka;
use parts::postgres::Postgres;
use support::site::{Process, Site, eventually};

const SCHEMA: &str = r#"{"type":"record","name":"test.Row","fields":[
    {"name":"k","type":"string"},{"name":"t","type":"string"},{"name":"v","type":"string"}]}"#;

/// A provider and a consumer whose replica is in PostgreSQL; all processes send spans to the collector.
fn site(dir: &Path, database: &str, collector: &Collector) -> Site {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let channel = serde_json::json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 2,
        "key": {"fields": ["k"]}, "schema": schema});
    let agreement = serde_json::json!({"number": "A-1", "version": 1, "provider": "4000", "consumer": "9000",
        "channel": "register", "purpose": "test", "legal_basis": "test", "valid_from": "2020-01-01T00:00:00Z",
        "history": "full", "schema_version": 1, "rows": "t == \"R\"", "fields": {"k": "keep", "v": "keep"}});
    let declared = [("channels/register.json", channel), ("agreements/a-1.json", agreement)];
    let mut site = Site::new(dir, env!("CARGO_BIN_EXE_dit"), &declared).unwrap();
    site.participants(&["4000", "9000"]).unwrap();
    site.producer("4000/main", "register", SCHEMA, "").unwrap();
    site.consumer("9000/main", "A-1", "register").unwrap();
    let config = std::fs::read_to_string(site.path("consumer.toml")).unwrap();
    let place = format!("[agreement.postgres]\nurl = \"{database}\"\nschema = \"public\"\n");
    std::fs::write(site.path("consumer.toml"), format!("log_format = \"json\"\n{config}{place}")).unwrap();
    site.set_environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url());
    site.set_environment("OTEL_BSP_SCHEDULE_DELAY", "100");
    site
}

fn start(site: &Site) -> [Process; 3] {
    let producer: &[&str] = &["producer", "run", "--config", "producer.toml"];
    let consumer: &[&str] = &["consumer", "run", "--config", "consumer.toml"];
    let router: &[&str] = &["router", "--config", "router.toml"];
    [("router", router), ("producer", producer), ("consumer", consumer)]
        .map(|(name, arguments)| site.start(name, arguments).unwrap())
}

/// Waits for so many spans.
fn until(site: &Site, collector: &Collector, count: usize) {
    let waited = eventually(&format!("{count} spans have come"), || Ok(collector.spans().len() >= count));
    let logs = || ["router", "producer", "consumer"].map(|name| site.log(name)).concat();
    waited.unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", collector.said(), logs()));
}

/// A span by its name in a trace.
fn span<'a>(spans: &'a [Received], trace: &str, name: &str) -> &'a Received {
    let mut found = spans.iter().filter(|span| span.trace == trace && span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no {name:?} in {spans:#?}"));
    assert!(found.next().is_none(), "{name:?} stands twice in {spans:#?}");
    span
}

#[test]
fn one_event_is_one_trace_from_the_file_to_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let database = Postgres::shared().unwrap();
    let collector = Collector::start().unwrap();
    let site = site(dir.path(), &database, &collector);
    site.on_kafka(&Kafka::shared(1).unwrap()).unwrap();
    let _running = start(&site);
    site.drop_file("one.csv", "k,t,v\nsecret-key,R,secret-value\n").unwrap();
    until(&site, &collector, 8);
    let spans = collector.spans();
    let trace = &spans.iter().find(|span| span.name == "create register").unwrap().trace;
    let way = [
        ("create register", "dit-producer", "PRODUCER", ""),
        ("store outbox", "dit-producer", "INTERNAL", "create register"),
        ("send register", "dit-producer", "CLIENT", "create register"),
        ("ingest register", "dit-router", "SERVER", "create register"),
        ("append dit.register.log", "dit-router", "CLIENT", "ingest register"),
        ("deliver register", "dit-router", "SERVER", "create register"),
        ("process register", "dit-consumer", "CONSUMER", "create register"),
        ("apply postgresql", "dit-consumer", "CLIENT", "process register"),
    ];
    for (name, service, kind, above) in way {
        let found = span(&spans, trace, name);
        assert_eq!((found.service.as_str(), found.kind.as_str()), (service, &*format!("SPAN_KIND_{kind}")));
        let parent = if above.is_empty() { "" } else { &span(&spans, trace, above).id };
        assert_eq!(found.parent, parent, "{name}");
        assert_eq!(found.status, "STATUS_CODE_UNSET", "{name}");
    }
    let attributes = [
        ("append dit.register.log", "messaging.system", "kafka"),
        ("append dit.register.log", "messaging.operation.type", "send"),
        ("deliver register", "messaging.system", "dit"),
        ("deliver register", "messaging.destination.name", "register"),
        ("deliver register", "dit.agreement", "A-1"),
        ("deliver register", "dit.outcome", "handed_over"),
        ("process register", "messaging.operation.type", "process"),
        ("apply postgresql", "db.system.name", "postgresql"),
    ];
    for (name, attribute, value) in attributes {
        let found = span(&spans, trace, name).attributes.get(attribute);
        assert_eq!(found.map(String::as_str), Some(value), "{name}: {attribute}");
    }
    assert!(!collector.said().contains("secret"), "a key or a value stands in a span");

    // An event that no agreement lets through gets to the log, and no further.
    site.drop_file("two.csv", "k,t,v\nsecret-key,R,secret-value\nother,J,x\nlast,R,y\n").unwrap();
    until(&site, &collector, 8 + 8 + 5);
    let spans = collector.spans();
    let steps = |trace: &str| spans.iter().filter(|span| span.trace == trace).count();
    let roots = spans.iter().filter(|span| span.name == "create register");
    let mut counts: Vec<usize> = roots.map(|root| steps(&root.trace)).collect();
    counts.sort_unstable();
    assert_eq!(counts, [5, 8, 8], "{spans:#?}");
}

#[tokio::test]
async fn a_failed_step_is_seen_in_its_trace_and_its_log_line_names_the_trace() {
    let dir = tempfile::tempdir().unwrap();
    let database = Postgres::shared().unwrap();
    let collector = Collector::start().unwrap();
    let site = site(dir.path(), &database, &collector);
    let _running = start(&site);
    site.drop_file("one.csv", "k,t,v\na,R,1\n").unwrap();
    until(&site, &collector, 8);
    let (admin, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // The table refuses as a whole: a row's own fault would be parked.
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'not now' USING ERRCODE = 'insufficient_privilege'; END $$;
        CREATE TRIGGER ours BEFORE INSERT ON register EXECUTE FUNCTION refuse()";
    admin.batch_execute(refuse).await.unwrap();
    site.drop_file("two.csv", "k,t,v\na,R,1\nb,R,refused\n").unwrap();
    until(&site, &collector, 16);
    admin.batch_execute("DROP TRIGGER ours ON register").await.unwrap();
    // Handed over, processed and applied once more.
    until(&site, &collector, 19);
    let spans = collector.spans();
    let applied: Vec<_> = spans.iter().filter(|span| span.name == "apply postgresql").collect();
    assert_eq!(applied[1].trace, applied[2].trace, "tried again");
    assert_eq!(
        (applied[1].status.as_str(), applied[2].status.as_str()),
        ("STATUS_CODE_ERROR", "STATUS_CODE_UNSET")
    );
    assert_eq!(applied[1].attributes.get("error.type").map(String::as_str), Some("sink"));
    let log = site.log("consumer");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let told: Vec<_> = lines.filter(|line| line["fields"]["class"] == "sink").collect();
    assert_eq!(told.len(), 1, "{log}");
    assert_eq!(told[0]["span"]["trace_id"], applied[1].trace, "{log}");
}

#[test]
fn what_is_not_sampled_leaves_no_trace_and_a_wrong_variable_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let database = Postgres::shared().unwrap();
    let collector = Collector::start().unwrap();
    let mut site = site(dir.path(), &database, &collector);
    site.set_environment("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
    site.set_environment("OTEL_TRACES_SAMPLER_ARG", "0");
    let running = start(&site);
    site.drop_file("one.csv", "k,t,v\na,R,1\n").unwrap();
    eventually("the row has come", || Ok(rows(&site) == 1)).unwrap();
    for process in running {
        assert!(process.stop().unwrap(), "what is left goes out at the end");
    }
    assert_eq!(collector.spans(), []);
    site.set_environment("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let _refused = site.start("producer", &["producer", "run", "--config", "producer.toml"]).unwrap();
    let said =
        || Ok(site.log("producer").contains("OTEL_EXPORTER_OTLP_PROTOCOL=grpc: traces go by http/protobuf"));
    eventually("the variable is refused", said).unwrap();
}

/// Rows of the consumer's replica, as its status has it.
fn rows(site: &Site) -> u64 {
    let status = std::fs::read_to_string(site.path("consumer/A-1.status.json")).unwrap_or_default();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
    status["rows"].as_u64().unwrap_or_default()
}
