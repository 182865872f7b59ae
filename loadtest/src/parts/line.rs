//! A line to the router that becomes slow: first at full speed, then so many bytes a second to the consumer, or none.
//!
//! Owns the forwarding. It changes no byte and keeps its connections open: only a router can find out that its consumer
//! does not read.

use std::net::SocketAddr;
use std::time::Duration;

use platform::shutdown::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// A slow line has a small receive buffer: else the kernel would read in place of the consumer.
const RECEIVE_BYTES: u32 = 4_096;

pub(crate) struct Line {
    address: SocketAddr,
    slow: watch::Sender<bool>,
}

impl Line {
    /// Listens for its consumer.
    pub(crate) async fn open(
        router: SocketAddr,
        bytes_a_second: u32,
        tasks: &Tasks,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (slow, slowed) = watch::channel(false);
        let stopping = tasks.stopping();
        let forwarding = async move {
            // Dropped with this task: a line has few connections, one at a time.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((consumer, _)) = listener.accept().await {
                open.spawn(forward(consumer, router, bytes_a_second, slowed.clone()));
            }
        };
        tasks.spawn(async move {
            tokio::select! {
                () = forwarding => {}
                () = stopping => {}
            }
        });
        Ok(Self { address, slow })
    }

    /// Where its consumer finds the router.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes the line slow from now on.
    pub(crate) fn slow_down(&self) {
        self.slow.send_replace(true);
    }
}

async fn forward(
    consumer: TcpStream,
    router: SocketAddr,
    bytes_a_second: u32,
    slowed: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    let (mut from_router, mut to_router) = socket.connect(router).await?.into_split();
    let (mut from_consumer, mut to_consumer) = consumer.into_split();
    let down = async {
        let mut buffer = [0; 4_096];
        let mut slowed = slowed;
        loop {
            let many = match *slowed.borrow() {
                false => buffer.len(),
                true => 1,
            };
            if many == 1 {
                match bytes_a_second {
                    0 => std::future::pending().await,
                    rate => tokio::time::sleep(Duration::from_secs(1) / rate).await,
                }
            }
            let wanted = buffer.get_mut(..many).unwrap_or_default();
            let read = tokio::select! {
                read = from_router.read(wanted) => read?,
                _ = slowed.changed(), if many > 1 => continue,
            };
            match buffer.get(..read) {
                None | Some([]) => return Ok(()),
                Some(bytes) => to_consumer.write_all(bytes).await?,
            }
        }
    };
    tokio::select! {
        ended = down => ended,
        ended = tokio::io::copy(&mut from_consumer, &mut to_router) => ended.map(drop),
    }
}
