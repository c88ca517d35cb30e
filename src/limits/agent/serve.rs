//! Limits of the mirror and of the blob server.

use std::time::Duration;

/// Time for which the mirror holds a request before it sends headers.
pub const RESOLVE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Shortest and longest `--resolve-timeout`.
pub const RESOLVE_TIMEOUT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Time that the store may take in addition to the check of its content.
pub const STORE_ANSWER_GRACE: Duration = Duration::from_millis(50);
/// `Retry-After` of the agent's 503 answers, seconds.
pub const RETRY_AFTER_SECONDS: u64 = 1;
/// Headers of an answer with content, including those that hyper adds.
pub const CONTENT_HEADERS_MAX: usize = 9;
/// Time for hyper to write its buffer before a clean cut.
pub const CUT_FLUSH_WAIT: Duration = Duration::from_millis(20);
/// Concurrent uploads of one agent.
pub const UPLOADS_MAX_DEFAULT: usize = 64;
/// Sending time by which the bucket of uploads may run ahead after idle time.
pub const UPLOAD_BURST: Duration = Duration::from_millis(100);
/// Chunks per second for each upload under a rate limit.
pub const UPLOAD_TURNS_PER_SECOND: u64 = 8;
/// Smallest chunk of an upload under a low rate limit, bytes.
pub const UPLOAD_CHUNK_BYTES_MIN: usize = 4 * 1024;

/// Holders of a tag that a node asks for its digest under `tags = "peers"`: all that one answer of the
/// servers names.
pub const TAG_HOLDERS_ASKED_MAX: usize = crate::limits::FINDKEY_COUNT_MAX;
/// Holders of a tag that are asked for its digest at the same time.
pub const TAG_HOLDERS_ASKED_AT_ONCE: usize = 64;
/// Holders that an answer names if they set a tag to different images at the same time.
pub const TIED_NAMED_MAX: usize = 16;
/// Longest pull, from the answer for its tag to the image's record.
pub const TAG_PULL_MAX: Duration = Duration::from_secs(60 * 60);
/// Tags whose last answer is remembered.
pub const TAGS_ANSWERED_MAX: usize = 4_096;

/// Consecutive images pulled without a request to the mirror after which the agent reports it.
pub const MIRROR_BYPASS_IMAGES: usize = 3;
/// Time after a request within which an image may be the result of it.
pub const MIRROR_BYPASS_WINDOW: Duration = Duration::from_secs(600);
/// Digests of commits that wait for their images, and of images that wait for their commits.
pub const MIRROR_BYPASS_REMEMBERED_MAX: usize = 256;
/// Events of the store that wait for the check for pulls without a request.
pub const MIRROR_BYPASS_EVENTS_WAITING_MAX: usize = 256;
/// Time between two reads of the counter of requests to the mirror.
pub const MIRROR_BYPASS_LOOK_INTERVAL: Duration = Duration::from_secs(2);
