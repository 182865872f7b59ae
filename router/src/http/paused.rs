//! A connection that is not read for a while.
//!
//! Owns the pause alone. A client that asks too often then fills its own buffers, and costs the router nothing.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Until when a connection is not read; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pause(Arc<Mutex<Option<Instant>>>);

impl Pause {
    /// Pauses reading for this long.
    pub(super) fn begin(&self, length: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + length);
    }

    fn take(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A stream whose reading can be paused. Writing goes on.
#[derive(Debug)]
pub(super) struct Paused<S> {
    stream: S,
    pause: Pause,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<S> Paused<S> {
    /// Is read until a pause begins.
    pub(super) fn new(stream: S, pause: Pause) -> Self {
        Self { stream, pause, sleep: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paused<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(until) = self.pause.take() {
            self.sleep = Some(Box::pin(tokio::time::sleep_until(until)));
        }
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(context));
            self.sleep = None;
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paused<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_until_the_pause_is_over_and_then_all() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let pause = Pause::default();
        let mut paused = Paused::new(ours, pause.clone());
        peer.write_all(b"one").await.unwrap();
        let mut bytes = [0; 3];
        paused.read_exact(&mut bytes).await.unwrap();
        let begun = Instant::now();
        pause.begin(Duration::from_secs(1));
        peer.write_all(b"two").await.unwrap();
        paused.write_all(b"up").await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "writing goes on");
        paused.read_exact(&mut bytes).await.unwrap();
        assert_eq!((&bytes, begun.elapsed() >= Duration::from_secs(1)), (b"two", true));
    }
}
