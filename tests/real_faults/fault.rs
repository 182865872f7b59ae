//! The faults, in turn and at random.
//!
//! Owns the kinds of faults and the plan that a seed gives.

use std::fmt;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Broker(u8),
    Router(u8),
    /// By the number of its register.
    Provider(u8),
    /// By the number of its participant.
    Consumer(u8),
    Postgres,
}

impl Part {
    /// All parts of the network.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let brokers = (0..3).map(Self::Broker);
        let routers = (0..2).map(Self::Router);
        let providers = (0..2).map(Self::Provider);
        let consumers = (0..3).map(Self::Consumer);
        brokers.chain(routers).chain(providers).chain(consumers).chain([Self::Postgres])
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Broker(_) => "broker",
            Self::Router(_) => "router",
            Self::Provider(_) => "provider's agent",
            Self::Consumer(_) => "consumer's agent",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// The harm that a part suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Harm {
    /// kill -9, and started again.
    Killed,
    /// Asked to end, and started again.
    Stopped,
    /// Stands still, and continues.
    Paused,
    /// It reaches no host, and no host reaches it.
    CutOff,
    /// These two do not reach each other.
    CutFrom(Part),
    /// Packets from it to that part are lost; packets from there arrive.
    Unheard(Part),
}

/// A fault, and how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) part: Part,
    pub(crate) harm: Harm,
    pub(crate) lasts: Duration,
}

impl Fault {
    /// Whether its part does not run while it lasts.
    pub(crate) const fn ends_it(&self) -> bool {
        matches!(self.harm, Harm::Killed | Harm::Stopped)
    }

    /// Its kind, for the report.
    pub(crate) fn kind(&self) -> String {
        let class = self.part.class();
        match self.harm {
            Harm::Killed => format!("{class}: kill -9"),
            Harm::Stopped => format!("{class}: stopped and started"),
            Harm::Paused => format!("{class}: paused"),
            Harm::CutOff => format!("{class}: cut off"),
            Harm::CutFrom(other) => format!("{class} and {}: cut from each other", other.class()),
            Harm::Unheard(other) => format!("{class}: unheard by {}", other.class()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} for {:.1} s", self.part, self.harm, self.lasts.as_secs_f64())
    }
}

/// Each kind of fault of each part.
fn in_turn() -> Vec<(Part, Harm)> {
    let mut each: Vec<_> = Part::all()
        .flat_map(|part| [Harm::Killed, Harm::Stopped, Harm::Paused, Harm::CutOff].map(|harm| (part, harm)))
        .collect();
    for broker in (0..3).map(Part::Broker) {
        for router in (0..2).map(Part::Router) {
            each.extend([Harm::CutFrom(broker), Harm::Unheard(broker)].map(|harm| (router, harm)));
        }
    }
    each.extend(
        [(0, 1), (1, 2), (2, 0)].map(|(one, other)| (Part::Broker(one), Harm::CutFrom(Part::Broker(other)))),
    );
    each.extend([0, 1].map(|consumer| (Part::Consumer(consumer), Harm::CutFrom(Part::Postgres))));
    each
}

/// So many faults, in rounds: first each kind in turn, then kinds at random, sometimes two at a time.
pub(crate) fn plan(seed: u64, count: usize) -> Vec<Vec<Fault>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let mut draw = |bound: usize| (0..bound).new_tree(&mut runner).map_or(0, |drawn| drawn.current());
    let all = in_turn();
    // Long enough that others notice, and sometimes longer than a broker's session.
    let fault = |(part, harm): (Part, Harm), draw: &mut dyn FnMut(usize) -> usize| {
        let millis = if draw(6) == 0 { 9_000 + draw(6_000) } else { 500 + draw(4_500) };
        Fault { part, harm, lasts: Duration::from_millis(u64::try_from(millis).unwrap_or(0)) }
    };
    let mut rounds: Vec<Vec<Fault>> = Vec::new();
    // If there are fewer faults than kinds, they are spread over all of these.
    let first = draw(all.len());
    let stride = all.len().div_ceil(count.max(1));
    let turns = (0..all.len().min(count)).map(|turn| (first + turn * stride.max(1)) % all.len());
    rounds.extend(turns.map(|turn| vec![fault(all[turn], &mut draw)]));
    let mut left = count.saturating_sub(rounds.len());
    while left > 0 {
        let mut round = vec![fault(all[draw(all.len())], &mut draw)];
        let beside = fault(all[draw(all.len())], &mut draw);
        if left > 1 && draw(3) == 0 && beside.part != round[0].part {
            round.push(beside);
        }
        left -= round.len();
        rounds.push(round);
    }
    rounds
}
