//! The rows of a file sink, and the record of one batch in its segments.
//!
//! Owns the fold of batches into rows, and the bytes of a batch.

use std::collections::BTreeMap;

use schemas::avro::binary::{Cursor as Datum, DatumError, put_bytes, put_length, put_long, put_string};
use schemas::cursor::Cursor;
use schemas::time::Millis;

use crate::sink::Batch;
use crate::sink::effect::Effect;

/// The replica in memory: the rows in force, and the rows of an unfinished snapshot.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) present: BTreeMap<String, Box<[u8]>>,
    snapshot: Option<BTreeMap<String, Box<[u8]>>>,
    /// The snapshot's progress, once the stream has reported it.
    snapshot_cursor: Option<Cursor>,
    /// The cursor of the rows in force.
    pub(super) cursor: Option<Cursor>,
    pub(super) freshness: Option<Millis>,
}

impl Rows {
    /// Folds a batch; returns whether the rows in force changed.
    pub(super) fn apply(&mut self, batch: &Batch) -> bool {
        let mut changed = false;
        let is_in_snapshot = batch.cursor.as_ref().is_some_and(|cursor| cursor.snapshot.is_some());
        if batch.cursor.is_some() && !is_in_snapshot && !batch.effects.contains(&Effect::EndSnapshot) {
            // The cursor is in no snapshot: an earlier snapshot broke off.
            self.forget_snapshot();
        }
        for effect in &batch.effects {
            match effect {
                Effect::BeginSnapshot => {
                    (self.snapshot, self.snapshot_cursor) = (Some(BTreeMap::new()), None)
                }
                Effect::EndSnapshot => {
                    self.snapshot_cursor = None;
                    if let Some(rows) = self.snapshot.take() {
                        self.present = rows;
                        changed = true;
                    }
                }
                Effect::Upsert { key, image } => {
                    changed |= self.snapshot.is_none();
                    self.target().insert(key.clone(), image.as_slice().into());
                }
                Effect::Remove { key } => {
                    changed |= self.snapshot.is_none();
                    self.target().remove(key);
                }
            }
        }
        if is_in_snapshot {
            self.snapshot_cursor.clone_from(&batch.cursor);
        } else if batch.cursor.is_some() {
            self.cursor.clone_from(&batch.cursor);
            self.freshness = batch.freshness;
        }
        changed
    }

    /// Where to continue: in the unfinished snapshot, or after the rows in force.
    pub(super) fn cursor(&self) -> Option<&Cursor> {
        self.snapshot_cursor.as_ref().or(self.cursor.as_ref())
    }

    /// Whether a snapshot is under way.
    pub(super) const fn is_in_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Forgets an unfinished snapshot: it begins anew.
    pub(super) fn forget_snapshot(&mut self) {
        (self.snapshot, self.snapshot_cursor) = (None, None);
    }

    fn target(&mut self) -> &mut BTreeMap<String, Box<[u8]>> {
        self.snapshot.as_mut().unwrap_or(&mut self.present)
    }
}

const BEGIN: i64 = 0;
const END: i64 = 1;
const UPSERT: i64 = 2;
const REMOVE: i64 = 3;

