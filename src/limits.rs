//! Every limit by name, with its unit (I7). Relations between limits are asserted at compile time.

mod agent;

use std::ops::RangeInclusive;
use std::time::Duration;

pub use agent::*;

/// Keys in one advertise, withdraw or sync of a native client.
pub const REQUEST_KEYS_MAX: usize = 100_000;
/// Body of one request to the discovery API, bytes.
pub const API_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One text of a request that is not in a list, bytes: names, addresses and keys are a few hundred at most.
pub const API_TEXT_BYTES_MAX: usize = 1_024;
/// Hosts in one page of their list.
pub const HOSTS_PAGE_MAX: usize = 1_000;
/// Pages that a client asks for: more hosts than an index may have.
pub const HOSTS_PAGES_MAX: usize = 1_000;
/// Body of one keepalive, bytes: a few names and numbers. It is outside of [`API_BODIES_BYTES_MAX`].
pub const HEARTBEAT_BODY_BYTES_MAX: usize = 64 * 1024;
/// Bodies of all other requests to the discovery API at hand, bytes.
pub const API_BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What is still read of a body that has no place, bytes: whoever has sent it all reads the answer.
pub const REFUSED_DISCARD_BYTES_MAX: usize = 256 * 1024;
/// For how long.
pub const REFUSED_DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
/// Writes that wait at one server.
pub const WRITES_WAITING_MAX: usize = 4_096;
/// Keepalives that are being read, or wait, at one server: writes take none of their places.
pub const HEARTBEATS_WAITING_MAX: usize = 4_096;
/// Of those, writes of one holder.
pub const HOLDER_WRITES_WAITING_MAX: usize = 64;
/// Of those, keepalives that have something to propose (`Unhide`, `SetHost`).
pub const HEARTBEAT_CHANGES_WAITING_MAX: usize = 1_024;
/// Of those, of one holder.
pub const HOLDER_HEARTBEATS_WAITING_MAX: usize = 4;
/// Syncs of one holder at once.
pub const SYNC_BURST: u32 = 32;
/// After those, one each so often.
pub const SYNC_EVERY: Duration = Duration::from_secs(2);
/// Distinct groups in the index.
pub const INDEX_GROUPS_MAX: u64 = 10_000;
/// Hosts in the index, hidden ones included.
pub const INDEX_HOSTS_MAX: u64 = 200_000;
/// Keys of one holder.
pub const INDEX_KEYS_OF_A_HOLDER_MAX: u64 = 200_000;
/// Pairs of key and holder in the index; ten times what it is made for.
pub const INDEX_PAIRS_MAX: u64 = 200_000_000;
/// Largest epoch of a request, milliseconds since 1970: a time no clock shows, with room for every holder
/// to go on above it.
pub const EPOCH_MAX: u64 = 1 << 53;
/// How far the epoch of a request may be above the holder's stored one, if that is at [`EPOCH_MAX`]; a
/// writer goes on by 1.
pub const EPOCH_STEP_MAX: u64 = 1_000;
/// Holders in one findkey answer; the Go Piccolo's limit.
pub const FINDKEY_COUNT_MAX: usize = 2_000;
/// Holders in a findkey answer whose request names no count.
pub const FINDKEY_COUNT_DEFAULT: usize = 100;
/// Time for a request's body to arrive.
pub const API_BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a keepalive, which has its place from its first byte on.
pub const HEARTBEAT_BODY_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server waits for the leader's answer to a write that it has forwarded.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest entry that a write is cut into, bytes of its keys: the rest is for holder and framing.
pub const ENTRY_KEY_BYTES_MAX: usize = piccolo_raft::model::COMMAND_BYTES_MAX - 1024;
/// How often a server that may lack what the others have looks for one that does not.
pub const CURRENCY_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long it waits for each of them.
pub const CURRENCY_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A server that follows its leader is ready as long as its oldest missing entry is younger than this.
pub const LAG_READY_MAX: Duration = Duration::from_secs(5);
/// How long it waits for another server's answer to a lookup that it cannot answer for good. The Go `pi`
/// gives its whole lookup 2 s.
pub const ELSEWHERE_TIMEOUT: Duration = Duration::from_millis(700);
/// Such lookups at once; further ones are answered by what is here.
pub const ASKED_ELSEWHERE_AT_ONCE: usize = 256;
/// Largest answer that is read of another server, bytes: [`FINDKEY_COUNT_MAX`] holders are a fraction of it.
pub const ELSEWHERE_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How long findkey waits for `min_index`.
pub const MIN_INDEX_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a write waits for a leader.
pub const LEADER_WAIT_MAX: Duration = Duration::from_secs(3);
/// `Retry-After` of a 503 of the agent, seconds.
pub const RETRY_AFTER_SECONDS: u64 = 1;
/// `Retry-After` of a server that has too much to do, seconds: somewhere in this range.
pub const OVERLOAD_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 1..=8;
/// The same of one that has no leader, or is loading.
pub const UNSERVED_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 1..=3;
/// The same of one whose index may not hold more.
pub const FULL_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 30..=60;
/// The same of one whose disk is low: an operator who frees space wants to see it help.
pub const NO_ROOM_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 5..=15;

