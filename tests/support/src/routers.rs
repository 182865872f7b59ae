//! Several router processes on one Kafka, behind a load balancer.
//!
//! Owns their configuration and their lives.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use platform::client::Client;
use platform::pki::{Authority, Subject};

use crate::balancer::Balancer;
use crate::site::{Process, free_address, spawn};

pub const DOMAIN: &str = "test.dit";

pub struct Routers {
    dir: PathBuf,
    dit: PathBuf,
    secret: Vec<u8>,
    filter: String,
    each: Vec<One>,
    agents: Balancer,
    operators: Balancer,
}

struct One {
    listen: SocketAddr,
    admin: SocketAddr,
    process: Option<Process>,
}

impl Routers {
    /// Starts so many, on topics with a prefix of their own. `dit` is the command's path.
    pub async fn start(dir: &Path, dit: &str, brokers: &str, count: usize) -> anyhow::Result<Self> {
        Self::start_with(dir, dit, brokers, count, "info", "").await
    }

    /// Starts them in front of an external schema registry.
    pub async fn start_before(
        dir: &Path,
        dit: &str,
        brokers: &str,
        count: usize,
        registry: &str,
    ) -> anyhow::Result<Self> {
        let table = format!("[registry]\nurl = \"{registry}\"\n\n");
        Self::start_with(dir, dit, brokers, count, "info", &table).await
    }

    /// Starts them with log lines of JSON that a filter chooses.
    pub async fn start_logging(
        dir: &Path,
        dit: &str,
        brokers: &str,
        count: usize,
        filter: &str,
    ) -> anyhow::Result<Self> {
        Self::start_with(dir, dit, brokers, count, filter, "").await
    }

    async fn start_with(
        dir: &Path,
        dit: &str,
        brokers: &str,
        count: usize,
        filter: &str,
        more: &str,
    ) -> anyhow::Result<Self> {
        let authority = Authority::open_or_create(&dir.join("pki"), DOMAIN)?;
        let secret = hex::encode(platform::random::bytes::<32>()?);
        platform::closed::write(&dir.join("secret"), &secret)?;
        let prefix = format!("t{}.", hex::encode(platform::random::bytes::<6>()?));
        let hosts = vec!["127.0.0.1".to_owned()];
        authority.issue_to(&dir.join("pki"), "r", &Subject::Router { name: "r".to_owned(), hosts })?;
        let mut each = Vec::new();
        for index in 0..count {
            let name = format!("r{index}");
            let listen = free_address()?;
            let admin = free_address()?;
            let text = format!(
                "listen = \"{listen}\"\nadmin_listen = \"{admin}\"\ndomain = \"{DOMAIN}\"\n\
                 network_secret = \"secret\"\nlog_format = \"json\"\n\n[kafka]\nbrokers = \"{brokers}\"\nprefix = \"{prefix}\"\n\
                 replication = 1\n\n{more}{}",
                crate::site::identity("r")
            );
            std::fs::write(dir.join(format!("{name}.toml")), text)?;
            each.push(One { listen, admin, process: None });
        }
        let agents = Balancer::start(each.iter().map(|one| one.listen).collect()).await?;
        let operators = Balancer::start(each.iter().map(|one| one.admin).collect()).await?;
        let dir = dir.to_owned();
        let dit = PathBuf::from(dit);
        let mut routers = Self {
            dir,
            dit,
            secret: secret.into_bytes(),
            filter: filter.to_owned(),
            each,
            agents,
            operators,
        };
        (0..count).try_for_each(|index| routers.run(index))?;
        Ok(routers)
    }

    /// Starts a router that does not run; returns when it listens.
    pub fn run(&mut self, index: usize) -> anyhow::Result<()> {
        let name = format!("r{index}");
        let log = self.dir.join(format!("{name}.log"));
        let config = format!("{name}.toml");
        let mut command = Command::new(&self.dit);
        command.args(["router", "--config", &config, "--instance", &name]).current_dir(&self.dir);
        let process = spawn(command.env("RUST_LOG", &self.filter), &name, &log, true)?;
        self.one(index)?.process = Some(process);
        Ok(())
    }

    fn one(&mut self, index: usize) -> anyhow::Result<&mut One> {
        self.each.get_mut(index).context("there is no such router")
    }

    /// kill -9.
    pub fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        self.one(index)?.process.take().context("it does not run")?.kill()
    }

    /// Sends a signal, such as `-STOP`.
    pub fn signal(&mut self, index: usize, signal: &str) -> anyhow::Result<()> {
        self.one(index)?.process.as_ref().context("it does not run")?.signal(signal)
    }

    fn address(&self, index: usize) -> Option<SocketAddr> {
        self.each.get(index).map(|one| one.listen)
    }

    fn admin_address(&self, index: usize) -> Option<SocketAddr> {
        self.each.get(index).map(|one| one.admin)
    }

    pub fn agents(&self) -> String {
        format!("https://{}", self.agents.address())
    }

    pub fn operators(&self) -> String {
        format!("https://{}", self.operators.address())
    }

    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// A router's log so far, line by line.
    pub fn log(&self, index: usize) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.join(format!("r{index}.log"))).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// A client of one of them with an agent's certificate, past the balancer.
    pub fn client(&self, index: usize, agent: &str) -> anyhow::Result<Client> {
        self.client_of(&Subject::Agent(agent.parse()?), self.address(index))
    }

    /// A client of one of them with an operator's certificate, past the balancer.
    pub fn operator(&self, index: usize) -> anyhow::Result<Client> {
        self.client_of(&Subject::Operator("o".to_owned()), self.admin_address(index))
    }

    fn client_of(&self, subject: &Subject, address: Option<SocketAddr>) -> anyhow::Result<Client> {
        let identity = Authority::open_or_create(&self.pki(), DOMAIN)?.identity(subject)?;
        let address = address.context("there is no such router")?;
        Ok(Client::new(&format!("https://{address}"), &identity)?)
    }
}
