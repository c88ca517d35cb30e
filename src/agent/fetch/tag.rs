//! Tags from peers. A tag is mutable: a peer's word counts only for what it holds, and only together
//! with bytes that hash to the digest that it names.

use std::net::SocketAddr;

use axum::http::Method;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::roster::Roster;
use super::{Fetcher, ask, count, manifest_bytes, spool};
use crate::agent::answer::CONTENT_DIGEST;
use crate::agent::peer::PeerError;
use crate::limits::{HEDGE_DELAY_MAX, TAG_VOTES};
use crate::oci::{ContentPath, Digest, media_type};

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
        &self,
        path: &ContentPath,
        holders: Vec<SocketAddr>,
        deadline: Instant,
    ) -> (Option<TagManifest>, usize) {
        // What is wrong with a peer is remembered by digest, and there is none yet.
        let name = Digest::of(path.tag_name().unwrap_or_default().as_bytes());
        let mut roster = Roster::new(self.troubles.order(holders, &name));
        let raced = self.race(&mut roster, &name, deadline, |holder| self.tag(path, holder)).await;
        (raced.ok().map(|(_, found)| found), roster.attempts())
    }

    /// The proper answers of up to [`TAG_VOTES`] holders.
    pub(crate) async fn tag_votes(
        &self,
        path: &ContentPath,
        holders: &[SocketAddr],
        deadline: Instant,
    ) -> Vec<TagManifest> {
        // A silent one among several must not keep the others from being heard.
        let deadline =
            if holders.len() > 1 { deadline.min(Instant::now() + HEDGE_DELAY_MAX) } else { deadline };
        let asked = holders.iter().take(TAG_VOTES).map(|holder| self.vote(path, *holder, deadline));
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn vote(&self, path: &ContentPath, holder: SocketAddr, deadline: Instant) -> Option<TagManifest> {
        match timeout_at(deadline, self.tag(path, holder)).await.unwrap_or(Err(PeerError::HeaderTimeout)) {
            Ok(found) => {
                count("ok");
                Some(found)
            }
            Err(error) => {
                count(error.label());
                tracing::info!(%holder, %error, tag = path.tag_name().unwrap_or_default(), "peer did not deliver");
                None
            }
        }
    }

    async fn tag(&self, path: &ContentPath, holder: SocketAddr) -> Result<TagManifest, PeerError> {
        let answer = ask(&self.peers, holder, path, &Method::GET, None).await?;
        let named = answer.header(CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        let bytes = manifest_bytes(answer).await?;
        let digest = named.ok_or(PeerError::WrongBytes)?;
        spool::verify(&bytes, &digest)?;
        let media_type = media_type::of_manifest(&bytes).ok_or(PeerError::NotManifest)?;
        Ok(TagManifest { digest, bytes, media_type, source: holder })
    }
}
