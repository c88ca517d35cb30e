//! Limits of the mirror and of the blob server.

use std::time::Duration;

/// Time for which the mirror holds one request until its headers.
pub const RESOLVE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Shortest and longest `--resolve-timeout`.
pub const RESOLVE_TIMEOUT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Time that the store may take longer than the check of its content.
pub const STORE_ANSWER_GRACE: Duration = Duration::from_millis(50);
/// `Retry-After` of a 503 of the agent, seconds.
pub const RETRY_AFTER_SECONDS: u64 = 1;
/// Headers of an answer with content, those that hyper adds included.
pub const CONTENT_HEADERS_MAX: usize = 9;
/// Time for hyper to write out what it holds before a clean cut.
pub const CUT_FLUSH_WAIT: Duration = Duration::from_millis(20);
/// Concurrent uploads of one agent.
pub const UPLOADS_MAX_DEFAULT: usize = 64;
/// Time of sending by which the bucket of uploads may run ahead after idle time.
pub const UPLOAD_BURST: Duration = Duration::from_millis(100);
/// Chunks a second that each upload may send under a rate.
pub const UPLOAD_TURNS_PER_SECOND: u64 = 8;
/// Smallest chunk of an upload under a low rate, bytes.
pub const UPLOAD_CHUNK_BYTES_MIN: usize = 4 * 1024;

/// Holders of a tag that a node asks what it is there, under `tags = "peers"`: all of them, as far as one answer of the
/// servers names them.
pub const TAG_HOLDERS_ASKED_MAX: usize = crate::limits::FINDKEY_COUNT_MAX;
/// Holders of a tag that are asked at once what it is there.
pub const TAG_HOLDERS_ASKED_AT_ONCE: usize = 64;
/// Holders that are named of those that set a tag to different images at the same time.
pub const TIED_NAMED_MAX: usize = 16;
/// Longest time of a pull from the answer for its tag to the image's record.
pub const TAG_PULL_MAX: Duration = Duration::from_secs(60 * 60);
/// Tags whose last answer is remembered.
pub const TAGS_ANSWERED_MAX: usize = 4_096;

/// Images in a row that are pulled without a request to the mirror before the agent says so.
pub const MIRROR_BYPASS_IMAGES: usize = 3;
/// Time after a request within which an image that comes was asked for, maybe.
pub const MIRROR_BYPASS_WINDOW: Duration = Duration::from_secs(600);
/// Digests of commits that wait for their images, and of images that wait for their commits.
pub const MIRROR_BYPASS_REMEMBERED_MAX: usize = 256;
/// Events of the store that wait for the search for images that were pulled without a request.
pub const MIRROR_BYPASS_EVENTS_WAITING_MAX: usize = 256;
/// Time between two looks at the counter of requests to the mirror.
pub const MIRROR_BYPASS_LOOK_INTERVAL: Duration = Duration::from_secs(2);
