//! `/healthz` of the Go Piccolo, `/livez` and `/readyz`.
//!
//! A server is ready as soon as it can answer lookups, unless it may lack what another server has that
//! answers them: then lookups should go there. A missing quorum alone is shown, but does not take the server
//! out of a load balancer.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::api::{Message, Readiness};
use crate::server::app::AppHandle;
use crate::server::error::ApiError;

/// Answers `/healthz` and `/livez`: the process runs.
pub async fn live() -> Response {
    Json(Message { success: None, message: "ok".to_owned(), error: String::new() }).into_response()
}

/// Answers `/readyz`.
pub async fn ready(State(app): State<AppHandle>) -> Response {
    let (status, reasons) = match app.get() {
        Ok(app) if app.stop.is_cancelled() => {
            (StatusCode::SERVICE_UNAVAILABLE, vec!["the server is stopping".to_owned()])
        }
        Ok(app) => {
            let unready = app.cluster.fallback.unready();
            readiness(app.node.status().reasons, unready.map(|unready| unready.to_string()))
        }
        Err(error @ ApiError::Loading) => {
            let reason = app.wait_reason().get().unwrap_or_else(|| error.to_string());
            (StatusCode::SERVICE_UNAVAILABLE, vec![reason])
        }
        Err(error) => return error.into_response(),
    };
    (status, Json(Readiness { ready: status == StatusCode::OK, reasons })).into_response()
}

/// `unready` says why lookups should go to another server; often it is one of `reasons` with more detail.
fn readiness(mut reasons: Vec<String>, unready: Option<String>) -> (StatusCode, Vec<String>) {
    let Some(unready) = unready else { return (StatusCode::OK, reasons) };
    reasons.retain(|reason| !unready.starts_with(reason.as_str()));
    reasons.push(unready);
    (StatusCode::SERVICE_UNAVAILABLE, reasons)
}
