//! Content received and verified whole before anyone sees a byte of it: in memory up to
//! [`SPOOL_MEMORY_BYTES_MAX`], while there is room, beyond that in a file without a name.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::compact;
use super::transfer::Transfer;
use crate::agent::body::ByteStream;
use crate::agent::buffers::BufferPool;
use crate::agent::local::file_stream;
use crate::agent::peer::{PeerError, Source};
use crate::limits::{SPOOL_MEMORY_BYTES_MAX, SPOOL_MEMORY_TOTAL_BYTES_MAX, SPOOL_WRITE_BYTES};
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

/// What all transfers together may keep in memory, bytes.
static MEMORY: Semaphore = Semaphore::const_new(SPOOL_MEMORY_TOTAL_BYTES_MAX);

/// A part of [`MEMORY`], taken until the last clone of its bytes is gone.
struct Room {
    bytes: Vec<u8>,
    _taken: SemaphorePermit<'static>,
}

impl Room {
    /// `None`: a file is the place for so many.
    fn of(length: u64) -> Option<Self> {
        let length = u32::try_from(length).ok().filter(|_| length <= SPOOL_MEMORY_BYTES_MAX)?;
        let taken = MEMORY.try_acquire_many(length).ok()?;
        Some(Self { bytes: Vec::with_capacity(usize::try_from(length).ok()?), _taken: taken })
    }
}

impl AsRef<[u8]> for Room {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Receives all that `transfer` brings, which is `length` bytes, and verifies it. `Ok(None)`: nobody is
/// left who could send the rest.
pub(super) async fn receive(
    transfer: &mut Transfer,
    length: u64,
    digest: &Digest,
) -> Result<Option<Whole>, PeerError> {
    let mut hasher = Hasher::new(digest.algorithm());
    let whole = if let Some(mut room) = Room::of(length) {
        while let Some(piece) = next(transfer, &mut hasher).await? {
            room.bytes.extend_from_slice(&piece);
        }
        Whole::Memory(Bytes::from_owner(room))
    } else {
        Whole::File(file(transfer, &mut hasher).await?)
    };
    if transfer.left().start < transfer.left().end {
        return Ok(None);
    }
    if hasher.finish() == *digest { Ok(Some(whole)) } else { Err(PeerError::WrongBytes) }
}

/// `None` at the end, and where nobody is left: the transfer tells which.
async fn next(transfer: &mut Transfer, hasher: &mut Hasher) -> Result<Option<Bytes>, PeerError> {
    let next = transfer.next().await.unwrap_or(None);
    if let Some(piece) = &next {
        hasher.update(piece);
    }
    Ok(next)
}

/// Receives exactly `length` bytes on the heap.
pub(super) async fn memory(mut source: Source, length: u64) -> Result<Bytes, PeerError> {
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
pub(super) fn verify(bytes: &[u8], digest: &Digest) -> Result<(), PeerError> {
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(bytes);
    if hasher.finish() == *digest { Ok(()) } else { Err(PeerError::WrongBytes) }
}

/// Writes to a file without a name. What has come while it is being written goes into the next write.
async fn file(transfer: &mut Transfer, hasher: &mut Hasher) -> Result<Arc<File>, PeerError> {
    let file = tokio::task::spawn_blocking(tempfile::tempfile).await;
    let file = Arc::new(file.map_err(io::Error::other).and_then(|file| file).map_err(PeerError::Spool)?);
    let mut gathered = Vec::new();
    let mut gathered_bytes = 0;
    loop {
        let piece = next(transfer, hasher).await?;
        let is_last = piece.is_none();
        gathered_bytes += piece.as_ref().map_or(0, Bytes::len);
        gathered.extend(piece.map(compact));
        if gathered_bytes >= SPOOL_WRITE_BYTES || is_last {
            write(&file, std::mem::take(&mut gathered)).await.map_err(PeerError::Spool)?;
            gathered_bytes = 0;
        }
        if is_last {
            return Ok(file);
        }
    }
}

async fn write(file: &Arc<File>, pieces: Vec<Bytes>) -> io::Result<()> {
    let file = Arc::clone(file);
    let written = tokio::task::spawn_blocking(move || {
        pieces.iter().try_for_each(|piece| io::Write::write_all(&mut &*file, piece))
    });
    written.await.map_err(io::Error::other)?
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
        let asked = Ask { method: &Method::GET, target: "/", range: None, accept: "*/*" };
        let source = ask(&Arc::default(), peer.address, asked).await.ok().unwrap().body;
        let received = tokio::time::timeout(SOON, memory(source, 100)).await.expect("given up");
        assert!(matches!(received, Err(PeerError::Length)), "{received:?}");
    }

    /// hyper goes by the chunks, so the length beside them says nothing.
    #[tokio::test]
    async fn a_length_beside_chunks_is_none() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let peer = RawPeer::start(head, End::Close).await;
        let asked = Ask { method: &Method::GET, target: "/", range: None, accept: "*/*" };
        assert_eq!(ask(&Arc::default(), peer.address, asked).await.ok().unwrap().length(), None);
    }
}
