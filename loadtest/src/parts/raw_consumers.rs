//! Consumers on librdkafka alone: each reads the whole topic and keeps the rows of its own municipality.
//!
//! Owns the raw side of receiving: what every consumer would have to do for itself without agreements.

use std::time::Duration;

use platform::shutdown::{DRAIN_LIMIT, Tasks, terminate};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::framing;

use super::raw_producer::SENT_AT;
use crate::live::Counter;
use crate::rows::{self, SCHEMA};

/// How long a poll waits; also how soon a stop is noticed.
const POLL: Duration = Duration::from_millis(50);

/// The topic, and its consumers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster.
    #[arg(long)]
    brokers: String,
    /// The topic.
    #[arg(long)]
    topic: String,
    /// Its partitions.
    #[arg(long)]
    partitions: i32,
    /// How many consumers.
    #[arg(long)]
    count: u32,
    /// Whether each keeps only the rows of a municipality of its own.
    #[arg(long)]
    divided: bool,
}

/// Receives until it is asked to stop.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let counter = Counter::new()?;
    let tasks = Tasks::new();
    let codec = ChangeCodec::new(&AvroSchema::parse(SCHEMA)?)?;
    let mut consumers = Vec::new();
    for _ in 0..args.count {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &args.brokers)
            .set("group.id", "raw")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "16384")
            .create()?;
        let mut positions = TopicPartitionList::new();
        for partition in 0..args.partitions {
            positions.add_partition_offset(&args.topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&positions)?;
        consumers.push(consumer);
    }
    let mut threads = Vec::new();
    for (index, consumer) in (0_u64..).zip(consumers) {
        let counter = counter.clone();
        let codec = codec.clone();
        let tasks = tasks.clone();
        let own = args.divided.then(|| rows::municipality(index));
        threads
            .push(std::thread::spawn(move || consume(&consumer, &codec, own.as_deref(), &counter, &tasks)));
    }
    counter.ready();
    counter.tell_until(terminate()).await?;
    anyhow::ensure!(tasks.stop_and_join(DRAIN_LIMIT).await, "a consumer did not stop");
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a consumer panicked"))??;
    }
    Ok(())
}

fn consume(
    consumer: &BaseConsumer,
    codec: &ChangeCodec,
    own: Option<&str>,
    counter: &Counter,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    while !tasks.is_stopping() {
        let Some(message) = consumer.poll(POLL) else { continue };
        let message = message?;
        let value = message.payload().unwrap_or_default();
        let bytes = message.key_len() + value.len();
        let (_, datum) = framing::unframe(value)?;
        let change = codec.decode_all(datum)?;
        let whose = change.after.and_then(rows::municipality_of);
        if own.is_none() || own == whose {
            counter.applied([(sent_at(&message), bytes)]);
        }
    }
    Ok(())
}

fn sent_at(message: &BorrowedMessage<'_>) -> i64 {
    let headers = message.headers();
    let value = headers.and_then(|headers| headers.iter().find(|header| header.key == SENT_AT)?.value);
    value.and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_be_bytes)
}
