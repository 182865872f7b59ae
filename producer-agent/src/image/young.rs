//! Young changes: those that are in no page yet, and their fold on a thread of its own.
//!
//! Owns the thread: one at most, which is joined before the next one begins, and before the store is closed. After an error
//! its changes are young again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::last_changes::LastChanges;
use super::pages::Pages;
use super::{ImageChange, ImageError};

/// Bytes of changes in memory at which they are folded: the more at once, the fewer pages are written twice. As many are
/// being folded meanwhile.
const FOLD_BYTES: usize = 16 * 1024 * 1024;

/// Changes that a thread folds.
struct Folding {
    changes: Arc<LastChanges>,
    thread: JoinHandle<Result<(), ImageError>>,
}

/// Changes that are in no page yet.
#[derive(Default)]
pub(super) struct Young {
    changes: LastChanges,
    /// Older ones.
    folding: Option<Folding>,
}

pub(super) fn lock(pages: &Mutex<Pages>) -> MutexGuard<'_, Pages> {
    pages.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Young {
    /// Takes a change.
    pub(super) fn put(&mut self, change: ImageChange<'_>) {
        self.changes.put(change);
    }

    /// The last change of a key; `None` where it is not among these.
    pub(super) fn get(&self, key: &str) -> Option<ImageChange<'_>> {
        let older = || self.folding.as_ref().and_then(|folding| folding.changes.get(key));
        self.changes.get(key).or_else(older)
    }

    /// Whether there are enough for a fold.
    pub(super) fn is_full(&self) -> bool {
        self.changes.bytes() >= FOLD_BYTES
    }

    /// Begins to fold all changes, after an earlier fold has ended, and then to commit them as those of an outbox position. The
    /// next changes take the memory that an earlier fold has given.
    pub(super) fn fold_behind(
        &mut self,
        pages: &Arc<Mutex<Pages>>,
        commit_at: Option<u64>,
        next: LastChanges,
    ) -> Result<(), ImageError> {
        let changes = Arc::new(std::mem::replace(&mut self.changes, next));
        let (folded, into) = (Arc::clone(&changes), Arc::clone(pages));
        let folding = move || {
            let mut pages = lock(&into);
            let folded = pages.fold(folded.in_order());
            let done = folded.and_then(|()| commit_at.map_or(Ok(()), |position| pages.commit(position)));
            done.inspect_err(|error| tracing::error!(%error, "images cannot be written"))
        };
        match std::thread::Builder::new().name("images".to_owned()).spawn(folding) {
            Ok(thread) => self.folding = Some(Folding { changes, thread }),
            Err(error) => {
                tracing::warn!(%error, "images are written without a thread of their own");
                self.take_back(&changes);
                self.fold(pages)?;
                commit_at.map_or(Ok(()), |position| lock(pages).commit(position))?;
            }
        }
        Ok(())
    }

    /// Folds all changes.
    pub(super) fn fold(&mut self, pages: &Mutex<Pages>) -> Result<(), ImageError> {
        self.end_fold()?;
        lock(pages).fold(self.changes.in_order())?;
        // A large fold's memory is given back.
        self.changes = LastChanges::default();
        Ok(())
    }

    /// Whether a fold is under way.
    pub(super) fn is_folding(&self) -> bool {
        self.folding.as_ref().is_some_and(|folding| !folding.thread.is_finished())
    }

    /// Gives back the memory of a fold that has ended; says what went wrong in it.
    pub(super) fn end_finished_fold(&mut self) -> Result<(), ImageError> {
        if self.is_folding() { Ok(()) } else { self.end_fold().map(drop) }
    }

    /// Waits for the fold that is under way; gives its memory for other changes.
    pub(super) fn end_fold(&mut self) -> Result<LastChanges, ImageError> {
        let Some(Folding { changes, thread }) = self.folding.take() else {
            return Ok(LastChanges::default());
        };
        let panicked = |_| {
            let problem = "its thread failed (a defect: please report it)".to_owned();
            Err(ImageError::Store { path: "images".to_owned(), problem })
        };
        match thread.join().unwrap_or_else(panicked) {
            Ok(()) => Ok(Arc::into_inner(changes).map(LastChanges::emptied).unwrap_or_default()),
            Err(error) => {
                self.take_back(&changes);
                Err(error)
            }
        }
    }

    /// Forgets all changes.
    pub(super) fn forget(&mut self) {
        if let Err(error) = self.end_fold() {
            tracing::warn!(%error, "images that are forgotten were not folded");
        }
        self.changes = LastChanges::default();
    }

    /// Takes older changes back.
    fn take_back(&mut self, older: &LastChanges) {
        let younger = std::mem::take(&mut self.changes);
        self.changes.extend(older);
        self.changes.extend(&younger);
    }
}
