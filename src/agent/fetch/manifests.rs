//! One manifest of one peer: received into memory that all manifests share, and verified.

use std::net::SocketAddr;

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::peer::{Answer, PeerError};
use super::{Fetcher, ask, spool};
use crate::agent::content::manifest::{self, Checked};
use crate::limits::{MANIFEST_BYTES_MAX, MANIFEST_MEMORY_BYTES_MAX, MANIFEST_STALL_TIMEOUT};
use crate::oci::{ContentPath, Digest};

impl Fetcher {
    /// Length of the content at `path` by that holder's answer to a HEAD, bytes.
    pub(super) async fn size(&self, holder: SocketAddr, path: &ContentPath) -> Result<u64, PeerError> {
        let answer = ask(&self.peers, holder, path, &Method::HEAD, None).await?;
        match answer.status {
            StatusCode::OK => answer.length().ok_or(PeerError::Length),
            status => Err(PeerError::Status(status)),
        }
    }

    /// The manifest `digest` from that holder, verified, with its media type.
    pub(super) async fn manifest(
        &self,
        holder: SocketAddr,
        path: &ContentPath,
        digest: &Digest,
    ) -> Result<(Bytes, &'static str), PeerError> {
        let mut answer = ask(&self.peers, holder, path, &Method::GET, None).await?;
        self.troubles.answered(holder);
        answer.body.stall_after(MANIFEST_STALL_TIMEOUT);
        let bytes = manifest_bytes(answer).await?;
        let media_type = manifest_type(&bytes, digest).await?;
        Ok((bytes, media_type))
    }
}

/// The media type of a peer's manifest, if its bytes are right.
pub(super) async fn manifest_type(bytes: &Bytes, digest: &Digest) -> Result<&'static str, PeerError> {
    match manifest::check(bytes, digest).await.map_err(PeerError::Spool)? {
        Checked::Manifest(media_type) => Ok(media_type),
        Checked::Other => Err(PeerError::NotManifest),
        Checked::Damaged => Err(PeerError::WrongBytes),
    }
}

/// What all manifests of peers together may keep in memory, bytes.
static MANIFEST_MEMORY: Semaphore = Semaphore::const_new(MANIFEST_MEMORY_BYTES_MAX);

/// A peer's manifest, and its part of [`MANIFEST_MEMORY`] until the last clone of its bytes is gone.
struct HeldManifest {
    bytes: Bytes,
    _taken: SemaphorePermit<'static>,
}

impl AsRef<[u8]> for HeldManifest {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of a peer's answer, if it is a manifest that fits. Waits for memory, which a request does until
/// its deadline.
pub(super) async fn manifest_bytes(answer: Answer) -> Result<Bytes, PeerError> {
    if answer.status != StatusCode::OK {
        return Err(PeerError::Status(answer.status));
    }
    let length = answer.length().filter(|length| *length <= MANIFEST_BYTES_MAX).ok_or(PeerError::Length)?;
    let permits = u32::try_from(length.max(1)).map_err(|_| PeerError::Length)?;
    let taken = MANIFEST_MEMORY.acquire_many(permits).await.expect("the semaphore is never closed");
    let bytes = spool::memory(answer.body, length).await?;
    Ok(Bytes::from_owner(HeldManifest { bytes, _taken: taken }))
}