/// One look of an agent at the cluster of each of its servers.
pub const CLUSTER_LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks while no server of the agent's cluster answers: any time between the two.
pub const CLUSTER_LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(2_500), Duration::from_secs(5));
/// The same while some do.
pub const CLUSTER_LOOK_PAUSE_AMONG_OWN: (Duration, Duration) =
    (Duration::from_secs(30), Duration::from_secs(60));
/// The same while there is nothing to look for, to know how many servers the cluster has.
pub const CLUSTER_LOOK_PAUSE_CALM: (Duration, Duration) =
    (Duration::from_secs(30 * 60), Duration::from_secs(60 * 60));
/// An agent follows its servers to another cluster once all of them have said for so long that they belong
/// to it.
pub const CLUSTER_FOLLOWED_AFTER: Duration = Duration::from_secs(5);
/// The same while some of them are silent, or fewer than its cluster has servers: those may be the cluster that
/// it belongs to, cut off; and while they are of several others.
pub const CLUSTER_FOLLOWED_IN_DOUBT_AFTER: Duration = Duration::from_secs(600);

/// One step of a changed membership, as the command line waits for it.
pub const MEMBERS_STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two questions how far a changed membership is.
pub const MEMBERS_POLL_INTERVAL: Duration = Duration::from_millis(300);
/// A changed membership that stands still for so long is given up by the command line.
pub const MEMBERS_PATIENCE_DEFAULT: Duration = Duration::from_secs(60);
/// One look whose discovery API answers at the address of a server, before it is admitted.
pub const MEMBERS_API_LOOK_TIMEOUT: Duration = Duration::from_millis(900);

/// Snapshots that a server sends to operators at once; each holds back what the state's file could free.
pub const SNAPSHOTS_SENT_MAX: usize = 2;
/// Chunks of a snapshot that are read ahead of its client.
pub const SNAPSHOT_CHUNKS_AHEAD: usize = 4;
/// A snapshot that is not taken within so long is given up, however it moves.
pub const SNAPSHOT_SEND_TIMEOUT: Duration = Duration::from_secs(3600);
/// A snapshot of which nothing comes for so long is given up by the command line.
pub const SNAPSHOT_SILENT_MAX: Duration = Duration::from_secs(60);
/// What the command line reads of a snapshot's file at a time, bytes.
pub const SNAPSHOT_READ_BYTES: usize = 1024 * 1024;

