//! The receiving machine of one agreement: deliveries in, effects on the replica out.
//!
//! Pure. It drops repeats by position, keeps a snapshot apart until its end mark, and reports how the router closed a
//! stream. Its position is never within a block: the replica takes a block as a whole, when the stream has passed it.

use schemas::cursor::{Cursor, Place, Snapshot, in_words};
use schemas::delivery::{CloseReason, Delivery, Event, Next, Progress, Reason};
use schemas::ids::{AgreementVersion, BootstrapId, LogId, Offset, Partition};
use schemas::limits::MAX_BLOCK_CHANGES;
use schemas::per_partition::PerPartition;
use schemas::time::Millis;
use serde::{Deserialize, Serialize};

use crate::sink::effect::Effect;

/// The result of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    Effect(Effect),
    /// A change of a block, which takes effect when the position has passed the block.
    InBlock(InBlock),
    /// No change of the replica; the position may have moved.
    Nothing,
    /// The stream is over.
    Closed(Closed),
}

/// A change of a block that may not have come as a whole yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InBlock {
    pub partition: Partition,
    /// The block's offset.
    pub block: Offset,
    pub effect: Effect,
}

/// How a stream was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub next: Next,
    pub reason: CloseReason,
    /// For people.
    pub detail: String,
    /// The last position delivered, by partition.
    pub places: PerPartition<Place>,
}

impl Closed {
    /// The detail with the last position.
    pub fn in_words(&self) -> String {
        format!("{}; last position delivered: {}", self.detail, in_words(&self.places))
    }
}

/// How far a replica is behind the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Behind {
    /// At most so many records: offsets between the position and the log's end, whoever they are for.
    pub records: u64,
    /// The append time up to which everything has come, when events are missing.
    pub since: Option<Millis>,
}

/// A stream that does not keep its own rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A partition that the cursor does not have.
    #[error("the stream names partition {0}, which the cursor does not have")]
    NoSuchPartition(Partition),
    /// An end mark of another snapshot.
    #[error("the stream ends snapshot {found}, the snapshot that began is {begun}")]
    OtherSnapshot {
        /// The end mark's snapshot.
        found: BootstrapId,
        /// The begin mark's snapshot, or `none`.
        begun: String,
    },
    /// A position that went back.
    #[error("partition {0}'s progress went back")]
    Backwards(Partition),
    /// More changes of one block than a block has.
    #[error("partition {0}: a block has more than {MAX_BLOCK_CHANGES} changes")]
    TooManyInBlock(Partition),
    /// A snapshot or an answer in the middle of a block.
    #[error("a snapshot or a reconciliation begins within a block")]
    WithinBlock,
}

/// How many events were delivered, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Within the scope.
    pub changed: u64,
    /// Moved into the scope.
    pub entered: u64,
    /// Moved out of the scope.
    pub left: u64,
    /// Read from the state.
    pub present: u64,
}

impl Tally {
    fn count(&mut self, reason: Reason) {
        let counter = match reason {
            Reason::Change => &mut self.changed,
            Reason::Enter => &mut self.entered,
            Reason::Leave => &mut self.left,
            Reason::State => &mut self.present,
        };
        *counter += 1;
    }

    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            changed: self.changed + other.changed,
            entered: self.entered + other.entered,
            left: self.left + other.left,
            present: self.present + other.present,
        }
    }
}

/// A snapshot that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UnderWay {
    id: BootstrapId,
    /// Its progress, once the stream has reported it.
    announced: Option<Snapshot>,
}

impl UnderWay {
    const fn of(snapshot: Snapshot) -> Self {
        Self { id: snapshot.id, announced: Some(snapshot) }
    }
}

/// The consumer's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveMachine {
    log_id: LogId,
    version: AgreementVersion,
    places: PerPartition<Place>,
    /// The last progress that this stream reported for each partition.
    progress: PerPartition<Option<Progress>>,
    snapshot: Option<UnderWay>,
    tally: Tally,
}

