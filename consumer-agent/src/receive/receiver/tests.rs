//! One stream from its first byte to its last, from a router that follows a script: what the sink receives, and how a
//! stream that breaks its rules is refused.

use platform::segments::memory_disk::MemoryDisk;
use schemas::error_code::ErrorCode;
use schemas::ids::Offset;
use schemas::position::EventPosition;
use schemas::reconcile::{RangeDigests, Ranges};

use super::*;
use crate::fixtures::{
    Reply, Script, block, client, closing, cursor, event, event_at, header, image, metadata, number,
    progress, replica, rows, snapshot, towns,
};

/// Receives the streams of a script.
struct Receiver {
    disk: MemoryDisk,
    reconciler: Reconciler,
    request: ReconcileRequest,
    /// The moments of the reported progress.
    moments: Vec<Moment>,
}

impl Receiver {
    fn new() -> Self {
        let reconciler = Reconciler::new(None, tokio::time::Instant::now(), 0);
        let request = ReconcileRequest::default();
        Self { disk: MemoryDisk::new(), reconciler, request, moments: Vec::new() }
    }

    /// Receives one stream into the disk's replica, from its cursor on.
    async fn receive(&mut self, script: &std::sync::Arc<Script>) -> Result<Ended, ReceiveError> {
        let mut sink = replica(&self.disk);
        let (client, number, cursor) = (client(), number(), sink.cursor());
        let mut moments = Vec::new();
        let mut on_progress = |_: &ReceiveMachine, _: &dyn Sink, _: Option<Reconciled>, moment: Moment| {
            moments.push(moment);
        };
        let stream = Receiving {
            client: &client,
            number: &number,
            cursor,
            sink: &mut sink,
            reconciler: &mut self.reconciler,
            request: &self.request,
        };
        let ended = script.serve(receive(stream, &mut on_progress)).await;
        self.moments = moments;
        ended
    }

    /// Receives one stream of these bytes.
    async fn of(&mut self, parts: Vec<Vec<u8>>) -> Result<Ended, ReceiveError> {
        self.receive(&Script::new([Reply::Stream(parts)])).await
    }

    async fn rows(&self) -> std::collections::BTreeMap<String, String> {
        rows(&mut replica(&self.disk)).await
    }
}

