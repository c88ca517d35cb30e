//! What advertise, withdraw and sync have in common: from the body to the leader, one write of a
//! holder at a time, and the answer.

pub mod capacity;
pub mod entries;
pub mod holder_locks;
pub mod rate_limit;

use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use piccolo_raft::command::{Command, Reply};
use piccolo_raft::index::HostRecord;

use crate::api::{WriteResponse, header, path};
use crate::server::app::{App, WritePlace};
use crate::server::cluster::forward::{ForLeader, to_leader};
use crate::server::error::ApiError;
use crate::server::requests::accepted::{self, AcceptedWrite};
use crate::server::requests::intake::{self, BodyShare};

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keys come.
    Advertise,
    /// Keys go.
    Withdraw,
    /// The whole set.
    Sync,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Kind::Advertise => path::ADVERTISE,
            Kind::Withdraw => path::WITHDRAW,
            Kind::Sync => path::SYNC,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Kind::Advertise | Kind::Sync => "Distribution created!",
            Kind::Withdraw => "Distribution withdrawn!",
        }
    }
}

/// Answers one write.
pub async fn handle(app: &Arc<App>, kind: Kind, incoming: Request) -> Result<Response, ApiError> {
    let forwarded = ForLeader::is_forwarded(incoming.headers());
    let (body, share) = intake::read_write(app, incoming).await?;
    let write = accepted::write(&body, app.holders)?;
    if kind != Kind::Sync && write.keys.is_empty() {
        return Err(ApiError::NothingToDo);
    }
    capacity::check_length(&write)?;
    let place = app.place_for_write(&write.holder)?;
    let repeatable = write.pair.is_some();
    let work = Arc::new(Work { write, place, _share: share });
    let request = ForLeader { path: kind.path(), body, forwarded, repeatable, held: work.clone() };
    to_leader(app, request, || decide(app, kind, Arc::clone(&work))).await
}

/// A write at hand with what it takes up: it keeps both to its end, also if its client leaves.
struct Work {
    write: AcceptedWrite,
    place: WritePlace,
    _share: BodyShare,
}

/// On the leader. Runs to its end even if the client leaves.
async fn decide(app: &Arc<App>, kind: Kind, work: Arc<Work>) -> Result<Response, ApiError> {
    if kind == Kind::Sync {
        app.pace_of_syncs(&work.write.holder)?;
    }
    let task = {
        let app = Arc::clone(app);
        async move {
            let Work { write, place, .. } = &*work;
            let _turn = place.turn().await;
            let record = app.index.host(&write.holder);
            let stored = record.as_ref().and_then(|record| record.pair);
            accepted::refuse_last_epoch(write.pair, stored)?;
            if let Some(record) = record.filter(|record| is_repeated(kind, write, record)) {
                app.leases().renew(&write.holder, record.ttl_seconds, app.now());
                // Applied in memory a moment before that counts as applied: who reads behind this answer
                // elsewhere must not read in front of the write.
                let index = record.last_write_index.max(app.index.applied_index());
                return Ok(answer(kind, write, index));
            }
            // A sync knows itself whether it has anything to write.
            if kind != Kind::Sync {
                refuse_without_room(&app)?;
            }
            capacity::check(&app, kind, write)?;
            let index = match kind {
                Kind::Advertise => crate::server::endpoints::advertise::apply(&app, write).await,
                Kind::Withdraw => crate::server::endpoints::withdraw::apply(&app, write).await,
                Kind::Sync => crate::server::endpoints::sync::apply(&app, write).await,
            }?;
            Ok(answer(kind, write, index))
        }
    };
    app.writes.spawn(task).await.unwrap_or(Err(ApiError::Internal { reason: "a write panicked" }))
}

/// Whether the write has been applied to its end: only its last entry stores its pair. A sync compares
/// itself, and a hidden host is shown again by an entry.
fn is_repeated(kind: Kind, write: &AcceptedWrite, record: &HostRecord) -> bool {
    kind != Kind::Sync && write.pair.is_some() && write.pair == record.pair && record.is_visible()
}

/// Refuses what would have to be stored while too few disks have room. [`propose`] does the same, after
/// more work. What is stored already is no such thing: its answer may have been lost.
pub fn refuse_without_room(app: &App) -> Result<(), ApiError> {
    app.node.no_room().map_or(Ok(()), |reason| Err(ApiError::NoRoom { reason }))
}

fn answer(kind: Kind, write: &AcceptedWrite, index: u64) -> Response {
    let body = WriteResponse {
        success: true,
        message: kind.message().to_owned(),
        stale: false,
        epoch: write.pair.map(|pair| pair.epoch),
        seq: write.pair.map(|pair| pair.seq),
        skipped: write.skipped,
    };
    (StatusCode::CREATED, applied_index(index), Json(body)).into_response()
}

/// The header that tells which log index an answer shows.
pub fn applied_index(index: u64) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(header::APPLIED_INDEX), HeaderValue::from(index))])
}

/// Proposes the entries of one request in order; the log index of the last. Once one is applied, a
/// failure of the next is no longer "nothing was done".
pub async fn propose(app: &App, commands: Vec<Command>) -> Result<u64, ApiError> {
    let mut index = None;
    for command in commands {
        let proposed = app.node.propose(command).await;
        let proposed = proposed.map_err(|error| after_a_part(index.is_some(), error.into()))?;
        index = Some(proposed.index);
        match proposed.reply {
            Reply::Applied { .. } => {}
            // A withdraw of a host that is not there: what is to be gone is gone.
            Reply::UnknownHost => {}
            Reply::Stale { stored } => return Err(ApiError::Stale { stored }),
            Reply::BeyondLevel { needs, active } => {
                let reason = format!("the write needs {needs}, the cluster runs at {active}");
                return Err(after_a_part(index.is_some(), ApiError::NotServing { reason }));
            }
            Reply::None | Reply::NotApplicable => {
                return Err(ApiError::Internal { reason: "a write had the reply of another command" });
            }
        }
    }
    index.ok_or(ApiError::Internal { reason: "a write without entries" })
}

/// What to say of an error when a part of the write may have been applied before it.
pub fn after_a_part(applied: bool, error: ApiError) -> ApiError {
    if applied && !matches!(error, ApiError::Stale { .. }) { ApiError::OutcomeUnknown } else { error }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Method;

    use super::*;
    use crate::clock::Clock;
    use crate::server::endpoints::tests::{app_with_clock, leading};

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
        for (kind, seq) in [(Kind::Sync, 1), (Kind::Advertise, 2), (Kind::Withdraw, 3)] {
            let body = format!(
                r#"{{"holder":"10.0.0.1:1","group":"g","keys":["a:1"],"epoch":1800000000000,"seq":{seq}}}"#
            );
            let request = Request::builder().method(Method::POST).body(Body::from(body)).unwrap();
            let answer = handle(&app, kind, request).await;
            assert_eq!(answer.unwrap().status(), StatusCode::CREATED, "{kind:?}");
        }
        app.node.shutdown().await;
    }
}
