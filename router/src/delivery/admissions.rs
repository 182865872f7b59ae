//! How many streams one agreement has open: a bound on what one consumer can ask of a router at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use schemas::ids::AgreementNumber;

/// Streams of one agreement at once: an agent has one, and a person may look on; a reconnecting agent may overlap.
const MAX_STREAMS: usize = 8;

/// Too many streams.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("agreement {0} has {MAX_STREAMS} streams open already; close one, or try again when one has ended")]
pub struct TooManyStreams(AgreementNumber);

type Open = Arc<Mutex<HashMap<AgreementNumber, usize>>>;

/// The open streams of a router; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Admissions(Open);

/// One open stream; it is counted until this is dropped.
#[derive(Debug)]
pub struct Admission {
    open: Open,
    number: AgreementNumber,
}

impl Admissions {
    /// Counts one more stream of an agreement, if it may have one.
    pub fn admit(&self, number: &AgreementNumber) -> Result<Admission, TooManyStreams> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(number.clone()).or_default();
        if *count >= MAX_STREAMS {
            return Err(TooManyStreams(number.clone()));
        }
        *count += 1;
        Ok(Admission { open: Arc::clone(&self.0), number: number.clone() })
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
        assert!(admissions.0.lock().unwrap().is_empty());
    }
}
