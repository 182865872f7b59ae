//! The digest chain of an epoch in one partition: it shows whether a record continues another.
//!
//! d0 is the epoch's id; dn is the first 128 bits of SHA-256(dn-1 ‖ length ‖ bare datum), the length as 8 bytes,
//! big-endian (docs/protocol.md, 2). The datum is a whole block: the chain has one link for each record.

use sha2::{Digest as _, Sha256};

use crate::ids::{Digest, Epoch};

/// The digest before an epoch's first record.
pub fn first(epoch: Epoch) -> Digest {
    Digest::new(*epoch.as_bytes())
}

/// The digest after a record.
pub fn next(before: Digest, datum: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(before.as_bytes());
    hash.update(u64::try_from(datum.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(datum);
    let mut prefix = [0; 16];
    prefix.copy_from_slice(hash.finalize().split_at(16).0);
    Digest::new(prefix)
}

/// 128 bits of a hash: enough to tell keys and images apart without keeping them.
pub fn hash128(bytes: &[u8]) -> u128 {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest.iter().take(16).fold(0, |hash, byte| (hash << 8) | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_the_published_one() {
        // Fixed: a change of this value is a change of the protocol.
        let d1 = next(first(Epoch::new([0; 16])), b"v");
        assert_eq!(d1.to_string(), "1ca242bee2d876927d92bd4db3e8b04e");
    }
}
