//! Answers of both ports: heads of content, and errors in the words of the OCI spec. A `HEAD` gets
//! the headers of its `GET` and no body.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RETRY_AFTER,
};
use axum::http::response::Builder;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::limits::RETRY_AFTER_SECONDS;
use crate::oci::{ByteRange, CONTENT_DIGEST, Digest, ErrorCode, PathError};

/// The registry that the content is of.
const NAMESPACE: &str = "oci-namespace";

/// Headers of content, with what hyper adds.
const HEADERS_MAX: usize = 9;

/// An error that a client sees.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// Sources asked in vain.
    pub(crate) attempts: usize,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), attempts: 0 }
    }

    /// Content that cannot be had here.
    pub(crate) fn unknown(is_manifest: bool, message: impl Into<String>) -> Self {
        let code = if is_manifest { ErrorCode::ManifestUnknown } else { ErrorCode::BlobUnknown };
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// A path that names no content.
    pub(crate) fn no_content(error: PathError) -> Self {
        let code = match error {
            PathError::Digest => ErrorCode::DigestInvalid,
            PathError::Unknown | PathError::Name | PathError::Registry | PathError::Reference => {
                ErrorCode::NameInvalid
            }
        };
        Self::new(StatusCode::NOT_FOUND, code, error.to_string())
    }

    /// The answer with an OCI error body.
    pub(crate) fn response(&self, method: &Method) -> Response<Body> {
        let body = self.code.body(&self.message, self.attempts);
        let mut head = Response::builder()
            .status(self.status)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, body.len());
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            head = head.header(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            head = head.header(ALLOW, "GET, HEAD");
        }
        finish(head, if method == Method::HEAD { Body::empty() } else { Body::from(body) })
    }
}

/// 416, with the length that the content has.
pub(crate) fn unsatisfiable(method: &Method, total: u64) -> Response<Body> {
    let message = format!("the content has {total} bytes");
    let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid, message);
    let mut response = refusal.response(method);
    let range = format!("bytes */{total}").parse().expect("digits are a header value");
    response.headers_mut().insert(CONTENT_RANGE, range);
    response
}

/// `/v2/`
pub(crate) fn base() -> Response<Body> {
    let head = Response::builder()
        .header("docker-distribution-api-version", "registry/2.0")
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, 0);
    finish(head, Body::empty())
}

/// What is said about content before its bytes.
pub(crate) struct ContentHead<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) media_type: &'a str,
    pub(crate) registry: Option<&'a str>,
    /// Length of the whole, bytes.
    pub(crate) total: u64,
    /// The part that is sent, if not the whole was asked for.
    pub(crate) range: Option<ByteRange>,
}

impl ContentHead<'_> {
    /// 200 or 206.
    pub(crate) fn status(&self) -> StatusCode {
        if self.range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK }
    }

    /// Bytes of the body.
    pub(crate) fn length(&self) -> u64 {
        self.range.map_or(self.total, |range| range.len())
    }

    /// The response with this head.
    pub(crate) fn response(&self, body: Body) -> Response<Body> {
        let value = |text: &str| HeaderValue::from_str(text).expect("made by us, or parsed: plain ASCII");
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.reserve(HEADERS_MAX);
        headers.insert(CONTENT_TYPE, value(self.media_type));
        headers.insert(CONTENT_LENGTH, self.length().into());
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(HeaderName::from_static(CONTENT_DIGEST), value(self.digest.as_str()));
        headers.insert(ETAG, value(&etag(self.digest)));
        if let Some(range) = self.range {
            headers.insert(CONTENT_RANGE, value(&range.to_string()));
        }
        if let Some(registry) = self.registry {
            headers.insert(HeaderName::from_static(NAMESPACE), value(registry));
        }
        response
    }
}

/// Whether the client has it already.
pub(crate) fn is_not_modified(headers: &HeaderMap, digest: &Digest) -> bool {
    let etag = etag(digest);
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag == etag)
}

/// Whether a range is wanted only of other content than this (`If-Range`).
pub(crate) fn is_range_of_other(headers: &HeaderMap, digest: Option<&Digest>) -> bool {
    headers
        .get(IF_RANGE)
        .is_some_and(|tag| digest.is_none_or(|digest| tag.as_bytes() != etag(digest).as_bytes()))
}

/// 304, about content of `total` bytes: without that hyper would claim 0 for a HEAD.
pub(crate) fn not_modified(digest: &Digest, total: u64) -> Response<Body> {
    let head = Response::builder()
        .status(StatusCode::NOT_MODIFIED)
        .header(ETAG, etag(digest))
        .header(CONTENT_LENGTH, total)
        .header(CONTENT_DIGEST, digest.as_str());
    finish(head, Body::empty())
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn finish(head: Builder, body: Body) -> Response<Body> {
    head.body(body).expect("every header value was parsed or made by us, so it is plain ASCII")
}
