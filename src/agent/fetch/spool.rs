//! Content received and verified whole before anyone sees a byte of it: in memory up to
//! [`SPOOL_MEMORY_BYTES_MAX`], beyond that in a file without a name.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream;
use tokio::io::AsyncWriteExt;

use crate::agent::body::ByteStream;
use crate::agent::buffers::BufferPool;
use crate::agent::local::file_stream;
use crate::agent::peer::{PeerError, Source};
use crate::limits::SPOOL_MEMORY_BYTES_MAX;
use crate::oci::{ByteRange, Digest, Hasher};

/// Verified content.
#[derive(Clone, Debug)]
pub(crate) enum Whole {
    Memory(Bytes),
    File(Arc<File>),
}

impl Whole {
    /// The bytes of `range`.
    pub(crate) fn stream(self, range: ByteRange, pool: BufferPool) -> ByteStream {
        match self {
            Whole::Memory(bytes) => {
                let index =
                    |offset| usize::try_from(offset).expect("what is in memory has a length of usize");
                let part = bytes.slice(index(range.start)..index(range.end));
                stream::iter([Ok(part)]).boxed()
            }
            Whole::File(file) => file_stream(file, range, pool),
        }
    }
}

/// Receives all of `source` and verifies it.
pub(crate) async fn receive(source: Source, length: u64, digest: &Digest) -> Result<Whole, PeerError> {
    if length <= SPOOL_MEMORY_BYTES_MAX {
        let bytes = memory(source, length).await?;
        verify(&bytes, digest)?;
        return Ok(Whole::Memory(bytes));
    }
    file(source, length, digest).await
}

/// Receives exactly `length` bytes on the heap.
pub(crate) async fn memory(mut source: Source, length: u64) -> Result<Bytes, PeerError> {
    let mut bytes = BytesMut::with_capacity(usize::try_from(length).map_err(|_| PeerError::Length)?);
    while let Some(piece) = source.next().await? {
        if (bytes.len() + piece.len()) as u64 > length {
            return Err(PeerError::Length);
        }
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() as u64 == length { Ok(bytes.freeze()) } else { Err(PeerError::Short) }
}

/// Whether the bytes are what the digest says.
pub(crate) fn verify(bytes: &[u8], digest: &Digest) -> Result<(), PeerError> {
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(bytes);
    if hasher.finish() == *digest { Ok(()) } else { Err(PeerError::WrongBytes) }
}

async fn file(mut source: Source, length: u64, digest: &Digest) -> Result<Whole, PeerError> {
    let file = tokio::task::spawn_blocking(tempfile::tempfile).await;
    let file = file.map_err(io::Error::other).and_then(|file| file).map_err(PeerError::Spool)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut hasher = Hasher::new(digest.algorithm());
    let mut received = 0;
    while let Some(piece) = source.next().await? {
        received += piece.len() as u64;
        if received > length {
            return Err(PeerError::Length);
        }
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(PeerError::Spool)?;
    }
    file.flush().await.map_err(PeerError::Spool)?;
    if received != length {
        return Err(PeerError::Short);
    }
    if hasher.finish() != *digest {
        return Err(PeerError::WrongBytes);
    }
    Ok(Whole::File(Arc::new(file.into_std().await)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::peer::{Ask, ask};
    use crate::agent::testing::{End, RawPeer, SOON};
    use axum::http::Method;

    /// A peer could fill memory or disk otherwise.
    #[tokio::test]
    async fn a_body_without_end_is_given_up_at_the_length_that_was_expected() {
        let endless = End::Repeat(b"10\r\n0123456789abcdef\r\n");
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let peer = RawPeer::start(head, endless).await;
        for length in [100, SPOOL_MEMORY_BYTES_MAX + 1] {
            let (method, patience) = (&Method::GET, SOON);
            let asked = Ask { method, target: "/", range: None, accept: "*/*", patience };
            let source = ask(peer.address, asked).await.ok().unwrap().body;
            let digest = Digest::of(b"x");
            let received = receive(source, length, &digest);
            let received = tokio::time::timeout(SOON, received).await.expect("given up");
            assert!(matches!(received, Err(PeerError::Length)), "{received:?}");
        }
    }

    /// hyper goes by the chunks, so the length beside them says nothing.
    #[tokio::test]
    async fn a_length_beside_chunks_is_none() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let peer = RawPeer::start(head, End::Close).await;
        let (method, patience) = (&Method::GET, SOON);
        let asked = Ask { method, target: "/", range: None, accept: "*/*", patience };
        assert_eq!(ask(peer.address, asked).await.ok().unwrap().length(), None);
    }
}
