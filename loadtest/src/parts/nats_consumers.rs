//! Consumers on NATS JetStream: each gets the subject of its own municipality.
//!
//! Owns the receiving. As those on librdkafka, they keep no place and write no rows: each event is read and counted.

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::StreamExt as _;
use platform::shutdown::{DRAIN_LIMIT, Tasks, terminate};
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::framing;

use super::nats_producer::Stream;
use crate::live::Counter;
use crate::rows::{SCHEMA, municipality, municipality_of};

/// The stream, and its consumers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    of: Stream,
    /// How many consumers, each with a municipality and a connection of its own.
    #[arg(long)]
    count: u32,
}

/// Receives until it is asked to stop.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let counter = Counter::new()?;
    let tasks = Tasks::new();
    let codec = ChangeCodec::new(&AvroSchema::parse(SCHEMA)?)?;
    for number in 0..u64::from(args.count) {
        let own = municipality(number);
        let client = async_nats::connect(&args.of.server).await?;
        let stream = jetstream::new(client).get_stream(&args.of.stream).await?;
        let filter_subject = args.of.subject(&own);
        let consumer = stream.create_consumer(OrderedConfig { filter_subject, ..OrderedConfig::default() });
        let messages = consumer.await?.messages().await?;
        let (codec, counter, stopping) = (codec.clone(), counter.clone(), tasks.stopping());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                outcome = consume(messages, &codec, &own, &counter) => {
                    if let Err(error) = outcome {
                        eprintln!("{own}: {error:#}");
                    }
                }
            }
        });
    }
    counter.ready();
    counter.tell_until(terminate()).await?;
    anyhow::ensure!(tasks.stop_and_join(DRAIN_LIMIT).await, "a consumer did not stop");
    Ok(())
}

async fn consume(
    mut messages: jetstream::consumer::pull::Ordered,
    codec: &ChangeCodec,
    own: &str,
    counter: &Counter,
) -> anyhow::Result<()> {
    while let Some(message) = messages.next().await {
        let message = message?;
        let (_, datum) = framing::unframe(&message.payload)?;
        let change = codec.decode_all(datum)?;
        let whose = change.after.and_then(municipality_of);
        anyhow::ensure!(whose == Some(own), "an event of {whose:?} has this subject");
        counter.applied([(0, message.payload.len())]);
    }
    Ok(())
}
