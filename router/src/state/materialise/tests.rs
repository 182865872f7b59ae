//! The materialiser on a log in memory: the state is each key's last counted image, whichever router writes it and
//! whatever happens to the log.

use event_log::Log as _;
use reading::located::LocatedBlock;
use schemas::ids::Offset;

use super::*;
use crate::fixtures::Moved;
use crate::state::bootstrap::{Bootstrap, BootstrapError};
use crate::state::fixtures::*;
use crate::state::group::{COMMIT_EVENTS, COMMIT_EVERY};

#[tokio::test]
async fn the_state_is_each_keys_last_image() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    let gone = Moved { key: "b", from: Some("1"), to: None };
    channel.changed(&[put("a", None, "1"), put("b", None, "1"), put("a", Some("1"), "2"), gone]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.state().await, rows(&[("a", "2")]));
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    assert_eq!(materialiser.state.progress(), StateProgress { to: end, overtaken: None });
    assert_eq!(channel.count(Kind::Resync).await, 0);
}

#[tokio::test]
async fn a_commit_has_the_last_record_of_a_key_alone() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    let gone = Moved { key: "a", from: Some("2"), to: None };
    channel.changed(&[put("a", None, "1"), put("b", None, "1"), put("a", Some("1"), "2"), gone]).await;
    channel.changed(&[put("b", Some("1"), "2"), put("a", None, "3")]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.state().await, rows(&[("a", "3"), ("b", "2")]));
    assert_eq!(channel.records(STATE).await.len(), 2, "a block and a checkpoint");
    let entry = |key: &str, town: &str| (key.to_owned(), Some(town.to_owned()));
    assert_eq!(channel.blocks().await, [[entry("b", "2"), entry("a", "3")]], "in the log's order");
    assert_eq!(
        channel.count(Kind::Resync).await,
        0,
        "within a commit, too, each before image is the state's"
    );
    channel.changed(&[put("a", Some("3"), "4"), Moved { key: "b", from: Some("2"), to: None }]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.state().await, rows(&[("a", "4")]));
    assert_eq!(channel.count(Kind::Resync).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_for_more_but_not_longer_than_said() {
    let mut channel = Channel::open().await;
    let materialiser = channel.stand().await;
    let state = materialiser.state.clone();
    channel.read_all().await;
    let running = tokio::spawn(materialiser.run());
    let begun = tokio::time::Instant::now();
    channel.changed(&[put("a", None, "1")]).await;
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    until(&state, end).await;
    let took = begun.elapsed();
    assert!(took >= COMMIT_EVERY && took < COMMIT_EVERY * 2, "{took:?}");
    let many: Vec<String> = (0..COMMIT_EVENTS).map(|number| number.to_string()).collect();
    let changes: Vec<Moved<'_>> = many.iter().map(|key| put(key, None, "1")).collect();
    channel.changed(&changes).await;
    let begun = tokio::time::Instant::now();
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    until(&state, end).await;
    assert!(begun.elapsed() < COMMIT_EVERY, "a full one does not wait");
    running.abort();
}

#[tokio::test]
async fn who_takes_over_goes_on_where_the_state_ends_and_writes_nothing_twice() {
    let mut channel = Channel::open().await;
    let mut first = channel.stand().await;
    channel.changed(&[put("a", None, "1"), put("b", None, "1")]).await;
    channel.materialise(&mut first).await;
    let before = channel.records(STATE).await.len();
    channel.changed(&[put("a", Some("1"), "2")]).await;
    let mut second = channel.stand().await;
    channel.materialise(&mut second).await;
    assert_eq!(channel.state().await, rows(&[("a", "2"), ("b", "1")]));
    let written = channel.records(STATE).await.len() - before;
    assert_eq!(written, 2, "one block and one checkpoint");
    assert_eq!(channel.count(Kind::Resync).await, 0, "it knows the images of the one before");
}

#[tokio::test]
async fn who_is_fenced_writes_nothing_more() {
    let mut channel = Channel::open().await;
    let mut old = channel.stand().await;
    let _new = channel.tenure().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.read_all().await;
    let ended = step(&mut old).await;
    assert!(matches!(ended, Err(StateError::Commit(CommitError::Fenced))), "{ended:?}");
    assert_eq!(channel.state().await, rows(&[]));
    assert_eq!(old.state.progress().to, Offset::new(0), "and it says nothing of it");
}

#[tokio::test]
async fn what_does_not_count_is_not_in_the_state() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    let first = channel.event(put("a", None, "1"));
    channel.append(first.clone()).await;
    channel.append(first).await;
    let lost = channel.event(put("b", None, "1"));
    channel.changed(&[put("c", None, "behind the gap")]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.state().await, rows(&[("a", "1")]), "once, and nothing behind the gap");
    drop(lost);
}

