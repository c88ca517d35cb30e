//! The registry mirror that containerd asks: local content first, then peers, then 404.
//!
//! Fixed answers: 200, 206, 404, 416 and 5xx, never a status that containerd retries or acts on
//! (401, 408, 429, redirects). Nothing of the request but its path, its registry and its range goes
//! to a peer (B11).

mod early_headers;
#[cfg(test)]
mod faulty_peers_tests;
#[cfg(test)]
mod fresh_holder_tests;
#[cfg(test)]
mod origin_tests;
#[cfg(test)]
mod policy_tests;
mod tag;
#[cfg(test)]
mod tag_peers_tests;
#[cfg(test)]
mod tag_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unreachable_peers_tests;
#[cfg(test)]
mod upstream_tests;
mod withheld;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::answer::{self, ContentHead, Refusal};
use super::body::Served;
use super::content_response::{self, Asked};
use super::record::{Origin, Record, Side};
use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::content::byte_stream::ByteStream;
use crate::agent::content::local::{Local, LocalBlob, LocalError, LocalManifest, Reader};
use crate::agent::counters::Counters;
use crate::agent::discovery::HolderLookup;
use crate::agent::fetch::{Fetched, Fetcher, Missed, Offer, RunningRange, Wanted};
use crate::agent::origin::Origins;
use crate::agent::policy::{NotOurs, Policies};
use crate::http::Connection;
use crate::oci::{ApiPath, ContentPath, Digest, ErrorCode, media_type};

/// What the store may take longer than the check of its content.
const GRACE: Duration = Duration::from_millis(50);

/// The mirror port.
pub(crate) struct Mirror {
    pub(crate) local: Local,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) discovery: Arc<HolderLookup>,
    pub(crate) origins: Origins,
    pub(crate) policies: Arc<Policies>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) pool: BufferPool,
    /// How long a request is held until its headers.
    pub(crate) resolve_timeout: Duration,
}

/// Its routes.
pub(crate) fn router(mirror: Arc<Mirror>) -> Router {
    Router::new().fallback(handle).with_state(mirror)
}

async fn handle(State(mirror): State<Arc<Mirror>>, request: Request) -> Response<Body> {
    let (request, _no_body) = request.into_parts();
    let answered = mirror.answer(&request).await;
    answered.unwrap_or_else(|refusal| refusal.response(&request.method))
}

/// This node's own content.
enum Own {
    Manifest(LocalManifest),
    Blob(LocalBlob),
    Size(u64),
}

impl Mirror {
    async fn answer(&self, request: &Parts) -> Result<Response<Body>, Refusal> {
        let (method, uri) = (&request.method, &request.uri);
        if method != Method::GET && method != Method::HEAD {
            // 404, not 405: see the fixed answers.
            let (status, code) = (StatusCode::NOT_FOUND, ErrorCode::Unsupported);
            return Err(Refusal::new(status, code, "a mirror knows only GET and HEAD"));
        }
        match ApiPath::parse(uri.path(), uri.query()) {
            Ok(ApiPath::Base) => Ok(answer::base()),
            Ok(ApiPath::Content(path)) => self.content(request, path).await,
            Err(error) => Err(Refusal::no_content(error)),
        }
    }

    async fn content(&self, request: &Parts, path: ContentPath) -> Result<Response<Body>, Refusal> {
        let connection = request.extensions.get::<Connection>().cloned();
        let client = connection.as_ref().map(|connection| connection.peer);
        let mut record =
            Record::new(Side::Mirror, &request.method, &path, client, Arc::clone(&self.counters));
        if connection.as_ref().is_some_and(|connection| connection.is_over_limit) {
            let refusal = Refusal::unknown(path.is_manifest(), "this mirror has too many requests in flight");
            record.refused(&refusal);
            return Err(refusal);
        }
        self.policies.remember_asked(&path);
        if let Err(not_ours) = self.policies.admits(&path) {
            let refusal = Refusal::unknown(path.is_manifest(), not_ours.to_string());
            record.refused(&refusal);
            return Err(refusal);
        }
        let asked = Asked {
            method: &request.method,
            range: content_response::range_of(&request.headers, path.digest()),
            registry: path.registry.as_deref(),
            connection,
        };
        let deadline = Instant::now() + self.discovery.held_for(self.resolve_timeout);
        if let (Some(registry), Some(_)) = (&path.registry, path.digest()) {
            self.origins.fetched(registry, &path.repository);
        }
        match path.digest() {
            Some(digest) => self.by_digest(asked, &path, digest, deadline, record).await,
            None => self.by_tag(asked, &path, deadline, record).await,
        }
    }

