//! Handshakes under way: a slot for each, and turns for each address.
//!
//! Owns which handshake is turned away when slots run out, and whose step is next. It knows nothing of TLS, and decides
//! nothing about rights.
//!
//! Three rules protect other addresses from a flood of one address. A handshake's steps cost CPU, and an address takes
//! them one at a time: its hundreds of handshakes do not delay another address. Each handshake that took a step and
//! failed makes its address wait a little. When all slots are taken, the oldest silent handshake loses its slot; if all
//! wait for their turn, the address that has most of them loses its latest.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Handshakes under way; an honest one takes milliseconds.
pub(super) const MAX_HANDSHAKES: usize = 1_024;
/// Of these from one address: many agents may share a load balancer.
const MAX_OF_ADDRESS: usize = 256;
/// How long an address waits after each failed one: failures then cost a few hundredths of a core.
const AFTER_FAILURE: Duration = Duration::from_millis(5);
/// The longest wait before one step, so that an honest agent behind the same address still connects.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// How long a connection that is turned away stays open: a client that replaces each has to wait for the end of each.
const LINGER: Duration = Duration::from_secs(1);
/// How many linger at a time; others end immediately.
pub(super) const MAX_LINGERING: usize = 512;
/// Addresses to remember; beyond this, those without a slot or a wait are forgotten.
const MAX_REMEMBERED: usize = 4 * MAX_HANDSHAKES;

#[derive(Debug)]
pub(super) struct Handshakes {
    waiting: Arc<Mutex<Waiting>>,
    lingering: Semaphore,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    slots: HashMap<u64, (IpAddr, Arc<Notify>)>,
    /// Those that wait for their peer, in the order in which they came.
    silent: BTreeSet<u64>,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Debug)]
struct Address {
    /// Those that wait for their peer.
    silent: BTreeSet<u64>,
    /// Those that wait for their turn, or have it.
    queued: BTreeSet<u64>,
    turn: Arc<Semaphore>,
    /// The earliest next step.
    free_at: Instant,
}

impl Address {
    fn new() -> Self {
        let silent = BTreeSet::new();
        let queued = BTreeSet::new();
        Self { silent, queued, turn: Arc::new(Semaphore::new(1)), free_at: Instant::now() }
    }

    fn slots(&self) -> usize {
        self.silent.len() + self.queued.len()
    }

    fn is_of_use(&self, now: Instant) -> bool {
        self.slots() > 0 || self.free_at > now
    }
}

/// A slot for one handshake; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    waiting: Arc<Mutex<Waiting>>,
    id: u64,
    from: IpAddr,
    turn: Arc<Semaphore>,
    gone: Arc<Notify>,
    /// Whether it took a step and is not done yet.
    owes: bool,
}

/// The right to one step, in the turn of an address.
type Turn = Option<OwnedSemaphorePermit>;

impl Default for Handshakes {
    fn default() -> Self {
        Self { waiting: Arc::default(), lingering: Semaphore::new(MAX_LINGERING) }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What counts as one address: for IPv6 a small site's network (RFC 6177 names a /56), since its holder has all of it.
fn counted(from: IpAddr) -> IpAddr {
    const SITE: u128 = !((1 << (128 - 56)) - 1);
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & SITE).into(),
        four @ IpAddr::V4(_) => four,
    }
}

impl Handshakes {
    /// A slot for a connection from this address, if one is free or another handshake has to leave its slot.
    pub(super) fn enter(&self, from: IpAddr) -> Option<Slot> {
        let mut waiting = lock(&self.waiting);
        let from = counted(from);
        if let Some(gone) = waiting.make_room(from).ok()? {
            gone.notify_one();
        }
        let id = waiting.next;
        let gone = Arc::new(Notify::new());
        waiting.next += 1;
        waiting.slots.insert(id, (from, Arc::clone(&gone)));
        let address = waiting.addresses.entry(from).or_insert_with(Address::new);
        let turn = Arc::clone(&address.turn);
        waiting.set_silent(id, true);
        drop(waiting);
        Some(Slot { waiting: Arc::clone(&self.waiting), id, from, turn, gone, owes: false })
    }

    /// Delays the end of a connection that was turned away, unless too many linger already.
    pub(super) async fn linger(&self) {
        if let Ok(_lingers) = self.lingering.try_acquire() {
            tokio::time::sleep(LINGER).await;
        }
    }
}

/// There is no slot.
#[derive(Debug)]
struct Full;

