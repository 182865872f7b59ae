//! A page: the images of neighbouring keys, in key order.
//!
//! Owns a page's bytes (each row a key and an image, with Avro's lengths), the merge of changes into it, and where a
//! page that has grown is cut. It knows no store.

use schemas::avro::binary::{Cursor, DatumError, put_bytes, put_string};

use super::ImageChange;

/// What a cut makes: some thirty rows of a register. A single change writes a whole page, and each page is an entry of the index.
const CUT_BYTES: usize = 8 * 1024;
/// A page is cut when it has grown beyond this: a cut page takes half as much again before the next cut.
const MAX_BYTES: usize = 12 * 1024;
/// Merged rows in memory at which the pages that they make are given away.
const GIVEN_BYTES: usize = 64 * 1024;

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

/// Merges changes into pages, one page after the other. Keeps its memory for the next page.
#[derive(Debug, Default)]
pub(super) struct Merger {
    bytes: Vec<u8>,
    /// Where each row begins.
    starts: Vec<usize>,
}

impl Merger {
    /// Merges changes, in key order, into a page's rows; gives each page that this makes to `each`, in order. Returns how
    /// many rows were added, less those that were removed.
    pub(super) fn merge<'c, E: From<DatumError>>(
        &mut self,
        page: &[u8],
        changes: impl Iterator<Item = ImageChange<'c>>,
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<i64, E> {
        self.bytes.clear();
        self.starts.clear();
        let mut growth = 0;
        let mut rows = Rows::of(page);
        let mut row = rows.next().transpose()?;
        for ImageChange { key, after } in changes {
            while let Some((before, image)) = row.filter(|(before, _)| *before < key) {
                self.push(before, image);
                row = rows.next().transpose()?;
            }
            if row.is_some_and(|(before, _)| before == key) {
                growth -= 1;
                row = rows.next().transpose()?;
            }
            if let Some(image) = after {
                growth += 1;
                self.push(key, image);
            }
            if self.bytes.len() >= GIVEN_BYTES {
                self.give(false, each)?;
            }
        }
        while let Some((before, image)) = row {
            self.push(before, image);
            row = rows.next().transpose()?;
        }
        self.give(true, each)?;
        Ok(growth)
    }

    fn push(&mut self, key: &str, image: &[u8]) {
        self.starts.push(self.bytes.len());
        put_string(&mut self.bytes, key);
        put_bytes(&mut self.bytes, image);
    }

    /// Cuts the rows into pages of about equal size, and gives these away. The last one stays until the end: the next rows
    /// may belong to it.
    fn give<E>(&mut self, is_end: bool, each: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let length = self.bytes.len();
        let count = if length > MAX_BYTES { length.div_ceil(CUT_BYTES) } else { 1 };
        let size = length.div_ceil(count);
        let (mut from, mut row) = (0, 0);
        while from < length {
            let next = self.starts.partition_point(|start| *start < from + size);
            let to = self.starts.get(next).copied().unwrap_or(length);
            if to == length && !is_end {
                break;
            }
            each(self.bytes.get(from..to).unwrap_or_default())?;
            (from, row) = (to, next);
        }
        self.bytes.drain(..from);
        self.starts.drain(..row);
        self.starts.iter_mut().for_each(|start| *start -= from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Changes<'c> = &'c [(&'c str, Option<&'c [u8]>)];

    /// The pages that changes make of a page, and by how many rows it grew.
    fn merge(page: &[u8], changes: Changes<'_>) -> Result<(Vec<Vec<u8>>, i64), DatumError> {
        let mut pages = Vec::new();
        let changes = changes.iter().map(|(key, after)| ImageChange { key, after: *after });
        let growth = Merger::default().merge(page, changes, &mut |page| {
            pages.push(page.to_vec());
            Ok::<(), DatumError>(())
        })?;
        Ok((pages, growth))
    }

    fn rows(page: &[u8]) -> Vec<(&str, &[u8])> {
        Rows::of(page).map(Result::unwrap).collect()
    }

    #[test]
    fn changes_are_merged_in_key_order() {
        let (pages, growth) = merge(&[], &[("b", Some(b"1")), ("d", Some(b"2"))]).unwrap();
        assert_eq!((pages.len(), growth), (1, 2));
        let changes: Changes<'_> =
            &[("a", Some(b"3")), ("b", Some(b"4")), ("c", None), ("d", None), ("e", Some(b""))];
        let (merged, growth) = merge(&pages[0], changes).unwrap();
        assert_eq!(growth, 1);
        let expected: [(&str, &[u8]); 3] = [("a", b"3"), ("b", b"4"), ("e", b"")];
        assert_eq!(rows(&merged[0]), expected);
        assert_eq!(merge(&pages[0], &[("b", None), ("d", None)]).unwrap(), (Vec::new(), -2));
    }

    #[test]
    fn a_page_that_has_grown_is_cut_between_rows_into_about_equal_parts() {
        let keys: Vec<String> = (0..1_000).map(|number| format!("{number:03}")).collect();
        let image = vec![7; 250];
        for count in [100, 1_000] {
            let changes: Vec<_> =
                keys.iter().take(count).map(|key| (key.as_str(), Some(image.as_slice()))).collect();
            let (pages, _) = merge(&[], &changes).unwrap();
            assert_eq!(pages.iter().map(|page| rows(page).len()).sum::<usize>(), count);
            assert!(
                pages.iter().all(|page| (CUT_BYTES / 2..=MAX_BYTES).contains(&page.len())),
                "no page is a crumb"
            );
        }
        let large = vec![7; 100_000];
        let changes: Changes<'_> = &[("a", Some(b"1")), ("b", Some(&large)), ("c", Some(b"2"))];
        let (pages, _) = merge(&[], changes).unwrap();
        let found: Vec<&str> = pages.iter().flat_map(|page| rows(page)).map(|(key, _)| key).collect();
        assert_eq!(found, ["a", "b", "c"], "a large image is in one page");
    }

    #[test]
    fn a_damaged_page_is_an_error() {
        let (pages, _) = merge(&[], &[("b", Some(b"12345"))]).unwrap();
        let cut = pages[0].get(..pages[0].len() - 1).unwrap();
        assert!(merge(cut, &[]).is_err());
    }
}
