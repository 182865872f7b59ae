//! The HTTP/2 client of agents and tools: mutual TLS, one connection for each client.
//!
//! Owns connection settings and the reading of problem+json. A delivery stream gets a client of its own: a slow
//! reader starves the other streams of its connection (hyper, issue 2899).

use std::time::Duration;

use schemas::error_code::Problem;

use crate::identity::Identity;
use crate::unreachable::{Unreachable, causes};

/// The longest wait for a connection to a router; afterwards it is tried again.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// After this silence the client pings the connection.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Bytes that a stream may have in flight: the receiver's part of bounded memory.
const WINDOW_BYTES: u32 = 256 * 1024;

/// Why a request gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client could not be made from the identity.
    #[error("the identity cannot be used for HTTP: {0}")]
    Identity(String),
    /// The router could not be reached, or the connection broke.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("{0:?}: refused with {code}: {detail}", code = .1.code, detail = .1.detail)]
    Refused(String, Box<Problem>),
    /// An answer in a form that is not ours.
    #[error("{url}: answered {status} in a form that dit does not use; is this a dit router?")]
    Strange { url: String, status: u16 },
}

impl ClientError {
    /// The router's refusal, if there is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(_, problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Identity(_) => false,
            Self::Unreachable(_) => true,
            Self::Refused(_, problem) => problem.code.is_retryable(),
            Self::Strange { status, .. } => *status >= 500,
        }
    }
}

/// A client with one connection to one router.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    /// A client of the router at `base` (`https://host:port`).
    pub fn new(base: &str, identity: &Identity) -> Result<Self, ClientError> {
        let wrong = |e: reqwest::Error| ClientError::Identity(causes(&e));
        let own = reqwest::Identity::from_pem(&identity.client_pem()).map_err(wrong)?;
        let roots = reqwest::Certificate::from_pem_bundle(identity.authorities_pem()).map_err(wrong)?;
        let http = reqwest::Client::builder()
            .tls_backend_rustls()
            .tls_certs_only(roots)
            .identity(own)
            .https_only(true)
            .no_proxy()
            .connect_timeout(CONNECT_LIMIT)
            .http2_initial_stream_window_size(WINDOW_BYTES)
            .http2_initial_connection_window_size(WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true)
            .build()
            .map_err(wrong)?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned() })
    }

    /// A GET request of a path that begins with `/`.
    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.base))
    }

    /// A POST request of a path that begins with `/`.
    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.base))
    }

    /// A PUT request of a path that begins with `/`.
    pub fn put(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.put(format!("{}{path}", self.base))
    }
}

/// Sends, and turns a refusal into an error.
pub async fn send(request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
    let response = carry(request).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    let url = response.url().to_string();
    let status = response.status().as_u16();
    let body = response.bytes().await.map_err(|e| unreachable_peer(&e))?;
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(ClientError::Refused(url, Box::new(problem))),
        Err(_) => Err(ClientError::Strange { url, status }),
    }
}

async fn carry(request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
    let broken = |error| unreachable_peer(&error);
    #[cfg(feature = "simulation")]
    if let Some(host) = crate::host::current() {
        return Ok(host.send(request.build().map_err(broken)?).await?);
    }
    request.send().await.map_err(broken)
}

/// Sends, and reads the answer as JSON.
pub async fn send_json<T: serde::de::DeserializeOwned>(
    request: reqwest::RequestBuilder,
) -> Result<T, ClientError> {
    let response = send(request).await?;
    let url = response.url().to_string();
    let status = response.status().as_u16();
    let body = response.bytes().await.map_err(|e| unreachable_peer(&e))?;
    serde_json::from_slice(&body).map_err(|_| ClientError::Strange { url, status })
}

/// A broken connection as an error.
pub fn unreachable_peer(error: &reqwest::Error) -> ClientError {
    Unreachable::from(error).into()
}
