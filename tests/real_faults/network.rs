//! Three brokers, two routers, two providers' agents, three consumers' agents and PostgreSQL, each on a host of its own.
//!
//! Owns their configurations and their lives. Agents reach the routers through a load balancer on the driver's own host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use parts::hosts::{Host, OWN_ADDRESS};
use parts::kafka::Kafka;
use parts::postgres::Postgres;
use platform::pki::{Authority, Subject};
use serde_json::json;
use support::balancer::Balancer;
use support::site::{Process, identity, spawn};

use crate::fault::{Fault, Harm, Part};
use crate::flow::drop_folder;
use crate::register::{COLUMNS, MARK, Side};

const DOMAIN: &str = "test.dit";
/// The prefix of every topic.
pub(crate) const PREFIX: &str = "f.";
/// What each consumer may have; the last keeps its replica in files.
pub(crate) const CONSUMERS: [Consumer; 3] = [
    Consumer {
        name: "CA",
        state: Some("CA"),
        fields: &["domain", "type", "organization", "city", "state", "contact", "n"],
    },
    Consumer { name: "NY", state: Some("NY"), fields: &["domain", "type", "state", "n"] },
    Consumer {
        name: "US",
        state: None,
        fields: &["domain", "type", "organization", "city", "state", "contact", "n"],
    },
];
/// How often a router that cannot begin is started, as by a supervisor.
const STARTS: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Consumer {
    pub(crate) name: &'static str,
    /// The state whose rows it may have; all rows without one.
    pub(crate) state: Option<&'static str>,
    pub(crate) fields: &'static [&'static str],
}

impl Consumer {
    /// Whether its replica is a table.
    pub(crate) const fn has_table(&self) -> bool {
        self.state.is_some()
    }

    /// Whether it may have a row.
    pub(crate) fn may_have(&self, state: &str, kind: &str) -> bool {
        kind == MARK || self.state.is_none_or(|own| own == state)
    }

    fn rows(&self) -> String {
        self.state
            .map_or_else(|| "true".to_owned(), |state| format!("state == \"{state}\" || type == \"{MARK}\""))
    }
}

pub(crate) struct Network {
    dir: PathBuf,
    dit: PathBuf,
    hosts: BTreeMap<Part, Host>,
    pub(crate) kafka: Kafka,
    postgres: Postgres,
    pub(crate) database: String,
    processes: BTreeMap<Part, Process>,
    _agents: Balancer,
}

impl Network {
    /// Starts brokers and PostgreSQL, and configures the others.
    pub(crate) async fn make(dir: &Path, dit: &str) -> anyhow::Result<Self> {
        let hosts = Part::all().zip(11..).map(|(part, number)| Ok((part, Host::make(&name(part), number)?)));
        let hosts = hosts.collect::<anyhow::Result<BTreeMap<_, _>>>()?;
        let of = |wanted: fn(&Part) -> bool| -> Vec<Host> {
            hosts.iter().filter(|(part, _)| wanted(part)).map(|(_, host)| host.clone()).collect()
        };
        let authority = Authority::open_or_create(&dir.join("pki"), DOMAIN)?;
        let routers = of(|part| matches!(part, Part::Router(_)));
        let named = |hosts: &[Host]| hosts.iter().map(|host| host.address().to_string()).collect::<Vec<_>>();
        let subject = |name: &str, hosts| Subject::Router { name: name.to_owned(), hosts };
        let before_routers = [named(&routers), vec![OWN_ADDRESS.to_string()]].concat();
        authority.issue_to(&dir.join("pki"), "router", &subject("r", before_routers))?;
        let servers = of(|part| *part == Part::Postgres);
        authority.issue_to(&dir.join("pki"), "postgres", &subject("postgres", named(&servers)))?;
        let kafka = Kafka::start_on(&of(|part| matches!(part, Part::Broker(_))))?;
        let pki = |file: &str| dir.join("pki").join(file);
        let server = servers.first().context("a host for PostgreSQL")?;
        let postgres = Postgres::start_on(server, &pki("postgres.pem"), &pki("postgres-key.pem"))?;
        let database = postgres.database()?;
        let backends = routers.iter().map(|host| (host.address(), 9443).into()).collect();
        let agents = Balancer::start_at(OWN_ADDRESS.into(), backends).await?;
        let balancer = format!("https://{}", agents.address());
        let dir = dir.to_owned();
        let dit = PathBuf::from(dit);
        let processes = BTreeMap::new();
        let network = Self { dir, dit, hosts, kafka, postgres, database, processes, _agents: agents };
        network.configure(&authority, &balancer)?;
        Ok(network)
    }

    /// Starts the routers, then the agents.
    pub(crate) fn begin_all(&mut self) -> anyhow::Result<()> {
        let mut ours = Part::all().filter(|part| !matches!(part, Part::Broker(_) | Part::Postgres));
        ours.try_for_each(|part| self.begin(part))
    }

