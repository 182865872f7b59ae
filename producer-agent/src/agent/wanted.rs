//! A group of images that a source wants for their keys.
//!
//! Owns their bytes, in two pieces of memory: no row is allocated by itself.

use std::ops::Range;

use crate::image::ImageChange;

/// A key's new image, wanted by the source.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    key: Range<usize>,
    after: Option<Range<usize>>,
    /// The line in the source; 0 where it has none.
    pub(super) line: u64,
    /// Whether a survey found that the key has no image.
    pub(super) is_new: bool,
}

/// Images that are wanted together.
#[derive(Debug, Default)]
pub(super) struct WantedGroup {
    keys: String,
    images: Vec<u8>,
    rows: Vec<Wanted>,
}

impl WantedGroup {
    pub(super) fn put(&mut self, change: ImageChange<'_>, line: u64, is_new: bool) {
        let from = self.keys.len();
        self.keys.push_str(change.key);
        let after = change.after.map(|after| {
            let from = self.images.len();
            self.images.extend_from_slice(after);
            from..self.images.len()
        });
        self.rows.push(Wanted { key: from..self.keys.len(), after, line, is_new });
    }

    /// Orders them by their keys: neighbouring keys are then looked up together.
    pub(super) fn sort(&mut self) {
        let key = |wanted: &Wanted| self.keys.get(wanted.key.clone());
        self.rows.sort_by(|one, other| key(one).cmp(&key(other)));
    }

    pub(super) fn rows(&self) -> &[Wanted] {
        &self.rows
    }

    /// What a row wants.
    pub(super) fn change(&self, wanted: &Wanted) -> ImageChange<'_> {
        let after = wanted.after.clone().and_then(|after| self.images.get(after));
        ImageChange { key: self.keys.get(wanted.key.clone()).unwrap_or_default(), after }
    }

    /// Bytes of keys and images.
    pub(super) const fn bytes(&self) -> usize {
        self.keys.len() + self.images.len()
    }
}
