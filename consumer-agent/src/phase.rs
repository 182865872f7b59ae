//! The current activity of a consumer's agent, in one word.
//!
//! Owns the words that the status file and the metrics have. Decides nothing: `receive::recovery` does.

use serde::{Deserialize, Serialize};

/// What an agent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is looking for the router.
    Connecting,
    Streaming,
    /// The agreement is not in force, or does not fit the schema; it is asked for again from time to time.
    Waiting,
    /// The agreement was revoked or has expired: what it gave must be purged.
    Ended,
    /// Its sink refuses, and only a person can change that. The agent tries again from time to time.
    Stuck,
    /// Its own disk has failed: the process must be started again.
    Broken,
}

impl Phase {
    pub const ALL: [Self; 6] =
        [Self::Connecting, Self::Streaming, Self::Waiting, Self::Ended, Self::Stuck, Self::Broken];

    /// The word as the status file has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Streaming => "streaming",
            Self::Waiting => "waiting",
            Self::Ended => "ended",
            Self::Stuck => "stuck",
            Self::Broken => "broken",
        }
    }
}
