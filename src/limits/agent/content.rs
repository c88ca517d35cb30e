//! Limits of what is on this node: reading the image store, following it, and checking what it holds.

use std::time::Duration;

/// Size of one read from a file, and of the read buffer of one connection to a peer, bytes.
pub const FILE_CHUNK_BYTES: usize = 256 * 1024;
/// Chunks of [`FILE_CHUNK_BYTES`] that are in use at once, in answers that their clients have not read yet. Beyond it,
/// chunks have [`SMALL_FILE_CHUNK_BYTES`].
pub const FILE_CHUNKS_MAX: usize = 64;
/// Size of one read from a file while many answers wait for their clients, bytes.
pub const SMALL_FILE_CHUNK_BYTES: usize = 16 * 1024;
/// Idle buffers that are kept for the next reads.
pub const IDLE_BUFFERS_MAX: usize = 32;
/// Time for which a blob is served from the file that its last request opened, without asking the store.
pub const OPENED_TTL: Duration = Duration::from_secs(1);
/// Files that are kept open for the next requests of their blobs.
pub const OPENED_FILES_MAX: usize = 256;
/// Largest manifest or index that is read, bytes. Registries take 4 MiB; an import takes any length. A larger one is
/// given as a blob only.
pub const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Size from which a manifest is hashed and read on another thread, bytes: it would hold up the connections of its
/// own.
pub const MANIFEST_INLINE_BYTES_MAX: usize = 256 * 1024;
/// Memory for manifests of this node that are being read or sent, and as much again for those that come from peers,
/// bytes.
pub const MANIFEST_MEMORY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Time that a manifest waits for its share of [`MANIFEST_MEMORY_BYTES_MAX`].
pub const MANIFEST_MEMORY_WAIT: Duration = Duration::from_secs(1);
/// Age difference up to which two ages of a tag are the same: the times that two holders take to answer differ, and
/// clocks are slewed.
pub const TAG_AGE_TOLERANCE: Duration = Duration::from_secs(2);

/// Time that a source holds its headers for its own check of the content, counted from the begin of the check; less
/// than [`HEDGE_DELAY_MAX`], so that a peer knows what comes before it goes on to the next.
///
/// [`HEDGE_DELAY_MAX`]: super::HEDGE_DELAY_MAX
pub const VERIFY_BEFORE_HEADERS: Duration = Duration::from_millis(250);
/// Time that a source holds the first byte for its own check, counted from the begin of the check; less than
/// [`SOURCE_STALL_TIMEOUT`].
///
/// [`SOURCE_STALL_TIMEOUT`]: super::SOURCE_STALL_TIMEOUT
pub const VERIFY_BEFORE_BYTES: Duration = Duration::from_secs(2);
/// Size of content up to which headers and first byte are held, bytes: the check of larger content does not end in that
/// time, so that waiting for it would gain nothing.
pub const VERIFIED_FIRST_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Time that each chunk of a whole blob waits for the check to have come so far.
pub const VERIFY_BEFORE_CHUNK: Duration = Duration::from_secs(1);
/// Files that are known to be as their digest says.
pub const VERIFIED_FILES_MAX: usize = 8_192;
/// Files up to [`VERIFIED_WHOLE_BYTES_MAX`] that a source hashes at once, and as many larger ones: a small one never
/// waits for those.
///
/// [`VERIFIED_WHOLE_BYTES_MAX`]: super::VERIFIED_WHOLE_BYTES_MAX
pub const VERIFICATIONS_MAX: usize = 4;
/// Size of what one check reads before it lets another one have its permit, bytes.
pub const VERIFICATION_SLICE_BYTES: u64 = 32 * 1024 * 1024;
/// Size of files from which verdicts on them are kept for the next start of the agent, bytes: smaller ones are checked
/// again in some milliseconds.
pub const VERDICT_KEPT_BYTES_MIN: u64 = 1024 * 1024;
/// Verdicts that are kept for the next start of the agent.
pub const VERDICTS_KEPT_MAX: usize = 4_096;
/// Time for which new verdicts are collected before they are written down.
pub const VERDICTS_KEPT_AFTER: Duration = Duration::from_secs(30);

