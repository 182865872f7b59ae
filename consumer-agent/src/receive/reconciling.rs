//! When a replica is compared with its part of the register, what is asked, and what follows from the answer.
//!
//! Pure. It descends: sums of ranges of the keys' hashes, finer ones within those that differ, then the rows of the
//! finest. After a mend everything is compared once more; a replica that does not come to be equal is given up by name.

use std::collections::BTreeSet;
use std::time::Duration;

use schemas::limits::{MAX_ASKED_RANGES, MAX_RANGE_BITS, MAX_SUMS};
use schemas::reconcile::{Announced, Ask, Ranges, Sums};
use schemas::time::Millis;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Rows of a range in the first question: few sums, and most ranges of a replica with few wrong rows are equal.
const ROWS_AT_FIRST: usize = 24;
/// Rows of a range that is asked for: what is moved beside a wrong row.
const ROWS_AT_LAST: usize = 3;
/// Ranges below which it is not judged how many differ.
const FEW_RANGES: usize = 64;
/// Streams that end before one question is answered: more, and the check is left to its next time.
const TRIES: u32 = 3;
/// Ranges whose rows are asked for at once: some 5 KB a row fit a router's bound.
const RANGES_AT_ONCE: usize = 256;
/// Mends after which as much differs as before: more, and it is not the mending that is late.
const IN_VAIN: u32 = 3;
/// How often a replica is received anew for one wish to compare it.
const RESYNCS_OF_A_WISH: u32 = 1;

/// How the last comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// When.
    pub at: Millis,
    /// Whether the replica equals its part of the register now.
    pub equal: bool,
    /// Rows of the register's part.
    pub rows: u64,
    /// Keys whose row was wrong and was mended.
    pub mended: usize,
    /// Bytes that questions and answers took.
    pub bytes: u64,
}

/// What a comparison leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It is over; the replica is equal, or cannot be made so.
    Over(Checked),
    /// Another question, for which another stream is needed.
    AskOn,
    /// So much differs that a pass from the state is the shorter way.
    Resync,
}

/// An answer that is not one to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it answers a question that was not asked")]
pub struct Unasked;

/// The comparisons of one replica.
#[derive(Debug)]
pub struct Reconciling {
    every: Option<Duration>,
    due: Option<Instant>,
    /// A person waits for the end of one: how often the replica may be received anew for it.
    wished: Option<u32>,
    ask: Option<Ask>,
    tries: u32,
    /// Ranges that are to be asked for after those that are.
    pending: Option<Ranges>,
    /// Ranges that differed in the first sums before the last mend.
    differed: Option<usize>,
    in_vain: u32,
    mended: usize,
    bytes: u64,
    last: Option<Checked>,
}

impl Reconciling {
    /// Comparisons so often, the first after a share of that, in thousandths; never without it.
    pub fn new(every: Option<Duration>, now: Instant, share: u32) -> Self {
        let due = every.map(|every| now + every * share.min(1_000) / 1_000);
        let (ask, pending, differed, last) = (None, None, None, None);
        Self {
            every,
            due,
            wished: None,
            ask,
            tries: 0,
            pending,
            differed,
            in_vain: 0,
            mended: 0,
            bytes: 0,
            last,
        }
    }

    /// A person wants to know now; a comparison that is under way is what is wanted.
    pub fn wish(&mut self, now: Instant) {
        self.wished = Some(RESYNCS_OF_A_WISH);
        if self.ask.is_none() {
            self.due = Some(now);
        }
    }

