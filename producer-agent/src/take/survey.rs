//! Compares a whole file with the images: what was created, updated and deleted since the last one.
//!
//! Owns the survey (one reading: keys, repeats, counts, parked rows) and the rule that a row which cannot be read never
//! counts as absent. It emits nothing: the agent does.

use std::collections::HashMap;

use schemas::digest::hash128;
use schemas::key::Key;

use super::counts::Counts;
use crate::image::{ImageError, ImageStore};
use crate::source::location::Location;
use crate::source::port::{Rows, SourceRow};
use crate::source::row::{Extent, Parked};

/// The effect of one row on its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Create,
    Update,
    Same,
    /// The row is parked: its key keeps its last good image.
    Parked,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    kind: Kind,
    /// The image's hash: two rows with one image count as one row.
    image: u128,
    location: Location,
    repeated: bool,
}

fn repeat(location: Location, other: Location, key: &Key) -> Parked {
    let key = key.as_str();
    Parked {
        location,
        column: None,
        reason: format!("line {} has the same key, but another row: {key}", other.line),
    }
}

/// What one pass over a file found.
#[derive(Debug, Default)]
pub struct Survey {
    seen: HashMap<u128, Seen>,
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
    /// Looks through the rows of a whole register once.
    pub fn of(rows: &mut dyn Rows, images: &dyn ImageStore) -> Result<Self, ImageError> {
        let mut survey = Self::default();
        for row in rows {
            survey.row(row, images)?;
        }
        survey.count(images)?;
        Ok(survey)
    }

    fn row(&mut self, row: SourceRow, images: &dyn ImageStore) -> Result<(), ImageError> {
        let (location, key, kind, image) = match row {
            SourceRow::Present { location, key, datum } => {
                let kind = match images.get(key.as_str())? {
                    None => Kind::Create,
                    Some(image) if image == datum => Kind::Same,
                    Some(_) => Kind::Update,
                };
                (location, key, kind, hash128(&datum))
            }
            // A file with a delete in it is not a whole register.
            SourceRow::Deleted { location, key } => {
                let reason = "it deletes a row; a whole register must leave that row out instead".to_owned();
                self.refused.get_or_insert_with(|| format!("line {}: {reason}", location.line));
                self.park(Parked { location, column: None, reason });
                (location, key, Kind::Parked, 0)
            }
            SourceRow::Parked { key: Some(key), parked, .. } => {
                let location = parked.location;
                self.park(parked);
                (location, key, Kind::Parked, 0)
            }
            SourceRow::Parked { key: None, parked, extent } => {
                self.hold(&parked, extent);
                self.park(parked);
                return Ok(());
            }
        };
        match self.seen.entry(hash128(key.as_str().as_bytes())) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Seen { kind, image, location, repeated: false });
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let first = entry.get_mut();
                if kind != Kind::Parked && first.kind == kind && first.image == image && !first.repeated {
                    let (count, line) = self.identical.unwrap_or((0, first.location.line));
                    self.identical = Some((count + 1, line));
                    return Ok(());
                }
                let earlier = *first;
                let is_first = !first.repeated && first.kind != Kind::Parked;
                first.repeated = true;
                if is_first {
                    self.park(repeat(earlier.location, location, &key));
                }
                if kind != Kind::Parked {
                    self.park(repeat(location, earlier.location, &key));
                }
            }
        }
        Ok(())
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

    fn count(&mut self, images: &dyn ImageStore) -> Result<(), ImageError> {
        for seen in self.seen.values().filter(|seen| !seen.repeated) {
            match seen.kind {
                Kind::Create => self.counts.create += 1,
                Kind::Update => self.counts.update += 1,
                Kind::Same => self.counts.same += 1,
                Kind::Parked => {}
            }
        }
        let mut absent = 0;
        let mut known = 0;
        images.for_each(&mut |key, _| {
            known += 1;
            absent += u64::from(self.is_absent(key));
            true
        })?;
        self.known = known;
        self.counts.delete = if self.deletes_held.is_some() { 0 } else { absent };
        self.parked.sort_by_key(|parked| parked.location.byte);
        Ok(())
    }

    /// Whether no row of the file, good or parked, has this key.
    pub fn is_absent(&self, key: &str) -> bool {
        !self.seen.contains_key(&hash128(key.as_bytes()))
    }

    /// Whether this key's row changes something.
    pub fn changes(&self, key: &str) -> bool {
        let seen = self.seen.get(&hash128(key.as_bytes()));
        seen.is_some_and(|seen| !seen.repeated && matches!(seen.kind, Kind::Create | Kind::Update))
    }
}

