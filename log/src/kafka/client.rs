//! Makes all Kafka clients, with their settings.
//!
//! Owns librdkafka's settings, each with its reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;

use super::context::{Board, Context, lock};
use super::producer::Producer;
use crate::kafka_options::KafkaOptions;
use crate::{ClientVitals, TopicError};

/// A reading client; its partition readers share it.
pub(super) type ReadClient = Arc<BaseConsumer<Context>>;
/// A client for making and describing topics.
pub(super) type Admin = AdminClient<Context>;

/// How long a question to the cluster may take.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// After this an append's outcome is unknown, and its sender appends again.
const DELIVERY_LIMIT: Duration = Duration::from_secs(15);
/// The longest time for which a dead router's open transaction holds up readers of the state.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(30);
/// Fetched records that a client holds for each of its readers, in KiB, before it asks for more: two chunks of a tail.
const PREFETCH_KIB: usize = 1_024;
/// Bytes of a partition that a broker gives at once, as they are stored: unpacked they may be ten times as much, and come on
/// top of what is held. A batch that is larger comes alone.
const FETCH_BYTES: usize = 128 * 1_024;
/// How often a client reports its vitals: as often as metrics are scraped.
const VITALS_EVERY: Duration = Duration::from_secs(15);
/// Memory for the waiting appends of a whole router, in KiB.
const APPEND_QUEUE_KIB: usize = 64 * 1_024;

/// Makes clients of one cluster.
#[derive(Clone)]
pub(super) struct Clients {
    options: KafkaOptions,
    board: Board,
}

impl Clients {
    pub(super) fn new(options: &KafkaOptions) -> Self {
        Self { options: options.clone(), board: Board::default() }
    }

    /// The last vitals of the clients; clients of one name count as one, with their worst values.
    pub(super) fn vitals(&self) -> Vec<ClientVitals> {
        let mut by_name = BTreeMap::<String, ClientVitals>::new();
        for vitals in lock(&self.board).values() {
            let all = by_name.entry(vitals.name.clone()).or_insert_with(|| vitals.clone());
            *all = ClientVitals {
                name: vitals.name.clone(),
                brokers_up: all.brokers_up.min(vitals.brokers_up),
                queued: all.queued.max(vitals.queued),
                round_trip: all.round_trip.max(vitals.round_trip),
                timeouts: all.timeouts.max(vitals.timeouts),
            };
        }
        by_name.into_values().collect()
    }

    pub(super) const fn options(&self) -> &KafkaOptions {
        &self.options
    }

    fn config(&self) -> Result<ClientConfig, TopicError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.options.brokers)
            .set("client.id", "dit-router")
            // A broker that came back is found within a second.
            .set("reconnect.backoff.max.ms", "1000")
            // An unknown topic becomes an error within three seconds.
            .set("topic.metadata.propagation.max.ms", "3000");
        let Some(security) = &self.options.security else { return Ok(config) };
        config.set("security.protocol", if security.sasl.is_some() { "SASL_SSL" } else { "SSL" });
        config.set("ssl.ca.location", security.ca.to_string_lossy());
        for (name, path) in
            [("ssl.certificate.location", &security.certificate), ("ssl.key.location", &security.key)]
        {
            if let Some(path) = path {
                config.set(name, path.to_string_lossy());
            }
        }
        if let Some(sasl) = &security.sasl {
            let password = platform::closed::password(&sasl.password_file)
                .map_err(|error| TopicError::Unavailable(format!("kafka.security.sasl: {error}")))?;
            config
                .set("sasl.mechanism", &sasl.mechanism)
                .set("sasl.username", &sasl.username)
                .set("sasl.password", password);
        }
        Ok(config)
    }

    fn create<C: FromClientConfigAndContext<Context>>(
        config: &ClientConfig,
        context: Context,
    ) -> Result<C, TopicError> {
        config.create_with_context(context).map_err(|error: KafkaError| {
            let remedy =
                "look at [kafka] in the configuration; TLS needs a binary with the feature kafka-tls";
            TopicError::Unavailable(format!("no Kafka client can be made: {error}; {remedy}"))
        })
    }

    /// A reader that never moves by itself: no offsets of a group, no reset, and it reports a partition's end.
    pub(super) fn read_client(&self, wait: Duration) -> Result<ReadClient, TopicError> {
        let mut config = self.config()?;
        config
            // librdkafka needs a group's name to assign partitions; the client never joins the group.
            .set("group.id", "dit-router")
            .set("statistics.interval.ms", VITALS_EVERY.as_millis().to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("max.poll.interval.ms", "86400000")
            .set("fetch.wait.max.ms", wait.as_millis().to_string())
            .set("fetch.error.backoff.ms", "50")
            // The default is a second, for which a reader that has emptied a full queue would wait.
            .set("fetch.queue.backoff.ms", "10")
            .set("max.partition.fetch.bytes", FETCH_BYTES.to_string())
            .set("queued.max.messages.kbytes", PREFETCH_KIB.to_string());
        Self::create(&config, Context::new(&self.board, "reader")).map(Arc::new)
    }

    fn producer_config(&self) -> Result<ClientConfig, TopicError> {
        let mut config = self.config()?;
        config
            .set("statistics.interval.ms", VITALS_EVERY.as_millis().to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // A batch is handed over as a whole: waiting for more only adds latency.
            .set("linger.ms", "0")
            .set("compression.type", "zstd")
            // librdkafka makes a compressor for each request: the default level's takes 3.5 MiB, for 3 % fewer bytes.
            .set("compression.level", "1")
            .set("message.max.bytes", "1048588")
            .set("queue.buffering.max.kbytes", APPEND_QUEUE_KIB.to_string())
            .set("message.timeout.ms", DELIVERY_LIMIT.as_millis().to_string());
        Ok(config)
    }

    /// The producer of the logs.
    pub(super) fn producer(&self) -> Result<Producer, TopicError> {
        Self::create(&self.producer_config()?, Context::new(&self.board, "appender"))
    }

    /// A producer that commits transactions.
    pub(super) fn transactional(&self, id: &str) -> Result<Producer, TopicError> {
        let mut config = self.producer_config()?;
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", TRANSACTION_LIMIT.as_millis().to_string());
        Self::create(&config, Context::new(&self.board, "state"))
    }

    pub(super) fn admin(&self) -> Result<Admin, TopicError> {
        Self::create(&self.config()?, Context::silent(&self.board))
    }
}