    /// When a stream without a question is to be left for one that asks.
    pub fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.ask.is_none())
    }

    /// The question that a stream which begins now is to ask, of a replica with so many rows.
    pub fn question(&mut self, now: Instant, rows: usize) -> Option<Ask> {
        if self.ask.is_none() && self.due.is_some_and(|due| due <= now) {
            (self.pending, self.differed) = (None, None);
            (self.tries, self.in_vain, self.mended, self.bytes) = (0, 0, 0, 0);
            self.ask = first(rows);
        }
        self.ask.clone()
    }

    /// The question that is open.
    pub const fn open(&self) -> Option<&Ask> {
        self.ask.as_ref()
    }

    /// How the last comparison ended.
    pub const fn last(&self) -> Option<Checked> {
        self.last
    }

    /// What questions and answers took.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// Sums were told; `own` are the replica's.
    pub fn on_sums(
        &mut self,
        own: &Sums,
        told: &Announced,
        at: (Millis, Instant),
    ) -> Result<Finding, Unasked> {
        let Some(Ask::Sums { within, bits }) = self.ask.take() else { return Err(Unasked) };
        let numbers = own.differing(told).ok_or(Unasked)?;
        let own = own.announce();
        self.tries = 0;
        if numbers.is_empty() {
            let rows = usize::try_from(told.rows).unwrap_or(usize::MAX);
            // Finer ranges that agree had rows that have changed meanwhile: begin again.
            let is_equal = (own.total, own.rows) == (told.total, told.rows);
            return Ok(match (within == Ranges::whole(), is_equal) {
                (true, true) => Finding::Over(self.over(true, told.rows, at)),
                (true, false) => self.resync(told.rows, at),
                (false, _) => {
                    self.ask = first(rows);
                    Finding::AskOn
                }
            });
        }
        if within == Ranges::whole() {
            let differ = numbers.len();
            self.in_vain += u32::from(self.differed.is_some_and(|before| differ >= before));
            if self.in_vain >= IN_VAIN {
                return Ok(Finding::Over(self.over(false, told.rows, at)));
            }
            self.differed = Some(differ);
            if differ > FEW_RANGES && differ > (1 << bits) / 10 * 9 {
                return Ok(self.resync(told.rows, at));
            }
        }
        let per_parent = MAX_SUMS / numbers.len().min(MAX_ASKED_RANGES);
        let finer = finest(told, &within, bits).min(bits + u8::try_from(per_parent.ilog2()).unwrap_or(0));
        let numbers = numbers.into_iter().take(MAX_ASKED_RANGES).collect();
        let within = Ranges::new(bits, numbers).ok_or(Unasked)?;
        self.ask = match Ask::sums(within.clone(), finer) {
            Some(ask) if finer > bits => Some(ask),
            _ => self.rows_of(&within),
        };
        Ok(Finding::AskOn)
    }

    /// The rows of some of the ranges, and the others later.
    fn rows_of(&mut self, within: &Ranges) -> Option<Ask> {
        let bits = within.bits();
        let mut numbers = within.numbers().iter().copied();
        let now: BTreeSet<u32> = numbers.by_ref().take(RANGES_AT_ONCE).collect();
        self.pending = Ranges::new(bits, numbers.collect());
        Some(Ask::Rows { within: Ranges::new(bits, now)? })
    }

    /// The rows that were asked for are in the replica; so many were wrong. When all are, everything is compared again.
    pub fn on_mended(&mut self, wrong: usize, rows: usize) {
        self.mended += wrong;
        self.tries = 0;
        self.ask = match self.pending.take() {
            Some(within) => self.rows_of(&within),
            None => first(rows),
        };
    }

    /// A stream ended before its question was answered, or none was open; whether the check is given up.
    pub fn on_broken(&mut self, now: Instant) -> bool {
        if self.ask.is_none() {
            return false;
        }
        self.tries += 1;
        let given_up = self.tries >= TRIES;
        if given_up {
            self.wished = None;
            self.next(now);
        }
        given_up
    }

    /// The replica is received anew: it is compared again at its next time, or behind that for a person who waits.
    pub fn on_resync(&mut self, now: Instant) {
        if self.ask.is_some() {
            self.wished = self.wished.and_then(|left| left.checked_sub(1));
            self.next(now);
        }
    }

    fn next(&mut self, now: Instant) {
        self.ask = None;
        self.due = if self.wished.is_some() { Some(now) } else { self.every.map(|every| now + every) };
    }

    /// It is to be received anew; not again for one wish, which has its answer then.
    fn resync(&mut self, rows: u64, at: (Millis, Instant)) -> Finding {
        match self.wished {
            Some(0) => return Finding::Over(self.over(false, rows, at)),
            Some(left) => self.wished = Some(left - 1),
            None => {}
        }
        self.next(at.1);
        Finding::Resync
    }

    fn over(&mut self, equal: bool, rows: u64, (at, now): (Millis, Instant)) -> Checked {
        self.wished = None;
        self.next(now);
        let checked = Checked { at, equal, rows, mended: self.mended, bytes: self.bytes };
        self.last = Some(checked);
        checked
    }
}

fn first(rows: usize) -> Option<Ask> {
    Ask::sums(Ranges::whole(), bits_for(rows, ROWS_AT_FIRST).min(bits_for(MAX_SUMS, 1)))
}

/// How fine ranges within some are of use, when the rows of all are about what was told.
fn finest(told: &Announced, within: &Ranges, bits: u8) -> u8 {
    let share = told.rows / u64::try_from(within.numbers().len()).unwrap_or(1).max(1);
    let per_range = usize::try_from(share).unwrap_or(usize::MAX);
    (within.bits() + bits_for(per_range, ROWS_AT_LAST)).clamp(bits, MAX_RANGE_BITS)
}

