//! Young changes: those that are in no page yet, and their fold on a thread of its own.
//!
//! Owns the thread: one at most, which is joined before the next one begins, and before the store is closed. After an error
//! its changes are young again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::pages::Pages;
use super::{ImageChange, ImageError};

/// Bytes of changes in memory at which they are folded: the more at once, the fewer pages are written twice. As many are
/// being folded meanwhile.
const FOLD_BYTES: usize = 16 * 1024 * 1024;
/// What a young change costs besides its key and image.
const YOUNG_BYTES: usize = 128;

/// Changes by key: the last of each.
type Changes = HashMap<String, Option<Vec<u8>>>;

/// Changes that a thread folds.
struct Folding {
    changes: Arc<Changes>,
    thread: JoinHandle<Result<(), ImageError>>,
}

/// Changes that are in no page yet.
#[derive(Default)]
pub(super) struct Young {
    changes: Changes,
    bytes: usize,
    /// Older ones.
    folding: Option<Folding>,
}

pub(super) fn lock(pages: &Mutex<Pages>) -> MutexGuard<'_, Pages> {
    pages.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Folds changes into their pages.
fn fold(changes: &Changes, pages: &Mutex<Pages>) -> Result<(), ImageError> {
    let mut changes: Vec<_> = changes.iter().map(|(key, after)| (key.as_str(), after.as_deref())).collect();
    changes.sort_unstable_by_key(|(key, _)| *key);
    lock(pages).fold(changes.into_iter())
}

impl Young {
    /// Takes a change.
    pub(super) fn put(&mut self, ImageChange { key, after }: ImageChange) {
        self.bytes += YOUNG_BYTES + key.len() + after.as_ref().map_or(0, Vec::len);
        self.changes.insert(key, after);
    }

    /// The last change of a key; `None` where it is not among these.
    pub(super) fn get(&self, key: &str) -> Option<&Option<Vec<u8>>> {
        let older = || self.folding.as_ref().and_then(|folding| folding.changes.get(key));
        self.changes.get(key).or_else(older)
    }

    /// Whether there are enough for a fold.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= FOLD_BYTES
    }

    /// Begins to fold all changes, after an earlier fold has ended; and then to commit them as those of an outbox position.
    pub(super) fn fold_behind(
        &mut self,
        pages: &Arc<Mutex<Pages>>,
        commit_at: Option<u64>,
    ) -> Result<(), ImageError> {
        self.end_fold()?;
        let changes = Arc::new(std::mem::take(&mut self.changes));
        self.bytes = 0;
        let (folded, into) = (Arc::clone(&changes), Arc::clone(pages));
        let folding = move || {
            let done = fold(&folded, &into)
                .and_then(|()| commit_at.map_or(Ok(()), |position| lock(&into).commit(position)));
            done.inspect_err(|error| tracing::error!(%error, "images cannot be written"))
        };
        match std::thread::Builder::new().name("images".to_owned()).spawn(folding) {
            Ok(thread) => self.folding = Some(Folding { changes, thread }),
            Err(error) => {
                tracing::warn!(%error, "images are written without a thread of their own");
                self.take_back(changes);
                self.fold(pages)?;
                commit_at.map_or(Ok(()), |position| lock(pages).commit(position))?;
            }
        }
        Ok(())
    }

    /// Folds all changes.
    pub(super) fn fold(&mut self, pages: &Mutex<Pages>) -> Result<(), ImageError> {
        self.end_fold()?;
        fold(&self.changes, pages)?;
        // A large fold's memory is given back.
        (self.changes, self.bytes) = (Changes::new(), 0);
        Ok(())
    }

    /// Waits for the fold that is under way.
    pub(super) fn end_fold(&mut self) -> Result<(), ImageError> {
        let Some(Folding { changes, thread }) = self.folding.take() else { return Ok(()) };
        let folded = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        folded.inspect_err(|_| self.take_back(changes))
    }

    /// Forgets all changes.
    pub(super) fn forget(&mut self) {
        if let Err(error) = self.end_fold() {
            tracing::warn!(%error, "images that are forgotten were not folded");
        }
        (self.changes, self.bytes) = (Changes::new(), 0);
    }

    /// Takes older changes back.
    fn take_back(&mut self, changes: Arc<Changes>) {
        let younger = std::mem::replace(&mut self.changes, Arc::unwrap_or_clone(changes));
        self.changes.extend(younger);
    }
}
