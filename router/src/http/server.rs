//! The accept loop: TLS with a time limit, the peer's name from its certificate, one task for each connection.
//!
//! Owns connections and their drain. A client that connects and says nothing holds nothing but its own socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use platform::identity::{Identity, IdentityError, Peer, PeerError, peer};
use platform::shutdown::Tasks;
use schemas::error_code::ErrorCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::problem::{Refused, in_our_words};

/// A handshake that takes longer is given up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Headers that take longer are given up (HTTP/1); HTTP/2 peers are asked for signs of life.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Connections at once; bounds memory against a flood.
const MAX_CONNECTIONS: usize = 4_096;
/// Bytes that wait in one HTTP/2 stream's send buffer (protocols, 6).
const SEND_BUFFER: usize = 64 * 1024;
/// How long open connections may take to end after the word to stop.
const CONNECTION_DRAIN: Duration = Duration::from_secs(10);

/// Why a listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("{address}: cannot listen: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The name in the certificate of a connection's peer, or why there is none.
#[derive(Debug, Clone)]
pub struct PeerName(pub Result<Peer, PeerError>);

/// Breaks a connection whose peer does not read; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Reset(Arc<Notify>);

impl Reset {
    /// Breaks it.
    pub fn reset(&self) {
        self.0.notify_one();
    }

    /// Returns when it is to be broken.
    pub async fn broken(&self) {
        self.0.notified().await;
    }
}

impl PeerName {
    /// The agent that is asking.
    pub fn agent(&self) -> Result<&schemas::ids::AgentId, Refused> {
        match &self.0 {
            Ok(Peer::Agent(agent)) => Ok(agent),
            Ok(other) => Err(Refused::new(
                ErrorCode::NotPermitted,
                format!("the certificate names {other}, which is no participant's agent"),
            )),
            Err(error) => Err(Refused::new(ErrorCode::CertificateForeign, error.to_string())),
        }
    }

    /// The operator that is asking.
    pub fn operator(&self) -> Result<&str, Refused> {
        match &self.0 {
            Ok(Peer::Operator(name)) => Ok(name),
            Ok(_) => Err(Refused::new(ErrorCode::NotPermitted, "only an operator's certificate may do this")),
            Err(error) => Err(Refused::new(ErrorCode::CertificateForeign, error.to_string())),
        }
    }
}

/// The routes as one connection's peer finds them.
pub fn for_peer(app: Router, name: PeerName, reset: Reset) -> Router {
    app.layer(axum::Extension(name))
        .layer(axum::Extension(reset))
        .layer(axum::middleware::map_response(in_our_words))
}

/// Listens and serves until `tasks` stop; the address that it got.
pub async fn serve(
    address: SocketAddr,
    identity: &Identity,
    domain: String,
    app: Router,
    tasks: &Tasks,
) -> Result<SocketAddr, ServeError> {
    let tls = TlsAcceptor::from(identity.server_config()?);
    let listen = |error| ServeError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let local = listener.local_addr().map_err(listen)?;
    let stopping = tasks.stopping();
    let server = Arc::new(Server { tls, domain, app, slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)) });
    tasks.spawn(accept_until(listener, server, tasks.clone(), stopping));
    Ok(local)
}

struct Server {
    tls: TlsAcceptor,
    domain: String,
    app: Router,
    slots: Arc<Semaphore>,
}

async fn accept_until(
    listener: TcpListener,
    server: Arc<Server>,
    tasks: Tasks,
    stopping: impl Future<Output = ()>,
) {
    let connections = tasks.child();
    tokio::pin!(stopping);
    loop {
        let slot = tokio::select! {
            biased;
            () = &mut stopping => break,
            slot = Arc::clone(&server.slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { break };
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let (server, stopping) = (Arc::clone(&server), tasks.stopping());
                connections.spawn(async move {
                    server.connection(stream, from, stopping).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: give others the time to end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if !connections.stop_and_join(CONNECTION_DRAIN).await {
        tracing::warn!("some connections did not end in time");
    }
}

impl Server {
    async fn connection(&self, stream: TcpStream, from: SocketAddr, stopping: impl Future<Output = ()>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%from, %error, "TCP_NODELAY could not be set");
        }
        let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, self.tls.accept(stream));
        let stream = match handshake.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::info!(%from, %error, "refused a connection");
                return;
            }
            Err(_) => {
                tracing::info!(%from, "a connection said nothing");
                return;
            }
        };
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let name = certificates.first().ok_or(PeerError::Unreadable).and_then(|c| peer(c, &self.domain));
        let reset = Reset::default();
        let app = for_peer(self.app.clone(), PeerName(name), reset.clone());
        let service = TowerToHyperService::new(
            app.map_request(|request: http::Request<_>| request.map(axum::body::Body::new)),
        );
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            biased;
            () = reset.broken() => return,
            () = stopping => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased;
                    () = reset.broken() => return,
                    ended = connection => ended,
                }
            }
            ended = connection.as_mut() => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%from, %error, "a connection ended");
        }
    }
}
