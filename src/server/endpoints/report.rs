//! `POST /api/v1/distribution/report`: a node could not have a key from a holder, or had wrong bytes.
//! Not in the Go Piccolo.
//!
//! Each server keeps the reports itself ([`crate::server::reports`]), because each answers lookups itself, also
//! without leader and quorum: holders die in numbers just when servers do. The one that a node sends
//! its report to passes it on to the others once ([`crate::server::reports::pass_on`]). Nothing of it is in the log.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use piccolo_raft::index::HostRecord;
use piccolo_raft::model::{Holder, Key};
use tokio::time::MissedTickBehavior;

use crate::api::{ReportReason, ReportResponse, default_group, header};
use crate::http::Connection;
use crate::server::app::App;
use crate::server::cluster::forward::ForLeader;
use crate::server::error::ApiError;
use crate::server::ranking::Standing;
use crate::server::reports::pass_on::{News, PassOn};
use crate::server::reports::{Changed, Reports, Source, Subject, Taken};
use crate::server::requests::accepted::{self, HolderPolicy};
use crate::server::requests::intake;
use crate::server::requests::json::{Fields, FormatError};
use crate::task::Stop;

/// What a server tells another of a holder that was heard of; a client cannot say it.
pub(in crate::server) const ALIVE: &str = "alive";
/// How often reports are brought up to time and log.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The reports of one server.
#[derive(Default)]
pub struct Reporting {
    state: Mutex<State>,
    /// Whether any report has an effect: lookups need no lock while all is well.
    effective: AtomicBool,
    pass_on: PassOn,
}

#[derive(Default)]
struct State {
    reports: Reports,
    /// The log index that they have followed the hosts to; of use while there are any.
    followed: u64,
}

/// An accepted report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Accepted {
    host: SocketAddr,
    holder: Holder,
    key: Key,
    /// `None`: the holder was heard of.
    reason: Option<ReportReason>,
}

/// Answers one report.
pub async fn handle(app: &Arc<App>, incoming: Request) -> Result<Response, ApiError> {
    let connection = incoming.extensions().get::<Connection>().map(|connection| connection.peer.ip());
    let from = connection.ok_or(ApiError::Internal { reason: "a request without a connection" })?;
    let passed_on = passed_on(app, incoming.headers(), from);
    let (body, _share) = intake::read(app, incoming).await?;
    let accepted = accept(&body, app.holders, passed_on.is_some())?;
    let Accepted { host, holder, key, reason } = accepted;
    if app.index.host(&holder).is_none() {
        if let Some(behind) = app.node.behind() {
            // Another one may know it.
            return Err(ApiError::NotServing { reason: behind.to_string() });
        }
        return Err(FormatError::value("holder", format!("is not known: {}", holder.address)).into());
    }
    let Some(reason) = reason else {
        app.reports.change(|state| state.reports.heard(&holder));
        return Ok(answer(true));
    };
    let source = source(passed_on.unwrap_or(from), host, app.holders.loopback);
    let wrong = (reason == ReportReason::Wrong).then(|| key.clone());
    let taken = app.reports.add(app, Subject { holder: holder.clone(), wrong }, source);
    metrics::counter!("piccolo_api_reports_total", "reason" => reason.as_str()).increment(1);
    tracing::debug!(%host, holder = %holder.address, reason = reason.as_str(), ?taken, "a holder is reported");
    if taken == Taken::News && passed_on.is_none() {
        app.reports.pass_on.spread(app, News::Report { from, host, holder, key, reason });
    }
    Ok(answer(taken != Taken::Full))
}

fn answer(recorded: bool) -> Response {
    let message = if recorded { "report accepted" } else { "too many reports" }.to_owned();
    (StatusCode::CREATED, Json(ReportResponse { success: true, message, recorded })).into_response()
}

/// Whose report a server passes on. What is not from a server's address is a report like any other,
/// whatever its headers say.
fn passed_on(app: &App, headers: &HeaderMap, from: IpAddr) -> Option<IpAddr> {
    if !ForLeader::is_forwarded(headers) || !app.servers.has(app, from) {
        return None;
    }
    let reporter = headers.get(header::REPORTER)?.to_str().ok()?;
    reporter.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Who is counted. The address of a connection is the one thing that a node cannot make up; a site
/// on loopback has but one, and there the agents are told apart by what they call themselves.
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

/// A holder has beaten: whatever was reported of it before is over, here and on the other servers.
pub fn heard(app: &Arc<App>, holder: &Holder) {
    if app.reports.change(|state| state.reports.heard(holder)) {
        app.reports.pass_on.spread(app, News::Alive { holder: holder.clone() });
    }
}

/// Until `stop`: forgets what has ended, and reports of holders that have written since.
pub async fn upkeep(app: Arc<App>, stop: Stop) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        app.reports.keep_up(&app);
    }
    app.reports.pass_on.finish().await;
    Ok(())
}

impl Reporting {
    /// What is to be made of the holders of a key; `None` while there is nothing to be made of any.
    pub fn with_standing<R>(
        &self,
        app: &App,
        (group, key): (&str, &Key),
        read: impl FnOnce(&mut dyn FnMut(SocketAddr) -> Standing) -> R,
    ) -> Option<R> {
        if !self.effective.load(Ordering::Acquire) {
            return None;
        }
        let state = self.lock();
        let mut standing = state.reports.standing(group, key, app.now());
        Some(read(&mut standing))
    }

    /// Holders ranked last and pairs left out.
    pub fn effective(&self) -> usize {
        self.lock().reports.effective()
    }

    fn add(&self, app: &App, subject: Subject, source: Source) -> Taken {
        let (index, now) = (app.index.applied_index(), app.now());
        self.change(|state| {
            if state.reports.is_empty() {
                state.followed = index;
            }
            state.reports.add(subject, source, index, now)
        })
    }

    fn keep_up(&self, app: &App) {
        let followed = {
            let state = self.lock();
            if state.reports.is_empty() {
                return;
            }
            state.followed
        };
        let changes = app.index.hosts_changed_since(followed);
        let changed: Vec<_> = changes.changed.iter().map(changed).collect();
        self.change(|state| {
            state.followed = changes.index;
            state.reports.follow(&changed, &changes.gone, changes.all);
            state.reports.expire(app.now());
        });
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let changed = change(&mut state);
        self.effective.store(state.reports.effective() > 0, Ordering::Release);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics with it in hand")
    }
}

fn changed(record: &HostRecord) -> Changed {
    Changed { holder: record.holder.clone(), written: record.last_write_index, visible: record.is_visible() }
}