impl ReceiveMachine {
    /// A machine at the beginning of a stream, which was requested from `cursor`.
    pub fn new(log_id: LogId, version: AgreementVersion, cursor: Option<&Cursor>) -> Self {
        let places = cursor.map(|cursor| cursor.places.clone()).unwrap_or_default();
        Self {
            log_id,
            version,
            progress: places.values().map(|_| None).collect(),
            places,
            snapshot: cursor.and_then(|cursor| cursor.snapshot.clone()).map(UnderWay::of),
            tally: Tally::default(),
        }
    }

    /// The cursor that a sink stores with its rows; `None` before a snapshot's first progress.
    pub fn cursor(&self) -> Option<Cursor> {
        let log_id = self.log_id;
        let version = self.version;
        match &self.snapshot {
            Some(UnderWay { announced, .. }) => {
                let snapshot = Some(announced.clone()?);
                Some(Cursor { log_id, version, places: PerPartition::none(), snapshot })
            }
            None if self.places.is_empty() => None,
            None => Some(Cursor { log_id, version, places: self.places.clone(), snapshot: None }),
        }
    }

    /// Whether everything of a block that is for this consumer has come.
    pub fn has_passed(&self, partition: Partition, block: Offset) -> bool {
        self.places.get(partition).is_some_and(|place| block < place.offset)
    }

    /// Whether the position is in the log, not in a snapshot.
    pub const fn is_live(&self) -> bool {
        self.snapshot.is_none() && !self.places.is_empty()
    }

    /// The time up to which the provider has checked its source: the oldest of the partitions.
    pub fn freshness(&self) -> Option<Millis> {
        self.progress
            .values()
            .map(|progress| progress.and_then(|progress| progress.freshness))
            .min()
            .flatten()
    }

    /// How far the replica is behind the log; `None` until every partition has reported progress.
    pub fn behind(&self) -> Option<Behind> {
        if self.snapshot.is_some() || self.progress.is_empty() {
            return None;
        }
        let mut behind = Behind::default();
        for (reported, place) in self.progress.values().zip(self.places.values()) {
            let progress = (*reported)?;
            let missing = progress.end.get().saturating_sub(place.offset.get());
            behind.records += missing;
            if missing > 0 {
                behind.since = [behind.since, progress.passed_at].into_iter().flatten().min();
            }
        }
        Some(behind)
    }

    /// What this stream has delivered.
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// Takes one delivery.
    pub fn on_delivery(&mut self, delivery: &Delivery<'_>) -> Result<Received, ProtocolError> {
        match delivery {
            Delivery::Event(event) => self.on_event(event),
            Delivery::SnapshotBegin { bootstrap } => {
                // The cursor's snapshot continues; any other begins from nothing.
                if self.snapshot_id() == Some(*bootstrap) {
                    return Ok(Received::Nothing);
                }
                self.snapshot = Some(UnderWay { id: *bootstrap, announced: None });
                Ok(Received::Effect(Effect::BeginSnapshot))
            }
            Delivery::SnapshotProgress(snapshot) => {
                self.check_snapshot(snapshot.id)?;
                self.snapshot = Some(UnderWay::of(snapshot.clone()));
                Ok(Received::Nothing)
            }
            Delivery::SnapshotEnd { bootstrap, places } => {
                self.check_snapshot(*bootstrap)?;
                self.snapshot = None;
                self.places.clone_from(places);
                self.progress = places.values().map(|_| None).collect();
                Ok(Received::Effect(Effect::EndSnapshot))
            }
            Delivery::Progress(progress) => {
                let partition = progress.partition;
                let known =
                    self.places.get_mut(partition).ok_or(ProtocolError::NoSuchPartition(partition))?;
                if progress.place.offset < known.offset {
                    return Err(ProtocolError::Backwards(partition));
                }
                *known = progress.place;
                if let Some(reported) = self.progress.get_mut(partition) {
                    *reported = Some(*progress);
                }
                Ok(Received::Nothing)
            }
            // Reconciliation does not move the position.
            Delivery::Digests { .. } | Delivery::Range { .. } => Ok(Received::Nothing),
            Delivery::Closing { next, reason, detail, places } => Ok(Received::Closed(Closed {
                next: *next,
                reason: *reason,
                detail: detail.clone(),
                places: places.clone(),
            })),
        }
    }

