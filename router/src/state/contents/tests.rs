//! A state topic on a log in memory: whatever is written again, given up and taken over, the state is the log's fold, and it
//! holds little more than what is present.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_log::Log as _;
use proptest::prelude::*;
use reading::error::ReaderError;
use schemas::cursor::SnapshotPlace;
use schemas::record::Kind;

use super::*;
use crate::fixtures::Moved;
use crate::state::bootstrap::{Bootstrap, BootstrapError, PresentImages};
use crate::state::fixtures::*;
use crate::state::group::COMMIT_EVERY;
use crate::state::materialise::Materialiser;

/// A time that all records are older than.
const LATER: Millis = Millis::new(i64::MAX / 2);

type Rows = BTreeMap<String, String>;

#[derive(Debug, Clone)]
enum Step {
    /// Keys that get a new town, or are deleted.
    Change(Vec<(u8, bool)>),
    Commit,
    TakeOver,
    Delete,
    Begin,
    Read,
    Resume,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = prop_oneof![3 => 0..4_u8, 1 => 0..14_u8];
    let changes = proptest::collection::vec((key, prop::bool::weighted(0.3)), 1..40);
    let step = prop_oneof![
        6 => changes.prop_map(Step::Change),
        6 => Just(Step::Commit),
        1 => Just(Step::TakeOver),
        1 => Just(Step::Delete),
        1 => Just(Step::Begin),
        3 => Just(Step::Read),
        1 => Just(Step::Resume),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A channel, what it should hold, and a snapshot that is under way, with the rows that it gave and those that it should
/// give.
struct Played {
    channel: Channel,
    materialiser: Materialiser,
    rows: Rows,
    committed: Rows,
    snapshot: Option<(Bootstrap, Rows, Rows)>,
    changes: u32,
    cleaned: bool,
}

impl Played {
    async fn begin() -> Self {
        let channel = Channel::open().await;
        let materialiser = channel.stand().await;
        let (rows, committed) = (BTreeMap::new(), BTreeMap::new());
        Self { channel, materialiser, rows, committed, snapshot: None, changes: 0, cleaned: false }
    }

    async fn change(&mut self, key: u8, is_gone: bool) {
        let key = format!("k{key}");
        self.changes += 1;
        let from = self.rows.get(&key).cloned();
        let to = (!is_gone).then(|| self.changes.to_string());
        if from.is_none() && to.is_none() {
            return;
        }
        self.channel.changed(&[Moved { key: &key, from: from.as_deref(), to: to.as_deref() }]).await;
        match to {
            Some(to) => self.rows.insert(key, to),
            None => self.rows.remove(&key),
        };
    }

    /// Commits, and compares the topic with what it should hold.
    async fn commit(&mut self) {
        self.channel.materialise(&mut self.materialiser).await;
        self.committed.clone_from(&self.rows);
        assert_eq!(self.channel.state().await, self.rows);
        let Extent { first, entries, .. } = self.materialiser.contents.extent;
        self.cleaned |= first > Offset::new(0);
        let blocks = self.channel.blocks().await;
        let held: usize = blocks.iter().map(Vec::len).sum();
        let records = self.channel.records(STATE).await;
        let needed = records.iter().filter(|stored| stored.offset >= first);
        let checkpoints = needed.filter(|stored| Kind::of(&stored.record) == Some(Kind::Checkpoint));
        let weights: u64 = checkpoints.map(|stored| weight(stored.record.size())).sum();
        assert_eq!(entries, number(held) + weights, "what the materialiser thinks it holds");
        let most = 4 * number(self.rows.len()) + 2 * SPARE_ENTRIES;
        assert!(entries <= most, "{entries} entries for {} rows", self.rows.len());
    }

    async fn delete(&mut self) {
        self.materialiser.contents.delete_old(LATER).await.unwrap();
        let bounds = self.channel.log.bounds(STATE, P0).await.unwrap();
        assert_eq!(bounds.first, self.materialiser.contents.extent.first, "all that is not needed");
    }

    async fn read(&mut self) {
        let Some((mut snapshot, mut given, expected)) = self.snapshot.take() else { return };
        match snapshot.next().await {
            Ok(Some(blocks)) => {
                for present in blocks.iter().flat_map(PresentImages::iter) {
                    let town = present.image.bytes().get(present.key.len() + 2..).unwrap().to_vec();
                    given.insert(present.key.to_owned(), String::from_utf8(town).unwrap());
                }
                self.snapshot = Some((snapshot, given, expected));
            }
            Ok(None) => assert_eq!(given, expected, "a snapshot is the state at its checkpoint"),
            Err(BootstrapError::Overtaken) => {}
            Err(other) => panic!("{other}"),
        }
    }

    async fn resume(&mut self) {
        let Some((snapshot, given, expected)) = self.snapshot.take() else { return };
        let feed = Arc::clone(&self.channel.feed);
        match Bootstrap::resume(feed, STATE.to_owned(), snapshot.place()).await {
            Ok(resumed) => self.snapshot = Some((resumed, given, expected)),
            Err(BootstrapError::Overtaken) => {}
            Err(other) => panic!("{other}"),
        }
    }

    async fn play(&mut self, step: Step) {
        match step {
            Step::Change(changes) => {
                for (key, is_gone) in changes {
                    self.change(key, is_gone).await;
                }
            }
            Step::Commit => self.commit().await,
            Step::TakeOver => self.materialiser = self.channel.stand().await,
            Step::Delete => self.delete().await,
            Step::Begin => {
                let snapshot = self.channel.snapshot().await;
                self.snapshot = Some((snapshot, BTreeMap::new(), self.committed.clone()));
            }
            Step::Read => self.read().await,
            Step::Resume => self.resume().await,
        }
    }
}

proptest! {
    /// Compared with a model of rows, in random histories.
    #[test]
    fn the_state_is_the_logs_fold_whatever_is_cleaned(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut played = Played::begin().await;
            for step in steps {
                played.play(step).await;
            }
            played.commit().await;
        });
    }
}

