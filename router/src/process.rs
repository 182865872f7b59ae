//! The router as a process: configuration, telemetry, build, run, drain.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use event_log::Log;
use event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use event_log::kafka_options::KafkaOptions;
use platform::identity::Identity;
use platform::shutdown::{DRAIN_LIMIT, terminate};
use platform::telemetry;
use schemas::ids::RouterInstance;

use crate::config::{LogBackend, RouterConfig};
use crate::declarations::Declared;
use crate::http::server::MAX_SOCKETS;
use crate::registry::external::External;
use crate::serving::{Parts, Router, Watched};

/// Open files in addition to the listeners' sockets: files of logs and folders, and connections to other servers.
const OTHER_FILES: u64 = 4_096;

/// How a router is started.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// This router's permanent name among routers that share its certificate, such as its pod's name.
    #[arg(long, value_name = "NAME")]
    instance: Option<RouterInstance>,
}

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let path = args.config.as_path();
    let config = RouterConfig::read(path)?;
    let _telemetry = telemetry::init("dit-router", config.log_format, "info,sled=warn")?;
    if let Err(few) = platform::open_files::allow(MAX_SOCKETS + OTHER_FILES) {
        tracing::warn!("{few}");
    }
    let backend = config.log(path)?;
    let log = open_log(&backend)?;
    let routers = backend.routers();
    let declared = config.declared.as_deref().map(Declared::read_each).transpose()?.unwrap_or_default();
    let router = Router::start(Parts {
        log: Arc::clone(&log),
        routers,
        registry: config.registry.as_ref().map(External::new).transpose()?,
        identity: Identity::load(&config.identity)?,
        secret: config.secret(path)?,
        instance: args.instance,
        domain: config.domain,
        listen: config.listen,
        admin_listen: config.admin_listen,
        declared,
        watched: Watched { listen: config.observe_listen, disks: config.log_dir.into_iter().collect() },
    })
    .await
    .context("the router could not be started")?;
    // A reader of the line below may stop the router at once.
    let stop = terminate();
    platform::say!("listening on {}, operators on {}", router.address(), router.admin_address());
    let fault = tokio::select! {
        biased;
        () = stop => None,
        fault = log.failed() => Some(format!("the log has failed; restart the router: {fault}")),
        fault = router.core().control.failed() => Some(fault),
    };
    tracing::info!("stopping");
    drop(log);
    if !router.stop(DRAIN_LIMIT).await {
        bail!("a connection or a task of the router did not stop within {} s", DRAIN_LIMIT.as_secs());
    }
    if let Some(fault) = fault {
        bail!("{fault}");
    }
    Ok(())
}

fn open_log(backend: &LogBackend<'_>) -> anyhow::Result<Arc<dyn Log>> {
    Ok(match backend {
        LogBackend::Embedded(folder) => Arc::new(EmbeddedLog::open(folder, EmbeddedOptions::default())?),
        LogBackend::Kafka(options) => kafka_log(options)?,
    })
}

#[cfg(feature = "kafka")]
fn kafka_log(options: &KafkaOptions) -> anyhow::Result<Arc<dyn Log>> {
    Ok(Arc::new(event_log::kafka::KafkaLog::connect(options)?))
}

#[cfg(not(feature = "kafka"))]
fn kafka_log(_: &KafkaOptions) -> anyhow::Result<Arc<dyn Log>> {
    bail!("this binary has no Kafka; build it with: cargo build --release --features kafka")
}
