//! `tags = "peers"`, for sites without a registry: the node that set the tag last says what it is. An
//! air-gapped site is updated by an import on one node.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout_at};

use super::{Named, Tags, Unnamed};
use crate::agent::content::local::LocalManifest;
use crate::agent::content::store::Tag;
use crate::agent::content::tag_claims::{Claim, Ruling, age, named, rule};
use crate::limits::{CANDIDATES, TAG_HOLDERS_ASKED_MAX};
use crate::oci::{ContentPath, Digest};

/// The name of this node among the claims.
const THIS_NODE: &str = "this node";

impl Tags {
    /// The manifest that the newest claim names. All holders are asked, not only the nearest ones: the last import
    /// may be on any of them. They have half of the time that is left: the other half is for the manifest.
    pub(super) async fn agreed(
        &self,
        path: &ContentPath,
        name: &str,
        deadline: Instant,
    ) -> Result<Named, Unnamed> {
        let (own, holders) =
            tokio::join!(self.own_claim(name), self.holders(name, TAG_HOLDERS_ASKED_MAX, deadline));
        let now = Instant::now();
        let until = now + deadline.saturating_duration_since(now) / 2;
        let claims = self.fetcher.tags().claims(path, &holders, until).await;
        let moment = SystemTime::now();
        let own_claim = own.as_ref().map(|(tag, _)| Claim {
            holder: THIS_NODE.to_owned(),
            digest: tag.digest.clone(),
            age: tag.set_at.and_then(|set_at| age(set_at, moment)),
        });
        let all: Vec<Claim> = claims.iter().map(|(_, claim)| claim.clone()).chain(own_claim).collect();
        let (asked, answered) = (holders.len(), claims.len());
        let digest = match rule(&all) {
            Ruling::Newest(digest) => digest,
            Ruling::Nothing => return Err(Unnamed::Nobody { attempts: asked }),
            Ruling::Tie(tied) => {
                let claims = named(&tied);
                tracing::warn!(
                    tag = name,
                    claims,
                    "not answering a tag that was set to different images at the same time"
                );
                return Err(Unnamed::Tie { claims });
            }
        };
        let set_at = newest(&all, &digest).and_then(|age| moment.checked_sub(age));
        let named = match own {
            Some((tag, manifest)) if tag.digest == digest => Named::Own(digest.clone(), manifest),
            _ => self.manifest_of_claimants(path, &digest, claims, deadline).await?,
        };
        let differing = all.iter().filter(|claim| claim.digest != digest).count();
        tracing::info!(tag = name, %digest, asked, answered, differing, "answering a tag without its registry");
        self.local.tag_answered(name, Tag { digest, set_at });
        Ok(named)
    }

    /// The manifest `digest` from those that claim it. An older image in its place would be a silent step back, so
    /// there is none then.
    async fn manifest_of_claimants(
        &self,
        path: &ContentPath,
        digest: &Digest,
        claims: Vec<(SocketAddr, Claim)>,
        deadline: Instant,
    ) -> Result<Named, Unnamed> {
        let claimants = claims.into_iter().filter(|(_, claim)| claim.digest == *digest);
        // The nearest ones, as for any other content.
        let claimants = claimants.map(|(holder, _)| holder).take(CANDIDATES).collect();
        let found = self.fetcher.tags().claimed_manifest(path, digest, claimants, deadline).await;
        found.map(Named::Peer).ok_or_else(|| Unnamed::NewestAway { digest: digest.clone() })
    }

    /// What this node holds under the tag `name`, if it can be read in time.
    pub(super) async fn own_claim(&self, name: &str) -> Option<(Tag, LocalManifest)> {
        let until = Instant::now() + self.resolve_timeout / 4;
        let found = async {
            let Some(tag) = self.local.tag(name).await? else { return Ok(None) };
            let manifest = self.local.manifest(&tag.digest).await?;
            Ok::<_, crate::agent::content::local::LocalError>(manifest.map(|manifest| (tag, manifest)))
        };
        match timeout_at(until, found).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(
                    tag = name,
                    error = piccolo_raft::errors::chain(&error),
                    "own tag is of no use"
                );
                None
            }
            Err(_) => None,
        }
    }
}

/// The least age among the claims that the tag is `digest`.
fn newest(claims: &[Claim], digest: &Digest) -> Option<Duration> {
    claims.iter().filter(|claim| claim.digest == *digest).filter_map(|claim| claim.age).min()
}
