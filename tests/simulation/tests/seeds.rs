//! The simulation's short form: some seeds, the same seed twice, and that every planted bug still applies.
//!
//! The long form is its command: `just simulation`, and `just planted` for the bugs.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use simulation::fault::Fault;
use simulation::parties::Identities;
use simulation::world::Outcome;

fn run(seed: u64) -> Outcome {
    simulation::run(seed, false, &Identities::issue().unwrap())
        .unwrap_or_else(|e| panic!("seed {seed}: {e:#}"))
}

/// A run of a seed with enough changes and faults to prove something.
fn looked_at(seed: u64) -> Outcome {
    let outcome = run(seed);
    assert_eq!(outcome.broken, [], "seed {seed}");
    assert!(outcome.changes >= 2_000, "seed {seed}: {} changes", outcome.changes);
    let fired: u64 = outcome.faults.values().sum();
    assert!(fired >= 20, "seed {seed}: {fired} faults");
    assert!(outcome.compared > 0, "seed {seed}: no replica was compared");
    outcome
}

#[test]
fn no_seed_breaks_a_promise() {
    let seen: Vec<_> =
        [1_u64, 2, 3, 4].into_iter().flat_map(|seed| looked_at(seed).faults.into_keys()).collect();
    for fault in [Fault::RouterCrash, Fault::ProviderCrash, Fault::LogCut, Fault::Deletion, Fault::Retention]
    {
        assert!(seen.contains(&fault), "{} never fired", fault.as_str());
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let first = run(5);
    let again = run(5);
    let other = run(6);
    assert_eq!(first.history, again.history);
    assert_eq!(first.faults, again.faults);
    assert_ne!(first.history, other.history);
}

#[test]
fn every_planted_bug_still_has_its_place() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut patches: Vec<_> =
        here.join("planted").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    assert!(patches.len() >= 10, "{patches:?}");
    for patch in patches {
        let root = here.ancestors().nth(2).unwrap();
        let checked = Command::new("git").args(["apply", "--check"]).arg(&patch).current_dir(root).output();
        let checked = checked.unwrap();
        assert!(
            checked.status.success(),
            "{}: {}",
            patch.display(),
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}
