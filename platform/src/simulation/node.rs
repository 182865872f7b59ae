//! A machine of a simulation: its clocks, its randomness, its network, and its life.
//!
//! Owns a node's own faults: a wrong clock, a pause, death. A task that is spawned on a node stays on it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::time::Millis;
use tokio::time::Instant;

use super::random::Random;
use super::schedule::{HostNumber, Schedule};
use crate::host::{self, Answer, Host, Task};

/// Carries the nodes' requests.
pub trait Network: Send + Sync {
    /// Carries one request.
    fn send(&self, from: &Node, request: reqwest::Request) -> Pin<Box<dyn Future<Output = Answer> + Send>>;
}

struct Shared {
    name: String,
    begun: Instant,
    epoch: Millis,
    /// The wall clock's error, in milliseconds.
    skew: AtomicI64,
    /// How fast its clocks run, in thousandths.
    pace: u32,
    random: Mutex<Random>,
    network: Arc<dyn Network>,
    tasks: Arc<Schedule>,
    number: HostNumber,
    is_dead: AtomicBool,
}

/// The values that a node begins with.
pub struct Beginning {
    /// For people.
    pub name: String,
    /// When the simulation began, by the runtime's clock.
    pub begun: Instant,
    /// The wall clock's time then.
    pub epoch: Millis,
    /// How fast its clocks run, in thousandths.
    pub pace: u32,
    /// The seed of its randomness.
    pub seed: u64,
    pub network: Arc<dyn Network>,
    pub schedule: Arc<Schedule>,
}

/// A machine of a simulation; clones share it.
#[derive(Clone)]
pub struct Node(Arc<Shared>);

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// A machine that runs.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { name, begun, epoch, pace, seed, network, schedule } = beginning;
        Self(Arc::new(Shared {
            name,
            begun,
            epoch,
            skew: AtomicI64::new(0),
            pace,
            random: Mutex::new(Random::new(seed)),
            network,
            number: schedule.add_host(),
            tasks: schedule,
            is_dead: AtomicBool::new(false),
        }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sets its wall clock wrong by so many milliseconds.
    pub fn set_skew(&self, millis: i64) {
        self.0.skew.store(millis, Ordering::Relaxed);
    }

    /// Pauses all its tasks until it is resumed; its clocks continue.
    pub fn pause(&self) {
        self.0.tasks.pause(self.0.number);
    }

    /// Continues its tasks.
    pub fn resume(&self) {
        self.0.tasks.resume(self.0.number);
    }

    /// Ends the node: its tasks are dropped at once, and no new task begins on it.
    pub fn kill(&self) {
        self.0.is_dead.store(true, Ordering::Relaxed);
        self.0.tasks.drop_tasks(self.0.number);
    }

    /// Runs a task on it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        Host::spawn(self, Box::pin(task));
    }

    /// Calls `act` on this node.
    pub fn enter<T>(&self, act: impl FnOnce() -> T) -> T {
        host::enter(Arc::new(self.clone()), act)
    }
}

impl Host for Node {
    fn now(&self) -> Millis {
        let passed = i64::try_from(self.since_boot().as_millis()).unwrap_or(i64::MAX);
        self.0.epoch.plus(passed).plus(self.0.skew.load(Ordering::Relaxed))
    }

    fn since_boot(&self) -> Duration {
        self.0.begun.elapsed() * self.0.pace / 1_000
    }

    fn fill(&self, bytes: &mut [u8]) {
        let mut random = lock(&self.0.random);
        for chunk in bytes.chunks_mut(8) {
            let number = random.next_number().to_be_bytes();
            chunk.iter_mut().zip(number).for_each(|(to, from)| *to = from);
        }
    }

    fn below(&self, bound: u64) -> u64 {
        lock(&self.0.random).below(bound)
    }

    fn send(&self, request: reqwest::Request) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        self.0.network.send(self, request)
    }

    fn spawn(&self, task: Task) {
        if !self.0.is_dead.load(Ordering::Relaxed) {
            self.0.tasks.add(self.0.number, Arc::new(self.clone()), task);
        }
    }
}
