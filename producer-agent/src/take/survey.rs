//! Compares a whole file with the images: what was created, updated and deleted since the last one.
//!
//! Owns the survey (one reading: keys, repeats, counts, parked rows; changed rows go to the spool) and the rule that a
//! row which cannot be read never counts as absent. It emits nothing: the agent does.

use std::collections::HashSet;
use std::collections::hash_map::Entry;

use platform::segments::SegmentError;

use super::ahead;
use super::counts::Counts;
use super::fingerprint::{ByFingerprint, Fingerprint, Fingerprints};
use super::part::{Present, Read};
use super::spool::Spool;
use crate::image::{ImageError, ImageStore};
use crate::source::location::Location;
use crate::source::port::Rows;
use crate::source::row::{Extent, Parked};

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It has an image, and no row so far.
    Absent,
    Create,
    Update,
    Same,
    /// The row is parked: its key keeps its last good image.
    Parked,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    kind: Kind,
    /// Of the row's image, or of the agent's where there is no row: two rows with one image count as one row. A parked row
    /// has none.
    image: Option<Fingerprint>,
    location: Location,
    repeated: bool,
}

fn repeat(location: Location, other: Location, key: &str) -> Parked {
    Parked {
        location,
        column: None,
        reason: format!("line {} has the same key, but another row: {key}", other.line),
    }
}

/// Why a file could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The spool.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// What one pass over a file found.
#[derive(Debug, Default)]
pub struct Survey {
    fingerprints: Fingerprints,
    /// By the key's fingerprint: a register's keys need not fit into memory.
    seen: ByFingerprint<Seen>,
    /// Spooled rows, by their first byte, whose key another row repeats.
    repeated: HashSet<u64>,
    pub counts: Counts,
    /// Keys that had an image before the file.
    pub known: u64,
    /// The number of exact repeats of earlier rows, and the line of the first row repeated.
    pub identical: Option<(u64, u64)>,
    pub parked: Vec<Parked>,
    /// Why the file's deletes are held: a row whose key cannot be read may be any of the absent ones.
    pub deletes_held: Option<String>,
    /// Why the file cannot be taken at all: it is not whole, or not a register.
    pub refused: Option<String>,
}

impl Survey {
    /// Looks through the rows of a whole register once; puts those that create or update into the spool.
    pub fn of(rows: &mut dyn Rows, images: &dyn ImageStore, spool: &mut Spool) -> Result<Self, SurveyError> {
        let mut survey = Self::default();
        images.for_each(&mut |key, image| {
            let image = Some(survey.fingerprints.of(image));
            let seen = Seen { kind: Kind::Absent, image, location: Location::NONE, repeated: false };
            survey.seen.insert(survey.fingerprints.of(key.as_bytes()), seen);
            survey.known += 1;
            true
        })?;
        ahead::each(rows, |row| survey.row(row, spool))?;
        survey.count();
        Ok(survey)
    }

    fn row(&mut self, row: Read<Present<'_>>, spool: &mut Spool) -> Result<(), SegmentError> {
        match row {
            Read::Present { location, row: Present { key, datum } } => {
                let image = self.fingerprints.of(datum);
                if let Some(is_new) = self.see(key, location, Some(image)) {
                    spool.put(location, is_new, key, datum)?;
                }
            }
            // A file with a delete in it is not a whole register.
            Read::Deleted { location, key } => {
                let reason = "it deletes a row; a whole register must leave that row out instead".to_owned();
                self.refused.get_or_insert_with(|| format!("line {}: {reason}", location.line));
                self.park(Parked { location, column: None, reason });
                self.see(key.as_str(), location, None);
            }
            Read::Parked { key: Some(key), parked, .. } => {
                let location = parked.location;
                self.park(parked);
                self.see(key.as_str(), location, None);
            }
            Read::Parked { key: None, parked, extent } => {
                self.hold(&parked, extent);
                self.park(parked);
            }
        }
        Ok(())
    }

