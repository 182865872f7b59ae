//! A handle that breaks one connection.
//!
//! Owns only the signal; the connection's task waits for it. Nothing else reaches a peer that does not read.

use std::sync::Arc;

use tokio::sync::Notify;

/// Breaks a connection; clones share it.
#[derive(Debug, Clone, Default)]
pub struct ConnectionReset(Arc<Notify>);

impl ConnectionReset {
    pub fn reset(&self) {
        self.0.notify_one();
    }

    /// Returns when the connection is to be broken.
    pub async fn requested(&self) {
        self.0.notified().await;
    }
}
