//! A page: the images of neighbouring keys, in key order, as one value of the store.
//!
//! Owns a page's bytes (each row a key and an image, with Avro's lengths), the merge of changes into it, and where a
//! page that has grown is cut. It knows no store.

use schemas::avro::binary::{Cursor, DatumError, put_bytes, put_string};

/// What a cut makes: some sixteen rows of a register. A single change rewrites a whole page.
const CUT_BYTES: usize = 4 * 1024;
/// A page is cut when it has grown beyond this: a cut page takes half as much again before the next cut. sled keeps up to
/// seventeen values together, and writes what is larger than 131,000 bytes to a file of its own.
const MAX_BYTES: usize = 6 * 1024;

/// Rows of a page, in key order.
pub(super) struct Rows<'p>(Cursor<'p>);

impl<'p> Rows<'p> {
    pub(super) const fn of(page: &'p [u8]) -> Self {
        Self(Cursor::new(page))
    }

    fn row(&mut self) -> Result<(&'p str, &'p [u8]), DatumError> {
        Ok((self.0.string()?, self.0.bytes()?))
    }
}

impl<'p> Iterator for Rows<'p> {
    type Item = Result<(&'p str, &'p [u8]), DatumError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.0.left() > 0).then(|| self.row())
    }
}

/// A page after changes, still in one piece.
#[derive(Debug, Default)]
pub(super) struct Merged {
    bytes: Vec<u8>,
    /// Where each row begins.
    starts: Vec<usize>,
    /// Rows that were added, less those that were removed.
    pub(super) growth: i64,
}

impl Merged {
    /// Merges changes, in key order, into a page's rows.
    pub(super) fn of<'c, 'p>(
        mut rows: impl Iterator<Item = Result<(&'p str, &'p [u8]), DatumError>>,
        changes: impl Iterator<Item = (&'c str, Option<&'c [u8]>)>,
    ) -> Result<Self, DatumError> {
        let mut merged = Self { bytes: Vec::with_capacity(MAX_BYTES), ..Self::default() };
        let mut row = rows.next().transpose()?;
        for (key, after) in changes {
            while let Some((before, image)) = row.filter(|(before, _)| *before < key) {
                merged.push(before, image);
                row = rows.next().transpose()?;
            }
            if row.is_some_and(|(before, _)| before == key) {
                merged.growth -= 1;
                row = rows.next().transpose()?;
            }
            if let Some(image) = after {
                merged.growth += 1;
                merged.push(key, image);
            }
        }
        while let Some((before, image)) = row {
            merged.push(before, image);
            row = rows.next().transpose()?;
        }
        Ok(merged)
    }

    fn push(&mut self, key: &str, image: &[u8]) {
        self.starts.push(self.bytes.len());
        put_string(&mut self.bytes, key);
        put_bytes(&mut self.bytes, image);
    }

    /// The pages that it makes, of about equal size; one without a row where no row is left.
    pub(super) fn pages(&self) -> impl Iterator<Item = &[u8]> {
        let count = if self.bytes.len() > MAX_BYTES { self.bytes.len().div_ceil(CUT_BYTES) } else { 1 };
        let size = self.bytes.len().div_ceil(count);
        let mut from = 0;
        let mut is_first = true;
        std::iter::from_fn(move || {
            if from == self.bytes.len() && !is_first {
                return None;
            }
            is_first = false;
            let next = self.starts.partition_point(|start| *start < from + size);
            let to = self.starts.get(next).copied().unwrap_or(self.bytes.len());
            let page = self.bytes.get(from..to);
            from = to;
            page
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Changes<'c> = &'c [(&'c str, Option<&'c [u8]>)];

    fn merge(page: &[u8], changes: Changes<'_>) -> Merged {
        Merged::of(Rows::of(page), changes.iter().copied()).unwrap()
    }

    fn rows(page: &[u8]) -> Vec<(&str, &[u8])> {
        Rows::of(page).map(Result::unwrap).collect()
    }

    #[test]
    fn changes_are_merged_in_key_order() {
        let made = merge(&[], &[("b", Some(b"1")), ("d", Some(b"2"))]);
        assert_eq!(made.growth, 2);
        let page = made.pages().next().unwrap();
        let changes: Changes<'_> =
            &[("a", Some(b"3")), ("b", Some(b"4")), ("c", None), ("d", None), ("e", Some(b""))];
        let merged = merge(page, changes);
        assert_eq!(merged.growth, 1);
        let expected: [(&str, &[u8]); 3] = [("a", b"3"), ("b", b"4"), ("e", b"")];
        assert_eq!(rows(merged.pages().next().unwrap()), expected);
        let emptied = merge(page, &[("b", None), ("d", None)]);
        assert_eq!(emptied.pages().collect::<Vec<_>>(), [&[] as &[u8]]);
    }

    #[test]
    fn a_page_that_has_grown_is_cut_between_rows_into_about_equal_parts() {
        let keys: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
        let image = vec![7; 250];
        let changes = keys.iter().map(|key| (key.as_str(), Some(image.as_slice())));
        let merged = Merged::of(Rows::of(&[]), changes).unwrap();
        let pages: Vec<&[u8]> = merged.pages().collect();
        assert_eq!(pages.iter().map(|page| rows(page).len()).sum::<usize>(), keys.len());
        assert!(pages.iter().all(|page| (2_500..=MAX_BYTES).contains(&page.len())), "no page is a crumb");
        let large = vec![7; 100_000];
        let changes: Changes<'_> = &[("a", Some(b"1")), ("b", Some(&large)), ("c", Some(b"2"))];
        let counts: Vec<usize> = merge(&[], changes).pages().map(|page| rows(page).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 3, "a large image is in one page: {counts:?}");
    }

    #[test]
    fn a_damaged_page_is_an_error() {
        let made = merge(&[], &[("b", Some(b"12345"))]);
        let page = made.pages().next().unwrap();
        let cut = page.get(..page.len() - 1).unwrap();
        assert!(Merged::of(Rows::of(cut), std::iter::empty()).is_err());
    }
}
