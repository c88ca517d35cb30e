//! One manifest of one peer: received into memory that all manifests share, and verified.

use std::net::SocketAddr;

use axum::http::{Method, StatusCode};
use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::peers::client::{PeerAnswer, PeerBody, PeerClient};
use super::peers::error::PeerError;
use super::peers::health::PeerHealth;
use crate::agent::content::manifest::{self, Checked};
use crate::limits::{MANIFEST_BYTES_MAX, MANIFEST_MEMORY_BYTES_MAX, MANIFEST_STALL_TIMEOUT};
use crate::oci::{ContentPath, Digest};

/// The manifest `digest` from `holder`, verified, with its media type.
pub(super) async fn manifest(
    (client, health): (&PeerClient, &PeerHealth),
    holder: SocketAddr,
    path: &ContentPath,
    digest: &Digest,
) -> Result<(Bytes, &'static str), PeerError> {
    let mut answer = client.ask(holder, path, &Method::GET, None).await?;
    health.answered(holder);
    answer.body.stall_after(MANIFEST_STALL_TIMEOUT);
    let bytes = manifest_bytes(answer).await?;
    let media_type = manifest_type(&bytes, digest).await?;
    Ok((bytes, media_type))
}

/// The media type of a peer's manifest, if its bytes are right.
pub(super) async fn manifest_type(bytes: &Bytes, digest: &Digest) -> Result<&'static str, PeerError> {
    match manifest::check(bytes, digest).await.map_err(PeerError::Spool)? {
        Checked::Manifest(media_type) => Ok(media_type),
        Checked::Other => Err(PeerError::NotManifest),
        Checked::Damaged => Err(PeerError::WrongBytes),
    }
}

/// Memory for all manifests of peers together, bytes.
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

/// The body of a peer's answer, if it has the length of a manifest. Waits for memory until the request that
/// wants it ends.
pub(super) async fn manifest_bytes(answer: PeerAnswer) -> Result<Bytes, PeerError> {
    if answer.status != StatusCode::OK {
        return Err(PeerError::Status(answer.status));
    }
    let length = answer.length().filter(|length| *length <= MANIFEST_BYTES_MAX).ok_or(PeerError::Length)?;
    let permits = u32::try_from(length.max(1)).map_err(|_| PeerError::Length)?;
    let taken = MANIFEST_MEMORY.acquire_many(permits).await.expect("the semaphore is never closed");
    let bytes = receive(answer.body, length).await?;
    Ok(Bytes::from_owner(HeldManifest { bytes, _taken: taken }))
}

/// Receives exactly `length` bytes into memory.
async fn receive(mut body: PeerBody, length: u64) -> Result<Bytes, PeerError> {
    let mut bytes = BytesMut::with_capacity(usize::try_from(length).map_err(|_| PeerError::Length)?);
    while let Some(piece) = body.next().await? {
        if (bytes.len() + piece.len()) as u64 > length {
            return Err(PeerError::Length);
        }
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() as u64 == length { Ok(bytes.freeze()) } else { Err(PeerError::Short) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{End, RawPeer, SOON};
    use crate::oci::Item;

    /// Otherwise a peer could fill the memory.
    #[tokio::test]
    async fn a_body_without_end_is_given_up_at_the_length_that_was_expected() {
        let endless = End::Repeat(b"10\r\n0123456789abcdef\r\n");
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let peer = RawPeer::start(head, endless).await;
        let item = Item::Blob(Digest::of(b"x"));
        let path = ContentPath { registry: None, repository: "a".to_owned(), item };
        let asked = PeerClient::default().ask(peer.address, &path, &Method::GET, None).await;
        let received = receive(asked.ok().unwrap().body, 100);
        let received = tokio::time::timeout(SOON, received).await.expect("given up");
        assert!(matches!(received, Err(PeerError::Length)), "{received:?}");
    }
}
