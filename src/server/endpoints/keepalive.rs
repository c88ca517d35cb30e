//! `POST /api/v1/keepalive`: a heartbeat, the holder is alive. The leader renews its lease in memory; only a
//! change is proposed to raft.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRef, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use piccolo_raft::cluster::Node;
use piccolo_raft::command::{Command, Reply};
use piccolo_raft::index::{HostRecord, Index};
use piccolo_raft::model::Holder;

use crate::api::{KeepaliveResponse, path};
use crate::limits::HEARTBEAT_BODY_BYTES_MAX;
use crate::server::app::{App, Loaded};
use crate::server::cluster::forward::{Forwarder, LeaderRequest, is_forwarded};
use crate::server::error::ApiError;
use crate::server::leases::fleet::FleetUsage;
use crate::server::leases::table::LeaseTable;
use crate::server::leases::{Heartbeat, HeartbeatOutcome, KnownHost, on_heartbeat};
use crate::server::permits::Permits;
use crate::server::permits::bodies::read_small;
use crate::server::reports::Reports;
use crate::server::requests::accepted::{self, AcceptedHeartbeat, HolderPolicy};

/// The parts that a heartbeat uses.
#[derive(Clone)]
pub struct Heartbeats {
    node: Node,
    index: Index,
    forwarder: Forwarder,
    leases: LeaseTable,
    fleet: FleetUsage,
    reports: Arc<Reports>,
    permits: Permits,
    holders: HolderPolicy,
}

impl FromRef<App> for Heartbeats {
    fn from_ref(app: &App) -> Self {
        Self {
            node: app.node.clone(),
            index: app.index.clone(),
            forwarder: app.cluster.forwarder.clone(),
            leases: app.leases.clone(),
            fleet: app.fleet.clone(),
            reports: Arc::clone(&app.reports),
            permits: app.permits.clone(),
            holders: app.holders,
        }
    }
}

/// Answers once the lease is renewed, and what has changed is on the disks of a majority.
pub async fn handle(Loaded(heartbeats): Loaded<Heartbeats>, incoming: Request) -> Result<Response, ApiError> {
    let forwarded = is_forwarded(incoming.headers());
    let (body, permit) =
        read_small(&heartbeats.permits.heartbeats, incoming, HEARTBEAT_BODY_BYTES_MAX).await?;
    let accepted = accepted::heartbeat(&body, heartbeats.holders)?;
    let held = Arc::new(permit);
    let request = LeaderRequest { path: path::KEEPALIVE, body, forwarded, repeatable: true, held };
    let answer = heartbeats.forwarder.to_leader(request, || heartbeats.decide(&accepted)).await?;
    if answer.status().is_success() {
        heartbeats.reports.heartbeat(&accepted.holder);
    }
    Ok(answer)
}

impl Heartbeats {
    /// Handles a heartbeat on the leader.
    async fn decide(&self, accepted: &AcceptedHeartbeat) -> Result<Response, ApiError> {
        let AcceptedHeartbeat { holder, heartbeat, usage } = accepted;
        let record = self.index.host(holder);
        let HeartbeatOutcome { mut resync, commands } =
            on_heartbeat(holder, record.as_ref().map(known).as_ref(), heartbeat);
        if let Some(usage) = usage.filter(|_| record.is_some()) {
            self.fleet.lock().report(holder, usage);
        }
        if record.as_ref().is_some_and(HostRecord::is_visible) {
            self.leases.renew(holder, heartbeat.ttl_seconds.unwrap_or(0));
        }
        if !commands.is_empty() {
            resync = self.change(holder, heartbeat).await?;
        }
        let message = "keep alive success".to_owned();
        let body = KeepaliveResponse { success: true, message, resync };
        Ok((StatusCode::CREATED, Json(body)).into_response())
    }

    /// Proposes what a heartbeat changes; returns whether the holder is to sync. A fleet that comes back
    /// after a cut does this once for each host, so only so many wait, and a holder that repeats itself waits
    /// for its own lock.
    async fn change(&self, holder: &Holder, heartbeat: &Heartbeat) -> Result<bool, ApiError> {
        let permit = self.permits.heartbeat_changes.take(holder)?;
        let _lock = permit.lock().await;
        // Another heartbeat of the same holder may have done it meanwhile.
        let record = self.index.host(holder);
        let HeartbeatOutcome { mut resync, commands } =
            on_heartbeat(holder, record.as_ref().map(known).as_ref(), heartbeat);
        // A hidden host that stays hidden has no lease: any later change of its record would look as if its
        // lease had been renewed while it was being hidden.
        if commands.iter().any(|command| matches!(command, Command::Unhide { .. })) {
            self.leases.renew(holder, heartbeat.ttl_seconds.unwrap_or(0));
        }
        for command in commands {
            // The host may have been forgotten since the index was asked.
            resync |= self.node.propose(command).await?.reply == Reply::UnknownHost;
        }
        Ok(resync)
    }
}

fn known(record: &HostRecord) -> KnownHost {
    KnownHost {
        zone: record.zone.clone(),
        ttl_seconds: record.ttl_seconds,
        pair: record.pair,
        fingerprint: record.fingerprint,
        hidden: record.hidden_unix_ms.is_some(),
    }
}
