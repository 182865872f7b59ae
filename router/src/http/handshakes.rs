//! Handshakes under way: a place for each, and turns for each address.
//!
//! Owns who is turned away when places run out, and whose step is next. It knows nothing of TLS, and decides nothing about
//! rights.
//!
//! Three rules keep a flood of one address from being felt by others. A handshake's steps cost CPU, and an address takes them
//! one at a time: its hundreds do not stand before the one of somebody else. After a failed one its address waits a little.
//! When all places are taken, the one that has been silent longest goes; whoever waits for us keeps its place.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Handshakes under way; an honest one takes milliseconds.
pub(super) const MAX_HANDSHAKES: usize = 1_024;
/// Of these from one address: a balancer may stand before many agents.
const MAX_OF_ADDRESS: usize = 256;
/// How long an address waits after a failed one: its failures cost a few hundredths of a core, and who comes from the same
/// address waits less than a second.
pub(super) const AFTER_FAILURE: Duration = Duration::from_millis(5);
/// How long a connection that is turned away stays as it is. Who replaces each at once has to wait for the end of each.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// How many linger at once; others end at once.
pub(super) const MAX_LINGERING: usize = 512;

/// Handshakes under way. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Handshakes {
    waiting: Arc<Mutex<Waiting>>,
    lingering: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    places: HashMap<u64, (IpAddr, Arc<Notify>)>,
    /// Those that wait for their peer; the first has waited longest.
    silent: BTreeSet<u64>,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Debug)]
struct Address {
    places: usize,
    silent: BTreeSet<u64>,
    turn: Arc<Semaphore>,
}

impl Default for Address {
    fn default() -> Self {
        Self { places: 0, silent: BTreeSet::new(), turn: Arc::new(Semaphore::new(1)) }
    }
}

/// A place for one handshake; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    waiting: Arc<Mutex<Waiting>>,
    id: u64,
    turn: Arc<Semaphore>,
    gone: Arc<Notify>,
}

/// An address's turn; the next one's comes when this is dropped.
pub(super) type Turn = Option<OwnedSemaphorePermit>;

impl Default for Handshakes {
    fn default() -> Self {
        Self { waiting: Arc::default(), lingering: Arc::new(Semaphore::new(MAX_LINGERING)) }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What counts as one address: of IPv6 the network of a site (RFC 6177), since its holder has all of it.
fn counted(from: IpAddr) -> IpAddr {
    const SITE: u128 = !((1 << 64) - 1);
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & SITE).into(),
        four @ IpAddr::V4(_) => four,
    }
}

impl Handshakes {
    /// A place for whoever comes from this address, if there is one or somebody silent has to leave its own.
    pub(super) fn enter(&self, from: IpAddr) -> Option<Place> {
        let mut waiting = lock(&self.waiting);
        let from = counted(from);
        let here = waiting.addresses.get(&from);
        let is_full_here = here.is_some_and(|here| here.places >= MAX_OF_ADDRESS);
        if is_full_here || waiting.places.len() >= MAX_HANDSHAKES {
            let silent = if is_full_here { here.map(|here| &here.silent) } else { Some(&waiting.silent) };
            let leaves = silent.and_then(|silent| silent.first().copied())?;
            if let Some(gone) = waiting.leave(leaves) {
                gone.notify_one();
            }
        }
        let (id, gone) = (waiting.next, Arc::new(Notify::new()));
        waiting.next += 1;
        waiting.places.insert(id, (from, Arc::clone(&gone)));
        let address = waiting.addresses.entry(from).or_default();
        address.places += 1;
        let turn = Arc::clone(&address.turn);
        waiting.set_silent(id, true);
        drop(waiting);
        Some(Place { waiting: Arc::clone(&self.waiting), id, turn, gone })
    }

    /// Waits before a connection that was turned away ends, where not too many wait already.
    pub(super) async fn linger(&self) {
        if let Ok(_lingers) = self.lingering.try_acquire() {
            tokio::time::sleep(LINGER).await;
        }
    }
}

impl Waiting {
    fn set_silent(&mut self, id: u64, is_silent: bool) {
        let Some((from, _)) = self.places.get(&id) else { return };
        let of_address = self.addresses.get_mut(from).map(|address| &mut address.silent);
        for silent in of_address.into_iter().chain([&mut self.silent]) {
            if is_silent {
                silent.insert(id);
            } else {
                silent.remove(&id);
            }
        }
    }

