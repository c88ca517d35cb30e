//! The routes that other servers call.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::Instant;

use crate::blocking::blocking;
use crate::cluster::Raft;
use crate::cluster::space::{DiskLow, Guard};
use crate::format::{self, FormatError};
use crate::index::Index;
use crate::log::LogStore;
use crate::types::{ClusterId, NodeId, TypeConfig};

use super::identity::{Identity, IdentityError, Misdirected, removed_text};
use super::plausible::{Implausible, Plausible, check_history};
use super::{
    APPEND_BODY_BYTES_MAX, BODY_READ_TIMEOUT, Header, RAFT_PREFIX, SMALL_BODY_BYTES_MAX, Whoami, snapshot,
};

/// When the leader was last heard.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Option<Instant>>);

impl Heard {
    pub(crate) fn now(&self) {
        *self.0.lock().expect("nothing panics while it holds the time") = Some(Instant::now());
    }

    /// True if the leader was heard no longer ago than `age`.
    pub(crate) fn within(&self, age: Duration) -> bool {
        let heard = *self.0.lock().expect("nothing panics while it holds the time");
        heard.is_some_and(|heard| heard.elapsed() <= age)
    }
}

/// What the routes need.
#[derive(Clone)]
pub(crate) struct RpcState {
    pub(crate) identity: Arc<Identity>,
    pub(crate) raft: Raft,
    pub(crate) heard: Arc<Heard>,
    /// One snapshot is taken in at a time: it is built in memory.
    pub(crate) receiving: Arc<Semaphore>,
    /// [`super::MESSAGES_MAX`] other messages. Closed: the node is stopping.
    pub(crate) messages: Arc<Semaphore>,
    pub(crate) index: Index,
    /// What the disk has room for.
    pub(crate) guard: Arc<Guard>,
    pub(crate) log: LogStore,
}

/// Why a message was not handed to openraft.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RpcError {
    #[error(transparent)]
    Misdirected(#[from] Misdirected),
    #[error("{}", removed_text(*sender, *cluster_id))]
    Removed { sender: NodeId, cluster_id: ClusterId },
    #[error(transparent)]
    Implausible(#[from] Implausible),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("could not read the body: {reason}")]
    Body { reason: String },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    DiskLow(#[from] DiskLow),
    #[error("too many messages, or another snapshot, are being received")]
    Busy,
    #[error("raft has stopped: {reason}")]
    Stopped { reason: String },
    #[error("this node is stopping")]
    Stopping,
}

impl IntoResponse for RpcError {
    fn into_response(self) -> Response {
        let status = match self {
            RpcError::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            RpcError::Removed { .. } => StatusCode::GONE,
            RpcError::Implausible(_) | RpcError::Format(_) | RpcError::Body { .. } => StatusCode::BAD_REQUEST,
            RpcError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            RpcError::DiskLow(_) => StatusCode::INSUFFICIENT_STORAGE,
            RpcError::Identity(_) => StatusCode::INTERNAL_SERVER_ERROR,
            RpcError::Busy | RpcError::Stopped { .. } | RpcError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, self.to_string()).into_response()
    }
}

pub(super) fn stopped(error: impl std::fmt::Display) -> RpcError {
    RpcError::Stopped { reason: error.to_string() }
}

/// The routes below [`RAFT_PREFIX`].
pub(crate) fn router(state: RpcState) -> Router {
    Router::new()
        .route(&route("append"), post(append))
        .route(&route("vote"), post(vote))
        .route(&route("pre-vote"), post(pre_vote))
        .route(&route("transfer"), post(transfer))
        .route(&route("snapshot"), post(receive_snapshot))
        .route(&route("standing"), post(standing))
        .route(&route("whoami"), post(whoami))
        .with_state(state)
}

fn route(name: &str) -> String {
    format!("{RAFT_PREFIX}/{name}")
}

impl RpcState {
    /// openraft must not hear of a message after its end: it takes that for an error.
    pub(super) fn check_running(&self) -> Result<(), RpcError> {
        if self.messages.is_closed() { Err(RpcError::Stopping) } else { Ok(()) }
    }

    /// Lets a message pass that is for this node; a pristine node joins the sender's cluster first.
    pub(super) async fn admit(&self, header: &Header) -> Result<(), RpcError> {
        self.check_running()?;
        let pristine = self.identity.check(header)?;
        self.check_sender(header)?;
        if pristine {
            let (identity, cluster_id) = (self.identity.clone(), header.cluster_id);
            blocking(move || identity.adopt_from_message(cluster_id)).await.map_err(stopped)??;
            self.identity.check(header)?;
        }
        Ok(())
    }

    /// Who was removed, as far as this node has applied, is told so. What happens between the tombstone
    /// and the removal is a member's.
    fn check_sender(&self, header: &Header) -> Result<(), RpcError> {
        let Header { sender, cluster_id, .. } = *header;
        if self.index.is_tombstone(sender)
            && self.index.applied_state().1.membership().get_node(&sender).is_none()
        {
            return Err(RpcError::Removed { sender, cluster_id });
        }
        Ok(())
    }

    async fn handle<M, A>(
        &self,
        body: Body,
        limit: usize,
        message: impl AsyncFnOnce(M) -> Result<A, RpcError>,
    ) -> Result<Response, RpcError>
    where
        M: DeserializeOwned + Plausible,
        A: Serialize,
    {
        let (_one, request) = self.read(body, limit).await?;
        let (header, request): (Header, M) = request;
        request.check(header.sender)?;
        self.admit(&header).await?;
        let answer = message(request).await?;
        Ok(format::encode(&answer).into_response())
    }

    async fn read<M: DeserializeOwned>(
        &self,
        body: Body,
        limit: usize,
    ) -> Result<(SemaphorePermit<'_>, (Header, M)), RpcError> {
        let one = self.messages.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => RpcError::Busy,
            TryAcquireError::Closed => RpcError::Stopping,
        })?;
        let bytes = read_body(body, limit).await?;
        self.check_running()?;
        Ok((one, format::decode("raft message", &bytes)?))
    }
}

