//! Headers that answers of several endpoints carry.

use axum::http::{HeaderName, HeaderValue};

use crate::api::header;

/// The log index that an answer shows.
pub fn applied_index(index: u64) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(header::APPLIED_INDEX), HeaderValue::from(index))
}

/// Marks an answer of a server that may lack what the others have: the client should ask another one as well.
pub fn behind() -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(header::BEHIND), HeaderValue::from_static("1"))
}