/// Shortest lease that a client may ask for, seconds.
pub const LEASE_SECONDS_MIN: u32 = 3;
/// Longest lease that a client may ask for, seconds.
pub const LEASE_SECONDS_MAX: u32 = 86_400;
/// Lease of a client that names none: the Go `pi` beats every 10 minutes.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(31 * 60);
/// How often the leader looks for leases that have ended.
pub const LEASE_SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Of a group's hosts one in so many may be hidden within [`HIDE_WINDOW`].
pub const HIDE_SHARE_OF_GROUP: usize = 100;
/// As many may in any case, hosts.
pub const HIDES_PER_GROUP_MIN: usize = 10;
/// See [`HIDE_SHARE_OF_GROUP`].
pub const HIDE_WINDOW: Duration = Duration::from_secs(1);
/// Hosts of all groups that one look hides; the next one goes on.
pub const HIDES_PER_SWEEP_MAX: usize = 1_024;
/// Hidden hosts that one look forgets.
pub const FORGETS_PER_SWEEP_MAX: usize = 64;
/// For so long a leader has seen a host hidden before it forgets it, whatever the wall clock says,
/// unless [`FORGET_AFTER_DEFAULT`] is set to less.
pub const FORGET_SEEN_MIN: Duration = Duration::from_secs(60 * 60);
/// `Hide` and `Forget` proposals on their way at once.
pub const LEASE_PROPOSALS_MAX: usize = 64;
/// How long a hidden holder's inventory is kept.
pub const FORGET_AFTER_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// Distinct nodes that must report a holder before anybody else is told of it differently: a liar
/// and its accomplice are not enough.
pub const REPORTERS_WANTED: usize = 3;
/// How long a report of a holder that could not be had counts, unless it is repeated. Longer than
/// [`REPORT_AGAIN_AFTER`], so that lasting trouble stays known.
pub const REPORT_TTL: Duration = Duration::from_secs(120);
/// How long a report of wrong bytes counts: a heartbeat says nothing about bytes.
pub const REPORT_WRONG_TTL: Duration = Duration::from_secs(600);
/// Holders, and pairs of holder and key with wrong bytes, that a server remembers reports of.
pub const REPORTED_MAX: usize = 32_768;
/// Of those, how many one node may report.
pub const REPORTS_PER_NODE_MAX: usize = 1_024;
/// How far findkey looks past holders that are ranked last.
pub const RANKED_LAST_SKIPPED_MAX: usize = 1_024;
/// Reports that wait to be passed on to the other servers; further ones stay with this one.
pub const REPORTS_TO_PASS_ON_MAX: usize = 1_024;
/// Reports on their way to other servers at once.
pub const REPORTS_PASSED_ON_AT_ONCE: usize = 32;

/// Time for one connection to a discovery server.
pub const API_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections to discovery servers are closed after this: 50,000 agents must not hold theirs.
pub const API_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// A longer round trip than this to a server makes a new connection for each pull worth avoiding.
pub const FAR_ROUND_TRIP: Duration = Duration::from_millis(50);
/// For so long after its last lookup an agent keeps one connection to a far server. If all agents did,
/// 50,000 of them would be 16,700 connections at each of three servers.
pub const LOOKUP_CONNECTION_KEPT: Duration = Duration::from_secs(60);
/// Such a connection is used after so long without a lookup; less than [`HEADER_READ_TIMEOUT`], after which
/// a server closes it.
pub const API_PULSE_AFTER: Duration = Duration::from_secs(7);
/// The least that one server gets of a call's deadline; a far one gets more.
pub const API_ATTEMPT_TIMEOUT_MIN: Duration = Duration::from_millis(250);
/// Addresses of one server's name that a client asks; further ones are left out.
pub const ADDRESSES_OF_A_NAME_MAX: usize = 16;
/// A server's name is resolved again after so long.
pub const RESOLVE_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The same when it has no address, or when no server has answered.
pub const RESOLVE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// For so long after a request without an answer a server is asked behind the others, and not waited for
/// where another one has an answer that may lack something.
pub const ENDPOINT_REST: Duration = Duration::from_secs(10);
/// Largest answer of a discovery server that a client reads, bytes.
pub const API_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Connections on one listener.
pub const CONNECTIONS_MAX: usize = 10_240;
/// Connections beyond the limit of one listener whose connections all have requests in flight: for
/// probes, and for refusals.
pub const CONNECTIONS_OVER_LIMIT_MAX: usize = 256;
/// How long one of those may take from its begin to its end: probes and refusals are short.
pub const OVER_LIMIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Writes that a server forwards to the leader at once, each over a connection that is kept for the next one;
/// further ones wait. A connection of its own for each would wait at the leader behind those of its clients.
pub const FORWARDED_WRITES_MAX: usize = 512;
/// The same of keepalives.
pub const FORWARDED_HEARTBEATS_MAX: usize = 512;
/// The other servers of a cluster, at most.
const OTHER_SERVERS_MAX: usize = 4;
/// Connections on the API port from the addresses of the other servers, beside [`CONNECTIONS_MAX`] of all
/// others: what they forward, reports, and some for their operators.
pub const SERVER_CONNECTIONS_MAX: usize =
    OTHER_SERVERS_MAX * (FORWARDED_WRITES_MAX + FORWARDED_HEARTBEATS_MAX + REPORTS_PASSED_ON_AT_ONCE + 32);
