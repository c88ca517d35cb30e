//! Limits of the listeners, of servers and agents alike.

use std::time::Duration;

/// Connections on one listener.
pub const CONNECTIONS_MAX: usize = 10_240;
/// Connections of one listener beyond its limit while all others have requests in flight; they are for probes
/// and refusals.
pub const CONNECTIONS_OVER_LIMIT_MAX: usize = 256;
/// Longest life of a connection beyond the limit: probes and refusals are short.
pub const OVER_LIMIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that wait in the kernel for `accept`.
pub const ACCEPT_BACKLOG: u32 = 4096;
/// Pause after an `accept` that failed for lack of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Inverse of the share of waiting connections that a full listener closes at a time: a search among all of
/// them for each new connection would cost too much CPU time.
pub const WAITING_CONNECTIONS_PER_CLOSED: usize = 64;
/// Pause of a full listener between two searches for a connection to close.
pub const FULL_LISTENER_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two log lines about a full listener.
pub const FULL_LISTENER_WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Threads that serve a port whose answers are large; one such thread fills a link of 10 Gbit/s.
pub const SERVING_THREADS_MAX: usize = 8;
/// Connections of a port that only Prometheus and probes use.
pub const PROBE_CONNECTIONS_MAX: usize = 256;
/// Time for a request's headers to arrive.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two log lines about connections that were refused for the same reason.
pub const REFUSED_WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Size of the headers of one request, bytes.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Time without progress after which a client's connection is cut, whether or not its kernel still
/// acknowledges.
pub const CLIENT_SILENT_MAX: Duration = Duration::from_secs(60);
/// Time that a stopping listener waits for the first request of a connection.
pub const FIRST_REQUEST_WAIT: Duration = Duration::from_millis(500);
/// Time that a stopping listener waits for requests in flight.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of another process's command line that an error shows.
pub const OCCUPANT_COMMAND_CHARS_MAX: usize = 200;
/// Time after which histograms are folded if nobody scrapes them, so that they stay small.
pub const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(30);
