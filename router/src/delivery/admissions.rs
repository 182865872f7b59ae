//! Bounds on what consumers can ask of a router: streams of one agreement, and requests that read much at once.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use schemas::ids::AgreementNumber;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams of one agreement at once: an agent has one, and a person may look on; a reconnecting agent may overlap.
const MAX_STREAMS: usize = 8;

/// Reconciliations and shadows at once: each may read as much as a snapshot, and the others can wait.
const CHECKS_AT_ONCE: usize = 2;

/// Streams that one agreement may begin per second: each has an entry in the audit. An agent begins one for each query
/// of a reconciliation, one after the other.
const BEGUN_A_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

/// Streams that it may begin at once, after a pause.
const BEGUN_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(199);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooManyStreams {
    #[error(
        "agreement {0} has {MAX_STREAMS} streams open already; close one, or try again when one has ended"
    )]
    Open(AgreementNumber),
    #[error("agreement {0} begins more than {BEGUN_A_SECOND} streams a second; come again in a second")]
    Begun(AgreementNumber),
}

type Begun = RateLimiter<AgreementNumber, HashMapStateStore<AgreementNumber>, DefaultClock>;
type Open = Arc<Mutex<HashMap<AgreementNumber, usize>>>;

/// The open streams of a router; clones share them.
#[derive(Debug, Clone)]
pub struct Admissions {
    open: Open,
    begun: Arc<Begun>,
    checks: Arc<Semaphore>,
}

impl Default for Admissions {
    fn default() -> Self {
        let begun = RateLimiter::hashmap(Quota::per_second(BEGUN_A_SECOND).allow_burst(BEGUN_AT_ONCE));
        Self {
            open: Open::default(),
            begun: Arc::new(begun),
            checks: Arc::new(Semaphore::new(CHECKS_AT_ONCE)),
        }
    }
}

/// One open stream; it is counted until this is dropped.
#[derive(Debug)]
pub struct Admission {
    open: Open,
    number: AgreementNumber,
}

impl Admissions {
    /// Waits for a turn to read for a reconciliation or a shadow.
    pub async fn check(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.checks).acquire_owned().await.ok()
    }

    /// Counts one more stream of an agreement, if it may have one.
    pub fn admit(&self, number: &AgreementNumber) -> Result<Admission, TooManyStreams> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(number).is_some_and(|count| *count >= MAX_STREAMS) {
            return Err(TooManyStreams::Open(number.clone()));
        }
        if self.begun.check_key(number).is_err() {
            return Err(TooManyStreams::Begun(number.clone()));
        }
        *open.entry(number.clone()).or_default() += 1;
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
        let a = "A".parse().unwrap();
        let b = "B".parse().unwrap();
        let mut open: Vec<Admission> = (0..MAX_STREAMS).map(|_| admissions.admit(&a).unwrap()).collect();
        assert!(admissions.admit(&a).is_err());
        assert!(admissions.admit(&b).is_ok(), "another's streams do not count");
        open.pop();
        assert!(admissions.admit(&a).is_ok());
        drop(open);
        assert!(admissions.open.lock().unwrap().is_empty());
    }

    #[test]
    fn an_agreement_begins_streams_so_often_and_no_oftener() {
        let admissions = Admissions::default();
        let a = "A".parse().unwrap();
        let b = "B".parse().unwrap();
        let begun = (0..1_000).filter(|_| admissions.admit(&a).is_ok()).count();
        assert!((200..1_000).contains(&begun), "{begun}");
        assert!(matches!(admissions.admit(&a), Err(TooManyStreams::Begun(_))));
        assert!(admissions.admit(&b).is_ok(), "another's do not count");
    }
}
