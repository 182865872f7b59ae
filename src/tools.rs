//! The operator's and the sites' tools: certificates, running one part, status.
//!
//! Owns the commands that a person types, besides the demo.

use std::path::PathBuf;

use anyhow::Context;
use platform::pki::{Authority, Subject};

use crate::first;

/// The trust domain of a network that has no other yet.
const DOMAIN: &str = "dit.local";

/// `dit pki`.
#[derive(Debug, clap::Args)]
pub struct PkiArgs {
    /// The folder of the authority; made when it is missing.
    #[arg(long, default_value = "pki")]
    dir: PathBuf,
    /// The trust domain; by default that of the existing authority, else dit.local.
    #[arg(long)]
    domain: Option<String>,
    /// Agents to make certificates for, as participant/agent.
    #[arg(long)]
    agent: Vec<String>,
    /// Operators to make certificates for.
    #[arg(long)]
    operator: Vec<String>,
    /// A router to make a certificate for, as name=host,host.
    #[arg(long)]
    router: Vec<String>,
}

/// Makes certificates and says where they are.
pub fn pki(args: &PkiArgs) -> anyhow::Result<()> {
    let domain = args.domain.clone().or_else(|| Authority::domain_in(&args.dir));
    let authority = Authority::open_or_create(&args.dir, domain.as_deref().unwrap_or(DOMAIN))?;
    let issue = |stem: &str, subject: &Subject| -> anyhow::Result<()> {
        let was_there = args.dir.join(format!("{stem}.pem")).exists();
        authority.issue_to(&args.dir, stem, subject)?;
        let replaced =
            if was_there { " (replaced; the earlier certificate stays valid until it expires)" } else { "" };
        platform::say!("{}/{stem}.pem and {stem}-key.pem{replaced}", args.dir.display());
        Ok(())
    };
    for agent in &args.agent {
        let id: schemas::ids::AgentId = agent.parse()?;
        issue(&format!("{}-{}", id.participant, id.agent), &Subject::Agent(id.clone()))?;
    }
    for name in &args.operator {
        issue(&format!("operator-{name}"), &Subject::Operator(name.clone()))?;
    }
    for router in &args.router {
        let (name, hosts) = router.split_once('=').context("--router takes name=host,host")?;
        let hosts: Vec<_> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        anyhow::ensure!(hosts.iter().all(|host| !host.is_empty()), "--router {router:?}: a host is empty");
        issue(&format!("router-{name}"), &Subject::Router { name: name.to_owned(), hosts })?;
    }
    platform::say!("{}/ca.pem is the authority that all of them trust", args.dir.display());
    Ok(())
}

/// A part and its configuration.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// The configuration file.
    #[arg(long)]
    pub config: PathBuf,
}

/// `dit producer`.
#[derive(Debug, clap::Args)]
pub struct ProducerArgs {
    #[command(subcommand)]
    command: ProducerCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ProducerCommand {
    /// Looks at a file of the register, and writes a first configuration, the schema and the channel's declaration.
    Init(Box<first::producer::InitArgs>),
    /// Runs the agent.
    Run(ConfigArgs),
    /// Accepts a file that the guard holds: it is taken next.
    Accept {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// The file's name in `held/`.
        file: String,
    },
}

/// Runs a producer agent, writes its first files, or accepts a held file.
pub async fn producer(args: ProducerArgs) -> anyhow::Result<()> {
    match args.command {
        ProducerCommand::Init(args) => first::producer::init(&args),
        ProducerCommand::Run(args) => producer_agent::process::run(&args.config).await,
        ProducerCommand::Accept { config, file } => {
            let config = producer_agent::config::ProducerConfig::read(&config)?;
            let path =
                producer_agent::source::file::drop_folder::DropFolder::accept(&config.drop_dir, &file)?;
            platform::say!("{} will be taken next", path.display());
            Ok(())
        }
    }
}

/// `dit consumer`.
#[derive(Debug, clap::Args)]
pub struct ConsumerArgs {
    #[command(subcommand)]
    command: ConsumerCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConsumerCommand {
    /// Runs the agent.
    Run(ConfigArgs),
    /// Asks the router what this participant may have, and writes a commented configuration.
    Init(first::consumer::InitArgs),
    /// Has the running agent compare its replicas with the register now, and shows the result.
    Reconcile(consumer_agent::reconcile::ReconcileArgs),
}

/// Runs a consumer agent, writes its first configuration, or asks it for a comparison.
pub async fn consumer(args: ConsumerArgs) -> anyhow::Result<bool> {
    match args.command {
        ConsumerCommand::Run(args) => consumer_agent::process::run(&args.config).await.map(|()| true),
        ConsumerCommand::Init(args) => first::consumer::init(&args).await.map(|()| true),
        ConsumerCommand::Reconcile(args) => consumer_agent::reconcile::reconcile(&args).await,
    }
}
