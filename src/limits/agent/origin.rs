//! Limits of the probes that find out whether a registry answers.

use std::time::Duration;

/// Repositories for which it is remembered whether the registry answers, and what was requested last.
pub const ORIGINS_MAX: usize = 1_024;
/// Tags of one repository for which it is remembered that containerd was sent to the registry.
pub const ORIGIN_TAGS_MAX: usize = 16;
/// HTTP clients for probes of registries that are kept: one for each set of certificates and proxy.
pub const ORIGIN_CLIENTS_MAX: usize = 64;
/// Redirects of a registry that a probe follows.
pub const ORIGIN_REDIRECTS_MAX: usize = 3;
/// Largest body of a token service's answer, bytes.
pub const ORIGIN_TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Time for which the result of a probe is remembered.
pub const ORIGIN_PROBE_TTL: Duration = Duration::from_secs(10);
/// Time that a request of containerd waits for a probe of the origin.
pub const ORIGIN_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which a probe continues in the background. A host that accepts and is silent for this long counts
/// as absent.
pub const ORIGIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Age up to which a remembered result is used for a tag that is requested again: the origin may have failed
/// since.
pub const ORIGIN_PROBE_FRESH: Duration = Duration::from_secs(1);
/// Time within which a tag counts as requested again. The kubelet's first retry comes after 10 to 20 s.
pub const ORIGIN_ASKED_AGAIN: Duration = Duration::from_secs(30);
/// Time without an answer of a host after which the next host is asked as well, and a second connection shows
/// whether the first one was accepted.
pub const ORIGIN_HOST_PATIENCE: Duration = Duration::from_millis(300);
/// Head start of the origin before the servers are asked as well, which saves time if the origin is down.
pub const ORIGIN_HEAD_START: Duration = Duration::from_millis(200);
/// Time for which an idle connection to the origin is kept. The parts of one probe use it. If it were kept
/// for longer, it could hide that the origin has become unreachable.
pub const ORIGIN_CONNECTION_IDLE_MAX: Duration = Duration::from_secs(1);
/// Time for a proxy to accept a connection when its presence is checked.
pub const PROXY_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which the folders named by containerd are remembered.
pub const CERTS_DIRS_TTL: Duration = Duration::from_secs(60);
/// Pause before containerd is asked again for its folders after it named none.
pub const CERTS_DIRS_RETRY: Duration = Duration::from_secs(10);
/// Time for containerd to name its folders.
pub const CRI_STATUS_TIMEOUT: Duration = Duration::from_millis(500);

const _: () = assert!(ORIGIN_PROBE_FRESH.as_millis() < ORIGIN_PROBE_TTL.as_millis());
