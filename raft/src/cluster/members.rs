//! Changing the membership: add, replace, remove, and who leads.
//!
//! A change is a sequence of short steps, each of which can be repeated: the leader looks ([`View`]),
//! [`plan`] decides what comes next, one step is done, and the caller hears how far it is and asks
//! again. Nothing of a change is kept anywhere but in the cluster itself, so it survives a crash of
//! the leader and of the caller alike.
//!
//! Who is removed becomes a tombstone *before* the membership forgets it: the order in the log is that
//! nobody can know of the removal without knowing the tombstone. A tombstone that is still a member is
//! a removal that was cut; asking for it again goes on.

mod plan;
mod seed;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::timeout;

use crate::command::Command;
use crate::types::{LogId, Member, NodeId, TypeConfig};

use super::bootstrap::Seen;
use super::{Inner, Node, ProposeError};
use plan::{Action, View, plan};

pub use plan::{LAG_MAX, MEMBERS_MAX, SEED_ENTRIES_MIN};
pub(super) use seed::Seeding;

/// A step that takes longer goes on by itself; the caller asks again.
const STEP_TIMEOUT: Duration = Duration::from_secs(6);
/// Steps done before the caller hears of it.
const STEPS_MAX: usize = 8;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The server at this raft address becomes a voter.
    Add {
        /// `host:port`.
        address: String,
    },
    /// The server at this raft address takes the place of a member. If it is that member, at a new
    /// address, the membership learns the address.
    Replace {
        /// Whose place.
        old: Who,
        /// `host:port` of the new one.
        address: String,
    },
    /// A member leaves for good.
    Remove {
        /// Which.
        who: Who,
    },
    /// Another voter leads.
    Transfer {
        /// Which; `None`: the one that is furthest.
        to: Option<Who>,
    },
}

/// A member as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Up to 16 hex digits.
    Id(NodeId),
    /// `host:port` of its raft RPC.
    Address(String),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Id(id) => write!(f, "{id:016x}"),
            Who::Address(address) => f.write_str(address),
        }
    }
}

/// What is neither an id nor an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is neither a node id (1 to 16 hex digits) nor an address (host:port)")]
pub struct BadWho;

impl FromStr for Who {
    type Err = BadWho;

    fn from_str(text: &str) -> Result<Self, BadWho> {
        if is_address(text) {
            return Ok(Who::Address(text.to_owned()));
        }
        let hex = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|id| hex && *id != 0);
        id.map(Who::Id).ok_or(BadWho)
    }
}

/// Whether `text` is `host:port`.
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_right = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c));
    host_right && text.len() <= 300 && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// What a change waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: it is done.
    Done,
    /// A snapshot is on its way to the new server; position and goal are bytes, the goal is a guess.
    Snapshot,
    /// The new server takes in the log; position and goal are log indices.
    Log,
    /// Another server is about to lead; it goes on there.
    Leadership,
    /// A step that was begun.
    Step,
}

/// How far a change is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it waits for.
    pub phase: Phase,
    /// Whom it is about.
    pub node_id: Option<NodeId>,
    /// How far.
    pub position: u64,
    /// Of how much; 0: unknown.
    pub goal: u64,
    /// For people.
    pub message: String,
}

impl Progress {
    fn of(phase: Phase, node_id: Option<NodeId>, message: String) -> Self {
        Self { phase, node_id, position: 0, goal: 0, message }
    }
}

