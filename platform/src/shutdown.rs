//! Stopping: one future that every loop watches, and a bounded wait for all tasks.
//!
//! Owns the signal and the tracking of tasks. No task of `dit` is detached: it is spawned here and joined here.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a drain may take before remaining tasks are abandoned: less than Kubernetes' default grace of 30 s.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// The tasks of a process or a part, and their signal to stop.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Tasks of a part that stops with this one, and can also be stopped and joined alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tracker: TaskTracker::new() }
    }

    /// Runs a task until it ends; it should watch [`Tasks::stopping`].
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        #[cfg(feature = "simulation")]
        if let Some(host) = crate::host::current() {
            host.spawn(Box::pin(self.tracker.track_future(task)));
            return;
        }
        self.tracker.spawn(task);
    }

    /// Resolves when the signal to stop was given.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }

    /// Whether the signal to stop was given.
    pub fn is_stopping(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Gives the signal to stop.
    pub fn stop(&self) {
        self.token.cancel();
    }

    /// Gives the signal and waits for all tasks, within the limit; `false` when some did not end.
    pub async fn stop_and_join(&self, limit: Duration) -> bool {
        self.stop();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// Resolves at SIGTERM or Ctrl-C. After this call they no longer end the process: the caller must await it.
#[cfg(unix)]
pub fn terminate() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};

    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    async move {
        // A signal that cannot be handled still ends the process.
        let [term, interrupt] = signals.map(|signal| async move {
            match signal {
                Ok(mut signal) => drop(signal.recv().await),
                Err(_) => std::future::pending().await,
            }
        });
        tokio::select! {
            biased;
            () = term => {}
            () = interrupt => {}
        }
    }
}

/// Resolves at Ctrl-C.
#[cfg(not(unix))]
pub async fn terminate() {
    drop(tokio::signal::ctrl_c().await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_listens_is_joined_and_one_that_does_not_is_reported() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn(stopping);
        assert!(tasks.stop_and_join(Duration::from_secs(5)).await);

        let deaf = Tasks::new();
        deaf.spawn(std::future::pending());
        assert!(!deaf.stop_and_join(Duration::from_millis(10)).await);
    }

    #[tokio::test]
    async fn a_child_stops_with_its_parent_and_not_the_other_way() {
        let parent = Tasks::new();
        let child = parent.child();
        child.stop();
        assert!(!parent.is_stopping());
        let second = parent.child();
        parent.stop();
        assert!(second.is_stopping());
    }
}
