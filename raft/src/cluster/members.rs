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
//!
//! - `request`, `refusal`: what is asked for, and why not.
//! - `plan`: what comes next; pure.
//! - `reach`: whether newcomers and members reach each other.
//! - `recent`: where the log ended a moment ago.
//! - `correct`: addresses that have changed.
//! - `seed`: the snapshot for an empty server.

mod correct;
mod plan;
mod reach;
mod recent;
mod refusal;
mod request;
mod seed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;
use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::command::Command;
use crate::limits::{STEP_TIMEOUT, STEPS_MAX};
use crate::network::Whoami;
use crate::network::peer::Streams;
use crate::types::{LogId, Member, NodeId, TypeConfig};

use super::bootstrap::Seen;
use super::contacts::Contacts;
use super::handover::Handover;
use super::leadership::Leadership;
use super::lifetime::Lifetime;
use super::proposals::Proposals;
use super::stores::Stores;
use super::{Node, ProposeError};
use plan::{Action, View, plan};

pub(super) use recent::Recent;
pub use refusal::{MembersError, Refusal};
pub use request::{BadWho, Change, Phase, Progress, Who};
pub(super) use seed::Seeding;

impl Node {
    /// On the leader: goes a few steps towards `change` and says how far it is. To be called again
    /// until [`Phase::Done`]; any server may be the leader by then.
    pub async fn change_members(&self, change: Change) -> Result<Progress, MembersError> {
        let changes = self.inner.changes.clone();
        self.inner.changes.step(async move { changes.advance(&change).await }).await
    }

    /// Whether `node_id` is being removed, or was.
    pub fn is_leaving(&self, node_id: NodeId) -> bool {
        self.inner.stores.index.is_tombstone(node_id)
    }
}

/// Changes the membership, one change at a time.
pub(super) struct Changes {
    pub(super) contacts: Contacts,
    pub(super) leadership: Leadership,
    pub(super) stores: Stores,
    pub(super) proposals: Proposals,
    pub(super) handover: Handover,
    pub(super) streams: Streams,
    pub(super) lifetime: Lifetime,
    /// One permit, held by the change of the membership or of the level that is under way.
    pub(super) changing: Semaphore,
    pub(super) seeding: Seeding,
    pub(super) recent: Recent,
}

impl Changes {
    /// Runs a step in a task of its own: a step that is begun is ended, also if the caller goes, and what it
    /// connects to is connected to on the node's threads.
    pub(super) async fn step(
        &self,
        work: impl Future<Output = Result<Progress, MembersError>> + Send + 'static,
    ) -> Result<Progress, MembersError> {
        let stop = self.lifetime.stop.clone();
        let work = self.lifetime.spawn_on_runtime(async move { stop.run_until_cancelled(work).await });
        match timeout(STEP_TIMEOUT, work).await {
            Ok(Ok(Some(result))) => result,
            Ok(Ok(None) | Err(_)) => Err(ProposeError::OutcomeUnknown.into()),
            Err(_) => {
                let message = "a step waits for the servers to confirm it".to_owned();
                Ok(Progress::of(Phase::Step, None, message))
            }
        }
    }

    async fn advance(self: &Arc<Self>, change: &Change) -> Result<Progress, MembersError> {
        let Ok(_only) = self.changing.try_acquire() else {
            return Ok(Progress::of(Phase::Step, None, "another change is under way".to_owned()));
        };
        for _ in 0..STEPS_MAX {
            let (view, newcomers) = self.look(change).await?;
            let action = plan(&view, change, &newcomers)?;
            tracing::debug!(?change, ?action, "changes the membership");
            if let Some(progress) = self.perform(&view, change, action, &newcomers).await? {
                return Ok(progress);
            }
        }
        Ok(Progress::of(Phase::Step, None, "goes on".to_owned()))
    }

    /// Asks everybody whom the change may depend on.
    async fn look(&self, change: &Change) -> Result<(View, Vec<Seen>), MembersError> {
        self.proposals.catch_up().await?;
        let Self { contacts, stores, recent, .. } = self;
        let identity = &contacts.identity;
        let metrics = self.leadership.metrics();
        let membership = metrics.membership_config.membership();
        let nodes: BTreeMap<NodeId, Member> =
            membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        let me = identity.node_id;
        let others = nodes.iter().filter(|(id, _)| **id != me);
        let answers = join_all(others.map(|(id, member)| async move {
            contacts.ask(*id, member).await.map(|whoami| (*id, whoami.boot_nonce))
        }));
        let ask = join_all(change.newcomers().iter().map(|address| async move {
            contacts.client.whoami(address).await.map_err(|error| error.to_string())
        }));
        let (answers, newcomers): (Vec<Option<(NodeId, u64)>>, Vec<Seen>) = tokio::join!(answers, ask);
        let named = match change {
            Change::Remove { who: Who::Id(id) } | Change::Replace { old: Who::Id(id), .. } => Some(*id),
            _ => None,
        };
        let asked = newcomers.iter().flatten().map(|whoami| whoami.node_id);
        let may_be_gone = nodes.keys().copied().chain(named).chain(asked);
        let matched = metrics.replication.iter().flatten().map(|(id, at)| (*id, at.map_or(0, |at| at.index)));
        let configs = membership.get_joint_config();
        let view = View {
            me,
            cluster: identity.cluster_id().unwrap_or_default(),
            list_hash: identity.list_hash.to_string(),
            voters: configs.last().cloned().unwrap_or_default(),
            joint: configs.len() > 1,
            tombstones: may_be_gone.filter(|id| stores.index.is_tombstone(*id)).collect(),
            answering: answers.into_iter().flatten().chain([(me, identity.boot_nonce)]).collect(),
            level: identity.level(),
            last: metrics.last_log_index.unwrap_or(0),
            last_before: recent.before(Instant::now()),
            matched: matched.filter(|(_, at)| *at > 0).collect(),
            nodes,
        };
        Ok((view, newcomers))
    }

