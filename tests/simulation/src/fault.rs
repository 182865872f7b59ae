//! The kinds of faults, how often each fired, and the weather that small faults come from.
//!
//! Owns the counts. A fault counts when it took effect, not when it was meant to.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A router's machine stops and is started again.
    RouterCrash,
    /// A provider's machine stops and is started again.
    ProviderCrash,
    /// A consumer's machine stops and is started again.
    ConsumerCrash,
    /// A disk stops in the middle of a write.
    DiskStop,
    /// A crash lost writes that were not synced.
    LostWrites,
    /// A crash left a part of an unsynced write.
    TornWrite,
    /// A router cannot reach the log.
    LogCut,
    /// A router's appends do not arrive, and its reads come late.
    Unheard,
    /// A site cannot reach a router.
    SiteCut,
    /// Requests, answers and appends take seconds.
    Delay,
    /// A request arrives twice.
    Duplicate,
    /// A request arrives after its sender gave it up, and after younger ones.
    Reorder,
    /// A request is served and its answer lost.
    LostAnswer,
    /// An append ends unknown, and was made.
    UnknownAppend,
    /// Only the beginning of a batch is appended.
    CutBatch,
    /// A commit ends unknown, made or not.
    UnknownCommit,
    /// A machine's wall clock is off, by up to an hour.
    ClockJump,
    /// A provider's folder is replaced by an older copy of it.
    RestoredFolder,
    /// A provider's folder is lost: a new machine.
    LostFolder,
    /// A provider's images are lost.
    LostImages,
    /// A router stands still while its clocks continue.
    RouterPause,
    /// An agent stands still while its clocks continue.
    AgentPause,
    /// Records that a state needed long ago are deleted.
    Deletion,
    /// The oldest records are removed from a log.
    Retention,
    /// A foreign record is in a log.
    Poison,
    /// Half a file is in a drop folder under its own name.
    HalfFile,
    /// Another file replaces one that is being taken.
    ReplacedFile,
    /// A file that is being taken is written over.
    RewrittenFile,
}

impl Fault {
    pub const ALL: [Self; 28] = [
        Self::RouterCrash,
        Self::ProviderCrash,
        Self::ConsumerCrash,
        Self::DiskStop,
        Self::LostWrites,
        Self::TornWrite,
        Self::LogCut,
        Self::Unheard,
        Self::SiteCut,
        Self::Delay,
        Self::Duplicate,
        Self::Reorder,
        Self::LostAnswer,
        Self::UnknownAppend,
        Self::CutBatch,
        Self::UnknownCommit,
        Self::ClockJump,
        Self::RestoredFolder,
        Self::LostFolder,
        Self::LostImages,
        Self::RouterPause,
        Self::AgentPause,
        Self::Deletion,
        Self::Retention,
        Self::Poison,
        Self::HalfFile,
        Self::ReplacedFile,
        Self::RewrittenFile,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RouterCrash => "router crashed",
            Self::ProviderCrash => "provider crashed",
            Self::ConsumerCrash => "consumer crashed",
            Self::DiskStop => "disk stopped between two writes",
            Self::LostWrites => "unsynced writes lost",
            Self::TornWrite => "write torn",
            Self::LogCut => "router cut off from the log",
            Self::Unheard => "router unheard by the log, which it reads late",
            Self::SiteCut => "site cut off from a router",
            Self::Delay => "delay",
            Self::Duplicate => "request twice",
            Self::Reorder => "request late, behind younger ones",
            Self::LostAnswer => "answer lost",
            Self::UnknownAppend => "append made, outcome unknown",
            Self::CutBatch => "batch cut",
            Self::UnknownCommit => "commit unknown",
            Self::ClockJump => "clock off",
            Self::RestoredFolder => "folder restored from a copy",
            Self::LostFolder => "folder lost",
            Self::LostImages => "images lost",
            Self::RouterPause => "router paused",
            Self::AgentPause => "agent paused",
            Self::Deletion => "old state deleted",
            Self::Retention => "retention",
            Self::Poison => "foreign record in the log",
            Self::HalfFile => "half a file dropped",
            Self::ReplacedFile => "file replaced while taken",
            Self::RewrittenFile => "file rewritten while taken",
        }
    }
}

/// How often each kind fired.
pub type Counts = BTreeMap<Fault, u64>;

/// How likely small faults are now, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// The longest delay of a request, an answer or an append, in milliseconds.
    pub delay: u64,
    /// A request arrives twice.
    pub duplicate: u64,
    /// A request arrives after its sender gave it up.
    pub late: u64,
    /// An answer is lost.
    pub lost_answer: u64,
    /// An append or a commit ends unknown.
    pub unknown: u64,
    /// A batch is cut.
    pub cut: u64,
}

impl Weather {
    /// A day on which little goes wrong.
    pub const FAIR: Self = Self { delay: 5, duplicate: 0, late: 0, lost_answer: 0, unknown: 0, cut: 0 };
    /// A day on which everything does.
    pub const FOUL: Self =
        Self { delay: 3_000, duplicate: 150, late: 100, lost_answer: 100, unknown: 100, cut: 100 };
}

/// The counts of faults that fired, and the present weather.
#[derive(Debug, Default)]
pub struct Sky {
    state: Mutex<(Counts, Weather)>,
}

impl Sky {
    fn lock(&self) -> MutexGuard<'_, (Counts, Weather)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a fault that took effect.
    pub fn fired(&self, fault: Fault) {
        *self.lock().0.entry(fault).or_default() += 1;
    }

    /// How often each kind has fired.
    pub fn counts(&self) -> Counts {
        self.lock().0.clone()
    }

    pub fn weather(&self) -> Weather {
        self.lock().1
    }

    /// The weather from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().1 = weather;
    }
}
