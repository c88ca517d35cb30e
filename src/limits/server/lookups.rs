//! Limits of lookups: findkey, the order of its answer, and lookups at other servers.

use std::time::Duration;

/// Time that findkey waits for `min_index`.
pub const MIN_INDEX_WAIT_MAX: Duration = Duration::from_secs(2);
/// Time that a server waits for another one's answer to a lookup that its own state may lack. The Go `pi`
/// gives its whole lookup 2 s.
pub const ELSEWHERE_TIMEOUT: Duration = Duration::from_millis(700);
/// Concurrent lookups of one server at others; further lookups are answered from its own state.
pub const ASKED_ELSEWHERE_AT_ONCE: usize = 256;
/// Largest answer to a lookup that a server reads from another one, bytes; [`FINDKEY_COUNT_MAX`] holders are
/// a fraction of it.
///
/// [`FINDKEY_COUNT_MAX`]: crate::limits::FINDKEY_COUNT_MAX
pub const ELSEWHERE_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Reported holders that findkey skips in search of better ones.
pub const RANKED_LAST_SKIPPED_MAX: usize = 1_024;
/// Inverse of the share of a key's holders that are visited host by host in the order of the Go Piccolo: such
/// a step costs several times as much as visiting a holder.
pub const PREFIX_HOLDERS_PER_STEP: usize = 8;
/// Number of a key's holders up to which all of them are visited without a walk; a walk may always take this
/// many steps.
pub const PREFIX_STEPS_MIN: usize = 64;
