//! Randomness for ids, from the operating system.

/// The operating system gave no random bytes; nothing is safe without them.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct NoRandomness(getrandom::Error);

/// Sixteen random bytes, for epochs, log ids and snapshots.
pub fn id() -> Result<[u8; 16], NoRandomness> {
    bytes()
}

pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    #[cfg(feature = "simulation")]
    if let Some(host) = crate::host::current() {
        host.fill(&mut bytes);
        return Ok(bytes);
    }
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}
