//! Keeps the index in step with what this node holds.
//!
//! Three tasks share a `Ledger`, which decides everything without I/O: one watches and scans the store, one
//! writes to discovery, one sends heartbeats. Watches are set before a scan, a sync gets its sequence number
//! when its scan starts, and changes that happen meanwhile are sent after it. Where the store cannot vouch
//! for its events, it is watched and scanned again; a scan that fails deletes nothing (I3).

mod address_conflict;
#[cfg(test)]
mod fake;
mod heartbeat;
mod index_api;
mod ledger;
mod writer;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use piccolo_raft::errors::chain;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::address::own::OwnAddress;
use super::backoff::Backoff;
use super::content::store::{Store, StoreError, StoreEvent, WatchEvent, next_event};
use super::counters::Counters;
use super::log_throttle::LogThrottle;
use crate::api::client::ClientError;
use crate::clock::SharedClock;
use crate::limits::{INVENTORY_STOP_TIMEOUT, STORE_RETRY_PAUSE};
use crate::task::{Stop, TaskError, Tasks};
use address_conflict::Claims;
pub use index_api::{IndexApi, Write};
use ledger::{Ledger, Pair};

/// Decides which tags (`registry/repository:tag`) are advertised.
pub type TagFilter = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Tells whether this node shares content that is still arriving.
pub type InFlight = Box<dyn Fn() -> bool + Send + Sync>;

/// What the inventory tells discovery about this node, and where it takes that from.
pub struct Config {
    /// Address of this node's blob server, as peers reach it.
    pub holder: OwnAddress,
    /// The group that sees this node.
    pub group: String,
    /// Zone label; empty if there is none.
    pub zone: String,
    /// Time between two heartbeats; the lease is three of them.
    pub heartbeat_interval: Duration,
    /// Decides which tags are advertised.
    pub advertises_tag: TagFilter,
    /// Counters of this agent's use, which heartbeats report.
    pub counters: Arc<Counters>,
    /// Tells whether content is arriving that others can have meanwhile, so that what it becomes need not be known at
    /// once.
    pub is_in_flight: InFlight,
    /// Receives each event of the store. Must not block.
    pub seen: Seen,
    /// Called when the daemon behind the store has ended, or does not answer. Must not block.
    pub lost: Lost,
}

/// Attempts to watch and to scan the store, while they fail.
struct Retries {
    backoff: Backoff,
    throttle: LogThrottle,
}

/// A receiver of the events that the inventory sees.
pub type Seen = Box<dyn Fn(&StoreEvent) + Send + Sync>;

/// What is called when the daemon behind the store is lost.
pub type Lost = Box<dyn Fn() + Send + Sync>;

/// Why the store has not been read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    /// The agent has just started.
    #[error("not asked yet")]
    NotAsked,
    /// The watch or the scan failed.
    #[error("{}", chain(.0))]
    Failed(StoreError),
}

/// Why discovery does not know yet what this node holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// Nothing was acknowledged since the agent started, or since the store became readable again.
    #[error("the first sync is on its way")]
    FirstSync,
    /// A sync has not been answered yet.
    #[error("the sync is on its way")]
    Sync,
    /// Everything has to be sent again under this address.
    #[error("the address of this node has changed to {0}")]
    AddressChanged(SocketAddr),
    /// The last write failed.
    #[error(transparent)]
    Failed(ClientError),
}

/// How far the index agrees with this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InventoryState {
    /// The store cannot be read. What was advertised stays.
    Waiting(NotRead),
    /// The store is being read.
    Scanning,
    /// The store was read, and discovery has not acknowledged the result yet.
    Unsent(NotSent),
    /// Another agent writes under the address of this one, so that each removes the other's keys from the
    /// index.
    Contested {
        /// The address of both agents.
        holder: SocketAddr,
    },
    /// Discovery has acknowledged a complete scan of the watched store; changes follow within milliseconds.
    Synced,
}

impl InventoryState {
    /// Whether the index agrees with this node.
    pub fn is_synced(&self) -> bool {
        *self == Self::Synced
    }
}

