//! The rows of a file sink, and the record of one batch in its segments.
//!
//! Owns the fold of batches into rows, and the bytes of a batch.

use std::collections::BTreeMap;

use schemas::avro::binary::{Cursor as Datum, DatumError, put_bytes, put_length, put_long, put_string};
use schemas::cursor::Cursor;
use schemas::time::Millis;

use crate::sink::Batch;
use crate::sink::effect::Effect;

/// The replica in memory: the rows in force, and those of a pass that is not over.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) present: BTreeMap<String, Box<[u8]>>,
    pass: Option<BTreeMap<String, Box<[u8]>>>,
    /// How far the pass has got, once that was told.
    pass_cursor: Option<Cursor>,
    /// Where the rows in force stand.
    pub(super) cursor: Option<Cursor>,
    pub(super) freshness: Option<Millis>,
}

impl Rows {
    /// Folds a batch; whether the rows in force changed.
    pub(super) fn apply(&mut self, batch: &Batch) -> bool {
        let mut changed = false;
        let is_passing = batch.cursor.as_ref().is_some_and(|cursor| cursor.pass.is_some());
        if batch.cursor.is_some() && !is_passing && !batch.effects.contains(&Effect::End) {
            // A cursor says that no pass is under way: an earlier one broke off.
            self.forget_pass();
        }
        for effect in &batch.effects {
            match effect {
                Effect::Begin => (self.pass, self.pass_cursor) = (Some(BTreeMap::new()), None),
                Effect::End => {
                    self.pass_cursor = None;
                    if let Some(rows) = self.pass.take() {
                        self.present = rows;
                        changed = true;
                    }
                }
                Effect::Upsert { key, image } => {
                    changed |= self.pass.is_none();
                    self.target().insert(key.clone(), image.as_slice().into());
                }
                Effect::Remove { key } => {
                    changed |= self.pass.is_none();
                    self.target().remove(key);
                }
            }
        }
        if is_passing {
            self.pass_cursor.clone_from(&batch.cursor);
        } else if batch.cursor.is_some() {
            self.cursor.clone_from(&batch.cursor);
            self.freshness = batch.freshness;
        }
        changed
    }

    /// Where to go on: in the pass that is not over, or behind the rows in force.
    pub(super) fn standing(&self) -> Option<&Cursor> {
        self.pass_cursor.as_ref().or(self.cursor.as_ref())
    }

    /// Whether a pass is under way.
    pub(super) const fn is_passing(&self) -> bool {
        self.pass.is_some()
    }

    /// A pass that is not over is forgotten: it begins anew.
    pub(super) fn forget_pass(&mut self) {
        (self.pass, self.pass_cursor) = (None, None);
    }

    fn target(&mut self) -> &mut BTreeMap<String, Box<[u8]>> {
        self.pass.as_mut().unwrap_or(&mut self.present)
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
            Effect::Begin => put_long(&mut out, BEGIN),
            Effect::End => put_long(&mut out, END),
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
            BEGIN => Effect::Begin,
            END => Effect::End,
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
    use schemas::cursor::{Pass, PassPlace};
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
        let whole =
            batch(vec![Effect::Begin, upsert("a"), Effect::Remove { key: "b".to_owned() }, Effect::End]);
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
            pass: None,
        };
        let mut rows = Rows::default();
        rows.apply(&batch(vec![Effect::Begin, upsert("lost")]));
        rows.apply(&Batch { cursor: Some(cursor), ..batch(vec![upsert("live")]) });
        rows.forget_pass();
        assert_eq!(rows.present.keys().collect::<Vec<_>>(), ["live"]);
    }

    #[test]
    fn a_pass_that_was_told_of_is_gone_on_with_after_a_restart() {
        let places = PerPartition::filled(1, PassPlace { next: Offset::new(4), end: Offset::new(9) });
        let cursor = Cursor {
            log_id: LogId::new([1; 16]),
            version: AgreementVersion::new(1),
            places: PerPartition::none(),
            pass: Some(Pass {
                id: BootstrapId::new([2; 16]),
                begun_at: Millis::new(1),
                places,
                seal: String::new(),
            }),
        };
        let passing = Batch { cursor: Some(cursor.clone()), ..batch(vec![Effect::Begin, upsert("a")]) };
        let live = Cursor { pass: None, ..cursor.clone() };
        let ended = Batch { cursor: Some(live.clone()), ..batch(vec![upsert("b"), Effect::End]) };
        let mut rows = Rows::default();
        rows.apply(&decode(&encode(&passing)).unwrap());
        assert_eq!((rows.standing(), rows.is_passing()), (Some(&cursor), true));
        assert!(rows.present.is_empty() && rows.cursor.is_none(), "readers see the replica as it was");
        rows.apply(&decode(&encode(&ended)).unwrap());
        assert_eq!((rows.standing(), rows.is_passing()), (Some(&live), false));
        assert_eq!(rows.present.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn rows_of_a_pass_are_the_replica_only_at_its_end() {
        let mut rows = Rows::default();
        assert!(rows.apply(&batch(vec![upsert("old")])));
        assert!(!rows.apply(&batch(vec![Effect::Begin, upsert("new")])));
        assert_eq!(rows.present.keys().collect::<Vec<_>>(), ["old"]);
        rows.forget_pass();
        assert!(rows.apply(&batch(vec![Effect::Begin, upsert("newer"), Effect::End])));
        assert_eq!(rows.present.keys().collect::<Vec<_>>(), ["newer"]);
    }
}
