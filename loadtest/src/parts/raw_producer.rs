//! A producer on librdkafka alone: the same events, with the settings of the router's producer.
//!
//! Owns the raw side of sending. It is given every advantage: its events are made before the clock runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use platform::shutdown::terminate;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::framing;
use schemas::ids::SchemaId;
use schemas::time::Millis;

use crate::live::Counter;
use crate::pace::Pace;
use crate::rows::{Row, now_micros};

/// The header with the time at which an event was due to be sent.
pub(crate) const SENT_AT: &str = "sent_at";
/// Events that are under way at once: what a producer's queue holds.
const UNDER_WAY: usize = 50_000;
/// How long the first connection may take.
const CONNECT: Duration = Duration::from_secs(30);

/// The events, and their topic.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The cluster.
    #[arg(long)]
    brokers: String,
    /// The topic.
    #[arg(long)]
    topic: String,
    /// Events.
    #[arg(long)]
    events: u64,
    /// How many municipalities the events are of.
    #[arg(long)]
    municipalities: u32,
    /// Without it, as fast as possible.
    #[command(flatten)]
    pace: Option<Pace>,
    /// Begins when this file exists.
    #[arg(long)]
    start: PathBuf,
}

/// An event.
pub(crate) struct Made {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
}

/// The event of a number.
pub(crate) fn make(number: u64, municipalities: u32) -> Made {
    let row = Row::new(number, municipalities, 0);
    let key = row.key();
    let after = row.datum();
    let source = Source { kind: "file", name: "load.tsv", position: "", snapshot: true };
    let at = Millis::new(now_micros() / 1_000);
    let change = Change {
        op: Op::Create,
        key: &key,
        before: None,
        after: Some(&after),
        source,
        event_at: at,
        captured_at: at,
    };
    let mut datum = Vec::new();
    ChangeCodec::encode(&change, &mut datum);
    Made { value: framing::frame(SchemaId::new(1), &datum), key }
}

/// Sends everything, then waits until it is asked to stop.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let counter = Counter::new()?;
    let telling = counter.clone();
    let work = counter.clone();
    let sending = tokio::spawn(async move { send(args, work).await });
    telling.tell_until(terminate()).await?;
    sending.await?
}

/// Waits until a file exists.
pub(crate) async fn begins(start: &Path) {
    let mut look = tokio::time::interval(Duration::from_millis(2));
    while !start.exists() {
        look.tick().await;
    }
}

async fn send(args: Args, counter: Counter) -> anyhow::Result<()> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &args.brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", if args.pace.is_some() { "0" } else { "5" })
        .set("compression.type", "zstd")
        .set("queue.buffering.max.messages", "200000")
        .create()?;
    let made: Vec<Made> = (0..args.events).map(|number| make(number, args.municipalities)).collect();
    // The connection must not delay its first event, as it does not delay ours.
    producer.client().fetch_metadata(Some(&args.topic), CONNECT)?;
    counter.ready();
    begins(&args.start).await;
    let begun = tokio::time::Instant::now();
    let begun_at = now_micros();
    let mut under_way = FuturesUnordered::new();
    for (number, made) in (0_u64..).zip(&made) {
        if let Some(pace) = args.pace
            && number.is_multiple_of(pace.together)
        {
            tokio::time::sleep_until(begun + pace.due(number)).await;
        }
        let sent_at = args.pace.map_or(0, |pace| pace.sent_at(number, begun_at)).to_be_bytes();
        let headers = OwnedHeaders::new().insert(Header { key: SENT_AT, value: Some(&sent_at) });
        let record = FutureRecord::to(&args.topic).key(&made.key).payload(&made.value).headers(headers);
        // The queue holds more than may be under way.
        let queued = producer.send_result(record);
        under_way.push(queued.map_err(|(error, _)| anyhow::anyhow!("an event was not queued: {error}"))?);
        while under_way.len() >= UNDER_WAY {
            acknowledged(under_way.next().await, &counter)?;
        }
    }
    while !under_way.is_empty() {
        acknowledged(under_way.next().await, &counter)?;
    }
    Ok(())
}

fn acknowledged(answer: Option<<DeliveryFuture as Future>::Output>, counter: &Counter) -> anyhow::Result<()> {
    if let Some(answer) = answer {
        answer
            .context("the producer is gone")?
            .map_err(|(error, _)| anyhow::anyhow!("an event was not acknowledged: {error}"))?;
    }
    counter.applied([(0, 0)]);
    Ok(())
}
