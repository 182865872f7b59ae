//! The registers' changes, step after step, into the drop folders of the providers' agents.
//!
//! Owns the pace, and how far it runs ahead of an agent that takes nothing. It must know nothing of faults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;

use crate::register::{Changed, History, Register, Side, change_file};

/// Between two commits of the register.
const PACE: Duration = Duration::from_millis(1_000);
/// The most files that may wait for an agent.
const BACKLOG: usize = 30;

pub(crate) type Registers = BTreeMap<Side, Register>;

/// The changes under way.
pub(crate) struct Flow {
    registers: Arc<Mutex<Registers>>,
    dir: PathBuf,
    running: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<anyhow::Result<u64>>)>,
}

fn lock(registers: &Mutex<Registers>) -> MutexGuard<'_, Registers> {
    registers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder that a provider's files are dropped into.
pub(crate) fn drop_folder(dir: &Path, side: Side) -> PathBuf {
    dir.join(side.name()).join("drop")
}

impl Flow {
    /// Begins; the first step is the whole register.
    pub(crate) fn start(dir: &Path, history: History) -> Self {
        let (stop, stopped) = oneshot::channel();
        let registers = Arc::default();
        let work = run(dir.to_owned(), history, Arc::clone(&registers), stopped);
        Self { registers, dir: dir.to_owned(), running: Some((stop, tokio::spawn(work))) }
    }

    /// How many changes each register has seen.
    pub(crate) fn changes(&self) -> BTreeMap<Side, u64> {
        lock(&self.registers).iter().map(|(side, register)| (*side, register.changes)).collect()
    }

    /// Makes no further changes; how many steps were made.
    pub(crate) async fn end(&mut self) -> anyhow::Result<u64> {
        let (stop, work) = self.running.take().context("it has ended")?;
        // If the work has ended by itself, its result says why.
        let _ended = stop.send(());
        work.await?
    }

    /// Whether the agents have taken every file.
    pub(crate) fn is_taken(&self) -> anyhow::Result<bool> {
        Ok(Side::BOTH
            .iter()
            .map(|side| left(&drop_folder(&self.dir, *side)))
            .sum::<anyhow::Result<usize>>()?
            == 0)
    }

    /// The registers as they were in the end.
    pub(crate) fn take_registers(&self) -> Registers {
        std::mem::take(&mut lock(&self.registers))
    }
}

fn left(folder: &Path) -> anyhow::Result<usize> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let names = names.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(names.iter().filter(|path| path.extension().is_some_and(|extension| extension == "csv")).count())
}

async fn run(
    dir: PathBuf,
    mut history: History,
    registers: Arc<Mutex<Registers>>,
    mut stopped: oneshot::Receiver<()>,
) -> anyhow::Result<u64> {
    let mut ticks = tokio::time::interval(PACE);
    let mut steps = 0;
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => return Ok(steps),
            _ = ticks.tick() => {}
        }
        let folders = Side::BOTH.map(|side| (side, drop_folder(&dir, side)));
        if folders.iter().any(|(_, folder)| left(folder).unwrap_or(0) >= BACKLOG) {
            continue;
        }
        let mut registers = lock(&registers);
        let changed = history.step(&mut registers);
        for (side, folder) in &folders {
            let changes = changed.get(side).map(Vec::as_slice).unwrap_or_default();
            let text = text(*side, registers.get(side).context("a register")?, changes)?;
            let part = folder.join("next.part");
            let name = folder.join(format!("{steps:06}.csv"));
            std::fs::write(&part, text)?;
            std::fs::rename(&part, name)?;
        }
        steps += 1;
    }
}

/// One provider gives the whole register each time, the other only the changes.
fn text(side: Side, register: &Register, changes: &[Changed]) -> anyhow::Result<String> {
    match side {
        Side::Federal => register.as_file(),
        Side::Local => change_file(changes),
    }
}
