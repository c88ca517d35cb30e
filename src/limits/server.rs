//! Limits of a discovery server.

mod admin;
mod leases;
mod lookups;
mod reports;
mod requests;
mod writes;

use std::time::Duration;

pub use admin::*;
pub use leases::*;
pub use lookups::*;
pub use reports::*;
pub use requests::*;
pub use writes::*;

/// Other servers of a cluster whose connections a server makes room for.
const OTHER_SERVERS_MAX: usize = 4;
/// Connections on the API port from the addresses of the other servers, beside those of all others: for what they
/// forward, for reports, and some for their operators.
pub const SERVER_CONNECTIONS_MAX: usize =
    OTHER_SERVERS_MAX * (FORWARDED_WRITES_MAX + FORWARDED_HEARTBEATS_MAX + REPORTS_PASSED_ON_AT_ONCE + 32);
/// Connections on the raft port from addresses that are no member's, as that of a server that joins. Fewer than the
/// messages that are handled at once, so that some are left for members.
pub const RAFT_CONNECTIONS_MAX: usize = 24;
/// Connections on the raft port beyond the limit for addresses that are no member's.
pub const RAFT_CONNECTIONS_OVER_LIMIT_MAX: usize = 4;
/// Connections on the raft port from members' addresses; each member keeps a handful.
pub const RAFT_SERVER_CONNECTIONS_MAX: usize = 256;
/// Time that the stopping raft listener waits for requests in flight: its clients repeat what they lose.
pub const RAFT_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Threads that run raft: one for openraft's core, the others for what it waits for, which is the state machine,
/// messages and the disk.
pub const RAFT_THREADS: usize = 3;
/// Time that tasks have to end once everything is drained.
pub const TASKS_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a name of `--cluster` to resolve; then the log says what the server waits for.
pub const CLUSTER_RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for a name of `--cluster` to resolve where the server starts without it all the same.
pub const CLUSTER_RESOLVE_BRIEFLY: Duration = Duration::from_millis(500);
/// Pause between two attempts of a starting server at what may pass by itself: a port, a name, an address.
pub const START_TRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks at the membership for the addresses of the other servers.
pub const SERVER_ADDRESSES_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two looks of a server that may lack what the others have for one that does not.
pub const CURRENCY_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Time for another server to say whether it has all that was acknowledged.
pub const CURRENCY_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Age of the oldest missing entry up to which a server that follows its leader is ready.
pub const LAG_READY_MAX: Duration = Duration::from_secs(5);
