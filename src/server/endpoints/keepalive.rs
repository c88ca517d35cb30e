//! `POST /api/v1/keepalive`: the holder is alive. Stays out of the log unless something changed.

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use piccolo_raft::command::{Command, Reply};
use piccolo_raft::index::HostRecord;
use piccolo_raft::model::Holder;

use crate::api::{KeepaliveResponse, path};
use crate::server::app::App;
use crate::server::cluster::forward::{ForLeader, to_leader};
use crate::server::endpoints::report;
use crate::server::error::ApiError;
use crate::server::leases::{Beat, Known, Verdict, judge};
use crate::server::requests::accepted::{self, AcceptedBeat};
use crate::server::requests::intake;

/// Answers one keepalive.
pub async fn handle(app: &Arc<App>, incoming: Request) -> Result<Response, ApiError> {
    let forwarded = ForLeader::is_forwarded(incoming.headers());
    let (body, place) = intake::read_beat(app, incoming).await?;
    let accepted = accepted::keepalive(&body, app.holders)?;
    let held = Arc::new(place);
    let request = ForLeader { path: path::KEEPALIVE, body, forwarded, repeatable: true, held };
    let answer = to_leader(app, request, || decide(app, &accepted)).await?;
    if answer.status().is_success() {
        report::heard(app, &accepted.holder);
    }
    Ok(answer)
}

/// On the leader.
async fn decide(app: &App, accepted: &AcceptedBeat) -> Result<Response, ApiError> {
    let AcceptedBeat { holder, beat, usage } = accepted;
    let record = app.index.host(holder);
    let Verdict { mut resync, commands } = judge(holder, record.as_ref().map(known).as_ref(), beat);
    if let Some(usage) = usage.filter(|_| record.is_some()) {
        app.fleet().hear(holder, usage);
    }
    if record.as_ref().is_some_and(HostRecord::is_visible) {
        app.leases().renew(holder, beat.ttl_seconds.unwrap_or(0), app.now());
    }
    if !commands.is_empty() {
        resync = change(app, holder, beat).await?;
    }
    let message = "keep alive success".to_owned();
    let body = KeepaliveResponse { success: true, message, resync };
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// Proposes what a keepalive changes; whether the holder is to sync. A fleet that comes back after a cut
/// does this once a host, so only so many wait, and one holder that repeats itself waits for itself.
async fn change(app: &App, holder: &Holder, beat: &Beat) -> Result<bool, ApiError> {
    let place = app.place_for_beat_change(holder)?;
    let _turn = place.turn().await;
    // Another keepalive of the same holder may have done it meanwhile.
    let record = app.index.host(holder);
    let Verdict { mut resync, commands } = judge(holder, record.as_ref().map(known).as_ref(), beat);
    // A hidden host that stays hidden has no lease: any later change of its record would look as if
    // it had been heard of while it was being hidden.
    if commands.iter().any(|command| matches!(command, Command::Unhide { .. })) {
        app.leases().renew(holder, beat.ttl_seconds.unwrap_or(0), app.now());
    }
    for command in commands {
        // Forgotten since we looked.
        resync |= app.node.propose(command).await?.reply == Reply::UnknownHost;
    }
    Ok(resync)
}

fn known(record: &HostRecord) -> Known {
    Known {
        zone: record.zone.clone(),
        ttl_seconds: record.ttl_seconds,
        pair: record.pair,
        fingerprint: record.fingerprint,
        hidden: record.hidden_unix_ms.is_some(),
    }
}
