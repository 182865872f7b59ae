//! The chain: each entry carries the hash of the one before it.
//!
//! Pure. An entry counts only if it continues its router's chain; a repeat after an append of unknown outcome does
//! not. A head is enough to tell whether an entry was changed, removed or inserted.

use schemas::agreement::Status;
use schemas::cursor::{Place, Snapshot};
use schemas::ids::{AgentId, AgreementNumber, AgreementVersion, ChannelName, Offset};
use schemas::per_partition::PerPartition;
use schemas::time::Millis;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The version of an entry's format; an older binary refuses a newer one and says which it knows.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Event {
    /// The router began to serve.
    Started,
    /// A stream was admitted; nothing of it was sent before this entry was in the log.
    Admitted {
        agreement: AgreementNumber,
        version: AgreementVersion,
        agent: AgentId,
        channel: ChannelName,
        /// Where it asked to begin.
        from: String,
        /// The SHA-256 of the agreement's text in that version.
        #[serde(default)]
        digest: String,
    },
    /// A stream has ended.
    Ended {
        agreement: AgreementNumber,
        version: AgreementVersion,
        agent: AgentId,
        reason: String,
        /// Nothing behind these places was sent, by partition; none of the log where they are empty.
        places: PerPartition<Place>,
        /// The snapshot that was under way: what it ends at is what the state held for this consumer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<Snapshot>,
    },
    /// A version of an agreement came into force at this router.
    Version {
        agreement: AgreementNumber,
        version: AgreementVersion,
        /// Who put it into force.
        #[serde(default)]
        by: String,
        /// The SHA-256 of its text.
        #[serde(default)]
        digest: String,
        /// Control is applied up to here.
        applied: Offset,
    },
    /// An agreement was suspended, resumed, revoked, or expired, and that bites at this router.
    Status {
        agreement: AgreementNumber,
        /// What it is now.
        status: Status,
        reason: String,
        /// Who made it so; a router, where it saw a date go by.
        #[serde(default)]
        by: String,
        /// Control is applied up to here.
        applied: Offset,
    },
    /// An operator had a proposed agreement counted over a channel; no row left.
    Shadowed {
        operator: String,
        channel: ChannelName,
        /// What was asked of its rows.
        rows: String,
    },
}

impl Event {
    /// The agreement that it is about.
    pub const fn agreement(&self) -> Option<&AgreementNumber> {
        match self {
            Self::Admitted { agreement, .. }
            | Self::Ended { agreement, .. }
            | Self::Version { agreement, .. }
            | Self::Status { agreement, .. } => Some(agreement),
            Self::Started | Self::Shadowed { .. } => None,
        }
    }

    /// The agent that it is about.
    pub const fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::Admitted { agent, .. } | Self::Ended { agent, .. } => Some(agent),
            _ => None,
        }
    }

    /// Who did it, where that was a person or the declared files.
    pub fn by(&self) -> Option<&str> {
        match self {
            Self::Version { by, .. } | Self::Status { by, .. } => Some(by),
            Self::Shadowed { operator, .. } => Some(operator),
            _ => None,
        }
    }

    /// The applied end of control, if the entry has it.
    pub const fn applied(&self) -> Option<Offset> {
        match self {
            Self::Version { applied, .. } | Self::Status { applied, .. } => Some(*applied),
            Self::Started | Self::Admitted { .. } | Self::Ended { .. } | Self::Shadowed { .. } => None,
        }
    }
}

/// One entry as it is in the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Always [`FORMAT`] when written by this version.
    pub format: u32,
    /// Whose chain.
    pub router: String,
    /// Its number there, from 0.
    pub number: u64,
    /// When, by the router's clock.
    pub at: Millis,
    /// The hash of the entry before it, hexadecimal; of nothing for the first.
    pub previous: String,
    pub event: Event,
}

/// The end of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    router: String,
    /// The number of the next entry.
    pub next: u64,
    /// The hash of the last one, hexadecimal.
    pub head: String,
}

