//! Images of keys in two pieces of memory, which grow and are given back as a whole: no image is allocated by itself.
//!
//! Owns the bytes, and where each key and image lies in them. It knows no order.

use std::ops::Range;

use super::ImageChange;

/// Where a change lies in the memory that it was packed into.
#[derive(Debug, Clone)]
pub struct Packed {
    key: Range<usize>,
    image: Option<Range<usize>>,
}

/// Keys and images, one after the other.
#[derive(Debug, Default)]
pub struct PackedImages {
    keys: String,
    images: Vec<u8>,
}

impl PackedImages {
    pub fn pack(&mut self, change: ImageChange<'_>) -> Packed {
        let from = self.keys.len();
        self.keys.push_str(change.key);
        let image = change.after.map(|after| {
            let from = self.images.len();
            self.images.extend_from_slice(after);
            from..self.images.len()
        });
        Packed { key: from..self.keys.len(), image }
    }

    /// What was packed here.
    pub fn get(&self, packed: &Packed) -> ImageChange<'_> {
        let key = self.keys.get(packed.key.clone()).unwrap_or_default();
        ImageChange { key, after: packed.image.clone().and_then(|image| self.images.get(image)) }
    }

    /// Bytes of keys and images.
    pub const fn bytes(&self) -> usize {
        self.keys.len() + self.images.len()
    }

    /// Forgets all, and keeps the memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.images.clear();
    }
}
