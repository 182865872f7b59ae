//! The other side of a measurement: Kafka without dit, or the file without dit.
//!
//! Owns the raw topic, and the order in which its producer and its consumers begin.

use std::path::Path;

use anyhow::Context;
use indicatif::ProgressBar;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::intake;
use crate::measure::{Broker, all_taken, measured};
use crate::outcome::{Measured, Process, since};
use crate::pace::Pace;
use crate::process::Part;
use crate::rows::now_micros;
use crate::scenario::{Load, Scenario};

const PRODUCER: &str = "raw producer";
const CONSUMERS: &str = "raw consumers";

/// The parts of one measurement, in a folder and with a topic of their own.
struct Raw<'r> {
    dir: &'r Path,
    topic: String,
    scenario: &'r Scenario,
    broker: &'r Broker,
}

/// Measures the scenario without dit.
pub(crate) async fn raw(scenario: &Scenario, broker: &Broker, bar: &ProgressBar) -> anyhow::Result<Measured> {
    if matches!(scenario.load, Load::Intake { .. }) {
        return intake::raw(scenario).await;
    }
    let dir = tempfile::Builder::new().prefix("dit-load-raw-").tempdir()?;
    let topic = format!("raw-{}", hex::encode(platform::random::bytes::<6>()?));
    make_topic(&broker.addresses, &topic, scenario.partitions).await?;
    let raw = Raw { dir: dir.path(), topic, scenario, broker };
    match scenario.is_replay() {
        true => raw.replay(bar).await,
        false => raw.pass(bar).await,
    }
}

impl Raw<'_> {
    fn arguments(&self, part: &str, own: &[&str]) -> Vec<String> {
        let to = ["--brokers", &self.broker.addresses, "--topic", &self.topic];
        std::iter::once(&part).chain(own).chain(&to).map(ToString::to_string).collect()
    }

    fn consumers(&self) -> anyhow::Result<Part> {
        let [count, partitions] =
            [self.scenario.consumers(), self.scenario.partitions].map(|number| number.to_string());
        let mut arguments =
            self.arguments("raw-consumers", &["--count", &count, "--partitions", &partitions]);
        arguments.extend(self.scenario.is_divided().then(|| "--divided".to_owned()));
        Part::start("raw-consumers", self.dir, &arguments, &[])
    }

    /// A producer whose events are made; it sends once it is told to begin.
    async fn producer(&self) -> anyhow::Result<Part> {
        let events = self.scenario.events().to_string();
        let count = self.scenario.consumers().to_string();
        let begin = self.dir.join("start").display().to_string();
        let own = ["--events", &events, "--municipalities", &count, "--start", &begin];
        let mut arguments = self.arguments("raw-producer", &own);
        if let Some(Pace { rate, together, warm_up }) = self.scenario.pace() {
            let [rate, together, warm_up] = [rate, together, warm_up].map(|number| number.to_string());
            let pace = ["--rate", &rate, "--together", &together, "--warm-up", &warm_up];
            arguments.extend(pace.map(ToOwned::to_owned));
        }
        let mut producer = Part::start("raw-producer", self.dir, &arguments, &[])?;
        producer.until("its events were made", |line| line.ready).await?;
        Ok(producer)
    }

    fn begin(&self) -> std::io::Result<()> {
        std::fs::write(self.dir.join("start"), "")
    }

    /// Events pass from the producer to the consumers.
    async fn pass(&self, bar: &ProgressBar) -> anyhow::Result<Measured> {
        let mut consumers = self.consumers()?;
        let producer = self.producer().await?;
        consumers.until("it was assigned", |line| line.ready).await?;
        let both = |producer: &Part, consumers: &Part| {
            all_taken(&[(PRODUCER, producer), (CONSUMERS, consumers)], self.broker)
        };
        let before = both(&producer, &consumers);
        let begun = now_micros();
        self.begin()?;
        let mut measured = measured(&mut consumers, self.scenario, begun, bar).await?;
        measured.processes = since(&before, both(&producer, &consumers));
        producer.stop().await?;
        consumers.stop().await?;
        Ok(measured)
    }

    /// Consumers start when all events are in the topic.
    async fn replay(&self, bar: &ProgressBar) -> anyhow::Result<Measured> {
        let mut producer = self.producer().await?;
        self.begin()?;
        let all = self.scenario.events();
        producer.until("all events were acknowledged", |line| line.events >= all).await?;
        producer.stop().await?;
        let before = all_taken(&[], self.broker);
        let begun = now_micros();
        let mut consumers = self.consumers()?;
        let mut measured = measured(&mut consumers, self.scenario, begun, bar).await?;
        measured.processes = since(&before, all_taken(&[], self.broker));
        measured.processes.push(Process { name: CONSUMERS.to_owned(), taken: consumers.taken() });
        consumers.stop().await?;
        Ok(measured)
    }
}

async fn make_topic(brokers: &str, topic: &str, partitions: u32) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let new = NewTopic::new(topic, i32::try_from(partitions)?, TopicReplication::Fixed(1));
    let made = admin.create_topics([&new], &AdminOptions::new()).await.with_context(|| {
        format!(
            "brokers = {brokers:?} cannot be reached; without that key the load test starts its own Kafka"
        )
    })?;
    for one in made {
        one.map_err(|(name, code)| anyhow::anyhow!("topic {name} was not made: {code}"))?;
    }
    Ok(())
}
