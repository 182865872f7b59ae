//! An agent against a router that follows a script, in paused time: what the agent does after each end of a stream, how
//! long it waits, and which status it reports.

use async_trait::async_trait;
use platform::segments::memory_disk::MemoryDisk;
use schemas::delivery::{CloseReason, Next};
use schemas::error_code::ErrorCode;

use super::*;
use crate::fixtures::{
    Reply, Script, block, closing, cursor, event, header, identity, image, metadata, number, progress,
    replica, rows, snapshot, towns,
};
use crate::sink::error::SinkError;
use crate::sink::{Batch, See, StreamHead};

fn agent(sink: impl Sink + 'static) -> Agent {
    Agent::new("https://router".to_owned(), identity(), number(), Box::new(sink))
}

/// A stream that begins with a snapshot of one row, and is closed.
fn from_state(next: Next, reason: CloseReason) -> Reply {
    let last = block(&[progress(10), closing(next, reason)]);
    Reply::Stream(vec![header(metadata()), snapshot(&[("1", "Riga")], 10), last])
}

/// A stream that continues from a cursor and is closed.
fn from_cursor(next: Next, reason: CloseReason) -> Reply {
    Reply::Stream(vec![header(metadata()), block(&[progress(10), closing(next, reason)])])
}

fn revoked() -> Reply {
    from_cursor(Next::Stop, CloseReason::Revoked)
}

/// Runs an agent to its end: its queries, each with the seconds since the one before, and its last status.
async fn play(disk: &MemoryDisk, replies: Vec<Reply>) -> (Vec<(String, u64)>, Status) {
    let script = Script::new(replies);
    let status = script.serve(agent(replica(disk)).run()).await;
    let short = |query: String| if query == "from=state" { "state" } else { "cursor" }.to_owned();
    let asked = script.asked().into_iter().map(|(query, after)| (short(query), after.as_secs()));
    (asked.collect(), status)
}

