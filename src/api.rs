//! The discovery API that servers and clients share: wire types here, the client in [`client`]. Paths, fields
//! and status codes are those of the Go Piccolo v0.0.36. What is added to it ("native") is optional for a
//! client.
//!
//! Unknown JSON fields are ignored. `tests/golden` has golden JSON of every type.

pub mod client;
pub mod flight;
mod level;
mod members;

use serde::{Deserialize, Serialize};

pub use level::{LevelRange, LevelStatus};
pub use members::{MemberEntry, MembersAction, MembersProgress, MembersRequest, MembersResponse};

/// Paths of the API, below the base URL of a server.
pub mod path {
    /// How far a node is in its flights.
    pub const FLIGHTS_PROGRESS: &str = "/api/v1/distribution/flights";
    /// What a server asks the owner of keys.
    pub const FLIGHTS_OWNED: &str = "/api/v1/distribution/flights/owned";
    /// The list of flights.
    pub const FLIGHTS: &str = "/api/v1/flights";
    /// POST of a [`super::WriteRequest`].
    pub const ADVERTISE: &str = "/api/v1/distribution/advertise";
    /// POST of a [`super::WriteRequest`]. Native.
    pub const WITHDRAW: &str = "/api/v1/distribution/withdraw";
    /// POST of a [`super::WriteRequest`].
    pub const SYNC: &str = "/api/v1/distribution/sync";
    /// GET with a [`super::FindQuery`].
    pub const FINDKEY: &str = "/api/v1/distribution/findkey";
    /// POST of a [`super::KeepaliveRequest`].
    pub const KEEPALIVE: &str = "/api/v1/keepalive";
    /// POST of a [`super::ReportRequest`]. Native.
    pub const REPORT: &str = "/api/v1/distribution/report";
    /// GET of [`super::Capabilities`]. Native.
    pub const CAPABILITIES: &str = "/api/v1/capabilities";
    /// GET of a [`super::StatusResponse`]. Native.
    pub const STATUS: &str = "/api/v1/status";
    /// GET of a [`super::HostsResponse`]. `?group=` selects one group. `?limit=` asks for a page of at most
    /// that many hosts, `&after=` for the page after the one with that `next`; without a limit all hosts are
    /// returned. Native.
    pub const HOSTS: &str = "/api/v1/hosts";
    /// GET of a [`super::MembersResponse`]; a POST gets the leader's. Native.
    pub const MEMBERS: &str = "/api/v1/members";
    /// POST of a [`super::MembersRequest`]. Native.
    pub const MEMBERS_ADD: &str = "/api/v1/members/add";
    /// POST of a [`super::MembersRequest`]. Native.
    pub const MEMBERS_REPLACE: &str = "/api/v1/members/replace";
    /// POST of a [`super::MembersRequest`]. Native.
    pub const MEMBERS_REMOVE: &str = "/api/v1/members/remove";
    /// POST of a [`super::MembersRequest`]. Native.
    pub const MEMBERS_TRANSFER: &str = "/api/v1/members/transfer-leader";
    /// POST of an empty JSON object. Native.
    pub const MEMBERS_ACTIVATE: &str = "/api/v1/members/activate";
    /// POST: the answering server's state in the format of a snapshot file. Native.
    pub const SNAPSHOT: &str = "/api/v1/snapshot";
    /// GET of the Go Piccolo's static health.
    pub const HEALTHZ: &str = "/healthz";
    /// GET: 200 while the process runs.
    pub const LIVEZ: &str = "/livez";
    /// GET: 503 while lookups should go to another server, with the reasons in the body.
    pub const READYZ: &str = "/readyz";
    /// GET of Prometheus text.
    pub const METRICS: &str = "/metrics";
}

/// Names of headers that the Go Piccolo does not have.
pub mod header {
    /// `1` on a request that a server has forwarded, which is never forwarded again.
    pub const FORWARDED: &str = "piccolo-forwarded";
    /// IP of the node whose report a server passes on to the other servers.
    pub const REPORTER: &str = "piccolo-reporter";
    /// API address of the leader, on a 503 of a server that does not lead; empty if it knows no leader.
    pub const LEADER: &str = "piccolo-leader";
    /// [`FULL_INDEX`] on a 507: the index has reached a limit, so the same write would fail again. A 507
    /// without this header is about disks, and passes by itself.
    pub const FULL: &str = "piccolo-full";
    /// Value of [`FULL`] if the index has reached a limit.
    pub const FULL_INDEX: &str = "index";
    /// `1` on an answer of a server that may be behind the others: what it does not find may exist, so that a
    /// client asks the next server.
    pub const BEHIND: &str = "piccolo-behind";
    /// `1` on a request of a client that understands [`BEHIND`] and has another server to ask. For any other
    /// client the server asks the others itself.
    pub const ASKS_OTHERS: &str = "piccolo-asks-others";
    /// Cluster id, 32 hex digits. On an answer: the answering server's, once it has one. On a write: the
    /// cluster that the write is for; a server of another cluster refuses it with 421.
    pub const CLUSTER: &str = "piccolo-cluster";
    /// Estimated size of a snapshot, bytes.
    pub const ABOUT_BYTES: &str = "piccolo-about-bytes";
    /// Log index that the answering server has applied.
    pub const APPLIED_INDEX: &str = "piccolo-applied-index";
}

