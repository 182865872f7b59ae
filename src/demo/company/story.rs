//! The short story at the end: what was seen, for people, and where to look.

use super::Outcome;
use super::cast::{BUREAU, cast};

impl Outcome {
    /// Prints the story to standard output.
    pub fn story(&self) {
        let sum = |count: fn(&super::VersionVerdict) -> u64| self.versions.iter().map(count).sum::<u64>();
        platform::say!("");
        platform::say!(
            "In: {} files; {} rows created, {} updated, {} deleted.",
            self.versions.len(),
            sum(|version| version.create),
            sum(|version| version.update),
            sum(|version| version.delete)
        );
        platform::say!("Out, by agreement:");
        let parts = cast();
        for replica in &self.replicas {
            let delivered = replica.delivered;
            let name = parts.iter().find(|part| part.participant == replica.participant);
            platform::say!(
                "  {:<42} {:>6} rows; {} from the state, {} entered, {} left, {} changed; never sent: {}{}",
                name.map_or(replica.participant.as_str(), |part| part.name),
                replica.rows,
                delivered.present,
                delivered.entered,
                delivered.left,
                delivered.changed,
                replica.trimmed.join(", "),
                if replica.equal { "" } else { "  NOT WHAT IT SHOULD BE" }
            );
        }
        let revoked = &self.revoked;
        platform::say!(
            "Revoked: {BUREAU}, acknowledged in {:.1} ms, last position delivered {}; {} later log records were never applied.",
            revoked.acknowledged_ms,
            revoked.position,
            revoked.withheld
        );
        platform::say!("  It was told: {}", revoked.told);
        let latency = self.latency;
        platform::say!(
            "Latency, from a file of one change to the row in a consumer's agent: {:.1} ms (median of {}), {:.1} ms at worst.",
            latency.median_ms,
            latency.samples,
            latency.worst_ms
        );
        match &self.kept {
            Some(kept) => platform::say!(
                "Where to look: {0}/files (what the registers dropped), {0}/replica/<participant>/<channel>.ndjson and .avro",
                kept.display()
            ),
            None => {
                platform::say!(
                    "Where to look: run it with --keep DIR, and compare DIR/files with DIR/replica."
                )
            }
        }
        let verdict = if self.equal {
            "VERIFIED: every replica equals its part of its register"
        } else {
            "FAILED: a replica is not what it should be"
        };
        platform::say!("{verdict} ({:.1} s).", self.seconds);
    }
}
