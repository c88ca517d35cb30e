//! The routes that other servers call.

mod caller;
mod permits;
mod snapshot;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use tokio::sync::SemaphorePermit;

use crate::address::is_address;
use crate::format::{FormatError, WIRE};
use crate::index::Index;
use crate::limits::{APPEND_BODY_BYTES_MAX, BODY_READ_TIMEOUT, REACH_SERVERS_MAX, SMALL_BODY_BYTES_MAX};
use crate::log::LogStore;
use crate::space::{DiskLow, Guard};
use crate::state_machine::Raft;
use crate::threads::Threads;
use crate::types::{ClusterId, NodeId, TypeConfig};

use super::frame::{self, Message, Received};
use super::heard::Heard;
use super::identity::{Identity, IdentityError, Misdirected, removed_text};
use super::plausible::{Implausible, Plausible, check_history};
use super::reach::{Claimed, Scout, Unreached};
use super::whereabouts::Whereabouts;
use super::{Header, RAFT_PREFIX, Whoami};

pub use caller::Caller;
pub(crate) use permits::Permits;

use caller::{Sent, check_caller};

/// The parts of a node that the routes need.
#[derive(Clone)]
pub(crate) struct RpcState {
    pub(crate) identity: Arc<Identity>,
    pub(crate) raft: Raft,
    pub(crate) heard: Arc<Heard>,
    pub(crate) permits: Permits,
    pub(crate) index: Index,
    /// What the disk has room for.
    pub(crate) guard: Arc<Guard>,
    pub(crate) log: LogStore,
    pub(crate) threads: Arc<dyn Threads>,
    pub(crate) scout: Scout,
    pub(crate) whereabouts: Whereabouts,
    /// Ends the node: a disk that does not take its identity takes nothing else.
    pub(crate) end: Arc<dyn Fn(Arc<IdentityError>) + Send + Sync>,
}

