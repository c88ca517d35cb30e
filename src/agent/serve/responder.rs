//! The owner of one response: it turns what was found, or the refusal, into status, headers and body, and
//! has the outcome counted and logged.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use super::body::Served;
use super::conditions::etag;
use super::found::{Found, Payload};
use super::record::{Received, Record};
use super::refusal::Refusal;
use crate::agent::content::head::Head;
use crate::agent::content::tag_claims::TAG_AGE_MS;
use crate::agent::counters::Counters;
use crate::agent::flight::header::FLIGHT;
use crate::http::Connection;
use crate::limits::CONTENT_HEADERS_MAX;
use crate::oci::{CONTENT_DIGEST, Digest, ErrorCode};

/// Header with the registry that the content is of.
const NAMESPACE: &str = "oci-namespace";

/// The response to one request for content. It is counted and logged when this, or the body, is dropped.
pub(crate) struct Responder {
    record: Record,
    method: Method,
    /// The connection that is reset after bad bytes.
    connection: Option<Connection>,
}

impl Responder {
    /// The response to a request that begins now.
    pub(crate) fn new(received: Received<'_>, counters: Arc<Counters>) -> Self {
        let record = Record::new(&received, counters);
        Self { record, method: received.method.clone(), connection: received.connection }
    }

    /// The response with what was found, or with the error.
    pub(crate) fn respond(mut self, found: Result<Found, Refusal>) -> Response<Body> {
        match found {
            Ok(found) => self.content(found),
            Err(refusal) => {
                self.record.refused(&refusal);
                refusal.response(&self.method)
            }
        }
    }

    fn content(mut self, found: Found) -> Response<Body> {
        let Found { digest, from, payload, tag_age, told, in_order } = found;
        let mut response = match payload {
            Payload::Unchanged { total } => {
                let response = not_modified(&digest, total);
                self.record.answered(response.status(), from, 0);
                response
            }
            Payload::Unsatisfiable { total } => {
                let response = unsatisfiable(&self.method, total);
                self.record.answered(response.status(), from, 0);
                response
            }
            Payload::HeadOnly { media_type, total } => {
                let response = self.headers(&digest, media_type, Head { total, range: None });
                self.record.answered(response.status(), from, 0);
                response
            }
            Payload::Bytes { media_type, head, stream } => {
                let mut response = self.headers(&digest, media_type, head);
                let length = head.part().len();
                self.record.answered(response.status(), from, length);
                if in_order {
                    response.headers_mut().remove(CONTENT_LENGTH);
                }
                let body = Served::new(stream, length, self.record, self.connection);
                *response.body_mut() = if in_order { body.without_length() } else { body }.into_body();
                response
            }
        };
        if let Some(told) = told.and_then(|told| HeaderValue::from_str(&told.value()).ok()) {
            response.headers_mut().insert(HeaderName::from_static(FLIGHT), told);
        }
        if let Some(age) = tag_age {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            response.headers_mut().insert(HeaderName::from_static(TAG_AGE_MS), age_ms.into());
        }
        response
    }

    /// 200 or 206, without a body yet.
    fn headers(&self, digest: &Digest, media_type: &'static str, head: Head) -> Response<Body> {
        let value = |text: &str| HeaderValue::from_str(text).expect("made by us, or parsed: plain ASCII");
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.reserve(CONTENT_HEADERS_MAX);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(CONTENT_LENGTH, head.part().len().into());
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(HeaderName::from_static(CONTENT_DIGEST), value(digest.as_str()));
        headers.insert(ETAG, value(&etag(digest)));
        if let Some(range) = head.range {
            headers.insert(CONTENT_RANGE, value(&range.to_string()));
        }
        if let Some(registry) = self.record.registry() {
            headers.insert(HeaderName::from_static(NAMESPACE), value(registry));
        }
        if head.range.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }
}

/// The response to `/v2/`, which no record is made of.
pub(super) fn base() -> Response<Body> {
    Response::builder()
        .header("docker-distribution-api-version", "registry/2.0")
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, 0)
        .body(Body::empty())
        .expect("every header value is a constant")
}

/// 416, with the length that the content has.
fn unsatisfiable(method: &Method, total: u64) -> Response<Body> {
    let message = format!("the content has {total} bytes");
    let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid, message);
    let mut response = refusal.response(method);
    let range = format!("bytes */{total}").parse().expect("digits are a header value");
    response.headers_mut().insert(CONTENT_RANGE, range);
    response
}

/// 304, about content of `total` bytes: without the length hyper would send 0 for a `HEAD`.
fn not_modified(digest: &Digest, total: u64) -> Response<Body> {
    Response::builder()
        .status(StatusCode::NOT_MODIFIED)
        .header(ETAG, etag(digest))
        .header(CONTENT_LENGTH, total)
        .header(CONTENT_DIGEST, digest.as_str())
        .body(Body::empty())
        .expect("a digest is plain ASCII")
}
