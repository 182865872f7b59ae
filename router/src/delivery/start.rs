//! Where a stream begins: the requested `from=`, judged by the agreement's history.
//!
//! Owns the parsing of `from` and the making of followers or bootstraps.

use std::sync::Arc;

use reading::error::ReaderError;
use schemas::agreement::{Agreement, History};
use schemas::cursor::{Cursor, CursorError, Place, Snapshot, in_words};
use schemas::ids::{AgreementVersion, BootstrapId, LogId, Offset};
use schemas::per_partition::PerPartition;
use schemas::time::Millis;
use scope::secret::NetworkSecret;

use crate::channels::Running;
use crate::fanout::observer::Feed;
use crate::fanout::observer::Follower;
use crate::state::BOOTSTRAP_BOUND;
use crate::state::bootstrap::{Bootstrap, BootstrapError};

/// After this, the records that it needs may be deleted: a longer snapshot is refused as too old and begins anew.
const BOOTSTRAP_BOUND_MS: u64 = BOOTSTRAP_BOUND.as_secs() * 1_000;
/// How far the clocks of routers and brokers may differ: a snapshot that another router began is judged by its date.
const CLOCKS_APART_MS: u64 = 3_600_000;

/// What a consumer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartPosition {
    /// Each key's present image once, then live.
    State,
    /// The first checkpoint that is still held.
    Earliest,
    /// Only new events.
    Latest,
    /// Events logged at a time or later.
    Time(Millis),
    /// From where it stopped.
    Cursor(Cursor),
}

/// Why a stream cannot begin there.
#[derive(Debug, thiserror::Error)]
pub enum StartPositionError {
    /// Neither a word, nor a time, nor a cursor.
    #[error("from={0:?} is none of state, earliest, latest, a time with its offset, or a cursor")]
    Unreadable(String),
    /// A cursor that no router gave out.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// A cursor of another channel, or of an earlier log.
    #[error("the cursor is of another log ({found}, this is {expected}); begin again with from=state")]
    Foreign {
        /// The cursor's.
        found: String,
        /// The channel's.
        expected: String,
    },
    /// A cursor of an earlier log, while the new one does not hold the whole register yet.
    #[error(
        "the cursor is of another log ({found}, this is {expected}), and this log does not hold the whole register of the provider yet: \
         keep the rows that you have, and ask again later"
    )]
    Incomplete {
        /// The cursor's.
        found: String,
        /// The channel's.
        expected: String,
    },
    /// A reconciliation without a place in the log.
    #[error("reconcile= needs from= a cursor that stands in the log, not in a snapshot")]
    ReconcileWithoutCursor,
    /// A snapshot that no router began.
    #[error("the cursor's snapshot was not begun by a router of this network; begin again with from=state")]
    Unsealed,
    /// A cursor of another version.
    #[error(
        "the cursor is of version {0} of the agreement, which is now in version {1}; begin again with from=state"
    )]
    OtherVersion(u32, u32),
    /// A start before the history.
    #[error("the agreement's history is {0}; ask for state, latest, or a later time")]
    History(History),
    /// A cursor before the agreement's history.
    #[error("the agreement's history is {0}, and the cursor lies before it; begin again with from=state")]
    BeforeHistory(History),
    /// Retention has passed the place.
    #[error("cursor_too_old: {0}; begin again with from=state")]
    TooOld(String),
    /// A partition's topic was replaced.
    #[error("{0}")]
    Lost(Arc<ReaderError>),
    #[error(transparent)]
    Reader(ReaderError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// No id for a snapshot.
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}

impl From<ReaderError> for StartPositionError {
    fn from(error: ReaderError) -> Self {
        match error {
            ReaderError::TooOld { .. } => Self::TooOld(error.to_string()),
            other => Self::Reader(other),
        }
    }
}

