//! Precedence: a change that comes alone goes before the bulk of another channel.
//!
//! Owns how long a batch of a channel in bulk rests before it is judged. A burst that may use all cores makes every single
//! change wait for one, at each of its steps. Nothing rests longer than a limit: the bulk always moves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemas::ids::ChannelName;
use tokio::time::Instant;

/// A channel that brings more bytes a second is in bulk, however it cuts them: some five thousand changes.
const BULK_BYTES_A_SECOND: f64 = 1_048_576.0;
/// An append that is read back later than this is late, on any log: three brokers that keep up answer in less.
const LATE: Duration = Duration::from_millis(10);
/// So many times the usual time is late, where the log is slow by itself.
const LATE_TIMES: u32 = 3;
/// So many appends without bulk make a usual time; before that, nothing is late.
const LEARNT: u32 = 20;
/// The first rest: about the time that a large batch keeps a core busy.
const FIRST_REST: Duration = Duration::from_millis(50);
/// The longest rest. Two batches of a partition are under way, so even then a partition takes megabytes a second.
const LONGEST_REST: Duration = Duration::from_millis(100);
/// A rest shorter than this is none: the clock of the runtime is no finer.
const SHORTEST_REST: Duration = Duration::from_millis(1);
/// After so long without a late change, the rest is half as long.
const HALF_LIFE: Duration = Duration::from_secs(1);

/// What a router knows of bulk and of single changes; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Precedence(Arc<Mutex<State>>);

impl Default for Precedence {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State::new(Instant::now()))))
    }
}

impl Precedence {
    /// How long a batch of a channel rests before its turn.
    pub(super) fn rest(&self, channel: &ChannelName, bytes: usize) -> Duration {
        self.with(|state, now| state.comes(channel, bytes, now))
    }

    /// A batch of a channel was appended and read back in this time.
    pub(super) fn appended(&self, channel: &ChannelName, took: Duration) {
        self.with(|state, now| state.appended(channel, took, now));
    }

    fn with<T>(&self, action: impl FnOnce(&mut State, Instant) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }
}

/// What a channel has brought lately: a bucket that leaks.
#[derive(Debug, Clone, Copy)]
struct Lately {
    bytes: f64,
    at: Instant,
}

impl Lately {
    fn bytes_at(self, now: Instant) -> f64 {
        (self.bytes - now.duration_since(self.at).as_secs_f64() * BULK_BYTES_A_SECOND).max(0.0)
    }

    fn is_bulk(self, now: Instant) -> bool {
        self.bytes_at(now) > BULK_BYTES_A_SECOND
    }
}

#[derive(Debug)]
struct State {
    /// The rest as it was last made longer, and when that was.
    rest: Duration,
    since: Instant,
    /// How long an append takes while there is no bulk: a moving mean, and of how many.
    usual: Duration,
    learnt: u32,
    /// Channels whose bucket is not empty.
    lately: HashMap<ChannelName, Lately>,
}

impl State {
    fn new(now: Instant) -> Self {
        Self { rest: Duration::ZERO, since: now, usual: Duration::ZERO, learnt: 0, lately: HashMap::new() }
    }

    fn comes(&mut self, channel: &ChannelName, bytes: usize, now: Instant) -> Duration {
        self.lately.retain(|_, lately| lately.bytes_at(now) > 0.0);
        let before = self.lately.get(channel).map_or(0.0, |lately| lately.bytes_at(now));
        #[allow(clippy::cast_precision_loss, reason = "a batch has at most some megabytes")]
        let lately = Lately { bytes: before + bytes as f64, at: now };
        self.lately.insert(channel.clone(), lately);
        if lately.is_bulk(now) { self.rest_at(now) } else { Duration::ZERO }
    }

    fn appended(&mut self, channel: &ChannelName, took: Duration, now: Instant) {
        let is_bulk = |lately: &Lately| lately.is_bulk(now);
        if !self.lately.values().any(is_bulk) {
            self.usual = if self.learnt == 0 { took } else { (self.usual * 7 + took) / 8 };
            self.learnt = self.learnt.saturating_add(1);
            return;
        }
        // The bulk's own batches wait for each other in any case.
        let is_single = !self.lately.get(channel).is_some_and(is_bulk);
        let is_late = self.learnt >= LEARNT && took > LATE.max(self.usual * LATE_TIMES);
        let rest = self.rest_at(now);
        // What was under way when the rest became longer says nothing of it.
        if is_single && is_late && now.duration_since(self.since) >= rest {
            self.rest = (rest * 2).clamp(FIRST_REST, LONGEST_REST);
            self.since = now;
        }
    }