    fn snapshot_id(&self) -> Option<BootstrapId> {
        self.snapshot.as_ref().map(|snapshot| snapshot.id)
    }

    fn check_snapshot(&self, found: BootstrapId) -> Result<(), ProtocolError> {
        match self.snapshot_id() {
            Some(id) if id == found => Ok(()),
            other => {
                let begun = other.map_or_else(|| "none".to_owned(), |id| id.to_string());
                Err(ProtocolError::OtherSnapshot { found, begun })
            }
        }
    }

    fn on_event(&mut self, event: &Event<'_>) -> Result<Received, ProtocolError> {
        if self.snapshot.is_some() {
            self.tally.count(event.reason);
            return Ok(Received::Effect(effect_of(event)));
        }
        let partition = event.partition;
        let known = self.places.get_mut(partition).ok_or(ProtocolError::NoSuchPartition(partition))?;
        let block = event.position.offset;
        if block < known.offset {
            return Ok(Received::Nothing);
        }
        // Everything before the block has come. The block itself is passed by a later block, or by progress.
        known.offset = block;
        self.tally.count(event.reason);
        Ok(Received::InBlock(InBlock { partition, block, effect: effect_of(event) }))
    }
}

fn effect_of(event: &Event<'_>) -> Effect {
    let key = event.key.to_owned();
    match event.after {
        Some(image) => Effect::Upsert { key, image: image.to_vec() },
        None => Effect::Remove { key },
    }
}

#[cfg(test)]
mod tests {
    use schemas::cursor::SnapshotPlace;
    use schemas::position::EventPosition;

    use super::*;
    use crate::fixtures::{self, LOG, P0, SNAPSHOT, place};

