//! Decides when a replica is compared with its part of the register, what it asks, and what follows from an answer.
//!
//! Pure. It descends: digests of ranges of the keys' hashes, finer ones where they differ, then the rows of the finest.
//! After a repair it compares everything again. A replica that stays different is reported.

use std::collections::BTreeSet;
use std::time::Duration;

use schemas::limits::{MAX_RANGE_BITS, MAX_RANGE_DIGESTS, MAX_RECONCILED_RANGES};
use schemas::reconcile::{AnnouncedDigests, RangeDigests, Ranges, ReconcileQuery};
use schemas::time::Millis;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Rows of a range in the first query: it needs few digests, and few wrong rows leave most ranges equal.
const ROWS_AT_FIRST: usize = 24;
/// Rows of a range whose rows are requested: with each wrong row, the others of its range are sent too.
const ROWS_AT_LAST: usize = 3;
/// With at most so many ranges that differ, rows are repaired, whatever their share is.
const FEW_RANGES: usize = 64;
/// Streams that end before a query is answered: after so many, the reconciliation waits for its next time.
const TRIES: u32 = 3;
/// Ranges in one query for rows: about 5 KB for each row fit within a router's bound.
const RANGES_AT_ONCE: usize = 256;
/// Repairs that leave as many differences as before: after so many, repairing does not help.
const IN_VAIN: u32 = 3;
/// How often a replica is received anew for one request to reconcile it.
const RESYNCS_OF_A_REQUEST: u32 = 1;

/// How the last comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    pub at: Millis,
    /// Whether the replica equals its part of the register now.
    pub equal: bool,
    /// Rows of the register's part.
    pub rows: u64,
    /// Keys whose row was wrong and was repaired.
    pub repaired: usize,
    /// Bytes that questions and answers took.
    pub bytes: u64,
}

/// What follows from a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It is over; the replica is equal, or cannot be made so.
    Over(Reconciled),
    /// Another query, which needs another stream.
    QueryOn,
    /// So much differs that a snapshot is cheaper.
    Resync,
}

/// An answer to a query that was not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it answers a query that was not asked")]
pub struct Unasked;

/// The present, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For people.
    pub wall: Millis,
    /// For waits.
    pub instant: Instant,
}

/// The comparisons of one replica.
#[derive(Debug)]
pub struct Reconciler {
    every: Option<Duration>,
    due: Option<Instant>,
    /// Set while a person waits for a result: how often the replica may still be received anew for this request.
    requested: Option<u32>,
    query: Option<ReconcileQuery>,
    tries: u32,
    /// Ranges whose rows are requested in a later query.
    pending: Option<Ranges>,
    /// How many ranges differed in the first digests before the last repair.
    differed: Option<usize>,
    in_vain: u32,
    repaired: usize,
    bytes: u64,
    last: Option<Reconciled>,
}

impl Reconciler {
    /// Compares at this interval, the first time after `share` thousandths of it; `None` means only on request.
    pub fn new(every: Option<Duration>, now: Instant, share: u32) -> Self {
        let due = every.map(|every| now + every * share.min(1_000) / 1_000);
        Self {
            every,
            due,
            requested: None,
            query: None,
            tries: 0,
            pending: None,
            differed: None,
            in_vain: 0,
            repaired: 0,
            bytes: 0,
            last: None,
        }
    }

    /// A person requests a comparison now; one that is under way answers the request.
    pub fn request(&mut self, now: Instant) {
        self.requested = Some(RESYNCS_OF_A_REQUEST);
        if self.query.is_none() {
            self.due = Some(now);
        }
    }

