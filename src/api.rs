//! The discovery API as both sides see it: wire types here, the client in [`client`]. Paths, fields
//! and status codes are those of the Go Piccolo v0.0.36; what we add is optional for a client.
//!
//! Unknown JSON fields are ignored. Golden JSON of every type is in `tests/golden`.

pub mod client;
mod level;
mod members;

use serde::{Deserialize, Serialize};

pub use level::{LevelRange, LevelStatus};
pub use members::{MemberEntry, MembersAction, MembersProgress, MembersRequest, MembersResponse};

/// Paths of the API, below the base URL of a server.
pub mod path {
    /// POST [`super::WriteRequest`].
    pub const ADVERTISE: &str = "/api/v1/distribution/advertise";
    /// POST [`super::WriteRequest`]. Ours.
    pub const WITHDRAW: &str = "/api/v1/distribution/withdraw";
    /// POST [`super::WriteRequest`].
    pub const SYNC: &str = "/api/v1/distribution/sync";
    /// GET with [`super::FindQuery`].
    pub const FINDKEY: &str = "/api/v1/distribution/findkey";
    /// POST [`super::KeepaliveRequest`].
    pub const KEEPALIVE: &str = "/api/v1/keepalive";
    /// POST [`super::ReportRequest`]. Ours.
    pub const REPORT: &str = "/api/v1/distribution/report";
    /// GET. Ours.
    pub const CAPABILITIES: &str = "/api/v1/capabilities";
    /// GET [`super::StatusResponse`]. Ours.
    pub const STATUS: &str = "/api/v1/status";
    /// GET [`super::HostsResponse`], `?group=` narrows. `?limit=` asks for a page of so many hosts at most,
    /// `&after=` for the one behind the page with that `next`; without a limit it is all of them. Ours.
    pub const HOSTS: &str = "/api/v1/hosts";
    /// GET [`super::MembersResponse`]; POST asks the same of the leader. Ours.
    pub const MEMBERS: &str = "/api/v1/members";
    /// POST [`super::MembersRequest`]. Ours.
    pub const MEMBERS_ADD: &str = "/api/v1/members/add";
    /// POST [`super::MembersRequest`]. Ours.
    pub const MEMBERS_REPLACE: &str = "/api/v1/members/replace";
    /// POST [`super::MembersRequest`]. Ours.
    pub const MEMBERS_REMOVE: &str = "/api/v1/members/remove";
    /// POST [`super::MembersRequest`]. Ours.
    pub const MEMBERS_TRANSFER: &str = "/api/v1/members/transfer-leader";
    /// POST, an empty JSON object. Ours.
    pub const MEMBERS_ACTIVATE: &str = "/api/v1/members/activate";
    /// POST: the state as the answering server has it, in the form of a snapshot file. Ours.
    pub const SNAPSHOT: &str = "/api/v1/snapshot";
    /// GET, the Go Piccolo's static health.
    pub const HEALTHZ: &str = "/healthz";
    /// GET, 200 while the process runs.
    pub const LIVEZ: &str = "/livez";
    /// GET, 503 while lookups should go to another server; reasons in the body.
    pub const READYZ: &str = "/readyz";
    /// GET, Prometheus text.
    pub const METRICS: &str = "/metrics";
}

/// Header names of ours.
pub mod header {
    /// `1` on a request that a server has forwarded: it is never forwarded again.
    pub const FORWARDED: &str = "piccolo-forwarded";
    /// IP of the node whose report a server passes on to the other servers.
    pub const REPORTER: &str = "piccolo-reporter";
    /// API address of the leader, on a 503 of a server that is not; empty if it knows none.
    pub const LEADER: &str = "piccolo-leader";
    /// [`FULL_INDEX`] on a 507: the index has reached a limit, so the write is not worth sending again as
    /// it is. A 507 without it is about disks, and passes by itself.
    pub const FULL: &str = "piccolo-full";
    /// See [`FULL`].
    pub const FULL_INDEX: &str = "index";
    /// `1` on an answer of a server that may lack what the others have: what it says is not there may be
    /// there, so that a client asks the next server.
    pub const BEHIND: &str = "piccolo-behind";
    /// `1` on a request of a client that reads [`BEHIND`] and has another server to ask. For any other one a
    /// server asks itself.
    pub const ASKS_OTHERS: &str = "piccolo-asks-others";
    /// Cluster id, 32 hex digits. On an answer: of the answering server, once it belongs to one. On a write:
    /// the cluster that it is for; a server of another one refuses it with 421.
    pub const CLUSTER: &str = "piccolo-cluster";
    /// About how many bytes of a snapshot will come.
    pub const ABOUT_BYTES: &str = "piccolo-about-bytes";
    /// Log index that the answering server has applied.
    pub const APPLIED_INDEX: &str = "piccolo-applied-index";
}

