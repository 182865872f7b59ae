//! How many files and sockets a process may have open.
//!
//! Owns the limit alone: a login shell's and systemd's are 1,024, which is less than a router's connections take.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The system does not let the process open as many as it may need.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {allowed} files and sockets, but it may need {needed}; further connections wait; raise \
     LimitNOFILE of the unit, or `ulimit -Hn`"
)]
pub struct TooFew {
    /// How many the system lets it open.
    pub allowed: u64,
    /// How many it may need.
    pub needed: u64,
}

/// Makes sure that so many may be open, as far as the system's hard limit lets it.
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
