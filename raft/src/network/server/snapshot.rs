//! Receives a snapshot from a request body, as `network/snapshot.rs` sends it. All of it is verified before
//! openraft hears of it: an error while it installs is fatal.

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use openraft::raft::SnapshotResponse;

use crate::limits::{BODY_READ_TIMEOUT, SMALL_BODY_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use crate::network::frame::{self, Received};
use crate::network::plausible::{check_snapshot, check_snapshot_history};
use crate::snapshot::{Receiver, SnapshotData};
use crate::types::{TypeConfig, Vote};

use super::caller::{Sent, check_caller};
use super::{RpcError, RpcState, stopped, within};

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Takes a snapshot in and installs it; the answer, and the version that it is given in.
pub(super) async fn receive(
    state: &RpcState,
    Sent { caller, body }: Sent,
) -> Result<(u16, SnapshotResponse<TypeConfig>), RpcError> {
    let mut pieces = Pieces { body, first: Bytes::new(), left: SNAPSHOT_BYTES_MAX };
    let length = pieces.exactly(4).await?;
    let length = u32::from_le_bytes(length.as_ref().try_into().expect("exactly four bytes"));
    if length as usize > SMALL_BODY_BYTES_MAX {
        return Err(RpcError::TooLarge { limit: SMALL_BODY_BYTES_MAX });
    }
    let frame = pieces.exactly(length as usize).await?;
    let Received { version, header, message: vote } = frame::read::<Vote>(&frame)?;
    check_caller(caller, &header)?;
    state.admit(&header).await?;
    state.guard.admit_snapshot()?;
    let _only = state.permits.snapshot()?;
    let mut receiver = Receiver::default();
    let mut received = 0;
    while let Some(piece) = pieces.next().await? {
        received += piece.len() as u64;
        receiver.push(&piece).map_err(refused)?;
    }
    let verified = state.threads.blocking(move || receiver.finish()).await.map_err(stopped)?;
    let (meta, snapshot) = verified.map_err(refused)?;
    check_snapshot(&vote, &meta, header.sender)?;
    check_snapshot_history(&meta, &state.index, &state.log)?;
    tracing::info!(%meta, from = header.sender, "received a snapshot");
    state.permits.check_running()?;
    state.guard.admit_install(received)?;
    let installed = state.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
    Ok((version, installed.map_err(stopped)?))
}

fn refused(error: crate::snapshot::SnapshotError) -> RpcError {
    tracing::warn!(%error, "refused a snapshot");
    RpcError::Body { reason: error.to_string() }
}

/// A body as it arrives, up to a number of bytes.
struct Pieces {
    body: Body,
    /// Bytes that have arrived and are not taken yet.
    first: Bytes,
    left: u64,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
        if !self.first.is_empty() {
            return Ok(Some(std::mem::take(&mut self.first)));
        }
        loop {
            let Some(frame) = within(BODY_READ_TIMEOUT, self.body.frame()).await? else { return Ok(None) };
            let frame = frame.map_err(|error| RpcError::Body { reason: error.to_string() })?;
            let Ok(piece) = frame.into_data() else { continue };
            let left = self.left.checked_sub(piece.len() as u64);
            self.left = left.ok_or(RpcError::TooLarge { limit: SNAPSHOT_BYTES_MAX as usize })?;
            return Ok(Some(piece));
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Bytes, RpcError> {
        let mut taken = Vec::with_capacity(length);
        while taken.len() < length {
            let piece =
                self.next().await?.ok_or_else(|| RpcError::Body { reason: "it is cut".to_owned() })?;
            self.first = piece;
            let missing = (length - taken.len()).min(self.first.len());
            taken.extend_from_slice(&self.first.split_to(missing));
        }
        Ok(taken.into())
    }
}