    fn event(offset: u64, image: Option<&'static [u8]>) -> Delivery<'static> {
        fixtures::event(offset, "k", image)
    }

    fn machine(from: Option<u64>) -> ReceiveMachine {
        ReceiveMachine::new(LOG, AgreementVersion::new(1), from.map(fixtures::cursor).as_ref())
    }

    fn offset_of(machine: &ReceiveMachine) -> Option<u64> {
        machine.cursor().map(|cursor| cursor.places.get(P0).unwrap().offset.get())
    }

    #[test]
    fn a_repeat_changes_nothing() {
        let mut machine = machine(Some(5));
        assert_eq!(machine.on_delivery(&event(4, Some(b"x"))), Ok(Received::Nothing));
        assert!(is_in_block(&machine.on_delivery(&event(5, Some(b"x"))), 5));
        assert!(is_in_block(&machine.on_delivery(&event(9, None)), 9));
        assert_eq!(machine.on_delivery(&event(5, Some(b"x"))), Ok(Received::Nothing));
        assert_eq!(offset_of(&machine), Some(9));
    }

    #[test]
    fn the_position_is_never_within_a_block() {
        let mut machine = machine(Some(5));
        for index in 0..3 {
            let change = fixtures::event_at(EventPosition { offset: Offset::new(7), index }, "k", Some(b"x"));
            assert!(is_in_block(&machine.on_delivery(&change), 7));
            assert_eq!(offset_of(&machine), Some(7), "a stream that breaks here gives the whole block again");
            assert!(!machine.has_passed(P0, Offset::new(7)));
        }
        assert!(is_in_block(&machine.on_delivery(&event(8, None)), 8));
        assert!(machine.has_passed(P0, Offset::new(7)) && !machine.has_passed(P0, Offset::new(8)));
    }

    fn is_in_block(received: &Result<Received, ProtocolError>, offset: u64) -> bool {
        matches!(received, Ok(Received::InBlock(InBlock { block, .. })) if *block == Offset::new(offset))
    }

    #[test]
    fn a_snapshot_has_no_cursor_until_its_end() {
        let mut machine = machine(None);
        assert_eq!(
            machine.on_delivery(&Delivery::SnapshotBegin { bootstrap: SNAPSHOT }),
            Ok(Received::Effect(Effect::BeginSnapshot))
        );
        for offset in [70, 3] {
            assert!(matches!(
                machine.on_delivery(&event(offset, Some(b"x"))),
                Ok(Received::Effect(Effect::Upsert { .. }))
            ));
        }
        assert_eq!(machine.cursor(), None);
        let end = Delivery::SnapshotEnd { bootstrap: SNAPSHOT, places: PerPartition::filled(1, place(80)) };
        assert_eq!(machine.on_delivery(&end), Ok(Received::Effect(Effect::EndSnapshot)));
        assert_eq!(offset_of(&machine), Some(80));
        assert!(matches!(machine.on_delivery(&end), Err(ProtocolError::OtherSnapshot { .. })));
    }

    #[test]
    fn a_pass_that_broke_off_is_gone_on_with_and_another_begins_anew() {
        let mut first = machine(None);
        first.on_delivery(&Delivery::SnapshotBegin { bootstrap: SNAPSHOT }).unwrap();
        let places = PerPartition::filled(1, SnapshotPlace { next: Offset::new(4), end: Offset::new(9) });
        let begun_at = Millis::new(1);
        let seal = "s".to_owned();
        let announced = Delivery::SnapshotProgress(Snapshot { id: SNAPSHOT, begun_at, places, seal });
        assert_eq!(first.on_delivery(&announced), Ok(Received::Nothing));
        let cursor = first.cursor().unwrap();
        assert_eq!(cursor.snapshot.as_ref().unwrap().places.get(P0).unwrap().next, Offset::new(4));
        let resumed = || ReceiveMachine::new(cursor.log_id, cursor.version, Some(&cursor));
        let mut same = resumed();
        assert_eq!(same.on_delivery(&Delivery::SnapshotBegin { bootstrap: SNAPSHOT }), Ok(Received::Nothing));
        assert!(matches!(
            same.on_delivery(&event(3, Some(b"x"))),
            Ok(Received::Effect(Effect::Upsert { .. }))
        ));
        let end = Delivery::SnapshotEnd { bootstrap: SNAPSHOT, places: PerPartition::filled(1, place(80)) };
        assert_eq!(same.on_delivery(&end), Ok(Received::Effect(Effect::EndSnapshot)));
        let mut other = resumed();
        let begin = Delivery::SnapshotBegin { bootstrap: BootstrapId::new([9; 16]) };
        assert_eq!(other.on_delivery(&begin), Ok(Received::Effect(Effect::BeginSnapshot)));
        assert_eq!(other.cursor(), None);
    }

    #[test]
    fn progress_moves_the_cursor_and_never_back() {
        let mut machine = machine(Some(5));
        let progress = |offset| {
            let at = Some(Millis::new(9));
            let place = place(offset);
            let end = Offset::new(10);
            Delivery::Progress(Progress { partition: P0, place, freshness: at, end, passed_at: at })
        };
        assert_eq!(machine.behind(), None);
        assert_eq!(machine.freshness(), None);
        assert_eq!(machine.on_delivery(&progress(8)), Ok(Received::Nothing));
        assert_eq!((offset_of(&machine), machine.freshness()), (Some(8), Some(Millis::new(9))));
        assert_eq!(machine.behind(), Some(Behind { records: 2, since: Some(Millis::new(9)) }));
        assert_eq!(machine.on_delivery(&progress(10)), Ok(Received::Nothing));
        assert_eq!(machine.behind(), Some(Behind::default()));
        assert_eq!(machine.on_delivery(&progress(7)), Err(ProtocolError::Backwards(P0)));
        let mut none = ReceiveMachine::new(LOG, AgreementVersion::new(1), None);
        assert_eq!(none.on_delivery(&progress(8)), Err(ProtocolError::NoSuchPartition(P0)));
    }
}
