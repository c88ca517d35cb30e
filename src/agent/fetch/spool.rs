//! Content received and verified whole before anyone sees a byte of it, in memory or in a file without
//! a name: [`super::spool_space`] decides which.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream;

use super::peer::{PeerError, Source};
use super::spool_space::{DiskRoom, MemoryRoom, Room, Rooms};
use super::transfer::Transfer;
use super::{compact, kept_bytes};
use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::content::byte_stream::ByteStream;
use crate::agent::content::local::file_stream;
use crate::agent::policy::file_may_be_manifest;
use crate::limits::{MANIFEST_BYTES_MAX, SPOOL_WRITE_BYTES};
use crate::oci::{ByteRange, Digest, Hasher, media_type};

/// Verified content.
#[derive(Clone, Debug)]
pub(crate) enum Whole {
    Memory(Bytes),
    File(Arc<Spooled>),
}

/// A file without a name, and the room that it takes.
#[derive(Debug)]
pub(crate) struct Spooled {
    file: Arc<File>,
    _room: DiskRoom,
}

impl Whole {
    /// Whether this content, which has `size_bytes`, may be a manifest or index.
    pub(crate) async fn may_be_manifest(&self, size_bytes: u64) -> io::Result<bool> {
        match self {
            Whole::Memory(bytes) => {
                Ok(size_bytes <= MANIFEST_BYTES_MAX && media_type::may_be_manifest(bytes))
            }
            Whole::File(spooled) => file_may_be_manifest(Arc::clone(&spooled.file), size_bytes).await,
        }
    }

    /// The bytes of `range`.
    pub(crate) fn stream(self, range: ByteRange, pool: BufferPool) -> ByteStream {
        match self {
            Whole::Memory(bytes) => {
                let index =
                    |offset| usize::try_from(offset).expect("what is in memory has a length of usize");
                let part = bytes.slice(index(range.start)..index(range.end));
                stream::iter([Ok(part)]).boxed()
            }
            Whole::File(spooled) => file_stream(Arc::clone(&spooled.file), range, pool, spooled),
        }
    }
}

/// Bytes in memory, and the room that they take until the last clone of them is gone.
struct InMemory {
    bytes: Vec<u8>,
    _room: MemoryRoom,
}

impl AsRef<[u8]> for InMemory {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where the bytes of one blob go.
enum Spool {
    Memory(InMemory),
    File(Writer),
}

/// What has come is gathered, and written together.
struct Writer {
    file: Arc<File>,
    room: DiskRoom,
    written: u64,
    gathered: Vec<Bytes>,
    /// Memory that these keep: whole buffers of their connection.
    kept_bytes: usize,
}

/// Receives all that `transfer` brings, which is `length` bytes, into `room`, and verifies it.
/// `Ok(None)`: nobody is left who could send the rest.
pub(super) async fn receive(
    transfer: &mut Transfer,
    length: u64,
    digest: &Digest,
    room: Room,
    rooms: &Rooms,
) -> Result<Option<Whole>, PeerError> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut spool = Spool::new(room, length);
    // The transfer tells whether this was the end, or nobody is left.
    while let Some(piece) = transfer.next().await.unwrap_or(None) {
        hasher.update(&piece);
        spool.push(piece, length, rooms).await?;
    }
    let whole = spool.finish(length, rooms).await?;
    if transfer.left().start < transfer.left().end {
        return Ok(None);
    }
    if hasher.finish() == *digest { Ok(Some(whole)) } else { Err(PeerError::WrongBytes) }
}

impl Spool {
    fn new(room: Room, length: u64) -> Self {
        match room {
            Room::Memory(room) => Self::Memory(InMemory::new(room, length)),
            Room::Disk(file, room) => {
                let (gathered, file) = (Vec::new(), Arc::new(file));
                Self::File(Writer { file, room, written: 0, gathered, kept_bytes: 0 })
            }
        }
    }

    /// `length`: of the whole blob.
    async fn push(&mut self, piece: Bytes, length: u64, rooms: &Rooms) -> Result<(), PeerError> {
        match self {
            Spool::Memory(memory) => memory.bytes.extend_from_slice(&piece),
            Spool::File(writer) => {
                writer.kept_bytes += kept_bytes(&piece);
                writer.gathered.push(compact(piece));
                if writer.kept_bytes >= SPOOL_WRITE_BYTES {
                    self.flush(length, rooms).await?;
                }
            }
        }
        Ok(())
    }

    async fn finish(mut self, length: u64, rooms: &Rooms) -> Result<Whole, PeerError> {
        self.flush(length, rooms).await?;
        Ok(match self {
            Spool::Memory(memory) => Whole::Memory(Bytes::from_owner(memory)),
            Spool::File(writer) => Whole::File(Arc::new(Spooled { file: writer.file, _room: writer.room })),
        })
    }

