//! Every limit by name, with its unit (I7): a file for each subsystem. Relations between limits are asserted at
//! compile time: those of one subsystem in its file, those between subsystems here.

mod agent;
mod api;
mod cli;
mod client;
mod http;
mod identity;
mod server;

use std::time::Duration;

pub use agent::*;
pub use api::*;
pub use cli::*;
pub use client::*;
pub use http::*;
pub use identity::*;
pub use server::*;

/// Time that a frozen agent may cost a pull (I4).
const FROZEN_COST_MAX: Duration = Duration::from_secs(5);
/// Time that a pull may cost while all of Piccolo is down (I4).
const DOWN_COST_MAX: Duration = Duration::from_secs(3);

const _: () =
    assert!(WORKER_PROBE_INTERVAL.as_millis() + WORKER_SILENT_MAX.as_millis() < FROZEN_COST_MAX.as_millis());
const _: () = assert!(
    LOOKUP_TIMEOUT_FAR_MAX.as_millis() + FETCH_AFTER_FAR_LOOKUP.as_millis() < DOWN_COST_MAX.as_millis()
);
const _: () = assert!(CLAIM_PROGRESS_INTERVAL.as_millis() < CLAIM_LOST_AFTER.as_millis());
const _: () = assert!(API_PULSE_AFTER.as_millis() < HEADER_READ_TIMEOUT.as_millis());
const _: () = assert!(PEER_IDLE_TIMEOUT.as_millis() < HEADER_READ_TIMEOUT.as_millis());
const _: () = assert!(REPORT_AGAIN_AFTER.as_secs() < REPORT_TTL.as_secs());
const _: () = assert!(REQUEST_KEYS_MAX as u64 <= INDEX_KEYS_OF_A_HOLDER_MAX);
const _: () = assert!((HOSTS_PAGE_MAX * HOSTS_PAGES_MAX) as u64 > INDEX_HOSTS_MAX);
const _: () = assert!(WORKER_STOP_TIMEOUT.as_millis() < UP_STOP_TIMEOUT.as_millis());