/// Body of advertise, withdraw and sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteRequest {
    /// `ip:port` of the holder's blob server.
    pub holder: String,
    /// Group that may see the keys.
    pub group: String,
    /// Keys: `sha256:<hex>` or `registry/repository:tag`.
    pub keys: Vec<String>,
    /// Unix milliseconds of the agent's start; present if and only if `seq` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Number of the write within its epoch; a retry has the number of the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Zone label, as in a keepalive. Used by a sync: a host whose zone is known before it has keys need not
    /// be moved later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Length of the lease, seconds, as in a keepalive. Used by a sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
}

/// Answer to a write: 201, or 409 with `stale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteResponse {
    /// True with 201, false with 409.
    pub success: bool,
    /// The Go Piccolo's text, or what is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// True with 409: the pair was lower than the stored one, and nothing changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// The stored epoch, echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The stored seq, echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Number of invalid keys that were skipped in a request without a pair.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
}

/// Query of findkey.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindQuery {
    /// The key to look up.
    pub key: String,
    /// Group of the node that asks.
    pub group: String,
    /// Maximum number of holders, at most 2,000; 0 or absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// Address of the node that asks. `ip:port` excludes that holder and ranks by tiers and spread. A bare
    /// IP, as the Go `pi` sends, excludes all holders on it and ranks in strict prefix order. Anything else
    /// counts as absent: a Go `pi` on IPv6 sends `[fd00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_host: Option<String>,
    /// Log index that the answering state must have applied: the server waits up to 2 s for it, then answers
    /// 504.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_index: Option<u64>,
    /// `prefix`: the Go Piccolo's strict order, whatever `request_host` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<String>,
    /// [`INTENT_FETCH`](flight::INTENT_FETCH) of a node that receives the content, and passes it on meanwhile. The
    /// fields below belong to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// Contiguous bytes of the content that the node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have: Option<u64>,
    /// Number of the node's transfer of the content; the numbers of one node grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<u64>,
    /// Whether its pull begins now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<bool>,
    /// Whether all sources that it knows bring nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starved: Option<bool>,
    /// `ip:port` of a source that it has lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Claims on other keys that it holds and that have not had a byte yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owes: Option<u32>,
    /// The number of the attempt that its bytes are of, if it knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
}

/// Answer 200 of findkey. Its 404 is a [`Message`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindResponse {
    /// Key of the query.
    pub key: String,
    /// Group of the query. With a capital G, because the Go Piccolo's field has no tag.
    #[serde(rename = "Group")]
    pub group: String,
    /// `ip:port` of the holders, nearest first.
    pub holders: Vec<String>,
    /// Always 0, as in the Go Piccolo.
    pub total: u64,
    /// Where content that is still arriving may come from; only for those that ask with `intent=fetch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flight: Option<flight::FlightSources>,
}

/// Body of keepalive. All fields but `host` and `group` are native.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveRequest {
    /// `ip:port` of the holder.
    pub host: String,
    /// Group of the holder. Go decodes field names without regard to case, and its `pi` sends `Group`.
    #[serde(rename = "Group", alias = "group", alias = "GROUP")]
    pub group: String,
    /// Length of the lease, seconds, 3 to 86,400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// Zone label, for ranking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Fingerprint of the keys that the agent believes the index has for it, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Number of keys in that fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Epoch of the last acknowledged write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Seq of the last acknowledged write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Bytes that this agent's mirror received from peers since its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_from_peers: Option<u64>,
    /// Bytes that this agent has served to peers, since its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_served: Option<u64>,
    /// Requests of containerd that no peer could answer, since its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misses: Option<u64>,
}

/// Answer 201 of keepalive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveResponse {
    /// Always true.
    pub success: bool,
    /// The Go Piccolo's text.
    pub message: String,
    /// True if the index differs from what the agent believes: the agent must sync.
    #[serde(default)]
    pub resync: bool,
}

/// Body of report: a node's failure with a holder. Native.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRequest {
    /// `ip:port` of the reporting node's own blob server.
    pub host: String,
    /// `ip:port` of the reported holder.
    pub holder: String,
    /// Group of both nodes; absent: `default`.
    #[serde(default = "default_group")]
    pub group: String,
    /// Key that was requested from the holder.
    pub key: String,
    /// Kind of failure.
    pub reason: ReportReason,
}

