//! Kafka in trouble under live routers: each trouble ends in its named state, and recovers or says what a person
//! must do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::kafka::KafkaLog;
use event_log::kafka_options::KafkaOptions;
#[cfg(feature = "kafka-tls")]
use event_log::kafka_options::{Sasl, Security};
use event_log::{Cleanup, CommitError, Log, TopicSpec};
use parts::kafka::Kafka;
use platform::observe::Observed;
#[cfg(feature = "kafka-tls")]
use platform::pki::{Authority, Subject};
use router::observe::Watch;
use schemas::change::Op;
use schemas::error_code::ErrorCode;
use schemas::ids::{Epoch, Offset, Partition};
use schemas::record::Record;
use support::network::{Network, agreement, refusal, row};
use support::publisher::{Publisher, datum};

const EPOCH: Epoch = Epoch::new([1; 16]);

/// How long a trouble may take until it is named.
const LIMIT: Duration = Duration::from_secs(60);

struct Play {
    kafka: Kafka,
    network: Network,
    agent: Publisher,
}

fn create(key: &str) -> Vec<u8> {
    datum(Op::Create, key, None, Some(&row(key, "R")))
}

impl Play {
    async fn on(nodes: u16) -> Self {
        let kafka = tokio::task::spawn_blocking(move || Kafka::start(nodes.into())).await.unwrap().unwrap();
        let brokers = kafka.bootstrap();
        let prefix = "f.".to_owned();
        let options = KafkaOptions { brokers, prefix, replication: nodes, security: None };
        let log = Arc::new(KafkaLog::connect(&options).unwrap());
        let network = Network::start_beside("r1", log, agreement(1, "t == \"R\"")).await.unwrap();
        let mut agent = Publisher::new(network.client("4000/main").unwrap(), EPOCH);
        agent.open(None).await.unwrap();
        agent.publish(&[create("a")]).await.unwrap();
        Self { kafka, network, agent }
    }

    /// The readiness checks that fail.
    async fn faults(&self) -> Vec<&'static str> {
        let checks = Watch::new(self.network.router.core().clone()).checks().await;
        checks.into_iter().filter(|check| check.fault.is_some()).map(|check| check.name).collect()
    }

    /// Sends until it counts, as an agent does.
    async fn until_it_counts(&mut self, key: &str) {
        let before = self.agent.next;
        for _ in 0..20 {
            match self.agent.publish(&[create(key)]).await {
                Ok(counted) if counted.next > before => return,
                Ok(counted) => panic!("{counted:?}"),
                Err(error) => println!("not yet: {error}"),
            }
        }
        panic!("{key} never counts");
    }
}

/// TLS and a password: with them the log works, without them it says what is wrong.
#[cfg(feature = "kafka-tls")]
#[tokio::test(flavor = "multi_thread")]
async fn tls_and_sasl_are_a_matter_of_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = Authority::open_or_create(dir.path(), "kafka.test").unwrap();
    let subject = Subject::Router { name: "broker".to_owned(), hosts: vec!["localhost".to_owned()] };
    authority.issue_to(dir.path(), "broker", &subject).unwrap();
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    std::fs::write(path("keystore.pem"), read("broker-key.pem") + &read("broker.pem")).unwrap();
    let module = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" \
        password=\"a\" user_admin=\"a\" user_dit=\"secret\";";
    let properties = format!(
        "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
         sasl.enabled.mechanisms=PLAIN\nsasl.mechanism.inter.broker.protocol=PLAIN\n\
         listener.name.sasl_ssl.plain.sasl.jaas.config={module}\n",
        path("keystore.pem").display(),
        path("ca.pem").display()
    );
    let start = move || Kafka::start_with(1, "SASL_SSL", &properties);
    let kafka = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
    let attempt = async |password: &str| {
        platform::closed::write(&path("password"), password).unwrap();
        let mechanism = "PLAIN".to_owned();
        let username = "dit".to_owned();
        let sasl = Sasl { mechanism, username, password_file: path("password") };
        let security = Security { ca: path("ca.pem"), certificate: None, key: None, sasl: Some(sasl) };
        let brokers = kafka.bootstrap();
        let prefix = String::new();
        let options = KafkaOptions { brokers, prefix, replication: 1, security: Some(security) };
        let log = KafkaLog::connect(&options).unwrap();
        log.ensure_topic(&TopicSpec { name: "t".to_owned(), partitions: 1, cleanup: Cleanup::KeepAll }).await
    };
    assert!(attempt("secret\n").await.unwrap());
    let refused = attempt("wrong").await.unwrap_err().to_string();
    assert!(refused.contains("the cluster does not answer"), "{refused}");
}

