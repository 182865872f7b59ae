//! The order in which a simulation's tasks go on: drawn by seed among those that can.
//!
//! Owns the tasks of all nodes. Who woke a task first does not matter, so that the same seed gives the same history; a
//! task of a paused node waits, those of a killed one are dropped. Compiled only for the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::node::{Node, Random};

/// The number of the simulation's own task, which is on no node.
const MAIN: u64 = 0;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

struct State {
    /// A task that is polled just now is not there.
    tasks: BTreeMap<u64, (Node, Option<Task>)>,
    ready: BTreeSet<u64>,
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
    /// No tasks yet.
    pub fn new(seed: u64) -> Arc<Self> {
        let (tasks, ready) = (BTreeMap::new(), BTreeSet::from([MAIN]));
        Arc::new(Self(Mutex::new(State { tasks, ready, next: 1, random: Random::new(seed), root: None })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_number(&self) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        state.next
    }

    pub(crate) fn wake_root(&self) {
        let root = self.lock().root.take();
        if let Some(root) = root {
            root.wake();
        }
    }

    pub(crate) fn add(&self, node: Node, task: Task) {
        let number = self.next_number();
        let mut state = self.lock();
        state.tasks.insert(number, (node, Some(task)));
        state.ready.insert(number);
        drop(state);
        self.wake_root();
    }

    pub(crate) fn drop_tasks(&self, node: &Node) {
        let mut dropped = Vec::new();
        self.lock().tasks.retain(|_, (of, task)| {
            let stays = of.number() != node.number();
            if !stays {
                dropped.extend(task.take());
            }
            stays
        });
        node.enter(|| drop(dropped));
    }

    /// Drops every task: the simulation is over.
    pub fn clear(&self) {
        let tasks = std::mem::take(&mut self.lock().tasks);
        for (node, task) in tasks.into_values() {
            node.enter(|| drop(task));
        }
    }

    /// Runs the simulation's own task and all that it begins, until it is over.
    pub async fn run<T>(self: &Arc<Self>, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let of = |number| Waker::from(Arc::new(Waking { schedule: Arc::clone(self), number }));
        // One task of the runtime's stands for all: its share must not run out.
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

    /// One of those that can go on.
    fn draw(&self) -> Option<u64> {
        let mut state = self.lock();
        let State { tasks, ready, random, .. } = &mut *state;
        ready.retain(|number| *number == MAIN || tasks.contains_key(number));
        let is_paused = |number: &&u64| tasks.get(number).is_some_and(|(node, _)| node.is_paused());
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
            state.tasks.get_mut(&number).and_then(|(node, task)| Some((node.clone(), task.take()?)))
        };
        let Some((node, mut task)) = taken else { return };
        let is_over = node.enter(|| task.as_mut().poll(context).is_ready());
        let mut rest = Some(task);
        let mut state = self.lock();
        if is_over {
            state.tasks.remove(&number);
        } else if let Some((_, place)) = state.tasks.get_mut(&number) {
            *place = rest.take();
        }
        drop(state);
        // What is over, or was killed by itself, is dropped as its node.
        node.enter(|| drop(rest));
    }
}
