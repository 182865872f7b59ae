//! An attacker: raw connections to a router, with or without a certificate, that do what no honest client does.
//!
//! Owns the kinds of connections. The tests say what is right under attack.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use h2::client::SendRequest;
use platform::pki::Issued;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Between two bytes of a drip.
const DRIP: Duration = Duration::from_millis(200);

/// An attacker of a listener.
#[derive(Clone)]
pub struct Attacker {
    address: SocketAddr,
    config: ClientConfig,
}

/// The address of attackers: the whole of 127/8 is this machine.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// The first of the ports that they take: the system's services are below.
const FIRST_PORT: u16 = 1_024;
static NEXT_PORT: AtomicU32 = AtomicU32::new(0);
/// Ports that are tried for one socket.
const PORTS_TRIED: usize = 1_000;

/// A TLS record that announces a long hello, and then the hello that never ends.
pub fn endless_hello() -> impl Iterator<Item = u8> {
    [0x16, 3, 1, 0x3f, 0, 1, 0, 0x3e, 0xf0, 3, 3].into_iter().chain(std::iter::repeat(0))
}

/// The result of a drip.
#[derive(Debug)]
pub struct Dripped {
    /// How long the peer allowed it.
    pub lasted: Duration,
    /// The peer's answer before the end.
    pub answer: String,
}

impl Attacker {
    /// An attacker of a listener whose certificate this authority has signed.
    pub fn new(address: SocketAddr, authority: &str, certificate: Option<&Issued>) -> anyhow::Result<Self> {
        platform::identity::install_crypto();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match certificate {
            None => config.with_no_client_auth(),
            Some(issued) => {
                let chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())?;
                config.with_client_auth_cert(chain.collect::<Result<_, _>>()?, key)?
            }
        };
        Ok(Self { address, config })
    }

    /// A bare connection.
    ///
    /// Ports are counted here: with thousands of sockets the kernel's own search takes most of a core, under locks that
    /// every connection on this machine needs.
    pub async fn socket(&self) -> std::io::Result<TcpStream> {
        let mut tried = Err(ErrorKind::AddrInUse.into());
        for _ in 0..PORTS_TRIED {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            let next = NEXT_PORT.fetch_add(1, Ordering::Relaxed) % u32::from(u16::MAX - FIRST_PORT);
            let port = FIRST_PORT + u16::try_from(next).unwrap_or_default();
            tried = match socket.bind((ELSEWHERE, port).into()) {
                Ok(()) => socket.connect(self.address).await,
                Err(error) => Err(error),
            };
            let is_taken = |error: &std::io::Error| {
                matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable)
            };
            if !tried.as_ref().is_err_and(is_taken) {
                break;
            }
        }
        tried
    }

    /// A connection with a whole TLS hello, whose answer is not read.
    pub async fn hello(&self) -> anyhow::Result<TcpStream> {
        let name = ServerName::IpAddress(self.address.ip().into());
        let mut tls = rustls::ClientConnection::new(Arc::new(self.config.clone()), name)?;
        let mut hello = Vec::new();
        tls.write_tls(&mut hello)?;
        let mut socket = self.socket().await?;
        socket.write_all(&hello).await?;
        Ok(socket)
    }

    /// A connection after its handshake, for `h2` or `http/1.1`.
    pub async fn tls(&self, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(Arc::new(config)).connect(name, self.socket().await?).await
    }

    /// An HTTP/2 connection whose streams may bring so many bytes and no more. It ends when the last clone is dropped.
    pub async fn http2(&self, window: u32) -> anyhow::Result<SendRequest<Bytes>> {
        let stream = self.tls("h2").await?;
        let mut builder = h2::client::Builder::new();
        let built = builder.initial_window_size(window).handshake(stream).await;
        let (requests, connection) = built.context("the HTTP/2 handshake")?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(requests)
    }

    /// A request of a path of this listener.
    pub fn request(&self, path: &str) -> anyhow::Result<http::Request<()>> {
        Ok(http::Request::get(format!("https://{}{path}", self.address)).body(())?)
    }
}

/// Writes a beginning at once, then byte after byte; returns when the peer ends the connection.
pub async fn drip(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite,
    beginning: &str,
    bytes: impl Iterator<Item = u8>,
) -> Dripped {
    let begun = Instant::now();
    let stream = std::pin::pin!(stream);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        // Where a write fails, the reader sees the end.
        let mut going = writer.write_all(beginning.as_bytes()).await.is_ok();
        for byte in bytes {
            if !going {
                break;
            }
            going = writer.write_all(&[byte]).await.and(writer.flush().await).is_ok();
            tokio::time::sleep(DRIP).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = write => {}
        // A connection that is reset has ended as well.
        _ended = reader.read_to_end(&mut answer) => {}
    }
    Dripped { lasted: begun.elapsed(), answer: String::from_utf8_lossy(&answer).into_owned() }
}
