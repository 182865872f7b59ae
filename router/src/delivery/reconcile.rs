//! A reconciliation: the range digests that a consumer's rows should have, or the rows of some ranges.
//!
//! Owns its steps: the rows of the present state, judged by the consumer's agreement, then the log from there to the
//! exact place of the consumer's stream. It sends nothing itself: the stream does, at that place.

use std::collections::BTreeMap;
use std::sync::Arc;

use reading::chunk::Item;
use reading::error::ReaderError;
use reading::located::LocatedChange;
use reading::tail::Tail;
use schemas::avro::binary::DatumError;
use schemas::cursor::Place;
use schemas::ids::Offset;
use schemas::limits::{MAX_RANGE_BYTES, MAX_RANGE_ROWS_BYTES};
use schemas::per_partition::PerPartition;
use schemas::reconcile::{RangeDigests, Ranges, ReconcileQuery, texts};
use scope::permit::{Outcome, Permitted};
use tokio::sync::{oneshot, watch};
use tokio::task::coop::consume_budget;

use crate::channels::Running;
use crate::control::view::ControlView;
use crate::fanout::observer::Follower;
use crate::grants::{Grant, GrantError};
use crate::state::bootstrap::{Bootstrap, BootstrapError, Present, PresentImages};

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Reader(#[from] ReaderError),
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// A row that was permitted cannot be read.
    #[error("a permitted row: {0}")]
    Row(#[from] DatumError),
    /// The router is stopping, or the partition is lost.
    #[error("this router no longer reads the log")]
    Stopped,
    /// The requested ranges have too many rows.
    #[error("the ranges have more than {} MiB of rows: a snapshot is the shorter way", MAX_RANGE_ROWS_BYTES >> 20)]
    TooMany,
}

/// What a reconciliation gives.
pub enum Gathered {
    Digests(RangeDigests),
    /// The rows of ranges, by range and key.
    Rows(GatheredRows),
}

/// Rows of some ranges.
pub struct GatheredRows {
    pub within: Ranges,
    /// By range and key as the consumer has it.
    pub rows: BTreeMap<u32, BTreeMap<String, Permitted<Outcome>>>,
    bytes: usize,
}

/// A reconciliation on its way to the stream's place.
pub struct Reconciliation {
    grant: Grant,
    view: watch::Receiver<Arc<ControlView>>,
    gathered: Gathered,
    followers: Vec<Follower>,
}

impl Reconciliation {
    /// Reads the present state.
    pub async fn begin(
        running: &Running,
        grant: Grant,
        view: watch::Receiver<Arc<ControlView>>,
        query: ReconcileQuery,
    ) -> Result<Self, ReconcileError> {
        let gathered = match query {
            ReconcileQuery::Digests { within, bits } => Gathered::Digests(RangeDigests::new(within, bits)),
            ReconcileQuery::Rows { within } => {
                Gathered::Rows(GatheredRows { within, rows: BTreeMap::new(), bytes: 0 })
            }
        };
        let mut reconciliation =
            Self { grant, view, gathered, followers: Vec::with_capacity(running.feeds.len()) };
        for (feed, state) in running.partitions() {
            let mut snapshot = Bootstrap::begin(Arc::clone(feed), state).await?;
            while let Some(images) = snapshot.next().await? {
                for present in images.iter().flat_map(PresentImages::iter) {
                    consume_budget().await;
                    reconciliation.take_present(&present)?;
                }
            }
            reconciliation.followers.push(snapshot.into_follower());
        }
        Ok(reconciliation)
    }

    fn take_present(&mut self, present: &Present<'_>) -> Result<(), ReconcileError> {
        let view = Arc::clone(&self.view.borrow());
        let scope = self.grant.scope(&view, present.schema, present.codec())?;
        match scope.judge_present(present.key, present.image) {
            Ok(Some(row)) => self.put_in(row),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Whether a stream at these places has passed the state that was read.
    pub fn is_reached_by(&self, places: &PerPartition<Place>) -> bool {
        self.followers
            .iter()
            .zip(places.values())
            .all(|(follower, place)| follower.place().offset <= place.offset)
    }

    /// Reads the log up to exactly these places.
    pub async fn roll_to(mut self, places: &PerPartition<Place>) -> Result<Gathered, ReconcileError> {
        for (mut follower, place) in std::mem::take(&mut self.followers).into_iter().zip(places.values()) {
            while follower.place().offset < place.offset {
                let Some(chunk) = follower.next().await? else {
                    // The stream has read the log further than the shared tail.
                    let mut tail = follower.feed().watch();
                    let read = |tail: &Arc<Tail>| tail.next >= place.offset || tail.lost().is_some();
                    if tail.wait_for(read).await.map_or(true, |tail| tail.lost().is_some()) {
                        return Err(ReconcileError::Stopped);
                    }
                    continue;
                };
                let wanted = follower.wanted()..place.offset;
                let counts = |offset: &Offset| wanted.contains(offset);
                for item in &chunk.items {
                    let Item::Block(block) = item else { continue };
                    if !counts(&block.offset) {
                        continue;
                    }
                    for event in block.changes() {
                        consume_budget().await;
                        self.take_event(&event)?;
                    }
                }
            }
        }
        Ok(self.gathered)
    }

    fn take_event(&mut self, event: &LocatedChange<'_>) -> Result<(), ReconcileError> {
        let view = Arc::clone(&self.view.borrow());
        let scope = self.grant.scope(&view, event.schema, event.codec())?;
        // An event that cannot be judged was parked: it changed no row.
        let Ok(rows) = scope.judge_rows(event.change.key, &event.change.images) else {
            return Ok(());
        };
        if let Some(row) = rows.before {
            self.take_out(&row)?;
        }
        rows.after.map_or(Ok(()), |row| self.put_in(row))
    }

    fn put_in(&mut self, row: Permitted<Outcome>) -> Result<(), ReconcileError> {
        let key = row.get().key();
        let image = row.get().after().unwrap_or_default();
        match &mut self.gathered {
            Gathered::Digests(digests) if digests.counts(key) => {
                digests.add(key, &texts(self.grant.derived(), image)?)
            }
            Gathered::Digests(_) => {}
            Gathered::Rows(gathered) => {
                if let Some(number) = gathered.within.of(key) {
                    gathered.bytes += key.len() + image.len();
                    if gathered.bytes > MAX_RANGE_ROWS_BYTES {
                        return Err(ReconcileError::TooMany);
                    }
                    gathered.rows.entry(number).or_default().insert(key.to_owned(), row);
                }
            }
        }
        Ok(())
    }

    fn take_out(&mut self, row: &Permitted<Outcome>) -> Result<(), ReconcileError> {
        let key = row.get().key();
        let image = row.get().after().unwrap_or_default();
        match &mut self.gathered {
            Gathered::Digests(digests) if digests.counts(key) => {
                digests.take_out(key, &texts(self.grant.derived(), image)?);
            }
            Gathered::Digests(_) => {}
            Gathered::Rows(gathered) => {
                let range = gathered.within.of(key).and_then(|number| gathered.rows.get_mut(&number));
                if let Some(gone) = range.and_then(|rows| rows.remove(key)) {
                    gathered.bytes -= key.len() + gone.get().after().map_or(0, <[u8]>::len);
                }
            }
        }
        Ok(())
    }
}

impl GatheredRows {
    /// Each requested range with its rows, even if it has none.
    pub fn ranges(&self) -> Result<impl Iterator<Item = (u32, Vec<&Permitted<Outcome>>)>, ReconcileError> {
        let size =
            |row: &Permitted<Outcome>| row.get().key().len() + row.get().after().map_or(0, <[u8]>::len);
        if self.rows.values().any(|rows| rows.values().map(size).sum::<usize>() > MAX_RANGE_BYTES) {
            return Err(ReconcileError::TooMany);
        }
        let of = |number: &u32| self.rows.get(number).map(|rows| rows.values().collect());
        Ok(self.within.numbers().iter().map(move |number| (*number, of(number).unwrap_or_default())))
    }
}

/// A consumer's reconciliation, from request to answer.
pub enum PendingReconciliation {
    /// None was requested, or it was answered.
    None,
    /// The state is being read.
    Reading(oneshot::Receiver<Result<Reconciliation, ReconcileError>>),
    /// The state was read; the log is still to be read.
    Ready(Box<Reconciliation>),
}

impl PendingReconciliation {
    /// Waits until the state was read; forever if it is not being read.
    pub async fn moved(&mut self) -> Result<(), ReconcileError> {
        let Self::Reading(read) = self else { return std::future::pending().await };
        match read.await {
            Ok(reconciliation) => *self = Self::Ready(Box::new(reconciliation?)),
            // The router is stopping, and ends the stream itself.
            Err(_) => *self = Self::None,
        }
        Ok(())
    }

    /// The reconciliation, if it can be answered at these places.
    pub fn due_at(
        &mut self,
        places: &PerPartition<Place>,
    ) -> Result<Option<Box<Reconciliation>>, ReconcileError> {
        if let Self::Reading(read) = self
            && let Ok(reconciliation) = read.try_recv()
        {
            *self = Self::Ready(Box::new(reconciliation?));
        }
        match std::mem::replace(self, Self::None) {
            Self::Ready(reconciliation) if reconciliation.is_reached_by(places) => Ok(Some(reconciliation)),
            other => {
                *self = other;
                Ok(None)
            }
        }
    }
}
