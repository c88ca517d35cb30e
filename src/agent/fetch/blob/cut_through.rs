//! A large blob, passed on as it comes. Bytes that were handed over cannot be taken back, so the
//! piece with the last of them waits for the context: bytes that do not hash to the digest never end
//! in a cleanly finished response (I5).
//!
//! A rest is verified together with what was before it: with the prefix that was passed on lately
//! and broke off, or with what containerd has written of it ([`Follower`]). Where neither is known, only its
//! length is checked.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::supply::Supply;
use crate::agent::content::byte_stream::{ByteStream, Cut};
use crate::agent::content::ingest_scrub::IngestScrubber;
use crate::agent::fetch::ingests::Ingests;
use crate::agent::fetch::ingests::follower::{Follower, Tail};
use crate::agent::fetch::peers::health::PeerHealth;
use crate::agent::fetch::resume::{Prefix, ResumeMemory};
use crate::limits::FOLLOW_TAIL_BYTES;
use crate::oci::{ByteRange, Digest, Hasher};

/// What is needed to verify bytes that are passed on, and to deal with those that are wrong.
pub(crate) struct CutThroughContext {
    pub(crate) resume: Arc<ResumeMemory>,
    pub(crate) ingests: Arc<Ingests>,
    pub(crate) health: Arc<PeerHealth>,
    pub(crate) scrubber: IngestScrubber,
}

/// Bytes that are passed on, and how they are verified.
struct CutThrough {
    context: Arc<CutThroughContext>,
    supply: Supply,
    /// The first bytes, which came before the response began.
    first: Option<Bytes>,
    /// Bytes that are not passed on yet.
    left: u64,
    check: Check,
}

/// How the last bytes are verified.
enum Check {
    /// By the hash of all that was passed on, from the first byte of the blob.
    Hash(Box<Prefix>),
    /// By the file that containerd writes, and the last bytes that it may not have written.
    File(Arc<Follower>, Tail),
    /// By their number only.
    Length,
}

/// The bytes of `part`: `first`, then what `supply` brings.
pub(super) async fn pass_on(
    context: Arc<CutThroughContext>,
    supply: Supply,
    first: Bytes,
    part: ByteRange,
) -> ByteStream {
    let wanted = supply.wanted();
    if wanted.running.is_some() {
        context.resume.answered_range(&wanted.digest, part.total);
    }
    let check = context.check(&wanted.digest, part).await;
    let passing = CutThrough { context, supply, first: Some(first), left: part.len(), check };
    stream::try_unfold(passing, |mut passing| async move {
        if passing.left == 0 {
            return Ok(None);
        }
        match passing.next().await {
            Ok(bytes) => Ok(Some((bytes, passing))),
            Err(cut) => Err(cut),
        }
    })
    .boxed()
}

impl CutThrough {
    async fn next(&mut self) -> Result<Bytes, Cut> {
        let next = match self.first.take() {
            Some(first) => Some(first),
            None => self.supply.next().await,
        };
        let Some(bytes) = next else { return Err(self.broke_off().await) };
        self.left -= bytes.len() as u64;
        let is_last = self.left == 0;
        let digest = &self.supply.wanted().digest;
        let mut is_verified = true;
        match &mut self.check {
            Check::Hash(prefix) => {
                prefix.hasher.update(&bytes);
                prefix.length += bytes.len() as u64;
                if is_last && prefix.hasher.clone().finish() != *digest {
                    return Err(self.wrong_bytes().await);
                }
            }
            Check::File(follower, tail) if is_last => match follower.verdict(tail, &bytes, digest).await {
                Some(false) => return Err(self.wrong_bytes().await),
                Some(true) => {}
                None => {
                    is_verified = false;
                    tracing::debug!(%digest, "a rest could not be verified here");
                    self.context.scrubber.look();
                }
            },
            // Nothing is kept before the end is near.
            Check::File(_, tail) if self.left > FOLLOW_TAIL_BYTES => {
                *tail = Tail::new(self.supply.left().start);
            }
            Check::File(_, tail) => tail.push(bytes.clone()),
            Check::Length if is_last => self.context.scrubber.look(),
            Check::Length => {}
        }
        if is_last {
            let is_in_doubt = matches!(self.check, Check::Length);
            self.supply.are_whole(is_verified && !is_in_doubt);
            self.remember_senders(is_in_doubt);
        }
        Ok(bytes)
    }

    /// Ends the response because no peer is left that could send the rest.
    async fn broke_off(&mut self) -> Cut {
        self.remember_senders(true);
        let wanted = self.supply.wanted();
        if let Some(range) = &wanted.running {
            range.is_first().await;
        }
        let resume = &self.context.resume;
        if let Check::Hash(mut prefix) = std::mem::replace(&mut self.check, Check::Length) {
            prefix.senders.extend(self.supply.senders());
            resume.keep_prefix(&wanted.digest, *prefix);
        }
        let cut = self.supply.cut();
        // containerd comes back to this node for the rest.
        if !matches!(cut, Cut::Yields) {
            resume.cut(&wanted.digest, self.supply.left().start);
        }
        cut
    }

    /// Ends the response because its bytes do not have the digest.
    async fn wrong_bytes(&mut self) -> Cut {
        let digest = &self.supply.wanted().digest;
        let mut senders = match &self.check {
            Check::Hash(prefix) => prefix.senders.clone(),
            Check::File(..) | Check::Length => self.context.resume.senders(digest),
        };
        senders.extend(self.supply.senders());
        senders.sort();
        senders.dedup();
        self.supply.are_wrong(&senders, &self.context.health).await;
        self.context.ingests.abort_wrong_bytes(digest.clone()).await;
        Cut::WrongBytes
    }

    fn remember_senders(&self, are_in_doubt: bool) {
        let (resume, digest) = (&self.context.resume, &self.supply.wanted().digest);
        if are_in_doubt {
            self.supply.senders().into_iter().for_each(|holder| resume.sent(digest, holder));
        } else {
            resume.right(digest);
        }
    }
}

impl Drop for CutThrough {
    fn drop(&mut self) {
        // A reader that leaves early may come back for the rest, or anew because what it got was of no use.
        if self.left > 0 {
            self.remember_senders(true);
        }
    }
}

impl CutThroughContext {
    /// How `part` is verified.
    async fn check(&self, digest: &Digest, part: ByteRange) -> Check {
        if part.is_whole() {
            let hasher = Hasher::new(digest.algorithm());
            return Check::Hash(Box::new(Prefix { hasher, length: 0, senders: Vec::new() }));
        }
        if part.end < part.total {
            return Check::Length;
        }
        if let Some(prefix) = self.resume.take_prefix(digest, part.start) {
            return Check::Hash(Box::new(prefix));
        }
        match self.follower(digest).await {
            Some(follower) => Check::File(follower, Tail::new(part.start)),
            None => Check::Length,
        }
    }

    /// Follows what containerd writes of `digest`, if that can be seen.
    async fn follower(&self, digest: &Digest) -> Option<Arc<Follower>> {
        if let Some(follower) = self.resume.follower(digest) {
            return Some(follower);
        }
        let follower = Arc::new(self.ingests.follow(digest).await?);
        self.resume.follow(digest, Arc::clone(&follower));
        Some(follower)
    }
}
