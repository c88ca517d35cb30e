//! Limits of a discovery server.

mod admin;
mod flights;
mod leases;
mod lookups;
mod reports;
mod requests;
mod writes;

use std::time::Duration;

pub use admin::*;
pub use flights::*;
pub use leases::*;
pub use lookups::*;
pub use reports::*;
pub use requests::*;
pub use writes::*;

/// Other servers of a cluster for whose connections a server has room.
const OTHER_SERVERS_MAX: usize = 4;
/// Connections of the API port for addresses of other servers, beside those for clients: for forwarded
/// requests, reports, and some for their operators.
pub const SERVER_CONNECTIONS_MAX: usize =
    OTHER_SERVERS_MAX * (FORWARDED_WRITES_MAX + FORWARDED_HEARTBEATS_MAX + REPORTS_PASSED_ON_AT_ONCE + 32);
/// Connections of the raft port for addresses of no member, such as a server that joins. Fewer than the
/// messages that are handled at once, so that members always get some.
pub const RAFT_CONNECTIONS_MAX: usize = 24;
/// Connections of the raft port beyond the limit for addresses of no member.
pub const RAFT_CONNECTIONS_OVER_LIMIT_MAX: usize = 4;
/// Connections of the raft port for members' addresses; each member keeps a handful.
pub const RAFT_SERVER_CONNECTIONS_MAX: usize = 256;
/// Time that the stopping raft listener waits for requests in flight; its clients repeat lost ones.
pub const RAFT_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Threads that run raft: one for openraft's core, the others for the state machine, messages and the disk.
pub const RAFT_THREADS: usize = 3;
/// Time for tasks to end after everything is drained.
pub const TASKS_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a name of `--cluster` to resolve before the log says what the server waits for.
pub const CLUSTER_RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for a name of `--cluster` to resolve if the server can start without it.
pub const CLUSTER_RESOLVE_BRIEFLY: Duration = Duration::from_millis(500);
/// Pause between two attempts of a starting server at something that may become available: a port, a name, an
/// address.
pub const START_TRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two reads of the membership for the addresses of other servers.
pub const SERVER_ADDRESSES_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two searches of a server that may be behind for one that is not.
pub const CURRENCY_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Time for another server to say whether it has all acknowledged writes.
pub const CURRENCY_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Age of the oldest missing entry up to which a follower is ready.
pub const LAG_READY_MAX: Duration = Duration::from_secs(5);