    /// Takes a row of a key, with its image's fingerprint unless it is parked. Where it seems to change something, returns
    /// whether it creates.
    fn see(&mut self, key: &str, location: Location, image: Option<Fingerprint>) -> Option<bool> {
        let entry = self.seen.entry(self.fingerprints.of(key.as_bytes()));
        let known = if let Entry::Occupied(entry) = &entry { Some(*entry.get()) } else { None };
        let Some(earlier) = known.filter(|seen| seen.kind != Kind::Absent) else {
            let kind = match (image, known) {
                (None, _) => Kind::Parked,
                (Some(_), None) => Kind::Create,
                (image, Some(known)) if image == known.image => Kind::Same,
                (Some(_), Some(_)) => Kind::Update,
            };
            entry.insert_entry(Seen { kind, image, location, repeated: false });
            return matches!(kind, Kind::Create | Kind::Update).then_some(kind == Kind::Create);
        };
        if image.is_some() && image == earlier.image && !earlier.repeated {
            let (count, line) = self.identical.unwrap_or((0, earlier.location.line));
            self.identical = Some((count + 1, line));
            return None;
        }
        entry.insert_entry(Seen { repeated: true, ..earlier });
        if !earlier.repeated && earlier.kind != Kind::Parked {
            self.repeated.insert(earlier.location.byte);
            self.park(repeat(earlier.location, location, key));
        }
        if image.is_some() {
            self.park(repeat(location, earlier.location, key));
        }
        None
    }

    fn park(&mut self, parked: Parked) {
        self.counts.park(parked, &mut self.parked);
    }

    /// Holds the deletes, or refuses the file, for a row without a key.
    fn hold(&mut self, parked: &Parked, extent: Extent) {
        let line = parked.location.line;
        if extent == Extent::File {
            self.refused.get_or_insert_with(|| format!("line {line}: {}", parked.reason));
        }
        self.deletes_held.get_or_insert_with(|| match extent {
            Extent::Row => format!("the key of line {line} cannot be read: {}", parked.reason),
            _ => format!("line {line}: {}", parked.reason),
        });
    }

    fn count(&mut self) {
        for seen in self.seen.values().filter(|seen| !seen.repeated) {
            match seen.kind {
                Kind::Create => self.counts.create += 1,
                Kind::Update => self.counts.update += 1,
                Kind::Same => self.counts.same += 1,
                Kind::Absent if self.deletes_held.is_none() => self.counts.delete += 1,
                Kind::Absent | Kind::Parked => {}
            }
        }
        self.parked.sort_by_key(|parked| parked.location.byte);
    }

    /// Whether this key has an image, and no row of the file, good or parked.
    pub fn is_absent(&self, key: &str) -> bool {
        self.seen.get(&self.fingerprints.of(key.as_bytes())).is_some_and(|seen| seen.kind == Kind::Absent)
    }

    /// Whether another row has the key of the row that begins at this byte: then neither is taken.
    pub fn is_repeated(&self, byte: u64) -> bool {
        self.repeated.contains(&byte)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use platform::segments::memory_disk::MemoryDisk;
    use schemas::avro::schema::AvroSchema;
    use schemas::key::KeySpec;
    use schemas::limits;

    use super::*;
    use crate::image::ImageChange;
    use crate::image::memory::MemoryImages;
    use crate::source::file::source::FileSource;
    use crate::source::format::TableFormat;
    use crate::source::port::{Source, SourceRow};

    const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[
        {"name":"k","type":"string"},{"name":"n","type":"long"}]}"#;

    /// Gives the rows of a file with these cells.
    fn with_rows<T>(schema: &str, rows: &[[&str; 2]], then: impl FnOnce(&mut dyn Rows) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let lines = rows.iter().map(|[k, n]| format!("{k},{n}\n"));
        std::fs::write(&path, "k,n\n".to_owned() + &lines.collect::<String>()).unwrap();
        let source = FileSource::open(&path, &TableFormat::default()).unwrap();
        let key = KeySpec { fields: vec!["k".to_owned()], normalise: vec![] };
        let mut rows = source.rows(&AvroSchema::parse(schema).unwrap(), &key).unwrap();
        then(rows.as_mut())
    }