/// Why a change is not made. Nothing was changed by the step that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The address of a new server does not answer.
    #[error("could not ask {address} who it is: {reason}")]
    Unreachable {
        /// Asked.
        address: String,
        /// What happened.
        reason: String,
    },
    /// It has data of another cluster.
    #[error("{address} has data of cluster {cluster}, this is cluster {own}: start it with an empty folder")]
    OtherCluster {
        /// Asked.
        address: String,
        /// Its cluster.
        cluster: String,
        /// Ours.
        own: String,
    },
    /// It waits to found a cluster of its own.
    #[error("{address} waits to found a cluster of {list}: start it with --join")]
    Founds {
        /// Asked.
        address: String,
        /// Its list.
        list: String,
    },
    /// Its formats are not ours.
    #[error(
        "{address} reads formats {theirs_lowest} to {theirs_highest}, the members agree on {lowest} to \
         {highest}: start the same piccolo there"
    )]
    Formats {
        /// Asked.
        address: String,
        /// Its lowest.
        theirs_lowest: u16,
        /// Its highest.
        theirs_highest: u16,
        /// The highest of the members' lowest.
        lowest: u16,
        /// The lowest of the members' highest.
        highest: u16,
    },
    /// It was removed, or is being removed.
    #[error(
        "{address} is server {node_id:016x}, which was removed: start it with an empty folder and --join"
    )]
    Tombstone {
        /// Asked.
        address: String,
        /// Its id.
        node_id: NodeId,
    },
    /// Another member has that address.
    #[error(
        "{address} is the address of member {by:016x}, but server {is:016x} answers there: if that one takes \
         its place, replace {by:016x} by {address}"
    )]
    AddressTaken {
        /// Asked.
        address: String,
        /// The member.
        by: NodeId,
        /// Who answers.
        is: NodeId,
    },
    /// A member has another address.
    #[error(
        "{address} is member {node_id:016x}, known at {known}: if it has moved, replace {node_id:016x} by {address}"
    )]
    OtherAddress {
        /// The member.
        node_id: NodeId,
        /// Asked.
        address: String,
        /// As the membership says.
        known: String,
    },
    /// Nobody is called so.
    #[error("{who} is not a member")]
    NoMember {
        /// As asked.
        who: Who,
    },
    /// Several members have that address.
    #[error("{address} is the address of several members, give the id: {}", list_ids(ids))]
    Ambiguous {
        /// As asked.
        address: String,
        /// They.
        ids: Vec<NodeId>,
    },
    /// The cluster is large enough.
    #[error("the cluster has {MEMBERS_MAX} members, which is the limit")]
    TooMany,
    /// No majority would answer afterwards.
    #[error(
        "{what} would lose the quorum: of {voters} voters then, {majority} must answer, and {answering} do now \
         (silent: {})",
        silent.join(", ")
    )]
    Quorum {
        /// What.
        what: &'static str,
        /// Voters after the change.
        voters: usize,
        /// Of those, who answers now.
        answering: usize,
        /// How many must.
        majority: usize,
        /// Who does not.
        silent: Vec<String>,
    },
    /// It is the only one.
    #[error("server {node_id:016x} is the only voter: without it there is no cluster")]
    LastVoter {
        /// It.
        node_id: NodeId,
    },
    /// It cannot lead.
    #[error("server {node_id:016x} does not vote: it cannot lead")]
    NotVoter {
        /// It.
        node_id: NodeId,
    },
    /// It cannot lead now.
    #[error("server {node_id:016x} at {address} does not answer: it cannot lead")]
    Silent {
        /// It.
        node_id: NodeId,
        /// Where it should be.
        address: String,
    },
    /// It cannot lead yet.
    #[error("server {node_id:016x} lacks {lag} log entries: it cannot lead yet")]
    Behind {
        /// It.
        node_id: NodeId,
        /// How many.
        lag: u64,
    },
    /// Nobody can lead.
    #[error("no other voter answers and is near the end of the log: none can lead")]
    NoSuccessor,
}

fn list_ids(ids: &[NodeId]) -> String {
    ids.iter().map(|id| format!("{id:016x}")).collect::<Vec<_>>().join(", ")
}

/// Why a step has no result.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// It must not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// This node cannot propose it.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// openraft said no.
    #[error("could not change the membership: {reason}")]
    Raft {
        /// What it said.
        reason: String,
    },
}

impl Node {
    /// On the leader: goes a few steps towards `change` and says how far it is. To be called again
    /// until [`Phase::Done`]; any server may be the leader by then.
    pub async fn change_members(&self, change: Change) -> Result<Progress, MembersError> {
        let node = self.clone();
        // A task of its own: a step that is begun is ended, also if the caller goes.
        let work = self.inner.tasks.spawn(async move {
            let stop = node.inner.stop.clone();
            stop.run_until_cancelled(node.advance(&change)).await
        });
        match timeout(STEP_TIMEOUT, work).await {
            Ok(Ok(Some(result))) => result,
            Ok(Ok(None) | Err(_)) => Err(ProposeError::OutcomeUnknown.into()),
            Err(_) => {
                let message = "a step waits for the servers to confirm it".to_owned();
                Ok(Progress::of(Phase::Step, None, message))
            }
        }
    }

