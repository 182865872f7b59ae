//! A benchmark's work, done so many times and no more: a count of its instructions knows little noise (`compare.sh`).
//!
//! Owns how it is asked for, and the function that the counter looks at. It measures no time.

use criterion::Criterion;

/// Names the only work and how often it is done, as `scopes_43:4096`.
const ONCE: &str = "DIT_BENCH_ONCE";

/// Does the work that is asked for, or else all benchmarks.
pub(crate) fn main(work_of: fn(&str, usize), benches: fn()) {
    match std::env::var(ONCE) {
        Ok(asked) => {
            let (name, times) = asked.split_once(':').expect("a name and how many times");
            work_of(name, times.parse().expect("how many times"));
        }
        Err(_) => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}

/// Refuses a name that a benchmark has no work for.
pub(crate) fn unknown(name: &str) {
    panic!("{ONCE}: there is no work of the name {name}")
}

/// Does the work. The instructions inside this function are counted, and no others.
#[inline(never)]
pub(crate) fn counted_work(times: usize, mut work: impl FnMut()) {
    (0..times).for_each(|_| work());
}
