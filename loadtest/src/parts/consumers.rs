//! Consumer agents in one process, as a site has them; each sink counts what it has applied.
//!
//! Owns the measuring sink. An event counts when the agent's own sink has taken it, not when it arrived.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use consumer_agent::agent::Agent;
use consumer_agent::phase::Phase;
use consumer_agent::sink::effect::Effect;
use consumer_agent::sink::error::SinkError;
use consumer_agent::sink::file::FileSink;
use consumer_agent::sink::{Batch, See, Sink, StreamHead};
use consumer_agent::status::Status;
use platform::identity::{Identity, IdentityFiles};
use platform::segments::disk::RealDisk;
use platform::shutdown::{DRAIN_LIMIT, Tasks, terminate};
use platform::telemetry::{self, Format};
use schemas::cursor::Cursor;

use tokio::sync::watch;

use super::line::Line;
use crate::declared::{CHANNEL, agreement_number, consumer_stem};
use crate::live::Counter;
use crate::rows;
use crate::scenario::SinkKind;

/// The consumers of one run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The router, as `https://host:port`.
    #[arg(long)]
    router: String,
    /// How many, each with an agreement of its own.
    #[arg(long)]
    count: u32,
    /// The first consumer's number.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// Once all streams are open, their line passes only so many bytes a second; 0 stalls it.
    #[arg(long)]
    line: Option<u32>,
    /// Where they go on, though their replicas are empty.
    #[arg(long)]
    cursor: Option<Cursor>,
    /// Where rows go.
    #[arg(long)]
    sink: SinkKind,
    /// The folder of certificates.
    #[arg(long)]
    pki: PathBuf,
    /// The agents' folder.
    #[arg(long)]
    data: PathBuf,
}

/// A sink that counts.
struct Measuring {
    /// The agent's own sink; none where rows are only counted.
    inner: Option<FileSink>,
    /// Where it goes on, unless the agent's own sink knows better.
    cursor: Option<Cursor>,
    counter: Counter,
}

#[async_trait]
impl Sink for Measuring {
    fn system(&self) -> &'static str {
        self.inner.as_ref().map_or("none", FileSink::system)
    }

    fn cursor(&self) -> Option<Cursor> {
        self.inner.as_ref().and_then(FileSink::cursor).or_else(|| self.cursor.clone())
    }

    async fn begin(&mut self, head: &StreamHead) -> Result<(), SinkError> {
        match &mut self.inner {
            Some(inner) => inner.begin(head).await,
            None => Ok(()),
        }
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        if let Some(inner) = &mut self.inner {
            inner.apply(batch).await?;
        }
        self.cursor.clone_from(&batch.cursor);
        let rows = batch.effects.iter().filter_map(|effect| match effect {
            Effect::Upsert { key, image } => Some((key, image)),
            _ => None,
        });
        self.counter.applied(
            rows.map(|(key, image)| (rows::sent_at(image).unwrap_or_default(), key.len() + image.len())),
        );
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        match &mut self.inner {
            Some(inner) => inner.settle().await,
            None => Ok(()),
        }
    }

    async fn scan(&mut self, see: &mut See<'_>) -> Result<(), SinkError> {
        match &mut self.inner {
            Some(inner) => inner.scan(see).await,
            None => Ok(()),
        }
    }

    fn row_count(&self) -> usize {
        self.inner.as_ref().map_or(0, FileSink::row_count)
    }
}

/// Whether an agent has its snapshot, and follows the log: until then its router is still busy with the beginning.
fn follows(status: &Status) -> bool {
    let has_snapshot = status.cursor.as_ref().is_some_and(|cursor| cursor.snapshot.is_none());
    status.phase == Phase::Streaming && has_snapshot
}

/// Counts how often an agent's stream opens and ends.
async fn count_streams(
    mut status: watch::Receiver<Status>,
    counter: Counter,
    stopping: impl Future<Output = ()>,
) {
    let counting = async {
        let mut was_open = false;
        loop {
            let is_open = status.borrow_and_update().phase == Phase::Streaming;
            if is_open != was_open {
                counter.stream(is_open);
            }
            was_open = is_open;
            if status.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = stopping => {}
        () = counting => {}
    }
}

/// Receives until it is asked to stop.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let _telemetry = telemetry::init("dit-consumer", Format::Text, "warn")?;
    let counter = Counter::new()?;
    let tasks = Tasks::new();
    let mut statuses = Vec::new();
    let (line, router) = match args.line {
        None => (None, args.router),
        Some(rate) => {
            let router = args.router.strip_prefix("https://").unwrap_or(&args.router).parse()?;
            let line = Line::open(router, rate, &tasks).await?;
            let address = line.address();
            (Some(line), format!("https://{address}"))
        }
    };
    for index in args.first..args.first + args.count {
        let identity = args.pki.join(format!("{}.pem", consumer_stem(index)));
        let identity = Identity::load(&IdentityFiles::beside(&identity))?;
        let number = agreement_number(index)?;
        let inner = match args.sink {
            SinkKind::File => Some(FileSink::open_or_set_aside(
                Arc::new(RealDisk),
                &args.data.join(number.as_str()),
                CHANNEL,
            )?),
            SinkKind::None => None,
        };
        let sink = Measuring { inner, cursor: args.cursor.clone(), counter: counter.clone() };
        let agent = Agent::new(router.clone(), identity, number, Box::new(sink));
        statuses.push(agent.status());
        tasks.spawn(count_streams(agent.status(), counter.clone(), tasks.stopping()));
        let stopping = tasks.stopping();
        tasks.spawn(async move {
            tokio::select! {
                status = agent.run() => eprintln!("{}: {:?}", status.agreement, status.last_error),
                () = stopping => {}
            }
        });
    }
    let ready = counter.clone();
    tasks.spawn(async move {
        for mut status in statuses {
            drop(status.wait_for(follows).await);
        }
        if let Some(line) = line {
            line.slow_down();
        }
        ready.ready();
    });
    counter.tell_until(terminate()).await?;
    anyhow::ensure!(tasks.stop_and_join(DRAIN_LIMIT).await, "an agent did not stop");
    Ok(())
}
