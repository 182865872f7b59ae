//! A run: rounds of both sides by turns, and the resources that each took.
//!
//! Owns the clock: it begins when the first event is due, and ends when the last one was applied.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use parts::collector::Collector;
use parts::kafka::Kafka;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::disturbance::Disturber;
use crate::measure::{Broker, all_taken, measured};
use crate::network::{Network, Setting};
use crate::outcome::{Measured, Outcome, Process, Round, Summary, since};
use crate::pace::Pace;
use crate::rows::{Row, now_micros};
use crate::scenario::{Against, Load, LogKind, Scenario, Watched};
use crate::waits;
use crate::{intake, jetstream, raw, report};

/// Requests of one source that are under way at once; the agent's endpoint lets 64 wait.
const UNDER_WAY: usize = 32;

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
        None if !scenario.needs_kafka() => Broker { addresses: String::new(), own: None },
        None => {
            let own = Kafka::start(1)?;
            Broker { addresses: own.bootstrap(), own: Some(own) }
        }
    };
    let collector = scenario.watched.traced.map(|_| Collector::start()).transpose()?;
    let url = collector.as_ref().map(Collector::url);
    let unwatched = Watched::default();
    let whole = Setting {
        watched: &scenario.watched,
        collector: url.as_deref(),
        disturbance: scenario.disturbance,
        log: scenario.log(),
    };
    let mut rounds = Vec::with_capacity(scenario.rounds);
    for number in 1..=scenario.rounds {
        let bar = |side: &str| {
            progress(&scenario, format!("{} {number}/{}, {side}", scenario.name, scenario.rounds))
        };
        let other = match scenario.against {
            Against::Raw => raw::raw(&scenario, &broker, &bar("raw Kafka")).await?,
            Against::Nats => jetstream::measure(&scenario, &bar("NATS JetStream")).await?,
            Against::Unwatched => {
                let unwatched = Setting { watched: &unwatched, collector: None, ..whole };
                ours(&scenario, &broker, unwatched, &bar("unwatched")).await?
            }
            Against::Alone => ours(&scenario.alone(), &broker, whole, &bar("alone")).await?,
            Against::Quiet => {
                let quiet = Setting { disturbance: None, ..whole };
                ours(&scenario, &broker, quiet, &bar("quiet")).await?
            }
            Against::Kafka => {
                let on_kafka = Setting { log: LogKind::Kafka, ..whole };
                ours(&scenario, &broker, on_kafka, &bar("on Kafka")).await?
            }
        };
        rounds.push(Round { other, ours: ours(&scenario, &broker, whole, &bar("dit")).await? });
    }
    let against = match scenario.against {
        Against::Raw if matches!(scenario.load, Load::Intake { .. }) => {
            "the csv crate reading the same file and comparing hashes".to_owned()
        }
        Against::Raw => "librdkafka on the same broker".to_owned(),
        Against::Nats => "NATS JetStream with a subject for each municipality".to_owned(),
        Against::Unwatched => "dit without anybody watching".to_owned(),
        Against::Alone => "dit without those beside".to_owned(),
        Against::Kafka => "dit with its log on Kafka".to_owned(),
        Against::Quiet => "dit without the disturbance".to_owned(),
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let summary = Summary::of(&rounds);
    let waits = collector.map_or_else(Vec::new, |collector| waits::of(&collector.spans()));
    Ok(Outcome { scenario, begun_at, cores, against, rounds, summary, waits })
}

fn progress(scenario: &Scenario, what: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec}");
    let bar = ProgressBar::new(scenario.events());
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.with_message(what)
}

