//! The pages of a store: what is where.
//!
//! Owns the index in memory, the fold of changes into pages, the cleaning of files that are hardly in use, and the commit.
//! What was folded since the last commit is lost in a crash, together with its position.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use platform::segments::disk::Disk;
use schemas::avro::binary::DatumError;

use super::page::{Merger, Rows};
use super::page_files::{PageFiles, Place};
use super::page_index::{Entries, PageIndex, Whole, hash};
use super::{ImageChange, ImageError};

/// Bytes of files that nothing uses, and entries that have changed, at which a commit is due, though a whole register is not
/// taken yet: files wait for it, and so does the outbox.
const MOST_UNUSED_BYTES: u64 = 128 * 1024 * 1024;
const MOST_CHANGED: usize = 20_000;

/// A key whose image is wanted, and where it goes.
pub(super) type Wanted<'w> = (&'w str, &'w mut Option<Vec<u8>>);

pub(super) struct Pages {
    index: PageIndex,
    entries: Entries,
    /// The sum of the entries' hashes.
    sum: u128,
    /// Entries that the index on the disk has otherwise.
    changed: BTreeSet<String>,
    files: PageFiles,
    rows: u64,
    /// The outbox position of the last commit.
    committed: Arc<AtomicU64>,
    merger: Merger,
}

/// Why a fold failed.
enum FoldError {
    Page(DatumError),
    Image(ImageError),
}

impl From<DatumError> for FoldError {
    fn from(error: DatumError) -> Self {
        Self::Page(error)
    }
}

/// The keys that one page has or would have.
struct Span<'e> {
    begins: &'e str,
    ends: Option<&'e str>,
    place: Option<Place>,
}

impl<'e> Span<'e> {
    /// The one that a key is in.
    fn of(entries: &'e Entries, key: &str) -> Self {
        let found = entries.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back();
        let next = entries.range::<str, _>((Bound::Excluded(key), Bound::Unbounded)).next();
        Self {
            begins: found.map_or("", |(begins, _)| begins),
            ends: next.map(|(begins, _)| begins.as_str()),
            place: found.map(|(_, place)| *place),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.ends.is_none_or(|ends| key < ends)
    }
}

impl Pages {
    /// The pages of a folder. All are read: what cannot be read is found while the store can be set aside.
    pub(super) fn open(disk: Arc<dyn Disk>, path: &Path, file_bytes: u64) -> Result<Self, ImageError> {
        let (index, entries, whole) = PageIndex::open(path)?;
        let mut files = PageFiles::open(disk, &path.join("pages"), file_bytes)?;
        entries.values().for_each(|place| files.hold(*place));
        let mut pages = Self {
            index,
            entries,
            sum: whole.sum,
            changed: BTreeSet::new(),
            files,
            rows: 0,
            committed: Arc::new(AtomicU64::new(whole.position)),
            merger: Merger::default(),
        };
        let mut rows = 0;
        pages.each_row(&mut |_, _| {
            rows += 1;
            true
        })?;
        pages.rows = rows;
        // What a crash or a full disk has left. The index that is open may be younger than the one on the disk.
        pages.index.sync()?;
        pages.files.remove_unused()?;
        Ok(pages)
    }

