//! Every limit by name, with its unit (I7). Relations between limits are asserted at compile time.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Keys in one advertise, withdraw or sync of a native client.
pub const REQUEST_KEYS_MAX: usize = 100_000;
/// Body of one request to the discovery API, bytes.
pub const API_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Body of one keepalive, bytes: a few names and numbers. It is outside of [`API_BODIES_BYTES_MAX`].
pub const BEAT_BODY_BYTES_MAX: usize = 64 * 1024;
/// Bodies of all other requests to the discovery API at hand, bytes.
pub const API_BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What is still read of a body that has no place, bytes: whoever has sent it all reads the answer.
pub const REFUSED_DISCARD_BYTES_MAX: usize = 256 * 1024;
/// For how long.
pub const REFUSED_DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
/// Writes that wait at one server.
pub const WRITES_WAITING_MAX: usize = 4_096;
/// Keepalives that are being read, or wait, at one server: writes take none of their places.
pub const BEATS_WAITING_MAX: usize = 4_096;
/// Of those, writes of one holder.
pub const HOLDER_WRITES_WAITING_MAX: usize = 64;
/// Of those, keepalives that have something to propose (`Unhide`, `SetHost`).
pub const BEAT_CHANGES_WAITING_MAX: usize = 1_024;
/// Of those, of one holder.
pub const HOLDER_BEATS_WAITING_MAX: usize = 4;
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
/// How far the epoch of a request may be ahead of the server's wall clock.
pub const EPOCH_AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Holders in one findkey answer; the Go Piccolo's limit.
pub const FINDKEY_COUNT_MAX: usize = 2_000;
/// Holders in a findkey answer whose request names no count.
pub const FINDKEY_COUNT_DEFAULT: usize = 100;
/// Time for a request's body to arrive.
pub const API_BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a keepalive, which has its place from its first byte on.
pub const BEAT_BODY_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server waits for the leader's answer to a write that it has forwarded.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest entry that a write is cut into, bytes of its keys: the rest is for holder and framing.
pub const ENTRY_KEY_BYTES_MAX: usize = piccolo_raft::command::COMMAND_BYTES_MAX - 1024;
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

/// One step of a changed membership, as the command line waits for it.
pub const MEMBERS_STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two questions how far a changed membership is.
pub const MEMBERS_POLL_INTERVAL: Duration = Duration::from_millis(300);
/// A changed membership that stands still for so long is given up by the command line.
pub const MEMBERS_PATIENCE_DEFAULT: Duration = Duration::from_secs(60);

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
/// The least that one server gets of a call's deadline.
pub const API_ATTEMPT_TIMEOUT_MIN: Duration = Duration::from_millis(250);
/// Largest answer of a discovery server that a client reads, bytes.
pub const API_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Connections on one listener.
pub const CONNECTIONS_MAX: usize = 10_240;
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