impl Waiting {
    /// The handshake that has to leave for one more from this address; `None` if a slot is free.
    fn make_room(&mut self, from: IpAddr) -> Result<Option<Arc<Notify>>, Full> {
        let here = self.addresses.get(&from);
        if let Some(here) = here.filter(|here| here.slots() >= MAX_OF_ADDRESS) {
            let leaves = *here.silent.first().ok_or(Full)?;
            return Ok(self.leave(leaves));
        }
        if self.slots.len() < MAX_HANDSHAKES {
            return Ok(None);
        }
        if let Some(leaves) = self.silent.first().copied() {
            return Ok(self.leave(leaves));
        }
        let here = here.map_or(0, Address::slots);
        let most = self.addresses.values().max_by_key(|address| address.slots());
        let leaves = most.filter(|most| most.slots() > here).and_then(|most| most.queued.last().copied());
        Ok(self.leave(leaves.ok_or(Full)?))
    }

    /// Whether it still has its slot.
    fn set_silent(&mut self, id: u64, is_silent: bool) -> bool {
        let Some((from, _)) = self.slots.get(&id) else { return false };
        let Some(address) = self.addresses.get_mut(from) else { return false };
        if is_silent {
            address.queued.remove(&id);
            address.silent.insert(id);
            self.silent.insert(id);
        } else {
            address.silent.remove(&id);
            self.silent.remove(&id);
            address.queued.insert(id);
        }
        true
    }

    fn leave(&mut self, id: u64) -> Option<Arc<Notify>> {
        let (from, gone) = self.slots.remove(&id)?;
        self.silent.remove(&id);
        let now = Instant::now();
        if let Some(address) = self.addresses.get_mut(&from) {
            address.silent.remove(&id);
            address.queued.remove(&id);
            if !address.is_of_use(now) {
                self.addresses.remove(&from);
            }
        }
        Some(gone)
    }

    /// One handshake of this address has failed.
    fn owe(&mut self, from: IpAddr) {
        let now = Instant::now();
        if self.addresses.len() >= MAX_REMEMBERED {
            self.addresses.retain(|_, address| address.is_of_use(now));
        }
        let address = self.addresses.entry(from).or_insert_with(Address::new);
        address.free_at = (address.free_at.max(now) + AFTER_FAILURE).min(now + MAX_WAIT);
    }

    fn free_at(&self, from: IpAddr) -> Option<Instant> {
        self.addresses.get(&from).map(|address| address.free_at)
    }
}

