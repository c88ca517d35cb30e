//! Limits of the inventory: watching the store, writes, heartbeats.

use std::time::Duration;

use crate::limits::{HEARTBEATS_PER_LEASE, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN};

/// First and longest pause before the store is watched or scanned again.
pub const STORE_RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Time for the tasks of the inventory to stop.
pub const INVENTORY_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for which advertises are collected before they are sent.
pub const ADVERTISE_COALESCE: Duration = Duration::from_millis(50);
/// The same while this node shares content that is still arriving: others find it as one that has a part.
pub const ADVERTISE_COALESCE_IN_FLIGHT: Duration = Duration::from_secs(2);
/// Keys in one advertise or withdraw of an agent.
pub const BATCH_KEYS_MAX: usize = 10_000;
/// Bytes for the other fields of a request with keys.
pub const WRITE_ENVELOPE_BYTES_MAX: usize = 4_096;
/// Time for one attempt at an advertise or withdraw.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for one attempt at a sync.
pub const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// First and longest pause between two attempts at a write. With the longest one, 50,000 agents without
/// servers make a few thousand calls a second.
pub const WRITE_RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// First and longest pause after an answer to a write that a retry will not change.
pub const WRITE_REFUSED_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest `Retry-After` that an agent obeys.
pub const RETRY_AFTER_HONOURED_MAX: Duration = Duration::from_secs(120);
/// Time between two heartbeats of an agent, before jitter.
pub const HEARTBEAT_INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
/// Shortest time between two heartbeats, which gives the shortest lease.
pub const HEARTBEAT_INTERVAL_MIN: Duration =
    Duration::from_secs(LEASE_SECONDS_MIN.div_ceil(HEARTBEATS_PER_LEASE) as u64);
/// Longest time between two heartbeats, which gives the longest lease.
pub const HEARTBEAT_INTERVAL_MAX: Duration =
    Duration::from_secs((LEASE_SECONDS_MAX / HEARTBEATS_PER_LEASE) as u64);
/// Share of the interval by which a heartbeat comes earlier or later.
pub const HEARTBEAT_JITTER: f64 = 0.1;
/// First pause after a heartbeat that failed; the longest is the interval.
pub const HEARTBEAT_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Time for one attempt at a heartbeat.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
