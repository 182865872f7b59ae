//! The order in which a simulation's tasks run: the seed draws the next one among those that are ready.
//!
//! Owns the tasks of all nodes. The order of wake-ups does not matter, so that the same seed gives the same history;
//! tasks of a paused node wait, tasks of a killed one are dropped. Compiled only for the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::random::Random;
use crate::host::{Host, Task, enter};

/// The number of the simulation's own task, which runs on no node.
const MAIN: u64 = 0;

/// A host's number in a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostNumber(u64);

/// A task that has begun.
struct Begun {
    on: HostNumber,
    host: Arc<dyn Host>,
    /// `None` while the task is polled.
    task: Option<Task>,
}

struct State {
    tasks: BTreeMap<u64, Begun>,
    ready: BTreeSet<u64>,
    paused: BTreeSet<HostNumber>,
    next: u64,
    random: Random,
    root: Option<Waker>,
}

/// The tasks of a simulation.
pub struct Schedule(Mutex<State>);

struct Waking {
    schedule: Arc<Schedule>,
    number: u64,
}

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.schedule.lock().ready.insert(self.number);
        self.schedule.wake_root();
    }
}

impl Schedule {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            tasks: BTreeMap::new(),
            ready: BTreeSet::from([MAIN]),
            paused: BTreeSet::new(),
            next: 1,
            random: Random::new(seed),
            root: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_host(&self) -> HostNumber {
        HostNumber(self.next_number())
    }

    /// Pauses the tasks of a host.
    pub fn pause(&self, host: HostNumber) {
        self.lock().paused.insert(host);
    }

    /// Continues the tasks of a host.
    pub fn resume(&self, host: HostNumber) {
        self.lock().paused.remove(&host);
        self.wake_root();
    }

    fn next_number(&self) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        state.next
    }

    fn wake_root(&self) {
        let root = self.lock().root.take();
        if let Some(root) = root {
            root.wake();
        }
    }

    /// Adds a task to a host.
    pub fn add(&self, on: HostNumber, host: Arc<dyn Host>, task: Task) {
        let number = self.next_number();
        let mut state = self.lock();
        state.tasks.insert(number, Begun { on, host, task: Some(task) });
        state.ready.insert(number);
        drop(state);
        self.wake_root();
    }

    /// Drops the tasks of a host at once.
    pub fn drop_tasks(&self, host: HostNumber) {
        let mut dropped = Vec::new();
        self.lock().tasks.retain(|_, begun| {
            let stays = begun.on != host;
            if !stays {
                dropped.push((Arc::clone(&begun.host), begun.task.take()));
            }
            stays
        });
        // Everything that a task drops is dropped on its host.
        for (host, task) in dropped {
            enter(host, || drop(task));
        }
    }

    /// Drops every task: the simulation is over.
    pub fn clear(&self) {
        let tasks = std::mem::take(&mut self.lock().tasks);
        for Begun { host, task, .. } in tasks.into_values() {
            enter(host, || drop(task));
        }
    }

    /// Runs the simulation's own task, and all tasks that it begins, until it ends.
    pub async fn run<T>(self: &Arc<Self>, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let of = |number| Waker::from(Arc::new(Waking { schedule: Arc::clone(self), number }));
        // All tasks run inside one task of the runtime, so it must have no budget.
        let all = poll_fn(|context| {
            self.lock().root = Some(context.waker().clone());
            while let Some(number) = self.draw() {
                let waker = of(number);
                let mut context = Context::from_waker(&waker);
                if number == MAIN {
                    if let Poll::Ready(outcome) = main.as_mut().poll(&mut context) {
                        return Poll::Ready(outcome);
                    }
                } else {
                    self.poll(number, &mut context);
                }
            }
            Poll::Pending
        });
        tokio::task::unconstrained(all).await
    }

    /// Draws one of the ready tasks.
    fn draw(&self) -> Option<u64> {
        let mut state = self.lock();
        let State { tasks, ready, paused, random, .. } = &mut *state;
        ready.retain(|number| *number == MAIN || tasks.contains_key(number));
        let is_paused = |number: &&u64| tasks.get(number).is_some_and(|begun| paused.contains(&begun.on));
        let can: Vec<u64> = ready.iter().filter(|number| !is_paused(number)).copied().collect();
        let count = u64::try_from(can.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(random.below(count)).ok()?;
        let drawn = can.get(index).copied()?;
        ready.remove(&drawn);
        Some(drawn)
    }

    fn poll(&self, number: u64, context: &mut Context<'_>) {
        let taken = {
            let mut state = self.lock();
            let begun = state.tasks.get_mut(&number);
            begun.and_then(|begun| Some((Arc::clone(&begun.host), begun.task.take()?)))
        };
        let Some((host, mut task)) = taken else { return };
        let is_over = enter(Arc::clone(&host), || task.as_mut().poll(context).is_ready());
        let mut rest = Some(task);
        let mut state = self.lock();
        if is_over {
            state.tasks.remove(&number);
        } else if let Some(begun) = state.tasks.get_mut(&number) {
            begun.task = rest.take();
        }
        drop(state);
        // A task that ended, or killed its own node, is dropped on its host.
        enter(host, || drop(rest));
    }
}