fn asked(of: &[(&str, u64)]) -> Vec<(String, u64)> {
    of.iter().map(|(query, after)| ((*query).to_owned(), *after)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_revoked_agreement_ends_the_agent_which_says_that_its_rows_are_to_be_purged() {
    let disk = MemoryDisk::new();
    let (queries, status) = play(&disk, vec![from_state(Next::Stop, CloseReason::Revoked)]).await;
    assert_eq!((queries, status.phase), (asked(&[("state", 0)]), Phase::Ended));
    assert_eq!((status.rows, status.delivered.present, status.cursor), (1, 1, Some(cursor(10))));
    assert!(
        status.last_error.unwrap().contains("last position delivered"),
        "a person is told where it ended"
    );
    let (queries, status) = play(&disk, vec![Reply::Refused(ErrorCode::AgreementEnded)]).await;
    assert_eq!((queries, status.phase), (asked(&[("cursor", 0)]), Phase::Ended));
    assert!(status.last_error.unwrap().ends_with("purge what it gave you"));
    assert_eq!(
        rows(&mut replica(&disk)).await,
        towns(&[("1", "Riga")]),
        "the agent deletes nothing by itself"
    );
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_away_is_tried_again_ever_more_slowly_and_then_gone_on_with() {
    let disk = MemoryDisk::new();
    play(&disk, vec![from_state(Next::Stop, CloseReason::Revoked)]).await;
    let mut replies: Vec<_> = (0..24).map(|_| Reply::Away).collect();
    replies.extend([from_cursor(Next::Continue, CloseReason::Draining), Reply::Away, revoked()]);
    let (queries, status) = play(&disk, replies).await;
    let waits: Vec<u64> = queries.iter().map(|(_, after)| *after).collect();
    assert!(queries.iter().all(|(query, _)| query == "cursor"), "no outage costs a snapshot: {queries:?}");
    assert!(waits[..25].is_sorted() && waits[24] == platform::retry::LONGEST_WAIT.as_secs(), "{waits:?}");
    assert!(waits[25] <= 1 && waits[26] <= 1, "the router has answered: the waits begin anew: {waits:?}");
    assert_eq!(status.phase, Phase::Ended);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_person_asks_again_after_a_while_and_keeps_the_replica() {
    for code in [ErrorCode::AgreementNotActive, ErrorCode::RegisterIncomplete, ErrorCode::NotPermitted] {
        let disk = MemoryDisk::new();
        let first = from_state(Next::Continue, CloseReason::Draining);
        let (queries, _) =
            play(&disk, vec![first, Reply::Refused(code), Reply::Refused(code), revoked()]).await;
        let long = NOT_ACTIVE_WAIT.as_secs();
        assert_eq!(
            queries,
            asked(&[("state", 0), ("cursor", 0), ("cursor", long), ("cursor", long)]),
            "{code}"
        );
        assert_eq!(rows(&mut replica(&disk)).await, towns(&[("1", "Riga")]), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_cursor_is_not_taken_is_received_anew_once() {
    for code in [ErrorCode::CursorTooOld, ErrorCode::CursorForeign, ErrorCode::CursorMalformed] {
        let disk = MemoryDisk::new();
        let first = from_state(Next::Continue, CloseReason::Draining);
        let anew = vec![
            header(metadata()),
            snapshot(&[("2", "Ogre")], 20),
            block(&[progress(20), closing(Next::Continue, CloseReason::Draining)]),
        ];
        let later =
            vec![header(metadata()), block(&[progress(20), closing(Next::Stop, CloseReason::Revoked)])];
        let replies = vec![first, Reply::Refused(code), Reply::Stream(anew), Reply::Stream(later)];
        let (queries, status) = play(&disk, replies).await;
        let words: Vec<_> = queries.iter().map(|(query, _)| query.as_str()).collect();
        assert_eq!(words, ["state", "cursor", "state", "cursor"], "{code}");
        assert_eq!(
            rows(&mut replica(&disk)).await,
            towns(&[("2", "Ogre")]),
            "{code}: the snapshot replaces it"
        );
        assert_eq!((status.delivered.present, status.rows), (2, 1), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_resync_is_received_at_once_and_a_broken_one_is_begun_again() {
    let disk = MemoryDisk::new();
    let half = block(&[schemas::delivery::Delivery::SnapshotBegin { bootstrap: crate::fixtures::SNAPSHOT }]);
    let replies = vec![
        from_state(Next::Resync, CloseReason::Resync),
        Reply::Stream(vec![header(metadata()), half]),
        from_state(Next::Stop, CloseReason::Revoked),
    ];
    let (queries, _) = play(&disk, replies).await;
    assert_eq!(queries, asked(&[("state", 0), ("state", 0), ("state", 0)]));
}

/// A sink that refuses batches by a script, then takes them.
struct Refusing<S> {
    inner: S,
    refusals: Vec<SinkError>,
}

#[async_trait]
impl<S: Sink> Sink for Refusing<S> {
    fn system(&self) -> &'static str {
        self.inner.system()
    }

    fn cursor(&self) -> Option<Cursor> {
        self.inner.cursor()
    }

    async fn begin(&mut self, head: &StreamHead) -> Result<(), SinkError> {
        self.inner.begin(head).await
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        match self.refusals.pop() {
            Some(error) => Err(error),
            None => self.inner.apply(batch).await,
        }
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.inner.settle().await
    }

    async fn scan(&mut self, see: &mut See<'_>) -> Result<(), SinkError> {
        self.inner.scan(see).await
    }

    fn row_count(&self) -> usize {
        self.inner.row_count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_waits_for_a_person_is_tried_from_time_to_time_and_says_why() {
    let disk = MemoryDisk::new();
    let refusals =
        vec![SinkError::for_a_person("the table is another's"), SinkError::transient("a line broke")];
    let agent = agent(Refusing { inner: replica(&disk), refusals });
    let mut watched = agent.status();
    let row = Reply::Stream(vec![
        header(metadata()),
        snapshot(&[("1", "Riga")], 10),
        block(&[
            event(10, "2", Some(&image("2", "Ogre"))),
            progress(11),
            closing(Next::Stop, CloseReason::Revoked),
        ]),
    ]);
    let script = Script::new([
        from_state(Next::Continue, CloseReason::Draining),
        from_state(Next::Continue, CloseReason::Draining),
        row,
    ]);
    let stuck = async {
        let stuck = watched.wait_for(|status| status.phase == Phase::Stuck).await.unwrap();
        stuck.last_error.clone()
    };
    let (status, said) = tokio::join!(script.serve(agent.run()), stuck);
    assert_eq!(said.as_deref(), Some("the table is another's"));
    let waits: Vec<u64> = script.asked().iter().map(|(_, after)| after.as_secs()).collect();
    assert_eq!(waits, [0, 0, NOT_ACTIVE_WAIT.as_secs()]);
    assert_eq!((status.phase, status.rows), (Phase::Ended, 2));
    assert_eq!(
        rows(&mut replica(&disk)).await,
        towns(&[("1", "Riga"), ("2", "Ogre")]),
        "nothing is lost by it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_sync_ends_the_agent_and_is_told_apart_from_an_end_of_the_agreement() {
    let disk = MemoryDisk::new();
    let agent = agent(replica(&disk));
    disk.fail_syncs();
    let script = Script::new([from_state(Next::Continue, CloseReason::Draining), revoked()]);
    let status = script.serve(agent.run()).await;
    assert_eq!(status.phase, Phase::Broken);
    assert!(script.asked().len() <= 2, "what a failed sync left is not written on: {:?}", script.asked());
    assert!(status.last_error.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_status_file_says_what_the_agent_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("A-1.status.json");
    let agent = agent(replica(&MemoryDisk::new())).with_status_file(path.clone());
    let script = Script::new([from_state(Next::Stop, CloseReason::Revoked)]);
    let status = script.serve(agent.run()).await;
    let written: Status = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((written.phase, written.rows, written.cursor), (Phase::Ended, status.rows, status.cursor));
    assert_eq!(
        written.freshness,
        Some(schemas::time::Millis::new(5)),
        "the provider's last look at its source"
    );
}
