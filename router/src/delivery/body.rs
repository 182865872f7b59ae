//! The response body of one stream: the last look at the agreement before bytes are handed over.
//!
//! Owns check and write next to each other: `poll_frame` asks the gate and returns the bytes without an await in
//! between. What the gate shuts out is replaced by the closing record; without a lease, what is ready waits.

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

use super::encode::Encoder;
use super::gate::{Gate, Shut, Verdict};
use super::session::Step;
use crate::control::view::ControlView;
use crate::metrics::ConnectionMeter;

/// A stream's bytes, under its gate.
pub struct GatedBody {
    header: Option<Bytes>,
    steps: mpsc::Receiver<Step>,
    gate: Gate,
    control: WatchStream<Arc<ControlView>>,
    /// What is ready while the gate holds it.
    ready: Option<Step>,
    /// Wakes a body that is held.
    lease: Option<WatchStream<u64>>,
    encoder: Encoder,
    delivered: PerPartition<Place>,
    meter: ConnectionMeter,
    /// Whether bytes were handed over at the last call.
    wrote: bool,
    /// Whether the lease was not held when it was looked at after a write: what comes next says whether that was late.
    suspect: bool,
    ended: bool,
}

impl GatedBody {
    /// A body that begins with `header`; `delivered` is where its reader stands already.
    pub fn new(
        header: Bytes,
        steps: mpsc::Receiver<Step>,
        gate: Gate,
        encoder: Encoder,
        delivered: PerPartition<Place>,
        meter: ConnectionMeter,
    ) -> Self {
        let control = WatchStream::from_changes(gate.watch());
        let lease = gate.lease().changes().map(WatchStream::from_changes);
        let header = (!header.is_empty()).then_some(header);
        let (ready, wrote, suspect, ended) = (None, false, false, false);
        Self { header, steps, gate, control, ready, lease, encoder, delivered, meter, wrote, suspect, ended }
    }

    fn closing(&mut self, shut: &Shut) -> Option<Bytes> {
        self.ended = true;
        self.steps.close();
        let (next, reason, detail) = (shut.reason.next(), shut.reason, shut.detail.clone());
        let places = self.delivered.clone();
        match self.encoder.mark(&Delivery::Closing { next, reason, detail, places }) {
            Ok(()) => self.encoder.take(),
            Err(error) => {
                tracing::error!(agreement = %self.gate.number(), %error, "a stream ends without its closing record");
                None
            }
        }
    }
}

impl GatedBody {
    /// The connection asks again after it has written. A lease that was not held then, and an agreement that turns out
    /// to have ended: the write may have come after somebody was told that there would be none.
    fn look_back(&mut self, verdict: &Verdict) {
        let wrote = std::mem::take(&mut self.wrote);
        match verdict {
            Verdict::Held => self.suspect |= wrote,
            Verdict::Open => self.suspect = false,
            Verdict::Shut(_) => {
                if std::mem::take(&mut self.suspect) {
                    self.meter.late_write();
                }
            }
        }
    }

    fn wait_for_lease(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<HttpFrame<Bytes>, Infallible>>> {
        let Some(lease) = &mut self.lease else { return Poll::Pending };
        while let Poll::Ready(Some(_)) = Pin::new(&mut *lease).poll_next(context) {
            if self.gate.verdict() == Verdict::Open {
                context.waker().wake_by_ref();
                break;
            }
        }
        Poll::Pending
    }
}

impl Body for GatedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<HttpFrame<Bytes>, Infallible>>> {
        let data = |bytes: Option<Bytes>| Poll::Ready(bytes.map(|bytes| Ok(HttpFrame::data(bytes))));
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(header) = self.header.take() {
            return data(Some(header));
        }
        // To be woken by control as well as by the pump.
        while let Poll::Ready(Some(_)) = Pin::new(&mut self.control).poll_next(context) {}
        let step = match self.ready.take() {
            Some(step) => Poll::Ready(Some(step)),
            None => self.steps.poll_recv(context),
        };
        let verdict = self.gate.verdict();
        self.look_back(&verdict);
        match verdict {
            Verdict::Open => {}
            Verdict::Shut(shut) => return data(self.closing(&shut)),
            Verdict::Held => {
                if let Poll::Ready(Some(step @ Step::Frame(_))) = step {
                    self.ready = Some(step);
                    return self.wait_for_lease(context);
                }
            }
        }
        match step {
            Poll::Ready(Some(Step::Frame(frame))) => {
                self.delivered = frame.places;
                self.meter.handed_over(frame.bytes.len());
                self.wrote = true;
                frame.followed.into_iter().for_each(|step| drop(step.with("dit.outcome", "handed_over")));
                tracing::trace!(target: "dit::handed", agreement = %self.gate.number(), rows = frame.rows);
                data(Some(frame.bytes))
            }
            Poll::Ready(Some(Step::Close(shut))) => data(self.closing(&shut)),
            Poll::Ready(None) => {
                let detail = "the stream's pump ended".to_owned();
                data(self.closing(&Shut { reason: CloseReason::Internal, detail }))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
