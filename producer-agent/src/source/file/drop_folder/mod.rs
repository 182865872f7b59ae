//! The drop folder: files that a registry leaves for the agent, taken in the order of their names.
//!
//! Owns which file is ready (renamed in, or still for long enough, with the mark that was agreed) and where a taken one
//! goes. What is not to be read is left alone and logged, once.

mod accept;
mod arrivals;
mod last;
mod marks;
mod names;
mod singles;
mod taking;

use std::collections::{BTreeSet, HashMap};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use platform::{clock, closed};
use serde::Deserialize;

use self::arrivals::Arrivals;
pub use self::arrivals::Notices;
use self::last::Last;
pub use self::marks::Marker;
use self::names::{Order, PARKED, REPORT, is_unfinished, natural};
pub use self::singles::Singles;
use self::taking::{Copied, Identity};
use crate::source::row::Parked;

pub use self::accept::AcceptError;
pub use self::taking::Taking;

/// Why the folder, or a file of it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct DropError {
    path: PathBuf,
    error: std::io::Error,
}

impl DropError {
    fn at(path: &Path, error: std::io::Error) -> Self {
        Self { path: path.to_owned(), error }
    }
}

/// How long a file that was written in the folder must be still; one that was renamed into it is whole. Uploads pause
/// for seconds; a nightly file can wait.
const STILL_FOR: SignedDuration = SignedDuration::from_secs(10);

/// Most bytes of a name: its report's name must fit, too.
const LONGEST_NAME: usize = 240;

/// How long after its first look a renamed file can be a newcomer. One that is not taken by then waits for something else.
const NEWCOMER: Duration = Duration::from_millis(500);

/// A file that is never still holds up those after it for this long.
const HOLDS_UP: Duration = Duration::from_hours(1);

/// The `[drop]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DropSettings {
    /// How long a file that was written in the folder must stand still before it is read; `10s` by default.
    pub still_for: SignedDuration,
    /// What shows that a file is whole: nothing (`none`, by default), `NAME.done` or `NAME.sha256` beside it.
    pub marker: Marker,
}

impl Default for DropSettings {
    fn default() -> Self {
        Self { still_for: STILL_FOR, marker: Marker::None }
    }
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its changes are in the outbox.
    Taken,
    /// The guard holds it until a person accepts it.
    Held,
    /// It cannot be read at all.
    Refused,
}

impl Fate {
    /// The folder's name, below the drop folder.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Held => "held",
            Self::Refused => "refused",
        }
    }
}

/// How a file follows the files that were taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follows {
    /// It may be taken.
    Next,
    /// It waits where it is: a file before it is missing.
    Waits,
    /// It is older than what was taken; with the reason.
    Older(String),
}

/// A file that can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    pub path: PathBuf,
    /// Whether a person has accepted it.
    pub is_accepted: bool,
}

#[derive(Debug)]
struct Seen {
    identity: Identity,
    /// When it was seen first, since the machine's start.
    first: Duration,
    /// When it was first seen like this, since the machine's start.
    since: Duration,
    is_renamed: bool,
}

/// A folder that is looked at again and again.
#[derive(Debug)]
pub struct DropFolder {
    dir: PathBuf,
    settings: DropSettings,
    arrivals: Arrivals,
    seen: HashMap<PathBuf, Seen>,
    /// Change files that wait for one before them, with the last one taken of their series.
    waiting: HashMap<PathBuf, (Identity, String)>,
    /// Files that were taken and could not be moved: they are not taken again.
    done: HashMap<PathBuf, Identity>,
    /// Lines that were logged already.
    said: BTreeSet<String>,
}

/// Folders below the drop folder: those who drop files must not use them.
const SUBFOLDERS: [&str; 5] = ["taken", "held", "refused", "accepted", "taking"];

impl DropFolder {
    /// Opens a folder; makes it and its subfolders, and removes copies that a crash left.
    pub fn open(dir: &Path, settings: DropSettings) -> Result<Self, DropError> {
        std::fs::create_dir_all(dir).map_err(|error| DropError::at(dir, error))?;
        for sub in SUBFOLDERS {
            let path = dir.join(sub);
            closed::create_folder(&path).map_err(|error| DropError::at(&path, error))?;
            // A file keeps the rights that it was dropped with, until it is here.
            closed::seal(&path);
        }
        for (left, _) in entries(&dir.join("taking"))? {
            std::fs::remove_file(&left).map_err(|error| DropError::at(&left, error))?;
        }
        let arrivals = Arrivals::of(dir);
        let seen = HashMap::new();
        let waiting = HashMap::new();
        let done = HashMap::new();
        let said = BTreeSet::new();
        Ok(Self { dir: dir.to_owned(), settings, arrivals, seen, waiting, done, said })
    }

