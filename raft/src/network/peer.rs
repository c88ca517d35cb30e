//! What openraft calls to reach another node.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use hyper::StatusCode;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::metrics::RaftMetrics;
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::WatchReceiverOf;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::format::WIRE;
use crate::limits::{APPEND_IDLE_TIMEOUT, REFUSING_BACKOFF, REFUSING_FOR, SNAPSHOT_HOLD, VOTE_TIMEOUT};
use crate::snapshot::SnapshotData;
use crate::types::{LogId, Member, NodeId, TypeConfig, Vote};

use super::client::{CallError, RpcClient};
use super::frame::Message;
use super::identity::Identity;
use super::snapshot;
use super::whereabouts::Whereabouts;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Who is being sent what: the log must keep what comes after a snapshot on its way, and who is too far back
/// must not keep it from being purged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    /// Snapshots on their way, by log index.
    snapshots: Arc<Mutex<BTreeMap<u64, Held>>>,
    /// Entries that follow an earlier one are no longer sent.
    cut_below: Arc<AtomicU64>,
}

/// Who needs the log from one index on.
#[derive(Debug, Default)]
struct Held {
    streams: usize,
    /// A stream that has ended: its receiver goes on by the log from there.
    until: Option<Instant>,
}

impl Streams {
    /// The lowest log index of a snapshot that is being sent, or was a moment ago.
    pub(crate) fn lowest(&self) -> Option<u64> {
        let mut held = self.held();
        let now = Instant::now();
        held.retain(|_, held| held.streams > 0 || held.until.is_some_and(|until| until > now));
        held.keys().next().copied()
    }

    /// Counts until it is dropped, and [`SNAPSHOT_HOLD`] longer.
    pub(crate) fn begin(&self, index: u64) -> Streaming {
        self.held().entry(index).or_default().streams += 1;
        Streaming { streams: self.clone(), index }
    }

    /// The log up to `index` is to go. openraft waits with that as long as entries before it are being sent,
    /// so they are not any more; it then sends a snapshot.
    pub(crate) fn cut_below(&self, index: u64) {
        self.cut_below.fetch_max(index, Ordering::Relaxed);
    }

    fn is_cut(&self, entries_after: Option<LogId>) -> bool {
        entries_after.map_or(0, |id| id.index) < self.cut_below.load(Ordering::Relaxed)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Held>> {
        self.snapshots.lock().expect("nothing panics while it holds the streams")
    }
}

/// One snapshot on its way.
pub(crate) struct Streaming {
    streams: Streams,
    index: u64,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if let Some(held) = self.streams.held().get_mut(&self.index) {
            held.streams -= 1;
            held.until = Some(Instant::now() + SNAPSHOT_HOLD);
        }
    }
}

/// Who has answered that its disk is low: entries and snapshots are not sent to it for a while. openraft has
/// read them from the log by then, up to megabytes, so it is also made to try less often.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusing(Arc<Mutex<BTreeMap<NodeId, Instant>>>);

impl Refusing {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.0.lock().expect("nothing panics while it holds the nodes")
    }

    fn note(&self, node_id: NodeId) {
        self.nodes().insert(node_id, Instant::now());
    }

    /// Notes that a member has room again; true if it was noted as low.
    pub(crate) fn forget(&self, node_id: NodeId) -> bool {
        self.nodes().remove(&node_id).is_some()
    }

    fn has(&self, node_id: NodeId) -> bool {
        self.nodes().get(&node_id).is_some_and(|noted| noted.elapsed() < REFUSING_FOR)
    }
}

type Metrics = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// Makes a [`Peer`] for each member.
#[derive(Clone)]
pub(crate) struct Peers {
    identity: Arc<Identity>,
    client: RpcClient,
    streams: Streams,
    refusing: Refusing,
    whereabouts: Whereabouts,
    /// Says where members are now: openraft keeps a [`Peer`] as it was made when one moves.
    metrics: Arc<OnceLock<Metrics>>,
}

impl Peers {
    pub(crate) fn new(
        identity: Arc<Identity>,
        client: RpcClient,
        streams: Streams,
        refusing: Refusing,
        whereabouts: Whereabouts,
    ) -> Self {
        Self { identity, client, streams, refusing, whereabouts, metrics: Arc::default() }
    }