/// Body of advertise, withdraw and sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteRequest {
    /// `ip:port` of the holder's blob server.
    pub holder: String,
    /// Who may see it.
    pub group: String,
    /// Keys: `sha256:<hex>` or `registry/repository:tag`.
    pub keys: Vec<String>,
    /// Unix milliseconds of the agent's start; given together with `seq` or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Counts the writes of one epoch; a retry keeps its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Zone label, as in a keepalive. Counts in a sync: a host that is known by its zone before it
    /// has keys need not be moved later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Length of the lease, as in a keepalive. Counts in a sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
}

/// Answer to a write: 201, or 409 with `stale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteResponse {
    /// True on 201.
    pub success: bool,
    /// The Go Piccolo's text, or what is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// True on 409: the pair was lower than the stored one, nothing changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// The stored epoch, echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The stored seq, echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Keys of a request without a pair that were skipped because they are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
}

/// Query of findkey.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindQuery {
    /// The key.
    pub key: String,
    /// The asker's group.
    pub group: String,
    /// How many holders; 0 or absent: 100; at most 2,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// Who asks: `ip:port` (excludes that holder, ranks by tiers and spread) or a bare IP (the Go
    /// `pi`: excludes all holders on it, strict prefix order). What is neither counts as absent: a
    /// Go `pi` on IPv6 sends `[fd00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_host: Option<String>,
    /// Answer from a state that has applied this log index: waits up to 2 s, then 504.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_index: Option<u64>,
    /// `prefix`: the Go Piccolo's strict order, whatever `request_host` looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<String>,
}

/// 200 of findkey. 404 is [`Message`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindResponse {
    /// The key asked for.
    pub key: String,
    /// The group asked for. Capital G: the Go Piccolo's field has no tag.
    #[serde(rename = "Group")]
    pub group: String,
    /// `ip:port` of holders, nearest first.
    pub holders: Vec<String>,
    /// Always 0, as in the Go Piccolo.
    pub total: u64,
}

/// Body of keepalive. All but `host` and `group` are ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveRequest {
    /// `ip:port` of the holder.
    pub host: String,
    /// Its group. Go decodes field names without regard to case, and its `pi` sends `Group`.
    #[serde(rename = "Group", alias = "group", alias = "GROUP")]
    pub group: String,
    /// Length of the lease, 3 to 86,400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// Zone label, for ranking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Fingerprint of what the agent believes the index holds for it, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Number of keys under that fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Epoch of the last acknowledged write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Seq of the last acknowledged write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Bytes that this agent's mirror has had from peers, since its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_from_peers: Option<u64>,
    /// Bytes that this agent has served to peers, since its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_served: Option<u64>,
    /// Requests of containerd that no peer could answer, since its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misses: Option<u64>,
}

/// 201 of keepalive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveResponse {
    /// True.
    pub success: bool,
    /// The Go Piccolo's text.
    pub message: String,
    /// The index does not hold what the agent believes: sync, please.
    #[serde(default)]
    pub resync: bool,
}

/// Body of report: a node says what it lived through with a holder. Ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRequest {
    /// `ip:port` of the reporting node's own blob server.
    pub host: String,
    /// `ip:port` of the holder reported on.
    pub holder: String,
    /// Group of both; absent: `default`.
    #[serde(default = "default_group")]
    pub group: String,
    /// What was asked for.
    pub key: String,
    /// What happened.
    pub reason: ReportReason,
}