#[tokio::test]
async fn a_before_image_that_is_not_the_states_orders_one_resync() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut materialiser).await;
    channel.changed(&[put("a", Some("another"), "2")]).await;
    channel.materialise(&mut materialiser).await;
    channel.changed(&[put("a", Some("yet another"), "3")]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.count(Kind::Resync).await, 1, "the second comes too soon");
    assert_eq!(channel.state().await, rows(&[("a", "3")]), "the log's word is the state's");
}

#[tokio::test]
async fn images_without_their_checkpoint_are_none() {
    let mut channel = Channel::open().await;
    let mut first = channel.stand().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut first).await;
    let event = channel.event(put("a", Some("1"), "2"));
    let offset = channel.append(event.clone()).await;
    channel.read_all().await;
    let stored = event_log::Stored { offset, logged_at: schemas::time::Millis::new(1), record: event };
    let block = LocatedBlock::locate(stored, SCHEMA, codec(), FRAME).unwrap();
    let mut group = Group::default();
    group.put(hash128(b"a"), &block.change(0).unwrap());
    let mut blocks = Blocks::default();
    group.put_into(&mut blocks);
    let foreign: Vec<Record> = blocks.finish().into_iter().map(|images| images.record).collect();
    channel.tenure().await.commit(STATE, P0, foreign).await.unwrap();
    assert_eq!(Channel::given(channel.snapshot().await).await, rows(&[("a", "1")]));
    let mut second = channel.stand().await;
    channel.materialise(&mut second).await;
    assert_eq!(channel.count(Kind::Resync).await, 0, "the image before is still that of the checkpoint");
    assert_eq!(channel.state().await, rows(&[("a", "2")]));
}

#[tokio::test]
async fn a_state_that_retention_has_passed_says_so_until_its_provider_has_begun_anew() {
    let mut channel = Channel::open().await;
    let mut first = channel.stand().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut first).await;
    channel.changed(&[put("a", Some("1"), "2"), put("b", None, "1")]).await;
    channel.read_all().await;
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    channel.log.expire(TOPIC, P0, end);
    let mut second = channel.stand().await;
    assert_eq!(second.state.progress(), StateProgress { to: end, overtaken: Some(end) });
    let found = StateWatch::new(STATE, P0).look(channel.log.as_ref()).await.unwrap().unwrap();
    assert_eq!(found.overtaken, Some(end), "every router learns of it");
    channel.changed(&[put("b", Some("1"), "2")]).await;
    channel.materialise(&mut second).await;
    assert_eq!(channel.count(Kind::Resync).await, 0, "that it differs is known");
    assert!(second.state.progress().overtaken.is_some(), "nobody has made it whole");
    channel.begin(SECOND, Some(FIRST)).await;
    channel.changed(&[put("a", None, "2")]).await;
    channel.materialise(&mut second).await;
    assert_eq!(second.state.progress().overtaken, None);
    assert!(channel.tasks.stop_and_join(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_snapshot_whose_end_the_log_has_lost_is_begun_anew_and_waits_for_no_provider() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut materialiser).await;
    let place = channel.snapshot().await.place();
    let resumed = Bootstrap::resume(Arc::clone(&channel.feed), STATE.to_owned(), place).await.unwrap();
    assert_eq!(resumed.place(), place);
    channel.changed(&[put("a", Some("1"), "2")]).await;
    channel.materialise(&mut materialiser).await;
    let end = channel.log.bounds(TOPIC, P0).await.unwrap().next;
    channel.log.expire(TOPIC, P0, end);
    let resumed = Bootstrap::resume(Arc::clone(&channel.feed), STATE.to_owned(), place).await;
    assert!(matches!(resumed, Err(BootstrapError::Overtaken)), "the state itself is whole");
    let anew = channel.snapshot().await;
    assert!(anew.place().end > place.end);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_written_when_enough_was_appended_and_when_it_is_late() {
    let mut channel = Channel::open().await;
    let mut materialiser = channel.stand().await;
    let at_first = channel.count(Kind::Checkpoint).await;
    channel.changed(&[put("a", None, "1")]).await;
    channel.materialise(&mut materialiser).await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first, "it is early, and little has come");
    tokio::time::advance(CHECKPOINT_EVERY).await;
    materialiser.checkpoint_when_due().await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first + 1);
    tokio::time::advance(CHECKPOINT_EVERY).await;
    materialiser.checkpoint_when_due().await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first + 1, "nothing has come since");
    tokio::time::advance(CHECKPOINT_WHEN_IDLE).await;
    materialiser.checkpoint_when_due().await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first + 2, "retention must leave one");
    materialiser.since_checkpoint = CHECKPOINT_EVERY_CHANGES;
    materialiser.checkpoint_when_due().await;
    assert_eq!(channel.count(Kind::Checkpoint).await, at_first + 3);
}
