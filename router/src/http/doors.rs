//! Who may come in, and how often: handshakes in places of their own, and what one participant may take of a router.
//!
//! Owns the bounds against floods. When all places of a handshake are taken, the one that has been silent longest goes, so that
//! whoever speaks gets in whatever others do. It decides nothing about rights.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use platform::identity::Peer;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Handshakes under way; an honest one takes milliseconds.
pub(super) const MAX_HANDSHAKES: usize = 1_024;
/// Of these from one address: a balancer may stand before many agents.
pub(super) const MAX_OF_ADDRESS: usize = 256;
/// Connections of one participant: one for each stream, and it may hold hundreds of agreements.
pub(super) const MAX_OF_PARTICIPANT: usize = 2_048;
/// Requests a second of one participant: many times what an agent with 64 busy partitions sends.
const REQUESTS_A_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(4_999);
/// Requests at once, after a pause.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(9_999);
/// Bodies of one participant that are in memory at once, in KiB; the next one waits until it fits.
const BODIES_KIB: u32 = 128 * 1_024;
/// The log says how many were refused so often.
const SAY_EVERY: Duration = Duration::from_secs(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handshakes under way, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    places: VecDeque<(u64, IpAddr, Arc<Notify>)>,
}

/// A place for one handshake; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    handshakes: Arc<Handshakes>,
    id: u64,
    gone: Arc<Notify>,
}

impl Handshakes {
    /// A place for whoever comes from this address. Where there is none left, the longest silent one goes.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> Place {
        let gone = Arc::new(Notify::new());
        let mut waiting = lock(&self.0);
        let id = waiting.next;
        waiting.next += 1;
        let of_address = waiting.places.iter().filter(|(_, address, _)| *address == from).count();
        let leaves = if of_address >= MAX_OF_ADDRESS {
            waiting.places.iter().position(|(_, address, _)| *address == from)
        } else {
            (waiting.places.len() >= MAX_HANDSHAKES).then_some(0)
        };
        if let Some((.., oldest)) = leaves.and_then(|index| waiting.places.remove(index)) {
            oldest.notify_one();
        }
        waiting.places.push_back((id, from, Arc::clone(&gone)));
        Place { handshakes: Arc::clone(self), id, gone }
    }
}

impl Place {
    /// Returns when it has to go.
    pub(super) async fn gone(&self) {
        self.gone.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = lock(&self.handshakes.0);
        if let Ok(index) = waiting.places.binary_search_by_key(&self.id, |(id, ..)| *id) {
            waiting.places.remove(index);
        }
    }
}

/// What becomes of a connection before anybody is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// It said nothing in time, or was the longest silent one.
    Silent,
    /// Its handshake failed.
    Failed,
}

/// How many were turned away, said now and then: a line for each would be a flood of its own.
#[derive(Debug, Default)]
pub(super) struct TurnedAway(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    silent: u64,
    failed: u64,
    said: Option<Instant>,
}

impl TurnedAway {
    /// Counts one; the log hears of all since it heard last.
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

/// The shares of all who ever came: as many as there are names in certificates of ours. Clones share them. A share is
/// kept when its last connection ends, or who connects again would begin with a new one.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<String, Arc<Share>>>>);

/// One connection's part of a share.
#[derive(Debug)]
pub(super) struct Part {
    share: Arc<Share>,
    who: String,
    /// Whether there are more connections than may be.
    pub(super) is_beyond: bool,
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
        Arc::new(Part { share, who, is_beyond })
    }
}

impl Part {
    /// Whose it is.
    pub(super) fn who(&self) -> &str {
        &self.who
    }

    /// Whether one more request may come now.
    pub(super) fn take(&self) -> bool {
        self.share.requests.check().is_ok()
    }

    /// Room for a body of so many bytes, as soon as there is; it is free again when this is dropped.
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

    #[tokio::test]
    async fn the_longest_silent_one_goes_and_others_addresses_keep_theirs() {
        let handshakes = Arc::new(Handshakes::default());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let honest = handshakes.enter(other);
        let silent: Vec<Place> = (0..MAX_OF_ADDRESS).map(|_| handshakes.enter(one)).collect();
        let late = handshakes.enter(one);
        silent[0].gone().await;
        let is_gone = |place: &Place| lock(&handshakes.0).places.iter().all(|(id, ..)| *id != place.id);
        assert!(is_gone(&silent[0]) && !is_gone(&honest) && !is_gone(&late));
        drop((silent, late));
        assert_eq!(lock(&handshakes.0).places.len(), 1);
        let many =
            |n: usize| IpAddr::from([10, 0, u8::try_from(n / 250).unwrap(), u8::try_from(n % 250).unwrap()]);
        let _flood: Vec<Place> = (0..MAX_HANDSHAKES).map(|n| handshakes.enter(many(n))).collect();
        honest.gone().await;
    }

    #[test]
    fn a_participant_has_its_share_and_gets_it_back() {
        let shares = Shares::default();
        let peer = Peer::Agent("1/main".parse().unwrap());
        let parts: Vec<_> = (0..=MAX_OF_PARTICIPANT).map(|_| shares.enter(Some(&peer))).collect();
        assert!(!parts[0].is_beyond && parts[MAX_OF_PARTICIPANT].is_beyond);
        let other = shares.enter(Some(&Peer::Agent("2/main".parse().unwrap())));
        let taken = (0..20_000).filter(|_| parts[0].take()).count();
        assert!((10_000..20_000).contains(&taken), "{taken}");
        assert!(!parts[1].take() && other.take(), "shared by all of its connections, and by nobody else");
        drop(parts);
        let again = shares.enter(Some(&peer));
        assert!(!again.is_beyond && !again.take(), "who comes again finds what it left");
    }
}