    /// When to leave a stream without a query for a stream with one.
    pub fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.query.is_none())
    }

    /// The query for a stream that begins now; the replica has `rows` rows.
    pub fn query(&mut self, now: Instant, rows: usize) -> Option<ReconcileQuery> {
        if self.query.is_none() && self.due.is_some_and(|due| due <= now) {
            (self.pending, self.differed) = (None, None);
            (self.tries, self.in_vain, self.repaired, self.bytes) = (0, 0, 0, 0);
            self.query = first(rows);
        }
        self.query.clone()
    }

    /// The query that is not answered yet.
    pub const fn open(&self) -> Option<&ReconcileQuery> {
        self.query.as_ref()
    }

    /// How the last comparison ended.
    pub const fn last(&self) -> Option<Reconciled> {
        self.last
    }

    /// Counts bytes of queries and answers.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// The register's digests have come; `own` are the replica's.
    pub fn on_digests(
        &mut self,
        own: &RangeDigests,
        announced: &AnnouncedDigests,
        at: Now,
    ) -> Result<Finding, Unasked> {
        let Some(ReconcileQuery::Digests { within, bits }) = self.query.take() else { return Err(Unasked) };
        let numbers = own.differing(announced).ok_or(Unasked)?;
        let own = own.announce();
        self.tries = 0;
        if numbers.is_empty() {
            let rows = usize::try_from(announced.rows).unwrap_or(usize::MAX);
            // Rows have changed meanwhile where finer ranges agree: begin again.
            let is_equal = (own.total, own.rows) == (announced.total, announced.rows);
            return Ok(match (within == Ranges::whole(), is_equal) {
                (true, true) => Finding::Over(self.over(true, announced.rows, at)),
                (true, false) => self.resync(announced.rows, at),
                (false, _) => {
                    self.query = first(rows);
                    Finding::QueryOn
                }
            });
        }
        if within == Ranges::whole() {
            let differ = numbers.len();
            self.in_vain += u32::from(self.differed.is_some_and(|before| differ >= before));
            if self.in_vain >= IN_VAIN {
                return Ok(Finding::Over(self.over(false, announced.rows, at)));
            }
            self.differed = Some(differ);
            if differ > FEW_RANGES && differ > (1 << bits) / 10 * 9 {
                return Ok(self.resync(announced.rows, at));
            }
        }
        let per_parent = MAX_RANGE_DIGESTS / numbers.len().min(MAX_RECONCILED_RANGES);
        let finer =
            finest(announced, &within, bits).min(bits + u8::try_from(per_parent.ilog2()).unwrap_or(0));
        let numbers = numbers.into_iter().take(MAX_RECONCILED_RANGES).collect();
        let within = Ranges::new(bits, numbers).ok_or(Unasked)?;
        self.query = match ReconcileQuery::digests(within.clone(), finer) {
            Some(query) if finer > bits => Some(query),
            _ => self.rows_of(&within),
        };
        Ok(Finding::QueryOn)
    }

    /// Queries the rows of the first ranges; the other ranges follow later.
    fn rows_of(&mut self, within: &Ranges) -> Option<ReconcileQuery> {
        let bits = within.bits();
        let mut numbers = within.numbers().iter().copied();
        let now: BTreeSet<u32> = numbers.by_ref().take(RANGES_AT_ONCE).collect();
        self.pending = Ranges::new(bits, numbers.collect());
        Some(ReconcileQuery::Rows { within: Ranges::new(bits, now)? })
    }

    /// The replica has the requested rows; `wrong` were wrong. After the last ranges everything is compared again.
    pub fn on_repaired(&mut self, wrong: usize, rows: usize) {
        self.repaired += wrong;
        self.tries = 0;
        self.query = match self.pending.take() {
            Some(within) => self.rows_of(&within),
            None => first(rows),
        };
    }

    /// A stream ended, perhaps before its query was answered; returns whether the reconciliation is given up.
    pub fn on_broken(&mut self, now: Instant) -> bool {
        if self.query.is_none() {
            return false;
        }
        self.tries += 1;
        let given_up = self.tries >= TRIES;
        if given_up {
            self.requested = None;
            self.next(now);
        }
        given_up
    }

    /// The replica is received anew. It is compared again after the snapshot if a person waits, else at its next time.
    pub fn on_resync(&mut self, now: Instant) {
        if self.query.is_some() {
            self.requested = self.requested.and_then(|left| left.checked_sub(1));
            self.next(now);
        }
    }

    fn next(&mut self, now: Instant) {
        self.query = None;
        self.due = if self.requested.is_some() { Some(now) } else { self.every.map(|every| now + every) };
    }

    /// Receives the replica anew, but only once for one request: the second time the request gets its answer.
    fn resync(&mut self, rows: u64, at: Now) -> Finding {
        match self.requested {
            Some(0) => return Finding::Over(self.over(false, rows, at)),
            Some(left) => self.requested = Some(left - 1),
            None => {}
        }
        self.next(at.instant);
        Finding::Resync
    }

    fn over(&mut self, equal: bool, rows: u64, now: Now) -> Reconciled {
        self.requested = None;
        self.next(now.instant);
        let reconciled = Reconciled { at: now.wall, equal, rows, repaired: self.repaired, bytes: self.bytes };
        self.last = Some(reconciled);
        reconciled
    }
}