/// How long the mirror holds one request until its headers.
pub const RESOLVE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Part of it that a lookup may take.
pub const LOOKUP_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// Candidates that an agent asks discovery for.
pub const CANDIDATES: usize = 16;
/// Time for one connection to a peer.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// A source that sends nothing for so long is stalled.
pub const SOURCE_STALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Blobs up to this size are verified whole before their first byte goes to containerd.
pub const VERIFIED_WHOLE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Of those, what is kept in memory; larger ones are spooled to an unlinked file.
pub const SPOOL_MEMORY_BYTES_MAX: u64 = 1024 * 1024;
/// What is gathered for one write to such a file, bytes.
pub const SPOOL_WRITE_BYTES: usize = 1024 * 1024;
/// The same over all transfers; what does not fit goes to a file, too.
pub const SPOOL_MEMORY_TOTAL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Transfers from peers at once; further requests wait for one to end, as long as they are held.
pub const TRANSFERS_MAX: usize = 48;
/// One read from a file, and the read buffer of one connection to a peer, bytes.
pub const FILE_CHUNK_BYTES: usize = 256 * 1024;
/// Interim answers (1xx) of one peer before its answer; we ask for none.
pub const PEER_INTERIM_ANSWERS_MAX: usize = 16;
/// A source slower than this over [`SOURCE_RATE_WINDOW_SECONDS`] is stalled, bytes per second.
pub const SOURCE_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// Over how many seconds of waiting the rate of a source is judged.
pub const SOURCE_RATE_WINDOW_SECONDS: usize = 5;
/// Connections to peers that are kept open for the next request.
pub const PEER_IDLE_CONNECTIONS_MAX: usize = 16;
/// How long they are kept; less than [`HEADER_READ_TIMEOUT`], after which the peer closes them.
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The least and the most that one peer's headers are awaited before the next peer is asked as well;
/// in between the delay is learned.
pub const HEDGE_DELAY_MIN: Duration = Duration::from_millis(50);
/// See [`HEDGE_DELAY_MIN`]; also the delay as long as nothing was learned.
pub const HEDGE_DELAY_MAX: Duration = Duration::from_millis(500);
/// How long a transfer whose source broke off looks for another one.
pub const FAILOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that had less time than this for its headers is not blamed for having none.
pub const PEER_CONCLUSIVE_MIN: Duration = Duration::from_millis(250);
/// When a peer that was busy is asked again.
pub const BUSY_RETRY_AFTER: Duration = Duration::from_millis(250);
/// What is asked of a peer at a time where containerd asks for a range without end: it may close after
/// any part of it.
pub const OPEN_RANGE_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// Peers that send one large blob at the same time.
pub const FAN_SOURCES_MAX: usize = 4;
/// Blobs of which less than this is left come from one peer, bytes.
pub const FAN_BLOB_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// What is asked of each of them at a time, bytes.
pub const FAN_WINDOW_BYTES: u64 = 2 * 1024 * 1024;
/// How far one transfer runs ahead of its reader, bytes.
pub const FAN_AHEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Memory for what was received ahead of its turn, all transfers together, bytes.
pub const FAN_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Transfers that take several sources at once: each has a few windows beside that memory.
pub const FANS_MAX: usize = 4;
/// How long a range that has no source waits for those before it to end first.
pub const CUT_ORDER_WAIT: Duration = Duration::from_secs(5);
/// How long an ingest may rest while it is followed; then it is given up.
pub const FOLLOW_IDLE_MAX: Duration = Duration::from_secs(3);
/// How long the last bytes of a rest wait for the file to have come so far.
pub const FOLLOW_VERDICT_MAX: Duration = Duration::from_secs(5);
/// What is kept of a blob's end, because containerd may not have written it yet (it writes in steps of
/// 1 MiB, behind what its socket holds), bytes.
pub const FOLLOW_TAIL_BYTES: u64 = 4 * 1024 * 1024;
/// A complete ingest that nobody has written to for so long is nobody's any more.
pub const INGEST_UNTOUCHED_MIN: Duration = Duration::from_secs(60);
/// How long it is remembered how a transfer of a digest went.
pub const TRANSFER_MEMORY_TTL: Duration = Duration::from_secs(60);
/// Offsets of one digest at which answers were cut.
pub const CUTS_REMEMBERED_MAX: usize = 64;
/// A blob that several peers sent together, and wrong, is received and verified whole up to this size.
pub const DOUBTED_WHOLE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Small blobs asked for in parts that are kept for their other parts.
pub const WHOLES_SHARED_MAX: usize = 8;
/// How long such a blob is kept after the last request for a part of it.
pub const WHOLE_KEPT: Duration = Duration::from_secs(10);
/// Digests of which it is remembered.
pub const TRANSFERS_REMEMBERED_MAX: usize = 1_024;
/// How long a peer is avoided for a digest of which it sent bad bytes, or a broken stream.
pub const PEER_AVOID_TTL: Duration = Duration::from_secs(60);
/// Pairs of peer and digest that are avoided at once; peers that stayed silent.
pub const TROUBLES_REMEMBERED_MAX: usize = 4_096;
/// Holders that are asked for the same tag.
pub const TAG_VOTES: usize = 3;
/// How long a source holds its headers for its own check of the content; less than
/// [`HEDGE_DELAY_MAX`], so that a peer knows what comes before it goes on to the next.
pub const VERIFY_BEFORE_HEADERS: Duration = Duration::from_millis(250);
/// How long it holds the first byte; less than [`SOURCE_STALL_TIMEOUT`].
pub const VERIFY_BEFORE_BYTES: Duration = Duration::from_secs(2);
/// How long each chunk waits for the check to have come so far.
pub const VERIFY_BEFORE_CHUNK: Duration = Duration::from_secs(1);
/// How long a peer that could not be reached, or stayed silent, is asked after all others.
pub const PEER_UNREACHABLE_TTL: Duration = Duration::from_secs(10);
/// Files that are known to be as their digest says.
pub const VERIFIED_FILES_MAX: usize = 8_192;
/// How long a blob is served from the file that its last request opened, without asking the store.
pub const OPENED_TTL: Duration = Duration::from_secs(1);
/// Files that are kept open for it.
pub const OPENED_FILES_MAX: usize = 256;
/// Files up to [`VERIFIED_WHOLE_BYTES_MAX`] that a source hashes at once, and as many larger ones: a
/// small one never waits for those.
pub const VERIFICATIONS_MAX: usize = 4;
/// Memory for manifests that are being read or sent, bytes.
pub const MANIFEST_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a manifest waits for that memory.
pub const MANIFEST_MEMORY_WAIT: Duration = Duration::from_secs(1);
/// Registries whose reachability is remembered.
pub const ORIGINS_MAX: usize = 256;
/// A lookup that had less time than this says nothing about the servers.
pub const LOOKUP_CONCLUSIVE_MIN: Duration = Duration::from_millis(250);
/// So many of them in a row do.
pub const LOOKUPS_CONCLUSIVE: usize = 5;
/// First and longest pause between two looks of the breaker for a server that answers; in between it
/// doubles, with jitter.
pub const BREAKER_PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// Second try to abort the ingest of bad bytes: containerd may still have been writing.
pub const ABORT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long the mirror remembers under which name it was asked for content that may not be shared.
/// Longer than a fetch takes: then the store knows.
pub const ASKED_TTL: Duration = Duration::from_secs(3600);
/// How much of that it remembers; the oldest goes first.
pub const ASKED_REMEMBERED_MAX: usize = 4_096;
/// What one compiled filter of a registry may take up, bytes.
pub const FILTER_BYTES_MAX: usize = 256 * 1024;
/// Largest manifest or index read, bytes.
pub const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Concurrent uploads of one agent.
pub const UPLOADS_MAX_DEFAULT: usize = 64;
/// Advertises are collected for so long before they are sent.
pub const ADVERTISE_COALESCE: Duration = Duration::from_millis(50);
/// Time between two heartbeats of an agent; a little more or less, so that a fleet spreads.
pub const HEARTBEAT_INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
/// An agent that is told to come back later (`Retry-After`) waits no longer than this.
pub const RETRY_AFTER_HONOURED_MAX: Duration = Duration::from_secs(120);
/// Reports of an agent that wait to be sent; further ones are dropped.
pub const REPORTS_QUEUED_MAX: usize = 256;
/// The same trouble with the same holder is reported once in this time.
pub const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Reports that an agent remembers for that.
pub const REPORTS_REMEMBERED_MAX: usize = 4_096;
/// Time for one report to reach a server.
pub const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer about the origin is remembered.
pub const ORIGIN_PROBE_TTL: Duration = Duration::from_secs(10);
/// How long the origin may take to answer.
pub const ORIGIN_PROBE_TIMEOUT: Duration = Duration::from_secs(1);

