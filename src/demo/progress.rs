//! The output while a demo runs: plain lines, and on a terminal one live line below them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consumer_agent::receive::machine::Tally;
use consumer_agent::status::Status;
use indicatif::{ProgressBar, ProgressStyle};
use producer_agent::send::sender::Sent;
use tokio::sync::watch;

/// How often the live line is drawn anew: fast enough to move, slow enough to read.
const EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Watched {
    step: String,
    sent: Vec<watch::Receiver<Sent>>,
    replicas: Vec<watch::Receiver<Status>>,
}

/// The lines of one demo; clones share them.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    watched: Arc<Mutex<Watched>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// With a live line when standard error is a terminal.
    pub fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        Self { bar, watched: Arc::default() }
    }

    /// A line that stays.
    pub fn say(&self, line: impl AsRef<str>) {
        self.bar.suspend(|| platform::say!("{}", line.as_ref()));
    }

    /// Sets the present step of the live line.
    pub fn step(&self, what: impl Into<String>) {
        self.with(|watched| watched.step = what.into());
    }

    /// Counts what a producer agent sends.
    pub fn watch_sender(&self, sent: watch::Receiver<Sent>) {
        self.with(|watched| watched.sent.push(sent));
    }

    /// Counts what a replica receives.
    pub fn watch_replica(&self, status: watch::Receiver<Status>) {
        self.with(|watched| watched.replicas.push(status));
    }

    fn with(&self, change: impl FnOnce(&mut Watched)) {
        change(&mut self.watched.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Draws until it is dropped; returns at once where there is no terminal.
    pub async fn draw(self) {
        if self.bar.is_hidden() {
            return;
        }
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            self.with(|watched| {
                self.bar.set_message(line(watched));
                self.bar.tick();
            });
        }
    }

    /// Removes the live line.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(watched: &Watched) -> String {
    let acknowledged: u64 = watched.sent.iter().map(|sent| sent.borrow().acknowledged).sum();
    let mut tally = Tally::default();
    let mut rows = 0;
    for replica in &watched.replicas {
        let status = replica.borrow();
        tally = tally.plus(status.delivered);
        rows += status.rows;
    }
    let delivered = tally.changed + tally.entered + tally.left + tally.present;
    let replicas = watched.replicas.len();
    format!(
        "{}: {acknowledged} acknowledged, {delivered} delivered, {rows} rows in {replicas} replicas",
        watched.step
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_live_line_counts_what_is_watched() {
        let progress = Progress::new();
        progress.step("day 1");
        let (sent, receiver) = watch::channel(Sent { acknowledged: 7, ..Sent::default() });
        progress.watch_sender(receiver.clone());
        progress.watch_sender(receiver);
        progress.with(|watched| {
            assert_eq!(line(watched), "day 1: 14 acknowledged, 0 delivered, 0 rows in 0 replicas");
        });
        drop(sent);
    }
}