    /// From now on addresses come from the membership that openraft tells of. Called once.
    pub(crate) fn follow(&self, metrics: Metrics) {
        let first = self.metrics.set(metrics).is_ok();
        debug_assert!(first, "a node has one raft");
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Peer {
        Peer { peers: self.clone(), target, address: node.raft_address.clone() }
    }
}

/// Sends openraft's messages to one other node.
pub(crate) struct Peer {
    peers: Peers,
    target: NodeId,
    /// Raft address of the node when this was made.
    address: String,
}

impl Peer {
    fn address(&self) -> String {
        let known = self.peers.metrics.get().and_then(|metrics| {
            let metrics = metrics.borrow_watched();
            let member = metrics.membership_config.membership().get_node(&self.target)?;
            Some(self.peers.whereabouts.address(self.target, member))
        });
        known.unwrap_or_else(|| self.address.clone())
    }

    async fn call<M: Message, A: DeserializeOwned>(
        &self,
        action: RPCTypes,
        route: &str,
        message: &M,
        idle: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let header = self.peers.identity.header(self.target).ok_or_else(no_cluster)?;
        let frame = message.frame(&header, self.peers.identity.level());
        let answer = self.peers.client.call(&self.address(), route, frame, idle).await;
        let answer = answer.map_err(|error| self.rpc_error(action, error))?;
        WIRE.decode("raft answer", &answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    /// Unreachable makes openraft wait before it tries again.
    fn rpc_error(&self, action: RPCTypes, error: CallError) -> RPCError<TypeConfig> {
        self.peers.identity.hear(&error);
        if let CallError::Refused { status: StatusCode::INSUFFICIENT_STORAGE, .. } = error {
            self.peers.refusing.note(self.target);
        }
        match error {
            CallError::Idle { idle, .. } => RPCError::Timeout(Timeout {
                action,
                id: self.peers.identity.node_id,
                target: self.target,
                timeout: idle,
            }),
            CallError::Unreadable { .. } => RPCError::Network(NetworkError::new(&error)),
            CallError::Unreachable { .. } | CallError::Refused { .. } => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
        }
    }
}

fn no_room() -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string("its disk is low, it said a moment ago"))
}

/// openraft does not speak before it is initialised, and it is initialised with a cluster id.
fn no_cluster() -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string("this node belongs to no cluster yet"))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        if !rpc.entries.is_empty() && self.peers.streams.is_cut(rpc.prev_log_id) {
            return Err(RPCError::Unreachable(Unreachable::from_string("it is too far back for the log")));
        }
        if !rpc.entries.is_empty() && self.peers.refusing.has(self.target) {
            return Err(no_room());
        }
        self.call(RPCTypes::AppendEntries, "append", &rpc, APPEND_IDLE_TIMEOUT).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(RPCTypes::Vote, "vote", &rpc, VOTE_TIMEOUT).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(RPCTypes::Vote, "pre-vote", &rpc, VOTE_TIMEOUT).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        if self.peers.refusing.has(self.target) {
            return Err(no_room().into());
        }
        let header = self.peers.identity.header(self.target).ok_or_else(no_cluster)?;
        let header = (header, self.peers.identity.level());
        let address = self.address();
        let _streaming = self.peers.streams.begin(snapshot.meta.last_log_id.map_or(0, |id| id.index));
        let sent = snapshot::send(&self.peers.client, &address, header, vote, snapshot, Arc::default());
        tokio::select! {
            biased;
            answer = sent => {
                let answer = answer.map_err(|error| self.rpc_error(RPCTypes::InstallSnapshot, error))?;
                WIRE.decode("raft answer", &answer)
                    .map_err(|error| StreamingError::Network(NetworkError::new(&error)))
            }
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(RPCTypes::TransferLeader, "transfer", &rpc, VOTE_TIMEOUT).await
    }

    fn backoff(&self) -> Option<Backoff> {
        let refusing = self.peers.refusing.has(self.target);
        refusing.then(|| Backoff::new(std::iter::repeat(REFUSING_BACKOFF)))
    }
}