/// Connections on the raft port from addresses that are no member's, as that of a server that joins. Fewer
/// than the messages that are handled at once, so that some are left for members.
pub const RAFT_CONNECTIONS_MAX: usize = 24;
/// Connections beyond those.
pub const RAFT_CONNECTIONS_OVER_LIMIT_MAX: usize = 4;
/// The same from members' addresses; each keeps a handful.
pub const RAFT_SERVER_CONNECTIONS_MAX: usize = 256;
/// Threads that serve a port whose answers are large; one such thread fills a link of 10 Gbit/s.
pub const SERVING_THREADS_MAX: usize = 8;
/// Connections on a port that only Prometheus and probes ask.
pub const PROBE_CONNECTIONS_MAX: usize = 256;
/// Time for a request's headers to arrive.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of one request, bytes.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// A client that takes nothing of what is sent for so long is cut, whether or not its kernel still
/// answers ours.
pub const CLIENT_SILENT_MAX: Duration = Duration::from_secs(60);
/// How long a stopping listener waits for the first request of a connection.
pub const FIRST_REQUEST_WAIT: Duration = Duration::from_millis(500);
/// How long a stopping listener waits for requests in flight.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for the raft listener, whose clients repeat what they lose.
pub const RAFT_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two requests of the agent's supervisor to its worker.
pub const WORKER_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A worker that answers none of them for so long is killed.
pub const WORKER_SILENT_MAX: Duration = Duration::from_secs(3);
/// Time for a new worker to serve: it may have to wait for the resolver.
pub const WORKER_START_TIMEOUT: Duration = Duration::from_secs(60);
/// First and longest pause before a worker that ended is started again.
pub const WORKER_BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A worker that served for so long is not taken for one that cannot.
pub const WORKER_HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// Time for a worker to drain and end: a little more than it takes itself, and less than `piccolo up`
/// gives to the whole agent.
pub const WORKER_STOP_TIMEOUT: Duration = DRAIN_TIMEOUT.saturating_add(Duration::from_secs(7));
/// Connections on one port that the supervisor answers at once while no worker does.
pub const STAND_IN_CONNECTIONS_MAX: usize = 256;
/// Time for each of them.
pub const STAND_IN_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(HEARTBEAT_CHANGES_WAITING_MAX < HEARTBEATS_WAITING_MAX);
const _: () = assert!(ORIGIN_PROBE_TIMEOUT.as_millis() < RESOLVE_TIMEOUT_DEFAULT.as_millis());
const _: () = assert!(ORIGIN_PROBE_FRESH.as_millis() < ORIGIN_PROBE_TTL.as_millis());
const _: () = assert!(HEARTBEATS_WAITING_MAX * HEARTBEAT_BODY_BYTES_MAX <= API_BODIES_BYTES_MAX);
const _: () = assert!(HOLDER_WRITES_WAITING_MAX * 16 < WRITES_WAITING_MAX);
const _: () = assert!(REQUEST_KEYS_MAX as u64 <= INDEX_KEYS_OF_A_HOLDER_MAX);
const _: () = assert!((HOSTS_PAGE_MAX * HOSTS_PAGES_MAX) as u64 > INDEX_HOSTS_MAX);
const _: () = assert!(API_BODIES_BYTES_MAX >= 4 * API_BODY_BYTES_MAX);
const _: () = assert!(REPORT_AGAIN_AFTER.as_secs() < REPORT_TTL.as_secs());
const _: () = assert!(REPORT_TTL.as_secs() < REPORT_WRONG_TTL.as_secs());
/// I4: what a frozen agent may cost a pull.
const FROZEN_COST_MAX: Duration = Duration::from_secs(5);

