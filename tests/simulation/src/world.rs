//! The whole network of one seed: its machines, the plan that happens to them, and the end that must be reached.
//!
//! Owns the order of a run: begin, let the plan happen, make everything whole, wait until nothing is left to do, look.

mod ending;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use platform::segments::memory_disk::MemoryDisk;
use platform::simulation::node::{Beginning, Node};
use platform::simulation::random::Random;
use platform::simulation::schedule::Schedule;
use schemas::agreement::Agreement;
use schemas::promise::Promise;
use schemas::time::Millis;
use scope::secret::NetworkSecret;
use tokio::time::{Instant, sleep_until};

use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::disk::Backup;
use crate::fault::{Counts, Fault, Sky, Weather};
use crate::network::Lines;
use crate::operator;
use crate::oracle::Oracle;
use crate::parties::{Identities, agent_of, declare, draw_territories, name_of, peers, rule, sites};
use crate::plan::{self, Action, Loss, Machine};
use crate::provider::{Provider, ProviderParts};
use crate::routers::Routers;

/// When every simulation begins: 5 January 2026.
const EPOCH: Millis = Millis::new(1_767_571_200_000);
/// How long it may take until nothing is left to do after everything was made whole.
const SETTLE_LIMIT: Duration = Duration::from_secs(900);

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    pub broken: Vec<(Promise, String)>,
    pub faults: Counts,
    /// The digest of all that happened.
    pub history: String,
    pub changes: i64,
    /// Comparisons that found a replica equal.
    pub compared: u64,
    /// How long it took by the simulation's clock.
    pub took: Duration,
}

/// The network of one seed.
pub struct World {
    begun: Instant,
    schedule: Arc<Schedule>,
    random: Mutex<Random>,
    sky: Arc<Sky>,
    oracle: Arc<Oracle>,
    lines: Lines,
    broker: Arc<Broker>,
    routers: Routers,
    providers: Vec<Arc<Provider>>,
    consumers: Vec<Arc<Consumer>>,
    agreements: Vec<Agreement>,
    backups: BTreeMap<usize, Backup>,
    nodes: BTreeMap<Machine, Node>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A network that has not begun to work.
    pub fn new(
        seed: u64,
        prints: bool,
        identities: &Identities,
        files: &Path,
        schedule: Arc<Schedule>,
    ) -> anyhow::Result<Self> {
        let mut random = Random::new(seed);
        let sky = Arc::new(Sky::default());
        let oracle = Arc::new(Oracle::new(prints)?);
        sky.set_weather(Weather::FAIR);
        let routers = usize::try_from(plan::ROUTERS)?;
        let lines =
            Lines::new(routers, peers()?, Arc::clone(&sky), Arc::clone(&oracle), random.next_number());
        let begun = Instant::now();
        let node = Node::new(beginning("broker", begun, 1_000, &mut random, &lines, &schedule));
        lines.set_node(node.clone());
        let broker = Broker::new(node, routers, Arc::clone(&sky), Arc::clone(&oracle), random.next_number());
        let broker = Arc::new(broker);
        let (declared, agreements) = declare(&mut random, &oracle)?;
        let providers = (0..plan::PROVIDERS).map(|number| {
            let machine = Machine::Provider(usize::try_from(number)?);
            let changes = plan::CHANGES / usize::try_from(plan::PROVIDERS)?;
            let site = Provider::new(ProviderParts {
                id: agent_of(machine)?,
                channel: format!("register-{number}").parse()?,
                identity: identities.agent.clone(),
                files,
                oracle: Arc::clone(&oracle),
                sky: Arc::clone(&sky),
                changes,
                seed: random.next_number(),
            });
            Ok(Arc::new(site))
        });
        let providers = providers.collect::<anyhow::Result<_>>()?;
        let consumer = |agreement: &Agreement| {
            let topic = format!("dit.{}.log", agreement.channel);
            let identity = identities.agent.clone();
            let oracle = Arc::clone(&oracle);
            Arc::new(Consumer::new(agreement.number.clone(), topic, identity, oracle))
        };
        let consumers = agreements.iter().map(consumer).collect();
        let secret = NetworkSecret::new(vec![7; 32])?;
        let routers = Routers {
            broker: Arc::clone(&broker),
            lines: lines.clone(),
            identity: identities.router.clone(),
            declared,
            secret,
            cores: Arc::default(),
        };
        let random = Mutex::new(random);
        let backups = BTreeMap::new();
        let nodes = BTreeMap::new();
        Ok(Self {
            begun,
            schedule,
            random,
            sky,
            oracle,
            lines,
            broker,
            routers,
            providers,
            consumers,
            agreements,
            backups,
            nodes,
        })
    }

