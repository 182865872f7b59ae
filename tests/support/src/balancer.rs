//! A load balancer before several routers: each connection goes to the next one that takes it.
//!
//! Owns the forwarding of bytes; it does not read them, and keeps no client to one router.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A router that takes no connection within this is passed over.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// A balancer that runs until it is dropped.
pub struct Balancer {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Balancer {
    /// Listens on the loopback, in front of these.
    pub async fn start(backends: Vec<SocketAddr>) -> anyhow::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), backends).await
    }

    /// Listens on an address of this machine, in front of these.
    pub async fn start_at(address: IpAddr, backends: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let backends = Arc::new(backends);
        let turn = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let backends = Arc::clone(&backends);
                let turn = Arc::clone(&turn);
                connections.spawn(async move { forward(client, &backends, &turn).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(mut client: TcpStream, backends: &[SocketAddr], turn: &AtomicUsize) {
    let first = turn.fetch_add(1, Ordering::Relaxed);
    for backend in backends.iter().cycle().skip(first % backends.len().max(1)).take(backends.len()) {
        let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(backend)).await;
        if let Ok(Ok(mut server)) = connected {
            // Either side may break it.
            drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            return;
        }
    }
}
