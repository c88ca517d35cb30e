//! Limits of the question what may be shared.

use std::time::Duration;

/// Time for which the mirror remembers under which name it was asked for content that may not be shared. Longer than a
/// fetch takes: then the store knows.
pub const ASKED_TTL: Duration = Duration::from_secs(3600);
/// Names under which the mirror was asked that it remembers; the oldest goes first.
pub const ASKED_REMEMBERED_MAX: usize = 4_096;
/// Memory that one compiled filter of a registry may take, bytes.
pub const FILTER_BYTES_MAX: usize = 256 * 1024;
/// Size of what is looked at of content before all of it is read, bytes.
pub const CONTENT_BEGINNING_BYTES: u64 = 512;
/// Events of the store that wait for the policy; more than that, and the store waits.
pub const POLICY_EVENTS_WAITING_MAX: usize = 256;
/// Pause between two questions of a request where new content was fetched from.
pub const SOURCE_ASK_AGAIN: Duration = Duration::from_millis(50);
/// First and longest pause before the watch asks again where new content was fetched from.
pub const SOURCE_ASK_AGAIN_PAUSE: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(80));
/// Time from the first sign that sources have changed to a scan of all of them.
pub const SOURCES_SCAN_AFTER: Duration = Duration::from_millis(50);
/// Pause between two scans of all sources, as a multiple of what one scan takes: a node that pulls all the time does not
/// scan all the time. What the store itself records of a fetch counts at once all the same.
pub const SOURCES_SCAN_PAUSES: u32 = 9;
