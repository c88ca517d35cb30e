//! Limits of requests to single peers, and of what is remembered of peers.

use std::time::Duration;

/// Time for one connection to a peer.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Interim answers (1xx) of one peer before its answer; we ask for none.
pub const PEER_INTERIM_ANSWERS_MAX: usize = 16;
/// Connections to peers that are kept open for the next request.
pub const PEER_IDLE_CONNECTIONS_MAX: usize = 16;
/// Time for which a connection to a peer is kept; less than [`HEADER_READ_TIMEOUT`], after which the peer closes it.
///
/// [`HEADER_READ_TIMEOUT`]: crate::limits::HEADER_READ_TIMEOUT
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest time that one peer's headers are awaited before the next peer is asked as well; up to [`HEDGE_DELAY_MAX`]
/// the delay is learned.
pub const HEDGE_DELAY_MIN: Duration = Duration::from_millis(50);
/// Longest time that one peer's headers are awaited before the next peer is asked as well; also the delay as long as
/// nothing was learned.
pub const HEDGE_DELAY_MAX: Duration = Duration::from_millis(500);
/// Time for its headers below which a peer is not blamed for having none.
pub const PEER_CONCLUSIVE_MIN: Duration = Duration::from_millis(250);
/// Pause before a peer that was busy is asked again.
pub const BUSY_RETRY_AFTER: Duration = Duration::from_millis(250);
/// Times that a peer that was busy is asked again for one request.
pub const BUSY_TRIES_MAX: usize = 4;
/// Time that requests wait for peers that are busy, all together, since a peer was of use.
pub const BUSY_WAIT_MAX: Duration = Duration::from_secs(1);

/// Time after which a source that sends nothing is stalled.
pub const SOURCE_STALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Rate below which a source is stalled, over [`SOURCE_RATE_WINDOW_SECONDS`], bytes per second.
pub const SOURCE_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// Time of waiting over which the rate of a source is judged, seconds.
pub const SOURCE_RATE_WINDOW_SECONDS: usize = 5;
/// Time that one request waits for sources that stall, and all requests together since one delivered.
pub const STALL_BUDGET: Duration = Duration::from_secs(6);
/// Size of what comes in order without a stall and gives a transfer its whole [`STALL_BUDGET`] again, bytes.
pub const STALL_FORGIVEN_BYTES: u64 = 64 * 1024 * 1024;
/// Size of one answer that shows that large packets of a peer arrive, bytes.
pub const DELIVERED_BYTES_MIN: u64 = 16 * 1024;
/// Size of what a source sends before it is known once more to deliver, bytes.
pub const DELIVERED_EVERY_BYTES: u64 = 1024 * 1024;
/// Time without a byte after its headers that stalls a peer's manifest.
pub const MANIFEST_STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for which a peer is avoided for a digest of which it sent bad bytes, or a broken stream.
pub const PEER_AVOID_TTL: Duration = Duration::from_secs(60);
/// Pairs of peer and digest that are avoided at once, and peers that stayed silent.
pub const TROUBLES_REMEMBERED_MAX: usize = 4_096;
/// Time for which a peer that could not be reached, or stayed silent, is asked after all others.
pub const PEER_UNREACHABLE_TTL: Duration = Duration::from_secs(10);
/// Times that the time of a peer's silence doubles, once for each further silence.
pub const PEER_SILENCE_DOUBLINGS_MAX: u32 = 4;
/// Silences of a peer that others overtook after which it is reported.
pub const OVERTAKEN_REPORTED_AT: u32 = 3;
/// Distinct peers of a network (/24, or /64 for IPv6), or of all, that did not answer since one did, after which no
/// request waits for the others there.
pub const UNANSWERED_HOLDERS_MAX: usize = 8;
/// Time that requests have waited, all together, for at least two peers of a network that did not answer, after which no
/// request waits for the others there.
pub const UNANSWERED_WAIT_MAX: Duration = Duration::from_millis(1_500);
/// Shortest time that a request waits for a peer that it asks.
pub const UNANSWERED_WAIT_MIN: Duration = Duration::from_millis(100);
/// Requests in a row that no peer answered after which the operator is told.
pub const UNANSWERED_REQUESTS_MAX: usize = 3;
/// Networks of which failures are remembered.
pub const PEER_NETWORKS_REMEMBERED_MAX: usize = 1_024;
/// Peers that are probed at once.
pub const PROBES_AT_ONCE_MAX: usize = 16;
/// First and longest pause between two rounds of probes; in between it doubles, with jitter.
pub const PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Time for one probe's headers.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a request for it after which a peer that is not reached is forgotten.
pub const PEER_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

const _: () = assert!(STALL_BUDGET.as_millis() >= 2 * SOURCE_STALL_TIMEOUT.as_millis());
const _: () = assert!(DELIVERED_BYTES_MIN > 9_000, "more than one packet of any common MTU");