/// Time for one answer of containerd.
pub const CONTAINERD_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a whole list of containerd.
pub const CONTAINERD_LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// Size of one message of containerd, bytes: all images come in one, and containerd itself sends 16 MiB at most.
pub const CONTAINERD_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Time between two marks in containerd's event stream while a subscription is not confirmed.
pub const CONTAINERD_MARK_INTERVAL: Duration = Duration::from_millis(20);
/// Blobs without a file that containerd is asked for, in one look.
pub const FILELESS_SAMPLES_MAX: usize = 3;
/// Time after a commit in which its label comes, if one comes.
pub const LABELLED_WITHIN: Duration = Duration::from_secs(5);
/// First pause before the namespace is asked again for a blob whose file is there. containerd moves the file before it
/// commits its own record, whose fsync may take long on a busy disk.
pub const NAMESPACE_ASK_AGAIN_FIRST: Duration = Duration::from_millis(5);
/// Longest pause before the namespace is asked again for a blob whose file is there: a blob is reported within 100 ms of
/// the record's commit.
pub const NAMESPACE_ASK_AGAIN_LONGEST: Duration = Duration::from_millis(80);
/// Time after which a blob that the namespace does not know is somebody else's.
pub const NAMESPACE_ASK_AGAIN_MAX: Duration = Duration::from_secs(3);
/// Time from an image event to a comparison with the namespace's list.
pub const COMPARE_SOON: Duration = Duration::from_millis(100);
/// Time from the last removal to a further comparison with the namespace's list: garbage collection follows its event.
pub const COMPARE_LATE: Duration = Duration::from_secs(3);
/// Shortest time between two looks at a store that cannot be watched.
pub const STORE_POLL_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Longest time between two looks at a store that cannot be watched.
pub const STORE_POLL_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Time between two looks at a store that cannot be watched, as a multiple of what one look takes.
pub const STORE_POLL_COST_SHARE: u32 = 100;
/// Events of the store that wait for their reader; more than that, and the store waits.
pub const STORE_EVENTS_WAITING_MAX: usize = 4_096;
/// Pause between two attempts to watch a store's folder.
pub const WATCH_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Size of what is read of a folder's notifications at a time, bytes: some dozens of them.
pub const WATCH_READ_BYTES: usize = 8 * 1024;
/// Length of the line in an ingest's `ref` or `total`, bytes.
pub const INGEST_LINE_BYTES_MAX: u64 = 4096;
/// Size of the pieces that the remote reader of the store in memory gives out, bytes.
pub const MEMORY_STORE_PIECE_BYTES: usize = 64 * 1024;

/// Time between two looks for images that the node has and cannot share.
pub const SURVEY_INTERVAL: Duration = Duration::from_secs(60);
/// Images whose layers one survey looks for.
pub const SURVEY_IMAGES_MAX: usize = 1_000;
/// Size of a manifest that a survey looks into, bytes: that of an image is no larger.
pub const SURVEYED_MANIFEST_BYTES_MAX: u64 = 1024 * 1024;
/// Manifests and indexes of one image that a survey looks into: anybody may have made that image.
pub const SURVEYED_MANIFESTS_MAX: usize = 64;
/// Layers of one manifest that a survey asks for: anybody may have made that image.
pub const SURVEYED_LAYERS_MAX: usize = 256;
/// Content without a label whose date does not prove that it is old, of which it is remembered when this agent first
/// saw it.
pub const NEW_CONTENT_REMEMBERED_MAX: usize = 16_384;

const _: () = assert!(VERDICTS_KEPT_MAX <= VERIFIED_FILES_MAX);
const _: () = assert!(MANIFEST_BYTES_MAX <= MANIFEST_MEMORY_BYTES_MAX as u64);
