//! `GET /api/v1/capabilities`: what a client may use beyond the Go Piccolo's API.

use axum::Json;
use piccolo_raft::cluster::Node;

use crate::api::Capabilities;
use crate::server::app::Loaded;

/// Version of this API.
const API_VERSION: u32 = 1;
/// What a client would have to probe for otherwise.
const FEATURES: &[&str] = &[
    "withdraw",
    "order",
    "lease",
    "resync",
    "min_index",
    "rank_prefix",
    "hosts",
    "report",
    "behind",
    "flights",
];

/// Answers with the features, the cluster, and how many servers it has.
pub async fn handle(Loaded(node): Loaded<Node>) -> Json<Capabilities> {
    let status = node.status();
    let cluster = status.cluster_id.map(|id| id.to_string()).unwrap_or_default();
    let features = FEATURES.iter().map(|feature| (*feature).to_owned()).collect();
    Json(Capabilities { api: API_VERSION, cluster, features, servers: status.members.len() })
}