/// Bits that cut so many rows into ranges of so many at most.
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

    fn sums(rows: &Held, within: &Ranges, bits: u8) -> Sums {
        let mut sums = Sums::new(within.clone(), bits);
        rows.iter().for_each(|(key, value)| sums.add(key, &[Some(value.to_string())]));
        sums
    }

    /// Asks and answers until it is over; the rows that were moved, and how it ended.
    fn reconcile(register: &Held, replica: &mut Held, loses_mends: bool) -> (usize, Finding) {
        let now = Instant::now();
        let mut reconciling = Reconciling::new(Some(DAY), now, 0);
        let mut moved = 0;
        loop {
            let ask = reconciling.question(now, replica.len()).unwrap();
            let ask: Ask = ask.to_string().parse().unwrap();
            match ask {
                Ask::Sums { within, bits } => {
                    let told = sums(register, &within, bits).announce();
                    let own = sums(replica, &within, bits);
                    match reconciling.on_sums(&own, &told, (Millis::new(1), now)).unwrap() {
                        Finding::AskOn => {}
                        over => return (moved, over),
                    }
                }
                Ask::Rows { within } => {
                    let of = |rows: &Held| {
                        rows.clone().into_iter().filter(|(key, _)| within.of(key).is_some()).collect::<Held>()
                    };
                    let (told, had) = (of(register), of(replica));
                    moved += told.len();
                    if !loses_mends {
                        replica.retain(|key, _| within.of(key).is_none());
                        replica.extend(told.clone());
                    }
                    let keys: std::collections::BTreeSet<_> = told.keys().chain(had.keys()).collect();
                    let wrong = keys.iter().filter(|key| told.get(**key) != had.get(**key)).count();
                    reconciling.on_mended(wrong, replica.len());
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
            let Finding::Over(checked) = finding else { panic!("{rows}: {finding:?}") };
            assert!(checked.equal && replica == register, "{rows}: {checked:?}");
            assert_eq!((checked.mended, checked.rows), (wrong, u64::from(rows)));
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
        assert!(matches!(finding, Finding::Over(Checked { equal: false, .. })), "{finding:?}");
    }

    #[test]
    fn a_question_that_is_never_answered_is_left_to_the_next_time() {
        let now = Instant::now();
        let mut reconciling = Reconciling::new(Some(DAY), now, 500);
        assert_eq!(reconciling.question(now, 9), None);
        assert_eq!(reconciling.due(), Some(now + DAY / 2));
        let now = now + DAY;
        for _ in 1..TRIES {
            assert!(reconciling.question(now, 9).is_some());
            assert!(!reconciling.on_broken(now));
        }
        assert!(reconciling.on_broken(now));
        assert_eq!(reconciling.question(now, 9), None);
        assert_eq!(reconciling.due(), Some(now + DAY));
        assert_eq!(Reconciling::new(None, now, 0).question(now, 9), None);
        let told = Sums::new(Ranges::whole(), 0).announce();
        assert!(reconciling.on_sums(&Sums::new(Ranges::whole(), 0), &told, (Millis::new(0), now)).is_err());
    }

    #[test]
    fn a_wish_outlives_a_resync_and_ends_with_its_answer() {
        let now = Instant::now();
        let mut reconciling = Reconciling::new(None, now, 0);
        assert_eq!(reconciling.question(now, 0), None);
        reconciling.wish(now);
        assert!(reconciling.question(now, 0).is_some());
        reconciling.on_resync(now);
        assert!(reconciling.open().is_none() && reconciling.due() == Some(now));
        let Some(Ask::Sums { within, bits }) = reconciling.question(now, 0) else { panic!("it asks again") };
        let sums = sums(&Held::new(), &within, bits);
        let found = reconciling.on_sums(&sums, &sums.announce(), (Millis::new(1), now)).unwrap();
        assert!(matches!(found, Finding::Over(Checked { equal: true, .. })));
        assert_eq!((reconciling.due(), reconciling.question(now, 0)), (None, None));
        // Whom nobody answers gives up, and so does one whose streams are closed for a resync again and again.
        let broken = |reconciling: &mut Reconciling| {
            reconciling.on_broken(now);
        };
        let resynced = |reconciling: &mut Reconciling| reconciling.on_resync(now);
        for end in [&broken as &dyn Fn(&mut Reconciling), &resynced] {
            reconciling.wish(now);
            let asked = (0..100).take_while(|_| {
                let is_asked = reconciling.question(now, 0).is_some();
                end(&mut reconciling);
                is_asked
            });
            assert!((1..10).contains(&asked.count()));
            assert_eq!(reconciling.question(now, 0), None);
        }
    }

    #[test]
    fn a_replica_that_is_wrong_again_after_it_was_received_anew_is_told_so_and_left() {
        let now = Instant::now();
        let register: Held = (0..10_000).map(|key| (key.to_string(), 1)).collect();
        let spoilt: Held = register.keys().map(|key| (key.clone(), 2)).collect();
        let mut reconciling = Reconciling::new(None, now, 0);
        reconciling.wish(now);
        let mut found = || {
            let Some(Ask::Sums { within, bits }) = reconciling.question(now, spoilt.len()) else {
                panic!("it asks")
            };
            let (own, told) = (sums(&spoilt, &within, bits), sums(&register, &within, bits).announce());
            reconciling.on_sums(&own, &told, (Millis::new(1), now)).unwrap()
        };
        assert_eq!(found(), Finding::Resync);
        assert!(matches!(found(), Finding::Over(Checked { equal: false, rows: 10_000, .. })));
        assert_eq!((reconciling.due(), reconciling.question(now, 0)), (None, None));
    }
}