/// A writer derives its records' offsets from the last one's: a commit with foreign records between its own fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_has_consecutive_offsets_or_fails() {
    let kafka = tokio::task::spawn_blocking(|| Kafka::start(1)).await.unwrap().unwrap();
    let brokers = kafka.bootstrap();
    let options = KafkaOptions { brokers, prefix: String::new(), replication: 1, security: None };
    let log = KafkaLog::connect(&options).unwrap();
    let spec = TopicSpec { name: "s".to_owned(), partitions: 1, cleanup: Cleanup::KeepAll };
    log.ensure_topic(&spec).await.unwrap();
    let partition = Partition::new(0);
    // Enough for several requests.
    const COUNT: u64 = 400;
    let record = |text: String| Record { key: None, value: Some(text.into_bytes()), headers: Vec::new() };
    let mut committed = 0;
    for round in 0..20 {
        let mut writer = log.open_writer("w").await.unwrap();
        let ours = (0..COUNT).map(|number| record(format!("{round}.{number} {}", "x".repeat(5_000))));
        let foreign = async {
            // The first has nobody beside it.
            for _ in 0..if round == 0 { 0 } else { 5 } {
                log.append("s", partition, vec![record("foreign".to_owned())]).await.unwrap();
            }
        };
        let (outcome, ()) = tokio::join!(writer.commit("s", partition, ours.collect()), foreign);
        let last = match outcome {
            Ok(there) => there.last,
            Err(CommitError::Failed(why)) => {
                assert!(round > 0, "{why}");
                assert!(why.contains("another writer's records"), "{why}");
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        committed += 1;
        let mut next = Offset::new(last.get() + 1 - COUNT);
        for number in 0..COUNT {
            let batch = log.read("s", partition, next, 1, Duration::ZERO).await.unwrap();
            let stored = batch.records.first().unwrap();
            assert_eq!(stored.offset, next, "round {round}, {number}");
            let text = String::from_utf8(stored.record.value.clone().unwrap()).unwrap();
            assert!(text.starts_with(&format!("{round}.{number} ")), "round {round}, {number}");
            next = next.next();
        }
    }
    assert!(committed < 20, "no foreign record came between ours: nothing was refused");
}

/// Threads of this process by the kernel's count.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Reads at the tail and in the middle of many partitions at once take no more threads than of one.
#[test]
fn threads_do_not_grow_with_partitions() {
    // Other tests of this process have threads of their own.
    let alone = ["--exact", "--ignored", "--nocapture", "threads_of_a_process_of_its_own"];
    let ended = std::process::Command::new(std::env::current_exe().unwrap()).args(alone).status().unwrap();
    assert!(ended.success());
}

#[tokio::test]
#[ignore = "threads_do_not_grow_with_partitions runs it in a process of its own"]
async fn threads_of_a_process_of_its_own() {
    const PARTITIONS: u32 = 60;
    let kafka = tokio::task::spawn_blocking(|| Kafka::start(1)).await.unwrap().unwrap();
    let brokers = kafka.bootstrap();
    let prefix = String::new();
    let options = KafkaOptions { brokers, prefix, replication: 1, security: None };
    let log = KafkaLog::connect(&options).unwrap();
    let spec = TopicSpec { name: "t".to_owned(), partitions: PARTITIONS, cleanup: Cleanup::KeepAll };
    log.ensure_topic(&spec).await.unwrap();
    let record = Record { key: None, value: Some(b"x".to_vec()), headers: Vec::new() };
    let work = async |number: u32| {
        let partition = Partition::new(number);
        let last = log.append("t", partition, vec![record.clone(), record.clone()]).await.unwrap();
        for wait in [Duration::ZERO, LIMIT] {
            let batch = log.read("t", partition, last, 100, wait).await.unwrap();
            assert_eq!(batch.records.len(), 1);
        }
    };
    futures_util::future::join_all((0..16).map(work)).await;
    let few = threads();
    futures_util::future::join_all((0..PARTITIONS).map(work)).await;
    // Threads for queries start on demand, up to eight; with a thread for each partition there would be 44 more.
    assert!(threads() <= few + 8, "{} threads with {PARTITIONS} partitions, {few} with 16", threads());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_is_lost_by_name_and_never_begun_anew() {
    let play = Play::on(1).await;
    let mut stream = play.network.stream("9000/main", "earliest").await.unwrap();
    stream.until(|word| word == "upsert a Change").await.unwrap();
    let bootstrap = play.kafka.bootstrap();
    let delete = ["--bootstrap-server", &bootstrap, "--delete", "--topic", "f.dit.register.log"];
    play.kafka.tool("org.apache.kafka.tools.TopicCommand", &delete).unwrap();
    // This broker makes topics by itself: an append makes an empty one of the same name.
    let mut codes = Vec::new();
    let began = Instant::now();
    while codes.last() != Some(&ErrorCode::LostTopic) {
        let body = play.agent.body(&[create("b")]).unwrap();
        codes.push(refusal(play.agent.send(body).await).unwrap());
        codes.dedup();
        assert!(began.elapsed() < LIMIT, "{codes:?}");
    }
    println!("{codes:?} within {:?}", began.elapsed());
    stream.until(|word| word.starts_with("closing")).await.unwrap();
    let last = stream.words.last().unwrap();
    assert!(last.contains("lost_topic") && last.contains("restore the topic"), "{last}");
    let refused = play.network.stream_refused("9000/main", "A-1", "earliest").await.unwrap();
    assert_eq!(refused, ErrorCode::LostTopic);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_broker_stops_and_comes_back() {
    let mut play = Play::on(1).await;
    let mut stream = play.network.stream("9000/main", "earliest").await.unwrap();
    stream.until(|word| word == "upsert a Change").await.unwrap();
    play.kafka.stop_node(0, true).unwrap();
    let body = play.agent.body(&[create("b")]).unwrap();
    let code = refusal(play.agent.send(body).await).unwrap();
    assert_eq!(code, ErrorCode::AppendUnknown, "nobody is told that it counts");
    let faults = play.faults().await;
    assert!(faults.contains(&"log") && faults.contains(&"lease"), "not ready, and says why: {faults:?}");
    let error = play.network.set_status("suspended").await.unwrap_err().to_string();
    assert!(error.contains("append_unknown"), "{error}");
    play.kafka.start_node(0).unwrap();
    play.until_it_counts("b").await;
    // The operator's earlier request may have come through or not: it is sent again.
    play.network.set_status("active").await.ok();
    play.until_it_counts("c").await;
    let mut again = play.network.stream("9000/main", "earliest").await.unwrap();
    again.until(|word| word == "upsert c Change").await.unwrap();
    assert_eq!(play.faults().await, Vec::<&str>::new(), "ready again");
    // Each client reports its statistics every quarter of a minute.
    let is_told = |told: &str, client: &str| {
        told.contains(&format!("dit_router_kafka_brokers_up{{client=\"{client}\"}} 1\n"))
    };
    let began = Instant::now();
    let mut told = String::new();
    while !["appender", "reader", "state"].iter().all(|client| is_told(&told, client)) {
        told = Watch::new(play.network.router.core().clone()).metrics().await;
        assert!(began.elapsed() < LIMIT, "{told}");
        tokio::task::yield_now().await;
    }
    assert_eq!(again.rows(), ["a", "b", "c"].map(|key| format!("upsert {key} Change")));
}

/// A broker whose disk is full ends itself; no answer says that an unwritten record counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_brokers_full_disk_loses_nothing() {
    let mut play = Play::on(1).await;
    play.kafka.fill_disk(0).unwrap();
    let body = play.agent.body(&[create("b")]).unwrap();
    let code = refusal(play.agent.send(body).await).unwrap();
    assert_eq!(code, ErrorCode::AppendUnknown, "nobody is told that it counts");
    play.kafka.until_ended(0).unwrap();
    // A person has made room.
    play.kafka.start_node(0).unwrap();
    play.until_it_counts("b").await;
    play.until_it_counts("c").await;
    let mut stream = play.network.stream("9000/main", "earliest").await.unwrap();
    stream.until(|word| word == "upsert c Change").await.unwrap();
    assert_eq!(stream.rows(), ["a", "b", "c"].map(|key| format!("upsert {key} Change")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_brokers_is_killed_and_nothing_is_lost_or_repeated() {
    let mut play = Play::on(3).await;
    let mut stream = play.network.stream("9000/main", "earliest").await.unwrap();
    let mut keys = vec!["a".to_owned()];
    for node in 0..3 {
        for number in 0..3 {
            let key = format!("k{node}{number}");
            play.until_it_counts(&key).await;
            keys.push(key);
            if number == 0 {
                play.kafka.stop_node(node, true).unwrap();
            }
        }
        play.kafka.start_node(node).unwrap();
    }
    let last = format!("upsert {} Change", keys.last().unwrap());
    stream.until(|word| word == last).await.unwrap();
    let expected: Vec<String> = keys.iter().map(|key| format!("upsert {key} Change")).collect();
    assert_eq!(stream.rows(), expected);
    play.network.materialised().await.unwrap();
    let mut late = play.network.stream("9000/main", "state").await.unwrap();
    late.until(|word| word == "end").await.unwrap();
    assert_eq!(late.rows().len(), keys.len());
}
