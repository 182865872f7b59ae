//! The consumer agent as a process: configuration, telemetry, build, run, drain; and its first configuration.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use platform::client::{Client, send_json};
use platform::identity::{Identity, IdentityFiles};
use platform::observe;
use platform::segments::disk::RealDisk;
use platform::shutdown::{DRAIN_LIMIT, Tasks, terminate};
use platform::telemetry;
use schemas::ids::AgreementNumber;
use schemas::publish::Me;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::config::ConsumerConfig;
use crate::metrics::Metrics;
use crate::observe::Watch;
use crate::sink::Sink;
use crate::sink::file::FileSink;
use crate::sink::postgres::PostgresSink;
use crate::status::Phase;

/// Where an agreement's status is written.
pub fn status_path(data_dir: &Path, number: &AgreementNumber) -> PathBuf {
    data_dir.join(format!("{number}.status.json"))
}

/// Runs until SIGTERM or Ctrl-C, or until every agreement has ended.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let config = ConsumerConfig::read(path)?;
    let _telemetry = telemetry::init("dit-consumer", config.log_format, "info")?;
    if config.agreement.is_empty() {
        bail!("{}: there is no [[agreement]] to receive", path.display());
    }
    let identity = Identity::load(&config.identity)?;
    platform::closed::folder(&config.data_dir).with_context(|| config.data_dir.display().to_string())?;
    let metrics = Metrics::new(&identity, vec![config.data_dir.clone()])?;
    let mut watched = Vec::with_capacity(config.agreement.len());
    let tasks = Tasks::new();
    let (broken, mut breaks) = mpsc::channel(1);
    for agreement in &config.agreement {
        let dir = config.data_dir.join(agreement.number.as_str());
        let (number, channel) = (agreement.number.clone(), agreement.channel.as_str());
        let sink: Box<dyn Sink> = match &agreement.postgres {
            Some(place) => Box::new(PostgresSink::new(place.clone(), number.clone(), channel)),
            None => Box::new(FileSink::open_or_set_aside(Arc::new(RealDisk), &dir, channel)?),
        };
        let status_file = status_path(&config.data_dir, &number);
        let meter = metrics.agreement(&number);
        let agent = Agent::new(config.router.clone(), identity.clone(), number, sink);
        let agent = agent.with_status_file(status_file).with_meter(meter).with_checks(config.checks());
        watched.push(agent.status());
        let (stopping, broken) = (tasks.stopping(), broken.clone());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                status = agent.run() => if status.phase == Phase::Broken {
                    // One word is enough: the process ends with it.
                    drop(broken.try_send(status.last_error.unwrap_or_default()));
                },
                () = stopping => {}
            }
        });
    }
    if let Some(address) = config.observe_listen {
        let listened = observe::listen(address, Arc::new(Watch::new(metrics, watched)), &tasks).await;
        listened.with_context(|| format!("observe_listen = \"{address}\""))?;
    }
    let fault = tokio::select! {
        biased;
        () = terminate() => None,
        fault = breaks.recv() => fault,
    };
    tracing::info!("stopping");
    if !tasks.stop_and_join(DRAIN_LIMIT).await {
        bail!("something did not stop within {} s", DRAIN_LIMIT.as_secs());
    }
    match fault {
        Some(fault) => bail!("a replica can be used again only by a new start: {fault}"),
        None => Ok(()),
    }
}

/// `dit consumer init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The router, as `https://host:port`.
    #[arg(long)]
    router: String,
    /// The certificate's file; the key is expected beside it as `<stem>-key.pem`, the authority as `ca.pem`.
    #[arg(long)]
    identity: PathBuf,
    /// The file to write.
    #[arg(long, default_value = "consumer.toml")]
    out: PathBuf,
}

/// Asks what this participant may have, and writes a commented configuration.
pub async fn init(args: &InitArgs) -> anyhow::Result<()> {
    if args.out.exists() {
        bail!("{} exists; remove it first, or give another --out", args.out.display());
    }
    let files = IdentityFiles::beside(&args.identity);
    let client = Client::new(&args.router, &Identity::load(&files)?)?;
    let me: Me = send_json(client.get("/v1/me")).await?;
    let text = configuration(&args.router, &files, &me)?;
    platform::closed::write(&args.out, text).with_context(|| args.out.display().to_string())?;
    println!("{}: {} agreement(s) of {}", args.out.display(), me.agreements.len(), me.agent.participant);
    Ok(())
}

fn configuration(router: &str, files: &IdentityFiles, me: &Me) -> anyhow::Result<String> {
    let absolute =
        |path: &Path| -> anyhow::Result<String> { Ok(std::path::absolute(path)?.display().to_string()) };
    let mut text = String::new();
    writeln!(text, "# The consumer agent of {}, as {}.", me.agent.participant, me.agent.agent)?;
    writeln!(text, "router = {router:?}")?;
    writeln!(text, "# Replicas and status go here.\ndata_dir = \"data\"")?;
    writeln!(text, "# Each replica is compared with the register so often, and mended; 0s is never.")?;
    writeln!(text, "check_every = \"24h\"\n")?;
    writeln!(text, "[identity]")?;
    writeln!(text, "certificate = {:?}", absolute(&files.certificate)?)?;
    writeln!(text, "key = {:?}", absolute(&files.key)?)?;
    writeln!(text, "authorities = {:?}", absolute(&files.authorities)?)?;
    for status in &me.agreements {
        let agreement = &status.agreement;
        writeln!(text, "\n# {} ({})", agreement.purpose, status.status)?;
        writeln!(text, "# rows: {}", agreement.rows)?;
        let fields: Vec<_> = agreement.fields.keys().map(String::as_str).collect();
        writeln!(text, "# fields: {}", fields.join(", "))?;
        writeln!(
            text,
            "[[agreement]]\nnumber = \"{}\"\nchannel = \"{}\"",
            agreement.number, agreement.channel
        )?;
    }
    Ok(text)
}
