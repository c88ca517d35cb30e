//! What other agents ask this one for: content of its store, never anything that it would have to
//! fetch itself.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::answer::{self, Refusal};
use super::content_response::{self, Asked};
use super::record::{Origin, Record, Side};
use super::uploads::{Upload, Uploads};
use crate::agent::content::local::{Local, LocalBlob, LocalError, LocalManifest, Reader};
use crate::agent::content::store::Tag;
use crate::agent::content::tag_claims::{self, TAG_AGE_MS};
use crate::agent::counters::Counters;
use crate::agent::policy::Policies;
use crate::http::{Answer, Connection};
use crate::limits::VERIFY_BEFORE_HEADERS;
use crate::oci::{ApiPath, ContentPath, Digest, ErrorCode, Item};

/// The peer port.
pub(crate) struct BlobServer {
    pub(crate) local: Local,
    pub(crate) uploads: Uploads,
    pub(crate) policies: Arc<Policies>,
    pub(crate) counters: Arc<Counters>,
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
            Ok(ApiPath::Base) => Ok(answer::base()),
            Ok(ApiPath::Content(path)) => self.content(request, &path, connection).await,
            Err(error) => Err(Refusal::no_content(error)),
        }
    }

    async fn content(
        &self,
        request: &Parts,
        path: &ContentPath,
        connection: Connection,
    ) -> Result<Response<Body>, Refusal> {
        let (client, is_over_limit) = (Some(connection.peer), connection.is_over_limit);
        let mut record = Record::new(Side::Peer, &request.method, path, client, Arc::clone(&self.counters));
        let asked = Asked {
            method: &request.method,
            range: content_response::range_of(&request.headers, path.digest()),
            registry: path.registry.as_deref(),
            connection: Some(connection),
        };
        let mut tag_age = None;
        match self.find(request, path, is_over_limit, &mut tag_age).await {
            Ok(found) => {
                let mut response = self.give(asked, found, record);
                if let Some(age) = tag_age {
                    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                    response.headers_mut().insert(HeaderName::from_static(TAG_AGE_MS), age_ms.into());
                }
                Ok(response)
            }
            Err(error) => {
                let refusal = refusal(path, &error);
                record.refused(&refusal);
                Err(refusal)
            }
        }
    }

    /// Sets `tag_age` to how long ago the tag was set here, if a tag is asked for and that is known.
    async fn find(
        &self,
        request: &Parts,
        path: &ContentPath,
        is_over_limit: bool,
        tag_age: &mut Option<Duration>,
    ) -> Result<Found, NotGiven> {
        // What the store holds back for its own names is not there either.
        self.policies.admits(path).map_err(|_| NotGiven::Unknown)?;
        if is_over_limit {
            return Err(NotGiven::Full);
        }
        let Tag { digest, set_at } = self.tag_or_digest(path).await?;
        *tag_age = set_at.and_then(|set_at| tag_claims::age(set_at, SystemTime::now()));
        let not_modified = answer::is_not_modified(&request.headers, &digest);
        if path.is_manifest() {
            // Boxed, as whatever is not a blob's next bytes: the future of each request is moved about.
            let manifest = Box::pin(self.local.manifest(&digest)).await?.ok_or(NotGiven::Unknown)?;
            if not_modified {
                return Ok(Found::NotModified(answer::not_modified(&digest, manifest.bytes.len() as u64)));
            }
            return Ok(Found::Manifest(digest, manifest));
        }
        if not_modified && let Some(size_bytes) = self.local.size(&digest).await? {
            return Ok(Found::NotModified(answer::not_modified(&digest, size_bytes)));
        }
        if request.method == Method::HEAD {
            let size_bytes = self.local.size(&digest).await?.ok_or(NotGiven::Unknown)?;
            return Ok(Found::Size(digest, size_bytes));
        }
        let upload = self.uploads.start().ok_or(NotGiven::Full)?;
        let verdict_by = Instant::now() + VERIFY_BEFORE_HEADERS;
        let blob = self.local.blob(&digest, Reader::Peer, verdict_by).await?.ok_or(NotGiven::Unknown)?;
        Ok(Found::Blob(digest, blob, upload))
    }

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

    fn give(&self, asked: Asked<'_>, found: Found, mut record: Record) -> Response<Body> {
        match found {
            Found::NotModified(response) => {
                record.answered(response.status(), Origin::Local, 0);
                response
            }
            Found::Manifest(digest, manifest) => {
                content_response::local_manifest(&asked, &digest, manifest, record)
            }
            Found::Size(digest, size) => {
                content_response::blob_head(&asked, &digest, size, Origin::Local, record)
            }
            Found::Blob(digest, blob, upload) => {
                content_response::blob(asked, &digest, blob, self.uploads.rate(), upload, record)
            }
        }
    }
}

/// What can be given.
enum Found {
    NotModified(Response<Body>),
    Manifest(Digest, LocalManifest),
    Size(Digest, u64),
    Blob(Digest, LocalBlob, Upload),
}

/// Why nothing is given.
#[derive(Debug, thiserror::Error)]
enum NotGiven {
    #[error("this node does not hold it")]
    Unknown,
    #[error("all upload slots are taken")]
    Full,
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// The only place where an error of this port becomes an answer. Content that is damaged is, for a
/// peer, not there; what the store said stays in our log.
fn refusal(path: &ContentPath, error: &NotGiven) -> Refusal {
    match error {
        NotGiven::Unknown | NotGiven::Local(LocalError::Damaged { .. }) => {
            Refusal::unknown(path.is_manifest(), NotGiven::Unknown.to_string())
        }
        NotGiven::Local(LocalError::TooLarge { .. }) => {
            Refusal::unknown(path.is_manifest(), error.to_string())
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
