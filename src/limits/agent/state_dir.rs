//! Limits of the folder of `--state-dir`.

use std::time::Duration;

use super::VERIFIED_WHOLE_BYTES_MAX;

/// Pause between two attempts to use a state folder that was not writable.
pub const STATE_DIR_RETRY: Duration = Duration::from_secs(10);
/// Time that a starting agent waits for the state folder while another agent uses it.
pub const STATE_DIR_LOCK_WAIT: Duration = Duration::from_secs(2);
/// Pause between two attempts to lock the state folder.
pub const STATE_DIR_LOCK_RETRY: Duration = Duration::from_millis(50);
/// Free space with which the state folder counts as writable again, bytes.
pub const STATE_DIR_PROBE_BYTES: u64 = VERIFIED_WHOLE_BYTES_MAX;
/// Bytes that are written to test whether the state folder is writable.
pub const STATE_DIR_PROBE_WRITE_BYTES: usize = 64 * 1024;
/// Age from which unfinished files of ended agents are removed from the state folder; a younger one may be in
/// use by a running worker.
pub const STATE_DIR_LEFTOVER_AGE: Duration = Duration::from_secs(600);
