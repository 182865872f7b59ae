//! Reads frames one after another with few system calls.

use std::path::Path;

use super::disk::DiskFile;
use super::error::{SegmentError, io_error};
use super::frame::{self, Found};

const READ_STEP: usize = 256 * 1024;
/// The largest frame that is searched for behind damage: a record of the log, with its head.
const LOOK_BYTES: usize = 1_100_000;

pub(super) struct Reader<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    /// The byte of the file that is read next.
    pub(super) at: u64,
    buffer: Vec<u8>,
    /// The file's byte at which the buffer begins.
    start: u64,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(file: &'a dyn DiskFile, path: &'a Path, at: u64) -> Self {
        Self { file, path, at, buffer: Vec::new(), start: at }
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.at += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// Reads at least `count` bytes from `at` on, if the file has them.
    pub(super) fn ensure(&mut self, count: usize) -> Result<&[u8], SegmentError> {
        let skip = usize::try_from(self.at - self.start).unwrap_or(usize::MAX);
        if self.buffer.len() < skip.saturating_add(count) {
            let wanted = count.max(READ_STEP);
            self.buffer.resize(wanted, 0);
            let got = self.file.read_at(&mut self.buffer, self.at).map_err(io_error(self.path))?;
            self.buffer.truncate(got);
            self.start = self.at;
        }
        let skip = usize::try_from(self.at - self.start).unwrap_or(usize::MAX);
        Ok(self.buffer.get(skip..).unwrap_or_default())
    }

    /// Reads the payload of the next whole frame; `None` at the end, or where there is no valid frame.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, SegmentError> {
        let mut wanted = frame::HEAD;
        loop {
            let bytes = self.ensure(wanted)?;
            let payload = match frame::parse(bytes) {
                Found::Payload(payload) => payload.to_vec(),
                Found::Short(needed) if bytes.len() < needed && wanted < needed => {
                    wanted = needed;
                    continue;
                }
                Found::Short(_) | Found::Damaged => return Ok(None),
            };
            self.advance(frame::HEAD + payload.len());
            return Ok(Some(payload));
        }
    }

    /// Whether the rest looks like a torn write: it contains no whole frame.
    pub(super) fn is_torn(&self, total: u64) -> Result<bool, SegmentError> {
        let length = usize::try_from(total - self.at).unwrap_or(usize::MAX).min(frame::MAX_PAYLOAD);
        let mut rest = vec![0; length];
        let got = self.file.read_at(&mut rest, self.at).map_err(io_error(self.path))?;
        rest.truncate(got);
        // Larger frames are not searched for: that would cost too much at every byte.
        let whole = |start: usize| {
            let end = rest.len().min(start.saturating_add(LOOK_BYTES));
            matches!(rest.get(start..end).map(frame::parse), Some(Found::Payload(_)))
        };
        Ok(!(1..rest.len()).any(whole))
    }
}
