//! The machine that a task runs on, if it is not this one: a simulated machine has its own clocks, randomness, network
//! and tasks.
//!
//! Owns the port, and the scope in which a task is on a host. Compiled only for the simulation; a task without a host
//! uses this machine.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use schemas::time::Millis;

use crate::unreachable::Unreachable;

/// An answer, or why there is none.
pub type Answer = Result<reqwest::Response, Unreachable>;

/// A task without a result.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A machine.
pub trait Host: Send + Sync {
    fn now(&self) -> Millis;
    /// Time since its start, by its own clock.
    fn since_boot(&self) -> Duration;
    /// Random bytes of its own.
    fn fill(&self, bytes: &mut [u8]);
    /// A random number of its own, less than `bound`, which is not 0.
    fn below(&self, bound: u64) -> u64;
    /// Sends a request from it.
    fn send(&self, request: reqwest::Request) -> Pin<Box<dyn Future<Output = Answer> + Send>>;
    /// Runs a task on it.
    fn spawn(&self, task: Task);
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Host>>> = const { RefCell::new(None) };
}

/// The host that the running task is on.
pub fn current() -> Option<Arc<dyn Host>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Calls `act` on a host.
pub fn enter<T>(host: Arc<dyn Host>, act: impl FnOnce() -> T) -> T {
    let _scope = Scope(CURRENT.with(|current| current.replace(Some(host))));
    act()
}

/// Drop makes the earlier host the current one again.
struct Scope(Option<Arc<dyn Host>>);

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.with(|current| current.replace(self.0.take()));
    }
}
