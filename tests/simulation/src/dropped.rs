//! A provider's drop folder: the whole register as a real file, and what its writer does to the file meanwhile.
//!
//! Owns the order of steps, as in the agent's own loop. Each whole file that is ready is taken: its rows must get into
//! the log, even if another file replaces it at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use jiff::SignedDuration;
use producer_agent::agent::{Agent, AgentError};
use producer_agent::source::file::drop_folder::{DropFolder, DropSettings, Fate, Marker, Ready, Taking};
use producer_agent::source::file::source::FileSource;
use producer_agent::source::format::TableFormat;
use producer_agent::take::guard::Guard;

use crate::fault::{Fault, Sky};

/// What the writer does to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Nothing: it is renamed in, whole.
    Whole,
    /// Half of it is written first, under its own name.
    Half,
    /// Once it was read, the next register replaces it.
    Replaced,
    /// Once it was read, the next register is written over it, at first only half of it.
    Rewritten,
}

impl Writing {
    /// The writing of a drawn number.
    pub const fn of(number: u64) -> Self {
        match number {
            0 => Self::Half,
            1 => Self::Replaced,
            2 => Self::Rewritten,
            _ => Self::Whole,
        }
    }

    const fn fault(self) -> Fault {
        match self {
            Self::Half | Self::Whole => Fault::HalfFile,
            Self::Replaced => Fault::ReplacedFile,
            Self::Rewritten => Fault::RewrittenFile,
        }
    }
}

/// A drop folder, and the agent that takes its files.
pub struct Dropping<'a> {
    pub dir: &'a Path,
    pub agent: &'a Agent,
    /// No person is there to accept a held file.
    pub guard: Guard,
    /// Where faults are counted.
    pub sky: &'a Arc<Sky>,
}

/// The end of each register shows that it is whole.
fn with_trailer(register: &str) -> String {
    format!("{register}END {}\n", register.lines().count().saturating_sub(1))
}

fn half(text: &str) -> &str {
    text.get(..text.len() / 2).unwrap_or_default()
}

impl Dropping<'_> {
    fn path(&self) -> PathBuf {
        self.dir.join("register.csv")
    }

    fn rename_in(&self, text: &str) -> anyhow::Result<()> {
        let part = self.dir.join("register.csv.part");
        std::fs::write(&part, text)?;
        Ok(std::fs::rename(part, self.path())?)
    }

    /// Drops a register. `next` makes the one that replaces it.
    pub fn register(
        &self,
        register: &str,
        how: Writing,
        next: &mut dyn FnMut() -> String,
    ) -> anyhow::Result<()> {
        let settings = DropSettings { still_for: SignedDuration::ZERO, marker: Marker::None };
        let mut folder = DropFolder::open(self.dir, settings)?;
        let text = with_trailer(register);
        if how == Writing::Half {
            std::fs::write(self.path(), half(&text))?;
            ensure!(self.take(&mut folder, &mut || Ok(()))? == Fate::Refused, "half a file was taken");
            self.sky.fired(Fault::HalfFile);
        }
        self.rename_in(&text)?;
        // The next register is made once: written half, and later whole, it is the same.
        let mut following = None;
        let mut meanwhile = || {
            if matches!(how, Writing::Replaced | Writing::Rewritten) {
                let text = following.insert(with_trailer(&next()));
                match how {
                    Writing::Rewritten => std::fs::write(self.path(), half(text))?,
                    _ => self.rename_in(text)?,
                }
                self.sky.fired(how.fault());
            }
            Ok(())
        };
        ensure!(self.take(&mut folder, &mut meanwhile)? == Fate::Taken, "a whole file was not taken");
        let Some(following) = following else { return Ok(()) };
        if how == Writing::Rewritten {
            ensure!(self.take(&mut folder, &mut || Ok(()))? == Fate::Refused, "half a file was taken");
            self.rename_in(&following)?;
        }
        ensure!(self.take(&mut folder, &mut || Ok(()))? == Fate::Taken, "the next file was not taken");
        Ok(())
    }

    /// Takes one file as the agent's loop does; `meanwhile` happens once it was read.
    fn take(
        &self,
        folder: &mut DropFolder,
        meanwhile: &mut dyn FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Fate> {
        let format = TableFormat { trailer: Some("END {rows}".to_owned()), ..TableFormat::default() };
        folder.ready()?;
        let ready: Vec<Ready> = folder.ready()?;
        let file = ready.first().context("no file is ready")?;
        let taking: Taking = folder.reading(file)()?.context("the file changed while nobody wrote")?;
        meanwhile()?;
        folder.forget_last()?;
        let taken = FileSource::open(taking.path(), &format).map_err(AgentError::from);
        let fate = match taken.and_then(|source| self.agent.take(&source, self.guard, true)) {
            Ok(report) => {
                ensure!(report.parked.is_empty(), "rows are parked: {report:?}");
                folder.remember(&taking, true)?;
                Fate::Taken
            }
            Err(error) if error.is_of_the_file() => Fate::Refused,
            Err(error) => return Err(error.into()),
        };
        folder.settle(taking, fate, &serde_json::json!({}))?;
        Ok(fate)
    }
}
