//! Limits of the discovery API that servers and clients share.

/// Keys in one advertise, withdraw or sync of a native client.
pub const REQUEST_KEYS_MAX: usize = 100_000;
/// Size of the body of one request to the discovery API, bytes.
pub const API_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Hosts in one page of the list of hosts.
pub const HOSTS_PAGE_MAX: usize = 1_000;
/// Pages of the list of hosts that a client requests; they hold more hosts than an index may have.
pub const HOSTS_PAGES_MAX: usize = 1_000;
/// Holders in one findkey answer, as in the Go Piccolo.
pub const FINDKEY_COUNT_MAX: usize = 2_000;
/// Holders in a findkey answer if the request has no count.
pub const FINDKEY_COUNT_DEFAULT: usize = 100;
/// Shortest lease that a client may ask for, seconds.
pub const LEASE_SECONDS_MIN: u32 = 3;
/// Longest lease that a client may ask for, seconds.
pub const LEASE_SECONDS_MAX: u32 = 86_400;
/// Heartbeats in one lease of an agent: two may be lost.
pub const HEARTBEATS_PER_LEASE: u32 = 3;

const _: () = assert!(REQUEST_KEYS_MAX * (piccolo_raft::model::KEY_BYTES_MAX + 3) > API_BODY_BYTES_MAX);
