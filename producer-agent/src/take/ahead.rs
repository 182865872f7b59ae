//! Rows read ahead: a source's rows are parsed on a thread of their own, while those before them are looked at.
//!
//! Owns the bound: a few parts of some rows. It keeps their order, and ends its thread before it returns.

use std::sync::mpsc::sync_channel;
use std::thread;

use crate::source::port::{Rows, SourceRow};

/// Rows that are handed over together, and the bytes of their datums: less than that costs more than the parsing.
const PART: usize = 256;
const PART_BYTES: usize = 256 * 1024;
/// Parts that wait at most.
const AHEAD: usize = 4;

/// Gives each row to `each`, in order, until that fails. A machine that has no thread left reads without one.
pub(super) fn each<E>(
    rows: &mut dyn Rows,
    mut each: impl FnMut(SourceRow) -> Result<(), E>,
) -> Result<(), E> {
    let read_ahead = thread::scope(|scope| {
        let (parts, read) = sync_channel::<Vec<SourceRow>>(AHEAD);
        let rows = &mut *rows;
        let reading = move || {
            loop {
                let part = part(rows);
                // Nobody reads on after an error.
                if part.is_empty() || parts.send(part).is_err() {
                    return;
                }
            }
        };
        let started = thread::Builder::new().spawn_scoped(scope, reading);
        started.map(|_| read.into_iter().flatten().try_for_each(&mut each))
    });
    read_ahead.unwrap_or_else(|error| {
        tracing::warn!(%error, "a file is read without a thread of its own");
        for row in rows {
            each(row)?;
        }
        Ok(())
    })
}

/// The next rows; none at the end.
fn part(rows: &mut dyn Rows) -> Vec<SourceRow> {
    let mut part = Vec::with_capacity(PART);
    let mut bytes = 0;
    while part.len() < PART
        && bytes < PART_BYTES
        && let Some(row) = rows.next()
    {
        bytes += if let SourceRow::Present { datum, .. } = &row { datum.len() } else { 0 };
        part.push(row);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::location::Location;
    use crate::source::port::Notes;
    use crate::source::row::{Extent, Parked};

    /// Rows at these lines.
    struct Lines(std::ops::Range<u64>);

    impl Iterator for Lines {
        type Item = SourceRow;

        fn next(&mut self) -> Option<SourceRow> {
            let line = self.0.next()?;
            assert_ne!(line, 9_999, "planted");
            let location = Location { line, ..Location::START };
            let parked = Parked { location, column: None, reason: String::new() };
            Some(SourceRow::Parked { key: None, parked, extent: Extent::Row })
        }
    }

    impl Rows for Lines {
        fn notes(&self) -> Notes {
            Notes { rows: self.0.start, ..Notes::default() }
        }
    }

    fn line(row: &SourceRow) -> u64 {
        let SourceRow::Parked { parked, .. } = row else { return 0 };
        parked.location.line
    }

    #[test]
    fn rows_keep_their_order_and_their_notes() {
        let mut rows = Lines(0..2_000);
        let mut found = Vec::new();
        let read = each(&mut rows, |row| {
            found.push(line(&row));
            Ok::<(), ()>(())
        });
        assert_eq!((read, found), (Ok(()), (0..2_000).collect()));
        assert_eq!(rows.notes().rows, 2_000);
    }

    #[test]
    fn an_error_ends_the_reading() {
        let mut rows = Lines(0..u64::MAX);
        let read = each(&mut rows, |row| if line(&row) == 300 { Err("enough") } else { Ok(()) });
        assert_eq!(read, Err("enough"));
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_defect_of_the_source_is_not_the_end_of_its_rows() {
        let _ = each(&mut Lines(9_000..u64::MAX), |_| Ok::<(), ()>(()));
    }
}
