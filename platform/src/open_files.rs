//! How many files and sockets a process may have open.
//!
//! Owns only the limit: login shells and systemd set 1,024, which is too few for a router's connections.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The system does not let the process open enough files.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {allowed} files and sockets, but it may need {needed}; beyond that connections wait \
     and files cannot be opened; raise LimitNOFILE of the unit, or `ulimit -Hn`"
)]
pub struct TooFew {
    /// How many the system allows.
    pub allowed: u64,
    /// How many it may need.
    pub needed: u64,
}

/// Raises the limit to `needed`, as far as the system's hard limit allows.
pub fn allow(needed: u64) -> Result<(), TooFew> {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    if soft >= needed {
        return Ok(());
    }
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(needed);
    limit.current = Some(wanted);
    let allowed = setrlimit(Resource::Nofile, limit).map_or(soft, |()| wanted);
    if allowed < needed { Err(TooFew { allowed, needed }) } else { Ok(()) }
}