    /// Runs the network through its plan and to its end.
    pub async fn run(mut self) -> anyhow::Result<Outcome> {
        let plan = plan::draw(&mut lock(&self.random));
        let routers = (0..plan::ROUTERS).filter_map(|number| usize::try_from(number).ok());
        for machine in routers.map(Machine::Router).chain(sites()).collect::<Vec<_>>() {
            self.start(machine);
        }
        for (at, action) in plan {
            sleep_until(self.begun + Duration::from_millis(at)).await;
            if !self.oracle.verdict().is_empty() {
                break;
            }
            self.act(action).await?;
        }
        self.make_whole();
        let settled = tokio::time::timeout(SETTLE_LIMIT, self.settled()).await;
        if settled.is_err() {
            self.oracle.broken(Promise::HonestProgress, format!("stalled: {}", self.progress()));
        }
        self.look_at_end();
        self.replay().await?;
        let took = self.begun.elapsed();
        self.nodes.values().for_each(Node::kill);
        self.lines.close();
        self.routers.close();
        Ok(Outcome {
            broken: self.oracle.verdict(),
            faults: self.sky.counts(),
            history: self.oracle.history(),
            changes: self.providers.iter().map(|provider| provider.account().register.changes).sum(),
            compared: self.consumers.iter().map(|consumer| consumer.reached().compared).sum(),
            took,
        })
    }

    fn below(&self, bound: u64) -> u64 {
        lock(&self.random).below(bound)
    }

    fn is_up(&self, machine: Machine) -> bool {
        self.nodes.contains_key(&machine)
    }

    fn start(&mut self, machine: Machine) {
        if self.is_up(machine) {
            return;
        }
        // No two clocks run at one speed; 5 % is more than the error of a bad one.
        let pace = 950 + u32::try_from(self.below(101)).unwrap_or(50);
        let name = name_of(machine);
        let node = Node::new(beginning(
            &name,
            self.begun,
            pace,
            &mut lock(&self.random),
            &self.lines,
            &self.schedule,
        ));
        match machine {
            Machine::Router(number) => node.spawn(self.routers.clone().live(number, node.clone())),
            Machine::Provider(number) => {
                if let Some(provider) = self.providers.get(number) {
                    node.spawn(Arc::clone(provider).live());
                }
            }
            Machine::Consumer(number) => {
                if let Some(consumer) = self.consumers.get(number) {
                    node.spawn(Arc::clone(consumer).live());
                }
            }
        }
        self.nodes.insert(machine, node);
    }

    async fn act(&mut self, action: Action) -> anyhow::Result<()> {
        let oracle = Arc::clone(&self.oracle);
        oracle.note(|| format!("{action:?}"));
        match action {
            Action::Crash(machine, loss) => self.crash(machine, loss),
            Action::StopDisk(machine, writes) => {
                if let Some(disk) = self.disk_of(machine).filter(|_| self.is_up(machine)) {
                    disk.stop_after(usize::try_from(writes)?);
                }
            }
            Action::Start(machine) => self.start(machine),
            Action::Pause(machine) => {
                if let Some(node) = self.nodes.get(&machine) {
                    node.pause();
                    let is_router = matches!(machine, Machine::Router(_));
                    self.sky.fired(if is_router { Fault::RouterPause } else { Fault::AgentPause });
                }
            }
            Action::Resume(machine) => self.nodes.get(&machine).into_iter().for_each(Node::resume),
            Action::CutLog(router) => {
                self.broker.set_line(router, false);
                self.sky.fired(Fault::LogCut);
            }
            Action::RepairLog(router) => self.broker.set_line(router, true),
            Action::Unheard(router, late) => {
                self.broker.set_unheard(router, Some(late));
                self.sky.fired(Fault::Unheard);
            }
            Action::Heard(router) => self.broker.set_unheard(router, None),
            Action::CutSite(site, router) => {
                self.lines.set_line(&name_of(site), router, false);
                self.sky.fired(Fault::SiteCut);
            }
            Action::RepairSite(site, router) => self.lines.set_line(&name_of(site), router, true),
            Action::Storm => self.sky.set_weather(Weather::FOUL),
            Action::Calm => self.sky.set_weather(Weather::FAIR),
            Action::Clock(machine, off) => {
                if let Some(node) = self.nodes.get(&machine) {
                    node.set_skew(off);
                    if off != 0 {
                        self.sky.fired(Fault::ClockJump);
                    }
                }
            }
            Action::Backup(number) => {
                if let Some(provider) = self.providers.get(number) {
                    let copy = Backup::of(&provider.disk, &provider.images);
                    self.backups.insert(number, copy);
                }
            }
            Action::DeleteOldState => self.routers.delete_old_state(&self.broker, &self.sky).await,
            Action::Expire => self.routers.expire(&self.broker, &self.sky).await,
            Action::Poison(channel, partition) => {
                self.routers.poison(&self.broker, channel, partition, self.below(2)).await;
            }
            Action::Amend(number) => self.amend(number)?,
            Action::Revoke(number) => self.revoke(number)?,
        }
        Ok(())
    }

