//! A run: rounds of both sides by turns, and the resources that each took.
//!
//! Owns the clock: it begins when the first event is due, and ends when the last one was applied.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use parts::collector::Collector;
use parts::kafka::Kafka;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio::task::JoinSet;

use crate::network::{Network, Setting};
use crate::outcome::{BROKER, Measured, Outcome, Process, Round, Summary};
use crate::pace::Pace;
use crate::process::{Part, Taken, taken};
use crate::report;
use crate::rows::{Row, now_micros};
use crate::scenario::{Against, Beside, Scenario, Watched};

/// Requests of one source that are under way at once; the agent's endpoint lets 64 wait.
const UNDER_WAY: usize = 32;

/// The broker of a run.
struct Broker {
    addresses: String,
    /// Started for the run.
    own: Option<Kafka>,
}

impl Broker {
    fn taken(&self) -> Option<Taken> {
        let pids = self.own.as_ref()?.pids();
        let each = pids.into_iter().map(taken);
        Some(each.fold(Taken::default(), |sum, one| Taken {
            cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
            max_rss_bytes: sum.max_rss_bytes + one.max_rss_bytes,
        }))
    }
}

/// Runs all scenarios, one after the other, and writes their reports.
pub(crate) async fn all(scenarios: &[PathBuf], out: &Path) -> anyhow::Result<()> {
    let scenarios = scenarios.iter().map(|path| Scenario::read(path)).collect::<Result<Vec<_>, _>>()?;
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    for scenario in scenarios {
        let outcome = run(scenario).await?;
        let stem = out.join(&outcome.scenario.name);
        std::fs::write(stem.with_extension("json"), serde_json::to_string_pretty(&outcome)?)?;
        std::fs::write(stem.with_extension("html"), report::page(&outcome))?;
        println!("{}\n{}: .json and .html\n", report::text(&outcome), stem.display());
    }
    Ok(())
}

async fn run(scenario: Scenario) -> anyhow::Result<Outcome> {
    let begun_at = schemas::time::Millis::new(now_micros() / 1_000).to_string();
    let broker = match &scenario.brokers {
        Some(addresses) => Broker { addresses: addresses.clone(), own: None },
        None => {
            let own = Kafka::start(1)?;
            Broker { addresses: own.bootstrap(), own: Some(own) }
        }
    };
    let collector = scenario.watched.traced.map(|_| Collector::start()).transpose()?;
    let collector = collector.as_ref().map(Collector::url);
    let unwatched = Watched::default();
    let whole =
        Setting { watched: &scenario.watched, collector: collector.as_deref(), beside: scenario.beside };
    let mut rounds = Vec::with_capacity(scenario.rounds);
    for number in 1..=scenario.rounds {
        let bar = |side: &str| {
            progress(&scenario, format!("{} {number}/{}, {side}", scenario.name, scenario.rounds))
        };
        let other = match scenario.against {
            Against::Raw => raw(&scenario, &broker, &bar("raw Kafka")).await?,
            Against::Unwatched => {
                let unwatched = Setting { watched: &unwatched, collector: None, ..whole };
                ours(&scenario, &broker, unwatched, &bar("unwatched")).await?
            }
            Against::Alone => {
                let alone = Setting { beside: Beside::default(), ..whole };
                ours(&scenario, &broker, alone, &bar("alone")).await?
            }
        };
        rounds.push(Round { other, ours: ours(&scenario, &broker, whole, &bar("dit")).await? });
    }
    let against = match scenario.against {
        Against::Raw => "librdkafka on the same broker".to_owned(),
        Against::Unwatched => "dit without anybody watching".to_owned(),
        Against::Alone => "dit without those beside".to_owned(),
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let summary = Summary::of(&rounds);
    Ok(Outcome { scenario, begun_at, cores, against, rounds, summary })
}

fn progress(scenario: &Scenario, what: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec}");
    let bar = ProgressBar::new(scenario.events());
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.with_message(what)
}

/// Waits until all events were applied; the measurement, without the processes.
async fn measured(
    counting: &mut Part,
    scenario: &Scenario,
    begun: i64,
    bar: &ProgressBar,
) -> anyhow::Result<Measured> {
    let events = scenario.events();
    let seconds =
        |at: i64| Duration::from_micros(u64::try_from(at - begun).unwrap_or_default()).as_secs_f64();
    let mut course = vec![(0.0, 0)];
    let mut seen = 0;
    let last = loop {
        let line = counting.until("all events had arrived", |line| line.events > seen).await?;
        seen = line.events;
        bar.set_position(seen);
        course.push((seconds(line.last_at), seen));
        if seen >= events {
            break line;
        }
    };
    bar.finish_and_clear();
    ensure!(last.events == events, "{} events arrived of {events}: some came twice", last.events);
    let bytes = last.bytes;
    let latencies = last.latencies;
    Ok(Measured { events, seconds: seconds(last.last_at), bytes, latencies, processes: Vec::new(), course })
}

