//! Limits of an agent: its mirror, its transfers, what it tells the servers.

use std::time::Duration;

/// How long the mirror holds one request until its headers.
pub const RESOLVE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Part of it that a lookup may take where the servers are near.
pub const LOOKUP_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// The same as long as it is not known how far they are: a new connection to a server with a round trip of
/// 500 ms, and an answer.
pub const LOOKUP_TIMEOUT_UNMEASURED: Duration = Duration::from_millis(1_500);
/// The most that a lookup may take where they are far.
pub const LOOKUP_TIMEOUT_FAR_MAX: Duration = Duration::from_millis(2_200);
/// What is left for peers after such a lookup.
pub const FETCH_AFTER_FAR_LOOKUP: Duration = Duration::from_millis(700);
/// Candidates that an agent asks discovery for.
pub const CANDIDATES: usize = 16;
/// Time for one connection to a peer.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// A source that sends nothing for so long is stalled.
pub const SOURCE_STALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Blobs up to this size are verified whole before their first byte goes to containerd.
pub const VERIFIED_WHOLE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Of those, what is kept in memory; larger ones are spooled to an unlinked file in the state folder.
pub const SPOOL_MEMORY_BYTES_MAX: u64 = 1024 * 1024;
/// Memory that is kept by what is gathered for one write to such a file, bytes.
pub const SPOOL_WRITE_BYTES: usize = 256 * 1024;
/// What is kept in memory over all transfers while there is a disk; what does not fit goes to a file, too.
pub const SPOOL_MEMORY_TOTAL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The same where the state folder cannot be written to, or is in memory itself, beside those. What does not fit waits.
pub const SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Unlinked files over all transfers, bytes. What does not fit waits.
pub const SPOOL_DISK_TOTAL_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// How long a request waits for room to spool before wholes are given up that are only kept for more of
/// their parts.
pub const SPOOL_ROOM_WAIT: Duration = Duration::from_millis(50);
/// Such wholes are given up then if no part of them was asked for in this time.
pub const SPOOL_WHOLE_IDLE: Duration = Duration::from_secs(1);
/// Time between two tries of a state folder that could not be written to.
pub const STATE_DIR_RETRY: Duration = Duration::from_secs(10);
/// How long a starting agent waits for the state folder while another agent uses it.
pub const STATE_DIR_LOCK_WAIT: Duration = Duration::from_secs(2);
/// Pause between two attempts to lock the state folder meanwhile.
pub const STATE_DIR_LOCK_RETRY: Duration = Duration::from_millis(50);
/// What must fit into the state folder for it to count as writable again, bytes.
pub const STATE_DIR_PROBE_BYTES: u64 = VERIFIED_WHOLE_BYTES_MAX;
/// Files in the state folder that an agent was ended in the middle of writing are removed when they are
/// this old: a younger one may be another agent's.
pub const STATE_DIR_LEFTOVER_AGE: Duration = Duration::from_secs(600);
/// Transfers from peers at once; further requests wait for one to end, as long as they are held.
pub const TRANSFERS_MAX: usize = 48;
/// One read from a file, and the read buffer of one connection to a peer, bytes.
pub const FILE_CHUNK_BYTES: usize = 256 * 1024;
/// Chunks of that size that are in use at once, in answers that their clients have not read yet. Beyond it, chunks
/// have [`SMALL_FILE_CHUNK_BYTES`].
pub const FILE_CHUNKS_MAX: usize = 64;
/// One read from a file while many answers wait for their clients, bytes.
pub const SMALL_FILE_CHUNK_BYTES: usize = 16 * 1024;
/// Interim answers (1xx) of one peer before its answer; we ask for none.
pub const PEER_INTERIM_ANSWERS_MAX: usize = 16;
/// A source slower than this over [`SOURCE_RATE_WINDOW_SECONDS`] is stalled, bytes per second.
pub const SOURCE_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// Over how many seconds of waiting the rate of a source is judged.
pub const SOURCE_RATE_WINDOW_SECONDS: usize = 5;
/// Connections to peers that are kept open for the next request.
pub const PEER_IDLE_CONNECTIONS_MAX: usize = 16;
/// How long they are kept; less than [`super::HEADER_READ_TIMEOUT`], after which the peer closes them.
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
/// Two ages of a tag that differ by no more than this are the same: the times that two holders take to
/// answer differ, and clocks are slewed.
pub const TAG_AGE_TOLERANCE: Duration = Duration::from_secs(2);
/// Holders of a tag that a node asks what it is there, under `tags = "peers"`: all of them, as far as one answer
/// of the servers names them.
pub const TAG_HOLDERS_ASKED_MAX: usize = super::FINDKEY_COUNT_MAX;
/// So many of them are asked at once.
pub const TAG_HOLDERS_ASKED_AT_ONCE: usize = 64;
/// Of holders that set a tag to different images at the same time, so many are named.
pub const TIED_NAMED_MAX: usize = 16;
/// How long `piccolo find` waits for each of them.
pub const FIND_HOLDER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a pull may take from the answer for its tag to the image's record.
pub const TAG_PULL_MAX: Duration = Duration::from_secs(60 * 60);
/// Tags whose last answer is remembered.
pub const TAGS_ANSWERED_MAX: usize = 4_096;
/// How long a source holds its headers for its own check of the content, counted from the begin of the
/// check; less than [`HEDGE_DELAY_MAX`], so that a peer knows what comes before it goes on to the next.
pub const VERIFY_BEFORE_HEADERS: Duration = Duration::from_millis(250);
/// How long it holds the first byte, counted alike; less than [`SOURCE_STALL_TIMEOUT`].
pub const VERIFY_BEFORE_BYTES: Duration = Duration::from_secs(2);
/// Only for content up to this size are headers and first byte held: the check of larger content is not
/// done in that time, so that waiting for it would gain nothing, bytes.
pub const VERIFIED_FIRST_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long each chunk of a whole blob waits for the check to have come so far.
pub const VERIFY_BEFORE_CHUNK: Duration = Duration::from_secs(1);
/// So many distinct peers of a network (/24, or /64 for IPv6), or of all, that did not answer since one did:
/// no request waits for the others there.
pub const UNANSWERED_HOLDERS_MAX: usize = 8;
/// The same after requests have waited for so long, all together, for at least two peers.
pub const UNANSWERED_WAIT_MAX: Duration = Duration::from_millis(1_500);
/// The least that a request waits for a peer that it asks.
pub const UNANSWERED_WAIT_MIN: Duration = Duration::from_millis(100);
/// So many requests in a row that no peer answered are told to the operator.
pub const UNANSWERED_REQUESTS_MAX: usize = 3;
/// How long one request waits for sources that stall, and all requests together since one delivered.
pub const STALL_BUDGET: Duration = Duration::from_secs(6);
/// So many bytes in order without a stall give a transfer its whole [`STALL_BUDGET`] again.
pub const STALL_FORGIVEN_BYTES: u64 = 64 * 1024 * 1024;
/// So many bytes of one answer show that large packets of a peer arrive.
pub const DELIVERED_BYTES_MIN: u64 = 16 * 1024;
/// A peer that sends nothing of a manifest for so long after its headers is stalled.
pub const MANIFEST_STALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long requests wait for peers that are busy, all together, since a peer was of use.
pub const BUSY_WAIT_MAX: Duration = Duration::from_secs(1);
/// Networks of which failures are remembered.
pub const PEER_NETWORKS_REMEMBERED_MAX: usize = 1_024;
/// Peers that are probed at once.
pub const PROBES_AT_ONCE_MAX: usize = 16;
/// First and longest pause between two rounds of probes; in between it doubles, with jitter.
pub const PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Time for one probe's headers.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is not reached is forgotten when nothing was wanted of it for so long.
pub const PEER_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// A transfer from peers is given up for a registry that is so many times faster than this node's transfers.
pub const REGISTRY_TIMES_FASTER: u64 = 8;
/// The least time that this must save.
pub const REGISTRY_SAVES_MIN: Duration = Duration::from_secs(10);
/// How long a measurement of a registry counts.
pub const REGISTRY_MEASURED_TTL: Duration = Duration::from_secs(600);
/// Registries whose rate is remembered.
pub const REGISTRIES_MEASURED_MAX: usize = 64;
/// The least that an ingest must grow to tell the rate of a registry, bytes.
pub const REGISTRY_MEASURED_BYTES_MIN: u64 = 1024 * 1024;
/// The least time over which it must do so.
pub const REGISTRY_MEASURED_FOR_MIN: Duration = Duration::from_millis(200);
/// How long an ingest is watched at most.
pub const REGISTRY_SAMPLED_FOR_MAX: Duration = Duration::from_secs(10);
/// An ingest that does not grow for so long is watched no longer.
pub const REGISTRY_SAMPLED_FOR_SILENCE: Duration = Duration::from_secs(5);
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
/// What one check reads before it lets another one have its slot, bytes.
pub const VERIFICATION_SLICE_BYTES: u64 = 32 * 1024 * 1024;
/// Verdicts on files of at least this size are kept for the next start of the agent: smaller ones are
/// checked again in some milliseconds, bytes.
pub const VERDICT_KEPT_BYTES_MIN: u64 = 1024 * 1024;
/// Verdicts that are kept.
pub const VERDICTS_KEPT_MAX: usize = 4_096;
/// How long new verdicts are collected before they are written down.
pub const VERDICTS_KEPT_AFTER: Duration = Duration::from_secs(30);
/// Memory for manifests of this node that are being read or sent, and as much again for those that come
/// from peers, bytes.
pub const MANIFEST_MEMORY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a manifest waits for that memory.
pub const MANIFEST_MEMORY_WAIT: Duration = Duration::from_secs(1);
/// Repositories of which it is remembered whether their registry answers, and what was last asked for.
pub const ORIGINS_MAX: usize = 1_024;
/// Tags of one repository of which it is remembered that containerd was sent to the registry for them.
pub const ORIGIN_TAGS_MAX: usize = 16;
/// HTTP clients that are kept for probes of registries: one for each set of certificates and proxy.
pub const ORIGIN_CLIENTS_MAX: usize = 64;
/// Redirects of a registry that a probe follows.
pub const ORIGIN_REDIRECTS_MAX: usize = 3;
/// Body of a token service's answer, bytes.
pub const ORIGIN_TOKEN_BYTES_MAX: usize = 64 * 1024;
/// The least and the most between two looks at a store that cannot be watched; in between, a look takes
/// a hundredth of the time.
pub const STORE_POLL_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// See [`STORE_POLL_INTERVAL_MIN`].
pub const STORE_POLL_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to watch a store's folder.
pub const WATCH_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// First and longest pause between two lines of the log about the same failure; in between it doubles.
pub const REPEATED_FAILURE_LOG_PAUSE: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(600));
/// Between two looks for images that the node has and cannot share.
pub const SURVEY_INTERVAL: Duration = Duration::from_secs(60);
/// Images whose layers are looked for then.
pub const SURVEY_IMAGES_MAX: usize = 1_000;
/// Examples that a notice names of many things of the same kind.
pub const NOTICE_EXAMPLES_MAX: usize = 3;
/// Notices that stand at once.
pub const NOTICES_MAX: usize = 64;
/// A lookup that had less time than this says nothing about the servers; about far ones one needs more.
pub const LOOKUP_CONCLUSIVE_MIN: Duration = Duration::from_millis(250);
/// So many of them in a row do.
pub const LOOKUPS_CONCLUSIVE: usize = 5;
/// First and longest pause between two looks of the breaker for a server that answers; in between it
/// doubles, with jitter.
pub const BREAKER_PROBE_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// Second try to abort the ingest of bad bytes: containerd may still have been writing.
pub const ABORT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Images in a row that are pulled without a request to the mirror before the agent says so.
pub const MIRROR_BYPASS_IMAGES: usize = 3;
/// An image that comes within this time after a request was asked for, maybe.
pub const MIRROR_BYPASS_WINDOW: Duration = Duration::from_secs(600);
/// Digests of commits, and of images, that wait for the other.
pub const MIRROR_BYPASS_REMEMBERED_MAX: usize = 256;
/// Events of the store that wait to be looked at for that.
pub const MIRROR_BYPASS_EVENTS_WAITING_MAX: usize = 256;

