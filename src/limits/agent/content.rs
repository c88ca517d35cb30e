//! Limits of what is on this node: reading the image store, following it, and checking what it holds.

use std::time::Duration;

/// Size of one read from a file, and of the read buffer of one connection to a peer, bytes.
pub const FILE_CHUNK_BYTES: usize = 256 * 1024;
/// Chunks of [`FILE_CHUNK_BYTES`] in use at once, in answers that clients have not read yet. Above that,
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
/// Largest manifest or index that is read as such, bytes. Registries accept 4 MiB, an import any length. A
/// larger one is served as a blob only.
pub const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Size from which a manifest is hashed and read on another thread, bytes: it would block the other
/// connections of its thread.
pub const MANIFEST_INLINE_BYTES_MAX: usize = 256 * 1024;
/// Memory for manifests of this node that are being read or sent, bytes; the same amount again for manifests
/// from peers.
pub const MANIFEST_MEMORY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Time that a manifest waits for its share of [`MANIFEST_MEMORY_BYTES_MAX`].
pub const MANIFEST_MEMORY_WAIT: Duration = Duration::from_secs(1);
/// Age difference up to which two ages of a tag are the same: the times that two holders take to answer differ, and
/// clocks are slewed.
pub const TAG_AGE_TOLERANCE: Duration = Duration::from_secs(2);

/// Time that a source delays its headers for its own check of the content, from the start of the check. Less
/// than [`HEDGE_DELAY_MAX`], so that a peer gets the result before it asks the next one.
///
/// [`HEDGE_DELAY_MAX`]: super::HEDGE_DELAY_MAX
pub const VERIFY_BEFORE_HEADERS: Duration = Duration::from_millis(250);
/// Time that a source delays the first byte for its own check, from the start of the check. Less than
/// [`SOURCE_STALL_TIMEOUT`].
///
/// [`SOURCE_STALL_TIMEOUT`]: super::SOURCE_STALL_TIMEOUT
pub const VERIFY_BEFORE_BYTES: Duration = Duration::from_secs(2);
/// Size of content up to which headers and first byte are delayed, bytes. The check of larger content takes
/// longer than the delay, so that waiting would gain nothing.
pub const VERIFIED_FIRST_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Time that each chunk of a whole blob waits until the check has reached it.
pub const VERIFY_BEFORE_CHUNK: Duration = Duration::from_secs(1);
/// Files that are remembered as verified.
pub const VERIFIED_FILES_MAX: usize = 8_192;
/// Files up to [`VERIFIED_WHOLE_BYTES_MAX`] that a source hashes at once. Larger files have the same number
/// of permits of their own, so that a small one never waits for them.
///
/// [`VERIFIED_WHOLE_BYTES_MAX`]: super::VERIFIED_WHOLE_BYTES_MAX
pub const VERIFICATIONS_MAX: usize = 4;
/// Bytes that one check reads before it passes its permit on.
pub const VERIFICATION_SLICE_BYTES: u64 = 32 * 1024 * 1024;
/// Size of files from which verdicts are stored for the next start of the agent, bytes; smaller files are
/// checked again within milliseconds.
pub const VERDICT_KEPT_BYTES_MIN: u64 = 1024 * 1024;
/// Verdicts that are stored for the next start of the agent.
pub const VERDICTS_KEPT_MAX: usize = 4_096;
/// Time for which new verdicts are collected before they are stored.
pub const VERDICTS_KEPT_AFTER: Duration = Duration::from_secs(30);

/// Time for one answer of containerd.
pub const CONTAINERD_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a whole list from containerd.
pub const CONTAINERD_LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest message from containerd, bytes: all images come in one, and containerd sends at most 16 MiB.
pub const CONTAINERD_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Time between two marks in containerd's event stream while a subscription is not confirmed.
pub const CONTAINERD_MARK_INTERVAL: Duration = Duration::from_millis(20);
/// Blobs without a file for which one check asks containerd.
pub const FILELESS_SAMPLES_MAX: usize = 3;
/// Time after a commit within which its label follows, if there is one.
pub const LABELLED_WITHIN: Duration = Duration::from_secs(5);
/// First pause before the namespace is asked again for a blob whose file is there. containerd moves the file before it
/// commits its own record, whose fsync may take long on a busy disk.
pub const NAMESPACE_ASK_AGAIN_FIRST: Duration = Duration::from_millis(5);
/// Longest pause before the namespace is asked again for a blob whose file is there: a blob is reported within 100 ms of
/// the record's commit.
pub const NAMESPACE_ASK_AGAIN_LONGEST: Duration = Duration::from_millis(80);
/// Time after which a blob that the namespace does not know is considered to be of another namespace.
pub const NAMESPACE_ASK_AGAIN_MAX: Duration = Duration::from_secs(3);
/// Time from an image event to a comparison with the namespace's list.
pub const COMPARE_SOON: Duration = Duration::from_millis(100);
/// Time from the last removal to a further comparison with the namespace's list: garbage collection follows its event.
pub const COMPARE_LATE: Duration = Duration::from_secs(3);
/// Shortest time between two scans of a store that cannot be watched.
pub const STORE_POLL_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Longest time between two scans of a store that cannot be watched.
pub const STORE_POLL_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Time between two scans of a store that cannot be watched, as a multiple of the duration of one.
pub const STORE_POLL_COST_SHARE: u32 = 100;
/// Events of the store that wait for their reader; if there are more, the store waits.
pub const STORE_EVENTS_WAITING_MAX: usize = 4_096;
/// Pause between two attempts to watch a store's folder.
pub const WATCH_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of a folder's notifications that are read at a time, which is some dozens of notifications.
pub const WATCH_READ_BYTES: usize = 8 * 1024;
/// Length of the line in an ingest's `ref` or `total`, bytes.
pub const INGEST_LINE_BYTES_MAX: u64 = 4096;
/// Size of the pieces that the remote reader of the in-memory store returns, bytes.
pub const MEMORY_STORE_PIECE_BYTES: usize = 64 * 1024;

/// Time between two surveys of images that the node has and cannot share.
pub const SURVEY_INTERVAL: Duration = Duration::from_secs(60);
/// Images whose layers one survey looks for.
pub const SURVEY_IMAGES_MAX: usize = 1_000;
/// Largest manifest that a survey reads, bytes; manifests of images are smaller.
pub const SURVEYED_MANIFEST_BYTES_MAX: u64 = 1024 * 1024;
/// Manifests and indexes of one image that a survey reads; the image may come from anybody.
pub const SURVEYED_MANIFESTS_MAX: usize = 64;
/// Layers of one manifest that a survey asks for; the image may come from anybody.
pub const SURVEYED_LAYERS_MAX: usize = 256;
/// Contents without a label and with a date that does not prove them old, for which the time is remembered
/// when this agent first saw them.
pub const NEW_CONTENT_REMEMBERED_MAX: usize = 16_384;

const _: () = assert!(VERDICTS_KEPT_MAX <= VERIFIED_FILES_MAX);
const _: () = assert!(MANIFEST_BYTES_MAX <= MANIFEST_MEMORY_BYTES_MAX as u64);
