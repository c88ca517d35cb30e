//! Snapshot streams: as they are, and with a corrected checksum, so that the code after the check is reached.

use std::sync::Mutex;

use piccolo_raft::disk::MemoryDisk;
use piccolo_raft::index::Index;
use piccolo_raft::model::Key;
use piccolo_raft::snapshot::file::{FileReceiver, Saved};
use piccolo_raft::snapshot::{Receiver, SnapshotData, verify};
use piccolo_raft::types::ClusterId;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use super::stored;

/// Bytes of a record's length.
const LENGTH_BYTES: usize = 4;
/// Variants of records: keys with their ids; an id and its host; the last one, with a hash.
const KEYS: u8 = 1;
const HOST: u8 = 2;
const END: u8 = 4;

static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

pub(super) fn run(input: &[u8]) {
    let [mode, stream @ ..] = input else { return };
    let stream = if mode % 2 == 0 { stream.to_vec() } else { sealed(stream) };
    if takes_room(&stream) {
        return;
    }
    let whole = verify(&stream);
    let in_pieces = in_pieces(&stream, usize::from(mode / 2) + 1);
    assert_eq!(whole.is_ok(), in_pieces, "the size of its pieces decides whether it is accepted");
    let Ok((meta, data)) = whole else { return };
    assert_eq!(stream[stream.len() - 32..], Sha256::digest(&stream[..stream.len() - 33 - LENGTH_BYTES])[..]);
    // Installed, and sent on: the next receiver accepts it and has the same content.
    let received = data.into_whole(&meta).expect("what was accepted is not a view");
    let mut runtime = RUNTIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = runtime.get_or_insert_with(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    });
    runtime.block_on(async {
        let index = Index::open(&MemoryDisk::default()).expect("an empty disk is a new index");
        index.install(received).await.expect("what was accepted can be installed");
        let checksum = index.checksum();
        let (_, view) = SnapshotData::of(&index).await.expect("what was installed can be sent");
        let chunks: Vec<u8> =
            view.into_chunks().expect("a view").flat_map(|chunk| chunk.expect("it can be read")).collect();
        let (meta, again) = verify(&chunks).expect("what is sent is accepted");
        let other = Index::open(&MemoryDisk::default()).expect("an empty disk is a new index");
        other.install(again.into_whole(&meta).expect("not a view")).await.expect("installed again");
        assert_eq!(other.checksum(), checksum);
        index.close().await.expect("a disk in memory closes");
        other.close().await.expect("a disk in memory closes");
    });
}

/// A snapshot file: as it is, or after a valid beginning.
pub(super) fn run_file(input: &[u8]) {
    let [mode, bytes @ ..] = input else { return };
    let saved = Saved { cluster_id: ClusterId(7), node_id: 1, unix_ms: 2, version: "0.1.0".to_owned() }
        .to_bytes(piccolo_raft::format::Level::FIRST);
    let file = if mode % 2 == 0 { bytes.to_vec() } else { [&saved, bytes].concat() };
    // The start of its stream is only known if the beginning is valid.
    if takes_room(file.get(saved.len()..).unwrap_or_default()) {
        return;
    }
    let read = |size: usize| {
        let mut receiver = FileReceiver::default();
        for piece in file.chunks(size) {
            receiver.push(piece).ok()?;
        }
        receiver.finish().ok().map(|(saved, _)| saved)
    };
    let whole = read(usize::MAX);
    assert_eq!(whole, read(usize::from(mode / 2) + 1), "the size of its pieces decides what it says");
    if let Some(found) = whole {
        let mut receiver = FileReceiver::default();
        receiver.push(&found.to_bytes(piccolo_raft::format::Level::FIRST)).expect("what is written is read");
        assert_eq!(receiver.saved(), Some(&found));
    }
}

fn in_pieces(stream: &[u8], size: usize) -> bool {
    let mut receiver = Receiver::default();
    stream.chunks(size).all(|piece| receiver.push(piece).is_ok()) && receiver.finish().is_ok()
}

/// True if one of its ids makes the index allocate much memory.
pub(super) fn takes_room(stream: &[u8]) -> bool {
    let mut rest = stream.get(2..).unwrap_or_default();
    while let Some((length, body)) = rest.split_first_chunk::<LENGTH_BYTES>() {
        let Some((record, behind)) = body.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            break;
        };
        let takes_room = match record {
            [KEYS, keys @ ..] => postcard::from_bytes::<Vec<(u32, Key)>>(keys)
                .is_ok_and(|keys| keys.iter().any(|(id, _)| stored::takes_room(*id))),
            [HOST, host @ ..] => {
                postcard::take_from_bytes::<u32>(host).is_ok_and(|(id, _)| stored::takes_room(id))
            }
            _ => false,
        };
        if takes_room {
            return true;
        }
        rest = behind;
    }
    false
}

/// Version and complete records of `stream`, and an end with their hash.
fn sealed(stream: &[u8]) -> Vec<u8> {
    let mut kept = 2.min(stream.len());
    while let Some((length, rest)) = stream[kept..].split_first_chunk::<LENGTH_BYTES>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() || rest.first() == Some(&END) {
            break;
        }
        kept += LENGTH_BYTES + length;
    }
    let mut sealed = stream[..kept].to_vec();
    let hash = Sha256::digest(&sealed);
    sealed.extend((1 + hash.len() as u32).to_le_bytes());
    sealed.push(END);
    sealed.extend(hash);
    sealed
}
