//! A group of images that a source wants for their keys.
//!
//! Owns their order, and what the source says of each.

use crate::image::ImageChange;
use crate::image::packed::{Packed, PackedImages};

/// A key's new image, wanted by the source.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    change: Packed,
    /// The line in the source; 0 where it has none.
    pub(super) line: u64,
    /// Whether a survey found that the key has no image.
    pub(super) is_new: bool,
}

/// Images that are wanted together.
#[derive(Debug, Default)]
pub(super) struct WantedGroup {
    packed: PackedImages,
    rows: Vec<Wanted>,
}

impl WantedGroup {
    pub(super) fn put(&mut self, change: ImageChange<'_>, line: u64, is_new: bool) {
        self.rows.push(Wanted { change: self.packed.pack(change), line, is_new });
    }

    /// Orders them by their keys: neighbouring keys are then looked up together.
    pub(super) fn sort(&mut self) {
        let key = |wanted: &Wanted| self.packed.get(&wanted.change).key;
        self.rows.sort_by(|one, other| key(one).cmp(key(other)));
    }

    pub(super) fn rows(&self) -> &[Wanted] {
        &self.rows
    }

    /// What a row wants.
    pub(super) fn change(&self, wanted: &Wanted) -> ImageChange<'_> {
        self.packed.get(&wanted.change)
    }

    /// Bytes of keys and images.
    pub(super) const fn bytes(&self) -> usize {
        self.packed.bytes()
    }
}
