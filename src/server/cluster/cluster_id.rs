//! Which cluster this server belongs to: every answer says it, and a write that is meant for another one is
//! refused. Two clusters can stand behind one list of servers, after a disk was lost or by a wrong address;
//! without this, agents would write to whichever they meet, and two halves of a site no longer find each
//! other.
//!
//! A client that names no cluster (the Go `pi`, an agent that knows none yet) is served.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Builder;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::header;
use crate::server::app::{App, Shared};
use crate::server::error::ApiError;
use crate::server::requests::intake;

const CLUSTER: HeaderName = HeaderName::from_static(header::CLUSTER);

/// Lets a request pass that is for this cluster, or for any.
pub(in crate::server) async fn admit(
    State(shared): State<Shared>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let asked = request.headers().get(CLUSTER);
    let own = shared.get().ok().and_then(|app| app.cluster());
    let (Some(asked), Some(own)) = (asked, own) else { return next.run(request).await };
    if asked == own {
        return next.run(request).await;
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let error = ApiError::OtherCluster { own: text(own), asked: text(asked) };
    intake::discard_refused(&mut request.into_body()).await;
    error.into_response()
}

/// Says on a request to another server for which cluster it is: an address may have become a stranger's.
pub(in crate::server) fn name(app: &App, request: Builder) -> Builder {
    match app.cluster() {
        Some(own) => request.header(CLUSTER, own),
        None => request,
    }
}

/// Whether an answer is that of a server of another cluster, which has done nothing.
pub(in crate::server) fn is_refusal(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::MISDIRECTED_REQUEST && headers.contains_key(CLUSTER)
}

/// Adds which cluster answers.
pub(in crate::server) fn tell(app: &App, headers: &mut HeaderMap) {
    if let Some(own) = app.cluster() {
        headers.insert(CLUSTER, own.clone());
    }
}
