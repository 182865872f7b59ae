//! The fold of the beats. Pure: beats and the time in, verdicts out.
//!
//! Owns three answers: may this router send, has every router applied a revocation, and which router holds a shard.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use schemas::digest::hash128;
use schemas::ids::Offset;
use serde::{Deserialize, Serialize};

/// How long a beat lets its router send, counted from before it was appended.
pub const LEASE: Duration = Duration::from_secs(2);
/// After this no other router's beat is valid any more: a fifth is added for clocks that run apart.
pub const LEASE_WITH_DRIFT: Duration = Duration::from_millis(2_400);
/// The format of beats that this binary writes.
pub const FORMAT: u32 = 1;

/// One start of one router. Each start has a new id, so that a router is not taken for its earlier start.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(String);

impl Incarnation {
    pub fn new(random: [u8; 16]) -> Self {
        Self(hex::encode(random))
    }
}

/// A router's record that it is alive, and how far it has applied control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    pub format: u32,
    pub router: String,
    pub incarnation: Incarnation,
    /// Counts a start's beats.
    pub number: u64,
    /// The first control offset that it has not applied.
    pub applied: Offset,
}

/// Time since the machine was started, suspension included.
pub type Moment = Duration;

#[derive(Debug)]
struct Peer {
    applied: Offset,
    seen: Moment,
}

/// The fold of the beats that were read.
#[derive(Debug)]
pub struct Board {
    own: Incarnation,
    /// All beats since this moment were read; earlier ones are unknown.
    since: Moment,
    /// Own beats under way, by number: when each was begun.
    begun: BTreeMap<u64, Moment>,
    /// The newest own beat that was read back: when it was begun, and its control offset.
    renewed: Option<(Moment, Offset)>,
    /// The largest control offset that any beat named.
    largest: Offset,
    peers: HashMap<Incarnation, Peer>,
}

/// Own beats that may be under way at once: more than a lease holds.
const UNDER_WAY: usize = 1_024;

impl Board {
    /// Before any beat.
    pub fn new(own: Incarnation, now: Moment) -> Self {
        let begun = BTreeMap::new();
        let peers = HashMap::new();
        Self { own, since: now, begun, renewed: None, largest: Offset::new(0), peers }
    }

    /// Beats were missed: until their leases are over, the routers that may send or hold shards are unknown.
    pub fn missed(&mut self, now: Moment) {
        (self.since, self.renewed) = (now, None);
    }

    /// Takes the end of control, asked after an own beat: beats that were not read name no later offset.
    pub fn control_ends(&mut self, end: Offset) {
        self.largest = self.largest.max(end);
    }

    /// An own beat is about to be appended.
    pub fn begin(&mut self, number: u64, now: Moment) {
        self.begun.insert(number, now);
        if self.begun.len() > UNDER_WAY {
            self.begun.pop_first();
        }
    }

    /// Takes a beat that was read; `true` if it is from another start with our name.
    pub fn take(&mut self, beat: Beat, now: Moment, own_name: &str) -> bool {
        self.largest = self.largest.max(beat.applied);
        self.peers.retain(|_, peer| now.saturating_sub(peer.seen) < LEASE_WITH_DRIFT * 2);
        if beat.incarnation == self.own {
            let begun = self.begun.get(&beat.number).copied();
            self.begun = self.begun.split_off(&(beat.number + 1));
            if let Some(begun) = begun {
                self.renewed = Some((begun, beat.applied));
            }
            return false;
        }
        let has_our_name = beat.router == own_name;
        let peer = Peer { applied: beat.applied, seen: now };
        self.peers.insert(beat.incarnation, peer);
        has_our_name
    }

    /// Whether this router, which has applied control up to `applied`, may send now.
    pub fn may_send(&self, applied: Offset, now: Moment) -> bool {
        self.is_renewed(now) && applied >= self.largest
    }

    fn is_renewed(&self, now: Moment) -> bool {
        self.renewed.is_some_and(|(begun, _)| now.saturating_sub(begun) < LEASE)
    }

    /// Whether an own beat that names this control offset was read back.
    pub fn has_told(&self, applied: Offset) -> bool {
        self.renewed.is_some_and(|(_, told)| told >= applied)
    }

    /// Until when a router whose last beat was not read may still send.
    pub fn blind_until(&self) -> Moment {
        self.since + LEASE_WITH_DRIFT
    }

    /// The other routers that may still send before they apply control up to `applied`, each with its latest end.
    /// Ask after [`Board::has_told`]: a router that beats later learns of it before it may send.
    pub fn behind(&self, applied: Offset) -> HashMap<Incarnation, Moment> {
        let behind = self.peers.iter().filter(|(_, peer)| peer.applied < applied);
        behind.map(|(who, peer)| (who.clone(), peer.seen + LEASE_WITH_DRIFT)).collect()
    }