    /// Files that can be read, in order; files that a person accepted come first. A file that is not still yet holds up
    /// those after it: an older register must not come after a younger one.
    pub fn ready(&mut self) -> Result<Vec<Ready>, DropError> {
        let accepted =
            entries(&self.dir.join("accepted"))?.into_iter().filter(|(_, metadata)| metadata.is_file());
        let mut accepted: Vec<PathBuf> =
            accepted.map(|(path, _)| path).filter(|path| !marks::is_mark(&name_of(path))).collect();
        accepted.sort_by(|a, b| natural(&name_of(a), &name_of(b)));
        let mut found: Vec<Ready> =
            accepted.into_iter().map(|path| Ready { path, is_accepted: true }).collect();
        // Before the folder is listed: a notice of a file that is not listed would be lost.
        let renamed = self.arrivals.renamed();
        let mut present = entries(&self.dir)?;
        present.retain(|(path, metadata)| self.is_to_be_read(&name_of(path), metadata));
        present.sort_by(|(a, _), (b, _)| natural(&name_of(a), &name_of(b)));
        let now = clock::since_boot();
        let mut seen = HashMap::new();
        let mut is_held_up = false;
        for (path, metadata) in present {
            let name = name_of(&path);
            let identity = Identity::of(&metadata);
            let (state, is_ready) = self.look(&path, identity, now, renamed.contains(&name));
            if self.done.get(&path) == Some(&identity) {
                seen.insert(path, state);
                continue;
            }
            let waits_for_another = self.waiting.get(&path).is_some_and(|(known, _)| *known == identity);
            match is_ready {
                false => is_held_up |= now.saturating_sub(state.first) < HOLDS_UP,
                true if is_held_up || waits_for_another || !self.is_marked(&path, &name) => {}
                true => found.push(Ready { path: path.clone(), is_accepted: false }),
            }
            seen.insert(path, state);
        }
        self.seen = seen;
        Ok(found)
    }

    /// The system's notices that a file came by a rename.
    pub fn notices(&self) -> Notices {
        self.arrivals.notices()
    }

    /// Whether a file that came by a rename waits for a second look only: it is taken when it is still the same.
    pub fn has_newcomers(&self) -> bool {
        let now = clock::since_boot();
        self.seen.iter().any(|(path, seen)| {
            let is_new = seen.is_renamed && now.saturating_sub(seen.since) < NEWCOMER;
            is_new && self.done.get(path) != Some(&seen.identity)
        })
    }

    /// What is seen of a file now, and whether it seems whole, marks aside.
    fn look(&mut self, path: &Path, identity: Identity, now: Duration, is_renamed: bool) -> (Seen, bool) {
        let known = self.seen.remove(path);
        let first = known.as_ref().map_or(now, |seen| seen.first);
        // A change of its rights or its owner is no change of the file.
        let was_renamed =
            known.as_ref().is_some_and(|seen| seen.is_renamed && seen.identity.is_still(&identity));
        let before = known.filter(|seen| seen.identity == identity);
        let is_first_look = before.is_none();
        let mut seen = before.unwrap_or(Seen { identity, first, since: now, is_renamed: false });
        seen.is_renamed |= is_renamed || was_renamed;
        let still_for = self.settings.still_for.unsigned_abs();
        let age = u64::try_from(clock::now().get().saturating_sub(identity.modified_ms())).unwrap_or(0);
        let is_still = now.saturating_sub(seen.since) >= still_for || Duration::from_millis(age) >= still_for;
        if is_first_look && !seen.is_renamed && !is_still {
            let words = format!(
                "it is read once it has stood still for {still_for:?}; a file that is renamed into the folder is read at once"
            );
            self.say(&name_of(path), &words);
        }
        let is_ready = !is_first_look && (seen.is_renamed || is_still);
        (seen, is_ready)
    }

