//! Content of this node as an answer, on both ports.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::RANGE;
use axum::http::{HeaderMap, Method, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::answer::{self, ContentHead, unsatisfiable};
use super::body::Served;
use super::record::{Origin, Record};
use crate::agent::content::local::{LocalBlob, LocalManifest};
use crate::agent::content::token_bucket::TokenBucket;
use crate::http::Connection;
use crate::oci::{ByteRange, Digest, RangeHeader, media_type};

/// Who asks, and how: what an answer needs to know of its request.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) range: Option<RangeHeader>,
    pub(crate) registry: Option<&'a str>,
    pub(crate) connection: Option<Connection>,
}

/// The one range that a request asks for, of content with this digest. Some clients send `bytes=0-`
/// always: of an empty blob that gets the whole, 200 and no bytes, as from Go's `http.ServeContent`.
pub(crate) fn range_of(headers: &HeaderMap, digest: Option<&Digest>) -> Option<RangeHeader> {
    if digest.is_some_and(Digest::is_of_nothing) {
        return None;
    }
    if answer::is_range_of_other(headers, digest) {
        return None;
    }
    RangeHeader::parse(headers.get(RANGE)?.to_str().ok()?)
}

/// Only the head of a blob.
pub(crate) fn blob_head(
    asked: &Asked<'_>,
    digest: &Digest,
    total: u64,
    source: Origin,
    mut record: Record,
) -> Response<Body> {
    let media_type = media_type::OCTET_STREAM;
    let head = ContentHead { digest, media_type, registry: asked.registry, total, range: None };
    record.answered(head.status(), source, 0);
    head.response(Body::empty())
}

/// A blob, or the part of it that was asked for. `guard` is dropped with the body.
pub(crate) fn blob<G: Send + 'static>(
    asked: Asked<'_>,
    digest: &Digest,
    blob: LocalBlob,
    rate: Option<Arc<TokenBucket>>,
    guard: G,
    mut record: Record,
) -> Response<Body> {
    let total = blob.size_bytes();
    let range = match asked.range.map(|range| range.within(total)) {
        Some(None) => {
            let response = unsatisfiable(asked.method, total);
            record.answered(response.status(), Origin::Local, 0);
            return response;
        }
        Some(range) => range,
        None => None,
    };
    let head =
        ContentHead { digest, media_type: media_type::OCTET_STREAM, registry: asked.registry, total, range };
    record.answered(head.status(), Origin::Local, head.length());
    let bytes = blob.stream(range.unwrap_or(ByteRange::whole(total)), rate, guard);
    head.response(Served::body(bytes, head.length(), record, asked.connection))
}

/// A manifest of this node.
pub(crate) fn local_manifest(
    asked: &Asked<'_>,
    digest: &Digest,
    found: LocalManifest,
    record: Record,
) -> Response<Body> {
    let LocalManifest { bytes, media_type, memory } = found;
    manifest(asked, digest, (bytes, media_type), Origin::Local, memory, record)
}

/// A manifest with its media type. `guard` is dropped with the body.
pub(crate) fn manifest<G: Send + 'static>(
    asked: &Asked<'_>,
    digest: &Digest,
    (bytes, media_type): (Bytes, &'static str),
    source: Origin,
    guard: G,
    mut record: Record,
) -> Response<Body> {
    let total = bytes.len() as u64;
    let head = ContentHead { digest, media_type, registry: asked.registry, total, range: None };
    record.answered(head.status(), source, total);
    if asked.method == Method::HEAD {
        return head.response(Body::empty());
    }
    let piece = stream::iter([Ok(bytes)]).map(move |piece| {
        let _held_as_long_as_the_stream = &guard;
        piece
    });
    head.response(Served::body(piece.boxed(), total, record, asked.connection.clone()))
}
