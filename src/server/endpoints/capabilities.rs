//! `GET /api/v1/capabilities`: what a client may use beyond the Go Piccolo's API.

use crate::api::Capabilities;
use crate::server::app::App;

/// Version of this API.
const API_VERSION: u32 = 1;
/// Each is what a client would have to probe for otherwise.
const FEATURES: &[&str] =
    &["withdraw", "order", "lease", "resync", "min_index", "rank_prefix", "hosts", "report", "behind"];

/// The answer.
pub fn answer(app: &App) -> Capabilities {
    let status = app.node.status();
    let cluster = status.cluster_id.map(|id| id.to_string()).unwrap_or_default();
    let features = FEATURES.iter().map(|feature| (*feature).to_owned()).collect();
    Capabilities { api: API_VERSION, cluster, features, servers: status.members.len() }
}
