//! Limits of what a server remembers of nodes' reports about holders, and of how it passes them on.

use std::time::Duration;

/// Distinct nodes that must report a holder before anybody else is told of it differently: a liar and its accomplice
/// are not enough.
pub const REPORTERS_WANTED: usize = 3;
/// Time for which a report of a holder that could not be had counts, unless it is repeated. Longer than
/// [`REPORT_AGAIN_AFTER`], so that lasting trouble stays known.
///
/// [`REPORT_AGAIN_AFTER`]: crate::limits::REPORT_AGAIN_AFTER
pub const REPORT_TTL: Duration = Duration::from_secs(120);
/// Time for which a report of wrong bytes counts: a heartbeat says nothing about bytes.
pub const REPORT_WRONG_TTL: Duration = Duration::from_secs(600);
/// Holders, and pairs of holder and key with wrong bytes, of which a server remembers reports.
pub const REPORTED_MAX: usize = 32_768;
/// Holders, and pairs of holder and key, that one node may have reported among those that a server remembers.
pub const REPORTS_PER_NODE_MAX: usize = 1_024;
/// Reports that wait to be passed on to the other servers; further ones stay with this one.
pub const REPORTS_TO_PASS_ON_MAX: usize = 1_024;
/// Reports on their way to other servers at once.
pub const REPORTS_PASSED_ON_AT_ONCE: usize = 32;
/// Size of another server's answer to a report, bytes: far more than it has.
pub const PASS_ON_ANSWER_BYTES_MAX: usize = 4 * 1024;
/// Time after which reports are brought up to date with time and log.
pub const REPORTS_UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

const _: () = assert!(REPORT_TTL.as_secs() < REPORT_WRONG_TTL.as_secs());
