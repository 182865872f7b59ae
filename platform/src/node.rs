//! A machine of a simulation: its clocks, its randomness, its network, and its life.
//!
//! Owns the scope in which a task runs: what is spawned on a node stays on it.
//! Compiled only for the simulation; a task on no node has the machine's own clocks, randomness and network.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::time::Millis;
use tokio::time::Instant;

use crate::client::ClientError;
use crate::schedule::Schedule;

thread_local! {
    static CURRENT: RefCell<Option<Node>> = const { RefCell::new(None) };
}

/// An answer, or why there is none.
pub type Answer = Result<reqwest::Response, ClientError>;

/// What carries a node's requests.
pub trait Network: Send + Sync {
    /// Carries one request.
    fn send(&self, from: &Node, request: reqwest::Request) -> Pin<Box<dyn Future<Output = Answer> + Send>>;
}

/// The same numbers from the same seed, everywhere (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Begins with a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`, which is not 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next_number() % bound
    }
}

struct Shared {
    name: String,
    begun: Instant,
    epoch: Millis,
    /// How far the wall clock is off, in milliseconds.
    skew: AtomicI64,
    /// How fast its clocks run, in thousandths.
    pace: u32,
    random: Mutex<Random>,
    network: Arc<dyn Network>,
    tasks: Arc<Schedule>,
    number: u64,
    is_paused: AtomicBool,
    is_dead: AtomicBool,
}

/// What a node begins with.
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
    /// What carries its requests.
    pub network: Arc<dyn Network>,
    /// What runs its tasks.
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
            number: schedule.next_number(),
            tasks: schedule,
            is_paused: AtomicBool::new(false),
            is_dead: AtomicBool::new(false),
        }))
    }

    /// For people.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Time since it was started, by its own clock.
    pub fn since_boot(&self) -> Duration {
        self.0.begun.elapsed() * self.0.pace / 1_000
    }

    /// Its wall clock.
    pub fn now(&self) -> Millis {
        let passed = i64::try_from(self.since_boot().as_millis()).unwrap_or(i64::MAX);
        self.0.epoch.plus(passed).plus(self.0.skew.load(Ordering::Relaxed))
    }

    /// Sets its wall clock off by so many milliseconds.
    pub fn set_skew(&self, millis: i64) {
        self.0.skew.store(millis, Ordering::Relaxed);
    }

    /// Random bytes of its own.
    pub fn fill(&self, bytes: &mut [u8]) {
        let mut random = lock(&self.0.random);
        for chunk in bytes.chunks_mut(8) {
            let number = random.next_number().to_be_bytes();
            chunk.iter_mut().zip(number).for_each(|(to, from)| *to = from);
        }
    }

    /// A number of its own, less than `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        lock(&self.0.random).below(bound)
    }

    /// Sends a request from it.
    pub fn send(&self, request: reqwest::Request) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        self.0.network.send(self, request)
    }

    /// Makes all its tasks stand still until it is resumed; its clocks go on.
    pub fn pause(&self) {
        self.0.is_paused.store(true, Ordering::Relaxed);
    }

    /// Its tasks go on.
    pub fn resume(&self) {
        self.0.is_paused.store(false, Ordering::Relaxed);
        self.0.tasks.wake_root();
    }

    /// It is no more: its tasks are dropped where they stand, and nothing new begins on it.
    pub fn kill(&self) {
        self.0.is_dead.store(true, Ordering::Relaxed);
        self.0.tasks.drop_tasks(self);
    }

    /// Runs a task on it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if !self.0.is_dead.load(Ordering::Relaxed) {
            self.0.tasks.add(self.clone(), Box::pin(task));
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.0.is_paused.load(Ordering::Relaxed)
    }

    /// Does something as this node.
    pub fn enter<T>(&self, act: impl FnOnce() -> T) -> T {
        let _scope = Scope::enter(self);
        act()
    }
}

/// The node that the running task is on.
pub fn current() -> Option<Node> {
    CURRENT.with(|current| current.borrow().clone())
}

struct Scope(Option<Node>);

impl Scope {
    fn enter(node: &Node) -> Self {
        Self(CURRENT.with(|current| current.replace(Some(node.clone()))))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.with(|current| current.replace(self.0.take()));
    }
}
