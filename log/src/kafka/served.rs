//! A read client, and the thread that serves its events.
//!
//! Owns that thread. Records never come here: they come through the queues of partition readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::message::Message as _;

use super::client::ReadClient;

/// How often a client's own events are served.
const SERVE_EVERY: Duration = Duration::from_millis(500);

/// A read client whose events are served until it is dropped.
pub(super) struct ServedClient {
    client: ReadClient,
    is_closing: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl ServedClient {
    /// The thread also does `after`, each time that it has served.
    pub(super) fn new(client: ReadClient, after: impl Fn() + Send + 'static) -> Self {
        let is_closing = Arc::new(AtomicBool::new(false));
        let closing = Arc::clone(&is_closing);
        let served = Arc::clone(&client);
        let server = std::thread::spawn(move || {
            while !closing.load(Ordering::Relaxed) {
                match served.poll(SERVE_EVERY) {
                    Some(Err(error)) => tracing::warn!(%error, "a Kafka client reports"),
                    Some(Ok(message)) => tracing::error!(
                        topic = message.topic(),
                        "a Kafka client received a message that no reader waits for"
                    ),
                    None => {}
                }
                after();
            }
        });
        Self { client, is_closing, server: Some(server) }
    }

    pub(super) const fn client(&self) -> &ReadClient {
        &self.client
    }

    /// Lets the thread end; drop waits for it.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }
}

impl Drop for ServedClient {
    fn drop(&mut self) {
        self.close();
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
    }
}
