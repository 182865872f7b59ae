//! The routers' machines, and what time does to the topics behind them.
//!
//! Owns a router's start: as often as it takes, as a supervisor does. Deletion and retention keep the bounds of real
//! topics, in the proportion of the run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_log::Log;
use platform::identity::Identity;
use platform::simulation::node::Node;
use router::declarations::Declared;
use router::{Core, CoreParts};
use schemas::ids::{Offset, Partition};
use schemas::record::{Kind, Record};
use schemas::time::Millis;
use scope::secret::NetworkSecret;
use tokio::time::sleep;

use crate::broker::{Broker, Line};
use crate::fault::{Fault, Sky};
use crate::network::{Door, Lines};
use crate::plan;

/// A supervisor starts a process again after so long.
const START_AGAIN: Duration = Duration::from_secs(1);

/// The routers; clones share them.
#[derive(Clone)]
pub struct Routers {
    pub broker: Arc<Broker>,
    /// Where they are reached.
    pub lines: Lines,
    pub identity: Identity,
    /// The declarations in their files.
    pub declared: Declared,
    /// For keyed hashes.
    pub secret: NetworkSecret,
    pub cores: Arc<Mutex<BTreeMap<usize, Core>>>,
}

impl Routers {
    fn cores(&self) -> MutexGuard<'_, BTreeMap<usize, Core>> {
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A router at work, until its machine stops.
    pub async fn live(self, number: usize, node: Node) {
        loop {
            let line: Arc<dyn Log> = Arc::new(Line::new(Arc::clone(&self.broker), number));
            let parts = CoreParts {
                log: line,
                routers: router::Routers::Several,
                registry: None,
                identity: &self.identity,
                name: format!("router-{number}"),
                secret: self.secret.clone(),
                declared: self.declared.clone(),
                disks: Vec::new(),
            };
            match Core::start(parts).await {
                Ok(core) => {
                    let agents = router::http::agent_routes(&core);
                    let admin = router::http::admin_routes(&core);
                    self.lines.set_door(number, Some(Door { node, agents, admin }));
                    self.cores().insert(number, core);
                    return std::future::pending().await;
                }
                Err(_) => sleep(START_AGAIN).await,
            }
        }
    }

    /// Forgets all routers.
    pub fn close(&self) {
        let cores = std::mem::take(&mut *self.cores());
        drop(cores);
    }

    /// Forgets a router.
    pub fn gone(&self, number: usize) {
        self.cores().remove(&number);
    }

    /// Deletes what no state has needed since a while: all before the first offset that an old checkpoint names.
    pub async fn delete_old_state(&self, broker: &Broker, sky: &Sky) {
        for (topic, partition) in topics("state") {
            let Some(young) = self.young(broker, &topic, partition).await else { continue };
            let Ok(bounds) = broker.log.bounds(&topic, partition).await else { continue };
            let held = broker.log.read(&topic, partition, bounds.first, usize::MAX, Duration::ZERO).await;
            let held = held.map(|batch| batch.records).unwrap_or_default();
            let old = held.iter().take_while(|stored| stored.offset < young);
            let needed = old.filter_map(|stored| stored.record.header_text("dit_first")?.parse().ok()).last();
            if let Some(first) = needed.map(Offset::new).filter(|first| *first > bounds.first) {
                broker.log.expire(&topic, partition, first);
                sky.fired(Fault::Deletion);
            }
        }
    }

    /// Removes the oldest records from the logs, but nothing that a state lacks.
    pub async fn expire(&self, broker: &Broker, sky: &Sky) {
        for (topic, partition) in topics("log") {
            let Some(young) = self.young(broker, &topic, partition).await else { continue };
            let before = young.min(self.materialised(&topic, partition));
            if before > Offset::new(0) {
                broker.log.expire(&topic, partition, before);
                sky.fired(Fault::Retention);
            }
        }
    }

    /// Appends a foreign record: one without our headers, or one that says it is a block.
    pub async fn poison(&self, broker: &Broker, channel: usize, partition: u32, form: u64) {
        let headers = if form == 0 { Vec::new() } else { vec![Kind::Block.header()] };
        let record = Record { key: Some(b"k00".to_vec()), value: Some(vec![0; 9]), headers };
        broker.poison(&format!("dit.register-{channel}.log"), Partition::new(partition), record).await;
    }

    async fn young(&self, broker: &Broker, topic: &str, partition: Partition) -> Option<Offset> {
        let now: Millis = broker.now();
        broker.log.offset_at(topic, partition, now.plus(-plan::YOUNG.cast_signed())).await.ok()
    }

    /// The offset that the state has surely reached: the log's retention is three times its longest lag.
    fn materialised(&self, topic: &str, partition: Partition) -> Offset {
        let cores = self.cores();
        let known = cores.values().flat_map(|core| core.channels.all()).filter_map(|running| {
            let state = running.materialised.get(partition)?;
            (running.entry.channel.log_topic() == topic).then(|| state.progress().to)
        });
        known.max().unwrap_or(Offset::new(0))
    }
}

fn topics(kind: &'static str) -> impl Iterator<Item = (String, Partition)> {
    (0..plan::PROVIDERS).flat_map(move |channel| {
        let topic = format!("dit.register-{channel}.{kind}");
        (0..plan::PARTITIONS).map(move |partition| (topic.clone(), Partition::new(partition)))
    })
}
