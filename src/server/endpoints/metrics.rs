//! `GET /metrics`: the Go Piccolo's names where the meaning is the same, and gauges of our own, which are set
//! when they are scraped.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{FromRef, MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::Response;
use metrics::{counter, describe_counter, describe_gauge, gauge, histogram};
use piccolo_raft::cluster::Node;
use piccolo_raft::index::Index;

use crate::server::app::{App, AppHandle};
use crate::server::cluster::level;
use crate::server::leases::fleet::FleetUsage;
use crate::server::reports::Reports;

/// The label of requests that match no route: their paths would be labels without bound.
const UNMATCHED: &str = "unmatched";
/// The bits of the checksum that a float holds exactly.
const CHECKSUM_MASK: u128 = (1 << 52) - 1;

/// The parts that the gauges show.
#[derive(Clone)]
struct Gauges {
    node: Node,
    index: Index,
    reports: Arc<Reports>,
    fleet: FleetUsage,
}

impl FromRef<App> for Gauges {
    fn from_ref(app: &App) -> Self {
        let (node, index) = (app.node.clone(), app.index.clone());
        Self { node, index, reports: Arc::clone(&app.reports), fleet: app.fleet.clone() }
    }
}

/// The route of `/metrics`.
pub fn router(app: AppHandle) -> Router<AppHandle> {
    describe();
    crate::metrics::router(crate::metrics::install()).layer(middleware::from_fn_with_state(app, refresh))
}

fn describe() {
    level::describe();
    describe_gauge!("piccolo_raft_term", "raft term");
    describe_gauge!("piccolo_raft_is_leader", "1 on the leader");
    describe_gauge!("piccolo_raft_has_quorum", "1 if a leader with a quorum is known");
    describe_gauge!("piccolo_index_hosts", "holders known, hidden ones included");
    describe_gauge!("piccolo_index_hosts_hidden", "holders whose lease has ended");
    describe_gauge!("piccolo_index_keys", "distinct keys");
    describe_gauge!("piccolo_index_pairs", "pairs of key and holder");
    describe_gauge!("piccolo_index_applied_index", "log index applied");
    describe_gauge!("piccolo_index_current", "1 while this server has all that it knows to be acknowledged");
    describe_gauge!("piccolo_index_checksum", "lower 52 bits of the state checksum");
    describe_gauge!("piccolo_index_checksum_log_index", "log index that the checksum belongs to");
    describe_gauge!("piccolo_fleet_bytes_from_peers", "bytes that agents had from peers; on the leader");
    describe_gauge!("piccolo_fleet_bytes_served", "bytes that agents served to peers; on the leader");
    describe_gauge!("piccolo_fleet_misses", "requests that no peer could answer; on the leader");
    describe_gauge!("piccolo_index_hosts_reported", "holders ranked last, and pairs left out, by reports");
    describe_gauge!(
        "piccolo_api_flights",
        "content that is still arriving, of which this server keeps who has a part"
    );
    describe_counter!("piccolo_api_flight_claims_total", "claims on content that no node had, by outcome");
    describe_gauge!("piccolo_disk_free_bytes", "free bytes on the disk of the data folder");
    describe_gauge!("piccolo_disk_size_bytes", "bytes that this disk can hold");
    describe_gauge!("piccolo_disk_free_min_bytes", "with less free bytes than this the disk is low");
    describe_gauge!("piccolo_disk_low", "1 while the disk is low: this server stores nothing more");
    describe_gauge!("piccolo_writes_refused_for_room", "1 on a leader that takes no writes, disks being low");
    let version = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("commit", option_env!("PICCOLO_COMMIT").unwrap_or("unknown")),
        ("date", option_env!("PICCOLO_DATE").unwrap_or("unknown")),
    ];
    gauge!("piccolo_api_version", &version).set(1);
}

async fn refresh(State(app): State<AppHandle>, request: Request, next: Next) -> Response {
    if let Ok(app) = app.get() {
        set_gauges(&Gauges::from_ref(app));
    }
    next.run(request).await
}

fn set_gauges(Gauges { node, index, reports, fleet }: &Gauges) {
    let counts = index.counts();
    let (checksum_index, checksum) = index.checksum();
    let flag = |set: bool| if set { 1.0 } else { 0.0 };
    gauge!("piccolo_raft_term").set(node.term() as f64);
    gauge!("piccolo_raft_is_leader").set(flag(node.is_leader()));
    gauge!("piccolo_raft_has_quorum").set(flag(node.has_quorum()));
    gauge!("piccolo_index_hosts").set(counts.hosts as f64);
    gauge!("piccolo_index_hosts_hidden").set(counts.hosts_hidden as f64);
    gauge!("piccolo_index_keys").set(counts.keys as f64);
    gauge!("piccolo_index_pairs").set(counts.pairs as f64);
    gauge!("piccolo_index_hosts_reported").set(reports.effective() as f64);
    gauge!("piccolo_index_applied_index").set(index.applied_index() as f64);
    gauge!("piccolo_index_current").set(flag(node.behind().is_none()));
    gauge!("piccolo_index_checksum").set((checksum & CHECKSUM_MASK) as f64);
    gauge!("piccolo_index_checksum_log_index").set(checksum_index as f64);
    level::set_gauges(node.level_status());
    gauge!("piccolo_writes_refused_for_room").set(flag(node.no_room().is_some()));
    if let Some(disk) = node.disk() {
        gauge!("piccolo_disk_free_bytes").set(disk.free_bytes as f64);
        gauge!("piccolo_disk_size_bytes").set(disk.total_bytes as f64);
        gauge!("piccolo_disk_free_min_bytes").set(disk.minimum_bytes as f64);
        gauge!("piccolo_disk_low").set(flag(disk.low));
    }
    // 0 on the other servers, so that the sum over all servers is that of the leader.
    let sums = fleet.sums().unwrap_or_default();
    gauge!("piccolo_fleet_bytes_from_peers").set(sums.bytes_from_peers as f64);
    gauge!("piccolo_fleet_bytes_served").set(sums.bytes_served as f64);
    gauge!("piccolo_fleet_misses").set(sums.misses as f64);
}

/// Counts every request once its outcome is known.
pub async fn count(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str).to_owned();
    let method = method(request.method());
    let start = Instant::now();
    let response = next.run(request).await;
    let seconds = start.elapsed().as_secs_f64();
    let status = response.status().as_u16().to_string();
    counter!("http_requests_total", "route" => route.clone(), "method" => method, "status" => status)
        .increment(1);
    histogram!("http_request_duration_seconds", "route" => route, "method" => method).record(seconds);
    response
}

/// The label of a method. A client can invent methods: all that are not known here share a label.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
