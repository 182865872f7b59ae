//! A line between agents and their routers that can be closed: an outbox fills behind a closed gate.
//!
//! Owns the forwarding. It changes no byte. A closed gate ends its connections, and takes no others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use platform::shutdown::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::rows::now_micros;

/// An agent tries again within half a minute.
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Debug, Clone, Copy)]
struct State {
    is_open: bool,
    /// When the first connection came through since it was opened, in microseconds since 1970.
    entered: Option<i64>,
}

pub(crate) struct Gate {
    address: SocketAddr,
    state: watch::Sender<State>,
}

/// Bytes that go through at once: a whole batch, so that the router is woken no more often than without a gate.
const PIECE: usize = 512 * 1024;

impl Gate {
    /// An open gate to the first of some routers that takes a connection.
    pub(crate) async fn before(routers: Vec<SocketAddr>, tasks: &Tasks) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::new(State { is_open: true, entered: None });
        let stopping = tasks.stopping();
        let gate = state.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = forward(listener, routers.into(), gate) => {}
                () = stopping => {}
            }
        });
        Ok(Self { address, state })
    }

    /// Where the agent finds its router.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn close(&self) {
        self.state.send_replace(State { is_open: false, entered: None });
    }

    /// Opens the gate; returns when the agent came through, in microseconds since 1970. Its own wait before it tried
    /// again does not count.
    pub(crate) async fn open(&self) -> anyhow::Result<i64> {
        self.state.send_modify(|state| state.is_open = true);
        let mut state = self.state.subscribe();
        let entered = state.wait_for(|state| state.entered.is_some());
        let entered =
            tokio::time::timeout(PATIENCE, entered).await.context("nobody came to the gate")??.entered;
        entered.context("nobody came through the gate")
    }
}

async fn forward(listener: TcpListener, routers: Arc<[SocketAddr]>, state: watch::Sender<State>) {
    // Dropped with this task: an agent has few connections.
    let mut lines = tokio::task::JoinSet::new();
    while let Ok((mut agent, _)) = listener.accept().await {
        let entered = state.send_if_modified(|state| {
            if state.is_open {
                state.entered.get_or_insert_with(now_micros);
            }
            state.is_open
        });
        if !entered {
            continue;
        }
        let mut closed = state.subscribe();
        let routers = Arc::clone(&routers);
        lines.spawn(async move {
            let Ok(mut there) = TcpStream::connect(&*routers).await else { return };
            // As at the parts' own lines: an answer does not wait until the one before it is acknowledged.
            if agent.set_nodelay(true).and_then(|()| there.set_nodelay(true)).is_err() {
                return;
            }
            tokio::select! {
                // The agent sees an ended line, whatever the reason.
                _ = tokio::io::copy_bidirectional_with_sizes(&mut agent, &mut there, PIECE, PIECE) => {}
                _ = closed.wait_for(|state| !state.is_open) => {}
            }
        });
    }
}
