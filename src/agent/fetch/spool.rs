//! Where a blob is gathered until all of it is verified: memory, or a file without a name. [`space`] decides
//! which.

pub(crate) mod space;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use self::space::{DiskRoom, MemoryRoom, SpoolRoom, SpoolSpace};
use super::pieces::{compact, kept_bytes};
use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::content::byte_stream::ByteStream;
use crate::agent::content::local::file_stream;
use crate::agent::policy::file_may_be_manifest;
use crate::limits::{MANIFEST_BYTES_MAX, SPOOL_WRITE_BYTES};
use crate::oci::{ByteRange, media_type};

/// All bytes of a blob. Clones share them.
#[derive(Clone, Debug)]
pub(crate) enum Whole {
    Memory(Bytes),
    File(Arc<Spooled>),
}

/// A file without a name, and the room that it takes until this is dropped.
#[derive(Debug)]
pub(crate) struct Spooled {
    file: Arc<File>,
    _room: DiskRoom,
}

impl Spooled {
    /// The file.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
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

    /// The bytes of `range` as a stream.
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
pub(crate) struct InMemory {
    bytes: Vec<u8>,
    _room: MemoryRoom,
}

impl AsRef<[u8]> for InMemory {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where the bytes of one blob are gathered.
pub(crate) enum Spool {
    Memory(InMemory),
    File(Writer),
}

/// A spool on disk. Pieces are gathered and written together.
pub(crate) struct Writer {
    spooled: Arc<Spooled>,
    written: u64,
    gathered: Vec<Bytes>,
    /// Memory that the gathered pieces keep: whole buffers of their connection.
    kept_bytes: usize,
}

impl Spool {
    /// A spool in `room` for a blob of `length` bytes.
    pub(crate) fn new(room: SpoolRoom, length: u64) -> Self {
        match room {
            SpoolRoom::Memory(room) => Self::Memory(InMemory::new(room, length)),
            SpoolRoom::Disk(file, room) => {
                let spooled = Arc::new(Spooled { file: Arc::new(file), _room: room });
                Self::File(Writer { spooled, written: 0, gathered: Vec::new(), kept_bytes: 0 })
            }
        }
    }

    /// Adds the next piece of a blob of `length` bytes. It fails if there is no room left on this node.
    pub(crate) async fn push(&mut self, piece: Bytes, length: u64, space: &SpoolSpace) -> io::Result<()> {
        match self {
            Spool::Memory(memory) => memory.bytes.extend_from_slice(&piece),
            Spool::File(writer) => {
                writer.kept_bytes += kept_bytes(&piece);
                writer.gathered.push(compact(piece));
                if writer.kept_bytes >= SPOOL_WRITE_BYTES {
                    self.flush(length, space).await?;
                }
            }
        }
        Ok(())
    }

    /// The file on disk, if there is one, and how many bytes were written to it.
    pub(crate) fn file(&self) -> Option<(&Arc<Spooled>, u64)> {
        match self {
            Spool::Memory(_) => None,
            Spool::File(writer) => Some((&writer.spooled, writer.written)),
        }
    }

    /// All that was added to a blob of `length` bytes.
    pub(crate) async fn finish(mut self, length: u64, space: &SpoolSpace) -> io::Result<Whole> {
        self.flush(length, space).await?;
        Ok(match self {
            Spool::Memory(memory) => Whole::Memory(Bytes::from_owner(memory)),
            Spool::File(writer) => Whole::File(writer.spooled),
        })
    }

    /// Writes what was gathered. If the disk takes no more, which is no fault of the sender, all of the blob moves
    /// to memory, if there is room.
    async fn flush(&mut self, length: u64, space: &SpoolSpace) -> io::Result<()> {
        let Spool::File(writer) = self else { return Ok(()) };
        let Err(error) = writer.write().await else { return Ok(()) };
        space.disk_failed(&error);
        let Some(room) = space.instead_of_disk(length).await else { return Err(error) };
        *self = Spool::Memory(writer.move_to_memory(InMemory::new(room, length)).await?);
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
    /// Writes what was gathered. It is kept if that fails.
    async fn write(&mut self) -> io::Result<()> {
        let (file, pieces, start) = (self.spooled.file(), self.gathered.clone(), self.written);
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

    /// Copies what was written, and what is gathered, to `memory`.
    async fn move_to_memory(&mut self, mut memory: InMemory) -> io::Result<InMemory> {
        let (file, written, gathered) =
            (self.spooled.file(), self.written, std::mem::take(&mut self.gathered));
        let moved = tokio::task::spawn_blocking(move || {
            memory.bytes.resize(usize::try_from(written).map_err(io::Error::other)?, 0);
            file.read_exact_at(&mut memory.bytes, 0)?;
            gathered.iter().for_each(|piece| memory.bytes.extend_from_slice(piece));
            Ok(memory)
        });
        moved.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::state_dir::StateDir;
    use crate::limits::SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX;

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
    async fn spool_to_a_full_disk(space: &SpoolSpace) -> (io::Result<Whole>, Vec<u8>) {
        let bytes = crate::agent::testing::noise(4 * MIB);
        let length = bytes.len() as u64;
        let Some(SpoolRoom::Disk(_, room)) = space.room(length).await else { panic!("no disk") };
        let mut spool = Spool::new(SpoolRoom::Disk(full_at(MIB * 5 / 2), room), length);
        for piece in bytes.chunks(MIB / 4) {
            if let Err(error) = spool.push(Bytes::copy_from_slice(piece), length, space).await {
                return (Err(error), bytes);
            }
        }
        (spool.finish(length, space).await, bytes)
    }

    #[tokio::test]
    async fn a_disk_that_gets_full_in_the_middle_sends_the_blob_to_memory() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::on_disk(folder.path());
        let space = SpoolSpace::new(state.clone());
        let (whole, bytes) = spool_to_a_full_disk(&space).await;
        let Ok(Whole::Memory(received)) = whole else { panic!("not in memory") };
        assert!(received == bytes, "other bytes");
        assert!(!state.has_disk(), "the next blob goes to the disk again at once");
    }

    /// The error is one of this node, not of the peer.
    #[tokio::test(start_paused = true)]
    async fn without_room_in_memory_either_it_is_an_error_of_this_node() {
        let folder = tempfile::tempdir().unwrap();
        let space = SpoolSpace::new(StateDir::on_disk(folder.path()));
        let full = SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64;
        let _taken = space.instead_of_disk(full).await.expect("all of the room");
        let (whole, _) = spool_to_a_full_disk(&space).await;
        assert!(whole.is_err());
    }

    #[tokio::test]
    async fn a_blob_that_is_spooled_to_disk_is_read_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let space = SpoolSpace::new(StateDir::on_disk(folder.path()));
        let bytes = crate::agent::testing::noise(3 * MIB + 5);
        let length = bytes.len() as u64;
        let mut spool = Spool::new(space.room(length).await.unwrap(), length);
        for piece in bytes.chunks(100_000) {
            spool.push(Bytes::copy_from_slice(piece), length, &space).await.unwrap();
        }
        let whole = spool.finish(length, &space).await.unwrap();
        assert!(matches!(whole, Whole::File(_)));
        let part = ByteRange { start: 7, end: length - 1, total: length };
        let mut stream = whole.stream(part, BufferPool::default());
        let mut read = Vec::new();
        while let Some(piece) = stream.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        assert!(read == bytes[7..bytes.len() - 1], "other bytes");
    }
}
