//! A large blob, passed on as it comes. Bytes that were handed over cannot be taken back, so the
//! piece with the last of them waits for the verdict: what does not hash to the digest never ends
//! in a cleanly finished response (I5).
//!
//! A rest is verified together with what was before it: with the prefix that was passed on lately
//! and broke off, or with what containerd has written of it ([`super::ingest_hash`]). Where neither is to
//! be had it is checked for its length alone.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::Fetcher;
use super::hedging::Ended;
use super::ingest_hash::{Follower, Tail};
use super::peer::PeerError;
use super::resume::{Prefix, RunningRange};
use super::transfer::Transfer;
use crate::agent::content::byte_stream::{ByteStream, Cut};
use crate::limits::FOLLOW_TAIL_BYTES;
use crate::oci::{ByteRange, Digest, Hasher};

/// What is passed on, and how it is verified.
pub(super) struct Relay {
    fetcher: Arc<Fetcher>,
    digest: Digest,
    transfer: Transfer,
    /// Read already, because nothing is answered before a source has sent something.
    first: Option<Bytes>,
    left: u64,
    check: Check,
    /// If it was asked for as a range.
    range: Option<Arc<RunningRange>>,
}

enum Check {
    /// All that was passed on, from the first byte of the blob.
    Hash(Box<Prefix>),
    /// The file that containerd writes, and the last bytes that it may not have written.
    File(Arc<Follower>, Tail),
    Length,
}

impl Relay {
    /// The bytes of `part`: `first`, then what `transfer` brings.
    pub(super) async fn stream(
        fetcher: Arc<Fetcher>,
        digest: Digest,
        transfer: Transfer,
        first: Bytes,
        part: ByteRange,
        range: Option<Arc<RunningRange>>,
    ) -> ByteStream {
        if range.is_some() {
            fetcher.lately.answered_range(&digest, part.total);
        }
        let check = fetcher.check(&digest, part).await;
        let left = part.len();
        let relay = Self { fetcher, digest, transfer, first: Some(first), left, check, range };
        stream::try_unfold(relay, |mut relay| async move {
            if relay.left == 0 {
                return Ok(None);
            }
            match relay.next().await {
                Ok(bytes) => Ok(Some((bytes, relay))),
                Err(cut) => Err(cut),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Bytes, Cut> {
        let next = match self.first.take() {
            Some(first) => Some(first),
            None => self.transfer.next().await.unwrap_or(None),
        };
        let Some(bytes) = next else { return Err(self.broke_off().await) };
        self.left -= bytes.len() as u64;
        let is_last = self.left == 0;
        match &mut self.check {
            Check::Hash(prefix) => {
                prefix.hasher.update(&bytes);
                prefix.length += bytes.len() as u64;
                if is_last && prefix.hasher.clone().finish() != self.digest {
                    return Err(self.wrong_bytes().await);
                }
            }
            Check::File(follower, tail) if is_last => {
                match follower.verdict(tail, &bytes, &self.digest).await {
                    Some(false) => return Err(self.wrong_bytes().await),
                    Some(true) => {}
                    None => {
                        tracing::debug!(digest = %self.digest, "a rest could not be verified here");
                        self.fetcher.healer.look();
                    }
                }
            }
            // Nothing is kept before its end is near.
            Check::File(_, tail) if self.left > FOLLOW_TAIL_BYTES => {
                *tail = Tail::new(self.transfer.left().start);
            }
            Check::File(_, tail) => tail.push(bytes.clone()),
            Check::Length if is_last => self.fetcher.healer.look(),
            Check::Length => {}
        }
        if is_last {
            self.remember_senders(matches!(self.check, Check::Length));
        }
        Ok(bytes)
    }

    /// Nobody is left who could send the rest.
    async fn broke_off(&mut self) -> Cut {
        self.remember_senders(true);
        if let Some(range) = &self.range {
            range.is_first().await;
        }
        if let Check::Hash(mut prefix) = std::mem::replace(&mut self.check, Check::Length) {
            prefix.senders.extend(self.transfer.senders());
            self.fetcher.lately.keep_prefix(&self.digest, *prefix);
        }
        self.fetcher.lately.cut(&self.digest, self.transfer.left().start);
        match self.transfer.ended() {
            Some(Ended::Slower) => Cut::SourceSlower,
            Some(Ended::Stalled) => Cut::SourceStalled,
            None if self.transfer.has_stalled() => Cut::SourceStalled,
            None => Cut::SourceBroken,
        }
    }

    async fn wrong_bytes(&mut self) -> Cut {
        let mut senders = match &self.check {
            Check::Hash(prefix) => prefix.senders.clone(),
            Check::File(..) | Check::Length => self.fetcher.lately.senders(&self.digest),
        };
        senders.extend(self.transfer.senders());
        senders.sort();
        senders.dedup();
        self.fetcher.blame(&senders, &self.digest);
        self.fetcher.wrong_bytes_passed_on(self.digest.clone()).await;
        Cut::WrongBytes
    }

    fn remember_senders(&self, are_in_doubt: bool) {
        if are_in_doubt {
            for holder in self.transfer.senders() {
                self.fetcher.lately.sent(&self.digest, *holder);
            }
        } else {
            self.fetcher.lately.right(&self.digest);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A reader that leaves early may come back for the rest, or anew because it was of no use.
        if self.left > 0 {
            self.remember_senders(true);
        }
    }
}

impl Fetcher {
    /// How `part` is verified.
    async fn check(&self, digest: &Digest, part: ByteRange) -> Check {
        if part.start == 0 && part.end == part.total {
            let hasher = Hasher::new(digest.algorithm());
            return Check::Hash(Box::new(Prefix { hasher, length: 0, senders: Vec::new() }));
        }
        if part.end < part.total {
            return Check::Length;
        }
        if let Some(prefix) = self.lately.take_prefix(digest, part.start) {
            return Check::Hash(Box::new(prefix));
        }
        match self.follower(digest).await {
            Some(follower) => Check::File(follower, Tail::new(part.start)),
            None => Check::Length,
        }
    }

    /// The bytes of `senders` together do not have the digest. Of several it cannot be told whose were
    /// wrong.
    pub(super) fn blame(&self, senders: &[SocketAddr], digest: &Digest) {
        match senders {
            [one] => self.troubles.failed(*one, digest, &PeerError::WrongBytes),
            several => self.troubles.doubt(several, digest),
        }
    }
}