    /// Whether `node_id` is being removed, or was.
    pub fn is_leaving(&self, node_id: NodeId) -> bool {
        self.inner.index.is_tombstone(node_id)
    }

    async fn advance(&self, change: &Change) -> Result<Progress, MembersError> {
        let Ok(_only) = self.inner.changing.try_acquire() else {
            return Ok(Progress::of(Phase::Step, None, "another change is under way".to_owned()));
        };
        for _ in 0..STEPS_MAX {
            let (view, newcomer) = self.look(change).await?;
            let action = plan(&view, change, newcomer.as_ref())?;
            tracing::debug!(?change, ?action, "changes the membership");
            if let Some(progress) = self.perform(&view, change, action, newcomer.as_ref()).await? {
                return Ok(progress);
            }
        }
        Ok(Progress::of(Phase::Step, None, "goes on".to_owned()))
    }

    /// Asks everybody whom the change may depend on.
    async fn look(&self, change: &Change) -> Result<(View, Option<Seen>), MembersError> {
        self.catch_up().await?;
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let nodes: BTreeMap<NodeId, Member> =
            membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        let me = inner.identity.node_id;
        let others = nodes.iter().filter(|(id, _)| **id != me);
        let answers = join_all(others.map(|(id, member)| async move {
            let answer = inner.client.whoami(&member.raft_address).await;
            answer.is_ok_and(|whoami| whoami.node_id == *id).then_some(*id)
        }));
        let ask = async {
            match change {
                Change::Add { address } | Change::Replace { address, .. } => {
                    Some(inner.client.whoami(address).await.map_err(|error| error.to_string()))
                }
                Change::Remove { .. } | Change::Transfer { .. } => None,
            }
        };
        let (answers, newcomer): (Vec<Option<NodeId>>, Option<Seen>) = tokio::join!(answers, ask);
        let named = match change {
            Change::Remove { who: Who::Id(id) } | Change::Replace { old: Who::Id(id), .. } => Some(*id),
            _ => None,
        };
        let asked = newcomer.as_ref().and_then(|seen| seen.as_ref().ok()).map(|whoami| whoami.node_id);
        let may_be_gone = nodes.keys().copied().chain(named).chain(asked);
        let matched = metrics.replication.iter().flatten().map(|(id, at)| (*id, at.map_or(0, |at| at.index)));
        let configs = membership.get_joint_config();
        let view = View {
            me,
            cluster: inner.identity.cluster_id().unwrap_or_default(),
            list_hash: inner.identity.list_hash.to_string(),
            voters: configs.last().cloned().unwrap_or_default(),
            joint: configs.len() > 1,
            tombstones: may_be_gone.filter(|id| inner.index.is_tombstone(*id)).collect(),
            answering: answers.into_iter().flatten().chain([me]).collect(),
            last: metrics.last_log_index.unwrap_or(0),
            matched: matched.filter(|(_, at)| *at > 0).collect(),
            nodes,
        };
        Ok((view, newcomer))
    }

    /// `None`: the next step can follow at once.
    async fn perform(
        &self,
        view: &View,
        change: &Change,
        action: Action,
        newcomer: Option<&Seen>,
    ) -> Result<Option<Progress>, MembersError> {
        let only = |id: NodeId| BTreeSet::from([id]);
        match action {
            Action::Done { node_id, message } => {
                return Ok(Some(Progress::of(Phase::Done, node_id, message)));
            }
            Action::Seed { node_id, address } => {
                let list_hash = newcomer.and_then(|seen| seen.as_ref().ok()).map(|whoami| whoami.list_hash());
                return Ok(Some(self.seed(node_id, address, list_hash.flatten())));
            }
            Action::Wait { node_id } => return Ok(Some(catching_up(view, node_id))),
            Action::HandOver { to } => return self.give_lead(view, change, to).await.map(Some),
            Action::Flatten => self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await?,
            Action::AddLearner { node_id, member } => {
                if let Some(Ok(whoami)) = newcomer
                    && let Err(reason) = self.invite(&member.raft_address, whoami).await
                {
                    return Err(Refusal::Unreachable { address: member.raft_address, reason }.into());
                }
                tracing::info!(node_id, address = member.raft_address, "adds a learner");
                self.change(ChangeMembers::AddNodes(BTreeMap::from([(node_id, member)])), true).await?;
            }
            Action::Promote { node_id } => {
                tracing::info!(node_id, "a learner becomes a voter");
                self.change(ChangeMembers::AddVoterIds(only(node_id)), true).await?;
            }
            Action::Readdress { node_id, member } => {
                tracing::info!(node_id, address = member.raft_address, "a member has moved");
                self.change(ChangeMembers::SetNodes(BTreeMap::from([(node_id, member)])), true).await?;
            }
            Action::Swap { old, new } => {
                tracing::info!(old, new, "replaces a member");
                self.bury(old).await?;
                let add = ChangeMembers::AddVoterIds(only(new));
                self.change(ChangeMembers::Batch(vec![add, removal(view, old)]), false).await?;
            }
            Action::Remove { node_id } => {
                tracing::info!(node_id, "removes a member");
                self.bury(node_id).await?;
                self.change(removal(view, node_id), false).await?;
                let message = format!("server {node_id:016x} is removed");
                return Ok(Some(Progress::of(Phase::Done, Some(node_id), message)));
            }
        }
        Ok(None)
    }

