//! Limits of an agent's lookups and reports, and of its membership of a cluster.

use std::time::Duration;

/// Longest lookup at near servers: a part of the time for which a request is held.
pub const LOOKUP_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// Longest lookup while the round trip to the servers is not known: enough for a new connection with a round
/// trip of 500 ms, and an answer.
pub const LOOKUP_TIMEOUT_UNMEASURED: Duration = Duration::from_millis(1_500);
/// Longest lookup at far servers.
pub const LOOKUP_TIMEOUT_FAR_MAX: Duration = Duration::from_millis(2_200);
/// Time that remains for peers after a lookup at a far server.
pub const FETCH_AFTER_FAR_LOOKUP: Duration = Duration::from_millis(700);
/// Shortest failed lookup that counts as evidence against the servers; far servers need a longer one.
pub const LOOKUP_CONCLUSIVE_MIN: Duration = Duration::from_millis(250);
/// Consecutive unanswered lookups that count as evidence against the servers, however short they were.
pub const LOOKUPS_CONCLUSIVE: usize = 5;
/// First and longest pause between two probes of the breaker for a server that answers; the pause doubles in
/// between, with jitter.
pub const BREAKER_PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// Candidates that an agent asks discovery for.
pub const CANDIDATES: usize = 16;

/// Time for one check of the cluster of each server.
pub const CLUSTER_LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest and longest pause between two checks while no server of the agent's cluster answers.
pub const CLUSTER_LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(2_500), Duration::from_secs(5));
/// Shortest and longest pause between two checks while some servers of the agent's cluster answer.
pub const CLUSTER_LOOK_PAUSE_AMONG_OWN: (Duration, Duration) =
    (Duration::from_secs(30), Duration::from_secs(60));
/// Shortest and longest pause between two checks while all is well; they show how many servers the cluster
/// has.
pub const CLUSTER_LOOK_PAUSE_CALM: (Duration, Duration) =
    (Duration::from_secs(30 * 60), Duration::from_secs(60 * 60));
/// Time for which all servers must have named another cluster before an agent follows them.
pub const CLUSTER_FOLLOWED_AFTER: Duration = Duration::from_secs(5);
/// Time before an agent follows its servers to another cluster while some are silent, or they are fewer than
/// its own cluster has, or they belong to several others. The silent ones may be its own cluster, cut off.
pub const CLUSTER_FOLLOWED_IN_DOUBT_AFTER: Duration = Duration::from_secs(600);

/// Reports of an agent that wait to be sent; further ones are dropped.
pub const REPORTS_QUEUED_MAX: usize = 256;
/// Time within which the same failure of the same holder is reported only once.
pub const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Reports that an agent remembers so as not to repeat them.
pub const REPORTS_REMEMBERED_MAX: usize = 4_096;
/// Time for one report to reach a server.
pub const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(LOOKUP_TIMEOUT_UNMEASURED.as_millis() < LOOKUP_TIMEOUT_FAR_MAX.as_millis());
