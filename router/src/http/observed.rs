//! The metrics of every request: its route's pattern, its status, its code, its time.
//!
//! Owns the labels, which are bounded: all unknown paths share one label.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;
use schemas::error_code::ErrorCode;

use crate::metrics::Metrics;

/// A method as a label; a peer may send any word.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Passes a request on and counts its answer.
pub async fn observe(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let begun = Instant::now();
    let response = next.run(request).await;
    let route = path.as_ref().map_or("other", MatchedPath::as_str);
    let code = response.extensions().get::<ErrorCode>().copied();
    metrics.answered(route, word(&method), response.status().as_u16(), code, begun.elapsed());
    response
}
