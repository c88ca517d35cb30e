//! Errors in the words of the OCI spec, as both ports answer them.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Method, Response, StatusCode};

use crate::agent::flight::header::{FLIGHT, Told};
use crate::limits::RETRY_AFTER_SECONDS;
use crate::oci::{ErrorCode, PathError};

/// An error that a client sees.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// How many sources were asked in vain.
    pub(crate) attempts: usize,
    /// What a node that takes part in a flight is told besides.
    pub(crate) told: Option<Box<Told>>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), attempts: 0, told: None }
    }

    /// A refusal because this port does not have the content, or does not give it.
    pub(crate) fn unknown(is_manifest: bool, message: impl Into<String>) -> Self {
        let code = if is_manifest { ErrorCode::ManifestUnknown } else { ErrorCode::BlobUnknown };
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// A refusal because the path names no content.
    pub(crate) fn no_content(error: PathError) -> Self {
        let code = match error {
            PathError::Digest => ErrorCode::DigestInvalid,
            PathError::Unknown | PathError::Name | PathError::Registry | PathError::Reference => {
                ErrorCode::NameInvalid
            }
        };
        Self::new(StatusCode::NOT_FOUND, code, error.to_string())
    }

    /// The response with an OCI error as its body, which a `HEAD` does not get.
    pub(crate) fn response(&self, method: &Method) -> Response<Body> {
        let body = self.code.body(&self.message, self.attempts);
        let mut head = Response::builder()
            .status(self.status)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, body.len());
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            head = head.header(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if let Some(told) = &self.told {
            head = head.header(FLIGHT, told.value());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            head = head.header(ALLOW, "GET, HEAD");
        }
        let body = if method == Method::HEAD { Body::empty() } else { Body::from(body) };
        head.body(body).expect("every header value is a constant or a number")
    }
}