    async fn bury(&self, node_id: NodeId) -> Result<(), MembersError> {
        self.propose(Command::Tombstone { node_id }).await?;
        Ok(())
    }

    async fn give_lead(&self, view: &View, change: &Change, to: NodeId) -> Result<Progress, MembersError> {
        if !self.hand_over_to(to, &view.address(to)).await {
            return Err(Refusal::Silent { node_id: to, address: view.address(to) }.into());
        }
        let (phase, message) = match change {
            Change::Transfer { .. } => (Phase::Done, format!("server {to:016x} leads")),
            _ => (Phase::Leadership, format!("server {to:016x} leads and goes on")),
        };
        Ok(Progress::of(phase, Some(to), message))
    }

    /// Until it is committed, and seen in the metrics.
    async fn change(&self, change: ChangeMembers<NodeId, Member>, retain: bool) -> Result<(), MembersError> {
        let raft = &self.inner.raft;
        let changed = raft.change_membership(change, retain).await.map_err(refused)?;
        let at: LogId = changed.log_id;
        let seen = |metrics: &openraft::RaftMetrics<TypeConfig>| {
            metrics.membership_config.log_id().is_some_and(|id| id >= at)
        };
        raft.wait(Some(STEP_TIMEOUT)).metrics(seen, "the changed membership").await.ok();
        Ok(())
    }
}

impl Inner {
    /// On a leader that finds the cluster between two memberships: goes on to the second. Whoever
    /// began it has died, or has lost his lead.
    pub(super) async fn finish_joint(&self) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if !metrics.state.is_leader() || metrics.membership_config.membership().get_joint_config().len() < 2 {
            return;
        }
        let Ok(_only) = self.changing.try_acquire() else { return };
        tracing::info!("ends a change of the membership that another leader began");
        let nothing: ChangeMembers<NodeId, Member> = ChangeMembers::AddVoterIds(BTreeSet::new());
        if let Err(error) = self.raft.change_membership(nothing, false).await {
            tracing::warn!(%error, "could not end the change of the membership");
        }
    }
}

fn removal(view: &View, node_id: NodeId) -> ChangeMembers<NodeId, Member> {
    let only = BTreeSet::from([node_id]);
    if view.voters.contains(&node_id) {
        ChangeMembers::RemoveVoters(only)
    } else {
        ChangeMembers::RemoveNodes(only)
    }
}

fn catching_up(view: &View, node_id: NodeId) -> Progress {
    let position = view.matched.get(&node_id).copied().unwrap_or(0);
    let message = format!("server {node_id:016x} catches up: log entry {position} of {}", view.last);
    Progress { phase: Phase::Log, node_id: Some(node_id), position, goal: view.last, message }
}

fn refused(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MembersError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ProposeError::NotLeader { leader: forward.leader_node }.into()
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(_) => ProposeError::Overloaded.into(),
            error => MembersError::Raft { reason: error.to_string() },
        },
        RaftError::APIError(error) => MembersError::Raft { reason: error.to_string() },
        RaftError::Fatal(fatal) => ProposeError::Stopped { reason: fatal.to_string() }.into(),
    }
}
