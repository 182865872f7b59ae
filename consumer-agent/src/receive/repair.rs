//! The digests of a replica's rows, and the repair of its wrong rows.
//!
//! Owns the reading of the sink's rows. A repair is a batch like any other: the wrong rows, and the replica's cursor.

use std::collections::BTreeMap;

use schemas::avro::schema::AvroSchema;
use schemas::cursor::Cursor;
use schemas::reconcile::{RangeDigests, Ranges, Texts, texts};
use schemas::time::Millis;

use crate::sink::effect::Effect;
use crate::sink::error::SinkError;
use crate::sink::{Batch, Sink};

/// The digests of the replica's rows.
pub(super) async fn digests(
    sink: &mut dyn Sink,
    within: &Ranges,
    bits: u8,
) -> Result<RangeDigests, SinkError> {
    let mut digests = RangeDigests::new(within.clone(), bits);
    sink.scan(&mut |key, texts| digests.add(key, &texts)).await?;
    Ok(digests)
}

/// The register's rows of some ranges, collected as they come.
#[derive(Debug)]
pub(super) struct Repair {
    within: Ranges,
    rows: BTreeMap<String, (Vec<u8>, Texts)>,
    left: usize,
}

impl Repair {
    /// A repair of these ranges, before any row has come.
    pub(super) fn new(within: Ranges) -> Self {
        let left = within.numbers().len();
        Self { within, rows: BTreeMap::new(), left }
    }

    /// Takes a range; returns whether it was the last.
    pub(super) fn take(&mut self, derived: &AvroSchema, rows: &[(&str, &[u8])]) -> Result<bool, SinkError> {
        for (key, image) in rows {
            self.rows.insert((*key).to_owned(), (image.to_vec(), texts(derived, image)?));
        }
        self.left = self.left.saturating_sub(1);
        Ok(self.left == 0)
    }

    /// Replaces the replica's wrong rows in the ranges; returns how many were wrong.
    pub(super) async fn apply(
        self,
        sink: &mut dyn Sink,
        cursor: Option<Cursor>,
        freshness: Option<Millis>,
    ) -> Result<usize, SinkError> {
        let Self { within, mut rows, .. } = self;
        let mut effects = Vec::new();
        let mut see = |key: &str, texts: Texts| {
            if within.of(key).is_none() {
                return;
            }
            let key = key.to_owned();
            match rows.remove(&key) {
                Some((_, delivered)) if delivered == texts => {}
                Some((image, _)) => effects.push(Effect::Upsert { key, image }),
                None => effects.push(Effect::Remove { key }),
            }
        };
        sink.scan(&mut see).await?;
        effects.extend(rows.into_iter().map(|(key, (image, _))| Effect::Upsert { key, image }));
        let wrong = effects.len();
        sink.apply(&Batch { effects, cursor, freshness }).await?;
        Ok(wrong)
    }
}