    /// Those of `waiting` that are still waited for.
    pub fn waits_for<'w>(
        &self,
        waiting: &'w HashMap<Incarnation, Moment>,
        applied: Offset,
        now: Moment,
    ) -> Vec<(&'w Incarnation, Moment)> {
        let has_passed = |who| self.peers.get(who).is_some_and(|peer| peer.applied >= applied);
        let open = waiting.iter().filter(|(who, until)| **until > now && !has_passed(who));
        open.map(|(who, until)| (who, *until)).collect()
    }

    /// Whether this router holds a shard, by rendezvous among the routers that beat.
    pub fn holds_shard(&self, shard: usize, now: Moment) -> bool {
        let rank = |who: &Incarnation| hash128(format!("{}/{shard}", who.0).as_bytes());
        let fresh = self.peers.iter().filter(|(_, peer)| now.saturating_sub(peer.seen) < LEASE_WITH_DRIFT);
        // By then every other holder has beaten.
        let has_looked = now.saturating_sub(self.since) > LEASE / 2;
        has_looked
            && self.is_renewed(now)
            && fresh.map(|(who, _)| rank(who)).all(|other| other < rank(&self.own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Duration::from_millis(millis)
    }

    fn who(byte: u8) -> Incarnation {
        Incarnation::new([byte; 16])
    }

    fn beat(byte: u8, number: u64, applied: u64) -> Beat {
        let router = format!("r{byte}");
        Beat { format: FORMAT, router, incarnation: who(byte), number, applied: Offset::new(applied) }
    }

    #[test]
    fn a_lease_counts_from_before_the_append_and_ends() {
        let mut board = Board::new(who(1), at(0));
        assert!(!board.may_send(Offset::new(9), at(0)), "no beat yet");
        board.begin(1, at(1_000));
        board.take(beat(1, 1, 5), at(1_900), "r1");
        assert!(board.may_send(Offset::new(5), at(2_999)));
        assert!(!board.may_send(Offset::new(5), at(3_000)), "2 s from the begin, not from the reading");
    }

    #[test]
    fn an_old_beat_that_comes_late_renews_nothing() {
        let mut board = Board::new(who(1), at(0));
        board.begin(1, at(0));
        board.take(beat(1, 1, 5), at(60_000), "r1");
        assert!(!board.may_send(Offset::new(5), at(60_000)));
        board.take(beat(1, 1, 5), at(60_001), "r1");
        assert!(!board.may_send(Offset::new(5), at(60_001)), "a repeat renews nothing either");
    }

    #[test]
    fn who_has_not_applied_what_another_names_may_not_send() {
        let mut board = Board::new(who(1), at(0));
        board.begin(1, at(0));
        board.take(beat(1, 1, 5), at(10), "r1");
        board.take(beat(2, 1, 6), at(20), "r1");
        assert!(!board.may_send(Offset::new(5), at(30)));
        assert!(board.may_send(Offset::new(6), at(30)));
    }

    #[test]
    fn a_barrier_waits_for_who_is_behind_and_no_longer_than_its_lease() {
        let mut board = Board::new(who(1), at(0));
        board.take(beat(2, 1, 5), at(0), "r1");
        board.take(beat(3, 1, 5), at(500), "r1");
        board.begin(1, at(600));
        board.take(beat(1, 1, 6), at(610), "r1");
        assert!(board.has_told(Offset::new(6)));
        let waiting = board.behind(Offset::new(6));
        board.take(beat(3, 2, 6), at(700), "r1");
        let open = |board: &Board, now| board.waits_for(&waiting, Offset::new(6), at(now)).len();
        assert_eq!(open(&board, 700), 1, "r3 has passed, r2 may still send");
        // A beat with an older offset does not extend the wait.
        board.take(beat(2, 2, 5), at(2_000), "r1");
        assert_eq!(open(&board, 2_399), 1);
        assert_eq!(open(&board, 2_400), 0);
    }

    #[test]
    fn each_shard_has_one_holder_and_moves_when_it_falls_silent() {
        let boards: Vec<Board> = (1..=3)
            .map(|own| {
                let mut board = Board::new(who(own), at(0));
                board.begin(1, at(1_000));
                for byte in 1..=3 {
                    board.take(beat(byte, 1, 0), at(1_010), "?");
                }
                board
            })
            .collect();
        for shard in 0..8 {
            let holders = |now| boards.iter().filter(|b| b.holds_shard(shard, at(now))).count();
            assert_eq!(holders(990), 0, "nobody has looked long enough");
            assert_eq!(holders(1_020), 1);
            assert_eq!(holders(3_500), 0, "nobody has a lease");
        }
        let mut board = Board::new(who(1), at(0));
        board.take(beat(2, 1, 0), at(10), "r1");
        board.begin(1, at(2_400));
        board.take(beat(1, 1, 0), at(2_410), "r1");
        assert!((0..8).all(|shard| board.holds_shard(shard, at(2_420))), "the other is silent");
    }

    #[test]
    fn what_was_not_read_is_not_taken_for_nothing() {
        let mut board = Board::new(who(1), at(5_000));
        assert_eq!(board.blind_until(), at(7_400), "a router that is cut off may send until then");
        board.begin(1, at(5_000));
        board.take(beat(1, 1, 5), at(5_010), "r1");
        // Another router beat with 8, was acknowledged, and has died since.
        board.control_ends(Offset::new(8));
        assert!(!board.may_send(Offset::new(5), at(5_020)) && board.may_send(Offset::new(8), at(5_020)));
        board.missed(at(5_030));
        assert!(!board.may_send(Offset::new(8), at(5_040)));
    }

    #[test]
    fn a_namesake_is_noticed() {
        let mut board = Board::new(who(1), at(0));
        assert!(board.take(Beat { router: "r1".to_owned(), ..beat(2, 1, 0) }, at(0), "r1"));
        assert!(!board.take(beat(2, 2, 0), at(1), "r1"));
    }
}