    /// The outbox position of the last commit.
    pub(super) fn committed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.committed)
    }

    /// How many images there are.
    pub(super) const fn rows(&self) -> u64 {
        self.rows
    }

    /// Folds changes, in key order, into the pages. After an error they may be folded again.
    pub(super) fn fold<'c>(
        &mut self,
        changes: impl Iterator<Item = ImageChange<'c>>,
    ) -> Result<(), ImageError> {
        let mut changes = changes.peekable();
        let mut became: Vec<(String, Option<Place>)> = Vec::new();
        let mut growth = 0;
        let mut page = Vec::new();
        while let Some(change) = changes.peek() {
            let span = Span::of(&self.entries, change.key);
            self.files.read(span.place, &mut page)?;
            let within = std::iter::from_fn(|| changes.next_if(|change| span.has(change.key)));
            let first = became.len();
            let files = &mut self.files;
            let merged = self.merger.merge(&page, within, &mut |cut| {
                let place = files.append(cut).map_err(FoldError::Image)?;
                let key = match became.len() == first {
                    true => span.begins,
                    false => Rows::of(cut).next().transpose()?.map_or("", |(key, _)| key),
                };
                became.push((key.to_owned(), Some(place)));
                Ok(())
            });
            growth += merged.map_err(|error| match error {
                FoldError::Page(error) => self.files.damaged(&error),
                FoldError::Image(error) => error,
            })?;
            if became.len() == first && span.place.is_some() {
                became.push((span.begins.to_owned(), None));
            }
        }
        self.files.write()?;
        became.into_iter().for_each(|(begins, place)| self.set(begins, place));
        self.rows = self.rows.saturating_add_signed(growth);
        self.clean()
    }

    /// Names a page's new place, or none.
    fn set(&mut self, begins: String, place: Option<Place>) {
        let before = match place {
            Some(place) => {
                self.files.hold(place);
                self.sum = self.sum.wrapping_add(hash(&begins, place));
                self.entries.insert(begins.clone(), place)
            }
            None => self.entries.remove(&begins),
        };
        if let Some(before) = before {
            self.files.release(before);
            self.sum = self.sum.wrapping_sub(hash(&begins, before));
        }
        self.changed.insert(begins);
    }

    /// Appends again the pages of files that are hardly in use.
    fn clean(&mut self) -> Result<(), ImageError> {
        let mut page = Vec::new();
        while let Some(file) = self.files.to_be_cleaned() {
            let mut copied = Vec::new();
            for (begins, place) in self.entries.iter().filter(|(_, place)| place.file == file) {
                self.files.read(Some(*place), &mut page)?;
                copied.push((begins.clone(), self.files.append(&page)?));
            }
            self.files.write()?;
            copied.into_iter().for_each(|(begins, place)| self.set(begins, Some(place)));
        }
        Ok(())
    }

    /// Gives each wanted key its image. The keys are in order.
    pub(super) fn look_up<'w>(&self, wanted: impl Iterator<Item = Wanted<'w>>) -> Result<(), ImageError> {
        let mut wanted = wanted.peekable();
        let mut page = Vec::new();
        while let Some((key, _)) = wanted.peek() {
            let span = Span::of(&self.entries, key);
            self.files.read(span.place, &mut page)?;
            let mut rows = Rows::of(&page).peekable();
            while let Some((key, image)) = wanted.next_if(|(key, _)| span.has(key)) {
                while rows.next_if(|row| row.as_ref().is_ok_and(|(found, _)| *found < key)).is_some() {}
                match rows.peek() {
                    Some(Ok((found, bytes))) if *found == key => *image = Some(bytes.to_vec()),
                    Some(Err(error)) => return Err(self.files.damaged(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Visits all rows in key order, until `each` returns `false`.
    pub(super) fn each_row(&self, each: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError> {
        let mut page = Vec::new();
        for place in self.entries.values() {
            self.files.read(Some(*place), &mut page)?;
            for row in Rows::of(&page) {
                let (key, image) = row.map_err(|error| self.files.damaged(&error))?;
                if !each(key, image) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether so much waits for a commit that it should not wait for the end of a register.
    pub(super) fn should_commit(&self) -> bool {
        self.files.unused_bytes() > MOST_UNUSED_BYTES || self.changed.len() > MOST_CHANGED
    }

    /// Makes what was folded survive a crash, as that of an outbox position.
    pub(super) fn commit(&mut self, position: u64) -> Result<(), ImageError> {
        if self.changed.is_empty() && self.committed.load(Ordering::Acquire) == position {
            return Ok(());
        }
        self.files.sync()?;
        let changed = self.changed.iter().map(|begins| (begins.as_str(), self.entries.get(begins).copied()));
        self.index.commit(changed, Whole { position, sum: self.sum })?;
        self.changed.clear();
        self.committed.store(position, Ordering::Release);
        self.files.remove_unused()
    }

    /// Forgets all pages.
    pub(super) fn clear(&mut self) -> Result<(), ImageError> {
        self.committed.store(0, Ordering::Release);
        self.index.clear()?;
        std::mem::take(&mut self.entries).into_values().for_each(|place| self.files.release(place));
        (self.sum, self.rows) = (0, 0);
        self.changed.clear();
        self.files.remove_unused()
    }
}

#[cfg(test)]
impl Pages {
    pub(super) const fn index(&self) -> &PageIndex {
        &self.index
    }
}
