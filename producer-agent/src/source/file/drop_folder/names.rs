//! What the name of a dropped file says: whether it is finished, and its position among change files.
//!
//! Owns the endings that programs give to unfinished files, and the order of names: numbers as numbers.

use std::cmp::Ordering;

use crate::source::values::digits::runs;

/// Endings of files that are still being written, or that accompany one.
const UNFINISHED: [&str; 12] = [
    ".part",
    ".filepart",
    ".partial",
    ".tmp",
    ".temp",
    ".crdownload",
    ".download",
    ".swp",
    ".lock",
    ".lck",
    ".bak",
    "~",
];
/// Beginnings of the names of hidden and temporary files.
const BESIDE: [&str; 3] = [".", "~$", "#"];

/// Whether a file's name says that it is not to be read.
pub(super) fn is_unfinished(name: &str) -> bool {
    let lower = name.to_lowercase();
    UNFINISHED.iter().any(|ending| lower.ends_with(ending))
        || BESIDE.iter().any(|start| name.starts_with(start))
}

/// What follows a settled file's name: for its report, and for its parked rows.
pub(super) const REPORT: &str = ".report.json";
pub(super) const PARKED: &str = ".parked.ndjson";

/// Whether a name is that of a report or of parked rows.
pub(super) fn is_beside(name: &str) -> bool {
    [REPORT, PARKED].iter().any(|ending| name.ends_with(ending))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece<'n> {
    Text(&'n str),
    /// Digits without leading zeros.
    Number(&'n str),
}

fn pieces(name: &str) -> Vec<Piece<'_>> {
    let found = runs(name).map(|(is_digits, run)| match is_digits {
        true => Piece::Number(run.trim_start_matches('0')),
        false => Piece::Text(run),
    });
    found.collect()
}

/// The order in which files are taken: by their names, with numbers compared as numbers.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let left = pieces(a);
    let right = pieces(b);
    let mut pairs = left.iter().zip(&right).map(|pair| match pair {
        (Piece::Number(a), Piece::Number(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
        (Piece::Text(a), Piece::Text(b)) => a.cmp(b),
        (Piece::Number(_), Piece::Text(_)) => Ordering::Less,
        (Piece::Text(_), Piece::Number(_)) => Ordering::Greater,
    });
    let found = pairs.find(|order| order.is_ne());
    found.unwrap_or_else(|| left.len().cmp(&right.len())).then_with(|| a.cmp(b))
}

/// How a change file follows the one that was taken last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// It may be taken.
    Next,
    /// It is that file again, or an earlier one.
    Older,
    /// Files between the two are missing; the first of them.
    Gap(String),
}

/// Numbers with more digits are dates or times: they do not count files.
const LONGEST_COUNT: usize = 6;

/// A name without its ending: a series may change its form.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Whether two names are of one series: they differ in their numbers only.
pub(super) fn is_one_series(one: &str, other: &str) -> bool {
    let one = pieces(stem(one));
    let other = pieces(stem(other));
    let is_alike = |pair: (&Piece<'_>, &Piece<'_>)| match pair {
        (Piece::Text(a), Piece::Text(b)) => a == b,
        (Piece::Number(_), Piece::Number(_)) => true,
        _ => false,
    };
    one.len() == other.len()
        && one.iter().zip(&other).all(is_alike)
        && one.iter().any(|piece| matches!(piece, Piece::Number(_)))
}

/// How a change file's name follows another's; `Next` for names without numbers, or of another series.
pub(super) fn order(name: &str, last: &str) -> Order {
    let now = pieces(stem(name));
    let before = pieces(stem(last));
    if !is_one_series(name, last) {
        return Order::Next;
    }
    if natural(stem(name), stem(last)).is_le() {
        return Order::Older;
    }
    let mut differing = now.iter().zip(&before).enumerate().filter(|(_, (a, b))| a != b);
    let (Some((at, (Piece::Number(a), Piece::Number(b)))), None) = (differing.next(), differing.next())
    else {
        return Order::Next;
    };
    let is_count = a.len() <= LONGEST_COUNT && !is_date(&now);
    let is_last = !now.iter().skip(at + 1).any(|piece| matches!(piece, Piece::Number(_)));
    let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok() };
    match (number(a), number(b)) {
        (Some(a), Some(b)) if is_count && is_last && a > b + 1 => Order::Gap(with_number(name, at, b + 1)),
        _ => Order::Next,
    }
}

/// Whether a year is followed by a month: dates skip days without a gap.
fn is_date(pieces: &[Piece<'_>]) -> bool {
    let number =
        |piece: &Piece<'_>| if let Piece::Number(digits) = piece { digits.parse::<u64>().ok() } else { None };
    let numbers: Vec<u64> = pieces.iter().filter_map(number).collect();
    numbers.windows(2).any(|pair| matches!(pair, [1900..=2099, 1..=12]))
}

fn with_number(name: &str, at: usize, number: u64) -> String {
    let spelt = |(index, (_, run)): (usize, (bool, &str))| match index == at {
        true if run.starts_with('0') => format!("{number:0>width$}", width = run.len()),
        true => number.to_string(),
        false => run.to_owned(),
    };
    runs(name).enumerate().map(spelt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finished_is_left_alone() {
        for name in
            ["a.csv.part", "A.CSV.FILEPART", "a.tmp", "~$a.csv", "a.csv~", ".a.csv", "a.csv.crdownload"]
        {
            assert!(is_unfinished(name), "{name}");
        }
        for name in ["a.csv", "a.part.csv", "tmp.csv", "a"] {
            assert!(!is_unfinished(name), "{name}");
        }
    }

    #[test]
    fn numbers_are_numbers() {
        let mut names = ["c-10.csv", "c-9.csv", "c-08.csv", "c-11.csv", "a.csv", "c-8.csv", "c.csv"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a.csv", "c-08.csv", "c-8.csv", "c-9.csv", "c-10.csv", "c-11.csv", "c.csv"]);
        assert_eq!(natural("c-99999999999999999998.csv", "c-99999999999999999999.csv"), Ordering::Less);
    }

    #[test]
    fn a_gap_and_an_older_one_are_seen() {
        assert_eq!(order("c-10.csv", "c-9.csv"), Order::Next);
        assert_eq!(order("c-9.csv", "c-9.csv"), Order::Older);
        assert_eq!(order("c-009.csv", "c-010.csv"), Order::Older);
        assert_eq!(order("c-12.csv", "c-9.csv"), Order::Gap("c-10.csv".to_owned()));
        assert_eq!(order("c-0012.csv", "c-0009.csv"), Order::Gap("c-0010.csv".to_owned()));
        assert_eq!(order("c-9.ndjson", "c-10.csv"), Order::Older, "one series in two forms");
        assert_eq!(order("v2-c-2021.csv", "v2-c-2018.csv"), Order::Gap("v2-c-2019.csv".to_owned()));
        assert_eq!(order("v2-c-12.csv", "v2-c-10.csv"), Order::Gap("v2-c-11.csv".to_owned()));
        for (name, last) in [
            ("changes.csv", "changes.csv"),
            ("c-20261130.csv", "c-20261127.csv"),
            ("c-2026-11-30.csv", "c-2026-11-27.csv"),
            ("c-2026-11-30-1.csv", "c-2026-11-27-4.csv"),
            ("d-7.csv", "c-3.csv"),
        ] {
            assert_eq!(order(name, last), Order::Next, "{name} after {last}");
        }
    }
}