fn first(rows: usize) -> Option<ReconcileQuery> {
    ReconcileQuery::digests(
        Ranges::whole(),
        bits_for(rows, ROWS_AT_FIRST).min(bits_for(MAX_RANGE_DIGESTS, 1)),
    )
}

/// The finest useful bits within these ranges; the announced digests give their number of rows.
fn finest(announced: &AnnouncedDigests, within: &Ranges, bits: u8) -> u8 {
    let share = announced.rows / u64::try_from(within.numbers().len()).unwrap_or(1).max(1);
    let per_range = usize::try_from(share).unwrap_or(usize::MAX);
    (within.bits() + bits_for(per_range, ROWS_AT_LAST)).clamp(bits, MAX_RANGE_BITS)
}

/// Bits that cut `rows` into ranges of at most `per_range`.
fn bits_for(rows: usize, per_range: usize) -> u8 {
    let ranges = rows.div_ceil(per_range).max(1);
    u8::try_from(ranges.next_power_of_two().ilog2()).unwrap_or(MAX_RANGE_BITS).min(MAX_RANGE_BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Held = BTreeMap<String, u32>;

    const DAY: Duration = Duration::from_secs(86_400);

    fn digests(rows: &Held, within: &Ranges, bits: u8) -> RangeDigests {
        let mut digests = RangeDigests::new(within.clone(), bits);
        rows.iter().for_each(|(key, value)| digests.add(key, &[Some(value.to_string())]));
        digests
    }

    /// Asks and answers until the comparison is over; returns the rows that were sent, and the end.
    fn reconcile(register: &Held, replica: &mut Held, loses_repairs: bool) -> (usize, Finding) {
        let now = Instant::now();
        let mut reconciler = Reconciler::new(Some(DAY), now, 0);
        let mut moved = 0;
        loop {
            let query = reconciler.query(now, replica.len()).unwrap();
            let query: ReconcileQuery = query.to_string().parse().unwrap();
            match query {
                ReconcileQuery::Digests { within, bits } => {
                    let announced = digests(register, &within, bits).announce();
                    let own = digests(replica, &within, bits);
                    match reconciler
                        .on_digests(&own, &announced, Now { wall: Millis::new(1), instant: now })
                        .unwrap()
                    {
                        Finding::QueryOn => {}
                        over => return (moved, over),
                    }
                }
                ReconcileQuery::Rows { within } => {
                    let of = |rows: &Held| {
                        rows.clone().into_iter().filter(|(key, _)| within.of(key).is_some()).collect::<Held>()
                    };
                    let rows = of(register);
                    let had = of(replica);
                    moved += rows.len();
                    if !loses_repairs {
                        replica.retain(|key, _| within.of(key).is_none());
                        replica.extend(rows.clone());
                    }
                    let keys: std::collections::BTreeSet<_> = rows.keys().chain(had.keys()).collect();
                    let wrong = keys.iter().filter(|key| rows.get(**key) != had.get(**key)).count();
                    reconciler.on_repaired(wrong, replica.len());
                }
            }
        }
    }

    fn register(rows: u32) -> Held {
        (0..rows).map(|n| (format!("key-{n}"), n)).collect()
    }

    #[test]
    fn one_row_in_a_hundred_is_found_and_little_else_is_moved() {
        for rows in [0, 1, 20, 700, 50_000] {
            let register = register(rows);
            let mut replica = register.clone();
            let mut wrong = 0;
            for n in (0..rows).step_by(300) {
                replica.insert(format!("key-{n}"), 1_000_000);
                replica.remove(&format!("key-{}", n + 100));
                replica.insert(format!("stray-{n}"), n);
                wrong += 2 + usize::from(n + 100 < rows);
            }
            let (moved, finding) = reconcile(&register, &mut replica, false);
            let Finding::Over(reconciled) = finding else { panic!("{rows}: {finding:?}") };
            assert!(reconciled.equal && replica == register, "{rows}: {reconciled:?}");
            assert_eq!((reconciled.repaired, reconciled.rows), (wrong, u64::from(rows)));
            assert!(moved <= wrong * 8, "{rows}: moved {moved} for {wrong}");
        }
    }

    #[test]
    fn a_replica_that_differs_everywhere_is_received_anew() {
        let register = register(5_000);
        let mut replica: Held = register.keys().map(|key| (key.clone(), 0)).collect();
        assert_eq!(reconcile(&register, &mut replica, false), (0, Finding::Resync));
    }

    #[test]
    fn a_replica_that_does_not_keep_what_it_is_given_is_given_up() {
        let register = register(5_000);
        let mut replica = register.clone();
        replica.insert("key-7".to_owned(), 0);
        let (_, finding) = reconcile(&register, &mut replica, true);
        assert!(matches!(finding, Finding::Over(Reconciled { equal: false, .. })), "{finding:?}");
    }

    #[test]
    fn a_question_that_is_never_answered_is_left_to_the_next_time() {
        let now = Instant::now();
        let mut reconciler = Reconciler::new(Some(DAY), now, 500);
        assert_eq!(reconciler.query(now, 9), None);
        assert_eq!(reconciler.due(), Some(now + DAY / 2));
        let now = now + DAY;
        for _ in 1..TRIES {
            assert!(reconciler.query(now, 9).is_some());
            assert!(!reconciler.on_broken(now));
        }
        assert!(reconciler.on_broken(now));
        assert_eq!(reconciler.query(now, 9), None);
        assert_eq!(reconciler.due(), Some(now + DAY));
        assert_eq!(Reconciler::new(None, now, 0).query(now, 9), None);
        let announced = RangeDigests::new(Ranges::whole(), 0).announce();
        assert!(
            reconciler
                .on_digests(
                    &RangeDigests::new(Ranges::whole(), 0),
                    &announced,
                    Now { wall: Millis::new(0), instant: now }
                )
                .is_err()
        );
    }

    #[test]
    fn a_request_outlives_a_resync_and_ends_with_its_answer() {
        let now = Instant::now();
        let mut reconciler = Reconciler::new(None, now, 0);
        assert_eq!(reconciler.query(now, 0), None);
        reconciler.request(now);
        assert!(reconciler.query(now, 0).is_some());
        reconciler.on_resync(now);
        assert!(reconciler.open().is_none() && reconciler.due() == Some(now));
        let Some(ReconcileQuery::Digests { within, bits }) = reconciler.query(now, 0) else {
            panic!("it asks again")
        };
        let digests = digests(&Held::new(), &within, bits);
        let found = reconciler
            .on_digests(&digests, &digests.announce(), Now { wall: Millis::new(1), instant: now })
            .unwrap();
        assert!(matches!(found, Finding::Over(Reconciled { equal: true, .. })));
        assert_eq!((reconciler.due(), reconciler.query(now, 0)), (None, None));
        // It gives up when no router answers, and when its streams are closed for a resync again and again.
        let broken = |reconciler: &mut Reconciler| {
            reconciler.on_broken(now);
        };
        let resynced = |reconciler: &mut Reconciler| reconciler.on_resync(now);
        for end in [&broken as &dyn Fn(&mut Reconciler), &resynced] {
            reconciler.request(now);
            let asked = (0..100).take_while(|_| {
                let is_asked = reconciler.query(now, 0).is_some();
                end(&mut reconciler);
                is_asked
            });
            assert!((1..10).contains(&asked.count()));
            assert_eq!(reconciler.query(now, 0), None);
        }
    }

    #[test]
    fn a_replica_that_is_wrong_again_after_it_was_received_anew_is_told_so_and_left() {
        let now = Instant::now();
        let register: Held = (0..10_000).map(|key| (key.to_string(), 1)).collect();
        let spoilt: Held = register.keys().map(|key| (key.clone(), 2)).collect();
        let mut reconciler = Reconciler::new(None, now, 0);
        reconciler.request(now);
        let mut found = || {
            let Some(ReconcileQuery::Digests { within, bits }) = reconciler.query(now, spoilt.len()) else {
                panic!("it asks")
            };
            let own = digests(&spoilt, &within, bits);
            let announced = digests(&register, &within, bits).announce();
            reconciler.on_digests(&own, &announced, Now { wall: Millis::new(1), instant: now }).unwrap()
        };
        assert_eq!(found(), Finding::Resync);
        assert!(matches!(found(), Finding::Over(Reconciled { equal: false, rows: 10_000, .. })));
        assert_eq!((reconciler.due(), reconciler.query(now, 0)), (None, None));
    }
}
