//! Limits of the listeners, of servers and agents alike.

use std::time::Duration;

/// Connections on one listener.
pub const CONNECTIONS_MAX: usize = 10_240;
/// Connections on one listener whose connections all have requests in flight, beyond its limit: for probes, and for
/// refusals.
pub const CONNECTIONS_OVER_LIMIT_MAX: usize = 256;
/// Time from the begin of a connection beyond the limit to its end: probes and refusals are short.
pub const OVER_LIMIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that wait in the kernel for `accept`.
pub const ACCEPT_BACKLOG: u32 = 4096;
/// Pause after an `accept` that failed for want of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Share of the connections that wait for a request of which one is closed at a time, as its inverse: looking through
/// all connections for each new one would cost too much CPU time.
pub const WAITING_CONNECTIONS_PER_CLOSED: usize = 64;
/// Pause of a full listener between two looks for a connection to close.
pub const FULL_LISTENER_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two lines of the log that say that a listener is full.
pub const FULL_LISTENER_WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Threads that serve a port whose answers are large; one such thread fills a link of 10 Gbit/s.
pub const SERVING_THREADS_MAX: usize = 8;
/// Connections on a port that only Prometheus and probes ask.
pub const PROBE_CONNECTIONS_MAX: usize = 256;
/// Time for a request's headers to arrive.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the headers of one request, bytes.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Time after which a client that takes nothing of what is sent is cut, whether or not its kernel still answers ours.
pub const CLIENT_SILENT_MAX: Duration = Duration::from_secs(60);
/// Time that a stopping listener waits for the first request of a connection.
pub const FIRST_REQUEST_WAIT: Duration = Duration::from_millis(500);
/// Time that a stopping listener waits for requests in flight.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Length of another process's command line that an error shows, characters.
pub const OCCUPANT_COMMAND_CHARS_MAX: usize = 200;
/// Time after which histograms are folded while nobody scrapes them, so that they stay small.
pub const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(30);