    fn is_to_be_read(&mut self, name: &str, metadata: &std::fs::Metadata) -> bool {
        if metadata.is_dir() {
            if !SUBFOLDERS.contains(&name) {
                self.say(name, "it is a folder: it is left alone; drop files");
            }
            return false;
        }
        if !metadata.is_file() {
            let what = if metadata.is_symlink() { "a symbolic link" } else { "no ordinary file" };
            self.say(name, &format!("it is {what}: it is left alone; drop the file itself"));
            return false;
        }
        if name.len() > LONGEST_NAME {
            self.say(name, &format!("its name has more than {LONGEST_NAME} bytes: rename it"));
            return false;
        }
        if is_unfinished(name) {
            self.say(name, "its name says that it is not finished: it is left alone until it is renamed");
            return false;
        }
        !marks::is_mark(name)
    }

    fn is_marked(&mut self, path: &Path, name: &str) -> bool {
        let missing = self.settings.marker.missing(path);
        if let Some(ending) = missing {
            self.say(name, &format!("it waits for {name}{ending}, which says that it is whole"));
        }
        missing.is_none()
    }

    /// Logs a line about a file, once.
    fn say(&mut self, name: &str, words: &str) {
        let line = format!("{name}: {words}");
        // Endless new names must not fill the memory.
        if self.said.len() > 10_000 {
            self.said.clear();
        }
        if self.said.insert(line.clone()) {
            tracing::info!("{line}");
        }
    }

    /// Reads a file, once, on a thread that may wait for the disk; `None` where it changed meanwhile or was removed.
    pub fn reading(&self, file: &Ready) -> impl FnOnce() -> Result<Option<Taking>, DropError> + Send + use<> {
        let path = file.path.clone();
        let into = self.dir.join("taking");
        let with_digest = self.is_told_by_digest(file);
        move || {
            Ok(match Taking::read(&path, &into, with_digest)? {
                Copied::Whole(taking) => Some(taking),
                Copied::Changed | Copied::Gone => None,
            })
        }
    }

    /// Why a register that was in `held/` is outdated: what was taken after it came there.
    pub fn is_outdated(&self, taking: &Taking) -> Option<String> {
        let since = accept::taken_since(&self.dir, &taking.name())?;
        Some(format!("{since} was taken after this file was held: taking it now would undo newer changes"))
    }

    /// Whether a digest must show that a file is whole. A person's acceptance replaces the mark.
    fn is_told_by_digest(&self, file: &Ready) -> bool {
        self.settings.marker == Marker::Sha256 && !file.is_accepted
    }

    /// Whether a file that was read has the digest in its mark.
    pub fn check_mark(&self, file: &Ready, taking: &Taking) -> Result<(), String> {
        match self.is_told_by_digest(file) {
            true => marks::check_digest(&file.path, taking.digest.as_deref()),
            false => Ok(()),
        }
    }

    /// How a file follows those that were taken. One that waits is logged, and read again only after a change.
    pub fn follows(&mut self, taking: &Taking, is_changes: bool) -> Follows {
        let name = taking.name();
        let last = self.last();
        if !is_changes {
            return match names::order(&name, &last.full) {
                Order::Older if name != last.full => Follows::Older(format!(
                    "{} was taken already, and its name is newer: taking this file would undo newer changes",
                    last.full
                )),
                _ => Follows::Next,
            };
        }
        let changes = last.of_series(&name).to_owned();
        match names::order(&name, &changes) {
            Order::Next => Follows::Next,
            Order::Older => {
                Follows::Older(format!("{changes} was taken already: changes would be undone or come twice"))
            }
            Order::Gap(missing) => {
                let words =
                    format!("it waits for {missing}: a change file between {changes} and it is not there");
                if self.said.insert(format!("{name}: {words}")) {
                    tracing::warn!("{name}: {words}; to take it without that file: dit producer accept");
                }
                self.waiting.insert(taking.original.clone(), (taking.identity, changes));
                Follows::Waits
            }
        }
    }

