//! Rows read ahead: a source's rows are parsed on a thread of their own, while those before them are looked at.
//!
//! Owns the bound: a few parts of some rows. It keeps their order, and ends its thread before it returns. The parts go back
//! and forth.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::part::{Part, Present, Read};
use crate::source::port::Rows;

/// Rows that are handed over together: fewer cost more than the parsing.
const PART: usize = 1_024;
/// Parts that wait at most.
const AHEAD: usize = 4;

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
                part.drain().try_for_each(&mut each)?;
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
            part.fill(rows, PART);
            if part.is_empty() {
                return Ok(());
            }
            part.drain().try_for_each(&mut each)?;
        }
    })
}

/// Sends all rows; ends when nobody takes them any more.
fn read_parts(rows: &mut dyn Rows, parts: &SyncSender<Part>, free: &Receiver<Part>) {
    loop {
        let mut part = free.try_recv().unwrap_or_default();
        part.fill(rows, PART);
        // Nobody reads on after an error.
        if part.is_empty() || parts.send(part).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::location::Location;
    use crate::source::port::{Notes, SourceRow};
    use crate::source::row::{Extent, Parked};

    /// Rows at these lines.
    struct Lines(std::ops::Range<u64>);

    impl Rows for Lines {
        fn next_row(&mut self) -> Option<SourceRow<'_>> {
            let line = self.0.next()?;
            assert_ne!(line, 9_999, "planted");
            let location = Location { line, ..Location::START };
            let parked = Parked { location, column: None, reason: String::new() };
            Some(SourceRow::Parked { key: None, parked, extent: Extent::Row })
        }

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
