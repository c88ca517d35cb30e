//! A large blob, passed on as it comes. Bytes that were handed over cannot be taken back, so the
//! piece with the last of them waits for the verdict: what does not hash to the digest never ends
//! in a cleanly finished response (I5).
//!
//! Only a whole can be verified. A part that starts later is checked for its length alone.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::Fetcher;
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
    hasher: Option<Hasher>,
    left: u64,
}

impl Relay {
    /// The bytes of `part`: `first`, then what `source` sends.
    pub(super) fn stream(self, source: Source, first: Bytes, part: ByteRange) -> ByteStream {
        let hasher = part.is_whole().then(|| Hasher::new(self.digest.algorithm()));
        let running = Running { relay: self, source, first: Some(first), hasher, left: part.len() };
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
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        if self.left == 0
            && let Some(hasher) = self.hasher.take()
            && hasher.finish() != self.relay.digest
        {
            return Err(PeerError::WrongBytes);
        }
        Ok(bytes)
    }

    fn failed(&self, error: &PeerError) -> Cut {
        let Relay { fetcher, holder, digest } = &self.relay;
        fetcher.failed(*holder, digest, error);
        if error.is_wrong() {
            fetcher.wrong_bytes_passed_on(digest.clone());
            return Cut::WrongBytes;
        }
        Cut::SourceBroken
    }
}