    /// Change files that wait for one before them.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Moves a file to the folder of its fate, with a report next to it.
    pub fn settle(
        &mut self,
        taking: Taking,
        fate: Fate,
        report: &serde_json::Value,
    ) -> Result<(), DropError> {
        self.seen.remove(&taking.original);
        let target = self.dir.join(fate.folder()).join(taking.name());
        let mut report = report.clone();
        if let Some(object) = report.as_object_mut() {
            object.insert("at".to_owned(), clock::now().get().into());
        }
        if fate == Fate::Refused {
            drop(std::fs::remove_file(beside(&target, PARKED)));
        }
        let report_path = beside(&target, REPORT);
        let written = closed::create(&report_path).and_then(|mut file| {
            // A refusal is one sentence: its report is one line.
            match fate {
                Fate::Refused => serde_json::to_writer(&mut file, &report)?,
                Fate::Taken | Fate::Held => serde_json::to_writer_pretty(&mut file, &report)?,
            }
            file.write_all(b"\n")
        });
        if let Err(error) = written {
            self.done.insert(taking.original.clone(), taking.identity);
            return Err(DropError::at(&report_path, error));
        }
        let mark = self
            .settings
            .marker
            .ending()
            .map(|ending| (beside(&taking.original, ending), beside(&target, ending)));
        let original = taking.original.clone();
        let identity = taking.identity;
        if let Err(error) = taking.put(&target) {
            self.done.insert(original, identity);
            return Err(error);
        }
        match mark {
            Some((from, to)) if from.is_file() => {
                let moved = taking::was_moved(std::fs::rename(&from, to));
                moved.map(drop).map_err(|error| DropError::at(&from, error))
            }
            _ => Ok(()),
        }
    }

    /// Lists every parked row in a file next to the report: one JSON object a line.
    pub fn name_parked(&self, taking: &Taking, fate: Fate, parked: &[Parked]) -> Result<(), DropError> {
        let path = beside(&self.dir.join(fate.folder()).join(taking.name()), PARKED);
        if parked.is_empty() {
            // An earlier file of this name may have left one.
            drop(std::fs::remove_file(&path));
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            let mut out = BufWriter::new(closed::create(&path)?);
            for row in parked {
                serde_json::to_writer(&mut out, row)?;
                out.write_all(b"\n")?;
            }
            out.flush()
        };
        write().map_err(|error| DropError::at(&path, error))
    }

    /// A file is about to be taken: the register that was taken before it may not be compared with any more.
    pub fn forget_last(&self) -> Result<(), DropError> {
        let at = clock::now().get();
        last::change(&self.dir, |last| Ok(Some(Last { file: String::new(), is_full: false, at, ..last })))
    }

    /// Puts a copy of a taken file into `held/`, so that a person can accept it.
    pub fn hold_copy(&self, file: &Path) -> Result<(), DropError> {
        let target = self.dir.join("held").join(file.file_name().unwrap_or_default());
        std::fs::copy(file, &target).map(drop).map_err(|error| DropError::at(&target, error))
    }

    /// Remembers a file as taken last, before it goes to `taken/`: a file that is there is never unknown.
    pub fn remember(&mut self, taking: &Taking, is_full: bool) -> Result<(), DropError> {
        let file = taking.name();
        self.waiting.clear();
        last::change(&self.dir, |mut last| {
            if is_full {
                last.full.clone_from(&file);
            } else {
                last.took_changes(&file);
            }
            // A single change that came while the file was read is newer than the file.
            let single = singles::last_at(&self.dir);
            let is_full = is_full && (single == 0 || single < last.at);
            Ok(Some(Last { file, is_full, at: clock::now().get(), ..last }))
        })
    }

    fn last(&self) -> Last {
        last::read(&self.dir)
    }

    /// The whole register that was taken last, if nothing was taken after it and it is still there. `None` while
    /// another file of its name waits to be taken: the file in `taken/` may be an older one.
    pub fn last_full(&self) -> Option<PathBuf> {
        let last = Some(self.last()).filter(|last| last.is_full && !last.file.is_empty())?;
        let waits = ["", "accepted"].iter().any(|sub| self.dir.join(sub).join(&last.file).exists());
        Some(self.dir.join("taken").join(last.file)).filter(|path| path.is_file() && !waits)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The path with an ending added to its file's name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// What is in a folder, without what is removed meanwhile.
fn entries(dir: &Path) -> Result<Vec<(PathBuf, std::fs::Metadata)>, DropError> {
    let wrong = |error| DropError::at(dir, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        match entry.metadata() {
            Ok(metadata) => found.push((entry.path(), metadata)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