impl fmt::Display for InventoryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting(cause) => write!(f, "waiting for the image store: {cause}"),
            Self::Scanning => f.write_str("scanning the image store"),
            Self::Unsent(cause) => write!(f, "not yet known to discovery: {cause}"),
            Self::Contested { holder } => write!(
                f,
                "another agent writes as {holder}: two nodes have the same address, or two sites behind a \
                 translation of addresses have; give each agent an address of its own with --advertise IP:PORT, \
                 or stop the other one"
            ),
            Self::Synced => f.write_str("synced"),
        }
    }
}

/// The inventory of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Inventory {
    shared: Arc<Upkeep>,
}

struct Upkeep {
    store: Arc<dyn Store>,
    discovery: Arc<dyn IndexApi>,
    config: Config,
    clock: SharedClock,
    ledger: Mutex<Ledger>,
    claims: Mutex<Claims>,
    /// Notified when there may be something to write.
    write_wanted: Notify,
    /// Notified when a new complete scan is wanted.
    scan_wanted: Notify,
    state: watch::Sender<InventoryState>,
    /// Becomes true with the first sync that was acknowledged, or for which there was no room.
    known: watch::Sender<bool>,
}

impl Inventory {
    /// Creates an inventory, which does nothing before [`Inventory::run`].
    pub fn new(
        store: Arc<dyn Store>,
        discovery: Arc<dyn IndexApi>,
        clock: &SharedClock,
        config: Config,
    ) -> Self {
        let shared = Upkeep {
            claims: Mutex::new(Claims::new(config.heartbeat_interval)),
            store,
            discovery,
            config,
            clock: Arc::clone(clock),
            ledger: Mutex::new(Ledger::new(clock.unix_ms())),
            write_wanted: Notify::new(),
            scan_wanted: Notify::new(),
            state: watch::Sender::new(InventoryState::Waiting(NotRead::NotAsked)),
            known: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sends again everything that this node holds, because the index may be another one.
    pub(crate) fn begin_anew(&self, why: &str) {
        self.shared.want_scan(why);
    }

    /// The current state, and its changes.
    pub fn state(&self) -> watch::Receiver<InventoryState> {
        self.shared.state.subscribe()
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// Only for a defect: no failure of the store or of discovery ends it.
    pub async fn run(&self, stop: Stop) -> Result<(), TaskError> {
        ::metrics::describe_gauge!("piccolo_advertised_keys", "Keys that discovery has acknowledged.");
        ::metrics::describe_counter!("piccolo_keepalive_total", "Heartbeats by their outcome.");
        ::metrics::describe_counter!(
            "piccolo_inventory_scans_total",
            "Scans of the image store by their outcome."
        );
        let mut tasks = Tasks::new(stop.child_token());
        let (shared, stop) = (Arc::clone(&self.shared), tasks.stop().clone());
        tasks.spawn("inventory watch", async move { until_stopped(stop, shared.watch()).await });
        let (shared, stop) = (Arc::clone(&self.shared), tasks.stop().clone());
        tasks.spawn("inventory writer", async move { until_stopped(stop, writer::run(&shared)).await });
        let (shared, stop) = (Arc::clone(&self.shared), tasks.stop().clone());
        tasks.spawn("heartbeat", async move { until_stopped(stop, heartbeat::run(&shared)).await });
        tasks.run(INVENTORY_STOP_TIMEOUT).await
    }
}

async fn until_stopped(stop: Stop, endless: impl Future<Output = Infallible>) -> Result<(), Infallible> {
    match stop.run_until_cancelled(endless).await {
        None => Ok(()),
        Some(never) => match never {},
    }
}

impl Upkeep {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the progress of a scan and its sync is reported: not while another agent uses the same
    /// address.
    fn is_on_its_way(&self) -> bool {
        !self.state.borrow().is_synced() && !self.claims().is_contested()
    }

    fn set_state(&self, state: InventoryState) {
        self.state.send_if_modified(|before| {
            let changed = *before != state;
            if changed {
                tracing::info!(%state, "inventory");
                *before = state;
            }
            changed
        });
    }

    /// Reports the result of a write. Reports nothing while the store has not been read.
    fn set_sent(&self, state: InventoryState) {
        let was_read = matches!(
            *self.state.borrow(),
            InventoryState::Unsent(_) | InventoryState::Contested { .. } | InventoryState::Synced
        );
        if was_read && !self.claims().is_contested() {
            self.set_state(state);
        }
    }

    /// Ends a conflict after a successful heartbeat: an address that no other agent has claimed for long
    /// belongs to this agent alone.
    fn settle_claims(&self) {
        if !self.claims().has_settled(tokio::time::Instant::now()) {
            return;
        }
        let ledger = self.ledger();
        let is_sent = ledger.acknowledged().is_some() && !ledger.is_syncing();
        drop(ledger);
        self.set_sent(if is_sent { InventoryState::Synced } else { InventoryState::Unsent(NotSent::Sync) });
    }

    /// Requests a new complete scan, unless one or its sync is on its way.
    fn want_scan(&self, why: &str) {
        if !self.ledger().is_syncing() {
            tracing::info!(why, "scanning anew");
            self.scan_wanted.notify_one();
        }
    }

    /// Watches the store, and again whenever a watch ends.
    async fn watch(&self) -> Infallible {
        let mut retries = Retries {
            backoff: Backoff::new(STORE_RETRY_PAUSE.0, STORE_RETRY_PAUSE.1),
            throttle: LogThrottle::default(),
        };
        loop {
            let ended = self.watch_once(&mut retries).await;
            if ended.is_of_lost_daemon() {
                (self.config.lost)();
            }
            self.ledger().scan_failed();
            let text = chain(&ended);
            if let Some(left_out) = retries.throttle.passes(&text, Instant::now()) {
                tracing::warn!(
                    store = self.store.name(),
                    error = text,
                    left_out,
                    "the watch of the image store ended; watches and scans anew"
                );
            }
            self.set_state(InventoryState::Waiting(NotRead::Failed(ended)));
            tokio::time::sleep(retries.backoff.next_pause()).await;
        }
    }

    /// Watches, scans and follows the store. Returns why the watch ended.
    async fn watch_once(&self, retries: &mut Retries) -> StoreError {
        let mut watch = self.store.watch();
        if let Err(ended) = next_event(&mut watch).await {
            return ended;
        }
        let follow = async {
            loop {
                match next_event(&mut watch).await {
                    Ok(WatchEvent::Changed(event)) => self.changed(&event),
                    Ok(WatchEvent::Set) => {}
                    Err(ended) => return ended,
                }
            }
        };
        tokio::select! {
            ended = follow => ended,
            never = self.scan_whenever_wanted(retries) => match never {},
        }
    }

    fn changed(&self, event: &StoreEvent) {
        (self.config.seen)(event);
        self.ledger().changed(event, &self.config.advertises_tag);
        self.write_wanted.notify_one();
    }

    async fn scan_whenever_wanted(&self, retries: &mut Retries) -> Infallible {
        loop {
            while let Err(error) = self.scan().await {
                let text = chain(&error);
                if let Some(left_out) = retries.throttle.passes(&text, Instant::now()) {
                    let store = self.store.name();
                    tracing::warn!(store, error = text, left_out, "a scan failed; what was advertised stays");
                }
                self.set_state(InventoryState::Waiting(NotRead::Failed(error)));
                tokio::time::sleep(retries.backoff.next_pause()).await;
            }
            retries.backoff.reset();
            retries.throttle.reset();
            self.scan_wanted.notified().await;
        }
    }

    async fn scan(&self) -> Result<(), StoreError> {
        if self.is_on_its_way() {
            self.set_state(InventoryState::Scanning);
        }
        let pair: Pair = self.ledger().begin_scan();
        let scanned = self.store.scan().await;
        let result = if scanned.is_ok() { "success" } else { "error" };
        ::metrics::counter!("piccolo_inventory_scans_total", "result" => result).increment(1);
        let mut ledger = self.ledger();
        match scanned {
            Ok(scan) => ledger.scanned(pair, scan, &self.config.advertises_tag),
            Err(error) => {
                ledger.scan_failed();
                return Err(error);
            }
        }
        drop(ledger);
        if self.is_on_its_way() {
            self.set_state(InventoryState::Unsent(NotSent::FirstSync));
        } else if let (true, Some(holder)) = (self.claims().is_contested(), self.ledger().holder()) {
            self.set_state(InventoryState::Contested { holder });
        }
        self.write_wanted.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
