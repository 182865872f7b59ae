//! Rows read ahead: a source's rows are parsed on a thread of their own, while those before them are looked at.
//!
//! Owns the bound: a few parts of some rows. It keeps their order, and ends its thread before it returns. A part is one piece
//! of memory that goes back and forth: what one thread allocates, another one frees only by waiting for it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use schemas::key::Key;

use crate::image::ImageChange;
use crate::image::packed::{Packed, PackedImages};
use crate::source::location::Location;
use crate::source::port::{Rows, SourceRow};
use crate::source::row::{Extent, Parked};

/// Rows that are handed over together, and their bytes: less than that costs more than the parsing.
const PART: usize = 1_024;
const PART_BYTES: usize = 256 * 1024;
/// Parts that wait at most.
const AHEAD: usize = 4;

/// A row as it was read, with what it has where it is present.
#[derive(Debug)]
pub(super) enum Read<P> {
    Present { location: Location, row: P },
    Deleted { location: Location, key: Key },
    Parked { key: Option<Key>, parked: Parked, extent: Extent },
}

/// What a present row has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present<'p> {
    pub(super) key: &'p str,
    pub(super) datum: &'p [u8],
}

/// Rows that are handed over together.
#[derive(Default)]
struct Part {
    /// The present rows.
    packed: PackedImages,
    rows: Vec<Read<Packed>>,
}

impl Part {
    /// Takes the next rows; none at the end.
    fn fill(&mut self, rows: &mut dyn Rows) {
        self.packed.clear();
        self.rows.clear();
        while self.rows.len() < PART
            && self.packed.bytes() < PART_BYTES
            && let Some(row) = rows.next()
        {
            self.rows.push(match row {
                SourceRow::Present { location, key, datum } => {
                    let change = ImageChange { key: key.as_str(), after: Some(&datum) };
                    Read::Present { location, row: self.packed.pack(change) }
                }
                SourceRow::Deleted { location, key } => Read::Deleted { location, key },
                SourceRow::Parked { key, parked, extent } => Read::Parked { key, parked, extent },
            });
        }
    }

    fn each<E>(&mut self, each: &mut impl FnMut(Read<Present<'_>>) -> Result<(), E>) -> Result<(), E> {
        for row in self.rows.drain(..) {
            each(match row {
                Read::Present { location, row } => {
                    let ImageChange { key, after } = self.packed.get(&row);
                    Read::Present { location, row: Present { key, datum: after.unwrap_or_default() } }
                }
                Read::Deleted { location, key } => Read::Deleted { location, key },
                Read::Parked { key, parked, extent } => Read::Parked { key, parked, extent },
            })?;
        }
        Ok(())
    }
}

/// Gives each row to `each`, in order, until that fails. A machine that has no thread left reads without one.
pub(super) fn each<E>(
    rows: &mut dyn Rows,
    mut each: impl FnMut(Read<Present<'_>>) -> Result<(), E>,
) -> Result<(), E> {
    let read_ahead = thread::scope(|scope| {
        let (parts, read) = sync_channel(AHEAD);
        let (used, free) = sync_channel(AHEAD + 2);
        let rows = &mut *rows;
        let started = thread::Builder::new()
            .name("read-ahead".to_owned())
            .spawn_scoped(scope, move || read_parts(rows, &parts, &free));
        started.map(|_| {
            read.into_iter().try_for_each(|mut part: Part| {
                part.each(&mut each)?;
                // The thread may have ended.
                let _ = used.try_send(part);
                Ok(())
            })
        })
    });
    read_ahead.unwrap_or_else(|error| {
        tracing::warn!(%error, "a file is read without a thread of its own");
        let mut part = Part::default();
        loop {
            part.fill(rows);
            if part.rows.is_empty() {
                return Ok(());
            }
            part.each(&mut each)?;
        }
    })
}

/// Sends all rows; ends when nobody takes them any more.
fn read_parts(rows: &mut dyn Rows, parts: &SyncSender<Part>, free: &Receiver<Part>) {
    loop {
        let mut part = free.try_recv().unwrap_or_default();
        part.fill(rows);
        // Nobody reads on after an error.
        if part.rows.is_empty() || parts.send(part).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::port::Notes;

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

    fn line(row: &Read<Present<'_>>) -> u64 {
        let Read::Parked { parked, .. } = row else { return 0 };
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
