//! Readers that come back, alone or all at once: what one of them has read, the others need not read again.

use std::sync::Condvar;

use super::*;
use crate::ring::KEPT_FOR;

impl Channel {
    /// So many changes, a checkpoint, and more changes; all of it is read. Returns the checkpoint, too.
    async fn read(before: u64, all: u64) -> (Self, Arc<Feed<Counting>>, Offset) {
        let mut channel = Self::open().await;
        channel.changes(0, before).await;
        let checkpoint = channel.checkpoint_here().await;
        channel.changes(before, all).await;
        let feed = channel.feed().await;
        channel.read_all(&feed).await;
        (channel, feed, checkpoint)
    }
}

/// Is not done with a note until another one begins, or none has for a while; counts them.
#[derive(Default)]
struct Patient {
    notes: Mutex<usize>,
    begun: Condvar,
}

impl Observer for Patient {
    type Note = NumberOfItems;

    fn note(&self, _: Partition, items: &[Item]) -> Option<NumberOfItems> {
        let mut notes = self.notes.lock().unwrap();
        *notes += 1;
        self.begun.notify_all();
        let is_alone = |notes: &mut usize| *notes < 2;
        drop(self.begun.wait_timeout_while(notes, Duration::from_millis(200), is_alone).unwrap());
        Some(NumberOfItems(items.len()))
    }

    fn read(&self, _: Counts) {}

    fn moves(&self, _: Partition, _: Move<'_, NumberOfItems>, step: &mut dyn FnMut() -> Arc<Tail>) {
        step();
    }
}

/// A place that was reached from the log's beginning.
fn place(offset: u64) -> Place {
    Place { offset: Offset::new(offset), checkpoint: Offset::new(0) }
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_reads_what_others_have_read_a_while_ago() {
    let mut channel = Channel::open().await;
    channel.changes(0, 20).await;
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
    tokio::time::sleep(KEPT_FOR * 2).await;
    assert!(feed.chunk_at(Offset::new(2)).is_none(), "what rests takes no memory");
    let mut first = Follower::resume(Arc::clone(&feed), place(2)).await.unwrap();
    let mut second = Follower::resume(Arc::clone(&feed), place(7)).await.unwrap();
    let [one, other] = [first.next().await.unwrap().unwrap(), second.next().await.unwrap().unwrap()];
    assert!(Arc::ptr_eq(&one, &other), "it was read once");
    assert_eq!((first.wanted(), second.wanted()), (Offset::new(2), Offset::new(7)));
    assert!(first.is_caught_up() && second.is_caught_up());
    channel.log.lose(TOPIC, P0, Offset::new(9));
    let mut third = Follower::resume(Arc::clone(&feed), place(2)).await.unwrap();
    assert_eq!(keys(&mut third).await, numbers(0, 20), "it is still there");
    feed.fail(channel.source.lost("it is another one"));
    let mut fourth = Follower::resume(Arc::clone(&feed), place(2)).await.unwrap();
    assert_eq!(keys(&mut fourth).await, numbers(0, 7), "the log is read again, and has a gap");
    tokio::time::sleep(KEPT_FOR * 2).await;
    let mut fifth = Follower::resume(Arc::clone(&feed), place(2)).await.unwrap();
    assert_eq!(keys(&mut fifth).await, numbers(0, 7));
}

#[tokio::test(start_paused = true)]
async fn what_several_wait_for_is_noted_once_for_all_of_them() {
    let mut channel = Channel::open().await;
    channel.changes(0, 20).await;
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
    for (readers, is_noted) in [(1, false), (3, true)] {
        tokio::time::sleep(KEPT_FOR * 2).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..readers {
            let mut reader = Follower::resume(Arc::clone(&feed), place(2)).await.unwrap();
            tasks.spawn(async move { reader.next().await.unwrap().unwrap() });
        }
        for chunk in tasks.join_all().await {
            assert_eq!(chunk.note.is_some(), is_noted, "{readers} readers");
        }
    }
}

#[tokio::test]
async fn nobody_reads_a_chunk_that_another_reader_still_notes() {
    const READERS: usize = 4;
    let (channel, read, _) = Channel::read(5, 20).await;
    let (fold, first) = channel.source.first_checkpoint().await.unwrap();
    let feed = Feed::at(channel.source.clone(), fold.clone(), first, Patient::default());
    feed.move_to(&read.tail().fold, read.tail().next);
    // Threads of their own: a runtime would wake one reader behind the other.
    let reading = |mut reader: Follower<Patient>| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(reader.next()).unwrap().unwrap()
        })
    };
    let turn = feed.turn_behind(first).await;
    let threads: Vec<_> =
        (0..READERS).map(|_| reading(Follower::at(Arc::clone(&feed), fold.clone(), first))).collect();
    while turn.waiting() < READERS {
        tokio::task::yield_now().await;
    }
    drop(turn);
    let chunks: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(chunks.iter().all(|chunk| Arc::ptr_eq(chunk, &chunks[0])), "it was read once");
    assert_eq!(*feed.observer().notes.lock().unwrap(), 1, "it was noted once");
}

