//! Limits of lookups: findkey, the order of its answer, and answers of other servers.

use std::time::Duration;

/// Time that findkey waits for `min_index`.
pub const MIN_INDEX_WAIT_MAX: Duration = Duration::from_secs(2);
/// Time that a server waits for another one's answer to a lookup that it cannot answer for good itself. The Go `pi`
/// gives its whole lookup 2 s.
pub const ELSEWHERE_TIMEOUT: Duration = Duration::from_millis(700);
/// Lookups of one server at other servers at once; further ones are answered by what is here.
pub const ASKED_ELSEWHERE_AT_ONCE: usize = 256;
/// Largest answer to a lookup that a server reads of another one, bytes: [`FINDKEY_COUNT_MAX`] holders are a fraction
/// of it.
///
/// [`FINDKEY_COUNT_MAX`]: crate::limits::FINDKEY_COUNT_MAX
pub const ELSEWHERE_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Holders that are ranked last past which findkey looks for others.
pub const RANKED_LAST_SKIPPED_MAX: usize = 1_024;
/// Share of the holders of a key that are walked over host by host in the order of the Go Piccolo, as its inverse: a
/// step costs several times as much as a look at a holder.
pub const PREFIX_HOLDERS_PER_STEP: usize = 8;
/// Holders of a key up to which all of them are looked at without a walk; so many steps of a walk are always tried.
pub const PREFIX_STEPS_MIN: usize = 64;
