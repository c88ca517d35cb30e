//! `/healthz` of the Go Piccolo, `/livez` and `/readyz`. A server is ready as soon as it can answer
//! lookups: no quorum is a reason to show, not one to leave the load balancer.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::app::Shared;
use super::error::ApiError;
use crate::api::{Message, Readiness};

/// `/healthz` and `/livez`: the process runs.
pub fn live() -> Response {
    Json(Message { success: None, message: "ok".to_owned(), error: String::new() }).into_response()
}

/// `/readyz`.
pub fn ready(shared: &Shared) -> Response {
    let (status, reasons) = match shared.get() {
        Ok(app) if app.stop.is_cancelled() => {
            (StatusCode::SERVICE_UNAVAILABLE, vec!["the server is stopping".to_owned()])
        }
        Ok(app) => (StatusCode::OK, app.node.status().reasons),
        Err(error @ ApiError::Loading) => (StatusCode::SERVICE_UNAVAILABLE, vec![error.to_string()]),
        Err(error) => return error.into_response(),
    };
    (status, Json(Readiness { ready: status == StatusCode::OK, reasons })).into_response()
}
