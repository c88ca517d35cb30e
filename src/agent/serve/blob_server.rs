//! What other agents ask this one for: content of its store, and never content that it would have to
//! fetch itself.

mod in_flight;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::conditions::{is_not_modified, range_of};
use super::found::{Found, ServedFrom};
use super::record::{Received, Side};
use super::refusal::Refusal;
use super::responder::{self, Responder};
use super::uploads::Uploads;
use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::content::ingest_scrub::IngestScrubber;
use crate::agent::content::local::{Local, LocalError, Reader};
use crate::agent::content::store::Tag;
use crate::agent::content::tag_claims;
use crate::agent::counters::Counters;
use crate::agent::flight::header::Told;
use crate::agent::flight::table::Flights;
use crate::agent::policy::Policies;
use crate::http::{Answer, Connection};
use crate::limits::VERIFY_BEFORE_HEADERS;
use crate::oci::{ApiPath, ContentPath, ErrorCode, Item};

/// The peer port.
pub(crate) struct BlobServer {
    pub(crate) local: Local,
    pub(crate) uploads: Uploads,
    pub(crate) policies: Arc<Policies>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) pool: BufferPool,
    pub(crate) scrubber: IngestScrubber,
}

impl Answer for Arc<BlobServer> {
    async fn answer(self, request: Request<Incoming>, connection: Connection) -> Response<Body> {
        let (request, _no_body) = request.into_parts();
        let answered = self.respond(&request, connection).await;
        answered.unwrap_or_else(|refusal| refusal.response(&request.method))
    }
}

impl BlobServer {
    async fn respond(&self, request: &Parts, connection: Connection) -> Result<Response<Body>, Refusal> {
        let (method, uri) = (&request.method, &request.uri);
        if method != Method::GET && method != Method::HEAD {
            let (status, code) = (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported);
            return Err(Refusal::new(status, code, "only GET and HEAD are served here"));
        }
        if uri.path() == crate::api::path::HEALTHZ {
            return Ok(Response::new(Body::empty()));
        }
        match ApiPath::parse(uri.path(), uri.query()) {
            Ok(ApiPath::Base) => Ok(responder::base()),
            Ok(ApiPath::Content(path)) => Ok(self.content(request, &path, connection).await),
            Err(error) => Err(Refusal::no_content(error)),
        }
    }

    async fn content(&self, request: &Parts, path: &ContentPath, connection: Connection) -> Response<Body> {
        let is_over_limit = connection.is_over_limit;
        let connection = Some(connection);
        let received = Received { side: Side::Peer, method: &request.method, path, connection };
        let responder = Responder::new(received, Arc::clone(&self.counters));
        let found = self.find(request, path, is_over_limit).await;
        responder.respond(found.map_err(|error| refusal(path, &error)))
    }

    async fn find(
        &self,
        request: &Parts,
        path: &ContentPath,
        is_over_limit: bool,
    ) -> Result<Found, NotGiven> {
        // Content that the store holds back is not given under another name either.
        self.policies.admits(path).map_err(|_| NotGiven::Unknown)?;
        if is_over_limit {
            return Err(NotGiven::Full);
        }
        let Tag { digest, set_at } = self.tag_or_digest(path).await?;
        let tag_age = set_at.and_then(|set_at| tag_claims::age(set_at, SystemTime::now()));
        let is_unchanged = is_not_modified(&request.headers, &digest);
        let head_only = request.method == Method::HEAD;
        if path.is_manifest() {
            // Boxed, like everything that is not the next bytes of a blob: the future of each request is moved about.
            let manifest = Box::pin(self.local.manifest(&digest)).await?.ok_or(NotGiven::Unknown)?;
            let found = if is_unchanged {
                Found::unchanged(digest, manifest.bytes.len() as u64)
            } else {
                Found::own_manifest(digest, manifest, head_only)
            };
            return Ok(Found { tag_age, ..found });
        }
        if let Some(asked) = in_flight::asked(request, path) {
            return Box::pin(self.in_flight(request, path, digest, asked)).await;
        }
        if is_unchanged && let Some(size_bytes) = self.local.size(&digest).await? {
            return Ok(Found::unchanged(digest, size_bytes));
        }
        if head_only {
            let size_bytes = self.local.size(&digest).await?.ok_or(NotGiven::Unknown)?;
            return Ok(Found::size(digest, ServedFrom::OwnStore, size_bytes));
        }
        let upload = self.uploads.start().ok_or(NotGiven::Full)?;
        let verdict_by = Instant::now() + VERIFY_BEFORE_HEADERS;
        let blob = self.local.blob(&digest, Reader::Peer, verdict_by).await?.ok_or(NotGiven::Unknown)?;
        let range = range_of(&request.headers, Some(&digest));
        Ok(Found::own_blob(digest, blob, range, Some(upload)))
    }

    /// The digest that is asked for, or the tag with the time at which it was set.
    async fn tag_or_digest(&self, path: &ContentPath) -> Result<Tag, NotGiven> {
        match (&path.item, path.tag_name()) {
            (Item::Manifest(digest) | Item::Blob(digest), _) => {
                Ok(Tag { digest: digest.clone(), set_at: None })
            }
            (Item::Tag(_), Some(name)) if self.policies.serves_tags(path.registry.as_deref()) => {
                self.local.tag(&name).await?.ok_or(NotGiven::Unknown)
            }
            (Item::Tag(_), _) => Err(NotGiven::Unknown),
        }
    }
}

/// Why nothing is given.
#[derive(Debug, thiserror::Error)]
enum NotGiven {
    #[error("this node does not hold it")]
    Unknown,
    #[error("all upload slots are taken")]
    Full,
    #[error("this node sends it to as many others as it may, or has nothing of it to come")]
    Elsewhere(Box<Told>),
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// Turns an error of this port into a refusal. For a peer, damaged content is not there; what the store said
/// stays in this node's log.
fn refusal(path: &ContentPath, error: &NotGiven) -> Refusal {
    match error {
        NotGiven::Unknown | NotGiven::Local(LocalError::Damaged { .. }) => {
            Refusal::unknown(path.is_manifest(), NotGiven::Unknown.to_string())
        }
        NotGiven::Local(LocalError::TooLarge { .. }) => {
            Refusal::unknown(path.is_manifest(), error.to_string())
        }
        NotGiven::Elsewhere(told) => {
            let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests);
            Refusal { told: Some(told.clone()), ..Refusal::new(status, code, error.to_string()) }
        }
        NotGiven::Full | NotGiven::Local(LocalError::Busy) => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests, error.to_string())
        }
        NotGiven::Local(LocalError::Store(_) | LocalError::Read(_)) => {
            tracing::warn!(error = piccolo_raft::errors::chain(error), "could not serve a peer");
            let (status, code) = (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown);
            Refusal::new(status, code, "this node could not read the content; its agent's log says why")
        }
    }
}