pub(super) fn encode(batch: &Batch) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, &batch.cursor.as_ref().map(ToString::to_string).unwrap_or_default());
    put_long(&mut out, batch.freshness.map_or(i64::MIN, Millis::get));
    put_length(&mut out, batch.effects.len());
    for effect in &batch.effects {
        match effect {
            Effect::BeginSnapshot => put_long(&mut out, BEGIN),
            Effect::EndSnapshot => put_long(&mut out, END),
            Effect::Upsert { key, image } => {
                put_long(&mut out, UPSERT);
                put_string(&mut out, key);
                put_bytes(&mut out, image);
            }
            Effect::Remove { key } => {
                put_long(&mut out, REMOVE);
                put_string(&mut out, key);
            }
        }
    }
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<Batch, DatumError> {
    let mut datum = Datum::new(bytes);
    let text = datum.string()?;
    let unreadable = |_| DatumError::Invalid { at: 0, what: "the cursor cannot be read" };
    let cursor = if text.is_empty() { None } else { Some(text.parse().map_err(unreadable)?) };
    let freshness = Some(datum.long()?).filter(|at| *at != i64::MIN).map(Millis::new);
    let count = datum.length()?;
    let mut effects = Vec::new();
    for _ in 0..count {
        let at = datum.at();
        effects.push(match datum.long()? {
            BEGIN => Effect::BeginSnapshot,
            END => Effect::EndSnapshot,
            UPSERT => Effect::Upsert { key: datum.string()?.to_owned(), image: datum.bytes()?.to_vec() },
            REMOVE => Effect::Remove { key: datum.string()?.to_owned() },
            _ => return Err(DatumError::Invalid { at, what: "an unknown effect" }),
        });
    }
    datum.end().map(|()| Batch { effects, cursor, freshness })
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::cursor::{Snapshot, SnapshotPlace};
    use schemas::ids::{AgreementVersion, BootstrapId, LogId, Offset};
    use schemas::per_partition::PerPartition;

    fn upsert(key: &str) -> Effect {
        Effect::Upsert { key: key.to_owned(), image: key.into() }
    }

    fn batch(effects: Vec<Effect>) -> Batch {
        Batch { effects, cursor: None, freshness: Some(Millis::new(3)) }
    }

    #[test]
    fn batches_survive_their_bytes() {
        let whole = batch(vec![
            Effect::BeginSnapshot,
            upsert("a"),
            Effect::Remove { key: "b".to_owned() },
            Effect::EndSnapshot,
        ]);
        let bytes = encode(&whole);
        assert_eq!(decode(&bytes), Ok(whole));
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn a_pass_that_broke_off_swallows_nothing_that_follows() {
        let cursor = schemas::cursor::Cursor {
            log_id: schemas::ids::LogId::new([1; 16]),
            version: schemas::ids::AgreementVersion::new(1),
            places: PerPartition::none(),
            snapshot: None,
        };
        let mut rows = Rows::default();
        rows.apply(&batch(vec![Effect::BeginSnapshot, upsert("lost")]));
        rows.apply(&Batch { cursor: Some(cursor), ..batch(vec![upsert("live")]) });
        rows.forget_snapshot();
        assert_eq!(rows.present.keys().collect::<Vec<_>>(), ["live"]);
    }

    #[test]
    fn a_pass_that_was_told_of_is_gone_on_with_after_a_restart() {
        let places = PerPartition::filled(1, SnapshotPlace { next: Offset::new(4), end: Offset::new(9) });
        let cursor = Cursor {
            log_id: LogId::new([1; 16]),
            version: AgreementVersion::new(1),
            places: PerPartition::none(),
            snapshot: Some(Snapshot {
                id: BootstrapId::new([2; 16]),
                begun_at: Millis::new(1),
                places,
                seal: String::new(),
            }),
        };
        let in_snapshot =
            Batch { cursor: Some(cursor.clone()), ..batch(vec![Effect::BeginSnapshot, upsert("a")]) };
        let live = Cursor { snapshot: None, ..cursor.clone() };
        let ended = Batch { cursor: Some(live.clone()), ..batch(vec![upsert("b"), Effect::EndSnapshot]) };
        let mut rows = Rows::default();
        rows.apply(&decode(&encode(&in_snapshot)).unwrap());
        assert_eq!((rows.cursor(), rows.is_in_snapshot()), (Some(&cursor), true));
        assert!(rows.present.is_empty() && rows.cursor.is_none(), "readers see the replica as it was");
        rows.apply(&decode(&encode(&ended)).unwrap());
        assert_eq!((rows.cursor(), rows.is_in_snapshot()), (Some(&live), false));
        assert_eq!(rows.present.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn rows_of_a_snapshot_are_the_replica_only_at_its_end() {
        let mut rows = Rows::default();
        assert!(rows.apply(&batch(vec![upsert("old")])));
        assert!(!rows.apply(&batch(vec![Effect::BeginSnapshot, upsert("new")])));
        assert_eq!(rows.present.keys().collect::<Vec<_>>(), ["old"]);
        rows.forget_snapshot();
        assert!(rows.apply(&batch(vec![Effect::BeginSnapshot, upsert("newer"), Effect::EndSnapshot])));
        assert_eq!(rows.present.keys().collect::<Vec<_>>(), ["newer"]);
    }
}