    fn leave(&mut self, id: u64) -> Option<Arc<Notify>> {
        self.set_silent(id, false);
        let (from, gone) = self.places.remove(&id)?;
        if let Some(address) = self.addresses.get_mut(&from) {
            address.places -= 1;
            if address.places == 0 {
                self.addresses.remove(&from);
            }
        }
        Some(gone)
    }
}

impl Place {
    /// Returns when it has to go.
    pub(super) async fn gone(&self) {
        self.gone.notified().await;
    }

    /// Drives a future, each step in its address's turn; what it gave, and the last step's turn.
    ///
    /// A turn is held for a step alone and never while a peer is waited for, so that no peer can hold it up.
    pub(super) async fn in_turns<F: Future>(&self, future: F) -> (F::Output, Turn) {
        let mut future = pin!(future);
        loop {
            lock(&self.waiting).set_silent(self.id, false);
            // Nobody closes it.
            let turn = Arc::clone(&self.turn).acquire_owned().await.ok();
            let step = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
            if let Poll::Ready(output) = step {
                return (output, turn);
            }
            drop(turn);
            lock(&self.waiting).set_silent(self.id, true);
            let mut is_woken = false;
            std::future::poll_fn(|_| {
                if std::mem::replace(&mut is_woken, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.waiting).leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(n: usize) -> IpAddr {
        IpAddr::from([10, 0, u8::try_from(n / 250).unwrap(), u8::try_from(n % 250).unwrap()])
    }

    #[tokio::test]
    async fn the_longest_silent_one_goes_and_others_addresses_keep_theirs() {
        let handshakes = Handshakes::default();
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let honest = handshakes.enter(other).unwrap();
        let silent: Vec<Place> = (0..MAX_OF_ADDRESS).map(|_| handshakes.enter(one).unwrap()).collect();
        let late = handshakes.enter(one).unwrap();
        silent[0].gone().await;
        let is_gone = |place: &Place| !lock(&handshakes.waiting).places.contains_key(&place.id);
        assert!(is_gone(&silent[0]) && !is_gone(&honest) && !is_gone(&late));
        drop((silent, late));
        assert_eq!(lock(&handshakes.waiting).places.len(), 1);
        let _flood: Vec<Place> = (0..MAX_HANDSHAKES).map(|n| handshakes.enter(many(n)).unwrap()).collect();
        honest.gone().await;
    }

    #[tokio::test]
    async fn whoever_waits_for_us_keeps_its_place_and_a_site_of_ipv6_is_one_address() {
        let handshakes = Handshakes::default();
        let of_site = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]);
        let first = handshakes.enter(of_site(1)).unwrap();
        lock(&handshakes.waiting).set_silent(first.id, false);
        let silent: Vec<_> = (2..=256).map(|host| handshakes.enter(of_site(host)).unwrap()).collect();
        let _more: Vec<_> = (0..10).map(|_| handshakes.enter(of_site(9)).unwrap()).collect();
        silent[9].gone().await;
        assert!(lock(&handshakes.waiting).places.contains_key(&first.id));
        let ids: Vec<u64> = lock(&handshakes.waiting).places.keys().copied().collect();
        ids.iter().for_each(|id| lock(&handshakes.waiting).set_silent(*id, false));
        assert!(handshakes.enter(of_site(7)).is_none(), "nobody is silent");
        assert!(handshakes.enter(IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1])).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_takes_one_step_at_a_time_and_waits_for_nobody_elses() {
        let handshakes = Handshakes::default();
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let (held, next) = (handshakes.enter(one).unwrap(), handshakes.enter(one).unwrap());
        let (output, turn) = held.in_turns(async { tokio::time::sleep(LINGER).await }).await;
        assert_eq!(output, ());
        let waits = tokio::time::timeout(LINGER, next.in_turns(std::future::ready(1))).await;
        assert!(waits.is_err(), "the turn of the address is taken");
        assert_eq!(handshakes.enter(other).unwrap().in_turns(std::future::ready(2)).await.0, 2);
        drop(turn);
        assert_eq!(next.in_turns(std::future::ready(3)).await.0, 3);
        // Who waits for its peer does not hold the turn.
        let stalled = held.in_turns(std::future::pending::<()>());
        let others = async { next.in_turns(std::future::ready(4)).await.0 };
        tokio::select! {
            biased;
            _ = stalled => unreachable!("it waits for ever"),
            four = others => assert_eq!(four, 4),
        }
        assert_eq!(next.in_turns(std::future::ready(5)).await.0, 5);
        assert!(lock(&handshakes.waiting).silent.contains(&held.id));
    }
}
