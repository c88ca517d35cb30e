//! The one writer: one request at a time, the same pair until its outcome is known.

use std::convert::Infallible;
use std::time::Duration;

use super::backoff::Backoff;
use super::discovery::Write;
use super::heartbeat::lease_seconds;
use super::ledger::Request;
use super::{InventoryState, Shared};
use crate::api::WriteRequest;
use crate::api::client::ClientError;
use crate::limits::ADVERTISE_COALESCE;

/// One attempt at an advertise or withdraw.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// One attempt at a sync.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// First and longest pause between two attempts. The longest is what 50,000 agents without servers add
/// up to: a few thousand calls a second.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// First and longest pause after an answer that no retry changes.
const REFUSED_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How one request ended.
enum Outcome {
    Done,
    Stale(Option<u64>),
    Refused(ClientError),
    /// Not done: the index may not hold more. What goes must not wait behind it, for that makes room.
    Full(ClientError),
}

/// Writes what the ledger says.
pub(super) async fn run(shared: &Shared) -> Infallible {
    let mut refused = Backoff::new(REFUSED_PAUSE.0, REFUSED_PAUSE.1);
    loop {
        shared.write_wanted.notified().await;
        if !shared.ledger().sync_is_next() {
            tokio::time::sleep(ADVERTISE_COALESCE).await;
        }
        loop {
            let Some(request) = shared.ledger().next_request() else { break };
            match send(shared, &request).await {
                Outcome::Done => {
                    refused.reset();
                    done(shared, request.kind);
                }
                Outcome::Stale(epoch) => {
                    tracing::warn!(?epoch, ours = request.pair.epoch, "somebody else wrote for this holder");
                    shared.ledger().stale(epoch);
                    tokio::time::sleep(refused.next_pause()).await;
                    shared.want_scan("discovery knows a later write of this holder");
                }
                Outcome::Refused(error) => {
                    tracing::error!(%error, kind = ?request.kind, "discovery refused a write");
                    shared.set_sent(InventoryState::Unsent { reason: error.to_string() });
                    shared.ledger().refused(shared.clock.unix_ms());
                    tokio::time::sleep(refused.next_pause()).await;
                    shared.want_scan("discovery refused a write");
                }
                Outcome::Full(error) => {
                    tracing::warn!(%error, kind = ?request.kind, "discovery has no room for a write");
                    shared.set_sent(InventoryState::Unsent { reason: error.to_string() });
                    shared.ledger().found_full();
                    // What an earlier run of this agent has in the index must not end for want of beats.
                    shared.known.send_replace(true);
                    tokio::time::sleep(refused.next_pause_after(error.retry_after())).await;
                    shared.want_scan("discovery had no room for a write");
                }
            }
        }
    }
}

fn done(shared: &Shared, kind: Write) {
    let mut ledger = shared.ledger();
    ledger.succeeded();
    let count = ledger.acknowledged().map_or(0, |acknowledged| acknowledged.count);
    drop(ledger);
    ::metrics::gauge!("piccolo_advertised_keys").set(count as f64);
    if kind == Write::Sync {
        shared.set_sent(InventoryState::Synced);
        shared.known.send_replace(true);
    }
}

/// Sends a request until its outcome is known.
async fn send(shared: &Shared, request: &Request) -> Outcome {
    let sync = request.kind == Write::Sync;
    let body = WriteRequest {
        holder: shared.config.holder.to_string(),
        group: shared.config.group.clone(),
        keys: request.keys.iter().map(ToString::to_string).collect(),
        epoch: Some(request.pair.epoch),
        seq: Some(request.pair.seq),
        zone: sync.then(|| shared.config.zone.clone()),
        ttl_seconds: sync.then(|| lease_seconds(shared.config.heartbeat_interval)),
    };
    let deadline = if sync { SYNC_TIMEOUT } else { WRITE_TIMEOUT };
    let mut backoff = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
    loop {
        let error = match shared.discovery.write(request.kind, &body, deadline).await {
            Ok(response) if response.stale => return Outcome::Stale(response.epoch),
            Ok(_) => return Outcome::Done,
            Err(error @ ClientError::Refused { .. }) => return Outcome::Refused(error),
            Err(error) if error.is_full() => return Outcome::Full(error),
            Err(error) => error,
        };
        tracing::warn!(%error, kind = ?request.kind, keys = body.keys.len(), "a write failed, trying again");
        if sync && !shared.state.borrow().is_synced() {
            shared.set_sent(InventoryState::Unsent { reason: error.to_string() });
        }
        tokio::time::sleep(backoff.next_pause_after(error.retry_after())).await;
    }
}
