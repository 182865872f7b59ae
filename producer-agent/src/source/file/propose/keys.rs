//! Which columns identify a row, and which column names its territory.
//!
//! Owns the counts of distinct values. A key holds for all rows of the file, not for a sample.

use std::collections::HashSet;
use std::path::Path;

use schemas::digest::hash128;

use super::{ProposeError, text};
use crate::source::file::table::Table;
use crate::source::format::TableFormat;

/// Words in the names of key columns, the surest first.
const KEY_WORDS: [&str; 12] = [
    "regcode",
    "reg. nr",
    "reģ",
    "reg_nr",
    "kods",
    "code",
    "identifier",
    "domain",
    "key",
    "id",
    "nr",
    "number",
];
/// Words in the names of columns with a row's territory, the surest first.
const TERRITORY_WORDS: [&str; 16] = [
    "municip", "novad", "pašvald", "pagast", "territ", "atvk", "region", "rajon", "county", "province",
    "state", "kommun", "district", "country", "city", "place",
];
/// The first columns, which are tried in sets.
const PARTS: usize = 8;
/// Rows with which sets of columns are compared; the best sets are then tried on all rows.
const SAMPLE: usize = 20_000;
/// The most sets that are tried on all rows.
const TRIES: usize = 5;
/// One row in this many may have another row's key: real registers have some, and they are parked.
const FEW: u64 = 100;
/// While rows are read, this many more rows may have another row's key.
const FEW_AT_FIRST: u64 = 20;
/// The most values of a column with territories.
const MOST_TERRITORIES: usize = 400;

struct Tally {
    name: String,
    /// Each value's hash; `None` once a value is empty or comes twice.
    unique: Option<HashSet<u128>>,
    /// Each value's hash; `None` once there are too many.
    few: Option<HashSet<u128>>,
    /// Bytes of all values.
    bytes: u64,
}

/// What was seen in all columns.
pub(super) struct Keys {
    columns: Vec<Tally>,
    rows: HashSet<u128>,
}

fn joined(cells: &[&str]) -> u128 {
    hash128(cells.join("\u{1f}").as_bytes())
}

impl Keys {
    pub(super) fn of(header: &[String]) -> Self {
        let tally = |name: &String| Tally {
            name: name.clone(),
            unique: Some(HashSet::new()),
            few: Some(HashSet::new()),
            bytes: 0,
        };
        Self { columns: header.iter().map(tally).collect(), rows: HashSet::new() }
    }

    /// Counts a row; `false` for a row that was seen before.
    pub(super) fn see(&mut self, cells: &[&str]) -> bool {
        if !self.rows.insert(joined(cells)) {
            return false;
        }
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            let hash = hash128(cell.as_bytes());
            column.bytes += u64::try_from(cell.len()).unwrap_or_default();
            if column.unique.as_mut().is_some_and(|unique| cell.is_empty() || !unique.insert(hash)) {
                column.unique = None;
            }
            if column.few.as_mut().is_some_and(|few| {
                few.insert(hash);
                few.len() > MOST_TERRITORIES
            }) {
                column.few = None;
            }
        }
        true
    }

    /// The column, or the set of columns, that identifies rows; and how many rows have another row's key.
    pub(super) fn key(
        &self,
        file: &Path,
        format: &TableFormat,
    ) -> Result<Option<(Vec<String>, u64)>, ProposeError> {
        let alone = self.columns.iter().enumerate().filter(|(_, column)| column.unique.is_some());
        let rank = |(index, column): &(usize, &Tally)| (rank(&column.name, &KEY_WORDS), column.bytes, *index);
        if let Some((_, column)) = alone.min_by_key(rank) {
            return Ok(Some((vec![column.name.clone()], 0)));
        }
        let sets = sets(self.columns.len().min(PARTS));
        let name = |index: &usize| self.columns.get(*index).map(|column| column.name.clone());
        for (set, _) in alike(file, format, sets, SAMPLE)?.into_iter().take(TRIES) {
            let whole = alike(file, format, vec![set], usize::MAX)?;
            if let Some((set, repeated)) = whole.into_iter().next() {
                return Ok(Some((set.iter().filter_map(name).collect(), repeated)));
            }
        }
        Ok(None)
    }

    /// The column with a row's territory, and how many territories there are.
    pub(super) fn territory(&self, key: &[String]) -> Option<(String, usize)> {
        let rows = self.rows.len();
        let names = |column: &Tally| column.few.as_ref().map_or(0, HashSet::len);
        let may_be = |column: &&Tally| {
            // At least two territories, and more rows than territories.
            let names = names(column);
            names > 1 && names * 3 <= rows * 2 && (key.len() > 1 || !key.contains(&column.name))
        };
        let column =
            self.columns.iter().filter(may_be).min_by_key(|column| rank(&column.name, &TERRITORY_WORDS))?;
        Some((column.name.clone(), names(column)))
    }
}

/// How surely a name fits the words: the lower, the surer.
fn rank(name: &str, words: &[&str]) -> usize {
    let name = name.to_lowercase();
    words.iter().position(|word| name.contains(word)).unwrap_or(words.len())
}

/// All sets of one, two and three columns, the small ones first.
fn sets(columns: usize) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = (0..columns).map(|column| vec![column]).collect();
    let mut begin = 0;
    while sets.get(begin).is_some_and(|set| set.len() < 3) {
        let set = sets.get(begin).cloned().unwrap_or_default();
        let last = set.last().copied().unwrap_or_default();
        sets.extend((last + 1..columns).map(|column| [set.as_slice(), &[column]].concat()));
        begin += 1;
    }
    sets
}

/// The sets of columns in which few rows are alike, with their number, the fewest first; equal ones in the order given.
fn alike(
    file: &Path,
    format: &TableFormat,
    sets: Vec<Vec<usize>>,
    most_rows: usize,
) -> Result<Vec<(Vec<usize>, u64)>, ProposeError> {
    struct Trial {
        set: Vec<usize>,
        seen: HashSet<u128>,
        repeated: u64,
    }
    let trial = |set| Trial { set, seen: HashSet::new(), repeated: 0 };
    let mut left: Vec<Trial> = sets.into_iter().map(trial).collect();
    let mut rows = HashSet::new();
    let mut table = Table::open(file, format)?;
    while let Some(row) = table.next_row() {
        let Ok(cells) = row.content() else { continue };
        let texts: Vec<&str> = cells.iter().map(text).collect();
        if !rows.insert(joined(&texts)) {
            continue;
        }
        if rows.len() > most_rows {
            break;
        }
        // Early rows may be alike by chance.
        let may_be = u64::try_from(rows.len()).unwrap_or(u64::MAX) / FEW + FEW_AT_FIRST;
        left.retain_mut(|trial| {
            let parts: Vec<&str> = trial.set.iter().filter_map(|index| texts.get(*index).copied()).collect();
            let is_new = !parts.iter().all(|part| part.is_empty()) && trial.seen.insert(joined(&parts));
            trial.repeated += u64::from(!is_new);
            trial.repeated <= may_be
        });
    }
    let all = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    left.retain(|trial| trial.repeated * FEW <= all);
    left.sort_by_key(|trial| trial.repeated);
    Ok(left.into_iter().map(|trial| (trial.set, trial.repeated)).collect())
}
