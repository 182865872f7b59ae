//! Precedence: a change that comes alone goes before the bulk of another channel.
//!
//! Owns how long a large batch rests before it is judged. A burst that may use all cores makes every single change wait for
//! one, at each of its steps. It never rests a batch while no other channel's single change is late, nor longer than a
//! limit: the bulk always moves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemas::ids::ChannelName;
use tokio::time::Instant;

/// A batch of so many bytes is bulk: hundreds of changes. A batch of single changes that came together has less.
const BULK_BYTES: usize = 32 * 1024;
/// An append that is read back later than this is late, on any log: three brokers that keep up answer in less.
const LATE: Duration = Duration::from_millis(10);
/// So many times the usual time is late, where the log is slow by itself.
const LATE_TIMES: u32 = 3;
/// The first rest: about the time that a large batch keeps a core busy.
const FIRST_REST: Duration = Duration::from_millis(50);
/// The longest rest. Two batches of a partition are under way, so even then a partition takes megabytes a second.
const LONGEST_REST: Duration = Duration::from_millis(100);
/// A rest shorter than this is none: the clock of the runtime is no finer.
const SHORTEST_REST: Duration = Duration::from_millis(1);
/// After so long without a late change, the rest is half as long.
const HALF_LIFE: Duration = Duration::from_secs(1);
/// A channel whose last large batch is older than this sends no bulk.
const BULK_ENDS: Duration = Duration::from_secs(1);

/// What a router knows of bulk and of single changes; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Precedence(Arc<Mutex<State>>);

impl Default for Precedence {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State::new(Instant::now()))))
    }
}

impl Precedence {
    /// How long a batch of a channel rests before its turn; zero when it is not bulk, or nobody waits for it.
    pub(super) fn rest(&self, channel: &ChannelName, bytes: usize) -> Duration {
        if bytes < BULK_BYTES { Duration::ZERO } else { self.with(|state, now| state.bulk(channel, now)) }
    }

    /// A batch of a channel was appended and read back in this time.
    pub(super) fn appended(&self, channel: &ChannelName, bytes: usize, took: Duration) {
        if bytes < BULK_BYTES {
            self.with(|state, now| state.single(channel, took, now));
        }
    }

    fn with<T>(&self, action: impl FnOnce(&mut State, Instant) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }
}

#[derive(Debug)]
struct State {
    /// The rest as it was last made longer, and when that was.
    rest: Duration,
    since: Instant,
    /// How long a single change takes while there is no bulk: a moving mean.
    usual: Duration,
    /// When a channel's last large batch came; those without bulk leave.
    bulk: HashMap<ChannelName, Instant>,
}

impl State {
    fn new(now: Instant) -> Self {
        Self { rest: Duration::ZERO, since: now, usual: Duration::ZERO, bulk: HashMap::new() }
    }

    fn bulk(&mut self, channel: &ChannelName, now: Instant) -> Duration {
        self.forget(now);
        self.bulk.insert(channel.clone(), now);
        self.rest_at(now)
    }

    fn single(&mut self, channel: &ChannelName, took: Duration, now: Instant) {
        self.forget(now);
        if self.bulk.is_empty() {
            self.usual = (self.usual * 7 + took) / 8;
            return;
        }
        // The bulk's own small batches wait for it in any case.
        let is_late = !self.bulk.contains_key(channel) && took > LATE.max(self.usual * LATE_TIMES);
        let rest = self.rest_at(now);
        // What was under way when the rest became longer says nothing of it.
        if is_late && now.duration_since(self.since) >= rest {
            self.rest = (rest * 2).clamp(FIRST_REST, LONGEST_REST);
            self.since = now;
        }
    }

    fn rest_at(&self, now: Instant) -> Duration {
        let half_lives = now.duration_since(self.since).as_secs_f64() / HALF_LIFE.as_secs_f64();
        let rest = self.rest.mul_f64((-half_lives).exp2());
        if rest < SHORTEST_REST { Duration::ZERO } else { rest }
    }

