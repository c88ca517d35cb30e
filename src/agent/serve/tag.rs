//! Tags, by the policy of their registry. A tag is mutable, and whoever answers it decides what
//! runs: by default its registry, as long as that answers at all (I6).

mod newest_claim;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::found::Found;
use super::refusal::Refusal;
use crate::agent::TagPolicy;
use crate::agent::content::local::{Local, LocalManifest};
use crate::agent::discovery::HolderLookup;
use crate::agent::fetch::{Fetcher, TagManifest};
use crate::agent::origin::{Origins, Tag};
use crate::agent::policy::Policies;
use crate::limits::{CANDIDATES, ORIGIN_HEAD_START};
use crate::oci::{ContentPath, Digest, Item};

/// Finds tags, for containerd.
pub(super) struct Tags {
    pub(super) local: Local,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) discovery: Arc<HolderLookup>,
    pub(super) origins: Arc<Origins>,
    pub(super) policies: Arc<Policies>,
    /// How long a request is held until its headers.
    pub(super) resolve_timeout: Duration,
}

/// The manifest that a tag is, and who says so.
enum Named {
    /// This node.
    Own(Digest, LocalManifest),
    /// A peer.
    Peer(TagManifest),
}

/// The nodes that may say what a tag is once its registry does not answer.
enum OwnOrHolders {
    Own(Digest, LocalManifest),
    Holders(Vec<SocketAddr>),
}

/// Why a tag is not answered.
#[derive(Debug, thiserror::Error)]
enum Unnamed {
    #[error("the registry of this tag is not known")]
    NoRegistry,
    #[error("tags of this registry are its own to answer")]
    NotOurs,
    #[error("the registry is there for this tag, or may be: ask it")]
    OriginAnswers,
    #[error("neither a table nor certs.d names this registry, and no node holds this tag of it")]
    UnknownRegistry,
    #[error("could not reach the registry, and none of {attempts} peers could deliver the tag")]
    Nobody { attempts: usize },
    /// Two nodes set the tag at the same time.
    #[error(
        "this tag was set to different images at the same time: {claims}; import the right one again on any \
         of these nodes"
    )]
    Tie { claims: String },
    #[error("could not fetch {digest}, which this tag was set to last")]
    NewestAway { digest: Digest },
    #[error("no answer in time")]
    Late,
    #[error("this manifest is known from a registry that gives its manifests itself")]
    Kept,
}

impl Tags {
    /// Finds the manifest of the tag at `path`.
    pub(super) async fn find(
        &self,
        path: &ContentPath,
        head_only: bool,
        deadline: Instant,
    ) -> Result<Found, Refusal> {
        let named = timeout_at(deadline, self.named(path, deadline)).await.unwrap_or(Err(Unnamed::Late));
        let named = named.and_then(|named| match named {
            Named::Peer(found) if !self.policies.may_give(path.registry.as_deref(), &found.digest, true) => {
                Err(Unnamed::Kept)
            }
            named => Ok(named),
        });
        match named {
            Ok(Named::Own(digest, manifest)) => Ok(Found::own_manifest(digest, manifest, head_only)),
            Ok(Named::Peer(TagManifest { digest, bytes, media_type, source })) => {
                Ok(Found::peer_manifest(digest, source, (bytes, media_type), head_only))
            }
            Err(unnamed) => {
                let mut refusal = Refusal::unknown(true, unnamed.to_string());
                if let Unnamed::Nobody { attempts } = unnamed {
                    refusal.attempts = attempts;
                }
                Err(refusal)
            }
        }
    }

    async fn named(&self, path: &ContentPath, deadline: Instant) -> Result<Named, Unnamed> {
        let (Some(name), Some(registry)) = (path.tag_name(), &path.registry) else {
            return Err(Unnamed::NoRegistry);
        };
        match self.policies.of(Some(registry)).tags {
            TagPolicy::Origin | TagPolicy::Off => Err(Unnamed::NotOurs),
            TagPolicy::OriginFirst => self.origin_first(path, &name, registry, deadline).await,
            TagPolicy::Peers => self.agreed(path, &name, deadline).await,
        }
    }

    async fn origin_first(
        &self,
        path: &ContentPath,
        name: &str,
        registry: &str,
        deadline: Instant,
    ) -> Result<Named, Unnamed> {
        let Item::Tag(tag) = &path.item else { return Err(Unnamed::NotOurs) };
        let asked = Tag { registry, repository: &path.repository, tag };
        let found = if self.origins.is_named(registry).await {
            self.unless_origin_answers(asked, name, deadline).await?
        } else {
            // A client may have made up the name: no connection goes there unless a node holds the tag.
            let half = deadline - self.resolve_timeout / 2;
            let found = self.own_or_holders(name, half).await;
            if matches!(&found, OwnOrHolders::Holders(holders) if holders.is_empty()) {
                return Err(Unnamed::UnknownRegistry);
            }
            if !self.origins.leaves_to_nodes(asked).await {
                return Err(Unnamed::OriginAnswers);
            }
            found
        };
        self.fetcher.registry_is_away(registry);
        match found {
            OwnOrHolders::Own(digest, manifest) => Ok(Named::Own(digest, manifest)),
            OwnOrHolders::Holders(holders) => {
                let (found, attempts) = self.fetcher.tags().first_manifest(path, holders, deadline).await;
                found.map(Named::Peer).ok_or(Unnamed::Nobody { attempts })
            }
        }
    }

    /// The nodes that have the tag, which are looked for while the registry is asked.
    async fn unless_origin_answers(
        &self,
        asked: Tag<'_>,
        name: &str,
        deadline: Instant,
    ) -> Result<OwnOrHolders, Unnamed> {
        let mut leaves = std::pin::pin!(self.origins.leaves_to_nodes(asked));
        let own_or_holders = async {
            tokio::time::sleep(ORIGIN_HEAD_START).await;
            self.own_or_holders(name, deadline).await
        };
        let mut own_or_holders = std::pin::pin!(own_or_holders);
        let (leaves, found) = tokio::select! {
            leaves = &mut leaves => (leaves, None),
            found = &mut own_or_holders => (leaves.await, Some(found)),
        };
        match (leaves, found) {
            (false, _) => Err(Unnamed::OriginAnswers),
            (true, Some(found)) => Ok(found),
            // The registry is known not to answer: the head start has no use any more.
            (true, None) => Ok(self.own_or_holders(name, deadline).await),
        }
    }

    async fn own_or_holders(&self, name: &str, deadline: Instant) -> OwnOrHolders {
        match self.own_tag(name).await {
            Some((digest, manifest)) => OwnOrHolders::Own(digest, manifest),
            None => OwnOrHolders::Holders(self.holders(name, CANDIDATES, deadline).await),
        }
    }

    async fn own_tag(&self, name: &str) -> Option<(Digest, LocalManifest)> {
        let (tag, manifest) = self.own_claim(name).await?;
        Some((tag.digest, manifest))
    }

    async fn holders(&self, name: &str, count: usize, deadline: Instant) -> Vec<SocketAddr> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.discovery.find_up_to(count, name, left).await.unwrap_or_else(|error| {
            tracing::debug!(tag = name, %error, "no holders");
            Vec::new()
        })
    }
}