/// Why a holder is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportReason {
    /// No connection.
    Unreachable,
    /// A connection, but no answer in time, or no bytes after it.
    Silent,
    /// An answer that broke off, or had the wrong length.
    Broken,
    /// Bytes that are not the key's.
    Wrong,
}

impl ReportReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unreachable, Self::Silent, Self::Broken, Self::Wrong];

    /// As it is on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Broken => "broken",
            Self::Wrong => "wrong",
        }
    }
}

/// 201 of report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportResponse {
    /// True.
    pub success: bool,
    /// What became of it.
    pub message: String,
    /// False: this server remembers as many reports as it may, this one is not among them.
    pub recorded: bool,
}

/// 200 of capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Version of this API.
    pub api: u32,
    /// Cluster id, 32 hex digits; empty while none has formed.
    pub cluster: String,
    /// What a client may use beyond the Go Piccolo's API.
    pub features: Vec<String>,
    /// Servers of the cluster, as the answering one knows it; 0 while none has formed.
    #[serde(default)]
    pub servers: usize,
}

/// Any answer that is only a text: errors, health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// False on errors of the write endpoints; absent elsewhere, as in the Go Piccolo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    /// What happened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What is wrong, where the Go Piccolo uses this field (findkey's 400 and 500).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// 200 or 503 of readyz.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether lookups should come here.
    pub ready: bool,
    /// Why not, or what is not as it should be.
    pub reasons: Vec<String>,
}

/// 200 of status: the cluster as the answering server sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusResponse {
    /// Version of the answering server.
    pub version: String,
    /// Cluster id, 32 hex digits; empty while none has formed.
    pub cluster: String,
    /// Node id of the answering server, 16 hex digits.
    pub node: String,
    /// Node id of the leader that it knows, 16 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Whether the answering server knows a leader with a recent quorum.
    pub quorum: bool,
    /// Whether the answering server has all that it knows to be acknowledged, and would hear of more.
    #[serde(default)]
    pub current: bool,
    /// Raft term.
    pub term: u64,
    /// Log index applied here.
    pub applied_index: u64,
    /// State checksum at that index, 32 hex digits (I2).
    pub checksum: String,
    /// What the servers have agreed to write.
    #[serde(default)]
    pub level: LevelStatus,
    /// All members.
    pub members: Vec<MemberStatus>,
    /// Holders known.
    pub hosts: u64,
    /// Of those, hidden: their lease ended.
    pub hosts_hidden: u64,
    /// Distinct keys.
    pub keys: u64,
    /// Pairs of key and holder.
    pub pairs: u64,
    /// Bytes that agents had from peers, as far as they have told this leader; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_from_peers: Option<u64>,
    /// Bytes that agents served to peers; the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_served: Option<u64>,
    /// Requests of containerd that no peer could answer; the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misses: Option<u64>,
    /// Reasons why this server is not as it should be; empty if all is well.
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
    /// Log entries it lacks; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Whether it has answered the leader within the last moments; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
    /// Milliseconds since the leader sent what it has answered; absent if this leader has had no answer of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms_ago: Option<u64>,
    /// The disk of its data folder; the leader knows all of them, others only their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskStatus>,
    /// The levels that its version knows, as it said a moment ago; the leader knows all of them, others only
    /// their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<LevelRange>,
}

/// The disk of a server's data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// What can still be written, bytes.
    pub free_bytes: u64,
    /// What it can hold, bytes.
    pub total_bytes: u64,
    /// With less than this it is low, bytes; 0: nobody looks.
    pub minimum_bytes: u64,
    /// The server stores nothing more.
    pub low: bool,
}

/// 200 of hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsResponse {
    /// Holders, by group and address.
    pub hosts: Vec<HostStatus>,
    /// Of a page: what to ask for the next one with. Absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One holder in [`HostsResponse`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its group.
    pub group: String,
    /// `ip:port` of its blob server.
    pub holder: String,
    /// Zone label, empty if none.
    pub zone: String,
    /// Number of keys it holds.
    pub keys: u64,
    /// Unix milliseconds at which its lease ended; absent: alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_unix_ms: Option<u64>,
}

/// The group of a request that may leave it out and does.
pub(crate) fn default_group() -> String {
    "default".to_owned()
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
