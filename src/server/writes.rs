//! Writes of holders: advertise, withdraw and sync. All three go the same way ([`Writes::handle`]):
//!
//! 1. The body is read and checked ([`crate::server::requests`]), and gets its permit
//!    ([`crate::server::permits`]).
//! 2. It is brought to the leader ([`crate::server::cluster::forward`]).
//! 3. There it takes the lock of its holder, so that one write of a holder is handled at a time. A repeated
//!    write is answered like the first one; a write over a limit of the index is refused ([`capacity`]).
//! 4. It is cut into log [`mod@entries`], of a sync those of the difference to what the index has ([`mod@sync`]).
//!    They are proposed to raft, which stores them on the disks of a majority ([`mod@propose`]).

pub mod capacity;
pub mod entries;
pub mod kind;
pub mod propose;
pub mod sync;

use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use piccolo_raft::cluster::Node;
use piccolo_raft::index::{HostRecord, Index};
use piccolo_raft::model::Holder;
use tokio_util::task::TaskTracker;

use super::cluster::forward::{Forwarder, LeaderRequest, is_forwarded};
use super::error::ApiError;
use super::headers;
use super::leases::table::LeaseTable;
use super::permits::Permits;
use super::permits::bodies::BodyPermit;
use super::permits::holder_locks::HolderPermit;
use super::permits::rate_limit::RateLimit;
use super::requests::accepted::{self, AcceptedWrite, HolderPolicy};
use crate::api::WriteResponse;
use crate::clock::SharedClock;
use crate::limits::{SYNC_BURST, SYNC_EVERY};
use entries::{Direction, entries};
use kind::WriteKind;
use propose::{propose, refuse_without_room};
use sync::sync;

/// Handles advertise, withdraw and sync.
pub struct Writes {
    /// Proposes log entries.
    pub node: Node,
    /// Says what has been applied.
    pub index: Index,
    /// Brings writes to the leader.
    pub forwarder: Forwarder,
    /// A write renews the lease of its holder.
    pub leases: LeaseTable,
    /// Permits for writes and their bodies.
    pub permits: Permits,
    /// How often a holder may sync.
    pub sync_rate: SyncRate,
    /// Which addresses a holder may have.
    pub holders: HolderPolicy,
    /// Writes run here to their end, whether or not their clients wait: the next write of the holder must
    /// find their effect.
    pub running: TaskTracker,
}

/// How often one holder may sync.
pub struct SyncRate {
    limit: Mutex<RateLimit>,
    clock: SharedClock,
}

impl SyncRate {
    /// By the time of `clock`.
    pub fn new(clock: SharedClock) -> Self {
        Self { limit: Mutex::new(RateLimit::new(SYNC_BURST, SYNC_EVERY)), clock }
    }

    fn take(&self, holder: &Holder) -> Result<(), ApiError> {
        let mut limit = self.limit.lock().expect("no code panics while it holds this lock");
        let taken = limit.take(holder, self.clock.monotonic());
        taken.map_err(|again_after| ApiError::TooManySyncs { again_after })
    }
}

/// A write at hand, with what it takes up: both are held until it is done, also if its client leaves.
struct Work {
    write: AcceptedWrite,
    permit: HolderPermit,
    _body: BodyPermit,
}

impl Writes {
    /// Answers one write.
    ///
    /// # Errors
    /// Why nothing was done, or that it is not known whether anything was.
    pub async fn handle(self: &Arc<Self>, kind: WriteKind, incoming: Request) -> Result<Response, ApiError> {
        let forwarded = is_forwarded(incoming.headers());
        let (body, body_permit) = self.permits.bodies.read_write(&self.permits.writes, incoming).await?;
        let write = accepted::write(&body, self.holders)?;
        if kind != WriteKind::Sync && write.keys.is_empty() {
            return Err(ApiError::NothingToDo);
        }
        capacity::check_length(&write)?;
        let permit = self.permits.writes.take(&write.holder)?;
        let repeatable = write.pair.is_some();
        let work = Arc::new(Work { write, permit, _body: body_permit });
        let request = LeaderRequest { path: kind.path(), body, forwarded, repeatable, held: work.clone() };
        self.forwarder.to_leader(request, || self.decide(kind, Arc::clone(&work))).await
    }