    /// `None`: the next step can follow at once.
    async fn perform(
        self: &Arc<Self>,
        view: &View,
        change: &Change,
        action: Action,
        newcomers: &[Seen],
    ) -> Result<Option<Progress>, MembersError> {
        let only = |id: NodeId| BTreeSet::from([id]);
        let newcomer = |id: NodeId| newcomers.iter().flatten().find(|whoami| whoami.node_id == id);
        match action {
            Action::Done { node_id, message } => {
                return Ok(Some(Progress::of(Phase::Done, node_id, message)));
            }
            Action::Seed { node_id, address } => {
                if !self.seeding.is_running_for(node_id) {
                    self.check_reach(view, change, newcomers, node_id).await?;
                }
                let list_hash = newcomer(node_id).and_then(Whoami::list_hash);
                return Ok(Some(self.seed(node_id, address, list_hash)));
            }
            Action::Wait { node_id } => return Ok(Some(catching_up(view, node_id))),
            Action::HandOver { to } => return self.give_lead(view, change, to).await.map(Some),
            Action::Flatten => self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await?,
            Action::AddLearner { node_id, member } => {
                self.check_reach(view, change, newcomers, node_id).await?;
                if let Some(whoami) = newcomer(node_id)
                    && let Err(reason) = self.invite(&member.raft_address, whoami).await
                {
                    return Err(Refusal::Unreachable { address: member.raft_address, reason }.into());
                }
                tracing::info!(node_id, address = member.raft_address, "adds a learner");
                self.change(ChangeMembers::AddNodes(BTreeMap::from([(node_id, member)])), true).await?;
            }
            Action::Promote { node_ids } => {
                tracing::info!(?node_ids, "learners become voters");
                if view.voters.union(&node_ids).count() == 2 {
                    tracing::warn!("with two voters the loss of either one stops all writes: add a third");
                }
                self.change(ChangeMembers::AddVoterIds(node_ids), true).await?;
            }
            Action::Readdress { node_id, member } => {
                self.check_reach(view, change, newcomers, node_id).await?;
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
        self.proposals.propose(Command::Tombstone { node_id }).await?;
        Ok(())
    }

    async fn give_lead(&self, view: &View, change: &Change, to: NodeId) -> Result<Progress, MembersError> {
        if !self.handover.hand_over_to(to, &view.address(to)).await {
            return Err(Refusal::Silent { node_id: to, address: view.address(to) }.into());
        }
        let (phase, message) = match change {
            Change::Transfer { .. } => (Phase::Done, format!("server {to:016x} leads")),
            _ => (Phase::Leadership, format!("server {to:016x} leads and goes on")),
        };
        Ok(Progress::of(phase, Some(to), message))
    }

    /// Proposes a change of the membership; returns when it is committed, and seen in the metrics.
    async fn change(&self, change: ChangeMembers<NodeId, Member>, retain: bool) -> Result<(), MembersError> {
        let raft = &self.leadership.raft;
        let changed = raft.change_membership(change, retain).await.map_err(refused)?;
        let at: LogId = changed.log_id;
        let seen = |metrics: &openraft::RaftMetrics<TypeConfig>| {
            metrics.membership_config.log_id().is_some_and(|id| id >= at)
        };
        raft.wait(Some(STEP_TIMEOUT)).metrics(seen, "the changed membership").await.ok();
        Ok(())
    }

    /// On a leader that finds the cluster between two memberships: goes on to the second. Whoever
    /// began it has died, or has lost his lead. Without a quorum that never ends: the one who calls has
    /// more to do, and comes again.
    pub(super) async fn finish_joint(&self) {
        let metrics = self.leadership.metrics();
        if !metrics.state.is_leader() || metrics.membership_config.membership().get_joint_config().len() < 2 {
            return;
        }
        let Ok(_only) = self.changing.try_acquire() else { return };
        tracing::info!("ends a change of the membership that another leader began");
        let nothing: ChangeMembers<NodeId, Member> = ChangeMembers::AddVoterIds(BTreeSet::new());
        match timeout(STEP_TIMEOUT, self.leadership.raft.change_membership(nothing, false)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not end the change of the membership"),
            Err(_) => tracing::warn!("the end of the change of the membership waits for a quorum"),
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
            error => MembersError::Raft { error: Box::new(error.into()) },
        },
        RaftError::APIError(error) => MembersError::Raft { error: Box::new(error) },
        RaftError::Fatal(fatal) => ProposeError::Stopped { fatal: Box::new(fatal) }.into(),
    }
}