    fn configure(&self, authority: &Authority, balancer: &str) -> anyhow::Result<()> {
        platform::closed::write(&self.dir.join("secret"), hex::encode(platform::random::bytes::<32>()?))?;
        self.declare()?;
        for part in Part::all() {
            let text = match part {
                Part::Broker(_) | Part::Postgres => continue,
                Part::Router(_) => self.router_config(part)?,
                Part::Provider(number) => {
                    let side = Side::BOTH[usize::from(number)];
                    std::fs::create_dir_all(drop_folder(&self.dir, side))?;
                    let agent = format!("{}/main", side.name()).parse()?;
                    authority.issue_to(&self.dir.join("pki"), side.name(), &Subject::Agent(agent))?;
                    self.provider_config(part, side, balancer)?
                }
                Part::Consumer(number) => {
                    let consumer = CONSUMERS[usize::from(number)];
                    let agent = format!("{}/main", consumer.name).parse()?;
                    authority.issue_to(&self.dir.join("pki"), consumer.name, &Subject::Agent(agent))?;
                    self.consumer_config(part, &consumer, balancer)?
                }
            };
            std::fs::write(self.dir.join(format!("{}.toml", name(part))), text)?;
        }
        Ok(())
    }

    fn declare(&self) -> anyhow::Result<()> {
        let declared = self.dir.join("declared");
        for folder in ["channels", "agreements"] {
            std::fs::create_dir_all(declared.join(folder))?;
        }
        let fields = COLUMNS.map(|name| json!({"name": name, "type": "string"}));
        let fields = [fields.as_slice(), &[json!({"name": "n", "type": "long"})]].concat();
        let schema = json!({"type": "record", "name": "gov.Domain", "fields": fields});
        std::fs::write(self.dir.join("schema.avsc"), schema.to_string())?;
        let names = Side::BOTH.map(Side::name).into_iter().chain(CONSUMERS.map(|consumer| consumer.name));
        let entries = names.map(|id| format!("[[participant]]\nid = \"{id}\"\nname = \"{id}\"\n"));
        std::fs::write(declared.join("participants.toml"), entries.collect::<String>())?;
        for side in Side::BOTH {
            let channel = json!({"name": side.name(), "kind": "distribution", "owner": side.name(),
                "partitions": side.partitions(), "schema": schema,
                "key": {"fields": ["domain"], "normalise": ["lowercase"]}});
            std::fs::write(declared.join(format!("channels/{}.json", side.name())), channel.to_string())?;
            for consumer in CONSUMERS {
                let kept: BTreeMap<&str, &str> =
                    consumer.fields.iter().map(|field| (*field, "keep")).collect();
                let number = agreement(&consumer, side);
                let agreement = json!({"number": number, "version": 1, "provider": side.name(),
                    "consumer": consumer.name, "channel": side.name(), "purpose": "test", "legal_basis": "test",
                    "valid_from": "2020-01-01T00:00:00Z", "history": "full", "schema_version": 1,
                    "rows": consumer.rows(), "fields": kept});
                std::fs::write(declared.join(format!("agreements/{number}.json")), agreement.to_string())?;
            }
        }
        Ok(())
    }

    fn router_config(&self, part: Part) -> anyhow::Result<String> {
        let address = self.host(part)?.address();
        Ok(format!(
            "listen = \"{address}:9443\"\nadmin_listen = \"{address}:9444\"\nobserve_listen = \"{address}:9445\"\n\
             domain = \"{DOMAIN}\"\nnetwork_secret = \"secret\"\ndeclared = \"declared\"\n\n\
             [kafka]\nbrokers = \"{}\"\nprefix = \"{PREFIX}\"\nreplication = 3\n\n{}",
            self.kafka.bootstrap(),
            identity("router")
        ))
    }

    fn provider_config(&self, part: Part, side: Side, balancer: &str) -> anyhow::Result<String> {
        let address = self.host(part)?.address();
        let name = side.name();
        let changes = if side == Side::Local { "\n[format]\noperation_column = \"op\"\n" } else { "" };
        Ok(format!(
            "router = \"{balancer}\"\ndomain = \"{DOMAIN}\"\nchannel = \"{name}\"\nschema = \"schema.avsc\"\n\
             data_dir = \"{name}/data\"\ndrop_dir = \"{name}/drop\"\nobserve_listen = \"{address}:9445\"\n\n{}\n\
             [guard]\nmax_delete_percent = 100\nmax_change_percent = 100\n{changes}",
            identity(name)
        ))
    }

    fn consumer_config(&self, part: Part, consumer: &Consumer, balancer: &str) -> anyhow::Result<String> {
        let address = self.host(part)?.address();
        let name = consumer.name;
        let mut text = format!(
            "router = \"{balancer}\"\ndata_dir = \"{name}\"\nobserve_listen = \"{address}:9445\"\n\
             reconcile_every = \"10s\"\n\n{}\n",
            identity(name)
        );
        for side in Side::BOTH {
            let number = agreement(consumer, side);
            text += &format!("[[agreement]]\nnumber = \"{number}\"\nchannel = \"{}\"\n", side.name());
            if consumer.has_table() {
                let url = &self.database;
                text +=
                    &format!("postgres = {{ url = \"{url}\", ca = \"pki/ca.pem\", schema = \"{name}\" }}\n");
            }
        }
        Ok(text)
    }

