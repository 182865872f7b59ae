//! The local HTTP endpoint: other programs hand over single changes and get the answer when these are in the outbox.
//!
//! Owns the listener and its admission: programs on this machine, not pages in a browser. It listens on the loopback or
//! on a Unix socket; if a token file is configured, requests need the token. The number of waiting requests is bounded.

mod admission;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use platform::shutdown::Tasks;
use schemas::limits::MAX_BATCH_BYTES;
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use self::admission::Admission;
use crate::agent::{Agent, AgentError};
use crate::observe::Watch;
use crate::source::file::drop_folder::Singles;
use crate::source::http::{RequestSource, items};

/// The `[http]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Where it listens: an address of the loopback, `127.0.0.1:9445` by default.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// A Unix socket to listen on instead: only the agent's own user can reach it.
    pub socket: Option<PathBuf>,
    /// A file with a word that every request must give as `Authorization: Bearer WORD`; made where it is missing.
    pub token_file: Option<PathBuf>,
    /// Names, beside those of the loopback, that requests may be addressed to.
    #[serde(default)]
    pub hosts: Vec<String>,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9445))
}

/// The most requests that wait or run; a further one is asked to come again.
const WAITING: usize = 64;
/// The most changes in one request: a whole register must come as a file.
const MAX_ITEMS: usize = 10_000;

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Other machines could reach it.
    #[error(
        "[http] listen = \"{0}\" is not on the loopback: other machines could reach it, and the endpoint does not ask who they are; listen on 127.0.0.1, and put a proxy in front"
    )]
    NotLocal(SocketAddr),
    #[error("[http] listen = \"{address}\": {error}")]
    Listen {
        address: SocketAddr,
        /// The system's error.
        error: std::io::Error,
    },
    #[error("[http] socket = \"{path}\": {error}")]
    Socket {
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    #[error("[http] token_file: {0}")]
    Token(#[from] admission::TokenError),
}

#[derive(Clone)]
struct Shared {
    agent: Arc<Agent>,
    watch: Arc<Watch>,
    waiting: Arc<Semaphore>,
    admission: Arc<Admission>,
    singles: Singles,
}

/// A request that takes longer is given up: a local body arrives at once.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

impl EndpointConfig {
    /// Whether only this machine can reach it.
    pub fn check(&self) -> Result<(), EndpointError> {
        if self.socket.is_some() {
            return Ok(());
        }
        match self.listen.ip().is_loopback() {
            true => Ok(()),
            false => Err(EndpointError::NotLocal(self.listen)),
        }
    }
}

/// Listens until `tasks` stop.
pub async fn listen(
    config: &EndpointConfig,
    agent: Arc<Agent>,
    singles: Singles,
    watch: Arc<Watch>,
    tasks: &Tasks,
) -> Result<(), EndpointError> {
    config.check()?;
    let admission = Arc::new(Admission::new(config)?);
    let shared = Shared { agent, watch, waiting: Arc::new(Semaphore::new(WAITING)), admission, singles };
    let app = Router::new()
        .route("/v1/changes", post(take_changes))
        .route("/v1/freshness", post(take_freshness))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(MAX_BATCH_BYTES))
        .layer(middleware::from_fn_with_state(shared.clone(), observed))
        .with_state(shared);
    let stopping = tasks.stopping();
    let stopped = |outcome: std::io::Result<()>| {
        if let Err(error) = outcome {
            tracing::error!(%error, "the local endpoint has stopped");
        }
    };
    if let Some(path) = &config.socket {
        let listener = unix(path).map_err(|error| EndpointError::Socket { path: path.clone(), error })?;
        tasks.spawn(async move {
            stopped(axum::serve(listener, app).with_graceful_shutdown(stopping).await);
        });
        tracing::info!(socket = %path.display(), "takes single changes");
        return Ok(());
    }
    let address = config.listen;
    let failed = |error| EndpointError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    tasks.spawn(async move {
        stopped(axum::serve(listener, app).with_graceful_shutdown(stopping).await);
    });
    tracing::info!(address = %local, "takes single changes");
    Ok(())
}

/// A socket that only its owner can connect to.
fn unix(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    // An earlier process may have left a socket; any other file of that name is not ours to remove.
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn unknown_route() -> Response {
    problem(StatusCode::NOT_FOUND, "there is no such path; see docs/local-http.md")
}

async fn unknown_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "changes are sent with POST")
}

async fn observed(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let begun = Instant::now();
    let response = match shared.admission.admit(request.headers()) {
        Err((status, detail)) => problem(status, detail),
        Ok(()) => match tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "the request took too long; send it again"),
        },
    };
    let response = match response.status() {
        StatusCode::PAYLOAD_TOO_LARGE if !is_problem(&response) => {
            let detail = format!("the body has more than {MAX_BATCH_BYTES} bytes; send several requests");
            problem(StatusCode::PAYLOAD_TOO_LARGE, &detail)
        }
        _ => response,
    };
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    shared.watch.metrics().answered(route, response.status().as_u16(), begun.elapsed());
    response
}

fn is_problem(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json")
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let body = json!({"status": status.as_u16(), "detail": detail});
    ([(header::CONTENT_TYPE, "application/problem+json")], (status, Json(body))).into_response()
}

/// Does `work` with the agent, on a thread that may wait for the disk.
async fn with_agent<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce(&Agent) -> Result<T, AgentError> + Send + 'static,
) -> Result<T, Response> {
    let busy = |_| problem(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait; come again");
    let turn = Arc::clone(&shared.waiting).try_acquire_owned().map_err(busy)?;
    let agent = Arc::clone(&shared.agent);
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(&agent)
    });
    let stopped = |_| problem(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
    done.await.map_err(stopped)?.map_err(|error| {
        tracing::error!(%error, "changes were not taken");
        // Changes that are in the outbox already are found unchanged next time.
        problem(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}; send them again"))
    })
}

async fn take_changes(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_lowercase();
    let is_cloud_events =
        ["application/cloudevents+json", "application/cloudevents-batch+json"].contains(&media.as_str());
    if !is_cloud_events && media != "application/json" {
        let detail =
            "send application/json, application/cloudevents+json or application/cloudevents-batch+json";
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
    }
    let items = match items::parse(&body, is_cloud_events) {
        Ok(items) => items,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, &detail),
    };
    if items.len() > MAX_ITEMS {
        let detail = format!("{} changes; at most {MAX_ITEMS} are taken at once", items.len());
        return problem(StatusCode::PAYLOAD_TOO_LARGE, &detail);
    }
    let singles = shared.singles.clone();
    let request = RequestSource::new(items);
    let take = move |agent: &Agent| agent.take_singles(&request, || singles.about_to_take());
    match with_agent(&shared, take).await {
        Ok(results) => {
            shared.watch.metrics().took_items(&results);
            Json(json!({"results": results})).into_response()
        }
        Err(response) => response,
    }
}

/// Takes the source's report that there is nothing else up to now.
async fn take_freshness(State(shared): State<Shared>) -> Response {
    match with_agent(&shared, Agent::take_freshness).await {
        Ok(()) => {
            shared.watch.looked_at_source();
            StatusCode::NO_CONTENT.into_response()
        }
        Err(response) => response,
    }
}
