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

use parts::kafka::Kafka;
use router::config::kafka::KafkaOptions;
use router::log::kafka::KafkaLog;
use schemas::change::Op;
use schemas::error_code::ErrorCode;
use schemas::ids::Epoch;
use support::network::{Network, agreement, refusal, row};
use support::publisher::{Publisher, datum};

const EPOCH: Epoch = Epoch::new([1; 16]);

/// How long a trouble may take until it has its name.
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
        let (brokers, prefix) = (kafka.bootstrap(), "f.".to_owned());
        let options = KafkaOptions { brokers, prefix, replication: nodes, security: None };
        let log = Arc::new(KafkaLog::connect(&options).unwrap());
        let network = Network::start_beside("r1", log, agreement(1, "t == \"R\"")).await.unwrap();
        let mut agent = Publisher::new(network.client("4000/main").unwrap(), EPOCH);
        agent.open(None).await.unwrap();
        agent.publish(&[create("a")]).await.unwrap();
        Self { kafka, network, agent }
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
    let error = play.network.set_status("suspended").await.unwrap_err().to_string();
    assert!(error.contains("append_unknown"), "{error}");
    play.kafka.start_node(0).unwrap();
    play.until_it_counts("b").await;
    // What was asked of the operator's side may have come through by now, or not: it is asked again.
    play.network.set_status("active").await.ok();
    play.until_it_counts("c").await;
    let mut again = play.network.stream("9000/main", "earliest").await.unwrap();
    again.until(|word| word == "upsert c Change").await.unwrap();
    assert_eq!(again.rows(), ["a", "b", "c"].map(|key| format!("upsert {key} Change")));
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