/// Kind of failure of a reported holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportReason {
    /// The holder accepted no connection.
    Unreachable,
    /// The holder accepted a connection, and sent no answer in time, or no bytes after the headers.
    Silent,
    /// The answer broke off or had the wrong length.
    Broken,
    /// The bytes did not match the key.
    Wrong,
}

impl ReportReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Unreachable, Self::Silent, Self::Broken, Self::Wrong];

    /// The reason's name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Broken => "broken",
            Self::Wrong => "wrong",
        }
    }
}

/// Answer 201 of report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportResponse {
    /// Always true.
    pub success: bool,
    /// What the server did with the report.
    pub message: String,
    /// False if the server remembers as many reports as it may and dropped this one.
    pub recorded: bool,
}

/// Answer 200 of capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Version of this API.
    pub api: u32,
    /// Cluster id, 32 hex digits; empty before the server has joined a cluster.
    pub cluster: String,
    /// Names of the native features that a client may use.
    pub features: Vec<String>,
    /// Number of servers in the cluster, as far as the answering one knows; 0 before it has joined one.
    #[serde(default)]
    pub servers: usize,
}

/// An answer that is only a text: errors and health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// False on errors of the write endpoints; absent elsewhere, as in the Go Piccolo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    /// Text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Text of the error in answers where the Go Piccolo uses this field (findkey's 400 and 500).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// Answer 200 or 503 of readyz.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// True if lookups should come to this server.
    pub ready: bool,
    /// Why the server is not ready, or what is wrong although it is.
    pub reasons: Vec<String>,
}

/// Answer 200 of status: the cluster as the answering server sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusResponse {
    /// Version of the answering server.
    pub version: String,
    /// Cluster id, 32 hex digits; empty before the server has joined a cluster.
    pub cluster: String,
    /// Node id of the answering server, 16 hex digits.
    pub node: String,
    /// Node id of the leader, 16 hex digits; absent if the answering server knows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Whether the answering server knows a leader with a recent quorum.
    pub quorum: bool,
    /// True if the answering server has all writes that it knows to be acknowledged, and would learn of
    /// further ones.
    #[serde(default)]
    pub current: bool,
    /// Raft term.
    pub term: u64,
    /// Log index that the answering server has applied.
    pub applied_index: u64,
    /// State checksum at that index, 32 hex digits (I2).
    pub checksum: String,
    /// Level of the formats that the servers have agreed to write.
    #[serde(default)]
    pub level: LevelStatus,
    /// Every member of the cluster.
    pub members: Vec<MemberStatus>,
    /// Number of holders in the index.
    pub hosts: u64,
    /// Number of those holders that are hidden because their lease ended.
    pub hosts_hidden: u64,
    /// Number of distinct keys.
    pub keys: u64,
    /// Number of pairs of key and holder.
    pub pairs: u64,
    /// Bytes that agents received from peers, as far as they have reported to this leader; only the leader
    /// knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_from_peers: Option<u64>,
    /// Bytes that agents served to peers, as far as they have reported to this leader; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_served: Option<u64>,
    /// Requests of containerd that no peer could answer, as far as agents have reported to this leader; only
    /// the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misses: Option<u64>,
    /// What is wrong with this server; empty if nothing is.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// One server in [`StatusResponse`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Node id, 16 hex digits.
    pub node: String,
    /// `host:port` of its raft RPC.
    pub raft_address: String,
    /// `host:port` of its API.
    pub api_address: String,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Log entries that the member lacks; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Whether the member has answered the leader recently; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
    /// Milliseconds since the leader sent the last request that the member has answered; absent if there is
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms_ago: Option<u64>,
    /// Disk of the member's data folder. The leader knows all disks, other servers only their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskStatus>,
    /// Levels that the member's version knows, as it recently said. The leader knows them of all members,
    /// other servers only their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<LevelRange>,
}

/// The disk of a server's data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Free space, bytes.
    pub free_bytes: u64,
    /// Size, bytes.
    pub total_bytes: u64,
    /// Free space below which the disk is low, bytes; 0: it is never low.
    pub minimum_bytes: u64,
    /// True if the disk is low: the server stores nothing more.
    pub low: bool,
}

/// Answer 200 of hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsResponse {
    /// Holders, sorted by group and address.
    pub hosts: Vec<HostStatus>,
    /// Value of `after` for the next page; absent after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One holder in [`HostsResponse`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Group of the holder.
    pub group: String,
    /// `ip:port` of the holder's blob server.
    pub holder: String,
    /// Zone label; empty if there is none.
    pub zone: String,
    /// Number of keys that it holds.
    pub keys: u64,
    /// Unix milliseconds at which its lease ended; absent while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_unix_ms: Option<u64>,
}

/// Group of a request without one.
pub(crate) fn default_group() -> String {
    "default".to_owned()
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