impl std::fmt::Display for StartPosition {
    /// For the audit: the request in few words.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::State => f.write_str("state"),
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Time(at) => write!(f, "{at}"),
            Self::Cursor(Cursor { snapshot: Some(snapshot), .. }) => write!(f, "snapshot {}", snapshot.id),
            Self::Cursor(cursor) => write!(f, "cursor {}", in_words(&cursor.places)),
        }
    }
}

impl StartPosition {
    pub fn parse(text: &str) -> Result<Self, StartPositionError> {
        match text {
            "state" => Ok(Self::State),
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            cursor if cursor.starts_with("c1.") => Ok(Self::Cursor(cursor.parse()?)),
            other => match other.parse::<jiff::Timestamp>() {
                Ok(at) => Ok(Self::Time(at.into())),
                Err(_) => Err(StartPositionError::Unreadable(other.chars().take(80).collect())),
            },
        }
    }
}

impl StartPosition {
    /// Whether it is a place in the log that a stream has reached, not one in a snapshot.
    pub const fn is_in_log(&self) -> bool {
        matches!(self, Self::Cursor(Cursor { snapshot: None, .. }))
    }
}

pub enum Beginning {
    /// Followers, one for each partition.
    Log(PerPartition<Follower>),
    /// A snapshot, one for each partition.
    State(Snapshot, PerPartition<Bootstrap>),
}

impl Beginning {
    /// The consumer's places so far; none in a snapshot.
    pub fn places(&self) -> PerPartition<Place> {
        match self {
            Self::Log(followers) => followers.values().map(Follower::place).collect(),
            Self::State(..) => PerPartition::none(),
        }
    }
}

/// Makes the requested beginning, if the agreement allows it.
pub async fn begin(
    running: &Running,
    agreement: &Agreement,
    secret: &NetworkSecret,
    from: StartPosition,
) -> Result<Beginning, StartPositionError> {
    check_history(agreement, &from)?;
    if let Some(fault) = running.feeds.values().find_map(|feed| feed.tail().lost()) {
        return Err(StartPositionError::Lost(fault));
    }
    let log_id = running.entry.log_id;
    let mut followers = Vec::with_capacity(running.feeds.len());
    match from {
        StartPosition::State => {
            let mut bootstraps = Vec::with_capacity(running.feeds.len());
            for (feed, state) in running.partitions() {
                bootstraps.push(Bootstrap::begin(Arc::clone(feed), state).await?);
            }
            let mut snapshot = Snapshot {
                id: BootstrapId::new(platform::random::id()?),
                begun_at: platform::clock::now(),
                places: bootstraps.iter().map(Bootstrap::place).collect(),
                seal: String::new(),
            };
            snapshot.seal = seal(secret, agreement, log_id, &snapshot);
            return Ok(Beginning::State(snapshot, bootstraps.into_iter().collect()));
        }
        StartPosition::Earliest => {
            for feed in running.feeds.values() {
                followers.push(match agreement.history {
                    History::Since(since) => Follower::at_time(Arc::clone(feed), since.into()).await?,
                    History::None | History::Full => Follower::earliest(Arc::clone(feed)).await?,
                });
            }
        }
        StartPosition::Latest => {
            followers.extend(running.feeds.values().map(|feed| Follower::latest(Arc::clone(feed))))
        }
        StartPosition::Time(at) => {
            for feed in running.feeds.values() {
                followers.push(Follower::at_time(Arc::clone(feed), at).await?);
            }
        }
        StartPosition::Cursor(Cursor { snapshot: Some(snapshot), log_id, version, .. }) => {
            check_cursor(running, agreement, log_id, version, snapshot.places.len()).await?;
            if snapshot.seal != seal(secret, agreement, log_id, &snapshot) {
                return Err(StartPositionError::Unsealed);
            }
            if platform::clock::now().since(snapshot.begun_at) > BOOTSTRAP_BOUND_MS - CLOCKS_APART_MS {
                return Err(BootstrapError::Overtaken.into());
            }
            let mut snapshots = Vec::with_capacity(running.feeds.len());
            for (feed, place) in running.feeds.values().zip(snapshot.places.values()) {
                let topic = running.entry.channel.state_topic();
                snapshots.push(Bootstrap::resume(Arc::clone(feed), topic, *place).await?);
            }
            return Ok(Beginning::State(snapshot, snapshots.into_iter().collect()));
        }
        StartPosition::Cursor(cursor) => {
            check_cursor(running, agreement, cursor.log_id, cursor.version, cursor.places.len()).await?;
            for (feed, place) in running.feeds.values().zip(cursor.places.values()) {
                check_floor(feed, agreement, place.offset).await?;
                followers.push(Follower::resume(Arc::clone(feed), *place).await?);
            }
        }
    }
    Ok(Beginning::Log(followers.into_iter().collect()))
}