    /// The survey of rows, and the keys that it would let become events.
    fn survey_of(schema: &str, rows: &[[&str; 2]], images: &MemoryImages) -> (Survey, Vec<String>) {
        let mut spool = Spool::new(Arc::new(MemoryDisk::new()), Path::new("/agent"));
        let survey = with_rows(schema, rows, |rows| Survey::of(rows, images, &mut spool).unwrap());
        let mut changed = Vec::new();
        spool
            .for_each(&mut |row| {
                changed.extend((!survey.is_repeated(row.byte)).then(|| row.key.to_owned()));
                Ok::<(), Box<dyn std::error::Error>>(())
            })
            .unwrap();
        (survey, changed)
    }

    fn survey(rows: &[[&str; 2]], images: &MemoryImages) -> (Survey, Vec<String>) {
        survey_of(SCHEMA, rows, images)
    }

    fn images(known: &[[&str; 2]]) -> MemoryImages {
        let images = MemoryImages::default();
        with_rows(SCHEMA, known, |rows| {
            while let Some(row) = rows.next_row() {
                let SourceRow::Present { key, datum, .. } = row else { panic!("{row:?}") };
                let change = ImageChange { key: key.as_str(), after: Some(datum) };
                images.apply(&[change], 0).unwrap();
            }
        });
        images
    }

    #[test]
    fn a_file_is_compared_in_any_order() {
        let images = images(&[["a", "1"], ["b", "2"], ["c", "3"]]);
        let (survey, changed) = survey(&[["c", "4"], ["d", "5"], ["a", "1"]], &images);
        assert_eq!(survey.counts, Counts { create: 1, update: 1, delete: 1, same: 1, parked: 0 });
        assert_eq!(survey.known, 3);
        assert!(survey.is_absent("b") && !survey.is_absent("a") && !survey.is_absent("x"));
        assert_eq!(changed, ["c", "d"]);
    }

    #[test]
    fn a_parked_row_is_never_absent_and_every_row_of_a_repeated_key_is_parked() {
        let images = images(&[["a", "1"], ["b", "2"], ["c", "3"]]);
        let (survey, changed) =
            survey(&[["a", "x"], ["b", "7"], ["b", "8"], ["b", "9"], ["c", "3"]], &images);
        assert!(changed.is_empty());
        assert_eq!(survey.counts, Counts { create: 0, update: 0, delete: 0, same: 1, parked: 4 });
        let lines: Vec<_> = survey.parked.iter().map(|p| (p.location.line, p.column.as_deref())).collect();
        assert_eq!(lines, [(2, Some("n")), (3, None), (4, None), (5, None)]);
    }

    #[test]
    fn the_same_row_twice_is_one_row() {
        let images = images(&[["a", "1"]]);
        let (survey, changed) = survey(
            &[["a", "1"], ["b", "2"], ["a", "1"], ["b", "2"], ["c", "3"], ["c", "4"], ["b", "2"]],
            &images,
        );
        assert_eq!(survey.counts, Counts { create: 1, same: 1, parked: 2, ..Counts::default() });
        assert_eq!(survey.identical, Some((3, 2)));
        assert_eq!(changed, ["b"]);
        assert!(survey.parked[0].reason.contains("line 7 has the same key"), "{}", survey.parked[0].reason);
    }

    #[test]
    fn a_row_that_the_log_could_not_take_is_parked_and_not_absent() {
        let schema = SCHEMA.replace("long", "string");
        let images = MemoryImages::default();
        let known = ImageChange { key: "a", after: Some(&[2, b'a', 2, b'x']) };
        images.apply(&[known], 0).unwrap();
        let large = "x".repeat(limits::MAX_IMAGE_BYTES);
        let (survey, _) = survey_of(&schema, &[["a", &large]], &images);
        assert_eq!(survey.counts, Counts { parked: 1, ..Counts::default() });
        assert!(survey.parked[0].reason.contains("at most 440000"));
    }

    #[test]
    fn a_key_that_cannot_be_read_holds_the_deletes() {
        let images = images(&[["a", "1"], ["b", "2"]]);
        let (survey, _) = survey(&[["a", "1"], ["", "2"]], &images);
        assert_eq!(survey.counts.delete, 0);
        assert!(survey.deletes_held.is_some_and(|why| why.contains("line 3")));
    }
}
