//! A cursor: how far a consumer has read, as an opaque text that any router can read.
//!
//! Owns its form and its text. It has the offset of the checkpoint that each partition was read under.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{AgreementVersion, BootstrapId, LogId, Offset};
use crate::per_partition::PerPartition;
use crate::time::Millis;

/// A consumer's position in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The next offset to read.
    pub offset: Offset,
    /// The checkpoint record whose table a reader folds from; at most `offset`.
    pub checkpoint: Offset,
}

/// A snapshot's position in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPlace {
    /// The next offset of the state to read.
    pub next: Offset,
    /// The checkpoint in the state at which the snapshot ends.
    pub end: Offset,
}

/// An unfinished snapshot: any router can continue it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id, which its end mark carries.
    pub id: BootstrapId,
    /// When a router fixed its ends.
    pub begun_at: Millis,
    /// Where it is in each partition.
    pub places: PerPartition<SnapshotPlace>,
    /// The routers' proof that they fixed these ends for this agreement: only routers may choose them.
    pub seal: String,
}

impl Snapshot {
    /// The bytes that are sealed, in addition to the agreement: all but the snapshot's progress.
    pub fn sealed_bytes(&self, log_id: LogId, version: AgreementVersion) -> Vec<u8> {
        let mut bytes = [log_id.as_bytes().as_slice(), self.id.as_bytes().as_slice()].concat();
        bytes.extend_from_slice(&version.get().to_be_bytes());
        bytes.extend_from_slice(&self.begun_at.get().to_be_bytes());
        for place in self.places.values() {
            bytes.extend_from_slice(&place.end.get().to_be_bytes());
        }
        bytes
    }
}

/// How far a consumer has read a channel, and under which version of its agreement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The channel's log; another one makes the cursor foreign.
    pub log_id: LogId,
    /// The version under which it was reached.
    pub version: AgreementVersion,
    /// The place in each partition; none during a snapshot.
    pub places: PerPartition<Place>,
    /// The unfinished snapshot, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
}

/// A text that is not a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor that a router gave out: {0}")]
pub struct CursorError(String);

/// Places as text for people: `partition:offset` for each, separated by spaces.
pub fn in_words(places: &PerPartition<Place>) -> String {
    let words = places.iter().map(|(partition, place)| format!("{partition}:{}", place.offset));
    words.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        f.write_str("c1.")?;
        f.write_str(&hex::encode(json))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let body = text.strip_prefix("c1.").ok_or_else(|| CursorError("unknown format".to_owned()))?;
        let json = hex::decode(body).map_err(|e| CursorError(e.to_string()))?;
        let cursor: Self = serde_json::from_slice(&json).map_err(|e| CursorError(e.to_string()))?;
        match cursor.places.values().any(|place| place.checkpoint > place.offset) {
            true => Err(CursorError("a checkpoint lies behind its offset".to_owned())),
            false => Ok(cursor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_text_and_refuses_any_other() {
        let place = Place { offset: Offset::new(9), checkpoint: Offset::new(3) };
        let cursor = Cursor {
            log_id: LogId::new([1; 16]),
            version: AgreementVersion::new(2),
            places: PerPartition::filled(4, place),
            snapshot: None,
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
        let places = PerPartition::filled(1, SnapshotPlace { next: Offset::new(5), end: Offset::new(9) });
        let id = BootstrapId::new([3; 16]);
        let begun_at = Millis::new(5);
        let snapshot = Some(Snapshot { id, begun_at, places, seal: "ab".to_owned() });
        let in_snapshot = Cursor { places: PerPartition::none(), snapshot, ..cursor };
        assert_eq!(in_snapshot.to_string().parse(), Ok(in_snapshot));
        for bad in ["", "c1.", "c1.zz", "c2.00", "c1.7b7d"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
        let backwards = Place { offset: Offset::new(1), checkpoint: Offset::new(2) };
        let backwards = Cursor { places: PerPartition::filled(1, backwards), ..cursor };
        assert!(backwards.to_string().parse::<Cursor>().is_err());
    }
}