    fn host(&self, part: Part) -> anyhow::Result<&Host> {
        self.hosts.get(&part).context("a host")
    }

    /// The URLs at which processes report metrics and health.
    pub(crate) fn observed(&self) -> BTreeMap<Part, String> {
        let told = |(part, host): (&Part, &Host)| (*part, format!("http://{}:9445", host.address()));
        self.hosts
            .iter()
            .filter(|(part, _)| !matches!(part, Part::Broker(_) | Part::Postgres))
            .map(told)
            .collect()
    }

    /// The log of a process.
    pub(crate) fn log(&self, part: Part) -> String {
        std::fs::read_to_string(self.dir.join(format!("{}.log", name(part)))).unwrap_or_default()
    }

    /// The processes that have ended by themselves.
    pub(crate) fn ended(&mut self) -> Vec<Part> {
        let ended = |(part, process): (&Part, &mut Process)| (!process.is_running()).then_some(*part);
        self.processes.iter_mut().filter_map(ended).collect()
    }

    /// Starts a part that does not run.
    pub(crate) fn begin(&mut self, part: Part) -> anyhow::Result<()> {
        let config = format!("{}.toml", name(part));
        let words = match part {
            Part::Broker(number) => return self.kafka.start_node(usize::from(number)),
            Part::Postgres => return self.postgres.run(),
            Part::Router(_) => vec!["router", "--config", &config, "--instance"],
            Part::Provider(_) => vec!["producer", "run", "--config", &config],
            Part::Consumer(_) => vec!["consumer", "run", "--config", &config],
        };
        let is_router = matches!(part, Part::Router(_));
        let name = name(part);
        let mut command = self.host(part)?.command(&self.dit);
        command.args(words).current_dir(&self.dir).env("RUST_LOG", "info,sled=warn");
        if is_router {
            command.arg(&name);
        }
        let log = self.dir.join(format!("{name}.log"));
        let mut starts = 1;
        let process = loop {
            match spawn(&mut command, &name, &log, is_router) {
                Err(error) if starts == STARTS => return Err(error),
                Err(_) => starts += 1,
                Ok(process) => break process,
            }
        };
        self.processes.insert(part, process);
        Ok(())
    }

    fn kill(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Broker(number) => self.kafka.stop_node(usize::from(number), true),
            Part::Postgres => self.postgres.kill(),
            _ => self.processes.remove(&part).context("it does not run")?.kill(),
        }
    }

    fn stop(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Broker(number) => self.kafka.stop_node(usize::from(number), false),
            Part::Postgres => self.postgres.stop(),
            _ => {
                let has_drained = self.processes.remove(&part).context("it does not run")?.stop()?;
                ensure!(has_drained, "{part:?} did not end well: {}", self.log(part));
                Ok(())
            }
        }
    }

    pub(crate) fn harm(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault.harm {
            Harm::Killed => self.kill(fault.part),
            Harm::Stopped => self.stop(fault.part),
            Harm::Paused => self.host(fault.part)?.signal("-STOP"),
            Harm::CutOff => self.host(fault.part)?.cut_off(),
            Harm::Unheard(other) => self.host(fault.part)?.lose(self.host(other)?),
            Harm::CutFrom(other) => {
                let one = self.host(fault.part)?;
                let other = self.host(other)?;
                one.lose(other)?;
                other.lose(one)
            }
        }
    }

    pub(crate) fn repair(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault.harm {
            Harm::Killed | Harm::Stopped => self.begin(fault.part),
            Harm::Paused => self.host(fault.part)?.signal("-CONT"),
            Harm::CutOff => self.host(fault.part)?.join(),
            Harm::Unheard(other) => self.host(fault.part)?.find(self.host(other)?),
            Harm::CutFrom(other) => {
                let one = self.host(fault.part)?;
                let other = self.host(other)?;
                one.find(other)?;
                other.find(one)
            }
        }
    }

    /// Asks everything to end.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        // Consumers first: what their drain needs still runs.
        for part in self.processes.keys().rev().copied().collect::<Vec<_>>() {
            self.stop(part)?;
        }
        if !self.processes.is_empty() {
            bail!("these still run: {:?}", self.processes.keys());
        }
        Ok(())
    }
}

pub(crate) fn agreement(consumer: &Consumer, side: Side) -> String {
    format!("{}-{}", consumer.name, side.name())
}

/// The name of a part's host, configuration and log.
fn name(part: Part) -> String {
    match part {
        Part::Broker(number) => format!("broker{number}"),
        Part::Router(number) => format!("router{number}"),
        Part::Provider(number) => format!("provider{number}"),
        Part::Consumer(number) => format!("consumer{number}"),
        Part::Postgres => "postgres".to_owned(),
    }
}