#[cfg(test)]
mod tests {
    use schemas::avro::schema::AvroSchema;
    use schemas::key::KeySpec;
    use schemas::limits;

    use super::*;
    use crate::image::ImageChange;
    use crate::image::memory::MemoryImages;
    use crate::source::file::source::FileSource;
    use crate::source::format::TableFormat;
    use crate::source::port::Source;

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

    fn survey(rows: &[[&str; 2]], images: &MemoryImages) -> Survey {
        with_rows(SCHEMA, rows, |rows| Survey::of(rows, images).unwrap())
    }

    fn images(known: &[[&str; 2]]) -> MemoryImages {
        let images = MemoryImages::default();
        with_rows(SCHEMA, known, |rows| {
            for row in rows {
                let SourceRow::Present { key, datum, .. } = row else { panic!("{row:?}") };
                images.apply(&[ImageChange { key: key.as_str().to_owned(), after: Some(datum) }], 0).unwrap();
            }
        });
        images
    }

    #[test]
    fn a_file_is_compared_in_any_order() {
        let images = images(&[["a", "1"], ["b", "2"], ["c", "3"]]);
        let survey = survey(&[["c", "4"], ["d", "5"], ["a", "1"]], &images);
        assert_eq!(survey.counts, Counts { create: 1, update: 1, delete: 1, same: 1, parked: 0 });
        assert_eq!(survey.known, 3);
        assert!(survey.is_absent("b") && survey.changes("c") && survey.changes("d") && !survey.changes("a"));
    }

    #[test]
    fn a_parked_row_is_never_absent_and_every_row_of_a_repeated_key_is_parked() {
        let images = images(&[["a", "1"], ["b", "2"], ["c", "3"]]);
        let survey = survey(&[["a", "x"], ["b", "7"], ["b", "8"], ["b", "9"], ["c", "3"]], &images);
        assert_eq!(survey.counts, Counts { create: 0, update: 0, delete: 0, same: 1, parked: 4 });
        let lines: Vec<_> = survey.parked.iter().map(|p| (p.location.line, p.column.as_deref())).collect();
        assert_eq!(lines, [(2, Some("n")), (3, None), (4, None), (5, None)]);
    }

    #[test]
    fn the_same_row_twice_is_one_row() {
        let images = images(&[["a", "1"]]);
        let survey = survey(
            &[["a", "1"], ["b", "2"], ["a", "1"], ["b", "2"], ["c", "3"], ["c", "4"], ["b", "2"]],
            &images,
        );
        assert_eq!(survey.counts, Counts { create: 1, same: 1, parked: 2, ..Counts::default() });
        assert_eq!(survey.identical, Some((3, 2)));
        assert!(survey.changes("b") && !survey.changes("c"));
        assert!(survey.parked[0].reason.contains("line 7 has the same key"), "{}", survey.parked[0].reason);
    }

    #[test]
    fn a_row_that_the_log_could_not_take_is_parked_and_not_absent() {
        let schema = SCHEMA.replace("long", "string");
        let images = MemoryImages::default();
        images.apply(&[ImageChange { key: "a".to_owned(), after: Some(vec![2, b'a', 2, b'x']) }], 0).unwrap();
        let large = "x".repeat(limits::MAX_IMAGE_BYTES);
        let survey = with_rows(&schema, &[["a", &large]], |rows| Survey::of(rows, &images).unwrap());
        assert_eq!(survey.counts, Counts { parked: 1, ..Counts::default() });
        assert!(survey.parked[0].reason.contains("at most 440000"));
    }

    #[test]
    fn a_key_that_cannot_be_read_holds_the_deletes() {
        let images = images(&[["a", "1"], ["b", "2"]]);
        let survey = survey(&[["a", "1"], ["", "2"]], &images);
        assert_eq!(survey.counts.delete, 0);
        assert!(survey.deletes_held.is_some_and(|why| why.contains("line 3")));
    }
}
