//! The start of a node: its files first, then its names. What the files say of the node helps to name it, so
//! that a server with data needs neither DNS nor the right list to start.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use openraft::StorageHelper;
use openraft::storage::RaftLogStorage;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::index::Index;
use crate::log::LogStore;
use crate::network::Network;
use crate::network::client::RpcClient;
use crate::network::identity::{Identity, NodeNames};
use crate::network::names::Names;
use crate::network::peer::{Peers, Refusing, Streams};
use crate::network::reach::ApiPort;
use crate::network::server::Permits;
use crate::network::whereabouts::Whereabouts;
use crate::space::Guard;
use crate::state_machine::{Raft, StateMachine};
use crate::types::{Member, NodeId, StoredMembership, TypeConfig};

use super::compaction::LogCompaction;
use super::contacts::Contacts;
use super::disks::Disks;
use super::handover::Handover;
use super::leadership::Leadership;
use super::levels::{Counting, Leveling};
use super::lifetime::Lifetime;
use super::members::{Changes, Recent, Seeding};
use super::proposals::Proposals;
use super::stores::{Stores, check_stores};
use super::{Env, Inner, Node, NodeConfig, StartError, Timing, disk_watch, settings};

/// A node whose files are open, and which does nothing yet.
pub struct Opened {
    env: Env,
    stores: Stores,
    identity: Identity,
    membership: StoredMembership,
    tasks: TaskTracker,
    ended: CancellationToken,
    names: Names,
}

impl Opened {
    /// Id of this node.
    pub fn node_id(&self) -> NodeId {
        self.identity.node_id
    }

    /// The same node on another network, which may depend on who the node is. Nothing was sent before.
    pub fn over(mut self, network: Arc<dyn Network>) -> Self {
        self.env.network = network;
        self
    }

    /// What the stored membership says of this node; none while it is in no membership.
    pub fn member(&self) -> Option<Member> {
        self.membership.membership().get_node(&self.identity.node_id).cloned()
    }

    /// The other members that the stored membership names.
    pub fn others(&self) -> Vec<Member> {
        let nodes = self.membership.membership().nodes();
        let others = nodes.filter(|(id, _)| **id != self.identity.node_id);
        others.map(|(_, member)| member.clone()).collect()
    }

    /// What is known of the addresses of names, also from earlier starts.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Starts raft. The cluster forms, or is found again, in the background: serve [`Node::router`] on the
    /// raft listener now. A pristine node founds a cluster with the members of `names`, or with `join` waits
    /// to be admitted to that of the member whose raft address it is. `found_after` and `api_port` are those of
    /// [`NodeConfig`]. After `stop` no cluster is founded; the node goes on until [`Node::shutdown`].
    pub async fn start(
        self,
        names: NodeNames,
        join: Option<String>,
        found_after: Duration,
        api_port: Option<Arc<dyn ApiPort>>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        self.start_with(names, join, found_after, api_port, stop, |log| log).await
    }

    /// [`Opened::start`]; openraft writes to what `written_to` makes of the log.
    pub(crate) async fn start_with<L: RaftLogStorage<TypeConfig>>(
        self,
        names: NodeNames,
        join: Option<String>,
        found_after: Duration,
        api_port: Option<Arc<dyn ApiPort>>,
        stop: CancellationToken,
        written_to: impl FnOnce(LogStore) -> L,
    ) -> Result<Node, StartError> {
        let Self { env, stores, identity, membership: _, tasks, ended, names: known } = self;
        if names.members.is_empty() && join.is_none() {
            return Err(StartError::NoMembers);
        }
        let identity = Arc::new(identity.named(names));
        let durable = stores.index.clone();
        stores.log.guard_purge(move || durable.durable_applied().map_or(0, |id| id.index));
        let client = RpcClient::new(env.network.as_ref(), known, tasks.clone(), ended.clone());
        let (streams, refusing, whereabouts) =
            (Streams::default(), Refusing::default(), Whereabouts::default());
        let peers = Peers::new(
            identity.clone(),
            client.clone(),
            streams.clone(),
            refusing.clone(),
            whereabouts.clone(),
        );
        let settings = settings::settings().map_err(StartError::raft)?;
        let state_machine = StateMachine::new(stores.index.clone());
        let written = written_to(stores.log.clone());
        let raft = Raft::new(identity.node_id, settings, peers.clone(), written, state_machine).await;
        let raft = raft.map_err(StartError::raft)?;
        peers.follow(raft.metrics());
        let contacts = Contacts { identity, raft, client, whereabouts, join, api_port };
        let lifetime = Lifetime::new(env.runtime.clone(), tasks, &stop, ended);
        let inner = Inner::new(stores, contacts, streams, lifetime, &env.timing);
        let node = Node { inner: Arc::new(inner) };
        node.spawn_tasks(&env, refusing, found_after);
        Ok(node)
    }
}

