//! Limits of the folder of `--state-dir`.

use std::time::Duration;

use super::VERIFIED_WHOLE_BYTES_MAX;

/// Pause between two tries of a state folder that could not be written to.
pub const STATE_DIR_RETRY: Duration = Duration::from_secs(10);
/// Time that a starting agent waits for the state folder while another agent uses it.
pub const STATE_DIR_LOCK_WAIT: Duration = Duration::from_secs(2);
/// Pause between two attempts to lock the state folder.
pub const STATE_DIR_LOCK_RETRY: Duration = Duration::from_millis(50);
/// Size of what must fit into the state folder for it to count as writable again, bytes.
pub const STATE_DIR_PROBE_BYTES: u64 = VERIFIED_WHOLE_BYTES_MAX;
/// Size of what is written to find out whether anything can be written, bytes.
pub const STATE_DIR_PROBE_WRITE_BYTES: usize = 64 * 1024;
/// Age at which files in the state folder are removed that an agent was ended in the middle of writing: a younger one
/// may be a worker's that still runs.
pub const STATE_DIR_LEFTOVER_AGE: Duration = Duration::from_secs(600);
