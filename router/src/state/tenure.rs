//! A router's time with one shard, and how far a partition's state has got.
//!
//! Owns the fenced writer for as long as it is valid: a failed commit ends the tenure.

use std::sync::Arc;

use event_log::{Bounds, CommitError, Committed, FencedWriter, Log, ReadError};
use reading::source::PartitionSource;
use schemas::ids::{Offset, Partition};
use schemas::record::Record;
use tokio::sync::{Mutex, watch};

use super::records::{self, StateMark};
use super::scan::{ScanError, StateBounds};

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
    ) -> Result<Committed, CommitError> {
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
    /// What was found last. One looks at a time; the next one finds what it has found.
    found: Arc<Mutex<Option<Found>>>,
}

/// The last checkpoint of a topic that ended at `end`.
#[derive(Debug, Clone)]
struct Found {
    end: Offset,
    last: Option<(Offset, StateMark)>,
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
        Self { topic: topic.into(), partition, progress: watch::Sender::default(), found: Arc::default() }
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

    /// A batch that ends with this checkpoint was committed: nobody has to read it as long as nothing is behind it.
    pub(super) fn committed(&self, Committed { last, next }: Committed, mark: StateMark) {
        // Whoever looks now finds an end, too.
        if let Ok(mut found) = self.found.try_lock() {
            *found = Some(Found { end: next, last: Some((last, mark)) });
        }
    }

    /// The last committed checkpoint, of any router.
    pub async fn look(&self, log: &dyn Log) -> Result<Option<StateMark>, ReadError> {
        let bounds = log.bounds(&self.topic, self.partition).await?;
        let last = self.find(log, bounds).await?.map(|(_, mark)| mark);
        if let Some(StateMark { checkpoint, overtaken, .. }) = &last {
            self.advance(StateProgress { to: checkpoint.as_of, overtaken: *overtaken });
        }
        Ok(last)
    }

    /// Where the state begins and ends, as any router has written it.
    pub(super) async fn state_bounds(&self, source: &PartitionSource) -> Result<StateBounds, ScanError> {
        let log = source.log.as_ref();
        let bounds = log.bounds(&self.topic, self.partition).await.map_err(ReadError::from)?;
        StateBounds::of(source, &self.topic, bounds, self.find(log, bounds).await?).await
    }

    /// The last committed checkpoint within bounds. It is read once for each end of the topic: when a router ends, all its
    /// streams ask another one at once.
    async fn find(&self, log: &dyn Log, bounds: Bounds) -> Result<Option<(Offset, StateMark)>, ReadError> {
        let mut found = self.found.lock().await;
        if let Some(Found { end, last }) = &*found
            && *end == bounds.next
        {
            return Ok(last.clone());
        }
        let last = records::last_checkpoint(log, &self.topic, self.partition, bounds).await?;
        *found = Some(Found { end: bounds.next, last: last.clone() });
        Ok(last)
    }
}