    fn disk_of(&self, machine: Machine) -> Option<&MemoryDisk> {
        match machine {
            Machine::Router(_) => None,
            Machine::Provider(number) => self.providers.get(number).map(|provider| &provider.disk),
            Machine::Consumer(number) => self.consumers.get(number).map(|consumer| &consumer.disk),
        }
    }

    fn crash(&mut self, machine: Machine, loss: Loss) {
        let Some(node) = self.nodes.remove(&machine) else { return };
        node.kill();
        if self.disk_of(machine).is_some_and(MemoryDisk::has_stopped) {
            self.sky.fired(Fault::DiskStop);
        }
        match machine {
            Machine::Router(number) => {
                self.lines.set_door(number, None);
                self.routers.gone(number);
                self.sky.fired(Fault::RouterCrash);
            }
            Machine::Provider(number) => {
                let Some(provider) = self.providers.get(number).map(Arc::clone) else { return };
                provider.went_down();
                self.sky.fired(Fault::ProviderCrash);
                self.crash_disk(&provider.disk);
                provider.images.crash(self.below(2) == 0);
                let backup = if loss == Loss::SinceBackup { self.backups.remove(&number) } else { None };
                match (loss, backup) {
                    (Loss::Images, _) => {
                        provider.images.lose();
                        self.sky.fired(Fault::LostImages);
                    }
                    (Loss::SinceBackup, Some(backup)) => {
                        provider.go_on_from(backup);
                        self.sky.fired(Fault::RestoredFolder);
                    }
                    (Loss::Folder, _) => {
                        provider.go_on_from(Backup::empty());
                        self.sky.fired(Fault::LostFolder);
                    }
                    _ => {}
                }
            }
            Machine::Consumer(number) => {
                let Some(consumer) = self.consumers.get(number).map(Arc::clone) else { return };
                self.sky.fired(Fault::ConsumerCrash);
                self.crash_disk(&consumer.disk);
            }
        }
    }

    /// Some unsynced bytes survive, by seed.
    fn crash_disk(&self, disk: &MemoryDisk) {
        let mut random = lock(&self.random);
        disk.crash(|unsynced| {
            let bytes = u64::try_from(unsynced).unwrap_or(0);
            let kept = match random.below(3) {
                0 => 0,
                1 => bytes,
                _ => random.below(bytes + 1),
            };
            if kept < bytes {
                self.sky.fired(Fault::LostWrites);
                if kept > 0 {
                    self.sky.fired(Fault::TornWrite);
                }
            }
            usize::try_from(kept).unwrap_or(unsynced)
        });
    }

    fn amend(&mut self, number: usize) -> anyhow::Result<()> {
        let territories = draw_territories(&mut lock(&self.random));
        let agreement = self.agreements.get_mut(number).context("no such agreement")?;
        agreement.version = agreement.version.next();
        agreement.rows = rule(&territories);
        self.oracle.amend(agreement.number.as_str(), territories);
        let body = serde_json::to_value(&*agreement)?;
        self.as_operator(operator::Deed::Amend(body));
        Ok(())
    }

    fn revoke(&mut self, number: usize) -> anyhow::Result<()> {
        let agreement = self.agreements.get(number).context("no such agreement")?;
        self.oracle.revoking(agreement.number.as_str());
        self.as_operator(operator::Deed::Revoke(agreement.number.clone()));
        Ok(())
    }

    /// The operator's own machine does not fail, and asks until it is answered.
    fn as_operator(&self, deed: operator::Deed) {
        let node = self.node("operator");
        let identity = self.routers.identity.clone();
        let oracle = Arc::clone(&self.oracle);
        node.spawn(operator::act(deed, identity, oracle));
    }

    /// A machine that does not fail.
    fn node(&self, name: &str) -> Node {
        let mut random = lock(&self.random);
        Node::new(beginning(name, self.begun, 1_000, &mut random, &self.lines, &self.schedule))
    }
}

fn beginning(
    name: &str,
    begun: Instant,
    pace: u32,
    random: &mut Random,
    lines: &Lines,
    schedule: &Arc<Schedule>,
) -> Beginning {
    let network = Arc::new(lines.clone());
    let schedule = Arc::clone(schedule);
    Beginning {
        name: name.to_owned(),
        begun,
        epoch: EPOCH,
        pace,
        seed: random.next_number(),
        network,
        schedule,
    }
}
