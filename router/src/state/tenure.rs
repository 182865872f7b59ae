//! A router's time with one shard, and how far a partition's state has got.
//!
//! Owns the fenced writer for as long as it is valid: a failed commit ends the tenure.

use std::sync::Arc;

use event_log::{CommitError, FencedWriter, Log, ReadError};
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use tokio::sync::{Mutex, watch};

use super::records::{self, StateMark};

/// A router's time with one shard.
pub struct Tenure {
    writer: Mutex<Box<dyn FencedWriter>>,
    over: watch::Sender<bool>,
}

impl Tenure {
    pub(super) fn new(writer: Box<dyn FencedWriter>) -> Self {
        Self { writer: Mutex::new(writer), over: watch::Sender::new(false) }
    }

    /// Commits a batch; a failure ends the tenure.
    pub async fn commit(
        &self,
        topic: &str,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<Offset, CommitError> {
        let mut writer = self.writer.lock().await;
        if *self.over.borrow() {
            return Err(CommitError::Failed("the tenure is over".to_owned()));
        }
        writer.commit(topic, partition, records).await.inspect_err(|_| self.end())
    }

    pub(super) fn end(&self) {
        self.over.send_replace(true);
    }

    pub(super) async fn until_over(&self) {
        // `self` holds the sender.
        drop(self.over.subscribe().wait_for(|over| *over).await);
    }
}

/// How far a partition's state has got, as far as this router knows; clones share it.
#[derive(Debug, Clone)]
pub struct StateWatch {
    topic: Arc<str>,
    partition: Partition,
    progress: watch::Sender<StateProgress>,
}

/// What a router knows of a partition's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateProgress {
    /// The first log offset that it does not include; it may include more than we know.
    pub to: Offset,
    /// Before this offset the log lost events that the state lacks; see [`StateMark::overtaken`].
    pub overtaken: Option<Offset>,
}

impl StateWatch {
    /// Of a partition of a state topic.
    pub fn new(topic: &str, partition: Partition) -> Self {
        Self { topic: topic.into(), partition, progress: watch::Sender::default() }
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What this router knows.
    pub fn progress(&self) -> StateProgress {
        *self.progress.borrow()
    }

    /// Takes the progress of a commit; an older one changes nothing.
    pub fn advance(&self, news: StateProgress) {
        self.progress.send_if_modified(|progress| {
            let is_news = news.to >= progress.to && news != *progress;
            if is_news {
                *progress = news;
            }
            is_news
        });
    }

    /// The last committed checkpoint, of any router.
    pub async fn look(&self, log: &dyn Log) -> Result<Option<StateMark>, ReadError> {
        let end = log.bounds(&self.topic, self.partition).await?.next;
        let last = records::last_checkpoint(log, &self.topic, self.partition, end).await?;
        let last = last.map(|(_, mark)| mark);
        if let Some(StateMark { checkpoint, overtaken, .. }) = &last {
            self.advance(StateProgress { to: checkpoint.as_of, overtaken: *overtaken });
        }
        Ok(last)
    }
}
