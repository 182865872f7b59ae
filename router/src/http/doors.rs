//! What one participant may take of a router, and the log lines about connections turned away.
//!
//! Owns shares: connections, requests a second, and bodies in memory. It decides nothing about rights.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use platform::identity::Peer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::paused::Pause;

/// Connections of one participant: one for each stream, and it may hold hundreds of agreements.
pub(super) const MAX_OF_PARTICIPANT: usize = 2_048;
/// Requests a second of one participant: many times what an agent with 64 busy partitions sends.
const REQUESTS_A_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(4_999);
/// Requests at once, after a pause.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(9_999);
/// Bodies of one participant that are in memory at once, in KiB; the next one waits until it fits.
const BODIES_KIB: u32 = 128 * 1_024;
/// How often the log reports connections turned away.
const SAY_EVERY: Duration = Duration::from_secs(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a connection was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// It said nothing in time, or others needed its slot.
    Silent,
    Failed,
}

/// Counts of connections turned away, logged at intervals: a line for each would be a flood too.
#[derive(Debug, Default)]
pub(super) struct TurnedAway(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    silent: u64,
    failed: u64,
    said: Option<Instant>,
}

impl TurnedAway {
    /// Counts one; logs all since the last line, if a line is due.
    pub(super) fn count(&self, how: Turned, from: IpAddr, why: &str) {
        let mut told = lock(&self.0);
        match how {
            Turned::Silent => told.silent += 1,
            Turned::Failed => told.failed += 1,
        }
        if told.said.is_some_and(|said| said.elapsed() < SAY_EVERY) {
            return;
        }
        let Told { silent, failed, .. } = std::mem::take(&mut *told);
        told.said = Some(Instant::now());
        tracing::info!(silent, failed, last = %from, %why, "connections were turned away since the last such line");
    }
}

/// What one participant has taken of this router.
#[derive(Debug)]
struct Share {
    connections: AtomicUsize,
    requests: DefaultDirectRateLimiter,
    bodies: Arc<Semaphore>,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            connections: AtomicUsize::new(0),
            requests: RateLimiter::direct(Quota::per_second(REQUESTS_A_SECOND).allow_burst(BURST)),
            bodies: Arc::new(Semaphore::new(BODIES_KIB as usize)),
        }
    }
}

/// The shares of all peers that ever connected: at most one for each name in our certificates. Clones share them. A
/// share outlives its last connection: otherwise a peer that connects again would get a new one.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<String, Arc<Share>>>>);

/// One connection's part of a share.
#[derive(Debug)]
pub(super) struct Part {
    share: Arc<Share>,
    who: String,
    /// Whether this connection is beyond the maximum.
    pub(super) is_beyond: bool,
    /// Pauses the reading of the connection.
    pub(super) pause: Pause,
}

impl Shares {
    /// A connection of this peer begins. All agents of a participant share.
    pub(super) fn enter(&self, peer: Option<&Peer>) -> Arc<Part> {
        let who = match peer {
            Some(Peer::Agent(id)) => format!("participant {}", id.participant),
            Some(other) => other.to_string(),
            None => "foreign certificates".to_owned(),
        };
        let share = Arc::clone(lock(&self.0).entry(who.clone()).or_default());
        let is_beyond = share.connections.fetch_add(1, Ordering::Relaxed) >= MAX_OF_PARTICIPANT;
        Arc::new(Part { share, who, is_beyond, pause: Pause::default() })
    }
}

impl Part {
    pub(super) fn who(&self) -> &str {
        &self.who
    }

    /// Takes one request; `false` if none is left now.
    pub(super) fn take(&self) -> bool {
        self.share.requests.check().is_ok()
    }

    /// Waits for room for a body of so many bytes; it is free again when the permit is dropped.
    pub(super) async fn room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1_024)).unwrap_or(BODIES_KIB).min(BODIES_KIB);
        Arc::clone(&self.share.bodies).acquire_many_owned(kib).await.ok()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.share.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_participant_has_its_share_and_gets_it_back() {
        let shares = Shares::default();
        let peer = Peer::Agent("1/main".parse().unwrap());
        let parts: Vec<_> = (0..=MAX_OF_PARTICIPANT).map(|_| shares.enter(Some(&peer))).collect();
        assert!(!parts[0].is_beyond && parts[MAX_OF_PARTICIPANT].is_beyond);
        let other = shares.enter(Some(&Peer::Agent("2/main".parse().unwrap())));
        let taken = (0..20_000).filter(|_| parts[0].take()).count();
        assert!((10_000..20_000).contains(&taken), "{taken}");
        // The share refills while this runs.
        let left = |part: &Part| (0..20_000).take_while(|_| part.take()).count();
        assert!(
            left(&parts[1]) < 5_000 && other.take(),
            "shared by all of its connections, and by nobody else"
        );
        drop(parts);
        let again = shares.enter(Some(&peer));
        assert!(!again.is_beyond && left(&again) < 5_000, "who comes again finds what it left");
    }
}