/// Why an entry does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is no entry, or of a newer format.
    #[error("it cannot be read as an audit entry of format {FORMAT} or earlier: {0}")]
    Unreadable(String),
    /// It belongs to another router's chain.
    #[error("it is an entry of {0}")]
    OtherRouter(String),
    /// It repeats an earlier entry.
    #[error("entry {0} is there already")]
    Repeat(u64),
    /// It does not follow: an entry was changed, left out or put in before it.
    #[error(
        "entry {found} does not follow the entry before it: the next number is {next}, and it must hold the hash of that entry. An entry was changed, left out or inserted"
    )]
    Gap {
        found: u64,
        /// The number that would follow.
        next: u64,
    },
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl Chain {
    /// The empty chain of a router.
    pub fn new(router: &str) -> Self {
        Self { router: router.to_owned(), next: 0, head: hash(b"") }
    }

    /// A chain with a known head.
    pub fn at(router: &str, next: u64, head: &str) -> Self {
        Self { router: router.to_owned(), next, head: head.to_owned() }
    }

    /// Adds an entry to the chain; returns its bytes.
    pub fn push(&mut self, at: Millis, event: Event) -> Result<Vec<u8>, serde_json::Error> {
        let router = self.router.clone();
        let previous = self.head.clone();
        let entry = Entry { format: FORMAT, router, number: self.next, at, previous, event };
        let bytes = serde_json::to_vec(&entry)?;
        self.next += 1;
        self.head = hash(&bytes);
        Ok(bytes)
    }

    /// Takes the next entry's bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Entry, Broken> {
        let entry: Entry = serde_json::from_slice(bytes).map_err(|e| Broken::Unreadable(e.to_string()))?;
        if entry.format > FORMAT {
            return Err(Broken::Unreadable(format!("format {}; use a newer dit", entry.format)));
        }
        if entry.router != self.router {
            return Err(Broken::OtherRouter(entry.router));
        }
        if entry.number < self.next {
            return Err(Broken::Repeat(entry.number));
        }
        if entry.number != self.next || entry.previous != self.head {
            return Err(Broken::Gap { found: entry.number, next: self.next });
        }
        self.next += 1;
        self.head = hash(bytes);
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: u64) -> Vec<Vec<u8>> {
        let mut chain = Chain::new("r");
        let event = |number: u64| match number {
            0 => Event::Started,
            _ => Event::Status {
                agreement: "A".parse().unwrap(),
                status: Status::Revoked,
                reason: "r".to_owned(),
                by: "o".to_owned(),
                applied: Offset::new(number),
            },
        };
        (0..count).map(|number| chain.push(Millis::new(1), event(number)).unwrap()).collect()
    }

    #[test]
    fn what_was_pushed_is_taken_and_a_repeat_is_skipped() {
        let entries = entries(3);
        let mut chain = Chain::new("r");
        for entry in &entries {
            chain.take(entry).unwrap();
        }
        assert_eq!(chain.take(&entries[1]), Err(Broken::Repeat(1)));
        assert_eq!(Chain::new("other").take(&entries[0]), Err(Broken::OtherRouter("r".to_owned())));
        assert!(matches!(chain.take(b"{}"), Err(Broken::Unreadable(_))));
    }

    #[test]
    fn a_changed_and_a_missing_entry_break_the_chain() {
        let whole = entries(4);
        let mut missing = Chain::new("r");
        missing.take(&whole[0]).unwrap();
        assert_eq!(missing.take(&whole[2]), Err(Broken::Gap { found: 2, next: 1 }));
        let mut changed = Chain::new("r");
        changed.take(&whole[0]).unwrap();
        let text = String::from_utf8(whole[1].clone()).unwrap().replace("revoked", "suspended");
        changed.take(text.as_bytes()).unwrap();
        assert_eq!(changed.take(&whole[2]), Err(Broken::Gap { found: 2, next: 2 }));
    }
}
