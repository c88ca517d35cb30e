//! Limits of an agent, with a file for each of its folders.

mod address;
mod content;
mod discovery;
mod fetch;
mod flight;
mod inventory;
mod origin;
mod policy;
mod serve;
mod state_dir;

use std::time::Duration;

use super::CONNECTIONS_MAX;

pub use address::*;
pub use content::*;
pub use discovery::*;
pub use fetch::*;
pub use flight::*;
pub use inventory::*;
pub use origin::*;
pub use policy::*;
pub use serve::*;
pub use state_dir::*;

/// Time that an agent has to stop, beyond the time for requests in flight.
pub const AGENT_STOP_MARGIN: Duration = Duration::from_secs(5);
/// Notices that are shown at the same time.
pub const NOTICES_MAX: usize = 64;
/// Examples that one notice about many similar things names.
pub const NOTICE_EXAMPLES_MAX: usize = 3;
/// First and longest pause between two log lines about the same failure; the pause doubles in between.
pub const REPEATED_FAILURE_LOG_PAUSE: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(600));
/// Largest `--uploads-max`.
pub const UPLOADS_MAX_MOST: usize = CONNECTIONS_MAX;

const _: () = assert!(ORIGIN_PROBE_TIMEOUT.as_millis() < RESOLVE_TIMEOUT_DEFAULT.as_millis());
const _: () = assert!(LOOKUP_TIMEOUT_MAX.as_millis() < RESOLVE_TIMEOUT_DEFAULT.as_millis());
const _: () = assert!(UNANSWERED_WAIT_MAX.as_millis() <= RESOLVE_TIMEOUT_DEFAULT.as_millis());
const _: () = assert!(VERIFY_BEFORE_HEADERS.as_millis() < HEDGE_DELAY_MAX.as_millis());
const _: () = assert!(VERIFY_BEFORE_BYTES.as_millis() < SOURCE_STALL_TIMEOUT.as_millis());
const _: () = assert!(VERIFY_BEFORE_CHUNK.as_millis() < SOURCE_STALL_TIMEOUT.as_millis());
const _: () = assert!(FILE_CHUNK_BYTES as u64 >= SOURCE_BYTES_PER_SECOND_MIN * VERIFY_BEFORE_CHUNK.as_secs());
const _: () = assert!(VERIFIED_WHOLE_BYTES_MAX <= VERIFIED_FIRST_BYTES_MAX);
const _: () = assert!(MANIFEST_BYTES_MAX <= VERIFIED_WHOLE_BYTES_MAX);
