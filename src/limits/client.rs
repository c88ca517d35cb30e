//! Limits of the client of the discovery API, which agents and the command line use.

use std::time::Duration;

/// Time for one connection to a discovery server.
pub const API_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which idle connections to discovery servers are closed: 50,000 agents must not hold theirs.
pub const API_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Round trip to a server above which a new connection for each pull is worth avoiding.
pub const FAR_ROUND_TRIP: Duration = Duration::from_millis(50);
/// Time after its last lookup for which an agent keeps one connection to a far server. If all agents did, 50,000 of
/// them would be 16,700 connections at each of three servers.
pub const LOOKUP_CONNECTION_KEPT: Duration = Duration::from_secs(60);
/// Time without a lookup after which a kept connection to a far server is used; less than [`HEADER_READ_TIMEOUT`],
/// after which a server closes it.
///
/// [`HEADER_READ_TIMEOUT`]: super::HEADER_READ_TIMEOUT
pub const API_PULSE_AFTER: Duration = Duration::from_secs(7);
/// The least that one server gets of a call's deadline; a far server gets more.
pub const API_ATTEMPT_TIMEOUT_MIN: Duration = Duration::from_millis(250);
/// Round trips to one server of which the shortest counts: what a server takes for its answer is no distance.
pub const ROUND_TRIP_SAMPLES: usize = 4;
/// Addresses of one server's name that a client asks; further ones are left out.
pub const ADDRESSES_OF_A_NAME_MAX: usize = 16;
/// Time after which a server's name is resolved again.
pub const RESOLVE_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Pause before a name is resolved again that has no address, or whose servers have not answered.
pub const RESOLVE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Time after a request without an answer for which a server is asked behind the others, and is not waited for where
/// another one has an answer that may lack something.
pub const ENDPOINT_REST: Duration = Duration::from_secs(10);
/// Largest answer of a discovery server that a client reads, bytes.
pub const API_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections on which a client asks a lone address for its cluster: it may stand for several servers.
pub const CLUSTER_LOOKS_AT_A_LONE_ADDRESS: usize = 4;
