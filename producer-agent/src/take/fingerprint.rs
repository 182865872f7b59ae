//! Fingerprints of keys and images: 128 bits, so that a survey tells them apart without keeping them.
//!
//! Owns the secret of each survey: nobody can write two rows into a register that get the same fingerprint. A fingerprint
//! means nothing to another survey, and is never written.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::num::NonZeroU128;

use siphasher::sip128::SipHasher13;

/// 128 bits of SipHash, of which none is zero: where there is none takes no more memory. SHA-256, which needs no secret, took
/// a third of a survey's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(NonZeroU128);

/// Makes the fingerprints of one survey.
#[derive(Debug)]
pub(super) struct Fingerprints(SipHasher13);

impl Default for Fingerprints {
    fn default() -> Self {
        let random = RandomState::new();
        Self(SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)))
    }
}

impl Fingerprints {
    pub(super) fn of(&self, bytes: &[u8]) -> Fingerprint {
        Fingerprint(NonZeroU128::new(self.0.hash(bytes).as_u128()).unwrap_or(NonZeroU128::MIN))
    }
}

/// A map by fingerprints, which are hashes already.
pub(super) type ByFingerprint<T> = HashMap<Fingerprint, T, BuildHasherDefault<FirstBits>>;

/// Takes the first bits of a fingerprint as its hash.
#[derive(Debug, Default)]
pub(super) struct FirstBits(u64);

impl Hasher for FirstBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = u64::try_from(fingerprint >> 64).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_have_one_fingerprint_in_one_survey_and_another_one_in_the_next() {
        let (one, other) = (Fingerprints::default(), Fingerprints::default());
        assert_eq!(one.of(b"a"), one.of(b"a"));
        assert_ne!(one.of(b"a"), one.of(b"b"));
        assert_ne!(one.of(b"a"), other.of(b"a"));
    }
}
