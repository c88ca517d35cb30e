//! A large blob, passed on as it comes. Bytes that were handed over cannot be taken back, so the
//! piece with the last of them waits for the verdict: what does not hash to the digest never ends
//! in a cleanly finished response (I5).
//!
//! A rest is verified together with the prefix before it, if that was passed on lately and broke off
//! ([`super::prefix`]). Any other part is checked for its length alone.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::Fetcher;
use super::prefix::Prefix;
use crate::agent::body::{ByteStream, Cut};
use crate::agent::peer::{PeerError, Source};
use crate::oci::{ByteRange, Digest, Hasher};

/// Who passes on what from whom.
pub(super) struct Relay {
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) holder: SocketAddr,
    pub(super) digest: Digest,
}

struct Running {
    relay: Relay,
    source: Source,
    /// Read already, because nothing is answered before a source has sent something.
    first: Option<Bytes>,
    /// All that was passed on, if it began at the beginning.
    prefix: Option<Prefix>,
    left: u64,
}

impl Relay {
    /// The bytes of `part`: `first`, then what `source` sends.
    pub(super) fn stream(self, source: Source, first: Bytes, part: ByteRange) -> ByteStream {
        let prefix = if part.is_whole() {
            let hasher = Hasher::new(self.digest.algorithm());
            Some(Prefix { hasher, length: 0, holders: Vec::new() })
        } else if part.end == part.total {
            self.fetcher.prefixes.take(&self.digest, part.start)
        } else {
            None
        };
        let running = Running { relay: self, source, first: Some(first), prefix, left: part.len() };
        stream::try_unfold(running, |mut running| async move {
            if running.left == 0 {
                return Ok(None);
            }
            match running.next().await {
                Ok(bytes) => Ok(Some((bytes, running))),
                Err(error) => Err(running.failed(&error)),
            }
        })
        .boxed()
    }
}

impl Running {
    async fn next(&mut self) -> Result<Bytes, PeerError> {
        let bytes = match self.first.take() {
            Some(first) => first,
            None => self.source.next().await?.ok_or(PeerError::Short)?,
        };
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(PeerError::Length)?;
        if let Some(prefix) = &mut self.prefix {
            prefix.hasher.update(&bytes);
            prefix.length += bytes.len() as u64;
        }
        if self.left == 0
            && let Some(prefix) = &self.prefix
            && prefix.hasher.clone().finish() != self.relay.digest
        {
            return Err(PeerError::WrongBytes);
        }
        Ok(bytes)
    }

    fn failed(&mut self, error: &PeerError) -> Cut {
        let Relay { fetcher, holder, digest } = &self.relay;
        let prefix = self.prefix.take();
        if error.is_wrong() {
            // By the hash alone it cannot be told whose bytes were wrong: those who broke off are the likelier ones. If it
            // was the last one, the next whole that it sends shows that.
            let is_hash = matches!(error, PeerError::WrongBytes);
            let before = prefix.filter(|_| is_hash).map_or_else(Vec::new, |prefix| prefix.holders);
            let blamed = if before.is_empty() { vec![*holder] } else { before };
            for holder in blamed {
                fetcher.failed(holder, digest, error);
            }
            fetcher.wrong_bytes_passed_on(digest.clone());
            return Cut::WrongBytes;
        }
        fetcher.failed(*holder, digest, error);
        if let Some(mut prefix) = prefix {
            prefix.holders.push(*holder);
            fetcher.prefixes.keep(digest.clone(), prefix);
        }
        Cut::SourceBroken
    }
}
