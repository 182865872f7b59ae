//! Two measurements of one scenario: which figures differ by more than the noise of the rounds.
//!
//! Owns the test of the difference. Figures are relative to the other side of the same round, so that machines and
//! hours may differ. It reports where the rounds are too few.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::outcome::{Outcome, Round, median};
use crate::scenario::Scenario;

/// A difference is real if chance makes it less often than this: 5 % for the five figures together (Bonferroni).
const CHANCE: f64 = 0.05 / 5.0;
/// With fewer rounds on a side, chance makes even a clear difference more often.
const FEWEST_ROUNDS: usize = 5;
/// A smaller difference of the medians matters to nobody, however clear it is.
const SMALLEST: f64 = 0.01;

/// One figure of a round.
struct Figure {
    name: &'static str,
    more_is_better: bool,
    of: fn(&Round) -> Option<f64>,
}

const FIGURES: [Figure; 5] = [
    Figure { name: "rate ÷ other", more_is_better: true, of: Round::rate_ratio },
    Figure { name: "CPU ÷ other", more_is_better: false, of: Round::cpu_ratio },
    Figure { name: "broker's CPU ÷ other", more_is_better: false, of: Round::broker_cpu_ratio },
    Figure { name: "added p50, µs", more_is_better: false, of: |round| round.added_micros(0.5) },
    Figure { name: "added p99, µs", more_is_better: false, of: |round| round.added_micros(0.99) },
];

/// The change of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Better,
    Worse,
    WithinNoise,
}

impl Change {
    const fn in_words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::WithinNoise => "within the noise of the rounds",
        }
    }
}

/// Says how each figure changed; whether none is worse.
pub(crate) fn run(before: &Path, after: &Path) -> anyhow::Result<bool> {
    let (scenario, before) = read(before)?;
    let (other, after) = read(after)?;
    if !is_same_load(&scenario, &other) {
        bail!("{} and {} are different loads: measure one scenario with both", scenario.name, other.name);
    }
    platform::say!("{}: {} rounds before, {} after", scenario.name, before.len(), after.len());
    if before.len().min(after.len()) < FEWEST_ROUNDS {
        bail!(
            "with fewer than {FEWEST_ROUNDS} rounds on each side nothing can be told from noise: measure again, and more"
        );
    }
    let mut is_worse = false;
    for figure in FIGURES {
        let values = |rounds: &[Round]| rounds.iter().filter_map(figure.of).collect::<Vec<_>>();
        let before = values(&before);
        let after = values(&after);
        let (Some(then), Some(now)) = (median(before.clone()), median(after.clone())) else { continue };
        let change = change(&before, &after, figure.more_is_better);
        is_worse |= change == Change::Worse;
        platform::say!("  {:22} {then:10.3} {now:10.3}  {}", figure.name, change.in_words());
    }
    Ok(!is_worse)
}

/// Whether both have one load, whatever their rounds and brokers.
fn is_same_load(one: &Scenario, other: &Scenario) -> bool {
    let load = |scenario: &Scenario| Scenario {
        name: String::new(),
        about: String::new(),
        rounds: 0,
        brokers: None,
        ..scenario.clone()
    };
    load(one) == load(other)
}

/// All rounds of a report, or of a folder's reports.
fn read(path: &Path) -> anyhow::Result<(Scenario, Vec<Round>)> {
    let mut rounds = Vec::new();
    let mut scenario: Option<Scenario> = None;
    for file in reports(path)? {
        let named = || file.display().to_string();
        let text = std::fs::read_to_string(&file).with_context(named)?;
        let outcome: Outcome = serde_json::from_str(&text)
            .with_context(|| format!("{}: it is no report of dit-loadtest run", file.display()))?;
        let first = scenario.get_or_insert_with(|| outcome.scenario.clone());
        if !is_same_load(first, &outcome.scenario) {
            bail!("{}: its load is another one than that of the reports before it", file.display());
        }
        rounds.extend(outcome.rounds);
    }
    let scenario = scenario.with_context(|| format!("{}: there is no report (*.json)", path.display()))?;
    if rounds.is_empty() {
        bail!("{}: its reports have no rounds", path.display());
    }
    Ok((scenario, rounds))
}

fn reports(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let named = || path.display().to_string();
    let entries = std::fs::read_dir(path).with_context(named)?;
    let mut files =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().with_context(named)?;
    files.retain(|file| file.extension().is_some_and(|kind| kind == "json"));
    files.sort();
    Ok(files)
}

fn change(before: &[f64], after: &[f64], more_is_better: bool) -> Change {
    let (Some(then), Some(now)) = (median(before.to_vec()), median(after.to_vec())) else {
        return Change::WithinNoise;
    };
    if (now - then).abs() < SMALLEST * then.abs() {
        return Change::WithinNoise;
    }
    // Pairs in which the value after is the greater one; equal values count half.
    let pairs = before.iter().flat_map(|then| after.iter().map(move |now| now.total_cmp(then)));
    let halves: usize = pairs
        .map(|order| match order {
            Ordering::Greater => 2,
            Ordering::Equal => 1,
            Ordering::Less => 0,
        })
        .sum();
    let all = before.len() * after.len();
    let is_greater = halves > all;
    // The rarer side, rounded towards the middle.
    let extreme = halves.min(2 * all - halves).div_ceil(2);
    if chance_of(before.len(), after.len(), extreme) >= CHANCE {
        return Change::WithinNoise;
    }
    if is_greater == more_is_better { Change::Better } else { Change::Worse }
}