/// A whole stream: a snapshot, a change of each kind, and the closing record.
fn whole() -> Vec<Vec<u8>> {
    vec![
        header(metadata()),
        snapshot(&[("1", "Riga"), ("2", "Riga")], 10),
        block(&[event(10, "1", Some(&image("1", "Ogre"))), progress(11)]),
        block(&[event(11, "2", None), event(12, "3", Some(&image("3", "Riga"))), progress(13)]),
        block(&[closing(Next::Continue, CloseReason::Draining)]),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_stream_gives_its_rows_and_its_place_to_the_sink_and_says_how_it_was_closed() {
    let mut receiver = Receiver::new();
    let script = Script::new([Reply::Stream(whole()), Reply::Stream(whole())]);
    let ended = receiver.receive(&script).await.unwrap();
    let Ended::Closed(closed) = ended else { panic!("{ended:?}") };
    assert_eq!((closed.next, closed.reason), (Next::Continue, CloseReason::Draining));
    assert_eq!(receiver.rows().await, towns(&[("1", "Ogre"), ("3", "Riga")]));
    assert_eq!(replica(&receiver.disk).cursor(), Some(cursor(13)), "it is durable when the stream is over");
    receiver.receive(&script).await.unwrap();
    let asked: Vec<_> = script.asked().into_iter().map(|(query, _)| query).collect();
    assert_eq!(asked, ["from=state".to_owned(), format!("from={}", cursor(13))]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_anywhere_has_given_whole_blocks_and_their_cursor() {
    let parts = whole();
    let bytes = parts.concat();
    // The replica and its cursor after 0 to 3 whole blocks.
    let expected = [
        (towns(&[]), None),
        (towns(&[("1", "Riga"), ("2", "Riga")]), Some(cursor(10))),
        (towns(&[("1", "Ogre"), ("2", "Riga")]), Some(cursor(11))),
        (towns(&[("1", "Ogre"), ("3", "Riga")]), Some(cursor(13))),
    ];
    let ends: Vec<usize> =
        parts.iter().scan(0, |end, part| Some(*end + part.len()).inspect(|next| *end = *next)).collect();
    for length in 0..bytes.len() {
        let mut receiver = Receiver::new();
        let ended = receiver.of(vec![bytes[..length].to_vec()]).await;
        assert!(matches!(ended, Err(ReceiveError::Broken)), "{length}: {ended:?}");
        let blocks = ends.iter().filter(|end| **end <= length).count().saturating_sub(1);
        let (rows, cursor) = &expected[blocks];
        assert_eq!((&receiver.rows().await, &replica(&receiver.disk).cursor()), (rows, cursor), "{length}");
    }
}

/// A change at a block's offset and an index.
fn change<'a>(offset: u64, index: u32, key: &'a str, image: Option<&'a [u8]>) -> Delivery<'a> {
    event_at(EventPosition { offset: Offset::new(offset), index }, key, image)
}

#[tokio::test(start_paused = true)]
async fn a_block_that_frames_cut_is_applied_as_a_whole_or_not_at_all() {
    let (ogre, riga) = (image("1", "Ogre"), image("3", "Riga"));
    let parts = [
        header(metadata()),
        snapshot(&[("1", "Riga"), ("2", "Riga")], 10),
        block(&[change(10, 0, "1", Some(&ogre))]),
        block(&[change(10, 1, "2", None), change(11, 0, "3", Some(&riga))]),
        block(&[progress(12)]),
    ];
    let before = (towns(&[("1", "Riga"), ("2", "Riga")]), Some(cursor(10)));
    let expected = [
        (towns(&[]), None),
        before.clone(),
        before.clone(),
        (towns(&[("1", "Ogre")]), Some(cursor(11))),
        (towns(&[("1", "Ogre"), ("3", "Riga")]), Some(cursor(12))),
    ];
    let ends: Vec<usize> =
        parts.iter().scan(0, |end, part| Some(*end + part.len()).inspect(|next| *end = *next)).collect();
    let bytes = parts.concat();
    for length in 0..=bytes.len() {
        let mut receiver = Receiver::new();
        let ended = receiver.of(vec![bytes[..length].to_vec()]).await;
        assert!(matches!(ended, Err(ReceiveError::Broken)), "{length}: {ended:?}");
        let frames = ends.iter().filter(|end| **end <= length).count().saturating_sub(1);
        let (rows, cursor) = &expected[frames];
        assert_eq!((&receiver.rows().await, &replica(&receiver.disk).cursor()), (rows, cursor), "{length}");
    }
    // A router that drains in the middle of a block: the next stream gives the whole block again.
    let drained = block(&[closing(Next::Continue, CloseReason::Draining)]);
    let [start, state, cut, ..] = parts.clone();
    let mut receiver = Receiver::new();
    receiver.of(vec![start.clone(), state.clone(), cut.clone(), drained]).await.unwrap();
    assert_eq!((receiver.rows().await, replica(&receiver.disk).cursor()), before);
    let mut receiver = Receiver::new();
    let ended = receiver.of(vec![start, state.clone(), cut, state]).await;
    assert!(matches!(ended, Err(ReceiveError::Protocol(ProtocolError::WithinBlock))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_block_without_end_is_refused_and_not_held_for_ever() {
    let riga = image("1", "Riga");
    let endless: Vec<_> = (0..=MAX_BLOCK_CHANGES).map(|index| change(10, index, "1", Some(&riga))).collect();
    let mut receiver = Receiver::new();
    let ended = receiver.of(vec![header(metadata()), snapshot(&[], 10), block(&endless)]).await;
    assert!(matches!(ended, Err(ReceiveError::Protocol(ProtocolError::TooManyInBlock(_)))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn how_the_bytes_are_cut_up_on_their_way_changes_nothing() {
    let bytes = whole().concat();
    for size in [1, 7, 64] {
        let mut receiver = Receiver::new();
        receiver.of(bytes.chunks(size).map(<[u8]>::to_vec).collect()).await.unwrap();
        assert_eq!(receiver.rows().await, towns(&[("1", "Ogre"), ("3", "Riga")]), "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_is_not_the_streams_own_is_refused_before_any_row() {
    for (key, other) in
        [(AGREEMENT_KEY, "A-2"), (VERSION_KEY, "x"), (LOG_ID_KEY, "1"), (CHANNEL_KEY, "\u{fffd}")]
    {
        let mut without = metadata();
        without.remove(key);
        let mut strange = metadata();
        // Any text is a valid channel, so its value is no text at all.
        let value = if key == CHANNEL_KEY { vec![0xff] } else { other.as_bytes().to_vec() };
        strange.insert(key.to_owned(), value);
        for metadata in [without, strange] {
            let mut receiver = Receiver::new();
            let ended = receiver.of(vec![header(metadata), snapshot(&[("1", "Riga")], 10)]).await;
            assert!(matches!(&ended, Err(ReceiveError::Header(named)) if *named == key), "{key}: {ended:?}");
            assert_eq!(receiver.rows().await, towns(&[]), "{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_follow_the_streams_rules_is_refused_by_its_kind_and_not_applied() {
    let is_refused = |ended: &Result<Ended, ReceiveError>, what: &str| match what {
        "no container" => matches!(ended, Err(ReceiveError::Container(_))),
        "no delivery" => matches!(ended, Err(ReceiveError::Datum(_))),
        "backwards" => matches!(ended, Err(ReceiveError::Protocol(ProtocolError::Backwards(_)))),
        _ => matches!(ended, Err(ReceiveError::Unasked(_))),
    };
    let mut spoilt = block(&[progress(20)]);
    let last = spoilt.len() - 1;
    spoilt[last] ^= 1;
    let digests = Delivery::Digests {
        places: PerPartition::none(),
        announced: RangeDigests::new(Ranges::whole(), 0).announce(),
    };
    let range = Delivery::Range { number: 0, rows: Vec::new() };
    for (what, bad) in [
        ("no container", spoilt),
        ("no delivery", block(&[event(12, "9", Some(&[0xff]))])),
        ("backwards", block(&[progress(3)])),
        ("digests that were not asked for", block(&[event(12, "9", Some(&image("9", "Riga"))), digests])),
        ("a range that was not asked for", block(&[event(12, "9", Some(&image("9", "Riga"))), range])),
    ] {
        let mut receiver = Receiver::new();
        let ended = receiver.of(vec![header(metadata()), snapshot(&[("1", "Riga")], 10), bad]).await;
        assert!(is_refused(&ended, what), "{what}: {ended:?}");
        assert_eq!(receiver.rows().await, towns(&[("1", "Riga")]), "{what}: the blocks before it stay");
        assert_eq!(replica(&receiver.disk).cursor(), Some(cursor(10)), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_stream_at_all_is_refused_at_its_first_bytes() {
    let mut receiver = Receiver::new();
    let ended = receiver.of(vec![b"<html>not a stream of ours</html>".to_vec()]).await;
    assert!(matches!(ended, Err(ReceiveError::Container(_))), "{ended:?}");
    let mut other = header(metadata());
    let schema = b"Closing";
    let at = other.windows(schema.len()).position(|bytes| bytes == schema).unwrap();
    other[at] = b'c';
    let ended = receiver.of(vec![other]).await;
    assert!(matches!(ended, Err(ReceiveError::Schema(_))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_router_that_says_nothing_is_left() {
    let mut receiver = Receiver::new();
    let begun = tokio::time::Instant::now();
    let mute = receiver.receive(&Script::new([Reply::Mute])).await;
    assert!(matches!(mute, Err(ReceiveError::NotAdmitted)), "{mute:?}");
    assert_eq!(begun.elapsed().as_secs(), ADMISSION_LIMIT.as_secs());
    let begun = tokio::time::Instant::now();
    let silent = receiver.receive(&Script::new([Reply::Silence(vec![header(metadata())])])).await;
    assert!(matches!(silent, Err(ReceiveError::Silent)), "{silent:?}");
    assert_eq!(begun.elapsed().as_secs(), SILENCE_LIMIT.as_secs());
    let refused = receiver.receive(&Script::new([Reply::Refused(ErrorCode::AgreementNotActive)])).await;
    let Err(ReceiveError::Client(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.problem().map(|problem| problem.code), Some(ErrorCode::AgreementNotActive));
}

#[tokio::test(start_paused = true)]
async fn when_nothing_more_comes_the_sink_settles_and_that_is_told() {
    let mut receiver = Receiver::new();
    let parts = vec![header(metadata()), snapshot(&[("1", "Riga")], 10)];
    let silent = receiver.receive(&Script::new([Reply::Silence(parts)])).await;
    assert!(matches!(silent, Err(ReceiveError::Silent)), "{silent:?}");
    assert!(matches!(receiver.moments[..], [Moment::Applied(_), Moment::Settled]), "{:?}", receiver.moments);
    receiver.disk.crash(|_| 0);
    assert_eq!(receiver.rows().await, towns(&[("1", "Riga")]), "settled is on the disk");
}

#[tokio::test(start_paused = true)]
async fn a_persons_request_leaves_the_stream_for_one_that_carries_the_query() {
    let mut receiver = Receiver::new();
    let parts =
        vec![header(metadata()), snapshot(&[("1", "Riga"), ("2", "Ogre")], 10), block(&[progress(10)])];
    let own = rows_digests(&[("1", "Riga"), ("2", "Ogre")]);
    let answer = block(&[Delivery::Digests { places: PerPartition::none(), announced: own.announce() }]);
    let last = block(&[closing(Next::Continue, CloseReason::Draining)]);
    let script = Script::new([Reply::Silence(parts), Reply::Stream(vec![header(metadata()), answer, last])]);
    receiver.request.give();
    assert_eq!(receiver.receive(&script).await.unwrap(), Ended::ToQuery);
    assert!(matches!(receiver.receive(&script).await.unwrap(), Ended::Closed(_)));
    let (query, _) = script.asked().pop().unwrap();
    assert_eq!(query, format!("from={}&reconcile=digests.0.0%3A0", cursor(10)));
    let reconciled = receiver.reconciler.last().unwrap();
    assert!(reconciled.equal && reconciled.rows == 2 && reconciled.repaired == 0, "{reconciled:?}");
}

/// The digests of rows, over all of their keys.
fn rows_digests(rows: &[(&str, &str)]) -> RangeDigests {
    let mut digests = RangeDigests::new(Ranges::whole(), 0);
    for (key, town) in rows {
        digests.add(key, &[Some((*key).to_owned()), Some((*town).to_owned())]);
    }
    digests
}
