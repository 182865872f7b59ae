//! The consumer agent as a process: configuration, telemetry, build, run, drain; and its first configuration.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use platform::client::{Client, send_json};
use platform::closed;
use platform::identity::{Identity, IdentityFiles};
use platform::observe;
use platform::shutdown::{DRAIN_LIMIT, Tasks, terminate};
use platform::telemetry;
use schemas::ids::AgreementNumber;
use schemas::publish::{AgreementStatus, Me};
use tokio::sync::mpsc;

use crate::config::ConsumerConfig;
use crate::metrics::Metrics;
use crate::observe::Watch;
use crate::running::Running;

/// How often the configuration and a person's marks are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    closed::folder(&config.data_dir).with_context(|| config.data_dir.display().to_string())?;
    let _held = closed::hold(&config.data_dir)?;
    let metrics = Metrics::new(&identity, vec![config.data_dir.clone()])?;
    let tasks = Tasks::new();
    let (broken, mut breaks) = mpsc::channel(1);
    let observe_listen = config.observe_listen;
    let mut running = Running::start(path, config, (identity, metrics.clone()), &tasks, broken)?;
    if let Some(address) = observe_listen {
        let watch = Watch::new(metrics, running.statuses());
        let listened = observe::listen(address, Arc::new(watch), &tasks).await;
        listened.with_context(|| format!("observe_listen = \"{address}\""))?;
    }
    let ends = terminate();
    tokio::pin!(ends);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let fault = loop {
        tokio::select! {
            biased;
            () = &mut ends => break None,
            fault = breaks.recv() => break fault,
            _ = looks.tick() => running.look(),
        }
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
    /// The certificate's file: PEM, or a `.p12` or `.pfx` with its key, which is unpacked beside it.
    #[arg(long)]
    pub identity: PathBuf,
    /// A file with the password of the `.p12`.
    #[arg(long)]
    pub password_file: Option<PathBuf>,
    /// The key's file; without it, `<stem>-key.pem` beside the certificate.
    #[arg(long)]
    key: Option<PathBuf>,
    /// The authorities' file; without it, `ca.pem` beside the certificate.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The file to write; one that is there gets the agreements that it lacks.
    #[arg(long, default_value = "consumer.toml")]
    out: PathBuf,
}

/// Asks what this participant may have, and writes a commented configuration, or adds to the one that is there.
pub async fn init(args: &InitArgs) -> anyhow::Result<()> {
    let mut files = IdentityFiles::beside(&args.identity);
    files.key = args.key.clone().unwrap_or(files.key);
    files.authorities = args.ca.clone().unwrap_or(files.authorities);
    let client = Client::new(&args.router, &Identity::load(&files)?)?;
    let me: Me = send_json(client.get("/v1/me")).await?;
    let out = args.out.display();
    if args.out.exists() {
        let known = ConsumerConfig::read(&args.out)?;
        let is_new =
            |status: &&AgreementStatus| !known.agreement.iter().any(|a| a.number == status.agreement.number);
        let new: Vec<&AgreementStatus> = me.agreements.iter().filter(is_new).collect();
        let mut text = std::fs::read_to_string(&args.out).with_context(|| out.to_string())?;
        for status in &new {
            describe(&mut text, status)?;
        }
        if !new.is_empty() {
            closed::write(&args.out, text).with_context(|| out.to_string())?;
        }
        let word =
            if new.is_empty() { "nothing to add" } else { "an agent that runs begins to receive them" };
        platform::say!("{out}: {} agreement(s) added to {}; {word}", new.len(), known.agreement.len());
        return Ok(());
    }
    closed::write(&args.out, configuration(&args.router, &files, &me)?).with_context(|| out.to_string())?;
    platform::say!("{out}: {} agreement(s) of {}", me.agreements.len(), me.agent.participant);
    Ok(())
}

/// An agreement as a configuration has it, with what it gives.
fn describe(text: &mut String, status: &AgreementStatus) -> anyhow::Result<()> {
    let agreement = &status.agreement;
    // What others wrote stays within its comment.
    let plain = |words: &str| platform::shown::value(words);
    writeln!(text, "\n# {} ({})", plain(&agreement.purpose), status.status)?;
    writeln!(text, "# rows: {}", plain(&agreement.rows))?;
    let fields: Vec<_> = agreement.fields.keys().map(String::as_str).collect();
    writeln!(text, "# fields: {}", fields.join(", "))?;
    writeln!(text, "[[agreement]]\nnumber = \"{}\"\nchannel = \"{}\"", agreement.number, agreement.channel)?;
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
        describe(&mut text, status)?;
    }
    Ok(text)
}
