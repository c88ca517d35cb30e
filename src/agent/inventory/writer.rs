//! The only writer: it sends one request at a time, with the same pair until its outcome is known.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;

use tokio::time::Instant;

use super::heartbeat::lease_seconds;
use super::index_api::Write;
use super::ledger::{Left, Request};
use super::{InventoryState, NotSent, Upkeep};
use crate::agent::backoff::Backoff;
use crate::agent::log_throttle::LogThrottle;
use crate::api::WriteRequest;
use crate::api::client::ClientError;
use crate::limits::{
    ADDRESS_LEFT_ATTEMPTS, ADDRESSES_LEFT_MAX, ADVERTISE_COALESCE, ADVERTISE_COALESCE_IN_FLIGHT,
    CLAIM_CONTESTED_PAUSE, SYNC_TIMEOUT, WRITE_REFUSED_PAUSE, WRITE_RETRY_PAUSE, WRITE_TIMEOUT,
};

/// The outcome of one request.
enum Outcome {
    Done,
    Stale(Option<u64>),
    Refused(ClientError),
    /// Not applied, because the index may hold no more keys. Withdrawals must not wait behind it, because
    /// they make room.
    Full(ClientError),
}

/// Writes what the ledger requests, under the address of this node.
pub(super) async fn run(shared: &Upkeep) -> Infallible {
    let mut address = shared.config.holder.clone();
    let mut writer = Writer {
        shared,
        refused: Backoff::new(WRITE_REFUSED_PAUSE.0, WRITE_REFUSED_PAUSE.1),
        left: VecDeque::new(),
    };
    loop {
        writer.follow(address.now());
        tokio::select! {
            () = address.changed() => {}
            () = writer.write_all_wanted() => {}
        }
    }
}

struct Writer<'a> {
    shared: &'a Upkeep,
    refused: Backoff,
    /// Former addresses of this node, with the number of attempts to remove their keys.
    left: VecDeque<(Left, usize)>,
}

impl Writer<'_> {
    /// Writes under this address from now on.
    fn follow(&mut self, address: Option<SocketAddr>) {
        let shared = self.shared;
        let Some(address) = address else { return };
        let mut ledger = shared.ledger();
        let before = ledger.holder();
        if before == Some(address) {
            return;
        }
        let left = ledger.move_to(address, shared.clock.unix_ms());
        drop(ledger);
        let was_contested = shared.claims().is_contested();
        shared.claims().moved();
        self.refused.reset();
        self.left.retain(|(left, _)| left.holder != address);
        // Keys under an address that another agent uses are not removed.
        if let Some(left) = left.filter(|_| !was_contested) {
            if self.left.len() == ADDRESSES_LEFT_MAX {
                self.left.pop_front();
            }
            self.left.push_back((left, 0));
        }
        if before.is_some() {
            shared.set_sent(InventoryState::Unsent(NotSent::AddressChanged(address)));
            shared.want_scan("the address of this node has changed");
        }
        shared.write_wanted.notify_one();
    }

    /// Waits for pending requests, and sends all of them.
    async fn write_all_wanted(&mut self) {
        let shared = self.shared;
        shared.write_wanted.notified().await;
        let Some(holder) = shared.ledger().holder() else { return };
        self.collect().await;
        loop {
            let Some(request) = shared.ledger().next_request() else { break };
            match send(shared, holder, &request).await {
                Outcome::Done => {
                    self.refused.reset();
                    done(shared, request.kind);
                    self.empty_left().await;
                }
                Outcome::Stale(epoch) => self.overtaken(holder, &request, epoch).await,
                Outcome::Refused(error) => {
                    tracing::error!(%error, kind = ?request.kind, "discovery refused a write");
                    shared.set_sent(InventoryState::Unsent(NotSent::Failed(error)));
                    shared.ledger().refused(shared.clock.unix_ms());
                    tokio::time::sleep(self.refused.next_pause()).await;
                    shared.want_scan("discovery refused a write");
                }
                Outcome::Full(error) => {
                    tracing::warn!(%error, kind = ?request.kind, "discovery has no room for a write");
                    let retry_after = error.retry_after();
                    shared.set_sent(InventoryState::Unsent(NotSent::Failed(error)));
                    shared.ledger().found_full();
                    // What an earlier run of this agent has in the index must not end for lack of heartbeats.
                    shared.known.send_replace(true);
                    tokio::time::sleep(self.refused.next_pause_after(retry_after)).await;
                    shared.want_scan("discovery had no room for a write");
                }
            }
        }
    }

    /// Waits a moment for further changes: longer while content is arriving, because a pull brings more of it soon, and
    /// others find this node meanwhile as one that has a part.
    async fn collect(&self) {
        let until = Instant::now() + ADVERTISE_COALESCE_IN_FLIGHT;
        while !self.shared.ledger().sync_is_next() {
            tokio::time::sleep(ADVERTISE_COALESCE).await;
            if Instant::now() >= until || !(self.shared.config.is_in_flight)() {
                return;
            }
        }
    }

    /// Handles a later write under this address: continues behind it, at once if this agent made it.
    async fn overtaken(&mut self, holder: SocketAddr, request: &Request, epoch: Option<u64>) {
        let shared = self.shared;
        let is_contested = shared.claims().stale(Instant::now());
        tracing::warn!(?epoch, ours = request.pair.epoch, is_contested, "somebody else wrote as {holder}");
        shared.ledger().stale(epoch);
        let mut pause = self.refused.next_pause();
        if is_contested {
            let was_read =
                !matches!(*shared.state.borrow(), InventoryState::Waiting(_) | InventoryState::Scanning);
            if was_read {
                shared.set_state(InventoryState::Contested { holder });
            }
            pause += CLAIM_CONTESTED_PAUSE;
        }
        tokio::time::sleep(pause).await;
        shared.want_scan("discovery knows a later write of this holder");
    }

    /// Removes the keys under former addresses of this node from the index. Best effort: the end of their
    /// leases does the same later.
    async fn empty_left(&mut self) {
        let Some((left, attempts)) = self.left.pop_front() else { return };
        let nothing = Request { kind: Write::Sync, pair: left.pair, keys: Vec::new() };
        let body = body(self.shared, left.holder, &nothing);
        match self.shared.discovery.write(Write::Sync, &body, WRITE_TIMEOUT).await {
            Ok(_) => tracing::info!(holder = %left.holder, "no longer in the index under the address before"),
            Err(ClientError::Refused { .. }) => {}
            Err(error) if attempts + 1 < ADDRESS_LEFT_ATTEMPTS => {
                tracing::debug!(holder = %left.holder, %error, "could not empty the address before");
                self.left.push_back((left, attempts + 1));
            }
            Err(error) => tracing::warn!(holder = %left.holder, %error, "could not empty the address before"),
        }
    }
}

