//! Limits of what keeps the index true to this node: watching the store, writes, heartbeats.

use std::time::Duration;

use crate::limits::{HEARTBEATS_PER_LEASE, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN};

/// First and longest pause before the store is watched or scanned again.
pub const STORE_RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Time for the tasks of the inventory to stop.
pub const INVENTORY_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for which advertises are collected before they are sent.
pub const ADVERTISE_COALESCE: Duration = Duration::from_millis(50);
/// Keys in one advertise or withdraw of an agent.
pub const BATCH_KEYS_MAX: usize = 10_000;
/// Room for the other fields of a request with keys, bytes.
pub const WRITE_ENVELOPE_BYTES_MAX: usize = 4_096;
/// Time for one attempt at an advertise or withdraw.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for one attempt at a sync.
pub const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// First and longest pause between two attempts at a write. The longest is what 50,000 agents without servers add up
/// to: a few thousand calls a second.
pub const WRITE_RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// First and longest pause after an answer to a write that no retry changes.
pub const WRITE_REFUSED_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest time that an agent waits which is told to come back later (`Retry-After`).
pub const RETRY_AFTER_HONOURED_MAX: Duration = Duration::from_secs(120);
/// Time between two heartbeats of an agent; a little more or less, so that a fleet spreads.
pub const HEARTBEAT_INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
/// Shortest time between two heartbeats: the lease is the shortest one.
pub const HEARTBEAT_INTERVAL_MIN: Duration =
    Duration::from_secs(LEASE_SECONDS_MIN.div_ceil(HEARTBEATS_PER_LEASE) as u64);
/// Longest time between two heartbeats: the lease is the longest one.
pub const HEARTBEAT_INTERVAL_MAX: Duration =
    Duration::from_secs((LEASE_SECONDS_MAX / HEARTBEATS_PER_LEASE) as u64);
/// Share of the interval by which a heartbeat comes earlier or later.
pub const HEARTBEAT_JITTER: f64 = 0.1;
/// First pause after a heartbeat that failed; the longest is the interval.
pub const HEARTBEAT_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Time for one attempt at a heartbeat.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