#[tokio::test(start_paused = true)]
async fn what_another_one_has_read_forgets_no_opening() {
    let (_channel, feed, checkpoint) = Channel::read(3, 6).await;
    tokio::time::sleep(KEPT_FOR * 2).await;
    let mut early = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    let mut later =
        Follower::resume(Arc::clone(&feed), Place { offset: checkpoint.next(), checkpoint }).await.unwrap();
    assert!(later.next().await.unwrap().is_some());
    while early.next().await.unwrap().is_some() {}
    assert_eq!((later.fold().opened, early.fold().opened), (None, Some(Offset::new(1))));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_back_soon_reads_its_checkpoint_alone() {
    let (channel, feed, checkpoint) = Channel::read(5, 20).await;
    let end = feed.tail().next;
    for offset in (0..end.get()).map(Offset::new).filter(|offset| *offset != checkpoint) {
        channel.log.lose(TOPIC, P0, offset);
    }
    let place = Place { offset: Offset::new(checkpoint.get() + 3), checkpoint };
    let mut follower = Follower::resume(Arc::clone(&feed), place).await.unwrap();
    assert_eq!(follower.place(), place);
    // Its chunk is in its hands.
    tokio::time::sleep(KEPT_FOR * 2).await;
    assert_eq!(keys(&mut follower).await, numbers(7, 20));
    assert_eq!(follower.place(), Place { offset: end, checkpoint });
    let mut last = Follower::resume(feed, Place { offset: end, checkpoint }).await.unwrap();
    assert_eq!((keys(&mut last).await.len(), last.place()), (0, follower.place()));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_read_once_until_the_log_is_in_doubt() {
    let (channel, feed, checkpoint) = Channel::read(5, 20).await;
    tokio::time::sleep(KEPT_FOR * 2).await;
    let at = |later: u64| Place { offset: Offset::new(checkpoint.get() + later), checkpoint };
    let mut alone = Follower::resume(Arc::clone(&feed), at(3)).await.unwrap();
    assert_eq!((keys(&mut alone).await, alone.place().checkpoint), (numbers(7, 20), checkpoint));
    channel.log.lose(TOPIC, P0, checkpoint);
    let [a, b, c] = [9, 3, 2].map(|later| Follower::resume(Arc::clone(&feed), at(later)));
    let (a, b, c) = tokio::join!(a, b, c);
    for (later, follower) in [(9, a), (3, b), (2, c)] {
        let mut follower = follower.unwrap();
        assert_eq!(keys(&mut follower).await, numbers(later + 4, 20));
        assert_eq!((follower.place(), follower.fold()), (alone.place(), alone.fold()));
    }
    feed.fail(channel.source.lost("it is another one"));
    let doubted = Follower::resume(Arc::clone(&feed), at(3)).await.err().unwrap();
    assert!(matches!(doubted, ReaderError::TooOld { .. }), "its checkpoint is read again: {doubted}");
}

#[tokio::test]
async fn who_reads_everything_begins_where_the_log_begins_now() {
    let (channel, feed, checkpoint) = Channel::read(5, 8).await;
    for _ in 0..2 {
        let mut follower = Follower::earliest(Arc::clone(&feed)).await.unwrap();
        assert_eq!(keys(&mut follower).await, numbers(0, 8));
    }
    channel.log.expire(TOPIC, P0, checkpoint);
    let mut follower = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    assert_eq!(keys(&mut follower).await, numbers(5, 8));
}

#[tokio::test]
async fn what_the_log_does_not_hold_any_more_is_not_given_from_memory() {
    let (channel, feed, checkpoint) = Channel::read(5, 8).await;
    // The second router has read nothing.
    let other = channel.feed().await;
    channel.read_all(&other).await;
    other.move_to(&other.tail().fold, other.tail().next);
    let place = Place { offset: checkpoint, checkpoint: Offset::new(0) };
    assert!(Follower::resume(Arc::clone(&feed), place).await.is_ok(), "its checkpoint is known from now on");
    channel.log.expire(TOPIC, P0, Offset::new(1));
    for feed in [feed, other] {
        assert!(feed.tail().next > place.offset);
        let refused = Follower::resume(feed, place).await.err().unwrap();
        assert!(matches!(refused, ReaderError::TooOld { .. }), "each router gives the same: {refused}");
    }
}