/// Returns when the task is woken.
async fn woken() {
    let mut is_woken = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut is_woken, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Slot {
    /// Returns when it must leave.
    pub(super) async fn gone(&self) {
        self.gone.notified().await;
    }

    /// The handshake is done.
    pub(super) fn done(mut self) {
        self.owes = false;
    }

    /// Drives a future, each step in its address's turn; `None` if it must leave.
    ///
    /// A turn lasts for one step and never includes a wait for the peer, so that no peer can hold it up.
    pub(super) async fn in_turns<F: Future>(&mut self, mut future: Pin<&mut F>) -> Option<F::Output> {
        loop {
            let turn = self.turn().await?;
            self.owes = true;
            let step = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
            drop(turn);
            if let Poll::Ready(output) = step {
                return Some(output);
            }
            if !lock(&self.waiting).set_silent(self.id, true) {
                return None;
            }
            tokio::select! {
                biased;
                () = self.gone() => return None,
                () = woken() => {}
            }
        }
    }

    /// Its turn, after the wait that its address owes.
    async fn turn(&self) -> Option<Turn> {
        if !lock(&self.waiting).set_silent(self.id, false) {
            return None;
        }
        let turn = async {
            // It is never closed.
            let turn = Arc::clone(&self.turn).acquire_owned().await.ok();
            let free_at = lock(&self.waiting).free_at(self.from);
            if let Some(free_at) = free_at.filter(|free_at| *free_at > Instant::now()) {
                tokio::time::sleep_until(free_at).await;
            }
            turn
        };
        tokio::select! {
            biased;
            () = self.gone() => None,
            turn = turn => Some(turn),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        if self.owes {
            waiting.owe(self.from);
        }
        waiting.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(n: usize) -> IpAddr {
        IpAddr::from([10, 0, u8::try_from(n / 250).unwrap(), u8::try_from(n % 250).unwrap()])
    }

    fn has(handshakes: &Handshakes, slot: &Slot) -> bool {
        lock(&handshakes.waiting).slots.contains_key(&slot.id)
    }

    async fn step<T>(slot: &mut Slot, value: T) -> Option<T> {
        slot.in_turns(std::pin::pin!(std::future::ready(value))).await
    }

    #[tokio::test]
    async fn the_first_silent_one_goes_and_others_addresses_keep_theirs() {
        let handshakes = Handshakes::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        let other = IpAddr::from([192, 0, 2, 2]);
        let honest = handshakes.enter(other).unwrap();
        let silent: Vec<Slot> = (0..MAX_OF_ADDRESS).map(|_| handshakes.enter(one).unwrap()).collect();
        let late = handshakes.enter(one).unwrap();
        silent[0].gone().await;
        assert!(!has(&handshakes, &silent[0]) && has(&handshakes, &honest) && has(&handshakes, &late));
        drop((silent, late));
        assert_eq!(lock(&handshakes.waiting).addresses.len(), 1, "nobody else owes anything");
        let _flood: Vec<Slot> = (0..MAX_HANDSHAKES).map(|n| handshakes.enter(many(n)).unwrap()).collect();
        honest.gone().await;
    }

    #[tokio::test]
    async fn where_all_wait_for_us_the_address_with_most_of_them_loses_its_latest() {
        let handshakes = Handshakes::default();
        let of_site =
            |site: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, (site << 8) | (host % 3), 0, 0, 0, host]);
        let mut queued = Vec::new();
        for site in 0..4 {
            for host in 0..256 {
                let slot = handshakes.enter(of_site(site, host)).unwrap();
                lock(&handshakes.waiting).set_silent(slot.id, false);
                queued.push(slot);
            }
        }
        assert!(handshakes.enter(of_site(2, 7)).is_none(), "a site has so many and no more");
        let honest = handshakes.enter(of_site(9, 1)).unwrap();
        assert_eq!(queued.iter().filter(|slot| !has(&handshakes, slot)).count(), 1);
        assert!(queued.iter().filter(|slot| !has(&handshakes, slot)).all(|slot| slot.id % 256 == 255));
        assert!(has(&handshakes, &honest));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_takes_one_step_at_a_time_and_waits_for_nobody_elses() {
        let handshakes = Handshakes::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        let other = IpAddr::from([192, 0, 2, 2]);
        let [mut held, mut next] = [one; 2].map(|one| handshakes.enter(one).unwrap());
        let turn = held.turn().await.unwrap();
        assert!(
            tokio::time::timeout(LINGER, step(&mut next, 1)).await.is_err(),
            "the address's turn is taken"
        );
        assert_eq!(step(&mut handshakes.enter(other).unwrap(), 2).await, Some(2));
        drop(turn);
        assert_eq!(step(&mut next, 3).await, Some(3));
        // A handshake that waits for its peer holds no turn.
        let stalled = std::pin::pin!(std::future::pending::<()>());
        tokio::select! {
            biased;
            _ = held.in_turns(stalled) => unreachable!("it waits for ever"),
            four = step(&mut next, 4) => assert_eq!(four, Some(4)),
        }
        assert!(lock(&handshakes.waiting).silent.contains(&held.id));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_to_go_while_it_waits_for_its_turn_leaves_the_turn_to_others() {
        let handshakes = Handshakes::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        let [holder, mut evicted, mut next] = [one; 3].map(|one| handshakes.enter(one).unwrap());
        let turn = holder.turn().await.unwrap();
        let id = evicted.id;
        let mut waits = Box::pin(async move { (step(&mut evicted, 1).await, evicted) });
        assert!(tokio::time::timeout(AFTER_FAILURE, &mut waits).await.is_err());
        if let Some(gone) = lock(&handshakes.waiting).leave(id) {
            gone.notify_one();
        }
        let (outcome, lingers) = waits.await;
        assert_eq!(outcome, None);
        drop(turn);
        assert_eq!(tokio::time::timeout(AFTER_FAILURE, step(&mut next, 2)).await, Ok(Some(2)));
        drop(lingers);
    }

    #[tokio::test(start_paused = true)]
    async fn who_spoke_and_came_to_nothing_makes_its_address_wait() {
        let handshakes = Handshakes::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        let other = IpAddr::from([192, 0, 2, 2]);
        for _ in 0..1_000 {
            step(&mut handshakes.enter(one).unwrap(), ()).await.unwrap();
        }
        let begun = Instant::now();
        step(&mut handshakes.enter(other).unwrap(), ()).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let mut last = handshakes.enter(one).unwrap();
        step(&mut last, ()).await.unwrap();
        last.done();
        assert!((AFTER_FAILURE..=MAX_WAIT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        let begun = Instant::now();
        step(&mut handshakes.enter(one).unwrap(), ()).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "who is done owes nothing");
    }
}