    fn forget(&mut self, now: Instant) {
        self.bulk.retain(|_, last| now.duration_since(*last) < BULK_ENDS);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IN_TIME: Duration = Duration::from_millis(2);
    const TOO_LATE: Duration = Duration::from_millis(40);

    fn channel(name: &str) -> ChannelName {
        name.parse().expect("a channel's name")
    }

    /// A state in which one channel sends bulk, and when it began.
    fn in_a_burst() -> (State, Instant) {
        let now = Instant::now();
        let mut state = State::new(now);
        assert_eq!(state.bulk(&channel("bulk"), now), Duration::ZERO);
        (state, now)
    }

    #[test]
    fn bulk_rests_while_single_changes_of_another_channel_are_late() {
        let (mut state, mut now) = in_a_burst();
        let mut rests = Vec::new();
        for _ in 0..5 {
            now += LONGEST_REST;
            state.single(&channel("single"), TOO_LATE, now);
            rests.push(state.bulk(&channel("bulk"), now));
        }
        assert_eq!(rests[0], FIRST_REST);
        assert!(rests.is_sorted(), "{rests:?}");
        assert_eq!(rests[4], LONGEST_REST);
        // Nothing is late any more.
        now += HALF_LIFE;
        state.single(&channel("single"), IN_TIME, now);
        assert_eq!(state.bulk(&channel("bulk"), now), LONGEST_REST / 2);
        now += HALF_LIFE * 10;
        assert_eq!(state.bulk(&channel("bulk"), now), Duration::ZERO);
    }

    #[test]
    fn a_late_change_that_was_under_way_does_not_lengthen_the_rest_again() {
        let (mut state, now) = in_a_burst();
        for _ in 0..5 {
            state.single(&channel("single"), TOO_LATE, now);
        }
        assert_eq!(state.bulk(&channel("bulk"), now), FIRST_REST);
    }

    #[test]
    fn bulk_does_not_rest_for_small_batches_of_its_own_channel() {
        let (mut state, now) = in_a_burst();
        state.single(&channel("bulk"), TOO_LATE, now + LONGEST_REST);
        assert_eq!(state.bulk(&channel("bulk"), now + LONGEST_REST), Duration::ZERO);
    }

    #[test]
    fn a_log_that_is_slow_by_itself_makes_no_change_late() {
        let mut now = Instant::now();
        let mut state = State::new(now);
        for _ in 0..30 {
            now += Duration::from_millis(100);
            state.single(&channel("single"), TOO_LATE, now);
        }
        state.bulk(&channel("bulk"), now);
        now += LONGEST_REST;
        state.single(&channel("single"), TOO_LATE * 2, now);
        assert_eq!(state.bulk(&channel("bulk"), now), Duration::ZERO);
        state.single(&channel("single"), TOO_LATE * (LATE_TIMES + 1), now);
        assert_eq!(state.bulk(&channel("bulk"), now), FIRST_REST);
    }

    #[test]
    fn a_small_batch_never_rests() {
        let precedence = Precedence::default();
        precedence.rest(&channel("bulk"), BULK_BYTES);
        precedence.appended(&channel("single"), 100, TOO_LATE);
        assert_eq!(precedence.rest(&channel("single"), BULK_BYTES - 1), Duration::ZERO);
        assert!(precedence.rest(&channel("bulk"), BULK_BYTES) > FIRST_REST / 2);
    }

    proptest! {
        /// Whatever comes, a rest has its limit, and it ends when the last late change is long ago.
        #[test]
        fn bulk_always_moves(steps in prop::collection::vec((0_u8..3, any::<bool>(), 0_u64..500, 0_u64..5_000), 0..200)) {
            let mut now = Instant::now();
            let mut state = State::new(now);
            for (name, is_bulk, wait, took) in steps {
                now += Duration::from_millis(wait);
                let channel = channel(&format!("channel-{name}"));
                if is_bulk {
                    prop_assert!(state.bulk(&channel, now) <= LONGEST_REST);
                } else {
                    state.single(&channel, Duration::from_millis(took), now);
                }
                prop_assert!(state.bulk.len() <= 3);
            }
            prop_assert_eq!(state.bulk(&channel("bulk"), now + HALF_LIFE * 10), Duration::ZERO);
        }
    }
}