    /// Decides on the leader. Runs to its end even if the client leaves.
    async fn decide(self: &Arc<Self>, kind: WriteKind, work: Arc<Work>) -> Result<Response, ApiError> {
        if kind == WriteKind::Sync {
            self.sync_rate.take(&work.write.holder)?;
        }
        let writes = Arc::clone(self);
        let task = async move { writes.run(kind, &work).await };
        self.running.spawn(task).await.unwrap_or(Err(ApiError::Internal { reason: "a write panicked" }))
    }

    /// Waits for the lock of the holder, and writes.
    async fn run(&self, kind: WriteKind, Work { write, permit, .. }: &Work) -> Result<Response, ApiError> {
        let _lock = permit.lock().await;
        let record = self.index.host(&write.holder);
        let stored = record.as_ref().and_then(|record| record.pair);
        accepted::refuse_last_epoch(write.pair, stored)?;
        if let Some(record) = record.filter(|record| is_repeated(kind, write, record)) {
            self.leases.renew(&write.holder, record.ttl_seconds);
            // A client that reads elsewhere from this index on must not read what was before the write, which
            // may have been applied here a moment ago.
            let index = record.last_write_index.max(self.index.applied_index());
            return Ok(answer(kind, write, index));
        }
        // A sync knows itself whether it has anything to write.
        if kind != WriteKind::Sync {
            refuse_without_room(&self.node)?;
        }
        capacity::check(&self.index, kind, write)?;
        let index = match kind {
            WriteKind::Advertise => self.change(Direction::Advertise, write).await,
            WriteKind::Withdraw => self.change(Direction::Withdraw, write).await,
            WriteKind::Sync => sync(&self.node, &self.index, &self.leases, write).await,
        }?;
        Ok(answer(kind, write, index))
    }

    /// Proposes an advertise or a withdraw; returns its log index.
    async fn change(&self, direction: Direction, write: &AcceptedWrite) -> Result<u64, ApiError> {
        let entries = entries(direction, &write.holder, write.pair, write.keys.clone());
        propose(&self.node, entries).await
    }
}

/// Whether the write has been applied completely: only its last entry stores its pair. A sync compares
/// itself, and a hidden host is shown again by an entry.
fn is_repeated(kind: WriteKind, write: &AcceptedWrite, record: &HostRecord) -> bool {
    kind != WriteKind::Sync && write.pair.is_some() && write.pair == record.pair && record.is_visible()
}

fn answer(kind: WriteKind, write: &AcceptedWrite, index: u64) -> Response {
    let body = WriteResponse {
        success: true,
        message: kind.message().to_owned(),
        stale: false,
        epoch: write.pair.map(|pair| pair.epoch),
        seq: write.pair.map(|pair| pair.seq),
        skipped: write.skipped,
    };
    let headers = HeaderMap::from_iter([headers::applied_index(index)]);
    (StatusCode::CREATED, headers, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Method;

    use super::*;
    use crate::clock::Clock;
    use crate::server::testing::{app_with_clock, leading};

    /// A board without a battery for its clock, before it has found a time server.
    struct Since1970;

    impl Clock for Since1970 {
        fn monotonic(&self) -> std::time::Duration {
            std::time::Duration::from_secs(60)
        }

        fn unix_ms(&self) -> u64 {
            60_000
        }
    }

    /// The epoch of an agent is a time by the agent's clock, and was compared with the leader's: a leader in
    /// 1970 refused every new holder of the site.
    #[tokio::test]
    async fn a_leader_with_a_clock_far_behind_takes_new_holders() {
        let app = leading(app_with_clock(Arc::new(Since1970)).await).await;
        for (kind, seq) in [(WriteKind::Sync, 1), (WriteKind::Advertise, 2), (WriteKind::Withdraw, 3)] {
            let body = format!(
                r#"{{"holder":"10.0.0.1:1","group":"g","keys":["a:1"],"epoch":1800000000000,"seq":{seq}}}"#
            );
            let request = Request::builder().method(Method::POST).body(Body::from(body)).unwrap();
            let answer = app.writes.handle(kind, request).await;
            assert_eq!(answer.unwrap().status(), StatusCode::CREATED, "{kind:?}");
        }
        app.node.shutdown().await;
    }
}
