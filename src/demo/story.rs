//! The short story at the end: what was seen, for people.

use consumer_agent::receive::machine::Tally;

use super::register::Outcome;

/// Replicas that are named when they differ.
const NAMED: usize = 10;

impl Outcome {
    /// Tells the story on standard output.
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
        let verdict = if self.equal {
            "VERIFIED: every replica equals its part of the register, as another parser reads it from the raw files"
        } else {
            "FAILED: a replica is not what it should be"
        };
        platform::say!("{verdict} ({:.1} s).", self.seconds);
    }
}