#[tokio::test]
async fn rows_that_rest_are_written_again_and_what_was_deleted_stays_away() {
    let mut played = Played::begin().await;
    for key in 0..40 {
        played.change(key, false).await;
    }
    for key in 30..40 {
        played.change(key, true).await;
    }
    played.commit().await;
    for round in 0..60 {
        played.change(round % 5, false).await;
        played.change(round % 5, false).await;
        played.change(round % 5, false).await;
        played.commit().await;
        played.delete().await;
    }
    assert!(played.cleaned);
    assert_eq!(Channel::given(played.channel.snapshot().await).await, played.rows);
    let mut next = played.channel.stand().await;
    assert_eq!(next.contents.present.len(), 30);
    played.change(39, false).await;
    played.channel.materialise(&mut next).await;
    assert_eq!(played.channel.state().await, played.rows);
}

#[tokio::test]
async fn one_row_that_changes_beside_many_that_rest_does_not_fill_the_topic() {
    let mut played = Played::begin().await;
    for key in 0..200 {
        played.change(key, false).await;
    }
    played.commit().await;
    for _ in 0..500 {
        played.change(7, false).await;
        played.commit().await;
    }
    assert!(played.cleaned);
    let blocks = played.channel.blocks().await;
    assert!(blocks.iter().any(|block| block.len() >= 100), "what rests is written again in large blocks");
}

#[tokio::test]
async fn what_a_checkpoint_before_the_time_needed_is_kept() {
    let mut played = Played::begin().await;
    let mut commits = Vec::new();
    for round in 0..200_u8 {
        played.change(round % 5, false).await;
        played.commit().await;
        let last = played.channel.records(STATE).await.pop().unwrap();
        commits.push((played.materialiser.contents.first(), last.logged_at));
        // Each has a time of its own: the log's times have milliseconds.
        while platform::clock::now() <= last.logged_at {
            tokio::task::yield_now().await;
        }
    }
    let (old, at) = *commits.iter().find(|(first, _)| *first > Offset::new(0)).unwrap();
    assert!(old < played.materialiser.contents.first(), "it was cleaned again since");
    played.materialiser.contents.delete_old(at.plus(1)).await.unwrap();
    assert_eq!(played.channel.log.bounds(STATE, P0).await.unwrap().first, old);
}

