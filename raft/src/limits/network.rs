//! Limits of raft RPC, and of the search for other servers.

use std::time::Duration;

/// Size of the body of an append, bytes. Ours are at most [`LOG_READ_BYTES_MAX`] of entries.
///
/// [`LOG_READ_BYTES_MAX`]: super::LOG_READ_BYTES_MAX
pub const APPEND_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Size of the body of a vote, pre-vote, transfer or whoami, and of every answer, bytes.
pub const SMALL_BODY_BYTES_MAX: usize = 64 * 1024;
/// Messages that are handled at once. Each may have a body of [`APPEND_BODY_BYTES_MAX`]; members send a handful.
pub const MESSAGES_MAX: usize = 32;
/// Terms and log indices from here on are nonsense: a billion years of elections do not get there. Short of the end of
/// the numbers, because openraft adds one.
pub const NUMBER_MAX: u64 = 1 << 56;
/// Time for one connection to another server.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without progress after which an append is dropped. Longer than a heartbeat interval: 4 MiB and a sync must fit.
pub const APPEND_IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which a vote without an answer is dropped: the election is over by then.
pub const VOTE_TIMEOUT: Duration = Duration::from_millis(500);
/// Time after which a whoami without an answer is dropped.
pub const WHOAMI_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for a body to arrive, or for the next piece of a snapshot.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Size of the pieces in which a body is handed to the connection, each of which is progress, bytes.
pub const BODY_PIECE_BYTES: usize = 64 * 1024;
/// Connections to one server that are kept for the next request.
pub const IDLE_CONNECTIONS_MAX: usize = 4;
/// Time for which a connection is kept: less than servers wait for the next request's headers, so that none is sent
/// into a closing connection.
pub const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without an answer after which the next address of a name is tried beside: an address that a server had before
/// answers nothing at all on most networks.
pub const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(100);
/// Time after which one message is sent again to a member that had no room, also if nobody has heard that there is
/// room.
pub const REFUSING_FOR: Duration = Duration::from_secs(5);
/// Pause between two attempts of openraft at a member that has no room.
pub const REFUSING_BACKOFF: Duration = Duration::from_secs(1);
/// Marks in the log that are kept, the oldest ones: a lag is told up to this times [`LAG_MARK_INTERVAL`].
pub const LAG_MARKS_MAX: usize = 64;
/// Time between two marks in the log.
pub const LAG_MARK_INTERVAL: Duration = Duration::from_millis(250);

/// Time after which a lookup of a name is given up, and another one may begin. The system's resolver ends by itself much
/// earlier as a rule.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// Time after which a name is looked up again for which a connection is made.
pub const LOOKUP_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Time after which a name is looked up again that is not looked for otherwise.
pub const LOOKUP_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
pub const ADDRESSES_OF_A_NAME_MAX: usize = 8;
/// Names that are kept on disk: more than a cluster has members.
pub const NAMES_STORED_MAX: usize = 32;
/// Names that are looked up although no member and no hint has them: as many as one request to look for other servers
/// may bring. Anybody may send such requests, and each lookup takes a thread of those that flush files.
pub const NAMES_UNNEEDED_MAX: usize = 2 * REACH_SERVERS_MAX;
/// Time without an answer after which a member is looked for elsewhere.
pub const WHEREABOUTS_SILENT_AFTER: Duration = Duration::from_millis(750);
/// Servers in one request to look for other servers.
pub const REACH_SERVERS_MAX: usize = 32;
/// Requests to look for other servers that are answered at once. Only leaders ask, one request after the other.
pub const REACH_LOOKS_MAX: usize = 2;
/// Attempts at a port that does not answer: they decide whether a server is admitted.
pub const REACH_ATTEMPTS: usize = 2;
/// Time after which a request to look for other servers without an answer is dropped.
pub const REACH_TIMEOUT: Duration = Duration::from_secs(3);

const _: () = assert!(WHOAMI_TIMEOUT.as_millis() * (REACH_ATTEMPTS as u128) < REACH_TIMEOUT.as_millis());