async fn read_body(body: Body, limit: usize) -> Result<Bytes, RpcError> {
    let read = Limited::new(body, limit).collect();
    match within(BODY_READ_TIMEOUT, read).await? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(RpcError::TooLarge { limit }),
        Err(error) => Err(RpcError::Body { reason: error.to_string() }),
    }
}

pub(super) async fn within<T>(deadline: Duration, work: impl Future<Output = T>) -> Result<T, RpcError> {
    let late = |_| RpcError::Body { reason: format!("nothing for {} s", deadline.as_secs()) };
    tokio::time::timeout(deadline, work).await.map_err(late)
}

/// On a low disk only one without entries passes: the leader keeps its lease, and goes on to be heard.
async fn append(State(state): State<RpcState>, body: Body) -> Result<Response, RpcError> {
    let handle = async |request: AppendEntriesRequest<TypeConfig>| {
        state.guard.admit_entries(&request.entries)?;
        check_history(&request, &state.index, &state.log).await?;
        let answer = state.raft.append_entries(request).await.map_err(stopped);
        if answer.as_ref().is_ok_and(|answer| !matches!(answer, AppendEntriesResponse::HigherVote(_))) {
            state.heard.now();
        }
        answer
    };
    state.handle(body, APPEND_BODY_BYTES_MAX, handle).await
}

async fn vote(State(state): State<RpcState>, body: Body) -> Result<Response, RpcError> {
    let handle = async |request: VoteRequest<TypeConfig>| state.raft.vote(request).await.map_err(stopped);
    state.handle(body, SMALL_BODY_BYTES_MAX, handle).await
}

/// Nothing is stored by a pre-vote, here or there: a pristine node answers, and joins with the vote.
/// (A founder that loses its power between the two has told nobody of its cluster.)
async fn pre_vote(State(state): State<RpcState>, body: Body) -> Result<Response, RpcError> {
    let (_one, (header, request)) = state.read::<VoteRequest<TypeConfig>>(body, SMALL_BODY_BYTES_MAX).await?;
    request.check(header.sender)?;
    state.identity.check(&header)?;
    state.check_sender(&header)?;
    let answer = state.raft.pre_vote(request).await.map_err(stopped)?;
    Ok(format::encode(&answer).into_response())
}

async fn transfer(State(state): State<RpcState>, body: Body) -> Result<Response, RpcError> {
    let handle = async |request: TransferLeaderRequest<TypeConfig>| {
        state.raft.handle_transfer_leader(request).await.map_err(stopped)
    };
    state.handle(body, SMALL_BODY_BYTES_MAX, handle).await
}

async fn receive_snapshot(State(state): State<RpcState>, body: Body) -> Result<Response, RpcError> {
    let answer = snapshot::receive(&state, body).await?;
    Ok(format::encode(&answer).into_response())
}

async fn standing(State(state): State<RpcState>, body: Body) -> Result<Response, RpcError> {
    let welcome = async |()| Ok(());
    state.handle(body, SMALL_BODY_BYTES_MAX, welcome).await
}

/// The address that the membership knows, if there is one, wins over what bootstrap found.
async fn whoami(State(state): State<RpcState>) -> Result<Json<Whoami>, RpcError> {
    state.check_running()?;
    let mut whoami = state.identity.whoami();
    let metrics = state.raft.metrics();
    let metrics = metrics.borrow_watched();
    let last = state.log.last();
    whoami.last_log_index = last.map(|id| id.index);
    whoami.last_log_term = last.map(|id| id.leader_id.term);
    whoami.disk = state.guard.disk();
    if let Some(member) = metrics.membership_config.membership().get_node(&whoami.node_id) {
        whoami.raft_address = Some(member.raft_address.clone());
    }
    Ok(Json(whoami))
}