const _: () = assert!(BEAT_CHANGES_WAITING_MAX < BEATS_WAITING_MAX);
const _: () = assert!(BEATS_WAITING_MAX * BEAT_BODY_BYTES_MAX <= API_BODIES_BYTES_MAX);
const _: () = assert!(HOLDER_WRITES_WAITING_MAX * 16 < WRITES_WAITING_MAX);
const _: () = assert!(REQUEST_KEYS_MAX as u64 <= INDEX_KEYS_OF_A_HOLDER_MAX);
const _: () = assert!(API_BODIES_BYTES_MAX >= 4 * API_BODY_BYTES_MAX);
const _: () = assert!(REPORT_AGAIN_AFTER.as_secs() < REPORT_TTL.as_secs());
const _: () = assert!(REPORT_TTL.as_secs() < REPORT_WRONG_TTL.as_secs());
/// I4: what a frozen agent may cost a pull.
const FROZEN_COST_MAX: Duration = Duration::from_secs(5);

const _: () =
    assert!(WORKER_PROBE_INTERVAL.as_millis() + WORKER_SILENT_MAX.as_millis() < FROZEN_COST_MAX.as_millis());
const _: () = assert!(LOOKUP_TIMEOUT_MAX.as_millis() < RESOLVE_TIMEOUT_DEFAULT.as_millis());
const _: () = assert!(VERIFY_BEFORE_HEADERS.as_millis() < HEDGE_DELAY_MAX.as_millis());
const _: () = assert!(PEER_IDLE_TIMEOUT.as_millis() < HEADER_READ_TIMEOUT.as_millis());
const _: () = assert!(FAN_AHEAD_BYTES_MAX >= FAN_WINDOW_BYTES * FAN_SOURCES_MAX as u64);
const _: () = assert!(FAN_MEMORY_BYTES_MAX as u64 >= FAN_AHEAD_BYTES_MAX);
const _: () = assert!(VERIFY_BEFORE_BYTES.as_millis() < SOURCE_STALL_TIMEOUT.as_millis());
const _: () = assert!(VERIFY_BEFORE_CHUNK.as_millis() < SOURCE_STALL_TIMEOUT.as_millis());
const _: () = assert!(FILE_CHUNK_BYTES as u64 >= SOURCE_BYTES_PER_SECOND_MIN * VERIFY_BEFORE_CHUNK.as_secs());
const _: () = assert!(MANIFEST_BYTES_MAX <= MANIFEST_MEMORY_BYTES_MAX as u64);
const _: () = assert!(SPOOL_MEMORY_BYTES_MAX < VERIFIED_WHOLE_BYTES_MAX);
const _: () = assert!(SPOOL_MEMORY_BYTES_MAX < SPOOL_MEMORY_TOTAL_BYTES_MAX as u64);
const _: () = assert!(MANIFEST_BYTES_MAX <= VERIFIED_WHOLE_BYTES_MAX);
const _: () = assert!(REQUEST_KEYS_MAX * (piccolo_raft::command::KEY_BYTES_MAX + 3) > API_BODY_BYTES_MAX);
// An index within its limits never has an id that a restart refuses.
const _: () = assert!(INDEX_PAIRS_MAX < piccolo_raft::index::KEY_IDS_MAX as u64);
const _: () = assert!(16 * INDEX_HOSTS_MAX < piccolo_raft::index::HOST_IDS_MAX as u64);
