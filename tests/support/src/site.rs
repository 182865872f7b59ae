//! A network of real processes on this machine: a router, a producer agent and consumer agents, each with its
//! own folder, configuration and certificate.
//!
//! Owns start, kill and waiting. Everything it starts is killed when it is dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use platform::client::Client;
use platform::pki::{Authority, Subject};

/// How long a test waits for anything that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A process that is killed when it is dropped.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Kills it at once, as a power failure would.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().with_context(|| format!("{} could not be killed", self.name))?;
        self.child.wait().with_context(|| format!("{} could not be joined", self.name))?;
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM: whether it drained and ended well.
    pub fn stop(mut self) -> anyhow::Result<bool> {
        self.signal("-TERM")?;
        Ok(self.child.wait()?.success())
    }

    /// Sends a signal by its option for `kill`, such as `-STOP`.
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let id = self.child.id().to_string();
        anyhow::ensure!(Command::new("kill").args([signal, &id]).status()?.success(), "kill {signal} {id}");
        Ok(())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A network's folder: certificates, configurations and data of each part.
pub struct Site {
    dir: PathBuf,
    dit: PathBuf,
    router: SocketAddr,
    admin: SocketAddr,
    /// Where router, producer and consumer report metrics and health.
    observed: [(&'static str, SocketAddr); 3],
    /// The environment of every process.
    environment: Vec<(String, String)>,
}

/// Waits until a condition holds; `what` names it when it does not.
pub fn eventually(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > deadline {
            bail!("waited {} s in vain until {what}", PATIENCE.as_secs());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// A free address of the loopback.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    parts::ports::address()
}

const DOMAIN: &str = "test.dit";

impl Site {
    /// A site in `dir` whose router keeps one address through all its restarts. `dit` is the command's path.
    pub fn new(dir: &Path, dit: &str, declared: &[(&str, serde_json::Value)]) -> anyhow::Result<Self> {
        let observed =
            [("router", free_address()?), ("producer", free_address()?), ("consumer", free_address()?)];
        let dir = dir.to_owned();
        let dit = PathBuf::from(dit);
        let router = free_address()?;
        let admin = free_address()?;
        let site = Self { dir, dit, router, admin, observed, environment: Vec::new() };
        let authority = Authority::open_or_create(&site.path("pki"), DOMAIN)?;
        let hosts = vec!["127.0.0.1".to_owned()];
        authority.issue_to(&site.path("pki"), "router", &Subject::Router { name: "r".to_owned(), hosts })?;
        platform::closed::write(&site.path("secret"), hex::encode(platform::random::bytes::<32>()?))?;
        for (name, json) in declared {
            let path = site.path("declared").join(name);
            std::fs::create_dir_all(path.parent().context("a file name")?)?;
            std::fs::write(&path, serde_json::to_string_pretty(json)?)?;
        }
        let text = format!(
            "listen = \"{}\"\nadmin_listen = \"{admin}\"\ndomain = \"{DOMAIN}\"\nnetwork_secret = \"secret\"\n\
             log_dir = \"log\"\ndeclared = \"declared\"\nobserve_listen = \"{}\"\n\n{}",
            site.router,
            site.observed("router")?,
            identity("router")
        );
        std::fs::write(site.path("router.toml"), text)?;
        Ok(site)
    }

    /// The router keeps its log on Kafka instead of in a folder.
    pub fn on_kafka(&self, brokers: &str) -> anyhow::Result<()> {
        let path = self.path("router.toml");
        let config = std::fs::read_to_string(&path)?.replace("log_dir = \"log\"\n", "");
        Ok(std::fs::write(path, format!("{config}\n[kafka]\nbrokers = \"{brokers}\"\nreplication = 1\n"))?)
    }

    /// Every process that is started from here on finds this in its environment.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn agents(&self) -> String {
        format!("https://{}", self.router)
    }

    pub fn admin(&self) -> String {
        format!("https://{}", self.admin)
    }

    /// A client of the operators' listener.
    pub fn operator(&self) -> anyhow::Result<Client> {
        platform::identity::install_crypto();
        let authority = Authority::open_or_create(&self.path("pki"), DOMAIN)?;
        let operator = authority.identity(&Subject::Operator("o".to_owned()))?;
        Ok(Client::new(&format!("https://{}", self.admin), &operator)?)
    }

    /// A client with an agent's name.
    pub fn agent(&self, agent: &str) -> anyhow::Result<Client> {
        platform::identity::install_crypto();
        let authority = Authority::open_or_create(&self.path("pki"), DOMAIN)?;
        let identity = authority.identity(&Subject::Agent(agent.parse()?))?;
        Ok(Client::new(&format!("https://{}", self.router), &identity)?)
    }

    /// Replaces an agent's certificate by one that is good for so long.
    pub fn shorten_certificate(&self, agent: &str, left: Duration) -> anyhow::Result<()> {
        let authority = Authority::open_or_create(&self.path("pki"), DOMAIN)?;
        let issued =
            authority.issue_until(&Subject::Agent(agent.parse()?), std::time::SystemTime::now() + left)?;
        let stem = agent.replace('/', "-");
        std::fs::write(self.path("pki").join(format!("{stem}.pem")), issued.certificate_pem)?;
        Ok(std::fs::write(self.path("pki").join(format!("{stem}-key.pem")), issued.key_pem)?)
    }

    /// Where a process reports metrics and health.
    pub fn observed(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let found = self.observed.iter().find(|(process, _)| *process == name);
        found.map(|(_, address)| *address).context("a process that is watched")
    }

    /// A path below the site's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes the participants' file.
    pub fn participants(&self, ids: &[&str]) -> anyhow::Result<()> {
        let entries: Vec<_> =
            ids.iter().map(|id| format!("[[participant]]\nid = \"{id}\"\nname = \"{id}\"\n")).collect();
        std::fs::create_dir_all(self.path("declared"))?;
        Ok(std::fs::write(self.path("declared/participants.toml"), entries.join("\n"))?)
    }

    fn certificate(&self, agent: &str) -> anyhow::Result<String> {
        let authority = Authority::open_or_create(&self.path("pki"), DOMAIN)?;
        let stem = agent.replace('/', "-");
        authority.issue_to(&self.path("pki"), &stem, &Subject::Agent(agent.parse()?))?;
        Ok(stem)
    }

    /// Writes a producer agent's configuration; `more` is added to it.
    pub fn producer(&self, agent: &str, channel: &str, schema: &str, more: &str) -> anyhow::Result<()> {
        let stem = self.certificate(agent)?;
        std::fs::write(self.path("schema.avsc"), schema)?;
        let text = format!(
            "router = \"https://{}\"\ndomain = \"{DOMAIN}\"\nchannel = \"{channel}\"\nschema = \"schema.avsc\"\n\
             data_dir = \"producer\"\ndrop_dir = \"drop\"\nobserve_listen = \"{}\"\n\n{}\n{more}",
            self.router,
            self.observed("producer")?,
            identity(&stem)
        );
        Ok(std::fs::write(self.path("producer.toml"), text)?)
    }

    /// Writes a consumer agent's configuration.
    pub fn consumer(&self, agent: &str, agreement: &str, channel: &str) -> anyhow::Result<()> {
        let stem = self.certificate(agent)?;
        let text = format!(
            "router = \"https://{}\"\ndata_dir = \"consumer\"\nobserve_listen = \"{}\"\n\n{}\n[[agreement]]\nnumber = \"{agreement}\"\n\
             channel = \"{channel}\"\n",
            self.router,
            self.observed("consumer")?,
            identity(&stem)
        );
        Ok(std::fs::write(self.path("consumer.toml"), text)?)
    }

    /// Starts `dit` with arguments; its messages go to `<name>.log` in the site's folder.
    pub fn start(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        let log = self.path(&format!("{name}.log"));
        let mut environment = self.environment.clone();
        if name == "router" {
            environment.push(("RUST_LOG".to_owned(), "info".to_owned()));
        }
        let mut command = Command::new(&self.dit);
        command.args(arguments).envs(environment).current_dir(&self.dir);
        spawn(&mut command, name, &log, name == "router")
    }

    /// A process's log so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Drops a file for the producer agent, by rename.
    pub fn drop_file(&self, name: &str, text: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(self.path("drop"))?;
        let part = self.path("drop").join(format!("{name}.part"));
        std::fs::write(&part, text)?;
        Ok(std::fs::rename(part, self.path("drop").join(name))?)
    }
}

/// Starts a command of `dit`; for a router, returns when it listens.
pub fn spawn(command: &mut Command, name: &str, log: &Path, is_router: bool) -> anyhow::Result<Process> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let child = command.stdout(Stdio::piped()).stderr(file).spawn();
    let child = child.with_context(|| format!("{} could not be started", command.get_program().display()))?;
    let mut process = Process { name: name.to_owned(), child };
    if is_router {
        let out = process.child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if !line.starts_with("listening on") {
            bail!("{name} did not listen: {}", std::fs::read_to_string(log).unwrap_or_default());
        }
    }
    Ok(process)
}

/// Runs a command in a folder; its exit code, and both its outputs.
pub fn typed(command: &str, dir: &Path, words: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let output = Command::new(command).args(words).current_dir(dir).output().context("it did not start")?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(said)?))
}

/// The `[identity]` table of a configuration whose certificate has this name.
pub fn identity(stem: &str) -> String {
    format!(
        "[identity]\ncertificate = \"pki/{stem}.pem\"\nkey = \"pki/{stem}-key.pem\"\nauthorities = \"pki/ca.pem\"\n"
    )
}
