//! The accept loop: TLS with a time limit, the peer's name from its certificate, one task for each connection.
//!
//! Owns connections and their drain. A client that connects and sends nothing holds only its own socket, and not for
//! long.

use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::Method;
use http_body::Body as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use platform::connection_reset::ConnectionReset;
use platform::identity::{Identity, IdentityError, Peer, PeerError, good_until, peer};
use platform::shutdown::Tasks;
use schemas::error_code::ErrorCode;
use schemas::limits::MAX_BATCH_BYTES;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use super::doors::{Part, Shares, Turned, TurnedAway};
use super::handshakes::{Handshakes, MAX_HANDSHAKES, MAX_LINGERING, Slot};
use super::paused::Paused;
use super::problem::{COME_AGAIN, Refused, in_our_words};

/// A handshake that takes longer is given up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Headers that take longer are given up (HTTP/1); HTTP/2 peers get pings instead.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Connections at once whose peer is known; bounds memory.
const MAX_CONNECTIONS: usize = 4_096;
/// Sockets that both listeners may have at once.
pub const MAX_SOCKETS: u64 = 2 * (MAX_CONNECTIONS + MAX_HANDSHAKES + MAX_LINGERING) as u64;
/// A body that takes longer is given up.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// How often the clock is checked for a certificate's end, in seconds.
const LOOK_AT_CLOCK: u64 = 3_600;
/// Requests at once on one connection: more than the partitions that an agent may have.
const MAX_REQUESTS_AT_ONCE: u32 = 128;
/// Bytes of one request's headers.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Bytes that wait in one HTTP/2 stream's send buffer (docs/protocol.md, 6).
const SEND_BUFFER: usize = 64 * 1024;
/// How long open connections may take to end after the order to stop.
const CONNECTION_DRAIN: Duration = Duration::from_secs(10);

/// Why a listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{address}: cannot listen: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The name in the certificate of a connection's peer, or why there is none.
#[derive(Debug, Clone)]
pub struct PeerName(pub Result<Peer, PeerError>);

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

/// Refuses requests beyond a participant's share, and bodies that take too long.
async fn within_share(State(part): State<Arc<Part>>, request: Request, next: Next) -> Response {
    let too_many = |what: &str| {
        let detail = format!("{} has too many {what}; come again in a second", part.who());
        Refused::new(ErrorCode::RequestsTooMany, detail).into_response()
    };
    if part.is_beyond {
        return too_many("connections");
    }
    if !part.take() {
        part.pause.begin(COME_AGAIN);
        return too_many("requests");
    }
    if !matches!(*request.method(), Method::POST | Method::PUT) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let largest = u64::try_from(MAX_BATCH_BYTES).unwrap_or(u64::MAX);
    let bytes = body.size_hint().upper().unwrap_or(largest).min(largest);
    let read = async {
        let room = part.room(bytes).await;
        (room, axum::body::to_bytes(body, MAX_BATCH_BYTES + 1).await)
    };
    match tokio::time::timeout(BODY_LIMIT, read).await {
        // The room is taken until the request is done: its bytes are in memory until then.
        Ok((_room, Ok(bytes))) => next.run(Request::from_parts(head, bytes.into())).await,
        Ok((_, Err(error))) if is_too_long(&error) => {
            let detail =
                format!("the body has more than {MAX_BATCH_BYTES} bytes; send it in several requests");
            Refused::new(ErrorCode::BatchTooLarge, detail).into_response()
        }
        Ok((_, Err(error))) => {
            let detail = format!("the body broke off ({error}); send it again");
            Refused::new(ErrorCode::RequestSlow, detail).into_response()
        }
        Err(_) => Refused::new(ErrorCode::RequestSlow, "the body took too long to come; send it again")
            .into_response(),
    }
}

/// Whether the fault is that a body has too many bytes.
fn is_too_long(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>())
}

/// The routes for one connection's peer.
pub fn for_peer(app: Router, name: PeerName, reset: ConnectionReset) -> Router {
    // A router makes its layers anew for each route: this one has one route, since each connection makes it.
    Router::new()
        .fallback_service(app)
        .layer(axum::Extension(name))
        .layer(axum::Extension(reset))
        .layer(axum::middleware::map_response(in_our_words))
}

/// Listens and serves until `tasks` stop; returns its address.
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
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let handshakes = Handshakes::default();
    let server = Server {
        tls,
        domain,
        app,
        slots,
        handshakes,
        turned_away: TurnedAway::default(),
        shares: Shares::default(),
    };
    let server = Arc::new(server);
    tasks.spawn(accept_until(listener, server, tasks.clone(), stopping));
    Ok(local)
}

/// Returns when a certificate has run out: its connection may not outlive it.
async fn until(good_until: Option<i64>) {
    let Some(good_until) = good_until else { return std::future::pending().await };
    loop {
        let now = platform::clock::now().get() / 1_000;
        let Ok(left) = u64::try_from(good_until - now) else { return };
        // The clock may be set meanwhile.
        tokio::time::sleep(Duration::from_secs(left.clamp(1, LOOK_AT_CLOCK))).await;
    }
}

