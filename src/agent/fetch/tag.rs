//! Tags from peers. A tag is mutable: a peer's word counts only for what it holds, and only together
//! with bytes that hash to the digest that it names.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Fetcher, ask, count, manifest_bytes, patience, spool};
use crate::agent::answer::CONTENT_DIGEST;
use crate::agent::peer::PeerError;
use crate::limits::TAG_VOTES;
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
        holders: &[SocketAddr],
        deadline: Instant,
    ) -> (Option<TagManifest>, usize) {
        for (asked, holder) in holders.iter().enumerate() {
            if let Some(found) =
                self.logged_tag(path, *holder, patience(holders.len() - asked, deadline)).await
            {
                return (Some(found), asked + 1);
            }
        }
        (None, holders.len())
    }

    /// The proper answers of up to [`TAG_VOTES`] holders.
    pub(crate) async fn tag_votes(
        &self,
        path: &ContentPath,
        holders: &[SocketAddr],
        deadline: Instant,
    ) -> Vec<TagManifest> {
        let patience = patience(holders.len(), deadline);
        let asked = holders.iter().take(TAG_VOTES).map(|holder| self.logged_tag(path, *holder, patience));
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn logged_tag(
        &self,
        path: &ContentPath,
        holder: SocketAddr,
        patience: Duration,
    ) -> Option<TagManifest> {
        match tag(path, holder, patience).await {
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
}

async fn tag(path: &ContentPath, holder: SocketAddr, patience: Duration) -> Result<TagManifest, PeerError> {
    let answer = ask(holder, path, &Method::GET, None, patience).await?;
    let named = answer.header(CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
    let bytes = manifest_bytes(answer).await?;
    let digest = named.ok_or(PeerError::WrongBytes)?;
    spool::verify(&bytes, &digest)?;
    let media_type = media_type::of_manifest(&bytes).ok_or(PeerError::NotManifest)?;
    Ok(TagManifest { digest, bytes, media_type, source: holder })
}