    fn rest_at(&self, now: Instant) -> Duration {
        let half_lives = now.duration_since(self.since).as_secs_f64() / HALF_LIFE.as_secs_f64();
        let rest = self.rest.mul_f64((-half_lives).exp2());
        if rest < SHORTEST_REST { Duration::ZERO } else { rest }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IN_TIME: Duration = Duration::from_millis(2);
    const TOO_LATE: Duration = Duration::from_millis(40);
    /// A batch that puts a channel in bulk for some seconds.
    const MUCH: usize = 8 << 20;

    fn channel(name: &str) -> ChannelName {
        name.parse().expect("a channel's name")
    }

    /// A state that knows how long an append takes, and in which a channel is in bulk.
    fn in_a_burst(usual: Duration) -> (State, Instant) {
        let now = Instant::now();
        let mut state = State::new(now);
        for _ in 0..LEARNT {
            state.appended(&channel("single"), usual, now);
        }
        assert_eq!(state.comes(&channel("bulk"), MUCH, now), Duration::ZERO);
        (state, now)
    }

    #[test]
    fn bulk_rests_while_single_changes_of_another_channel_are_late() {
        let (mut state, mut now) = in_a_burst(IN_TIME);
        let mut rests = Vec::new();
        for _ in 0..5 {
            now += LONGEST_REST;
            state.appended(&channel("single"), TOO_LATE, now);
            rests.push(state.comes(&channel("bulk"), 0, now));
        }
        assert_eq!(rests[0], FIRST_REST);
        assert!(rests.is_sorted(), "{rests:?}");
        assert_eq!(rests[4], LONGEST_REST);
        // Nothing is late any more.
        now += HALF_LIFE;
        state.appended(&channel("single"), IN_TIME, now);
        assert_eq!(state.comes(&channel("bulk"), MUCH, now), LONGEST_REST / 2);
        now += HALF_LIFE * 7;
        assert_eq!(state.comes(&channel("bulk"), MUCH, now), Duration::ZERO);
    }

    #[test]
    fn a_late_change_that_was_under_way_does_not_lengthen_the_rest_again() {
        let (mut state, now) = in_a_burst(IN_TIME);
        for _ in 0..5 {
            state.appended(&channel("single"), TOO_LATE, now);
        }
        assert_eq!(state.comes(&channel("bulk"), 0, now), FIRST_REST);
    }

    #[test]
    fn a_channel_that_cuts_its_bulk_small_rests_and_makes_nobody_rest() {
        let (mut state, mut now) = in_a_burst(IN_TIME);
        for _ in 0..100 {
            state.comes(&channel("small"), 31 << 10, now);
        }
        now += LONGEST_REST;
        state.appended(&channel("small"), TOO_LATE, now);
        assert_eq!(state.comes(&channel("bulk"), 0, now), Duration::ZERO);
        state.appended(&channel("single"), TOO_LATE, now);
        assert_eq!(state.comes(&channel("small"), 100, now), FIRST_REST);
        assert_eq!(state.comes(&channel("single"), 100, now), Duration::ZERO);
    }

    #[test]
    fn a_log_that_is_slow_by_itself_makes_no_change_late() {
        let (mut state, mut now) = in_a_burst(TOO_LATE);
        now += LONGEST_REST;
        state.appended(&channel("single"), TOO_LATE * 2, now);
        assert_eq!(state.comes(&channel("bulk"), 0, now), Duration::ZERO);
        state.appended(&channel("single"), TOO_LATE * (LATE_TIMES + 1), now);
        assert_eq!(state.comes(&channel("bulk"), 0, now), FIRST_REST);
    }

    #[test]
    fn nothing_is_late_before_the_usual_is_known() {
        let now = Instant::now();
        let mut state = State::new(now);
        state.comes(&channel("bulk"), MUCH, now);
        state.appended(&channel("single"), TOO_LATE, now + LONGEST_REST);
        assert_eq!(state.comes(&channel("bulk"), 0, now + LONGEST_REST), Duration::ZERO);
    }

    proptest! {
        /// Whatever comes, a rest has its limit, and it ends when the last late change is long ago.
        #[test]
        fn bulk_always_moves(
            steps in prop::collection::vec((0_u8..3, 0_usize..4 << 20, 0_u64..500, 0_u64..5_000), 0..200),
        ) {
            let mut now = Instant::now();
            let mut state = State::new(now);
            for (name, bytes, wait, took) in steps {
                now += Duration::from_millis(wait);
                let channel = channel(&format!("channel-{name}"));
                prop_assert!(state.comes(&channel, bytes, now) <= LONGEST_REST);
                state.appended(&channel, Duration::from_millis(took), now);
                prop_assert!(state.lately.len() <= 3);
            }
            prop_assert_eq!(state.comes(&channel("bulk"), MUCH, now + HALF_LIFE * 10), Duration::ZERO);
        }
    }
}