/// Returns if no request has come in time. After its first request a client may be silent for any time.
async fn said_nothing(asked: &AtomicBool) {
    tokio::time::sleep(HEADER_LIMIT).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

struct Server {
    tls: TlsAcceptor,
    domain: String,
    app: Router,
    /// For known peers.
    slots: Arc<Semaphore>,
    /// For peers that are not known yet.
    handshakes: Handshakes,
    turned_away: TurnedAway,
    shares: Shares,
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
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let server = Arc::clone(&server);
                let stopping = tasks.stopping();
                connections.spawn(async move { server.connection(stream, from, stopping).await });
            }
            Err(error) => {
                // Most likely no file descriptor is left: wait for others to end.
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
    /// The handshake, in a slot that another may need.
    async fn shake_hands(
        &self,
        stream: TcpStream,
        from: IpAddr,
        mut slot: Slot,
    ) -> Option<TlsStream<TcpStream>> {
        let until = tokio::time::Instant::now() + HANDSHAKE_LIMIT;
        // A silent client costs only its socket.
        let mut first = [0];
        let spoke = tokio::select! {
            biased;
            () = slot.gone() => return self.make_way(from, slot).await,
            spoke = tokio::time::timeout_at(until, stream.peek(&mut first)) => spoke,
        };
        match spoke {
            Ok(Ok(1..)) => {}
            Ok(_) => {
                self.turned_away.count(Turned::Silent, from, "it ended before it said anything");
                return None;
            }
            Err(_) => {
                self.turned_away.count(Turned::Silent, from, "it said nothing in time");
                return None;
            }
        }
        let mut handshake = pin!(self.tls.accept(stream));
        match tokio::time::timeout_at(until, slot.in_turns(handshake.as_mut())).await {
            Ok(Some(Ok(stream))) => {
                slot.done();
                return Some(stream);
            }
            Ok(Some(Err(error))) => self.turned_away.count(Turned::Failed, from, &error.to_string()),
            Ok(None) => return self.make_way(from, slot).await,
            Err(_) => self.turned_away.count(Turned::Silent, from, "its TLS handshake did not end in time"),
        }
        None
    }

    /// Gives up its slot. Its socket stays open until this returns.
    async fn make_way(&self, from: IpAddr, slot: Slot) -> Option<TlsStream<TcpStream>> {
        self.turned_away.count(Turned::Silent, from, "others needed its slot");
        drop(slot);
        self.handshakes.linger().await;
        None
    }

    async fn connection(&self, stream: TcpStream, from: SocketAddr, stopping: impl Future<Output = ()>) {
        let mut stopping = pin!(stopping);
        let admitted = tokio::select! {
            biased;
            () = stopping.as_mut() => None,
            admitted = self.admit(stream, from) => admitted,
        };
        if let Some(stream) = admitted {
            self.serve_peer(stream, from, stopping).await;
        }
    }

    /// The connection after its handshake, if any.
    async fn admit(&self, stream: TcpStream, from: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let Some(slot) = self.handshakes.enter(from.ip()) else {
            self.turned_away.count(Turned::Silent, from.ip(), "all slots are taken");
            self.handshakes.linger().await;
            return None;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%from, %error, "TCP_NODELAY could not be set");
        }
        self.shake_hands(stream, from.ip(), slot).await
    }

    async fn serve_peer(
        &self,
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
        mut stopping: Pin<&mut impl Future<Output = ()>>,
    ) {
        let Ok(_slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            tracing::warn!(%from, "all {MAX_CONNECTIONS} connections are taken: one more was refused");
            return;
        };
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let good_until = certificates.first().and_then(|certificate| good_until(certificate));
        let name = certificates.first().ok_or(PeerError::Unreadable).and_then(|c| peer(c, &self.domain));
        let reset = ConnectionReset::default();
        let part = self.shares.enter(name.as_ref().ok());
        let is_beyond = part.is_beyond;
        let pause = part.pause.clone();
        let app = for_peer(self.app.clone(), PeerName(name), reset.clone());
        let app = app.layer(middleware::from_fn_with_state(part, within_share));
        let asked = Arc::new(AtomicBool::new(false));
        let service = TowerToHyperService::new({
            let asked = Arc::clone(&asked);
            app.map_request(move |request: http::Request<_>| {
                asked.store(true, Ordering::Relaxed);
                request.map(axum::body::Body::new)
            })
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_REQUESTS_AT_ONCE)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADER_BYTES)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let connection = builder.serve_connection(TokioIo::new(Paused::new(stream, pause)), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            biased;
            () = reset.requested() => return,
            () = until(good_until) => {
                tracing::info!(%from, "a connection is ended with its certificate");
                return;
            }
            () = tokio::time::sleep(HEADER_LIMIT), if is_beyond => {
                self.turned_away.count(Turned::Failed, from.ip(), "its participant has too many connections");
                return;
            }
            () = said_nothing(&asked) => {
                self.turned_away.count(Turned::Silent, from.ip(), "it asked for nothing in time");
                return;
            }
            () = stopping.as_mut() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased;
                    () = reset.requested() => return,
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
