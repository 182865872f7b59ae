//! The response body of one stream: the last check of the agreement before bytes are handed over.
//!
//! Owns check and write next to each other: `poll_frame` asks the gate and returns the bytes without an await in
//! between. At a closed gate the closing record replaces the frame; without a lease the frame waits.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame as HttpFrame};
use schemas::cursor::Place;
use schemas::delivery::{CloseReason, Delivery};
use schemas::per_partition::PerPartition;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use super::encode::{Encoder, Frame};
use super::gate::{Closed, Gate, Verdict};
use super::session::Outbound;
use crate::control::view::ControlView;
use crate::metrics::ConnectionMeter;

/// A stream's bytes, under its gate.
pub struct GatedBody {
    state: State,
    outbound: mpsc::Receiver<Outbound>,
    gate: Gate,
    /// Wakes the body when control changes.
    control: WatchStream<Arc<ControlView>>,
    /// Wakes a body that is held.
    lease: Option<WatchStream<u64>>,
    encoder: Encoder,
    delivered: PerPartition<Place>,
    meter: ConnectionMeter,
}

/// How far the body is.
enum State {
    /// The container's header comes first.
    Beginning(Bytes),
    /// Frames go out while the gate is open.
    Flowing(LastWrite),
    /// A frame waits for the lease.
    Held(Frame, LastWrite),
    /// Nothing follows.
    Ended,
}

/// What is known of the last frame that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastWrite {
    /// There was none, or the lease was held when the connection asked again.
    Leased,
    /// The connection has not asked again yet.
    Unseen,
    /// The lease was over when the connection asked again: the next verdict decides whether the write was late.
    Doubtful,
}

/// What a body is made of.
pub struct GatedBodyParts {
    /// The container's header; none where it is empty.
    pub header: Bytes,
    /// From the pump.
    pub outbound: mpsc::Receiver<Outbound>,
    /// Asked before each frame.
    pub gate: Gate,
    /// Makes the closing record.
    pub encoder: Encoder,
    /// The consumer's places so far.
    pub delivered: PerPartition<Place>,
    pub meter: ConnectionMeter,
}

type Polled = Poll<Option<Result<HttpFrame<Bytes>, Infallible>>>;

fn data(bytes: Option<Bytes>) -> Polled {
    Poll::Ready(bytes.map(|bytes| Ok(HttpFrame::data(bytes))))
}

impl GatedBody {
    /// A body from its beginning.
    pub fn new(parts: GatedBodyParts) -> Self {
        let GatedBodyParts { header, outbound, gate, encoder, delivered, meter } = parts;
        let state = match header.is_empty() {
            true => State::Flowing(LastWrite::Leased),
            false => State::Beginning(header),
        };
        let control = WatchStream::from_changes(gate.watch());
        let lease = gate.lease().changes().map(WatchStream::from_changes);
        Self { state, outbound, gate, control, lease, encoder, delivered, meter }
    }

    /// The stream's last bytes.
    fn close(&mut self, closed: Closed) -> Polled {
        self.state = State::Ended;
        self.outbound.close();
        let Closed { reason, detail } = closed;
        let next = reason.next();
        let places = self.delivered.clone();
        match self.encoder.mark(&Delivery::Closing { next, reason, detail, places }) {
            Ok(()) => data(self.encoder.take()),
            Err(error) => {
                tracing::error!(agreement = %self.gate.number(), %error, "a stream ends without its closing record");
                data(None)
            }
        }
    }

    /// The connection asks again after it has written. If the lease was over then, and the agreement has ended, the
    /// write may be late: the end may have been acknowledged before it.
    fn look_back(&self, written: LastWrite, verdict: &Verdict) -> LastWrite {
        match (verdict, written) {
            (Verdict::Open, _) => LastWrite::Leased,
            (Verdict::Held, LastWrite::Unseen) => LastWrite::Doubtful,
            (Verdict::Held, seen) => seen,
            (Verdict::Closed(_), written) => {
                if written == LastWrite::Doubtful {
                    self.meter.late_write();
                }
                LastWrite::Leased
            }
        }
    }

    fn hold(&mut self, frame: Frame, written: LastWrite, context: &mut Context<'_>) -> Polled {
        self.state = State::Held(frame, written);
        let Some(lease) = &mut self.lease else { return Poll::Pending };
        while let Poll::Ready(Some(_)) = Pin::new(&mut *lease).poll_next(context) {
            if self.gate.verdict() == Verdict::Open {
                context.waker().wake_by_ref();
                break;
            }
        }
        Poll::Pending
    }

    fn hand_over(&mut self, frame: Frame) -> Polled {
        self.state = State::Flowing(LastWrite::Unseen);
        self.delivered = frame.places;
        self.meter.handed_over(frame.bytes.len());
        frame.followed.into_iter().for_each(|stage| drop(stage.with("dit.outcome", "handed_over")));
        tracing::trace!(target: "dit::handed", agreement = %self.gate.number(), rows = frame.rows);
        data(Some(frame.bytes))
    }
}

impl Body for GatedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let (step, written) = match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return Poll::Ready(None),
            State::Beginning(header) => {
                self.state = State::Flowing(LastWrite::Leased);
                return data(Some(header));
            }
            State::Flowing(written) => (self.outbound.poll_recv(context), written),
            State::Held(frame, written) => (Poll::Ready(Some(Outbound::Frame(frame))), written),
        };
        // To be woken by control as well as by the pump.
        while let Poll::Ready(Some(_)) = Pin::new(&mut self.control).poll_next(context) {}
        // From here to the return nothing is awaited: what is handed over was permitted just now.
        let verdict = self.gate.verdict();
        let written = self.look_back(written, &verdict);
        match (verdict, step) {
            (Verdict::Closed(closed), _) | (_, Poll::Ready(Some(Outbound::Close(closed)))) => {
                self.close(closed)
            }
            (Verdict::Open, Poll::Ready(Some(Outbound::Frame(frame)))) => self.hand_over(frame),
            (Verdict::Held, Poll::Ready(Some(Outbound::Frame(frame)))) => self.hold(frame, written, context),
            (_, Poll::Ready(None)) => {
                let detail = "the router ended the stream because of an error of its own; receive again from your cursor".to_owned();
                self.close(Closed { reason: CloseReason::Internal, detail })
            }
            (_, Poll::Pending) => {
                self.state = State::Flowing(written);
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests;
