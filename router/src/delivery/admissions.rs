//! How many streams one agreement has open, and how many questions are answered at once: bounds on what consumers can
//! ask of a router.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use schemas::ids::AgreementNumber;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams of one agreement at once: an agent has one, and a person may look on; a reconnecting agent may overlap.
const MAX_STREAMS: usize = 8;

/// States that are read at once to answer consumers' questions: each costs what a pass costs, and the rest can wait.
const CHECKS_AT_ONCE: usize = 2;

/// Too many streams.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("agreement {0} has {MAX_STREAMS} streams open already; close one, or try again when one has ended")]
pub struct TooManyStreams(AgreementNumber);

type Open = Arc<Mutex<HashMap<AgreementNumber, usize>>>;

/// The open streams of a router; clones share them.
#[derive(Debug, Clone)]
pub struct Admissions {
    open: Open,
    checks: Arc<Semaphore>,
}

impl Default for Admissions {
    fn default() -> Self {
        Self { open: Open::default(), checks: Arc::new(Semaphore::new(CHECKS_AT_ONCE)) }
    }
}

/// One open stream; it is counted until this is dropped.
#[derive(Debug)]
pub struct Admission {
    open: Open,
    number: AgreementNumber,
}

impl Admissions {
    /// Waits for a turn to read a state for a consumer's question.
    pub async fn check(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.checks).acquire_owned().await.ok()
    }

    /// Counts one more stream of an agreement, if it may have one.
    pub fn admit(&self, number: &AgreementNumber) -> Result<Admission, TooManyStreams> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(number.clone()).or_default();
        if *count >= MAX_STREAMS {
            return Err(TooManyStreams(number.clone()));
        }
        *count += 1;
        Ok(Admission { open: Arc::clone(&self.open), number: number.clone() })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.number) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agreement_has_so_many_streams_and_no_more() {
        let admissions = Admissions::default();
        let (a, b) = ("A".parse().unwrap(), "B".parse().unwrap());
        let mut open: Vec<Admission> = (0..MAX_STREAMS).map(|_| admissions.admit(&a).unwrap()).collect();
        assert!(admissions.admit(&a).is_err());
        assert!(admissions.admit(&b).is_ok(), "another's streams do not count");
        open.pop();
        assert!(admissions.admit(&a).is_ok());
        drop(open);
        assert!(admissions.open.lock().unwrap().is_empty());
    }
}
