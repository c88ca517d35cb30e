//! Tags from peers. A tag is mutable: a peer's word counts only for what it holds, and only together
//! with bytes that hash to the digest that it names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::candidates::Roster;
use super::manifests::{manifest_bytes, manifest_type};
use super::peer::{PeerError, Peers};
use super::{DEADLINE_MARGIN, Fetcher, ask, count};
use crate::agent::content::tag_claims::{Claim, TAG_AGE_MS};
use crate::limits::TAG_HOLDERS_ASKED_AT_ONCE;
use crate::oci::{CONTENT_DIGEST, ContentPath, Digest, Item, Reference};

/// What a peer says that a tag is.
#[derive(Clone, Debug)]
pub(crate) struct TagManifest {
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
    pub(crate) media_type: &'static str,
    pub(crate) source: SocketAddr,
}

impl Fetcher {
    /// The answer of the first holder that gives a proper one, and how many were asked.
    pub(crate) async fn first_tag(
        self: &Arc<Self>,
        path: &ContentPath,
        holders: Vec<SocketAddr>,
        deadline: Instant,
    ) -> (Option<TagManifest>, usize) {
        // What is wrong with a peer is remembered by digest, and there is none yet.
        let name = Digest::of(path.tag_name().unwrap_or_default().as_bytes());
        let mut roster = Roster::new(self.to_ask_for_tag(path, holders, &name));
        let deadline = deadline - DEADLINE_MARGIN;
        let raced = self.race(&mut roster, &name, deadline, |holder| self.tag(path, holder)).await;
        self.probe_later();
        (raced.ok().map(|(_, found)| found), roster.attempts())
    }

    /// Those of `holders` that are asked, in order. A pull begins with its tag: where no holder is asked for
    /// that, nothing else is wanted of them, so that a tag is as good a reason for probes as content.
    fn to_ask_for_tag(
        &self,
        path: &ContentPath,
        holders: Vec<SocketAddr>,
        digest: &Digest,
    ) -> Vec<SocketAddr> {
        self.troubles.asked(&holders, path);
        if !holders.is_empty() && !holders.iter().any(|holder| self.troubles.admits(*holder)) {
            self.troubles.request_was_skipped(&holders);
        }
        self.troubles.order(holders, digest)
    }

    /// What each of `holders` says that the tag is, as of the moment of the return: up to
    /// [`TAG_HOLDERS_ASKED_AT_ONCE`] are asked at once, and those that have not answered by `until` are left out.
    pub(crate) async fn tag_claims(
        &self,
        path: &ContentPath,
        holders: &[SocketAddr],
        until: Instant,
    ) -> Vec<(SocketAddr, Claim)> {
        let places = Semaphore::new(TAG_HOLDERS_ASKED_AT_ONCE);
        let asked = holders.iter().map(|holder| async {
            let _place = places.acquire().await;
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
        let asked = timeout_at(until, claim_of(&self.peers, holder, path));
        match asked.await.unwrap_or(Err(PeerError::HeaderTimeout)) {
            Ok(claim) => {
                count("ok");
                // Whoever answers can be asked for the manifest, too.
                self.troubles.answered(holder);
                Some(claim)
            }
            Err(error) => {
                count(error.label());
                tracing::info!(%holder, %error, tag = path.tag_name().unwrap_or_default(), "peer did not deliver");
                None
            }
        }
    }

    /// The manifest `digest` that these `holders` say the tag is.
    pub(crate) async fn tag_manifest(
        self: &Arc<Self>,
        path: &ContentPath,
        digest: &Digest,
        holders: Vec<SocketAddr>,
        deadline: Instant,
    ) -> Option<TagManifest> {
        let path = ContentPath { item: Item::Manifest(digest.clone()), ..path.clone() };
        let mut roster = Roster::new(self.to_ask_for_tag(&path, holders, digest));
        let attempt = |holder| self.manifest(holder, &path, digest);
        let deadline = deadline - DEADLINE_MARGIN;
        let raced = self.race(&mut roster, digest, deadline, attempt).await;
        self.probe_later();
        let (source, (bytes, media_type)) = raced.ok()?;
        Some(TagManifest { digest: digest.clone(), bytes, media_type, source })
    }

    async fn tag(&self, path: &ContentPath, holder: SocketAddr) -> Result<TagManifest, PeerError> {
        let answer = ask(&self.peers, holder, path, &Method::GET, None).await?;
        let named = answer.header(CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        let bytes = manifest_bytes(answer).await?;
        let digest = named.ok_or(PeerError::WrongBytes)?;
        let media_type = manifest_type(&bytes, &digest).await?;
        Ok(TagManifest { digest, bytes, media_type, source: holder })
    }
}

/// What one holder says that a tag is, and since when. Only the head is asked for: the bytes come from
/// those whose claim wins.
pub(crate) async fn claim_of(
    peers: &Arc<Peers>,
    holder: SocketAddr,
    path: &ContentPath,
) -> Result<Claim, PeerError> {
    let answer = ask(peers, holder, path, &Method::HEAD, None).await?;
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
    let peers = Arc::default();
    let places = Semaphore::new(TAG_HOLDERS_ASKED_AT_ONCE);
    let asked = holders.iter().map(|holder| async {
        let _place = places.acquire().await;
        timeout(time, claim_of(&peers, *holder, &path)).await.unwrap_or(Err(PeerError::HeaderTimeout))
    });
    Some(join_all(asked).await)
}