const _: () =
    assert!(WORKER_PROBE_INTERVAL.as_millis() + WORKER_SILENT_MAX.as_millis() < FROZEN_COST_MAX.as_millis());
/// I4: what a pull may cost with everything of ours down.
const DOWN_COST_MAX: Duration = Duration::from_secs(3);

const _: () = assert!(
    LOOKUP_TIMEOUT_FAR_MAX.as_millis() + FETCH_AFTER_FAR_LOOKUP.as_millis() < DOWN_COST_MAX.as_millis()
);
const _: () = assert!(LOOKUP_TIMEOUT_UNMEASURED.as_millis() < LOOKUP_TIMEOUT_FAR_MAX.as_millis());
const _: () = assert!(API_PULSE_AFTER.as_millis() < HEADER_READ_TIMEOUT.as_millis());
const _: () = assert!(LOOKUP_TIMEOUT_MAX.as_millis() < RESOLVE_TIMEOUT_DEFAULT.as_millis());
const _: () = assert!(VERIFY_BEFORE_HEADERS.as_millis() < HEDGE_DELAY_MAX.as_millis());
const _: () = assert!(UNANSWERED_WAIT_MAX.as_millis() <= RESOLVE_TIMEOUT_DEFAULT.as_millis());
const _: () = assert!(STALL_BUDGET.as_millis() >= 2 * SOURCE_STALL_TIMEOUT.as_millis());
const _: () = assert!(DELIVERED_BYTES_MIN > 9_000, "more than one packet of any common MTU");
const _: () = assert!(PEER_IDLE_TIMEOUT.as_millis() < HEADER_READ_TIMEOUT.as_millis());
const _: () = assert!(FAN_AHEAD_BYTES_MAX >= FAN_WINDOW_BYTES * FAN_SOURCES_MAX as u64);
const _: () = assert!(FAN_MEMORY_BYTES_MAX as u64 >= FAN_AHEAD_BYTES_MAX);
const _: () = assert!(VERIFY_BEFORE_BYTES.as_millis() < SOURCE_STALL_TIMEOUT.as_millis());
const _: () = assert!(VERIFY_BEFORE_CHUNK.as_millis() < SOURCE_STALL_TIMEOUT.as_millis());
const _: () = assert!(FILE_CHUNK_BYTES as u64 >= SOURCE_BYTES_PER_SECOND_MIN * VERIFY_BEFORE_CHUNK.as_secs());
const _: () = assert!(MANIFEST_BYTES_MAX <= MANIFEST_MEMORY_BYTES_MAX as u64);
const _: () = assert!(SPOOL_MEMORY_BYTES_MAX < VERIFIED_WHOLE_BYTES_MAX);
const _: () = assert!(SPOOL_MEMORY_BYTES_MAX < SPOOL_MEMORY_TOTAL_BYTES_MAX as u64);
const _: () = assert!(VERIFIED_WHOLE_BYTES_MAX <= SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64);
const _: () = assert!(DOUBTED_WHOLE_BYTES_MAX <= SPOOL_DISK_TOTAL_BYTES_MAX);
const _: () = assert!(VERIFIED_WHOLE_BYTES_MAX <= VERIFIED_FIRST_BYTES_MAX);
const _: () = assert!(VERDICTS_KEPT_MAX <= VERIFIED_FILES_MAX);
const _: () = assert!(MANIFEST_BYTES_MAX <= VERIFIED_WHOLE_BYTES_MAX);
const _: () = assert!(REQUEST_KEYS_MAX * (piccolo_raft::model::KEY_BYTES_MAX + 3) > API_BODY_BYTES_MAX);
// An index within its limits never has an id that a restart refuses.
const _: () = assert!(INDEX_PAIRS_MAX < piccolo_raft::model::KEY_IDS_MAX as u64);
const _: () = assert!(16 * INDEX_HOSTS_MAX < piccolo_raft::model::HOST_IDS_MAX as u64);
