//! A snapshot in a file: eight magic bytes, a `u32` little endian length, a versioned [`Saved`] of that
//! many bytes, the SHA-256 of all that, then the stream of [`super`], which has its own format and ends
//! with its own SHA-256.
//!
//! It says what each node holds, and who the servers were. There is no secret in it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Receiver, SnapshotError};
use crate::format::{FormatError, Level, STORAGE};
use crate::index::WholeState;
use crate::limits::SAVED_BYTES_MAX;
use crate::types::{ClusterId, NodeId};

/// What a file begins with. The last byte is none that a text has.
pub const MAGIC: [u8; 8] = *b"piccolo\x1a";
const SHA256_BYTES: usize = 32;

/// Where and when a snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Id of the cluster of the server that wrote the snapshot.
    pub cluster_id: ClusterId,
    /// Id of the server that wrote the snapshot.
    pub node_id: NodeId,
    /// Time of the snapshot by that server's clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Version of that server's build.
    pub version: String,
}

impl Saved {
    /// The first bytes of the file, up to the stream, which is of `level`.
    pub fn to_bytes(&self, level: Level) -> Vec<u8> {
        let frame = STORAGE.encode(level, self);
        let length = u32::try_from(frame.len()).expect("ids, a time and a version are some dozen bytes");
        let mut bytes = [&MAGIC[..], &length.to_le_bytes(), &frame].concat();
        let sha256 = Sha256::digest(&bytes);
        bytes.extend(sha256);
        bytes
    }
}

/// Verifies a file while it is read or written, in pieces of any size.
#[derive(Default)]
pub struct FileReceiver {
    /// Bytes of the beginning, until it is whole.
    buffer: Vec<u8>,
    saved: Option<Saved>,
    stream: Receiver,
}

impl FileReceiver {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.saved.is_some() {
            return self.stream.push(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        if let Some((saved, length)) = parse(&self.buffer)? {
            self.saved = Some(saved);
            let buffer = std::mem::take(&mut self.buffer);
            self.stream.push(&buffer[length..])?;
        }
        Ok(())
    }

    /// Where it was taken, once that much has arrived.
    pub fn saved(&self) -> Option<&Saved> {
        self.saved.as_ref()
    }

    /// After the last byte. Takes seconds of CPU for millions of pairs.
    pub fn finish(self) -> Result<(Saved, WholeState), SnapshotError> {
        let Some(saved) = self.saved else { return Err(SnapshotError::damaged("it is cut")) };
        let (meta, data) = self.stream.finish()?;
        Ok((saved, data.into_whole(&meta)?))
    }
}

/// What it says and how long it is; `None` until it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(Saved, usize)>, SnapshotError> {
    let magic = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        return Err(SnapshotError::damaged("it does not begin like a snapshot of piccolo"));
    }
    let Some((length, frame)) = bytes.get(MAGIC.len()..).and_then(|rest| rest.split_first_chunk::<4>())
    else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > SAVED_BYTES_MAX {
        return Err(SnapshotError::damaged(format!("a beginning of {length} bytes")));
    }
    let Some((frame, rest)) = frame.split_at_checked(length) else { return Ok(None) };
    // The version comes first: of another format, not even this checksum is known.
    let saved = STORAGE.decode("snapshot file", frame);
    if let Err(other @ (FormatError::Newer { .. } | FormatError::Older { .. })) = saved {
        return Err(other.into());
    }
    let Some(sha256) = rest.get(..SHA256_BYTES) else { return Ok(None) };
    let hashed = MAGIC.len() + 4 + length;
    if Sha256::digest(&bytes[..hashed]).as_slice() != sha256 {
        return Err(SnapshotError::damaged("the SHA-256 of its beginning does not match"));
    }
    Ok(Some((saved?, hashed + SHA256_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::disk::MemoryDisk;
    use crate::index::Index;
    use crate::snapshot::SnapshotData;
    use crate::testing::{entry, write};

    fn saved() -> Saved {
        Saved {
            cluster_id: ClusterId(0xfeed),
            node_id: 7,
            unix_ms: 1_700_000_000_000,
            version: "0.1.0".to_owned(),
        }
    }

    async fn file() -> Vec<u8> {
        let index = Index::open(&MemoryDisk::default()).unwrap();
        index.apply(&[entry(1, Command::Advertise(write(1, &["r/a:1", "r/b:1"])))]).await.unwrap();
        let (_, data) = SnapshotData::of(&index).await.unwrap();
        let chunks: Vec<_> = data.into_chunks().unwrap().map(Result::unwrap).collect();
        [saved().to_bytes(Level::FIRST), chunks.concat()].concat()
    }

    fn read(bytes: &[u8], piece: usize) -> Result<(Saved, WholeState), SnapshotError> {
        let mut receiver = FileReceiver::default();
        for piece in bytes.chunks(piece) {
            receiver.push(piece)?;
        }
        receiver.finish()
    }

    #[tokio::test]
    async fn a_file_is_read_in_pieces_of_any_size() {
        let bytes = file().await;
        for piece in [1, 7, 64, bytes.len()] {
            let (found, received) = read(&bytes, piece).unwrap();
            let summary = received.summary();
            assert_eq!((found, summary.log_index, summary.counts.pairs), (saved(), 1, 2));
        }
    }

    #[tokio::test]
    async fn every_cut_and_every_changed_byte_is_found() {
        let bytes = file().await;
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], 64).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(read(&changed, 64).is_err(), "byte {at}");
        }
        assert!(read(&[&bytes[..], &[0]].concat(), 64).is_err(), "a byte too many");
    }

    #[tokio::test]
    async fn a_newer_file_is_refused_by_name() {
        let mut bytes = file().await;
        bytes[MAGIC.len() + 4] = 9;
        let error = read(&bytes, 64).err().unwrap().to_string();
        assert!(
            error.contains("snapshot file has storage format 9") && error.contains("newer piccolo"),
            "{error}"
        );
    }
}