    /// Writes what was gathered. A disk that takes no more is no fault of the sender: then all of it goes
    /// on in memory, if there is room.
    async fn flush(&mut self, length: u64, rooms: &Rooms) -> Result<(), PeerError> {
        let Spool::File(writer) = self else { return Ok(()) };
        let Err(error) = writer.write().await else { return Ok(()) };
        rooms.disk_failed(&error);
        let Some(room) = rooms.instead_of_disk(length).await else { return Err(PeerError::Spool(error)) };
        *self = Spool::Memory(
            writer.move_to_memory(InMemory::new(room, length)).await.map_err(PeerError::Spool)?,
        );
        Ok(())
    }
}

impl InMemory {
    fn new(room: MemoryRoom, length: u64) -> Self {
        let length = usize::try_from(length).expect("what has room in memory has a length of usize");
        Self { bytes: Vec::with_capacity(length), _room: room }
    }
}

impl Writer {
    /// Writes what was gathered, and keeps it if that fails.
    async fn write(&mut self) -> io::Result<()> {
        let (file, pieces, start) = (Arc::clone(&self.file), self.gathered.clone(), self.written);
        let written = tokio::task::spawn_blocking(move || {
            pieces.iter().try_fold(start, |offset, piece| {
                file.write_all_at(piece, offset).map(|()| offset + piece.len() as u64)
            })
        });
        self.written = written.await.map_err(io::Error::other)??;
        self.gathered.clear();
        self.kept_bytes = 0;
        Ok(())
    }

    /// What has been written and gathered, in memory.
    async fn move_to_memory(&mut self, mut memory: InMemory) -> io::Result<InMemory> {
        let (file, written, gathered) =
            (Arc::clone(&self.file), self.written, std::mem::take(&mut self.gathered));
        let moved = tokio::task::spawn_blocking(move || {
            memory.bytes.resize(usize::try_from(written).map_err(io::Error::other)?, 0);
            file.read_exact_at(&mut memory.bytes, 0)?;
            gathered.iter().for_each(|piece| memory.bytes.extend_from_slice(piece));
            Ok(memory)
        });
        moved.await.map_err(io::Error::other)?
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fetch::peer::{Ask, ask};
    use crate::agent::state_dir::StateDir;
    use crate::agent::testing::{End, RawPeer, SOON};
    use crate::limits::SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX;
    use axum::http::Method;

    const MIB: usize = 1024 * 1024;

    /// A file that takes so many bytes and no more.
    fn full_at(bytes: usize) -> File {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        let file = File::from(memfd_create("full", MemfdFlags::ALLOW_SEALING).unwrap());
        file.set_len(bytes as u64).unwrap();
        fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        file
    }

    /// Spools four MiB to a disk that takes two and a half.
    async fn spool_to_a_full_disk(rooms: &Rooms) -> (Result<Whole, PeerError>, Vec<u8>) {
        let bytes = crate::agent::testing::noise(4 * MIB);
        let length = bytes.len() as u64;
        let Some(Room::Disk(_, room)) = rooms.room(length).await else { panic!("no disk") };
        let mut spool = Spool::new(Room::Disk(full_at(MIB * 5 / 2), room), length);
        for piece in bytes.chunks(MIB / 4) {
            if let Err(error) = spool.push(Bytes::copy_from_slice(piece), length, rooms).await {
                return (Err(error), bytes);
            }
        }
        (spool.finish(length, rooms).await, bytes)
    }

    #[tokio::test]
    async fn a_disk_that_gets_full_in_the_middle_sends_the_blob_to_memory() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::on_disk(folder.path());
        let rooms = Rooms::new(state.clone());
        let (whole, bytes) = spool_to_a_full_disk(&rooms).await;
        let Ok(Whole::Memory(received)) = whole else { panic!("not in memory") };
        assert!(received == bytes, "other bytes");
        assert!(!state.has_disk(), "the next blob goes to the disk again at once");
    }

    /// It is said of this node, not of the peer.
    #[tokio::test(start_paused = true)]
    async fn without_room_in_memory_either_it_is_an_error_of_this_node() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(StateDir::on_disk(folder.path()));
        let full = SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64;
        let _taken = rooms.instead_of_disk(full).await.expect("all of the room");
        let (whole, _) = spool_to_a_full_disk(&rooms).await;
        assert!(matches!(whole, Err(PeerError::Spool(_))), "{:?}", whole.err());
    }

    #[tokio::test]
    async fn what_is_spooled_to_disk_is_read_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(StateDir::on_disk(folder.path()));
        let bytes = crate::agent::testing::noise(3 * MIB + 5);
        let length = bytes.len() as u64;
        let mut spool = Spool::new(rooms.room(length).await.unwrap(), length);
        for piece in bytes.chunks(100_000) {
            spool.push(Bytes::copy_from_slice(piece), length, &rooms).await.unwrap();
        }
        let whole = spool.finish(length, &rooms).await.unwrap();
        assert!(matches!(whole, Whole::File(_)));
        let part = ByteRange { start: 7, end: length - 1, total: length };
        let mut stream = whole.stream(part, BufferPool::default());
        let mut read = Vec::new();
        while let Some(piece) = stream.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        assert!(read == bytes[7..bytes.len() - 1], "other bytes");
    }

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
