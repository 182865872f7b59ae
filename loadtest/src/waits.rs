//! Where the time of a traced event goes: each wait and each piece of work between its source and its sink.
//!
//! Owns the chain of stages, and what lies between two of them. It knows spans by their names alone.

use std::collections::HashMap;

use parts::collector::Received;
use serde::{Deserialize, Serialize};

/// One link of the chain: from one moment to the next, over all traced events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wait {
    pub(crate) name: String,
    /// Microseconds; a link is negative where the next stage began before the one before had ended.
    pub(crate) p50_micros: i64,
    pub(crate) p99_micros: i64,
}

/// A moment of a stage.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Begun(&'static str),
    Ended(&'static str),
}

use Moment::{Begun, Ended};

/// The links in their order. `deliver` begins while `append` may still wait for its answer.
const CHAIN: [(&str, Moment, Moment); 12] = [
    ("the request's other changes become events", Begun("create"), Begun("store")),
    ("sync of the outbox", Begun("store"), Ended("store")),
    ("the answer to the partition's last batch", Ended("store"), Begun("send")),
    ("to the router", Begun("send"), Begun("ingest")),
    ("check of the batch", Begun("ingest"), Begun("append")),
    ("the log takes it", Begun("append"), Ended("append")),
    ("read back and judged", Ended("append"), Begun("deliver")),
    ("frame", Begun("deliver"), Ended("deliver")),
    ("to the consumer", Ended("deliver"), Begun("process")),
    ("the frame's other rows", Begun("process"), Begun("apply")),
    ("sink", Begun("apply"), Ended("apply")),
    ("the whole way", Begun("create"), Ended("apply")),
];

/// The links of events of which every stage arrived; a link without events is left out.
pub(crate) fn of(spans: &[Received]) -> Vec<Wait> {
    let mut events: HashMap<&str, HashMap<&str, &Received>> = HashMap::new();
    for span in spans {
        let stage = span.name.split(' ').next().unwrap_or_default();
        events.entry(span.trace.as_str()).or_default().insert(stage, span);
    }
    let at = |event: &HashMap<&str, &Received>, moment| match moment {
        Begun(stage) => event.get(stage).map(|span| span.begun),
        Ended(stage) => event.get(stage).map(|span| span.ended),
    };
    let links = CHAIN.iter().filter_map(|(name, from, to)| {
        let between = |event: &HashMap<&str, &Received>| {
            let (from, to) = (at(event, *from)?, at(event, *to)?);
            Some((i64::try_from(to).ok()? - i64::try_from(from).ok()?) / 1_000)
        };
        let mut micros: Vec<i64> = events.values().filter_map(between).collect();
        micros.sort_unstable();
        let quantile = |hundredths: usize| micros.get(micros.len() * hundredths / 100).copied();
        Some(Wait { name: (*name).to_owned(), p50_micros: quantile(50)?, p99_micros: quantile(99)? })
    });
    links.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(trace: &str, name: &str, begun: u64, ended: u64) -> Received {
        let (trace, name) = (trace.to_owned(), name.to_owned());
        Received { trace, name, begun: begun * 1_000, ended: ended * 1_000, ..Received::default() }
    }

    #[test]
    fn each_link_is_between_two_moments_of_one_event() {
        let spans = [
            span("a", "create addresses", 10, 90),
            span("a", "store outbox", 20, 50),
            span("a", "send addresses", 51, 80),
            span("b", "create addresses", 100, 190),
            span("b", "store outbox", 130, 170),
        ];
        let waits = of(&spans);
        let found: Vec<(&str, i64)> =
            waits.iter().map(|wait| (wait.name.as_str(), wait.p50_micros)).collect();
        assert_eq!(
            found,
            [
                ("the request's other changes become events", 30),
                ("sync of the outbox", 40),
                ("the answer to the partition's last batch", 1)
            ]
        );
    }
}
