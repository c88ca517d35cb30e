//! Limits of the reports about holders that a server remembers and passes on.

use std::time::Duration;

/// Distinct nodes that must report a holder before other nodes get it in another order: more than a liar and
/// one accomplice.
pub const REPORTERS_WANTED: usize = 3;
/// Time for which a report of an unavailable holder counts unless it is repeated. Longer than
/// [`REPORT_AGAIN_AFTER`], so that lasting failures stay known.
///
/// [`REPORT_AGAIN_AFTER`]: crate::limits::REPORT_AGAIN_AFTER
pub const REPORT_TTL: Duration = Duration::from_secs(120);
/// Time for which a report of wrong bytes counts; a heartbeat does not clear it.
pub const REPORT_WRONG_TTL: Duration = Duration::from_secs(600);
/// Reported holders, and reported pairs of holder and key, that a server remembers.
pub const REPORTED_MAX: usize = 32_768;
/// Holders, and pairs of holder and key, that a server remembers as reported by one node.
pub const REPORTS_PER_NODE_MAX: usize = 1_024;
/// Reports that wait to be passed on to the other servers; further ones stay on this server.
pub const REPORTS_TO_PASS_ON_MAX: usize = 1_024;
/// Reports on their way to other servers at once.
pub const REPORTS_PASSED_ON_AT_ONCE: usize = 32;
/// Largest answer of another server to a report, bytes; real answers are much shorter.
pub const PASS_ON_ANSWER_BYTES_MAX: usize = 4 * 1024;
/// Time between two updates of reports by time and log.
pub const REPORTS_UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

const _: () = assert!(REPORT_TTL.as_secs() < REPORT_WRONG_TTL.as_secs());
