//! The sending machine of one channel: what the table's answers mean for each partition.
//!
//! Pure: positions in, verdicts out. It keeps what is acknowledged, and notices when images and outbox no longer agree
//! with the log.

use schemas::digest;
use schemas::ids::{AgentId, Digest, Epoch, Partition, Sequence};
use schemas::per_partition::PerPartition;
use schemas::publish::{Counted, Position};

/// What to do about one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send an opening that replaces this epoch.
    Open {
        /// The current epoch.
        replaces: Option<Epoch>,
    },
    /// Everything below this sequence is acknowledged.
    Acknowledged {
        /// The sequence that counts next.
        next: Sequence,
    },
    /// The log does not know our chain: only a reopen repairs it.
    Reopen(Doubt),
}

/// Why images or outbox are doubtful.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Another epoch than ours is current.
    #[error("partition {partition} was opened by {agent} in another epoch")]
    Voided { partition: Partition, agent: AgentId },
    /// The log is where our outbox never was: the folder was restored from a backup, or cloned.
    #[error(
        "restored_folder: the log of partition {partition} stands at {next}, which this outbox does not know: \
         was the folder restored from a copy?"
    )]
    RestoredFolder {
        partition: Partition,
        /// The position that the log has.
        next: Sequence,
    },
    /// The router's log lacks records that it had acknowledged: it was restored from a copy, or lost.
    #[error(
        "log_went_back: the log of partition {partition} stands at {next}, but {acknowledged} was acknowledged: \
         was the router restored from a copy?"
    )]
    LogWentBack {
        partition: Partition,
        /// The position that the log has.
        next: Sequence,
        acknowledged: Sequence,
    },
    /// The router's log lost events before the channel's state had them.
    #[error("state_overtaken: the state of partition {partition} lacks events that the log has lost")]
    StateOvertaken { partition: Partition },
}

impl Doubt {
    /// The reason in a word, for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Voided { .. } => "voided",
            Self::RestoredFolder { .. } => "restored_folder",
            Self::LogWentBack { .. } => "log_went_back",
            Self::StateOvertaken { .. } => "state_overtaken",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EpochProgress {
    opened: bool,
    acknowledged: Sequence,
    /// The digest of the last acknowledged record.
    digest: Digest,
}

/// The machine of one channel.
#[derive(Debug, Clone)]
pub struct SendMachine {
    agent: AgentId,
    epoch: Epoch,
    partitions: PerPartition<EpochProgress>,
}

impl SendMachine {
    /// Begins before the first answer of the table.
    pub fn new(agent: AgentId, epoch: Epoch, partitions: u32) -> Self {
        let progress =
            EpochProgress { opened: false, acknowledged: Sequence::new(0), digest: digest::first(epoch) };
        Self { agent, epoch, partitions: PerPartition::filled(partitions, progress) }
    }