    async fn by_digest(
        &self,
        asked: Asked<'_>,
        path: &ContentPath,
        digest: &Digest,
        deadline: Instant,
        mut record: Record,
    ) -> Result<Response<Body>, Refusal> {
        match self.own(asked.method, path, digest).await {
            Some(Own::Manifest(found)) => {
                return Ok(content_response::local_manifest(&asked, digest, found, record));
            }
            Some(Own::Size(size)) => {
                return Ok(content_response::blob_head(&asked, digest, size, Origin::Local, record));
            }
            Some(Own::Blob(blob)) => {
                return Ok(content_response::blob(asked, digest, blob, None, (), record));
            }
            None => {}
        }
        let wanted = Wanted {
            path: path.clone(),
            digest: digest.clone(),
            range: asked.range,
            head_only: asked.method == Method::HEAD,
            running: asked.range.and_then(|range| self.fetcher.range(digest, range)),
        };
        let offer = Arc::<Offer>::default();
        let fetching = Arc::clone(&self.fetcher).fetch(wanted.clone(), Arc::clone(&offer), deadline);
        let mut fetching = Box::pin(fetching);
        let mut may_be_promised = true;
        let refusal = match timeout_at(deadline, &mut fetching).await {
            Ok(Ok(fetched)) => {
                let is_withheld = self.withholds(asked.registry, digest, &fetched);
                if !is_withheld.await {
                    return Ok(self.give(asked, digest, fetched, wanted.running, record));
                }
                may_be_promised = false;
                Refusal::unknown(path.is_manifest(), NotOurs::Manifests.to_string())
            }
            Ok(Err(missed)) => {
                may_be_promised = missed != Missed::JustCut;
                let mut refusal = Refusal::unknown(path.is_manifest(), missed.to_string());
                refusal.attempts = missed.attempts();
                refusal
            }
            Err(_) => match offer.take() {
                Some(head) => {
                    return Ok(self.give_late(asked, digest, head, (fetching, wanted.running), record));
                }
                None => Refusal::unknown(path.is_manifest(), "no peer answered properly in time"),
            },
        };
        if may_be_promised && let Some(promised) = self.fetcher.promised(&wanted) {
            return Ok(self.give_none(asked, digest, promised, record));
        }
        record.refused(&refusal);
        Err(refusal)
    }

    /// Content of this node, within half of the resolve timeout: a store that is slow, fails, or
    /// holds damaged content is no reason not to ask the peers.
    async fn own(&self, method: &Method, path: &ContentPath, digest: &Digest) -> Option<Own> {
        let until = Instant::now() + self.resolve_timeout / 2;
        let find = async {
            Ok::<_, LocalError>(if path.is_manifest() {
                self.local.manifest(digest).await?.map(Own::Manifest)
            } else if method == Method::HEAD {
                self.local.size(digest).await?.map(Own::Size)
            } else {
                self.local.blob(digest, Reader::Containerd, until).await?.map(Own::Blob)
            })
        };
        match timeout_at(until + GRACE, find).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(
                    %digest,
                    error = piccolo_raft::errors::chain(&error),
                    "could not use the content of this node's own store: peers are asked"
                );
                None
            }
            Err(_) => {
                tracing::warn!(%digest, "the store of this node did not answer in time: peers are asked");
                None
            }
        }
    }

    fn give(
        &self,
        asked: Asked<'_>,
        digest: &Digest,
        fetched: Fetched,
        running: Option<Arc<RunningRange>>,
        mut record: Record,
    ) -> Response<Body> {
        let source = Origin::Peer(fetched.source());
        let (head, stream) = match fetched {
            Fetched::Manifest { bytes, media_type, .. } => {
                return content_response::manifest(&asked, digest, (bytes, media_type), source, (), record);
            }
            Fetched::Size { total, .. } => {
                return content_response::blob_head(&asked, digest, total, source, record);
            }
            Fetched::Unsatisfiable { total, .. } => {
                let response = answer::unsatisfiable(asked.method, total);
                record.answered(response.status(), source, 0);
                return response;
            }
            Fetched::Whole { whole, head, .. } => (head, whole.stream(head.part(), self.pool.clone())),
            Fetched::Stream { head, stream, .. } => (head, stream),
        };
        let head = content_head(&asked, digest, head);
        record.answered(head.status(), source, head.length());
        let stream = held(stream, running);
        head.response(Served::body(stream, head.length(), record, asked.connection.clone()))
    }
}

/// The range runs until the last byte is out, or the cut: those behind it wait for that.
fn held(stream: ByteStream, running: Option<Arc<RunningRange>>) -> ByteStream {
    let Some(running) = running else { return stream };
    let held = stream.map(move |piece| {
        let _as_long_as_the_body = &running;
        piece
    });
    held.boxed()
}

fn content_head<'a>(
    asked: &Asked<'a>,
    digest: &'a Digest,
    head: crate::agent::content::head::Head,
) -> ContentHead<'a> {
    ContentHead {
        digest,
        media_type: media_type::OCTET_STREAM,
        registry: asked.registry,
        total: head.total,
        range: head.range,
    }
}
