//! `/healthz` of the Go Piccolo, `/livez` and `/readyz`. A server is ready as soon as it can answer
//! lookups, unless it may lack what another one has that answers them: then that one is to be asked. No
//! quorum alone is a reason to show, not one to leave the load balancer.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::api::{Message, Readiness};
use crate::server::app::Shared;
use crate::server::cluster::behind;
use crate::server::error::ApiError;

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
        Ok(app) => readiness(app.node.status().reasons, behind::unready(app)),
        Err(error @ ApiError::Loading) => {
            let reason = shared.waits_for().unwrap_or_else(|| error.to_string());
            (StatusCode::SERVICE_UNAVAILABLE, vec![reason])
        }
        Err(error) => return error.into_response(),
    };
    (status, Json(Readiness { ready: status == StatusCode::OK, reasons })).into_response()
}

/// `unready` is why lookups should go elsewhere, and often one of `reasons` with more to it.
fn readiness(mut reasons: Vec<String>, unready: Option<String>) -> (StatusCode, Vec<String>) {
    let Some(unready) = unready else { return (StatusCode::OK, reasons) };
    reasons.retain(|reason| !unready.starts_with(reason.as_str()));
    reasons.push(unready);
    (StatusCode::SERVICE_UNAVAILABLE, reasons)
}