async fn ours(
    scenario: &Scenario,
    broker: &Broker,
    setting: Setting<'_>,
    bar: &ProgressBar,
) -> anyhow::Result<Measured> {
    let mut network = Network::start(scenario, &broker.addresses, setting).await?;
    if matches!(scenario.load, Load::Intake { .. }) {
        let measured = intake::ours(scenario, &network).await;
        let measured = measured.with_context(|| network.keep_logs())?;
        network.stop().await?;
        return Ok(measured);
    }
    let mut disturber = match setting.disturbance {
        Some(disturbance) => Some(Disturber::prepare(disturbance, scenario, &network).await?),
        None => None,
    };
    if scenario.has_gate() {
        intake::fill_network(scenario, &network).await?;
    } else if scenario.pace().is_none() {
        intake::write_file(&network.path("drop"), scenario.events(), scenario.consumers())?;
    }
    let before = all_taken(&network.parts(), broker);
    let during = watch::Sender::new(false);
    let counted = disturber.as_ref().map(|_| during.subscribe());
    let (begun, sending) = begin(scenario, &network, counted).await?;
    let dir = network.path("");
    let disturbing = disturb(scenario, disturber.as_mut(), &dir, &during);
    let measuring = async {
        let measured = measured(network.consumers(), scenario, begun, bar).await;
        ensure!(!*during.borrow(), "the even load ended before the disturbance: raise load.seconds");
        measured
    };
    let measured = tokio::try_join!(measuring, disturbing);
    if let Some(sending) = sending {
        sending.await??;
    }
    let (mut measured, disturbed) = measured.with_context(|| network.keep_logs())?;
    measured.disturbed = disturbed;
    let is_unmeasured = disturbed.is_some() && measured.latencies.is_empty();
    ensure!(!is_unmeasured, "no change was due during the disturbance: raise load.rate or load.seconds");
    network.until_matched(scenario).await?;
    measured.processes = since(&before, all_taken(&network.parts(), broker));
    if scenario.is_replay() {
        measured = replayed(scenario, broker, &network, bar).await?;
    }
    if let Some(disturber) = disturber {
        disturber.stop().await?;
    }
    network.stop().await?;
    Ok(measured)
}

/// Lets events come; when the first is due, in microseconds since 1970, and what sends them.
async fn begin(
    scenario: &Scenario,
    network: &Network,
    counted: Option<watch::Receiver<bool>>,
) -> anyhow::Result<(i64, Option<JoinHandle<anyhow::Result<()>>>)> {
    let begun = now_micros();
    match (network.gate(), scenario.pace()) {
        (Some(gate), _) => Ok((gate.open().await?, None)),
        (None, None) => {
            intake::drop_file(&network.path("drop"))?;
            Ok((begun, None))
        }
        (None, Some(pace)) => {
            let url = format!("http://{}/v1/changes", network.endpoint());
            Ok((begun, Some(tokio::spawn(post_evenly(url, scenario.events(), pace, begun, counted)))))
        }
    }
}

/// Disturbs after the warm-up; how long that took, in seconds.
async fn disturb(
    scenario: &Scenario,
    disturber: Option<&mut Disturber>,
    network: &Path,
    during: &watch::Sender<bool>,
) -> anyhow::Result<Option<f64>> {
    let (Some(disturber), Some(pace)) = (disturber, scenario.pace()) else { return Ok(None) };
    tokio::time::sleep(Duration::from_secs(pace.warm_up)).await;
    Ok(Some(disturber.disturb(network, during).await?.as_secs_f64()))
}

/// A late joiner, from the start of its agent to its last row.
async fn replayed(
    scenario: &Scenario,
    broker: &Broker,
    network: &Network,
    bar: &ProgressBar,
) -> anyhow::Result<Measured> {
    let status = network.until_materialised().await?;
    let [_, (router, part), _] = network.parts();
    let before = all_taken(&[(router, part)], broker);
    let begun = now_micros();
    let mut joiner = network.join_late(scenario, &status)?;
    let mut measured = measured(&mut joiner, scenario, begun, bar).await?;
    measured.processes = since(&before, all_taken(&[(router, part)], broker));
    measured.processes.push(Process { name: "late joiner".to_owned(), taken: joiner.taken() });
    joiner.stop().await?;
    Ok(measured)
}

/// Posts each group of changes when its last is due, whether earlier groups were answered or not. Where something is
/// disturbed, only changes that are sent meanwhile are measured.
async fn post_evenly(
    url: String,
    events: u64,
    pace: Pace,
    begun: i64,
    counted: Option<watch::Receiver<bool>>,
) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    // Changes are due since `begun`: the making of the client is no part of their way.
    let late = Duration::from_micros(u64::try_from(now_micros() - begun).unwrap_or(0));
    let now = tokio::time::Instant::now();
    let start = now.checked_sub(late).unwrap_or(now);
    let mut under_way = JoinSet::new();
    for first in (0..events).step_by(usize::try_from(pace.together)?) {
        let numbers = first..(first + pace.together).min(events);
        tokio::time::sleep_until(start + pace.due(first)).await;
        let is_counted = counted.as_ref().is_none_or(|during| *during.borrow());
        let sent_at = |number| if is_counted { pace.sent_at(number, begun) } else { 0 };
        let changes: Vec<_> = numbers.map(|number| Row::new(number, 1, sent_at(number)).change()).collect();
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
