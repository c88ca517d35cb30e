//! Limits of the client of the discovery API, which agents and the command line use.

use std::time::Duration;

/// Time for one connection to a discovery server.
pub const API_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which idle connections to discovery servers are closed: 50,000 agents must not hold theirs.
pub const API_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Round trip above which a connection to a server is kept between pulls.
pub const FAR_ROUND_TRIP: Duration = Duration::from_millis(50);
/// Time after the last lookup for which an agent keeps a connection to a far server. If all of 50,000 agents
/// did, each of three servers had 16,700 connections.
pub const LOOKUP_CONNECTION_KEPT: Duration = Duration::from_secs(60);
/// Time without a lookup after which a kept connection to a far server is used, so that it stays open. Less
/// than [`HEADER_READ_TIMEOUT`], after which a server closes it.
///
/// [`HEADER_READ_TIMEOUT`]: super::HEADER_READ_TIMEOUT
pub const API_PULSE_AFTER: Duration = Duration::from_secs(7);
/// Shortest share of a call's deadline for one server; a far server gets more.
pub const API_ATTEMPT_TIMEOUT_MIN: Duration = Duration::from_millis(250);
/// Round trips to one server of which the shortest is used: the others may include time of the server.
pub const ROUND_TRIP_SAMPLES: usize = 4;
/// Addresses of one server's name that a client uses; further ones are ignored.
pub const ADDRESSES_OF_A_NAME_MAX: usize = 16;
/// Time after which a server's name is resolved again.
pub const RESOLVE_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Pause before a name is resolved again that has no address, or whose servers do not answer.
pub const RESOLVE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Time after an unanswered request for which a server is asked last, and for which no lookup waits for it if
/// another server has an answer that may be incomplete.
pub const ENDPOINT_REST: Duration = Duration::from_secs(10);
/// Largest answer of a discovery server that a client reads, bytes.
pub const API_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections on which a client asks a single address for its cluster; several servers may be behind it.
pub const CLUSTER_LOOKS_AT_A_LONE_ADDRESS: usize = 4;
