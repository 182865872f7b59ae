//! The .gov register as two providers keep it, one commit after another: the federal part, and the rest.
//!
//! Owns the contents of each register at each moment. Every change has a number of its own in the row, so that a loss,
//! a repeat or a wrong order shows in the result. Some rows are marks: they change with every step, one in each
//! partition.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};
use schemas::partition;
use serde::Deserialize;
use support::real_data;

/// The columns that all five years have.
pub(crate) const COLUMNS: [&str; 6] = ["domain", "type", "organization", "city", "state", "contact"];
/// The type of a mark; every agreement admits it.
pub(crate) const MARK: &str = "~mark";

pub(crate) type Cells = [String; 6];

/// The provider whose register a row is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Federal,
    Local,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Federal, Self::Local];

    /// The name of its provider and of its channel.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Federal => "federal",
            Self::Local => "local",
        }
    }

    pub(crate) const fn partitions(self) -> u32 {
        match self {
            Self::Federal => 2,
            Self::Local => 3,
        }
    }

    fn of(cells: &Cells) -> Self {
        if cells[1].starts_with("Federal") { Self::Federal } else { Self::Local }
    }
}

/// A row and the number of the change that made it so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) cells: Cells,
    pub(crate) number: u64,
}

/// A row that came, changed, or went.
#[derive(Debug, Clone)]
pub(crate) struct Changed {
    pub(crate) op: char,
    pub(crate) row: Arc<Row>,
}

/// One provider's register, and all changes of each key.
#[derive(Debug, Default)]
pub(crate) struct Register {
    pub(crate) rows: BTreeMap<String, Arc<Row>>,
    pub(crate) story: BTreeMap<String, Vec<Option<Arc<Row>>>>,
    pub(crate) changes: u64,
}

impl Register {
    /// Sets or removes a row; nothing where it is so already.
    fn set(&mut self, key: &str, cells: Option<Cells>) -> Option<Changed> {
        let before = self.rows.get(key).cloned();
        let changed = match (&before, cells) {
            (None, None) => return None,
            (Some(before), Some(cells)) if before.cells == cells && cells[1] != MARK => return None,
            (Some(before), None) => {
                self.rows.remove(key);
                Changed { op: 'd', row: Arc::clone(before) }
            }
            (_, Some(cells)) => {
                let row = Arc::new(Row { cells, number: self.changes + 1 });
                self.rows.insert(key.to_owned(), Arc::clone(&row));
                Changed { op: if before.is_some() { 'u' } else { 'c' }, row }
            }
        };
        self.changes += 1;
        let after = (changed.op != 'd').then(|| Arc::clone(&changed.row));
        self.story.entry(key.to_owned()).or_default().push(after);
        Some(changed)
    }

    /// The whole register as a file.
    pub(crate) fn as_file(&self) -> anyhow::Result<String> {
        written(&[], self.rows.values().map(|row| (None, row)))
    }
}

/// Changes as a file.
pub(crate) fn change_file(changes: &[Changed]) -> anyhow::Result<String> {
    written(&["op"], changes.iter().map(|changed| (Some(changed.op), &changed.row)))
}

fn written<'r>(
    first: &[&str],
    rows: impl Iterator<Item = (Option<char>, &'r Arc<Row>)>,
) -> anyhow::Result<String> {
    let mut file = csv::Writer::from_writer(Vec::new());
    file.write_record(first.iter().chain(&COLUMNS).chain(&["n"]))?;
    for (op, row) in rows {
        let cells = op.map(String::from).into_iter().chain(row.cells.iter().cloned());
        file.write_record(cells.chain([row.number.to_string()]))?;
    }
    Ok(String::from_utf8(file.into_inner()?)?)
}

#[derive(Deserialize)]
struct Image {
    domain: String,
    #[serde(rename = "type")]
    kind: String,
    organization: String,
    city: String,
    state: String,
    security_contact: String,
}

#[derive(Deserialize)]
struct Event {
    commit: String,
    key: String,
    before: Option<Image>,
    after: Option<Image>,
}

