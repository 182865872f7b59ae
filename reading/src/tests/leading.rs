//! A reader whom the tail does not leave behind.

use super::*;

/// Several times what a ring keeps.
const ALL: u64 = 200;

impl Channel {
    /// A partition that is read, and a reader that leads at its end.
    async fn led() -> (Self, Arc<Feed<Counting>>, Follower<Counting>) {
        let channel = Self::open().await;
        let feed = channel.feed().await;
        channel.read_all(&feed).await;
        let leading = Follower::latest(Arc::clone(&feed)).leading();
        (channel, feed, leading)
    }

    /// Changes of which some nine make a chunk.
    async fn large_changes(&mut self) {
        for number in 0..ALL {
            let change = self.change(&format!("{number:0>60000}"));
            self.append(change).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_leads_and_moves_finds_everything_in_memory() {
    let (mut channel, feed, mut leading) = Channel::led().await;
    channel.large_changes().await;
    let mut taken = 0;
    while taken < ALL {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(feed.chunk_at(leading.position()).is_some(), "{taken} were taken, and the next one is gone");
        taken += u64::try_from(leading.next().await.unwrap().unwrap().items.len()).unwrap();
    }
    assert!(leading.is_caught_up());
}

#[tokio::test(start_paused = true)]
async fn the_tail_does_not_wait_for_who_stands_still_or_is_gone() {
    let (mut channel, feed, mut leading) = Channel::led().await;
    channel.large_changes().await;
    channel.read_all(&feed).await;
    assert!(feed.chunk_at(leading.position()).is_none(), "the ring is bounded");
    assert_eq!(keys(&mut leading).await.len() as u64, ALL);
    drop(leading);
    let begun = tokio::time::Instant::now();
    channel.large_changes().await;
    channel.read_all(&feed).await;
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_tail_does_not_wait_for_ever_for_who_moves_and_stays_behind() {
    let pace = crate::pace::Pace::default();
    let lead = pace.lead(Offset::new(0));
    let begun = tokio::time::Instant::now();
    let moving = async {
        for offset in 1..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            lead.moved(Offset::new(offset));
        }
    };
    tokio::select! {
        biased;
        () = pace.keep(|_| true) => {}
        () = moving => panic!("it waits still, after {:?}", begun.elapsed()),
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "it waits for who moves: {:?}", begun.elapsed());
}
