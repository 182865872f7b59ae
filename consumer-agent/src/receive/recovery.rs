//! What an agent does after a stream: whether there is a next one, where it begins, and how long the agent waits.
//!
//! Pure. It owns the one bit that outlives a stream: whether the replica has to be received anew. It gives up only where
//! the agreement has ended or the agent's own disk has failed.

use schemas::cursor::Cursor;
use schemas::delivery::{CloseReason, Next};
use schemas::error_code::ErrorCode;

use crate::phase::Phase;
use crate::sink::error::SinkErrorClass;

/// Where a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// At the replica's cursor.
    Cursor,
    /// With the state, whatever the replica has.
    State,
}

/// How a stream ended, as far as the next one depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The agent left it: the next one carries a query.
    ToQuery,
    /// The router closed it.
    Closed {
        reason: CloseReason,
        next: Next,
    },
    /// The router refused to begin it.
    Refused(ErrorCode),
    Sink(SinkErrorClass),
    /// It broke, or the router cannot be reached.
    Broken,
}

impl StreamEnd {
    /// Whether the router refused the cursor: the replica must be received anew.
    pub const fn is_refused_cursor(self) -> bool {
        matches!(
            self,
            Self::Refused(ErrorCode::CursorTooOld | ErrorCode::CursorForeign | ErrorCode::CursorMalformed)
        )
    }
}

/// The progress that a stream gave the replica before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The position was in the log at some time, not only in a snapshot.
    pub was_live: bool,
    /// The sink's cursor has changed.
    pub has_moved: bool,
}

/// How long the agent waits before the next stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: the next stream can begin at once.
    Not,
    /// The next wait of the backoff, which starts again after an answer of the router.
    Backoff,
    /// A long wait: a person must act, or the agreement must change.
    Long,
}

/// What comes after a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Again {
        /// The phase until then; `None` leaves it unchanged.
        phase: Option<Phase>,
        wait: Wait,
    },
    Over(Phase),
}

/// The recovery of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    start: Start,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { start: Start::Cursor }
    }
}

impl Recovery {
    /// The cursor that the next stream begins with; `None` means with the state.
    pub fn start(&self, cursor: Option<Cursor>) -> Option<Cursor> {
        cursor.filter(|_| self.start == Start::Cursor)
    }