impl From<Image> for Cells {
    fn from(image: Image) -> Self {
        let Image { domain, kind, organization, city, state, security_contact } = image;
        [domain, kind, organization, city, state, security_contact]
    }
}

/// A row's key, before and after.
type RowChange = (String, Option<Cells>, Option<Cells>);

/// Five years forwards, then backwards, and so on without an end.
pub(crate) struct History {
    first: Vec<Cells>,
    commits: Vec<Vec<RowChange>>,
    begun: usize,
}

impl History {
    /// From the folder of the register; `None` when this machine has none.
    pub(crate) fn open(test: &str) -> anyhow::Result<Option<Self>> {
        let Some(folder) = real_data::folder(test, "us-dotgov") else { return Ok(None) };
        let unpacked = tempfile::tempdir()?;
        real_data::unpack(&folder.join("snapshots.tar.zst"), unpacked.path())?;
        let dumps = real_data::files_in(&unpacked.path().join("snapshots"))?;
        let first = first_dump(dumps.first().context("no dump")?)?;
        let changes = folder.join("changes.jsonl.zst");
        let output = Command::new("zstd").args(["-dc"]).arg(&changes).output().context("zstd")?;
        ensure!(output.status.success(), "{} cannot be unpacked", changes.display());
        let mut commits: Vec<Vec<RowChange>> = Vec::new();
        let mut commit = String::new();
        for line in String::from_utf8(output.stdout)?.lines() {
            let event: Event = serde_json::from_str(line)?;
            if event.commit != commit {
                commit = event.commit;
                commits.push(Vec::new());
            }
            let step = (event.key, event.before.map(Cells::from), event.after.map(Cells::from));
            commits.last_mut().context("a commit")?.push(step);
        }
        Ok(Some(Self { first, commits, begun: 0 }))
    }

    /// The next step of both registers: what changed, by side.
    pub(crate) fn step(&mut self, registers: &mut BTreeMap<Side, Register>) -> BTreeMap<Side, Vec<Changed>> {
        let mut changed: BTreeMap<Side, Vec<Changed>> = BTreeMap::new();
        let mut set = |side: Side, key: &str, cells: Option<Cells>| {
            let register = registers.entry(side).or_default();
            changed.entry(side).or_default().extend(register.set(key, cells));
        };
        let mut row = |key: &str, cells: Option<&Cells>| {
            for side in Side::BOTH {
                set(side, key, cells.filter(|cells| Side::of(cells) == side).cloned());
            }
        };
        match self.begun.checked_sub(1) {
            None => self.first.iter().for_each(|cells| row(&cells[0].to_lowercase(), Some(cells))),
            Some(done) => {
                let turn = done / self.commits.len();
                let at = done % self.commits.len();
                let is_forwards = turn.is_multiple_of(2);
                let commit =
                    if is_forwards { &self.commits[at] } else { &self.commits[self.commits.len() - 1 - at] };
                for (key, before, after) in commit {
                    row(key, if is_forwards { after.as_ref() } else { before.as_ref() });
                }
            }
        }
        self.begun += 1;
        for side in Side::BOTH {
            for mark in marks(side) {
                let mut cells = Cells::default();
                (cells[0], cells[1]) = (mark.clone(), MARK.to_owned());
                set(side, &mark, Some(cells));
            }
        }
        changed
    }
}

/// The keys of a side's marks: one for each of its partitions.
pub(crate) fn marks(side: Side) -> Vec<String> {
    let names = || (0_u32..).map(|number| format!("~mark{number}"));
    let falls = |name: &String, partition: u32| {
        partition::of_key(name.as_bytes(), side.partitions()).get() == partition
    };
    (0..side.partitions()).filter_map(|partition| names().find(|name| falls(name, partition))).collect()
}

fn first_dump(file: &Path) -> anyhow::Result<Vec<Cells>> {
    let mut reader = csv::Reader::from_path(file)?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        // Domain Name, Domain Type, Agency, Organization, City, State, Security Contact Email.
        rows.push([0, 1, 3, 4, 5, 6].map(|column| record.get(column).unwrap_or_default().to_owned()));
    }
    Ok(rows)
}