#[tokio::test]
async fn a_hole_in_the_topic_is_noticed_wherever_it_is() {
    for lost in 0..8 {
        let mut played = Played::begin().await;
        for round in 0..4_u8 {
            played.change(round, false).await;
            played.commit().await;
        }
        let records = played.channel.records(STATE).await;
        assert_eq!(records.len(), 8, "four blocks, four checkpoints");
        if lost == 7 {
            // Without the last checkpoint its commit is none.
            continue;
        }
        played.channel.log.lose(STATE, P0, records[lost].offset);
        let read = Contents::read(played.channel.feed.source().clone(), STATE.to_owned()).await;
        let begun = Bootstrap::begin(Arc::clone(&played.channel.feed), &played.channel.state).await;
        for error in [read.err().unwrap().to_string(), begun.err().unwrap().to_string()] {
            assert!(error.contains("lost_topic") && error.contains("missing"), "{lost}: {error}");
        }
    }
}

#[tokio::test]
async fn an_empty_state_of_a_log_that_has_lost_its_beginning_is_a_lost_topic() {
    let mut played = Played::begin().await;
    played.change(1, false).await;
    played.channel.read_all().await;
    let end = played.channel.log.bounds(TOPIC, P0).await.unwrap().next;
    played.channel.log.expire(TOPIC, P0, end);
    let read = Contents::read(played.channel.feed.source().clone(), STATE.to_owned()).await;
    let begun = Bootstrap::begin(Arc::clone(&played.channel.feed), &played.channel.state).await;
    for error in [read.err().unwrap().to_string(), begun.err().unwrap().to_string()] {
        assert!(
            error.contains(STATE) && error.contains("it holds nothing, but the log begins at"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_snapshot_whose_end_the_topic_does_not_have_is_begun_anew() {
    let mut played = Played::begin().await;
    played.change(1, false).await;
    played.commit().await;
    let place = SnapshotPlace { next: Offset::new(0), end: Offset::new(99) };
    let resumed = Bootstrap::resume(Arc::clone(&played.channel.feed), STATE.to_owned(), place).await;
    assert!(matches!(resumed, Err(BootstrapError::Overtaken)));
}

#[tokio::test]
async fn a_state_that_lacks_records_says_which_and_is_no_smaller_state() {
    let mut played = Played::begin().await;
    played.change(1, false).await;
    played.commit().await;
    played.channel.log.expire(STATE, P0, Offset::new(1));
    let noticed = played.materialiser.contents.delete_old(LATER).await.unwrap_err();
    assert!(
        matches!(noticed, ScanError::Reader(ReaderError::LostTopic { .. })),
        "by its running writer: {noticed}"
    );
    let refused = Bootstrap::begin(Arc::clone(&played.channel.feed), &played.channel.state).await;
    let error = refused.err().unwrap().to_string();
    assert!(
        error.contains(STATE) && error.contains("it begins at 1, but needs the records from 0 on"),
        "{error}"
    );
    let tenure = played.channel.tenure().await;
    let state = crate::state::tenure::StateWatch::new(STATE, P0);
    let refused = Materialiser::stand(Arc::clone(&played.channel.feed), tenure, state).await;
    assert!(refused.err().unwrap().to_string().contains("lost_topic"));
}

#[tokio::test(start_paused = true)]
async fn old_records_are_looked_for_once_in_a_while() {
    let mut played = Played::begin().await;
    played.change(1, false).await;
    played.commit().await;
    let first = played.materialiser.contents.last_deletion.unwrap();
    tokio::time::advance(COMMIT_EVERY).await;
    played.materialiser.contents.delete_when_due().await;
    assert_eq!(played.materialiser.contents.last_deletion, Some(first));
    tokio::time::advance(DELETE_EVERY).await;
    played.materialiser.contents.delete_when_due().await;
    assert!(played.materialiser.contents.last_deletion > Some(first));
}