/// Why a message was not handed to openraft.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RpcError {
    #[error(transparent)]
    Misdirected(#[from] Misdirected),
    #[error("the certificate of this connection is of server {is:016x}, not of {sender:016x}")]
    Impostor { is: NodeId, sender: NodeId },
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
    Identity(Arc<IdentityError>),
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
            RpcError::Impostor { .. } => StatusCode::FORBIDDEN,
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

fn stopped(error: impl std::fmt::Display) -> RpcError {
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
        .route(&route("reach"), post(reach))
        .route(&route("whoami"), post(whoami))
        .fallback(other_path)
        .with_state(state)
}

/// A path that is none of raft's: somebody takes this port for another one. The answer is no 404,
/// because a 404 of the discovery API means that nobody holds a key.
async fn other_path(State(state): State<RpcState>, uri: Uri) -> Response {
    if uri.path().starts_with(RAFT_PREFIX) {
        return (StatusCode::NOT_FOUND, "this server does not know this raft message").into_response();
    }
    let message = wrong_port(&state.identity.api_address());
    (StatusCode::MISDIRECTED_REQUEST, Json(serde_json::json!({ "message": message }))).into_response()
}

/// What whoever asks this port for something else than raft is told.
fn wrong_port(api_address: &str) -> String {
    format!(
        "this is the raft port of a piccolo server, where only the other servers ask; its discovery API is at \
         http://{api_address}"
    )
}

fn route(name: &str) -> String {
    format!("{RAFT_PREFIX}/{name}")
}

impl RpcState {
    /// Lets a message pass that is for this node; a pristine node joins the sender's cluster first.
    async fn admit(&self, header: &Header) -> Result<(), RpcError> {
        self.permits.check_running()?;
        let pristine = self.identity.check(header)?;
        self.check_sender(header)?;
        if pristine {
            let (identity, cluster_id) = (self.identity.clone(), header.cluster_id);
            let adopting = self.threads.blocking(move || identity.adopt_from_message(cluster_id));
            let adopted = adopting.await.map_err(stopped)?;
            if let Err(error) = adopted.map_err(Arc::new) {
                (self.end)(error.clone());
                return Err(RpcError::Identity(error));
            }
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

    /// Where a member says that it is. It is only asked there who it is, should it be silent elsewhere.
    fn note_claim(&self, sender: NodeId, claim: Option<String>) {
        let metrics = self.raft.metrics();
        let is_member = metrics.borrow_watched().membership_config.membership().get_node(&sender).is_some();
        if let Some(address) = claim.filter(|address| is_member && is_address(address)) {
            self.whereabouts.claims(sender, address);
        }
    }

    async fn handle<M, A>(
        &self,
        sent: Sent,
        limit: usize,
        message: impl AsyncFnOnce(M) -> Result<A, RpcError>,
    ) -> Result<Response, RpcError>
    where
        M: Message + Plausible,
        A: Serialize,
    {
        let (_one, received) = self.read(sent, limit).await?;
        let Received { version, header, message: request }: Received<M> = received;
        request.check(header.sender)?;
        self.admit(&header).await?;
        let answer = message(request).await?;
        Ok(WIRE.encode_version(version, &answer).into_response())
    }

    async fn read<M: Message>(
        &self,
        Sent { caller, body }: Sent,
        limit: usize,
    ) -> Result<(SemaphorePermit<'_>, Received<M>), RpcError> {
        let one = self.permits.message()?;
        let bytes = read_body(body, limit).await?;
        self.permits.check_running()?;
        let received: Received<M> = frame::read(&bytes)?;
        check_caller(caller, &received.header)?;
        Ok((one, received))
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

async fn within<T>(deadline: Duration, work: impl Future<Output = T>) -> Result<T, RpcError> {
    let late = |_| RpcError::Body { reason: format!("nothing for {} s", deadline.as_secs()) };
    tokio::time::timeout(deadline, work).await.map_err(late)
}

/// On a low disk only one without entries passes: the leader keeps its lease, and goes on to be heard.
async fn append(State(state): State<RpcState>, sent: Sent) -> Result<Response, RpcError> {
    let handle = async |request: AppendEntriesRequest<TypeConfig>| {
        let term = request.vote.leader_id.term;
        let own = request.leader_commit.as_ref().filter(|id| id.leader_id == request.vote.leader_id);
        let committed = own.map(|id| id.index);
        state.guard.admit_entries(&request.entries)?;
        check_history(&request, &state.index, &state.log).await?;
        let answer = state.raft.append_entries(request).await.map_err(stopped);
        if answer.as_ref().is_ok_and(|answer| !matches!(answer, AppendEntriesResponse::HigherVote(_))) {
            state.heard.leader(term, committed, state.index.applied_index());
        }
        answer
    };
    state.handle(sent, APPEND_BODY_BYTES_MAX, handle).await
}

async fn vote(State(state): State<RpcState>, sent: Sent) -> Result<Response, RpcError> {
    let handle = async |request: VoteRequest<TypeConfig>| state.raft.vote(request).await.map_err(stopped);
    state.handle(sent, SMALL_BODY_BYTES_MAX, handle).await
}

/// Nothing is stored by a pre-vote, here or there: a pristine node answers, and joins with the vote.
/// (A founder that loses its power between the two has told nobody of its cluster.)
async fn pre_vote(State(state): State<RpcState>, sent: Sent) -> Result<Response, RpcError> {
    let (_one, received) = state.read::<VoteRequest<TypeConfig>>(sent, SMALL_BODY_BYTES_MAX).await?;
    let Received { version, header, message: request } = received;
    request.check(header.sender)?;
    state.identity.check(&header)?;
    state.check_sender(&header)?;
    let answer = state.raft.pre_vote(request).await.map_err(stopped)?;
    Ok(WIRE.encode_version(version, &answer).into_response())
}

async fn transfer(State(state): State<RpcState>, sent: Sent) -> Result<Response, RpcError> {
    let handle = async |request: TransferLeaderRequest<TypeConfig>| {
        state.raft.handle_transfer_leader(request).await.map_err(stopped)
    };
    state.handle(sent, SMALL_BODY_BYTES_MAX, handle).await
}

async fn receive_snapshot(State(state): State<RpcState>, sent: Sent) -> Result<Response, RpcError> {
    let (version, answer) = snapshot::receive(&state, sent).await?;
    Ok(WIRE.encode_version(version, &answer).into_response())
}

async fn standing(State(state): State<RpcState>, sent: Sent) -> Result<Response, RpcError> {
    let (_one, received) = state.read::<Option<String>>(sent, SMALL_BODY_BYTES_MAX).await?;
    let Received { version, header, message: claim } = received;
    state.admit(&header).await?;
    state.note_claim(header.sender, claim);
    Ok(WIRE.encode_version(version, &()).into_response())
}

async fn reach(State(state): State<RpcState>, body: Body) -> Result<Json<Vec<Unreached>>, RpcError> {
    let bytes = {
        let _one = state.permits.message()?;
        read_body(body, SMALL_BODY_BYTES_MAX).await?
    };
    let unreadable = |error: serde_json::Error| RpcError::Body { reason: error.to_string() };
    let servers: Vec<Claimed> = serde_json::from_slice(&bytes).map_err(unreadable)?;
    if servers.len() > REACH_SERVERS_MAX {
        return Err(RpcError::Body { reason: format!("more than {REACH_SERVERS_MAX} servers") });
    }
    let _look = state.permits.look()?;
    Ok(Json(state.scout.look(&servers).await))
}

/// The address that the membership knows, if there is one, wins over what bootstrap found.
async fn whoami(State(state): State<RpcState>) -> Result<Json<Whoami>, RpcError> {
    state.permits.check_running()?;
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
