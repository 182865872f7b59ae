//! The guard: when a file is held, because it would change more than a day's work does.

use serde::Deserialize;

use super::counts::Counts;

/// When a file is held for a person to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// Deletes, in percent of the register, above which a file is held; 10 by default.
    pub max_delete_percent: u32,
    /// Updates, in percent of the register, above which a file is held; 50 by default.
    pub max_change_percent: u32,
    /// Rows that cannot be read, in percent of the register or of the file where that is larger, above which a file is held:
    /// what is not read may be gone. As many as deletes, without it.
    pub max_parked_percent: Option<u32>,
}

impl Default for Guard {
    /// A tenth deleted or half changed at once is usually an accident of publication.
    fn default() -> Self {
        Self { max_delete_percent: 10, max_change_percent: 50, max_parked_percent: None }
    }
}

impl Guard {
    /// Why a file is held; `None` when it may pass.
    pub fn holds(&self, counts: &Counts, register: u64) -> Option<String> {
        // A file may change the rows that it creates itself.
        let base = register.max(counts.create);
        let over = |count: u64, percent: u32| count * 100 > base * u64::from(percent);
        if over(counts.delete, self.max_delete_percent) {
            return Some(format!(
                "it would delete {} of {base} rows, more than {} % ([guard] max_delete_percent)",
                counts.delete, self.max_delete_percent
            ));
        }
        let read = counts.create + counts.update + counts.same + counts.parked;
        let parked_percent = self.max_parked_percent.unwrap_or(self.max_delete_percent);
        if counts.parked * 100 > register.max(read) * u64::from(parked_percent) {
            return Some(format!(
                "{} of {} rows cannot be read or contradict another row, more than {parked_percent} % ([guard] max_parked_percent)",
                counts.parked,
                register.max(read)
            ));
        }
        if over(counts.update, self.max_change_percent) {
            return Some(format!(
                "it would change {} of {base} rows, more than {} % ([guard] max_change_percent)",
                counts.update, self.max_change_percent
            ));
        }
        None
    }
}
