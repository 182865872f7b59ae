//! The operator's and the sites' tools: certificates, checks, running one part, status.
//!
//! Owns what a person types beside the demo.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use platform::config;
use platform::identity::Identity;
use platform::pki::{Authority, Subject};
use router::control::declared::{self, Checked};
use schemas::agreement::Agreement;
use schemas::avro::schema::AvroSchema;
use schemas::channel::Channel;
use scope::secret::NetworkSecret;

/// `dit pki`.
#[derive(Debug, clap::Args)]
pub struct PkiArgs {
    /// The folder of the authority; made when it is missing.
    #[arg(long, default_value = "pki")]
    dir: PathBuf,
    /// The trust domain.
    #[arg(long, default_value = "dit.local")]
    domain: String,
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
    let authority = Authority::open_or_create(&args.dir, &args.domain)?;
    let issue = |stem: &str, subject: &Subject| -> anyhow::Result<()> {
        authority.issue_to(&args.dir, stem, subject)?;
        println!("{}/{stem}.pem and {stem}-key.pem", args.dir.display());
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
        let hosts = hosts.split(',').map(str::to_owned).collect();
        issue(&format!("router-{name}"), &Subject::Router { name: name.to_owned(), hosts })?;
    }
    println!("{}/ca.pem is the authority that all of them trust", args.dir.display());
    Ok(())
}

/// `dit check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// What to check: router.toml (with its declared folder), producer.toml, consumer.toml, a channel's or an
    /// agreement's JSON, or a folder of declarations, whose files are checked against each other.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Checks each file; whether all are good.
pub fn check(args: &CheckArgs) -> anyhow::Result<bool> {
    let mut good = true;
    for file in &args.files {
        match check_file(file) {
            Ok(kind) => println!("{}: a good {kind}", file.display()),
            Err(error) => {
                good = false;
                eprintln!("{error:#}");
            }
        }
    }
    Ok(good)
}

fn check_file(file: &Path) -> anyhow::Result<String> {
    if file.is_dir() {
        // Hashes are only compiled here, never made: any secret will do.
        let secret = NetworkSecret::new(vec![0; 32])?;
        let Checked { participants, channels, agreements, unseen } = declared::check(file, &secret)?;
        let mut kind = format!(
            "folder of declarations: {participants} participant(s), {channels} channel(s), {agreements} agreement(s)"
        );
        if unseen > 0 {
            let _ = write!(
                kind,
                "; rows and fields of {unseen} were not checked, as only a router knows the schema version that they name"
            );
        }
        return Ok(kind);
    }
    check_single(file).map(str::to_owned)
}

fn check_single(file: &Path) -> anyhow::Result<&'static str> {
    if file.extension().is_some_and(|extension| extension == "json") {
        let json: serde_json::Value = config::load_json(file)?;
        return if json.get("number").is_some() {
            let agreement: Agreement = config::load_json(file)?;
            agreement.validate().with_context(|| file.display().to_string())?;
            Ok("agreement by itself; check its folder, or dit scope lint it, for its rows and fields")
        } else {
            config::load_json::<Channel>(file)?.validate().with_context(|| file.display().to_string())?;
            Ok("channel")
        };
    }
    let text = config::read(file)?;
    if ["log_dir", "network_secret", "admin_listen"].iter().any(|key| text.contains(key)) {
        let router = router::config::RouterConfig::read(file)?;
        let secret = router.secret(file)?;
        router.log(file)?;
        Identity::load(&router.identity)?;
        if let Some(dir) = &router.declared {
            declared::check(dir, &secret)?;
        }
        Ok("router configuration")
    } else if text.contains("drop_dir") {
        let producer = producer_agent::config::ProducerConfig::read(file)?;
        producer.format.check().with_context(|| file.display().to_string())?;
        AvroSchema::parse(&config::read(&producer.schema)?)
            .with_context(|| producer.schema.display().to_string())?;
        producer.http.as_ref().map_or(Ok(()), producer_agent::endpoint::EndpointConfig::check)?;
        Identity::load(&producer.identity)?;
        Ok("producer configuration")
    } else {
        let consumer = consumer_agent::config::ConsumerConfig::read(file)?;
        Identity::load(&consumer.identity)?;
        Ok("consumer configuration")
    }
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
    /// Runs the agent.
    Run(ConfigArgs),
    /// Accepts a file that the guard holds: it is taken next.
    Accept {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// The file's name, as it stands in `held/`.
        file: String,
    },
}

/// Runs a producer agent, or gives a person's word on a file.
pub async fn producer(args: ProducerArgs) -> anyhow::Result<()> {
    match args.command {
        ProducerCommand::Run(args) => producer_agent::process::run(&args.config).await,
        ProducerCommand::Accept { config, file } => {
            let config = producer_agent::config::ProducerConfig::read(&config)?;
            let path = producer_agent::source::drop_folder::DropFolder::accept(&config.drop_dir, &file)?;
            println!("{} will be taken next", path.display());
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
    Init(consumer_agent::process::InitArgs),
}

/// Runs a consumer agent, or writes its first configuration.
pub async fn consumer(args: ConsumerArgs) -> anyhow::Result<()> {
    match args.command {
        ConsumerCommand::Run(args) => consumer_agent::process::run(&args.config).await,
        ConsumerCommand::Init(args) => consumer_agent::process::init(&args).await,
    }
}

/// Shows each replica of a consumer agent; whether all are well.
pub fn status(args: &ConfigArgs) -> anyhow::Result<bool> {
    let config = consumer_agent::config::ConsumerConfig::read(&args.config)?;
    let mut well = true;
    for agreement in &config.agreement {
        let path = consumer_agent::process::status_path(&config.data_dir, &agreement.number);
        let text = std::fs::read(&path)
            .with_context(|| format!("{}: no status yet; is the agent running?", path.display()))?;
        let status: consumer_agent::status::Status = serde_json::from_slice(&text)
            .with_context(|| format!("{}: is another dit's; use that one", path.display()))?;
        well &= status.last_error.is_none();
        println!("{}", status.in_words(&agreement.channel, platform::clock::now()));
    }
    Ok(well)
}