    /// A stream is over.
    pub fn on_end(&mut self, end: StreamEnd, advance: Advance) -> Step {
        // A complete snapshot need not be repeated when the stream breaks later; an incomplete one may be continued.
        if advance.was_live || advance.has_moved {
            self.start = Start::Cursor;
        }
        let again = |phase, wait| Step::Again { phase, wait };
        match end {
            StreamEnd::ToQuery => again(None, Wait::Not),
            StreamEnd::Closed { reason: CloseReason::Revoked | CloseReason::Expired, .. }
            | StreamEnd::Refused(ErrorCode::AgreementEnded) => Step::Over(Phase::Ended),
            StreamEnd::Closed { next, .. } => {
                self.start = if next == Next::Resync { Start::State } else { Start::Cursor };
                match next {
                    Next::Continue => again(None, Wait::Backoff),
                    Next::Resync => again(None, Wait::Not),
                    Next::Stop => again(Some(Phase::Waiting), Wait::Long),
                }
            }
            StreamEnd::Sink(SinkErrorClass::Poisoned) => Step::Over(Phase::Broken),
            StreamEnd::Sink(SinkErrorClass::Person) => again(Some(Phase::Stuck), Wait::Long),
            end if end.is_refused_cursor() => {
                self.start = Start::State;
                again(Some(Phase::Connecting), Wait::Backoff)
            }
            // An incomplete register does not empty the replica: it stays as it is.
            StreamEnd::Refused(
                ErrorCode::RegisterIncomplete
                | ErrorCode::AgreementNotActive
                | ErrorCode::SchemaMismatch
                | ErrorCode::NotPermitted,
            ) => again(Some(Phase::Waiting), Wait::Long),
            StreamEnd::Refused(_) | StreamEnd::Sink(SinkErrorClass::Transient) | StreamEnd::Broken => {
                again(Some(Phase::Connecting), Wait::Backoff)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::cursor;

    const STOOD_STILL: Advance = Advance { was_live: false, has_moved: false };
    const IN_A_SNAPSHOT: Advance = Advance { was_live: false, has_moved: true };
    const LIVE: Advance = Advance { was_live: true, has_moved: true };

    fn closed(next: Next) -> StreamEnd {
        StreamEnd::Closed { reason: CloseReason::Resync, next }
    }

    /// Plays ends one after another; returns each step, and whether the next stream begins with the state.
    fn play(script: &[(StreamEnd, Advance)]) -> Vec<(Step, bool)> {
        let mut recovery = Recovery::default();
        let play = |(end, advance): &(StreamEnd, Advance)| {
            let step = recovery.on_end(*end, *advance);
            (step, recovery.start(Some(cursor(7))).is_none())
        };
        script.iter().map(play).collect()
    }

    const fn again(phase: Option<Phase>, wait: Wait) -> Step {
        Step::Again { phase, wait }
    }

    #[test]
    fn a_resync_is_owed_until_a_snapshot_has_begun_to_be_kept() {
        let broken = again(Some(Phase::Connecting), Wait::Backoff);
        let script = [
            (closed(Next::Resync), LIVE),
            (StreamEnd::Broken, STOOD_STILL),
            (StreamEnd::Sink(SinkErrorClass::Transient), STOOD_STILL),
            (StreamEnd::Broken, IN_A_SNAPSHOT),
        ];
        let expected = [(again(None, Wait::Not), true), (broken, true), (broken, true), (broken, false)];
        assert_eq!(play(&script), expected);
    }

    #[test]
    fn a_pass_that_came_to_its_end_is_not_made_again() {
        let ended = Advance { was_live: true, has_moved: false };
        let steps =
            play(&[(StreamEnd::Refused(ErrorCode::CursorTooOld), STOOD_STILL), (StreamEnd::Broken, ended)]);
        assert_eq!(steps.iter().map(|(_, from_state)| *from_state).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_cursor_that_the_router_does_not_take_leads_to_the_state_and_a_closed_stream_goes_on() {
        for code in [ErrorCode::CursorTooOld, ErrorCode::CursorForeign, ErrorCode::CursorMalformed] {
            let steps =
                play(&[(StreamEnd::Refused(code), STOOD_STILL), (closed(Next::Continue), STOOD_STILL)]);
            let expected =
                [(again(Some(Phase::Connecting), Wait::Backoff), true), (again(None, Wait::Backoff), false)];
            assert_eq!(steps, expected);
        }
    }

    #[test]
    fn what_a_person_or_an_agreement_has_to_do_is_waited_for() {
        let waits = [
            ErrorCode::RegisterIncomplete,
            ErrorCode::AgreementNotActive,
            ErrorCode::SchemaMismatch,
            ErrorCode::NotPermitted,
        ];
        for code in waits {
            let steps = play(&[(StreamEnd::Refused(code), STOOD_STILL)]);
            assert_eq!(steps, [(again(Some(Phase::Waiting), Wait::Long), false)], "{code:?}");
        }
        let steps = play(&[(StreamEnd::Sink(SinkErrorClass::Person), LIVE), (closed(Next::Stop), LIVE)]);
        let expected = [
            (again(Some(Phase::Stuck), Wait::Long), false),
            (again(Some(Phase::Waiting), Wait::Long), false),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn only_an_end_of_the_agreement_and_a_failed_disk_are_the_last_word() {
        for reason in [CloseReason::Revoked, CloseReason::Expired] {
            let ended = StreamEnd::Closed { reason, next: Next::Stop };
            assert_eq!(play(&[(ended, LIVE)]), [(Step::Over(Phase::Ended), false)]);
        }
        let ended = play(&[(StreamEnd::Refused(ErrorCode::AgreementEnded), STOOD_STILL)]);
        assert_eq!(ended, [(Step::Over(Phase::Ended), false)]);
        let broken = play(&[(StreamEnd::Sink(SinkErrorClass::Poisoned), LIVE)]);
        assert_eq!(broken, [(Step::Over(Phase::Broken), false)]);
    }

    #[test]
    fn whatever_the_router_says_the_agent_asks_again_or_says_why_not() {
        for code in ErrorCode::ALL {
            match play(&[(StreamEnd::Refused(code), STOOD_STILL)]).as_slice() {
                [(Step::Over(phase), _)] => {
                    assert_eq!((*phase, code), (Phase::Ended, ErrorCode::AgreementEnded))
                }
                [(Step::Again { phase, .. }, _)] => assert!(phase.is_some(), "{code:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
