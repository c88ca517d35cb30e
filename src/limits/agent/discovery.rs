//! Limits of an agent's lookups and reports, and of its belonging to a cluster.

use std::time::Duration;

/// Longest lookup where the servers are near: a part of the time that a request is held.
pub const LOOKUP_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// Longest lookup as long as it is not known how far the servers are: a new connection to a server with a round trip of
/// 500 ms, and an answer.
pub const LOOKUP_TIMEOUT_UNMEASURED: Duration = Duration::from_millis(1_500);
/// Longest lookup where the servers are far.
pub const LOOKUP_TIMEOUT_FAR_MAX: Duration = Duration::from_millis(2_200);
/// Time that is left for peers after a lookup at a far server.
pub const FETCH_AFTER_FAR_LOOKUP: Duration = Duration::from_millis(700);
/// Shortest time of a lookup that says something about the servers; about far ones one needs more.
pub const LOOKUP_CONCLUSIVE_MIN: Duration = Duration::from_millis(250);
/// Lookups in a row without an answer that say something about the servers, however short they were.
pub const LOOKUPS_CONCLUSIVE: usize = 5;
/// First and longest pause between two looks of the breaker for a server that answers; in between it doubles, with
/// jitter.
pub const BREAKER_PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// Candidates that an agent asks discovery for.
pub const CANDIDATES: usize = 16;

/// Time for one look of an agent at the cluster of each of its servers.
pub const CLUSTER_LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest and longest pause between two looks while no server of the agent's cluster answers.
pub const CLUSTER_LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(2_500), Duration::from_secs(5));
/// Shortest and longest pause between two looks while some servers of the agent's cluster answer.
pub const CLUSTER_LOOK_PAUSE_AMONG_OWN: (Duration, Duration) =
    (Duration::from_secs(30), Duration::from_secs(60));
/// Shortest and longest pause between two looks while there is nothing to look for, to know how many servers the
/// cluster has.
pub const CLUSTER_LOOK_PAUSE_CALM: (Duration, Duration) =
    (Duration::from_secs(30 * 60), Duration::from_secs(60 * 60));
/// Time for which all servers have said that they belong to another cluster before an agent follows them to it.
pub const CLUSTER_FOLLOWED_AFTER: Duration = Duration::from_secs(5);
/// Time before an agent follows its servers to another cluster while some of them are silent, or fewer than its cluster
/// has servers, or of several others: the silent ones may be the cluster that it belongs to, cut off.
pub const CLUSTER_FOLLOWED_IN_DOUBT_AFTER: Duration = Duration::from_secs(600);

/// Reports of an agent that wait to be sent; further ones are dropped.
pub const REPORTS_QUEUED_MAX: usize = 256;
/// Time in which the same trouble with the same holder is reported once.
pub const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Reports that an agent remembers so as not to repeat them.
pub const REPORTS_REMEMBERED_MAX: usize = 4_096;
/// Time for one report to reach a server.
pub const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(LOOKUP_TIMEOUT_UNMEASURED.as_millis() < LOOKUP_TIMEOUT_FAR_MAX.as_millis());
