//! Sends a snapshot in a request body: a `u32` little endian length, a frame of that many bytes (header and
//! vote), then the snapshot's own stream, which begins with its format and ends with its checksum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::format::Level;
use crate::limits::{SNAPSHOT_IDLE_TIMEOUT, SNAPSHOT_TIMEOUT};
use crate::snapshot::SnapshotData;
use crate::types::{TypeConfig, Vote};

use super::Header;
use super::body::Progress;
use super::client::{CallError, RpcClient};
use super::frame::Message;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Streams `snapshot` to `address`, in a frame of `level`, counting the bytes in `sent`. The answer is an encoded
/// [`openraft::raft::SnapshotResponse`].
pub(crate) async fn send(
    client: &RpcClient,
    address: &str,
    (header, level): (Header, Level),
    vote: Vote,
    snapshot: Snapshot,
    sent: Arc<AtomicU64>,
) -> Result<Bytes, CallError> {
    let chunks = snapshot.snapshot.into_stream();
    let chunks = chunks.map_err(|error| CallError::Unreadable {
        address: "this node".to_owned(),
        reason: error.to_string(),
    })?;
    let progress = Progress::new();
    let touched = progress.clone();
    let first = stream::iter([Ok(preface(&header, level, &vote))]);
    let frames = first.chain(chunks.map(|chunk| chunk.map_err(std::io::Error::other))).map(move |chunk| {
        touched.touch();
        if let Ok(chunk) = &chunk {
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        chunk.map(Frame::data)
    });
    let body = BodyExt::boxed_unsync(StreamBody::new(frames));
    let sending = client.send(address, "snapshot", body, progress, SNAPSHOT_IDLE_TIMEOUT);
    match tokio::time::timeout(SNAPSHOT_TIMEOUT, sending).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::Idle { address: address.to_owned(), idle: SNAPSHOT_TIMEOUT }),
    }
}

fn preface(header: &Header, level: Level, vote: &Vote) -> Bytes {
    let frame = vote.frame(header, level);
    let length = u32::try_from(frame.len()).expect("a header and a vote are some hundred bytes");
    [length.to_le_bytes().as_slice(), &frame].concat().into()
}