impl Inner {
    fn new(
        stores: Stores,
        contacts: Contacts,
        streams: Streams,
        lifetime: Lifetime,
        timing: &Timing,
    ) -> Self {
        let (raft, identity) = (&contacts.raft, &contacts.identity);
        let leadership = Leadership { node_id: identity.node_id, raft: raft.clone(), heard: Arc::default() };
        let disks = Arc::<Disks>::default();
        let proposals =
            Proposals::new(identity.clone(), raft.clone(), stores.guard.clone(), lifetime.clone());
        let handover =
            Handover { leadership: leadership.clone(), contacts: contacts.clone(), disks: disks.clone() };
        let compaction = LogCompaction {
            stores: stores.clone(),
            raft: raft.clone(),
            streams: streams.clone(),
            keep: timing.keep,
            stop: lifetime.stop.clone(),
        };
        let changes = Arc::new(Changes {
            contacts: contacts.clone(),
            leadership: leadership.clone(),
            stores: stores.clone(),
            proposals: proposals.clone(),
            handover: handover.clone(),
            streams,
            lifetime: lifetime.clone(),
            changing: Semaphore::new(1),
            seeding: Seeding::default(),
            recent: Recent::default(),
        });
        let leveling = Leveling {
            contacts: contacts.clone(),
            leadership: leadership.clone(),
            index: stores.index.clone(),
            disks: disks.clone(),
            proposals: proposals.clone(),
            changes: changes.clone(),
            counting: Counting::default(),
            times: timing.levels,
            stop: lifetime.stop.clone(),
        };
        Self {
            stores,
            contacts,
            leadership,
            permits: Permits::default(),
            proposals,
            handover,
            changes,
            leveling: Arc::new(leveling),
            compaction: Arc::new(compaction),
            disks,
            reasons: Arc::default(),
            was_member: AtomicBool::new(false),
            lifetime,
        }
    }
}

impl Node {
    /// Opens the files of a node. With less than `disk_free_min` free bytes in its data folder it stores no
    /// more entries; 0: it does not look, `None`: what fits the disk.
    pub async fn open(env: Env, disk_free_min: Option<u64>) -> Result<Opened, StartError> {
        let guard = Arc::new(Guard::new(disk_free_min, env.disk.place()));
        let (tasks, ended) = (TaskTracker::new(), CancellationToken::new());
        let (tracker, stop, threads) = (tasks.clone(), ended.clone(), env.threads.clone());
        let open = move || {
            let Env { disk, random, threads, resolver, .. } = &env;
            disk_watch::prepare(disk.as_ref(), &guard);
            let opening = |error: StartError| StartError::opening(error, disk.as_ref());
            // The state first: it says by name that its level is unknown here, the log only that an entry is newer.
            let index =
                Index::open_on(disk.as_ref(), threads.clone()).map_err(|error| opening(error.into()))?;
            let log = LogStore::open_on(disk.as_ref(), threads.clone(), random.as_ref())
                .map_err(|error| opening(error.into()))?;
            check_stores(&log, &index)?;
            let level = index.level();
            log.write_at(level.clone());
            log.check_note(disk.as_ref())?;
            let (used, nowhere) = (log.is_used(), String::new());
            let identity = Identity::load(disk.clone(), random.as_ref(), vec![], None, nowhere, used, level)?;
            if identity.was_removed()? {
                return Err(StartError::Removed { node_id: identity.node_id });
            }
            let names = Names::load(resolver.clone(), disk.as_ref(), tracker, stop);
            let (disk, threads) = (disk.clone(), threads.clone());
            Ok((env, Stores { disk, threads, guard, log, index }, identity, names))
        };
        let opened = threads.blocking(open).await.map_err(StartError::raft)?;
        let (env, stores, identity, names) = opened?;
        let membership = stored_membership(&stores, identity.node_id).await?;
        Ok(Opened { env, stores, identity, membership, tasks, ended, names })
    }

    /// Starts a node: [`Node::open`], then [`Opened::start`].
    pub async fn start(config: NodeConfig, env: Env, stop: CancellationToken) -> Result<Node, StartError> {
        if config.members.is_empty() {
            return Err(StartError::NoMembers);
        }
        Self::start_with(config, None, env, stop).await
    }

    /// Like [`Node::start`], of a node that founds no cluster: if it is pristine, it waits to be
    /// admitted to that of the member whose raft address is `member`.
    pub async fn start_joining(
        config: NodeConfig,
        member: String,
        env: Env,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        let config = NodeConfig { members: Vec::new(), ..config };
        Self::start_with(config, Some(member), env, stop).await
    }

    async fn start_with(
        config: NodeConfig,
        join: Option<String>,
        env: Env,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        let NodeConfig { members, raft_address, api_address, disk_free_min, found_after, api_port } = config;
        let names = NodeNames { members, raft_address, api_address, api_host_follows: false };
        let opened = Self::open(env, disk_free_min).await?;
        opened.start(names, join, found_after, api_port, stop).await
    }
}

/// What the state says, which may be minutes behind; for a node that is not in it, what the log says behind
/// it.
async fn stored_membership(stores: &Stores, node_id: NodeId) -> Result<StoredMembership, StartError> {
    let Stores { log, index, .. } = stores;
    let (_, applied) = index.applied_state();
    if applied.membership().get_node(&node_id).is_some() {
        return Ok(applied);
    }
    let (mut log, mut state_machine) = (log.clone(), StateMachine::new(index.clone()));
    let known = StorageHelper::<TypeConfig, _, _>::new(&mut log, &mut state_machine).get_membership().await;
    Ok(known.map_err(StartError::raft)?.effective().as_ref().clone())
}
