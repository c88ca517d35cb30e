//! Content from peers: one after the other until one answers properly. Nothing goes to containerd
//! before that.
//!
//! Manifests, and blobs up to [`VERIFIED_WHOLE_BYTES_MAX`], are received and verified whole
//! ([`spool`]); larger blobs are passed on as they come and verified before their last byte
//! ([`relay`]) (I5).

mod offer;
mod prefix;
mod relay;
mod spool;
mod tag;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::CONTENT_RANGE;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::body::ByteStream;
use super::discovery::{Discovery, LookupError};
use super::peer::{self, Answer, Ask, PeerError};
use super::recent::Recent;
use super::store::Store;
use crate::limits::{
    ABORT_AGAIN_AFTER, MANIFEST_BYTES_MAX, PEER_AVOID_TTL, PEER_HEADER_TIMEOUT, PEER_UNREACHABLE_TTL,
    TROUBLES_REMEMBERED_MAX, VERIFIED_WHOLE_BYTES_MAX,
};
use crate::oci::{ByteRange, ContentPath, Digest, RangeHeader, media_type};
use crate::task::Stop;

pub(crate) use offer::{Head, Offer};
use prefix::Prefixes;
use relay::Relay;
pub(crate) use spool::Whole;
pub(crate) use tag::TagManifest;

/// Fetches from peers, and remembers for a while which of them failed.
pub(crate) struct Fetcher {
    discovery: Arc<Discovery>,
    store: Arc<dyn Store>,
    /// Peers that sent something wrong: not asked for that digest.
    bad: Recent<(SocketAddr, Digest)>,
    /// Peers whose stream broke off once: asked last.
    shaky: Recent<(SocketAddr, Digest)>,
    /// Peers that did not answer at all: asked after all others, whatever is wanted.
    silent: Recent<SocketAddr>,
    /// Digests whose answer was cut before its first byte: the next request gets 404 at once.
    cut: Recent<Digest>,
    /// Hashes of large blobs that broke off.
    prefixes: Prefixes,
    tasks: TaskTracker,
    stop: Stop,
}

/// What containerd asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) path: ContentPath,
    pub(crate) digest: Digest,
    pub(crate) range: Option<RangeHeader>,
    pub(crate) head_only: bool,
}

/// What a peer had.
pub(crate) enum Fetched {
    /// All of it, verified.
    Whole { whole: Whole, head: Head, source: SocketAddr },
    /// A manifest, verified.
    Manifest { bytes: Bytes, media_type: &'static str, source: SocketAddr },
    /// The part of a large blob that was asked for, on its way.
    Stream { head: Head, stream: ByteStream, source: SocketAddr },
    /// Only its size was asked for.
    Size { total: u64, source: SocketAddr },
    /// The range is outside of it.
    Unsatisfiable { total: u64, source: SocketAddr },
}

impl Fetched {
    pub(crate) fn source(&self) -> SocketAddr {
        match self {
            Fetched::Whole { source, .. } | Fetched::Manifest { source, .. } => *source,
            Fetched::Stream { source, .. } | Fetched::Size { source, .. } => *source,
            Fetched::Unsatisfiable { source, .. } => *source,
        }
    }
}

/// Why no peer had it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missed {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("no peer holds it")]
    NoHolder,
    #[error("{attempts} attempts at peers, none could deliver it")]
    NoSource { attempts: usize },
    #[error("the answer before this one was cut")]
    JustCut,
}

impl Missed {
    /// Peers asked in vain.
    pub(crate) fn attempts(&self) -> usize {
        if let Missed::NoSource { attempts } = self { *attempts } else { 0 }
    }
}