/// `history` bounds past events. Every agreement gives the present state, and lets its consumer continue from a cursor
/// that was reached under it.
fn check_history(agreement: &Agreement, from: &StartPosition) -> Result<(), StartPositionError> {
    let denied = || Err(StartPositionError::History(agreement.history));
    match (from, &agreement.history) {
        (StartPosition::Earliest | StartPosition::Time(_), History::None) => denied(),
        (StartPosition::Time(at), History::Since(since)) if *at < Millis::from(*since) => denied(),
        _ => Ok(()),
    }
}

/// A consumer could choose the numbers in its cursor: they may not lie before the agreement's own beginning, or its
/// history's.
async fn check_floor(feed: &Feed, agreement: &Agreement, offset: Offset) -> Result<(), StartPositionError> {
    let floor = match agreement.history {
        History::Full => return Ok(()),
        History::None => agreement.valid_from,
        History::Since(since) => since.min(agreement.valid_from),
    };
    let source = feed.source();
    let first = source.log.offset_at(&source.topic, source.partition, floor.into()).await;
    if offset < first.map_err(ReaderError::from)? {
        return Err(StartPositionError::BeforeHistory(agreement.history));
    }
    Ok(())
}

/// Only routers fix a snapshot's ends: with an old end, a consumer would get more of the past than its agreement
/// gives.
fn seal(secret: &NetworkSecret, agreement: &Agreement, log_id: LogId, snapshot: &Snapshot) -> String {
    secret.agreement_key(&agreement.number).seal(&snapshot.sealed_bytes(log_id, agreement.version))
}

/// Whether a snapshot would give the whole register: each partition's state includes a freshness mark, which the
/// provider sends after it has taken a file.
async fn is_whole(running: &Running) -> Result<bool, StartPositionError> {
    for (feed, state) in running.partitions() {
        let last = state.look(feed.source().log.as_ref()).await.map_err(BootstrapError::from)?;
        if last.is_none_or(|mark| mark.checkpoint.freshness.is_none()) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn check_cursor(
    running: &Running,
    agreement: &Agreement,
    log_id: LogId,
    version: AgreementVersion,
    places: usize,
) -> Result<(), StartPositionError> {
    let expected = running.entry.log_id;
    // A snapshot of a state that is still empty would empty the replica.
    if log_id != expected && !is_whole(running).await? {
        return Err(StartPositionError::Incomplete {
            found: log_id.to_string(),
            expected: expected.to_string(),
        });
    }
    if log_id != expected || places != running.feeds.len() {
        return Err(StartPositionError::Foreign {
            found: log_id.to_string(),
            expected: expected.to_string(),
        });
    }
    if version != agreement.version {
        return Err(StartPositionError::OtherVersion(version.get(), agreement.version.get()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_is_a_word_a_time_or_a_cursor() {
        assert_eq!(StartPosition::parse("state").ok(), Some(StartPosition::State));
        let at = StartPosition::parse("2026-01-01T00:00:00+02:00").ok();
        assert_eq!(at, Some(StartPosition::Time(Millis::new(1_767_218_400_000))));
        assert!(matches!(StartPosition::parse("c1.zz"), Err(StartPositionError::Cursor(_))));
        assert!(matches!(StartPosition::parse("2026-01-01"), Err(StartPositionError::Unreadable(_))));
    }
}
