//! Tags from peers. A tag is mutable: a peer's word counts only for what it holds, and only together
//! with bytes that hash to the digest that it names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::manifest::{manifest, manifest_bytes, manifest_type};
use super::peers::client::PeerClient;
use super::peers::error::{PeerError, count_attempt};
use super::peers::probe::Prober;
use super::sources::Sources;
use crate::agent::content::tag_claims::{Claim, TAG_AGE_MS};
use crate::limits::{REQUEST_DEADLINE_MARGIN, TAG_HOLDERS_ASKED_AT_ONCE};
use crate::oci::{CONTENT_DIGEST, ContentPath, Digest, Item, Reference};

/// The manifest that a tag is at a peer.
#[derive(Clone, Debug)]
pub(crate) struct TagManifest {
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
    pub(crate) media_type: &'static str,
    pub(crate) source: SocketAddr,
}

/// Fetches tags.
pub(crate) struct TagFetcher {
    sources: Arc<Sources>,
    prober: Arc<Prober>,
}

impl TagFetcher {
    /// A fetcher of tags from `sources`.
    pub(super) fn new(sources: Arc<Sources>, prober: Arc<Prober>) -> Self {
        Self { sources, prober }
    }

    /// The answer of the first holder that gives a proper one, and how many were asked.
    pub(crate) async fn first_manifest(
        &self,
        path: &ContentPath,
        holders: Vec<SocketAddr>,
        deadline: Instant,
    ) -> (Option<TagManifest>, usize) {
        // Failures of a peer are remembered by digest, and a tag has none yet.
        let name = Digest::of(path.tag_name().unwrap_or_default().as_bytes());
        let mut candidates = self.sources.tag_candidates(path, holders, &name);
        let deadline = deadline - REQUEST_DEADLINE_MARGIN;
        let attempt = |holder| tag_manifest(&self.sources.client, holder, path);
        let answered = self.sources.hedging.first_answer(&mut candidates, &name, deadline, attempt).await;
        self.prober.start_if_needed();
        (answered.ok().map(|(_, found)| found), candidates.attempts())
    }

    /// What each of `holders` says that the tag is, as of the moment of the return: up to
    /// [`TAG_HOLDERS_ASKED_AT_ONCE`] are asked at once, and those that have not answered by `until` are left out.
    pub(crate) async fn claims(
        &self,
        path: &ContentPath,
        holders: &[SocketAddr],
        until: Instant,
    ) -> Vec<(SocketAddr, Claim)> {
        let permits = Semaphore::new(TAG_HOLDERS_ASKED_AT_ONCE);
        let asked = holders.iter().map(|holder| async {
            let _permit = permits.acquire().await;
            let claim = self.claim(path, *holder, until).await?;
            Some((*holder, claim, Instant::now()))
        });
        let answered = join_all(asked).await;
        let now = Instant::now();
        let as_of_now = |(holder, mut claim, at): (SocketAddr, Claim, Instant)| {
            claim.age = claim.age.map(|age| age + now.duration_since(at));
            (holder, claim)
        };
        answered.into_iter().flatten().map(as_of_now).collect()
    }

    async fn claim(&self, path: &ContentPath, holder: SocketAddr, until: Instant) -> Option<Claim> {
        match claim_of(&self.sources.client, holder, path, until).await {
            Ok(claim) => {
                count_attempt("ok");
                // A holder that answers can be asked for the manifest, too.
                self.sources.health.answered(holder);
                Some(claim)
            }
            Err(error) => {
                count_attempt(error.label());
                tracing::info!(%holder, %error, tag = path.tag_name().unwrap_or_default(), "peer did not deliver");
                None
            }
        }
    }

    /// The manifest `digest`, which these `holders` say that the tag is.
    pub(crate) async fn claimed_manifest(
        &self,
        path: &ContentPath,
        digest: &Digest,
        holders: Vec<SocketAddr>,
        deadline: Instant,
    ) -> Option<TagManifest> {
        let path = ContentPath { item: Item::Manifest(digest.clone()), ..path.clone() };
        let sources = &self.sources;
        let mut candidates = sources.tag_candidates(&path, holders, digest);
        let attempt = |holder| manifest((&sources.client, &sources.health), holder, &path, digest);
        let deadline = deadline - REQUEST_DEADLINE_MARGIN;
        let answered = sources.hedging.first_answer(&mut candidates, digest, deadline, attempt).await;
        self.prober.start_if_needed();
        let (source, (bytes, media_type)) = answered.ok()?;
        Some(TagManifest { digest: digest.clone(), bytes, media_type, source })
    }
}

async fn tag_manifest(
    client: &PeerClient,
    holder: SocketAddr,
    path: &ContentPath,
) -> Result<TagManifest, PeerError> {
    let answer = client.ask(holder, path, &Method::GET, None).await?;
    let named = answer.header(CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
    let bytes = manifest_bytes(answer).await?;
    let digest = named.ok_or(PeerError::WrongBytes)?;
    let media_type = manifest_type(&bytes, &digest).await?;
    Ok(TagManifest { digest, bytes, media_type, source: holder })
}

/// What one holder says that a tag is, and since when. Only the headers are asked for: the bytes come from
/// those whose claim wins.
async fn claim_of(
    client: &PeerClient,
    holder: SocketAddr,
    path: &ContentPath,
    until: Instant,
) -> Result<Claim, PeerError> {
    let asked = timeout_at(until, client.ask(holder, path, &Method::HEAD, None));
    let answer = asked.await.unwrap_or(Err(PeerError::HeaderTimeout))?;
    if answer.status != StatusCode::OK {
        return Err(PeerError::Status(answer.status));
    }
    let digest = answer.header(CONTENT_DIGEST).and_then(|digest| digest.parse().ok());
    let age_ms: Option<u64> = answer.header(TAG_AGE_MS).and_then(|age| age.parse().ok());
    Ok(Claim {
        holder: holder.to_string(),
        digest: digest.ok_or(PeerError::WrongBytes)?,
        age: age_ms.map(Duration::from_millis),
    })
}

/// What each of `holders` says that the tag `registry/repository:tag` is; [`TAG_HOLDERS_ASKED_AT_ONCE`] are asked
/// at once, each for up to `time`. `None` if `name` is no such tag.
pub(crate) async fn claims_of_holders(
    name: &str,
    holders: &[SocketAddr],
    time: Duration,
) -> Option<Vec<Result<Claim, PeerError>>> {
    let Reference { registry, repository, tag, .. } = name.parse().ok()?;
    let path = ContentPath { registry: Some(registry), repository, item: Item::Tag(tag?) };
    let (client, permits) = (PeerClient::default(), Semaphore::new(TAG_HOLDERS_ASKED_AT_ONCE));
    let asked = holders.iter().map(|holder| async {
        let _permit = permits.acquire().await;
        claim_of(&client, *holder, &path, Instant::now() + time).await
    });
    Some(join_all(asked).await)
}
