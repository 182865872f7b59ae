//! Readers that come back, alone or all at once: what one of them has read, the others need not read again.

use super::*;
use crate::ring::KEPT_FOR;

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
async fn what_another_one_has_read_forgets_no_opening() {
    let mut channel = Channel::open().await;
    channel.changes(0, 3).await;
    let checkpoint = channel.checkpoint_here().await;
    channel.changes(3, 6).await;
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
    tokio::time::sleep(KEPT_FOR * 2).await;
    let mut early = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    let mut later =
        Follower::resume(Arc::clone(&feed), Place { offset: checkpoint.next(), checkpoint }).await.unwrap();
    assert!(later.next().await.unwrap().is_some());
    while early.next().await.unwrap().is_some() {}
    assert_eq!((later.fold().opened, early.fold().opened), (None, Some(Offset::new(1))));
}

#[tokio::test]
async fn a_reader_that_is_back_soon_reads_no_log() {
    let mut channel = Channel::open().await;
    channel.changes(0, 5).await;
    let checkpoint = channel.checkpoint_here().await;
    channel.changes(5, 20).await;
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
    let end = feed.tail().next;
    for offset in 0..end.get() {
        channel.log.lose(TOPIC, P0, Offset::new(offset));
    }
    let mut follower =
        Follower::resume(Arc::clone(&feed), Place { offset: Offset::new(checkpoint.get() + 3), checkpoint })
            .await
            .unwrap();
    let begun = follower.place();
    assert_eq!((begun.offset, begun.checkpoint), (Offset::new(checkpoint.get() + 3), checkpoint));
    // Its chunk is in its hands.
    tokio::time::pause();
    tokio::time::sleep(KEPT_FOR * 2).await;
    assert_eq!(keys(&mut follower).await, numbers(7, 20));
    assert_eq!(follower.place(), Place { offset: end, checkpoint });
    let mut last = Follower::resume(feed, Place { offset: end, checkpoint }).await.unwrap();
    assert_eq!((keys(&mut last).await.len(), last.place()), (0, follower.place()));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_read_once_until_the_log_is_in_doubt() {
    let mut channel = Channel::open().await;
    channel.changes(0, 5).await;
    let checkpoint = channel.checkpoint_here().await;
    channel.changes(5, 20).await;
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
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
    let mut channel = Channel::open().await;
    channel.changes(0, 5).await;
    let end = channel.checkpoint_here().await;
    channel.changes(5, 8).await;
    let feed = channel.feed().await;
    channel.read_all(&feed).await;
    for _ in 0..2 {
        let mut follower = Follower::earliest(Arc::clone(&feed)).await.unwrap();
        assert_eq!(keys(&mut follower).await, numbers(0, 8));
    }
    channel.log.expire(TOPIC, P0, end);
    let mut follower = Follower::earliest(Arc::clone(&feed)).await.unwrap();
    assert_eq!(keys(&mut follower).await, numbers(5, 8));
    let gone = Place { offset: end, checkpoint: Offset::new(0) };
    let mut back = Follower::resume(Arc::clone(&feed), gone).await.unwrap();
    assert_eq!(keys(&mut back).await, numbers(5, 8), "it is back soon");
    feed.move_to(&feed.tail().fold, feed.tail().next);
    let refused = Follower::resume(feed, gone).await.err().unwrap();
    assert!(matches!(refused, ReaderError::TooOld { .. }), "{refused}");
}
