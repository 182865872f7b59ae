//! The short story at the end: what was seen, for people.

use consumer_agent::receive::machine::Tally;

use super::register::Outcome;
use super::verify::Moved;

/// The most replicas that are named where they differ.
const NAMED: usize = 10;

impl Outcome {
    /// Prints the story to standard output.
    pub fn story(&self) {
        let delivered =
            self.replicas.iter().fold(Tally::default(), |sum, replica| sum.plus(replica.delivered));
        let rows: usize = self.replicas.iter().map(|replica| replica.rows).sum();
        platform::say!(
            "{} replicas hold {rows} rows. Delivered: {} changes, {} entered a scope, {} left one, {} from the state.",
            self.replicas.len(),
            delivered.changed,
            delivered.entered,
            delivered.left,
            delivered.present
        );
        platform::say!("Out, by agreement:");
        for replica in &self.replicas {
            let told = replica.delivered;
            platform::say!(
                "  {:<42} {:>7} rows; {} from the state, {} entered, {} left, {} changed",
                replica.territory.as_deref().unwrap_or("all rows, a late joiner"),
                replica.rows,
                told.present,
                told.entered,
                told.left,
                told.changed
            );
        }
        if let Some(Moved { key, from, to }) = &self.moved {
            let has =
                |name: &String| self.replicas.iter().any(|replica| replica.territory.as_ref() == Some(name));
            let left = if has(from) {
                format!("{from} got a delete, which does not say where the row went")
            } else {
                String::new()
            };
            let entered = if has(to) { format!("{to} got the whole row") } else { String::new() };
            let told: Vec<String> = [left, entered].into_iter().filter(|words| !words.is_empty()).collect();
            if !told.is_empty() {
                platform::say!("{key} left {from} for {to}: {}.", told.join("; "));
            }
        }
        if self.rows_read == 0 {
            platform::say!("  No row of any version could be read.");
        }
        if self.rows_set_aside > 0 {
            platform::say!(
                "  {} row(s) were parked; of their keys the replicas show what stood there before.",
                self.rows_set_aside
            );
        }
        for replica in self.replicas.iter().filter(|replica| !replica.equal).take(NAMED) {
            platform::say!("  NOT EQUAL: {} ({} rows)", replica.participant, replica.rows);
        }
        if let Some(kept) = &self.kept {
            platform::say!("Look at {}/replica/<participant>/register.ndjson", kept.display());
        }
        let verdict = match (self.equal, self.rows_read) {
            (true, _) => {
                "VERIFIED: every replica equals its part of the register, as another parser reads it from the raw files"
            }
            (false, 0) => "FAILED: no row could be read, so nothing was verified",
            (false, _) => "FAILED: a replica is not what it should be",
        };
        platform::say!("{verdict} ({:.1} s).", self.seconds);
    }
}
