//! Tags, by the policy of their registry. A tag is mutable, and whoever answers it decides what
//! runs: by default its origin, as long as that answers at all (I6).

use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::{Asked, Mirror};
use crate::agent::TagPolicy;
use crate::agent::answer::Refusal;
use crate::agent::fetch::TagManifest;
use crate::agent::give;
use crate::agent::local::LocalManifest;
use crate::agent::record::{Origin, Record};
use crate::oci::{ContentPath, Digest};

/// How long the origin may think before the servers are asked as well, to save time if it is gone.
const ORIGIN_HEAD_START: Duration = Duration::from_millis(200);

/// What a tag is, and who says so.
enum Named {
    Own(Digest, LocalManifest),
    Peers(TagManifest),
}

/// Why a tag is not answered.
#[derive(Debug, thiserror::Error)]
enum Unnamed {
    #[error("the registry of this tag is not known")]
    NoRegistry,
    #[error("tags of this registry are its own to answer")]
    NotOurs,
    #[error("the registry answers, ask it")]
    OriginAnswers,
    #[error("could not reach the registry, and none of {attempts} peers could deliver the tag")]
    Nobody { attempts: usize },
    #[error("the nodes asked do not agree on what this tag is")]
    Disagreement,
    #[error("no answer in time")]
    Late,
    #[error("this manifest is known from a registry that gives its manifests itself")]
    Kept,
}

impl Mirror {
    pub(super) async fn by_tag(
        &self,
        asked: Asked<'_>,
        path: &ContentPath,
        deadline: Instant,
        mut record: Record,
    ) -> Result<Response<Body>, Refusal> {
        let named = timeout_at(deadline, self.named(path, deadline)).await.unwrap_or(Err(Unnamed::Late));
        let named = named.and_then(|named| match named {
            Named::Peers(found) if !self.policies.may_give(asked.registry, &found.digest, true) => {
                Err(Unnamed::Kept)
            }
            named => Ok(named),
        });
        match named {
            Ok(Named::Own(digest, manifest)) => Ok(give::local_manifest(&asked, &digest, manifest, record)),
            Ok(Named::Peers(TagManifest { digest, bytes, media_type, source })) => {
                let content: (Bytes, &'static str) = (bytes, media_type);
                Ok(give::manifest(&asked, &digest, content, Origin::Peer(source), (), record))
            }
            Err(unnamed) => {
                let mut refusal = Refusal::unknown(true, unnamed.to_string());
                if let Unnamed::Nobody { attempts } = unnamed {
                    refusal.attempts = attempts;
                }
                record.refused(&refusal);
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
        let mut answers = std::pin::pin!(self.origins.answers(registry));
        let own_or_holders = async {
            tokio::time::sleep(ORIGIN_HEAD_START).await;
            self.own_or_holders(name, deadline).await
        };
        let mut own_or_holders = std::pin::pin!(own_or_holders);
        let found = tokio::select! {
            answers = &mut answers => {
                if answers {
                    return Err(Unnamed::OriginAnswers);
                }
                // Known to be gone: the head start has no use any more.
                self.own_or_holders(name, deadline).await
            }
            found = &mut own_or_holders => {
                if answers.await {
                    return Err(Unnamed::OriginAnswers);
                }
                found
            }
        };
        match found {
            OwnOrHolders::Own(digest, manifest) => Ok(Named::Own(digest, manifest)),
            OwnOrHolders::Holders(holders) => {
                let (found, attempts) = self.fetcher.first_tag(path, holders, deadline).await;
                found.map(Named::Peers).ok_or(Unnamed::Nobody { attempts })
            }
        }
    }

    /// For air-gapped sites: all that were asked must say the same.
    async fn agreed(&self, path: &ContentPath, name: &str, deadline: Instant) -> Result<Named, Unnamed> {
        let (own, holders) = tokio::join!(self.own_tag(name), self.holders(name, deadline));
        let votes = self.fetcher.tag_votes(path, &holders, deadline).await;
        let mut digests: Vec<&Digest> = votes.iter().map(|vote| &vote.digest).collect();
        digests.extend(own.as_ref().map(|(digest, _)| digest));
        digests.sort();
        digests.dedup();
        if digests.len() > 1 {
            tracing::warn!(tag = name, ?digests, "nodes disagree on a tag, not answering it");
            return Err(Unnamed::Disagreement);
        }
        let voters = votes.len();
        let named = match own {
            Some((digest, manifest)) => Named::Own(digest, manifest),
            None => {
                Named::Peers(votes.into_iter().next().ok_or(Unnamed::Nobody { attempts: holders.len() })?)
            }
        };
        tracing::info!(tag = name, voters, "answering a tag without its registry");
        Ok(named)
    }

    async fn own_or_holders(&self, name: &str, deadline: Instant) -> OwnOrHolders {
        match self.own_tag(name).await {
            Some((digest, manifest)) => OwnOrHolders::Own(digest, manifest),
            None => OwnOrHolders::Holders(self.holders(name, deadline).await),
        }
    }

    async fn own_tag(&self, name: &str) -> Option<(Digest, LocalManifest)> {
        let until = Instant::now() + self.resolve_timeout / 4;
        let found = async {
            let Some(digest) = self.local.resolve(name).await? else { return Ok(None) };
            Ok::<_, crate::agent::local::LocalError>(self.local.manifest(&digest).await?.map(|m| (digest, m)))
        };
        match timeout_at(until, found).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(tag = name, error = crate::api::client::chain(&error), "own tag is of no use");
                None
            }
            Err(_) => None,
        }
    }

    async fn holders(&self, name: &str, deadline: Instant) -> Vec<std::net::SocketAddr> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.discovery.find(name, left).await.unwrap_or_else(|error| {
            tracing::debug!(tag = name, %error, "no holders");
            Vec::new()
        })
    }
}

/// Who is to be believed once the origin is gone.
enum OwnOrHolders {
    Own(Digest, LocalManifest),
    Holders(Vec<std::net::SocketAddr>),
}
