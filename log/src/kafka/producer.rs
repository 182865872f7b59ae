//! A producer, and the thread that takes its acknowledgements.
//!
//! Owns the thread. rdkafka's own producer with a thread polls ten times a second, and rdkafka keeps a core busy for the
//! last millisecond of each poll: nine producers that idle took a twelfth of a core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _};

use super::context::Context;

/// The length of one poll: acknowledgements are taken at once, but a producer that is dropped waits for its end.
const POLL: Duration = Duration::from_millis(500);

/// A writing client. Its drop blocks until its thread has ended.
pub(super) struct Producer {
    client: Arc<BaseProducer<Context>>,
    is_closing: Arc<AtomicBool>,
    poller: Option<JoinHandle<()>>,
}

impl Producer {
    pub(super) fn client(&self) -> &Arc<BaseProducer<Context>> {
        &self.client
    }

    /// Why it failed for good, if it did.
    pub(super) fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.client.client().fatal_error()
    }

    /// Lets its thread end, so that a later drop waits less.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }
}

impl FromClientConfigAndContext<Context> for Producer {
    fn from_config_and_context(config: &ClientConfig, context: Context) -> Result<Self, KafkaError> {
        let client = Arc::new(BaseProducer::from_config_and_context(config, context)?);
        let is_closing = Arc::new(AtomicBool::new(false));
        let poller = {
            let client = Arc::clone(&client);
            let is_closing = Arc::clone(&is_closing);
            std::thread::spawn(move || {
                while !is_closing.load(Ordering::Relaxed) {
                    client.poll(POLL);
                }
            })
        };
        Ok(Self { client, is_closing, poller: Some(poller) })
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.close();
        if let Some(poller) = self.poller.take() {
            drop(poller.join());
        }
    }
}
