//! Limits of the policy that decides what may be shared.

use std::time::Duration;

/// Time for which the mirror remembers the name under which content was requested that may not be shared.
/// Longer than a fetch, after which the store knows.
pub const ASKED_TTL: Duration = Duration::from_secs(3600);
/// Names of requested content that the mirror remembers; the oldest is dropped first.
pub const ASKED_REMEMBERED_MAX: usize = 4_096;
/// Memory of one compiled filter of a registry, bytes.
pub const FILTER_BYTES_MAX: usize = 256 * 1024;
/// Bytes of content that are inspected before all of it is read.
pub const CONTENT_BEGINNING_BYTES: u64 = 512;
/// Events of the store that wait for the policy; if there are more, the store waits.
pub const POLICY_EVENTS_WAITING_MAX: usize = 256;
/// Pause between two queries of one request for the source of new content.
pub const SOURCE_ASK_AGAIN: Duration = Duration::from_millis(50);
/// First and longest pause before the watcher queries the source of new content again.
pub const SOURCE_ASK_AGAIN_PAUSE: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(80));
/// Time from the first sign of changed sources to a scan of all of them.
pub const SOURCES_SCAN_AFTER: Duration = Duration::from_millis(50);
/// Pause between two scans of all sources, as a multiple of the duration of one, so that a node that always
/// pulls does not always scan. What the store itself records of a fetch counts at once.
pub const SOURCES_SCAN_PAUSES: u32 = 9;
