//! The body of a stream: nothing passes a closed or held gate, and a closing record always ends the stream.

use std::future::poll_fn;
use std::time::Duration;

use event_log::Log;
use event_log::memory::MemoryLog;
use platform::shutdown::Tasks;
use schemas::agreement::Status;
use schemas::avro::container::Decoder;
use schemas::avro::schema::AvroSchema;
use schemas::cursor::Place;
use schemas::delivery::{DeliveryCodec, Next};
use schemas::ids::{AgreementVersion, Offset, Partition};

use super::*;
use crate::control::service::Control;
use crate::control::view::tests::{agreement, bodies, status};
use crate::delivery::encode::Format;
use crate::fixtures;
use crate::lease::service::Lease;
use crate::metrics::Metrics;

const SYNC: [u8; 16] = [7; 16];

/// A stream's body with the parts around it.
struct Stream {
    control: Control,
    lease: Lease,
    beats: Tasks,
    metrics: Metrics,
    codec: DeliveryCodec,
    pump: mpsc::Sender<Outbound>,
    body: GatedBody,
    _tasks: Tasks,
}

impl Stream {
    /// Under agreement A in version 1, at a router with its own beats.
    async fn open() -> Self {
        let metrics = fixtures::metrics();
        let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
        let tasks = Tasks::new();
        let beats = Tasks::new();
        let control = Control::start(Arc::clone(&log), &tasks).await.unwrap();
        for body in bodies() {
            control.change("test", body).await.unwrap();
        }
        let lease = Lease::start(log, control.clone(), "r", &beats).await.unwrap();
        let derived = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}"#;
        let codec = DeliveryCodec::new(&AvroSchema::parse(derived).unwrap()).unwrap();
        let encoder = Encoder::new(Format::Avro, &codec, SYNC);
        let number = "A".parse().unwrap();
        let gate = Gate::new(control.watch(), lease.clone(), number, AgreementVersion::new(1));
        let (pump, outbound) = mpsc::channel(4);
        let entry = control.view().agreements.values().next().unwrap().agreement.clone();
        let body = GatedBody::new(GatedBodyParts {
            header: encoder.header(&codec, std::collections::BTreeMap::new()),
            outbound,
            gate,
            encoder,
            delivered: places(3),
            meter: metrics.stream(&entry).connection(),
        });
        Self { control, lease, beats, metrics, codec, pump, body, _tasks: tasks }
    }

    /// What the connection is given now; `None` where nothing is ready.
    async fn look(&mut self) -> Option<Option<Bytes>> {
        let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut self.body).poll_frame(context))).await;
        match polled {
            Poll::Pending => None,
            Poll::Ready(frame) => Some(frame.map(|frame| frame.unwrap().into_data().unwrap())),
        }
    }

    async fn next(&mut self) -> Bytes {
        self.look().await.expect("something is ready").expect("the body goes on")
    }

    /// The closing record, which must be the next bytes, and the end after it.
    async fn closing(&mut self) -> (CloseReason, Next, PerPartition<Place>) {
        let bytes = self.next().await;
        let mut decoder = Decoder::new();
        decoder.push(&Encoder::new(Format::Avro, &self.codec, SYNC).header(&self.codec, [].into()));
        decoder.push(&bytes);
        assert!(decoder.header().unwrap().is_some());
        let block = decoder.block().unwrap().expect("one block");
        let mut datums = schemas::avro::binary::Cursor::new(&block.datums);
        let closing = match self.codec.decode(&mut datums).unwrap() {
            Delivery::Closing { next, reason, places, .. } => (reason, next, places),
            other => panic!("{other:?}"),
        };
        assert_eq!(self.look().await, Some(None), "nothing comes behind it");
        closing
    }

    async fn give(&self, offset: u64) {
        let bytes = Bytes::from(format!("frame {offset}"));
        let frame = Frame { bytes, places: places(offset), rows: 1, followed: Vec::new() };
        self.pump.send(Outbound::Frame(frame)).await.unwrap();
    }

    async fn change(&self, body: crate::control::change::Body) {
        self.control.change("test", body).await.unwrap();
    }

    /// The router's beats end, and so does its lease.
    async fn lose_the_lease(&self) {
        assert!(self.beats.stop_and_join(Duration::from_secs(5)).await);
        let applied = self.control.view().applied;
        let lost = async {
            while self.lease.holds(applied) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), lost).await.unwrap();
    }
}

fn places(offset: u64) -> PerPartition<Place> {
    PerPartition::filled(2, Place { offset: Offset::new(offset), checkpoint: Offset::new(0) })
}

#[tokio::test]
async fn the_header_comes_first_and_frames_follow_in_order() {
    let mut stream = Stream::open().await;
    stream.give(5).await;
    stream.give(6).await;
    assert!(stream.next().await.starts_with(b"Obj\x01"));
    assert_eq!(stream.next().await, "frame 5");
    assert_eq!(stream.next().await, "frame 6");
    assert_eq!(stream.look().await, None);
}

#[tokio::test]
async fn a_frame_that_is_ready_when_the_agreement_is_revoked_never_goes_out() {
    let mut stream = Stream::open().await;
    stream.next().await;
    stream.give(5).await;
    assert_eq!(stream.next().await, "frame 5");
    stream.give(6).await;
    stream.change(status(Status::Revoked)).await;
    let (reason, next, delivered) = stream.closing().await;
    assert_eq!((reason, next), (CloseReason::Revoked, Next::Stop));
    assert_eq!(delivered.get(Partition::new(1)).unwrap().offset, Offset::new(5));
    assert!(stream.pump.is_closed(), "the pump is told");
}

#[tokio::test]
async fn an_amendment_ends_the_stream_of_the_version_before() {
    let mut stream = Stream::open().await;
    stream.next().await;
    stream.give(5).await;
    stream.change(agreement(2, "2")).await;
    let (reason, next, delivered) = stream.closing().await;
    assert_eq!((reason, next), (CloseReason::Amended, Next::Resync));
    assert_eq!(delivered, places(3), "nothing was delivered");
}

#[tokio::test]
async fn a_pump_that_ends_without_a_word_is_told_as_our_fault() {
    let mut stream = Stream::open().await;
    stream.next().await;
    stream.pump = mpsc::channel(1).0;
    assert_eq!(stream.closing().await.0, CloseReason::Internal);
}

#[tokio::test]
async fn without_a_lease_a_frame_waits_and_a_revocation_takes_it_away() {
    let mut stream = Stream::open().await;
    stream.next().await;
    stream.lose_the_lease().await;
    stream.give(5).await;
    assert_eq!(stream.look().await, None);
    assert_eq!(stream.look().await, None, "it waits, however often the connection asks");
    stream.change(status(Status::Revoked)).await;
    let (reason, _, delivered) = stream.closing().await;
    assert_eq!((reason, delivered), (CloseReason::Revoked, places(3)));
    assert_eq!(stream.metrics.late_writes(), 0, "nothing was written meanwhile");
}

#[tokio::test]
async fn a_write_behind_which_the_lease_was_over_is_late_if_the_agreement_had_ended() {
    let mut stream = Stream::open().await;
    stream.next().await;
    stream.give(5).await;
    assert_eq!(stream.next().await, "frame 5");
    stream.lose_the_lease().await;
    assert_eq!(stream.look().await, None, "the connection asks again, and nothing may be said");
    stream.change(status(Status::Revoked)).await;
    assert_eq!(stream.closing().await.0, CloseReason::Revoked);
    assert_eq!(stream.metrics.late_writes(), 1);
}