fn done(shared: &Upkeep, kind: Write) {
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

fn body(shared: &Upkeep, holder: SocketAddr, request: &Request) -> WriteRequest {
    let Request { kind, pair, keys } = request;
    let sync = *kind == Write::Sync;
    WriteRequest {
        holder: holder.to_string(),
        group: shared.config.group.clone(),
        keys: keys.iter().map(ToString::to_string).collect(),
        epoch: Some(pair.epoch),
        seq: Some(pair.seq),
        zone: sync.then(|| shared.config.zone.clone()),
        ttl_seconds: sync.then(|| lease_seconds(shared.config.heartbeat_interval)),
    }
}

/// Sends a request until its outcome is known.
async fn send(shared: &Upkeep, holder: SocketAddr, request: &Request) -> Outcome {
    let sync = request.kind == Write::Sync;
    let body = body(shared, holder, request);
    let deadline = if sync { SYNC_TIMEOUT } else { WRITE_TIMEOUT };
    let mut backoff = Backoff::new(WRITE_RETRY_PAUSE.0, WRITE_RETRY_PAUSE.1);
    let mut throttle = LogThrottle::default();
    loop {
        let error = match shared.discovery.write(request.kind, &body, deadline).await {
            Ok(response) if response.stale => return Outcome::Stale(response.epoch),
            Ok(_) => return Outcome::Done,
            Err(error @ ClientError::Refused { .. }) => return Outcome::Refused(error),
            Err(error) if error.is_full() => return Outcome::Full(error),
            Err(error) => error,
        };
        if let Some(left_out) = throttle.passes(&error.to_string(), Instant::now()) {
            let keys = body.keys.len();
            tracing::warn!(%error, kind = ?request.kind, keys, left_out, "a write failed, trying again");
        }
        let retry_after = error.retry_after();
        if sync && !shared.state.borrow().is_synced() {
            shared.set_sent(InventoryState::Unsent(NotSent::Failed(error)));
        }
        tokio::time::sleep(backoff.next_pause_after(retry_after)).await;
    }
}