    /// The epoch of the sent events.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many partitions the channel has.
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.partitions.values().len()).unwrap_or(u32::MAX)
    }

    /// Whether data may go out: every opening has been read back.
    pub fn is_open(&self) -> bool {
        self.partitions.values().all(|progress| progress.opened)
    }

    /// What is acknowledged in a partition.
    pub fn acknowledged(&self, partition: Partition) -> Sequence {
        self.progress(partition).map_or(Sequence::new(0), |progress| progress.acknowledged)
    }

    /// The digest that the next record of a partition continues.
    pub fn digest(&self, partition: Partition) -> Digest {
        self.progress(partition).map_or(digest::first(self.epoch), |progress| progress.digest)
    }

    fn progress(&self, partition: Partition) -> Option<&EpochProgress> {
        self.partitions.get(partition)
    }

    /// Applies the table's answer for a partition. `asked_at` is what was acknowledged when it was asked for: the
    /// agent may have heard a newer answer already. `knows` tells whether our outbox's chain was at (next, digest); `may_open`
    /// tells that our reopen may replace any current epoch.
    pub fn on_position(
        &mut self,
        position: &Position,
        asked_at: Sequence,
        knows: impl FnOnce(Sequence, Digest) -> bool,
        may_open: bool,
    ) -> Verdict {
        let partition = position.partition;
        let agent = self.agent.clone();
        let epoch = self.epoch;
        let Some(progress) = self.partitions.get_mut(partition) else {
            return Verdict::Acknowledged { next: Sequence::new(0) };
        };
        let verdict = match &position.counted {
            None => Verdict::Open { replaces: None },
            Some(counted) if counted.epoch == epoch && counted.agent == agent => {
                progress.opened = true;
                if counted.next < asked_at {
                    // Each answer comes from a read of the log past all that was acknowledged before the request.
                    let acknowledged = progress.acknowledged;
                    Verdict::Reopen(Doubt::LogWentBack { partition, next: counted.next, acknowledged })
                } else if counted.next < progress.acknowledged {
                    Verdict::Acknowledged { next: progress.acknowledged }
                } else if (counted.next, counted.digest) == (progress.acknowledged, progress.digest) {
                    Verdict::Acknowledged { next: counted.next }
                } else if knows(counted.next, counted.digest) {
                    progress.acknowledged = counted.next;
                    progress.digest = counted.digest;
                    Verdict::Acknowledged { next: counted.next }
                } else {
                    Verdict::Reopen(Doubt::RestoredFolder { partition, next: counted.next })
                }
            }
            Some(Counted { epoch: current, .. }) if may_open && !progress.opened => {
                Verdict::Open { replaces: Some(*current) }
            }
            Some(counted) => Verdict::Reopen(Doubt::Voided { partition, agent: counted.agent.clone() }),
        };
        match verdict {
            // Only for a chain that is ours and known: every other doubt says more.
            Verdict::Acknowledged { .. } if position.state_overtaken && !may_open => {
                Verdict::Reopen(Doubt::StateOvertaken { partition })
            }
            verdict => verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::ids::Offset;

    const EPOCH: Epoch = Epoch::new([1; 16]);
    const START: Sequence = Sequence::new(0);

    fn position(counted: Option<(u8, u64)>) -> Position {
        let counted = counted.map(|(epoch, next)| Counted {
            agent: "1/a".parse().unwrap(),
            epoch: Epoch::new([epoch; 16]),
            next: Sequence::new(next),
            digest: digest::first(EPOCH),
            ended: Vec::new(),
        });
        let read_to = Offset::new(0);
        let state_to = Offset::new(0);
        Position { partition: Partition::new(0), counted, read_to, state_to, state_overtaken: false }
    }

    fn machine() -> SendMachine {
        SendMachine::new("1/a".parse().unwrap(), EPOCH, 1)
    }

    #[test]
    fn an_untouched_partition_is_opened_and_then_open() {
        let mut machine = machine();
        assert_eq!(
            machine.on_position(&position(None), START, |_, _| true, false),
            Verdict::Open { replaces: None }
        );
        assert!(!machine.is_open());
        let word = machine.on_position(&position(Some((1, 0))), START, |_, _| true, false);
        assert_eq!(word, Verdict::Acknowledged { next: Sequence::new(0) });
        assert!(machine.is_open());
    }

    #[test]
    fn a_log_that_lacks_what_it_acknowledged_is_in_doubt() {
        let mut machine = machine();
        machine.on_position(&position(Some((1, 5))), START, |_, _| true, false);
        let word = machine.on_position(&position(Some((1, 3))), Sequence::new(5), |_, _| true, false);
        assert!(
            matches!(word, Verdict::Reopen(Doubt::LogWentBack { .. })),
            "sent from 5 on, nothing would count"
        );
    }

    #[test]
    fn an_older_answer_that_comes_later_says_nothing_new() {
        let mut machine = machine();
        machine.on_position(&position(Some((1, 5))), START, |_, _| true, false);
        let asked_at = Sequence::new(2);
        let word = machine.on_position(&position(Some((1, 3))), asked_at, |_, _| false, false);
        assert_eq!(word, Verdict::Acknowledged { next: Sequence::new(5) });
        let word = machine.on_position(&position(Some((1, 1))), asked_at, |_, _| true, false);
        assert!(
            matches!(word, Verdict::Reopen(Doubt::LogWentBack { .. })),
            "older than what it was asked at"
        );
    }

    #[test]
    fn a_chain_that_we_do_not_know_is_a_restored_folder() {
        let word = machine().on_position(&position(Some((1, 5))), START, |_, _| false, false);
        assert!(matches!(word, Verdict::Reopen(Doubt::RestoredFolder { .. })));
    }

    #[test]
    fn a_state_that_lacks_events_is_repaired_by_a_reopen() {
        let overtaken = Position { state_overtaken: true, ..position(Some((1, 0))) };
        let word = machine().on_position(&overtaken, START, |_, _| true, false);
        assert!(matches!(word, Verdict::Reopen(Doubt::StateOvertaken { .. })));
        let word = machine().on_position(&overtaken, START, |_, _| true, true);
        assert_eq!(word, Verdict::Acknowledged { next: Sequence::new(0) }, "the reopen's own opening");
        let voided = Position { state_overtaken: true, ..position(Some((2, 5))) };
        let word = machine().on_position(&voided, START, |_, _| true, false);
        assert!(matches!(word, Verdict::Reopen(Doubt::Voided { .. })), "another's channel is not taken over");
        let restored = Position { state_overtaken: true, ..position(Some((1, 5))) };
        let word = machine().on_position(&restored, START, |_, _| false, false);
        assert!(
            matches!(word, Verdict::Reopen(Doubt::RestoredFolder { .. })),
            "old events are not sent again"
        );
    }

    #[test]
    fn another_epoch_is_replaced_only_by_a_reopen() {
        let word = machine().on_position(&position(Some((2, 5))), START, |_, _| true, false);
        assert!(matches!(word, Verdict::Reopen(Doubt::Voided { .. })));
        let word = machine().on_position(&position(Some((2, 5))), START, |_, _| true, true);
        assert_eq!(word, Verdict::Open { replaces: Some(Epoch::new([2; 16])) });
        let mut opened = machine();
        opened.on_position(&position(Some((1, 0))), START, |_, _| true, true);
        let word = opened.on_position(&position(Some((2, 0))), START, |_, _| true, true);
        assert!(matches!(word, Verdict::Reopen(Doubt::Voided { .. })), "ours was voided after it was open");
    }
}