fn all_taken(parts: &[(&'static str, &Part)], broker: &Broker) -> Vec<Process> {
    let named = |(name, taken): (&str, Taken)| Process { name: name.to_owned(), taken };
    let parts = parts.iter().map(|(name, part)| (*name, part.taken()));
    parts.chain(broker.taken().map(|taken| (BROKER, taken))).map(named).collect()
}

/// The use since `before`: CPU by difference, memory as it is.
fn since(before: &[Process], mut now: Vec<Process>) -> Vec<Process> {
    for (process, before) in now.iter_mut().zip(before) {
        process.taken.cpu_seconds -= before.taken.cpu_seconds;
    }
    now
}

async fn ours(
    scenario: &Scenario,
    broker: &Broker,
    setting: Setting<'_>,
    bar: &ProgressBar,
) -> anyhow::Result<Measured> {
    let mut network = Network::start(scenario, &broker.addresses, setting).await?;
    let file = network.path("drop/load.part");
    if scenario.pace().is_none() {
        write_file(&file, scenario)?;
    }
    let before = all_taken(&network.parts(), broker);
    let begun = now_micros();
    let sending = match scenario.pace() {
        None => {
            std::fs::rename(&file, file.with_extension("tsv"))?;
            None
        }
        Some(pace) => {
            let url = format!("http://{}/v1/changes", network.endpoint());
            Some(tokio::spawn(post_evenly(url, scenario.events(), pace, begun)))
        }
    };
    let measured = measured(network.consumers(), scenario, begun, bar).await;
    if let Some(sending) = sending {
        sending.await??;
    }
    let mut measured = measured.with_context(|| format!("logs are in {}", network.path("").display()))?;
    measured.processes = since(&before, all_taken(&network.parts(), broker));
    network.stop().await?;
    Ok(measured)
}

fn write_file(path: &Path, scenario: &Scenario) -> anyhow::Result<()> {
    let mut text = Row::header().to_owned();
    for number in 0..scenario.events() {
        Row::new(number, scenario.consumers(), 0).line(&mut text);
    }
    Ok(std::fs::write(path, text)?)
}

/// Posts each group of changes when its last is due, whether earlier groups were answered or not.
async fn post_evenly(url: String, events: u64, pace: Pace, begun: i64) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    let start = tokio::time::Instant::now();
    let mut under_way = JoinSet::new();
    for first in (0..events).step_by(usize::try_from(pace.together)?) {
        let numbers = first..(first + pace.together).min(events);
        let changes: Vec<_> =
            numbers.map(|number| Row::new(number, 1, pace.sent_at(number, begun)).change()).collect();
        tokio::time::sleep_until(start + pace.due(first)).await;
        // In a task of its own, so that it is sent now, and not when it is polled.
        under_way.spawn(post(client.post(&url).json(&changes)));
        while under_way.len() >= UNDER_WAY
            && let Some(answered) = under_way.join_next().await
        {
            answered??;
        }
    }
    while let Some(answered) = under_way.join_next().await {
        answered??;
    }
    Ok(())
}

async fn post(request: reqwest::RequestBuilder) -> anyhow::Result<()> {
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success() && !text.contains("\"refused\""), "the agent answered {status}: {text}");
    Ok(())
}

async fn raw(scenario: &Scenario, broker: &Broker, bar: &ProgressBar) -> anyhow::Result<Measured> {
    let dir = tempfile::Builder::new().prefix("dit-load-raw-").tempdir()?;
    let topic = format!("raw-{}", hex::encode(platform::random::bytes::<6>()?));
    make_topic(&broker.addresses, &topic, scenario.partitions).await?;
    let start = dir.path().join("start");
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let count = scenario.consumers().to_string();
    let partitions = scenario.partitions.to_string();
    let to = ["--brokers", &broker.addresses, "--topic", &topic];
    let mut arguments = words(&["raw-consumers", "--count", &count, "--partitions", &partitions]);
    arguments.extend(words(&to));
    if scenario.is_divided() {
        arguments.push("--divided".to_owned());
    }
    let mut consumers = Part::start("raw-consumers", dir.path(), &arguments, &[])?;
    let events = scenario.events().to_string();
    let begin = start.display().to_string();
    let mut arguments =
        words(&["raw-producer", "--events", &events, "--municipalities", &count, "--start", &begin]);
    arguments.extend(words(&to));
    if let Some(Pace { rate, together, warm_up }) = scenario.pace() {
        let [rate, together, warm_up] = [rate, together, warm_up].map(|number| number.to_string());
        arguments.extend(words(&["--rate", &rate, "--together", &together, "--warm-up", &warm_up]));
    }
    let mut producer = Part::start("raw-producer", dir.path(), &arguments, &[])?;
    consumers.until("it was assigned", |line| line.ready).await?;
    producer.until("its events were made", |line| line.ready).await?;
    let before = all_taken(&[("raw producer", &producer), ("raw consumers", &consumers)], broker);
    let begun = now_micros();
    std::fs::write(&start, "")?;
    let mut measured = measured(&mut consumers, scenario, begun, bar).await?;
    measured.processes =
        since(&before, all_taken(&[("raw producer", &producer), ("raw consumers", &consumers)], broker));
    producer.stop().await?;
    consumers.stop().await?;
    Ok(measured)
}

async fn make_topic(brokers: &str, topic: &str, partitions: u32) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let new = NewTopic::new(topic, i32::try_from(partitions)?, TopicReplication::Fixed(1));
    let made = admin.create_topics([&new], &AdminOptions::new()).await?;
    for one in made {
        one.map_err(|(name, code)| anyhow::anyhow!("topic {name} was not made: {code}"))?;
    }
    Ok(())
}