/// The longest `dial_timeout` that `piccolo mirror install` writes: containerd's own.
pub const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// How long one `piccolo mirror install` or `remove` waits for another one that works on the same folder.
pub const MIRROR_LOCK_WAIT: Duration = Duration::from_secs(30);

/// How long the mirror remembers under which name it was asked for content that may not be shared.
/// Longer than a fetch takes: then the store knows.
pub const ASKED_TTL: Duration = Duration::from_secs(3600);
/// How much of that it remembers; the oldest goes first.
pub const ASKED_REMEMBERED_MAX: usize = 4_096;
/// What one compiled filter of a registry may take up, bytes.
pub const FILTER_BYTES_MAX: usize = 256 * 1024;
/// Content without a label whose date does not prove that it is old, of which it is remembered when this
/// agent first saw it.
pub const NEW_CONTENT_REMEMBERED_MAX: usize = 16_384;
/// Largest manifest or index read, bytes. Registries take 4 MiB; an import takes any length. What is
/// larger is given as a blob only.
pub const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A manifest of so many bytes is hashed and read on another thread: it would hold up the connections
/// of its own.
pub const MANIFEST_INLINE_BYTES_MAX: usize = 256 * 1024;
/// Concurrent uploads of one agent.
pub const UPLOADS_MAX_DEFAULT: usize = 64;
/// Advertises are collected for so long before they are sent.
pub const ADVERTISE_COALESCE: Duration = Duration::from_millis(50);
/// Time between two heartbeats of an agent; a little more or less, so that a fleet spreads.
pub const HEARTBEAT_INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
/// An agent that is told to come back later (`Retry-After`) waits no longer than this.
pub const RETRY_AFTER_HONOURED_MAX: Duration = Duration::from_secs(120);
/// Between two looks whether the address of this node has changed.
pub const ADDRESS_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// First and longest pause between two looks for an address that is not known yet.
pub const ADDRESS_RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long an agent that starts waits for its address before it serves without one.
pub const ADDRESS_START_WAIT: Duration = Duration::from_secs(2);
/// Addresses that this node had before, whose keys are still to be taken out of the index.
pub const ADDRESSES_LEFT_MAX: usize = 4;
/// Attempts to do that for one of them; then the end of its lease does.
pub const ADDRESS_LEFT_ATTEMPTS: usize = 5;
/// So many stale writes within [`CLAIM_WINDOW`] are those of another agent at the same address.
pub const CLAIM_STALES: usize = 3;
/// See [`CLAIM_STALES`]; longer where heartbeats are seldom.
pub const CLAIM_WINDOW: Duration = Duration::from_secs(15 * 60);
/// When an address that another agent has as well is claimed again.
pub const CLAIM_CONTESTED_PAUSE: Duration = Duration::from_secs(5 * 60);
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
/// How long a request of containerd waits for a probe of the origin.
pub const ORIGIN_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a probe goes on in the background; a host that has accepted and says nothing for so long
/// counts as one that is not there.
pub const ORIGIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How old a remembered answer may be for a tag that is asked for again: the origin may have gone since.
pub const ORIGIN_PROBE_FRESH: Duration = Duration::from_secs(1);
/// Within so long a tag counts as asked for again. The kubelet's first retry comes after 10 to 20 s.
pub const ORIGIN_ASKED_AGAIN: Duration = Duration::from_secs(30);
/// After so long without an answer of a host, the next host is asked as well, and a second connection
/// tells whether the first one is accepted.
pub const ORIGIN_HOST_PATIENCE: Duration = Duration::from_millis(300);
/// How long the folders that containerd has named hold.
pub const CERTS_DIRS_TTL: Duration = Duration::from_secs(60);
/// The same while it has named none.
pub const CERTS_DIRS_RETRY: Duration = Duration::from_secs(10);
/// How long containerd may take to name them.
pub const CRI_STATUS_TIMEOUT: Duration = Duration::from_millis(500);
