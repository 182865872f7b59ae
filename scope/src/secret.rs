//! The network's secret and the keys derived from it for each agreement.
//!
//! Owns keyed hashing (HMAC-SHA-256). Equal values are equal within an agreement and unlinkable across them.

use hmac::{Hmac, Mac};
use schemas::ids::AgreementNumber;
use sha2::Sha256;

const KEY_LABEL: &[u8] = b"dit agreement key v1\0";
const MIN_SECRET_BYTES: usize = 32;

/// The network's secret; never shown.
#[derive(Clone)]
pub struct NetworkSecret(Vec<u8>);

/// A secret that is too short to keep anything secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the network secret has {0} bytes; it needs at least {MIN_SECRET_BYTES}")]
pub struct SecretTooShort(usize);

impl NetworkSecret {
    /// Takes a secret of at least 32 bytes.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretTooShort> {
        if bytes.len() < MIN_SECRET_BYTES { Err(SecretTooShort(bytes.len())) } else { Ok(Self(bytes)) }
    }

    /// The key of one agreement.
    pub fn agreement_key(&self, number: &AgreementNumber) -> AgreementKey {
        AgreementKey(mac(&self.0, &[KEY_LABEL, number.as_str().as_bytes()]))
    }
}

impl std::fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkSecret(…)")
    }
}

/// One agreement's hashing key; never shown.
#[derive(Clone)]
pub struct AgreementKey([u8; 32]);

impl AgreementKey {
    /// The routers' seal on a value that a consumer carries for them. No field's name is this domain.
    pub fn seal(&self, value: &[u8]) -> String {
        self.hash("\u{1}seal", value)
    }

    /// The keyed hash of a value, as 64 hexadecimal digits. `domain` keeps equal texts of different meaning apart.
    pub fn hash(&self, domain: &str, value: &[u8]) -> String {
        hex::encode(mac(&self.0, &[domain.as_bytes(), b"\0", value]))
    }
}

impl std::fmt::Debug for AgreementKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgreementKey(…)")
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a key of any length: this cannot fail, and a MAC of zeros would reveal nothing.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_stable_within_an_agreement_and_differ_across() {
        let secret = NetworkSecret::new(vec![7; 32]).unwrap_or_else(|e| panic!("{e}"));
        let key = |number: &str| secret.agreement_key(&number.parse().unwrap_or_else(|e| panic!("{e}")));
        assert_eq!(key("A").hash("key", b"x"), key("A").hash("key", b"x"));
        assert_ne!(key("A").hash("key", b"x"), key("B").hash("key", b"x"));
        assert_ne!(key("A").hash("key", b"x"), key("A").hash("name", b"x"));
        assert_eq!(key("A").hash("key", b"x").len(), 64);
        assert_eq!(format!("{:?} {secret:?}", key("A")), "AgreementKey(…) NetworkSecret(…)");
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert_eq!(NetworkSecret::new(vec![0; 31]).map(drop), Err(SecretTooShort(31)));
    }
}
