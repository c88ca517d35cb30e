//! Limits of requests to single peers, and of the memory of peers.

use std::time::Duration;

/// Time for one connection to a peer.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Interim answers (1xx) of one peer before its answer; the agent asks for none.
pub const PEER_INTERIM_ANSWERS_MAX: usize = 16;
/// Connections to peers that are kept open for the next request.
pub const PEER_IDLE_CONNECTIONS_MAX: usize = 16;
/// Time for which an idle connection to a peer is kept. Less than [`HEADER_READ_TIMEOUT`], after which the
/// peer closes it.
///
/// [`HEADER_READ_TIMEOUT`]: crate::limits::HEADER_READ_TIMEOUT
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest time without headers of one peer before the next one is asked as well. The delay is learned, up
/// to [`HEDGE_DELAY_MAX`].
pub const HEDGE_DELAY_MIN: Duration = Duration::from_millis(50);
/// Longest time without headers of one peer before the next one is asked as well; also the delay before
/// anything was learned.
pub const HEDGE_DELAY_MAX: Duration = Duration::from_millis(500);
/// Time for headers below which a peer without headers is not blamed.
pub const PEER_CONCLUSIVE_MIN: Duration = Duration::from_millis(250);
/// Pause before a peer that was busy is asked again.
pub const BUSY_RETRY_AFTER: Duration = Duration::from_millis(250);
/// Repeated requests to a busy peer for one request.
pub const BUSY_TRIES_MAX: usize = 4;
/// Time that all requests together wait for busy peers, since a peer last delivered.
pub const BUSY_WAIT_MAX: Duration = Duration::from_secs(1);

/// Time after which a source that sends nothing is stalled.
pub const SOURCE_STALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Rate below which a source is stalled, over [`SOURCE_RATE_WINDOW_SECONDS`], bytes per second.
pub const SOURCE_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// Time of waiting over which the rate of a source is judged, seconds.
pub const SOURCE_RATE_WINDOW_SECONDS: usize = 5;
/// Time that one request waits for stalled sources, and that all requests together do since one last
/// delivered.
pub const STALL_BUDGET: Duration = Duration::from_secs(6);
/// Bytes received in order without a stall that reset a transfer's [`STALL_BUDGET`].
pub const STALL_FORGIVEN_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of one answer that prove that large packets of a peer arrive.
pub const DELIVERED_BYTES_MIN: u64 = 16 * 1024;
/// Bytes from a source after which it is recorded again as delivering.
pub const DELIVERED_EVERY_BYTES: u64 = 1024 * 1024;
/// Time without a byte after the headers at which a peer's manifest is stalled.
pub const MANIFEST_STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for which a peer is avoided for a digest after bad bytes or a broken stream.
pub const PEER_AVOID_TTL: Duration = Duration::from_secs(60);
/// Pairs of peer and digest that are avoided at once, and peers that are remembered as silent.
pub const TROUBLES_REMEMBERED_MAX: usize = 4_096;
/// Time for which a peer that could not be reached, or stayed silent, is asked after all others.
pub const PEER_UNREACHABLE_TTL: Duration = Duration::from_secs(10);
/// Number of times that the time for a silent peer doubles, once for each further silence.
pub const PEER_SILENCE_DOUBLINGS_MAX: u32 = 4;
/// Times that other peers answered before a silent one after which that one is reported.
pub const OVERTAKEN_REPORTED_AT: u32 = 3;
/// Distinct unresponsive peers of a network (/24, or /64 for IPv6), or of all networks, since one answered,
/// after which no request waits for other peers there.
pub const UNANSWERED_HOLDERS_MAX: usize = 8;
/// Time that all requests together have waited for at least two unresponsive peers of a network, after which
/// no request waits for other peers there.
pub const UNANSWERED_WAIT_MAX: Duration = Duration::from_millis(1_500);
/// Shortest time that a request waits for a peer.
pub const UNANSWERED_WAIT_MIN: Duration = Duration::from_millis(100);
/// Consecutive requests that no peer answered after which the operator is notified.
pub const UNANSWERED_REQUESTS_MAX: usize = 3;
/// Networks for which failures are remembered.
pub const PEER_NETWORKS_REMEMBERED_MAX: usize = 1_024;
/// Concurrent probes of peers.
pub const PROBES_AT_ONCE_MAX: usize = 16;
/// First and longest pause between two rounds of probes; the pause doubles in between, with jitter.
pub const PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Time for one probe's headers.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a request for it after which an unreachable peer is forgotten.
pub const PEER_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

const _: () = assert!(STALL_BUDGET.as_millis() >= 2 * SOURCE_STALL_TIMEOUT.as_millis());
const _: () = assert!(DELIVERED_BYTES_MIN > 9_000, "more than one packet of any common MTU");
