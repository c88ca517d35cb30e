//! Limits of the question whether a registry answers.

use std::time::Duration;

/// Repositories of which it is remembered whether their registry answers, and what was last asked for.
pub const ORIGINS_MAX: usize = 1_024;
/// Tags of one repository of which it is remembered that containerd was sent to the registry for them.
pub const ORIGIN_TAGS_MAX: usize = 16;
/// HTTP clients that are kept for probes of registries: one for each set of certificates and proxy.
pub const ORIGIN_CLIENTS_MAX: usize = 64;
/// Redirects of a registry that a probe follows.
pub const ORIGIN_REDIRECTS_MAX: usize = 3;
/// Size of the body of a token service's answer, bytes.
pub const ORIGIN_TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Time for which an answer about the origin is remembered.
pub const ORIGIN_PROBE_TTL: Duration = Duration::from_secs(10);
/// Time that a request of containerd waits for a probe of the origin.
pub const ORIGIN_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which a probe goes on in the background; a host that has accepted and says nothing for so long counts as
/// one that is not there.
pub const ORIGIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Age up to which a remembered answer counts for a tag that is asked for again: the origin may have gone since.
pub const ORIGIN_PROBE_FRESH: Duration = Duration::from_secs(1);
/// Time within which a tag counts as asked for again. The kubelet's first retry comes after 10 to 20 s.
pub const ORIGIN_ASKED_AGAIN: Duration = Duration::from_secs(30);
/// Time without an answer of a host after which the next host is asked as well, and a second connection tells whether
/// the first one is accepted.
pub const ORIGIN_HOST_PATIENCE: Duration = Duration::from_millis(300);
/// Time that the origin has before the servers are asked as well, to save time if it is gone.
pub const ORIGIN_HEAD_START: Duration = Duration::from_millis(200);
/// Time for which a connection to the origin is kept. The parts of one probe follow each other within it; a connection
/// that is kept for longer would answer for an origin that has since become unreachable.
pub const ORIGIN_CONNECTION_IDLE_MAX: Duration = Duration::from_secs(1);
/// Time for a proxy to accept a connection when it is looked whether it is there.
pub const PROXY_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which the folders hold that containerd has named.
pub const CERTS_DIRS_TTL: Duration = Duration::from_secs(60);
/// Pause before containerd is asked again for its folders while it has named none.
pub const CERTS_DIRS_RETRY: Duration = Duration::from_secs(10);
/// Time for containerd to name its folders.
pub const CRI_STATUS_TIMEOUT: Duration = Duration::from_millis(500);

const _: () = assert!(ORIGIN_PROBE_FRESH.as_millis() < ORIGIN_PROBE_TTL.as_millis());