impl Fetcher {
    pub(crate) fn new(discovery: Arc<Discovery>, store: Arc<dyn Store>, stop: Stop) -> Self {
        Self {
            discovery,
            store,
            bad: Recent::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            shaky: Recent::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            silent: Recent::new(PEER_UNREACHABLE_TTL, TROUBLES_REMEMBERED_MAX),
            cut: Recent::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            prefixes: Prefixes::default(),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Waits for what outlives its request: aborts of ingests.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Gets `wanted` from a peer. `offer` says what the headers may promise while the bytes are
    /// still being received; dropping the future ends the transfer.
    pub(crate) async fn fetch(
        self: Arc<Self>,
        wanted: Wanted,
        offer: Arc<Offer>,
        deadline: Instant,
    ) -> Result<Fetched, Missed> {
        if self.cut.take(&wanted.digest) {
            return Err(Missed::JustCut);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let holders = self.discovery.find(wanted.digest.as_str(), left).await?;
        if holders.is_empty() {
            return Err(Missed::NoHolder);
        }
        let holders = self.in_order(holders, &wanted.digest);
        let mut again: VecDeque<SocketAddr> = VecDeque::new();
        let mut waiting = VecDeque::from(holders);
        let mut attempts = 0;
        let mut unsatisfiable = None;
        // A peer whose headers were late is asked once more, after all others, if there is time.
        while let Some((holder, is_first)) =
            waiting.pop_front().map(|holder| (holder, true)).or_else(|| again.pop_front().map(|h| (h, false)))
        {
            attempts += 1;
            let patience = patience(1 + waiting.len() + again.len(), deadline);
            match self.attempt(holder, &wanted, &offer, patience).await {
                // One that lies about the length must not have the last word.
                Ok(fetched @ Fetched::Unsatisfiable { .. }) => {
                    count("unsatisfiable");
                    unsatisfiable.get_or_insert(fetched);
                }
                Ok(fetched) => {
                    count("ok");
                    return Ok(fetched);
                }
                Err(error) => {
                    offer.withdraw();
                    self.failed(holder, &wanted.digest, &error);
                    if is_first && matches!(error, PeerError::HeaderTimeout) {
                        again.push_back(holder);
                    }
                }
            }
        }
        unsatisfiable.ok_or(Missed::NoSource { attempts })
    }

    /// The answer to `digest` was cut before its first byte.
    pub(crate) fn was_cut(&self, digest: &Digest) {
        self.cut.insert(digest.clone());
    }

    /// Who is asked, in which order.
    fn in_order(&self, holders: Vec<SocketAddr>, digest: &Digest) -> Vec<SocketAddr> {
        let not_bad = holders.into_iter().filter(|holder| !self.bad.contains(&(*holder, digest.clone())));
        let shaky = |holder: &SocketAddr| self.shaky.contains(&(*holder, digest.clone()));
        let mut in_order: Vec<SocketAddr> = not_bad.collect();
        // Stable: nearest first among equals.
        in_order.sort_by_cached_key(|holder| (self.silent.contains(holder), shaky(holder)));
        in_order
    }

    fn failed(&self, holder: SocketAddr, digest: &Digest, error: &PeerError) {
        count(error.label());
        if let PeerError::Spool(_) = error {
            tracing::error!(%digest, %error, "no room for temporary files on this node: see TMPDIR");
        } else {
            tracing::info!(%holder, %digest, %error, "peer did not deliver");
        }
        if error.is_silent() {
            self.silent.insert(holder);
        }
        let pair = (holder, digest.clone());
        if error.is_wrong() || (error.is_broken() && self.shaky.contains(&pair)) {
            self.bad.insert(pair);
        } else if error.is_broken() {
            self.shaky.insert(pair);
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        holder: SocketAddr,
        wanted: &Wanted,
        offer: &Offer,
        patience: Duration,
    ) -> Result<Fetched, PeerError> {
        if wanted.path.is_manifest() {
            return self.manifest(holder, wanted, patience).await;
        }
        if wanted.head_only {
            let answer = ask(holder, &wanted.path, &Method::HEAD, None, patience).await?;
            return match (answer.status, answer.length()) {
                (StatusCode::OK, Some(total)) => Ok(Fetched::Size { total, source: holder }),
                (StatusCode::OK, None) => Err(PeerError::Length),
                (status, _) => Err(PeerError::Status(status)),
            };
        }
        let answer = ask(holder, &wanted.path, &Method::GET, wanted.range, patience).await?;
        let part = match part(&answer, wanted.range)? {
            Part::Bytes(range) => range,
            Part::Unsatisfiable { total } => return Ok(Fetched::Unsatisfiable { total, source: holder }),
        };
        let total = part.total;
        let range = match wanted.range.map(|range| range.within(total)) {
            Some(None) => return Ok(Fetched::Unsatisfiable { total, source: holder }),
            Some(range) => range,
            None => None,
        };
        let head = Head { total, range };
        if !offer.make(head) {
            return Err(PeerError::Length);
        }
        if total <= VERIFIED_WHOLE_BYTES_MAX {
            let whole = whole(holder, wanted, answer, part).await?;
            return Ok(Fetched::Whole { whole, head, source: holder });
        }
        if part != range.unwrap_or(ByteRange::whole(total)) {
            return Err(PeerError::Length);
        }
        let mut source = answer.body;
        let first = source.next().await?.ok_or(PeerError::Short)?;
        let relay = Relay { fetcher: Arc::clone(self), holder, digest: wanted.digest.clone() };
        let stream = relay.stream(source, first, part);
        Ok(Fetched::Stream { head, stream, source: holder })
    }

    async fn manifest(
        &self,
        holder: SocketAddr,
        wanted: &Wanted,
        patience: Duration,
    ) -> Result<Fetched, PeerError> {
        let answer = ask(holder, &wanted.path, &Method::GET, None, patience).await?;
        let bytes = manifest_bytes(answer).await?;
        spool::verify(&bytes, &wanted.digest)?;
        let media_type = media_type::of_manifest(&bytes).ok_or(PeerError::NotManifest)?;
        Ok(Fetched::Manifest { bytes, media_type, source: holder })
    }

    /// A large blob was passed on before its bytes turned out wrong; the connection to containerd is
    /// being reset. What containerd has of it would fail every later pull: away with it, and once
    /// more, because containerd may still have been writing.
    fn wrong_bytes_passed_on(self: &Arc<Self>, digest: Digest) {
        let fetcher = Arc::clone(self);
        self.tasks.spawn(async move {
            fetcher.abort(&digest).await;
            _ = fetcher.stop.run_until_cancelled(tokio::time::sleep(ABORT_AGAIN_AFTER)).await;
            fetcher.abort(&digest).await;
        });
    }

    async fn abort(&self, digest: &Digest) {
        match self.store.abort_ingests(digest).await {
            Ok(count) => tracing::warn!(%digest, count, "aborted ingests of bad bytes"),
            Err(error) => tracing::error!(%digest, %error, "could not abort ingests of bad bytes"),
        }
    }
}

/// What a peer's answer to a blob request holds.
enum Part {
    Bytes(ByteRange),
    Unsatisfiable { total: u64 },
}

/// Checks status, length and range of an answer against each other and against what was asked.
fn part(answer: &Answer, asked: Option<RangeHeader>) -> Result<Part, PeerError> {
    let content_range = || answer.header(CONTENT_RANGE.as_str());
    match (answer.status, asked) {
        (StatusCode::OK, _) => answer.length().map(|total| Part::Bytes(ByteRange::whole(total))),
        (StatusCode::PARTIAL_CONTENT, Some(asked)) => content_range()
            .and_then(ByteRange::parse_content_range)
            .filter(|range| asked.within(range.total) == Some(*range) && answer.length() == Some(range.len()))
            .map(Part::Bytes),
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(asked)) => content_range()
            .and_then(|range| range.strip_prefix("bytes */")?.parse().ok())
            .filter(|total| asked.within(*total).is_none())
            .map(|total| Part::Unsatisfiable { total }),
        (status, _) => return Err(PeerError::Status(status)),
    }
    .ok_or(PeerError::Length)
}

/// All of a small blob, also if only a part of it was asked for: a part cannot be verified.
async fn whole(
    holder: SocketAddr,
    wanted: &Wanted,
    answer: Answer,
    part: ByteRange,
) -> Result<Whole, PeerError> {
    let body = if part.is_whole() {
        answer.body
    } else {
        drop(answer);
        let answer = ask(holder, &wanted.path, &Method::GET, None, PEER_HEADER_TIMEOUT).await?;
        if answer.status != StatusCode::OK {
            return Err(PeerError::Status(answer.status));
        }
        if answer.length() != Some(part.total) {
            return Err(PeerError::Length);
        }
        answer.body
    };
    spool::receive(body, part.total, &wanted.digest).await
}

/// How long the next of so many peers may take for its headers: the last one may use up what is left.
fn patience(peers_left: usize, deadline: Instant) -> Duration {
    if peers_left > 1 {
        return PEER_HEADER_TIMEOUT;
    }
    deadline.saturating_duration_since(Instant::now()).max(PEER_HEADER_TIMEOUT)
}

fn count(result: &'static str) {
    ::metrics::counter!("piccolo_peer_attempts_total", "result" => result).increment(1);
}

async fn ask(
    holder: SocketAddr,
    path: &ContentPath,
    method: &Method,
    range: Option<RangeHeader>,
    patience: Duration,
) -> Result<Answer, PeerError> {
    let accept = if path.is_manifest() { media_type::ACCEPT_MANIFESTS } else { "*/*" };
    peer::ask(holder, Ask { method, target: &path.request_target(), range, accept, patience }).await
}

async fn manifest_bytes(answer: Answer) -> Result<Bytes, PeerError> {
    if answer.status != StatusCode::OK {
        return Err(PeerError::Status(answer.status));
    }
    let length = answer.length().filter(|length| *length <= MANIFEST_BYTES_MAX).ok_or(PeerError::Length)?;
    spool::memory(answer.body, length).await
}