/// How often chance alone puts so few pairs, or fewer, on one side, or on the other: the exact distribution of Mann's and
/// Whitney's U (1947).
fn chance_of(first: usize, second: usize, pairs: usize) -> f64 {
    // ways[count][total]: choices of `count` values of the first side whose pairs come to `total`.
    let most = first * second;
    let mut ways = vec![vec![0.0_f64; most + 1]; first + 1];
    if let Some(none) = ways.first_mut().and_then(|totals| totals.first_mut()) {
        *none = 1.0;
    }
    for rank in 0..first + second {
        for count in (1..=first.min(rank + 1)).rev() {
            // The value of this rank has so many of the second side below it.
            let below = rank + 1 - count;
            let (fewer, these) = ways.split_at_mut(count);
            let (Some(fewer), Some(these)) = (fewer.last(), these.first_mut()) else { continue };
            if below > second {
                continue;
            }
            these.iter_mut().skip(below).zip(fewer).for_each(|(to, from)| *to += from);
        }
    }
    let totals = ways.last().map(Vec::as_slice).unwrap_or_default();
    let all: f64 = totals.iter().sum();
    let few: f64 = totals.iter().take(pairs + 1).sum();
    if all > 0.0 { (2.0 * few / all).min(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chance_is_the_tables() {
        // Exact two-sided values of the U test: 4 and 4 apart is 2 of 70, 5 and 5 apart is 2 of 252.
        assert!((chance_of(4, 4, 0) - 2.0 / 70.0).abs() < 1e-12);
        assert!((chance_of(4, 4, 1) - 4.0 / 70.0).abs() < 1e-12);
        assert!((chance_of(5, 5, 0) - 2.0 / 252.0).abs() < 1e-12);
        assert!((chance_of(5, 5, 2) - 8.0 / 252.0).abs() < 1e-12);
        assert!((chance_of(3, 5, 7) - 1.0).abs() < 0.2, "the middle is no evidence");
    }

    #[test]
    fn only_what_chance_would_hardly_make_is_a_change() {
        let then = [0.10, 0.11, 0.12, 0.10, 0.11];
        let faster = [0.13, 0.14, 0.13, 0.15, 0.16];
        assert_eq!(change(&then, &faster, true), Change::Better);
        assert_eq!(change(&faster, &then, true), Change::Worse);
        assert_eq!(change(&then, &faster, false), Change::Worse, "of CPU less is better");
        assert_eq!(change(&then, &[0.09, 0.13, 0.10, 0.12, 0.11], true), Change::WithinNoise);
        assert_eq!(change(&then, &then, true), Change::WithinNoise);
        let slightly = then.map(|rate| rate * 1.005);
        assert_eq!(
            change(&[0.1; 9], &[0.1005; 9], true),
            Change::WithinNoise,
            "clear, and too small to matter"
        );
        assert_eq!(change(&then, &slightly, true), Change::WithinNoise);
    }

    fn report(dir: &Path, name: &str, load: &str, rates: &[u64]) {
        let taken = serde_json::json!({"name": "router", "cpu_seconds": 1.0, "max_rss_bytes": 1});
        let measured = |events: u64| {
            serde_json::json!({"events": events, "seconds": 1.0, "bytes": 1, "latencies": [], "processes": [taken],
                "course": []})
        };
        let rounds: Vec<_> = rates
            .iter()
            .map(|rate| serde_json::json!({"other": measured(1_000), "ours": measured(*rate)}))
            .collect();
        let scenario: Scenario =
            toml::from_str(&format!("name = \"pipe\"\nabout = \"a\"\n[load]\n{load}")).unwrap();
        let report = serde_json::json!({"scenario": scenario, "begun_at": "", "cores": 2, "against": "raw", "rounds": rounds,
            "summary": crate::outcome::Summary::default()});
        std::fs::write(dir.join(name), report.to_string()).unwrap();
    }

    #[test]
    fn rounds_of_a_folder_count_together_and_other_loads_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let side = |name: &str| {
            let side = dir.path().join(name);
            std::fs::create_dir(&side).unwrap();
            side
        };
        let file = "kind = \"file\"\nevents = 10";
        let before = side("before");
        report(&before, "1.json", file, &[500, 510]);
        report(&before, "2.json", file, &[505, 515, 508]);
        let after = side("after");
        report(&after, "1.json", file, &[400, 410, 405, 395, 402]);
        assert!(!run(&before, &after).unwrap(), "a slower one is told by the exit code");
        assert!(run(&after, &before).unwrap());
        let few = side("few");
        report(&few, "1.json", file, &[400, 410]);
        assert!(run(&before, &few).unwrap_err().to_string().contains("fewer than 5 rounds"));
        let other = side("other");
        report(&other, "1.json", "kind = \"file\"\nevents = 11", &[1]);
        assert!(run(&before, &other).unwrap_err().to_string().contains("different loads"));
        assert!(run(&before, &side("empty")).unwrap_err().to_string().contains("there is no report"));
        std::fs::write(other.join("2.json"), "{}").unwrap();
        assert!(format!("{:#}", run(&before, &other).unwrap_err()).contains("it is no report"));
    }
}
