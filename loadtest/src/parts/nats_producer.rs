//! A producer on NATS JetStream: the same events, each to the subject of its municipality.
//!
//! Owns the sending. It is given every advantage: its events are made before the clock runs.

use std::collections::VecDeque;
use std::path::PathBuf;

use anyhow::Context as _;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::{self, ContextBuilder};
use platform::shutdown::terminate;

use super::raw_producer::{Made, begins, make};
use crate::live::Counter;
use crate::rows::municipality;

/// Events that are under way at once: the acknowledgements that the server may owe.
const UNDER_WAY: usize = 4_000;

/// A stream at a server.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Stream {
    /// The server, as `nats://host:port`.
    #[arg(long)]
    pub(crate) server: String,
    /// The stream, which is also what its subjects begin with.
    #[arg(long)]
    pub(crate) stream: String,
}

impl Stream {
    /// The subject of a municipality.
    pub(crate) fn subject(&self, municipality: &str) -> String {
        format!("{}.{municipality}", self.stream)
    }
}

/// The events, and their stream.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    to: Stream,
    /// Events.
    #[arg(long)]
    events: u64,
    /// How many municipalities the events are of.
    #[arg(long)]
    municipalities: u32,
    /// Begins when this file exists.
    #[arg(long)]
    start: PathBuf,
}

/// Sends everything, then waits until it is asked to stop.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let counter = Counter::new()?;
    let telling = counter.clone();
    let sending = tokio::spawn(async move { send(args, counter).await });
    telling.tell_until(terminate()).await?;
    sending.await?
}

async fn send(args: Args, counter: Counter) -> anyhow::Result<()> {
    let client = async_nats::connect(&args.to.server).await?;
    let stream: jetstream::Context = ContextBuilder::new().max_ack_inflight(UNDER_WAY).build(client);
    let event = |number: u64| {
        let Made { value, .. } = make(number, args.municipalities);
        let whose = municipality(number % u64::from(args.municipalities));
        (args.to.subject(&whose), bytes::Bytes::from(value))
    };
    let made: Vec<_> = (0..args.events).map(event).collect();
    counter.ready();
    begins(&args.start).await;
    let mut under_way = VecDeque::with_capacity(UNDER_WAY);
    for (subject, value) in made {
        if under_way.len() >= UNDER_WAY {
            acknowledged(under_way.pop_front(), &counter).await?;
        }
        under_way.push_back(stream.publish(subject, value).await?);
    }
    while !under_way.is_empty() {
        acknowledged(under_way.pop_front(), &counter).await?;
    }
    Ok(())
}

async fn acknowledged(answer: Option<PublishAckFuture>, counter: &Counter) -> anyhow::Result<()> {
    if let Some(answer) = answer {
        answer.await.context("an event was not acknowledged")?;
        counter.applied([(0, 0)]);
    }
    Ok(())
}
