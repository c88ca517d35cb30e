//! `POST /api/v1/distribution/report`: a node could not get a key from a holder, or got wrong bytes. The Go
//! Piccolo has no such endpoint. [`crate::server::reports`] says what follows.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRef, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use piccolo_raft::cluster::Node;
use piccolo_raft::index::Index;
use piccolo_raft::model::{Holder, Key};

use crate::api::{ReportReason, ReportResponse, default_group, header};
use crate::http::Connection;
use crate::server::app::{App, Loaded};
use crate::server::cluster::forward::is_forwarded;
use crate::server::cluster::server_addresses::ServerAddresses;
use crate::server::error::{ApiError, FormatError};
use crate::server::permits::Permits;
use crate::server::reports::Reports;
use crate::server::reports::pass_on::{ALIVE, News};
use crate::server::reports::table::{Source, Subject, Taken};
use crate::server::requests::accepted::{self, HolderPolicy};
use crate::server::requests::json::Fields;

/// The parts that a report uses.
#[derive(Clone)]
pub struct Reporting {
    node: Node,
    index: Index,
    servers: ServerAddresses,
    reports: Arc<Reports>,
    permits: Permits,
    holders: HolderPolicy,
}

impl FromRef<App> for Reporting {
    fn from_ref(app: &App) -> Self {
        Self {
            node: app.node.clone(),
            index: app.index.clone(),
            servers: app.cluster.servers.clone(),
            reports: Arc::clone(&app.reports),
            permits: app.permits.clone(),
            holders: app.holders,
        }
    }
}

/// A report whose fields are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Accepted {
    host: SocketAddr,
    holder: Holder,
    key: Key,
    /// `None` if the holder is alive.
    reason: Option<ReportReason>,
}

/// Answers one report.
pub async fn handle(Loaded(parts): Loaded<Reporting>, incoming: Request) -> Result<Response, ApiError> {
    let Reporting { node, index, servers, reports, permits, holders } = parts;
    let connection = incoming.extensions().get::<Connection>().map(|connection| connection.peer.ip());
    let from = connection.ok_or(ApiError::Internal { reason: "a request without a connection" })?;
    let passed_on = passed_on(&servers, incoming.headers(), from);
    let (body, _permit) = permits.bodies.read(incoming).await?;
    let accepted = accept(&body, holders, passed_on.is_some())?;
    let Accepted { host, holder, key, reason } = accepted;
    if index.host(&holder).is_none() {
        if let Some(behind) = node.behind() {
            // Another server may know the holder.
            return Err(ApiError::Behind(behind));
        }
        return Err(FormatError::value("holder", format!("is not known: {}", holder.address)).into());
    }
    let Some(reason) = reason else {
        reports.end_of(&holder);
        return Ok(answer(true));
    };
    let source = source(passed_on.unwrap_or(from), host, holders.loopback);
    let wrong = (reason == ReportReason::Wrong).then(|| key.clone());
    let taken = reports.add(Subject { holder: holder.clone(), wrong }, source);
    metrics::counter!("piccolo_api_reports_total", "reason" => reason.as_str()).increment(1);
    tracing::debug!(%host, holder = %holder.address, reason = reason.as_str(), ?taken, "a holder is reported");
    if taken == Taken::News && passed_on.is_none() {
        reports.pass_on(News::Report { from, host, holder, key, reason });
    }
    Ok(answer(taken != Taken::Full))
}

fn answer(recorded: bool) -> Response {
    let message = if recorded { "report accepted" } else { "too many reports" }.to_owned();
    (StatusCode::CREATED, Json(ReportResponse { success: true, message, recorded })).into_response()
}

/// The reporter of a report that another server passes on. A report that does not come from a server's
/// address is like any other, whatever its headers say.
fn passed_on(servers: &ServerAddresses, headers: &HeaderMap, from: IpAddr) -> Option<IpAddr> {
    if !is_forwarded(headers) || !servers.has(from) {
        return None;
    }
    let reporter = headers.get(header::REPORTER)?.to_str().ok()?;
    reporter.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// The source that a report counts for. A node cannot invent the address that its connection comes from. A
/// site on loopback has only one address: there the agents are told apart by the addresses that they name.
fn source(from: IpAddr, host: SocketAddr, loopback_site: bool) -> Source {
    let from = from.to_canonical();
    if loopback_site && from.is_loopback() { Source::Agent(host) } else { Source::Host(from) }
}

fn accept(body: &[u8], holders: HolderPolicy, from_server: bool) -> Result<Accepted, FormatError> {
    let mut fields = Fields::parse(body, &["host", "holder", "group", "key", "reason"])?;
    let host = fields.required_text("host")?;
    let holder = fields.required_text("holder")?;
    let group = accepted::group_of(&mut fields)?.unwrap_or_else(default_group);
    let key = fields.required_text("key")?;
    let reason = fields.required_text("reason")?;
    let host = accepted::holder_address("host", &host, holders)?;
    let address = accepted::holder_address("holder", &holder, holders)?;
    let reason = match reason.as_str() {
        ALIVE if from_server => None,
        other => Some(parse_reason(other)?),
    };
    if host == address && reason.is_some() {
        return Err(FormatError::value("holder", "is the reporting host itself"));
    }
    let key = key.parse::<Key>().map_err(|error| FormatError::value("key", error.to_string()))?;
    Ok(Accepted { host, holder: Holder { group, address }, key, reason })
}

fn parse_reason(text: &str) -> Result<ReportReason, FormatError> {
    let found = ReportReason::ALL.into_iter().find(|reason| reason.as_str() == text);
    found.ok_or_else(|| {
        let known = ReportReason::ALL.map(ReportReason::as_str).join(", ");
        FormatError::value("reason", format!("must be one of {known}, not {text:?}"))
    })
}
