//! What comes next on the way to a changed membership. Decides, without I/O, by what the leader sees
//! now: it remembers nothing between two steps, so a change that was cut by a crash goes on where it
//! was when somebody asks for it again.

mod replace;

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Refusal, Who};
use crate::address::is_loopback;
use crate::cluster::bootstrap::Seen;
use crate::format::Level;
use crate::limits::{LAG_MAX, MEMBERS_MAX, SEED_ENTRIES_MIN};
use crate::network::Whoami;
use crate::types::{ClusterId, Member, NodeId};

use replace::replace;

/// The leader's view of the cluster, by which the next step of a change is decided.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) me: NodeId,
    pub(super) cluster: ClusterId,
    /// Hash of this node's own list, as `whoami` shows it.
    pub(super) list_hash: String,
    /// Voters of the membership; of the later one, if the cluster is on its way between two.
    pub(super) voters: BTreeSet<NodeId>,
    /// On its way between two memberships.
    pub(super) joint: bool,
    pub(super) nodes: BTreeMap<NodeId, Member>,
    /// Removed servers among the members and the servers that the change names.
    pub(super) tombstones: BTreeSet<NodeId>,
    /// Members that answered with their id at their address just now, and the boot nonce of the process
    /// that did; this node too.
    pub(super) answering: BTreeMap<NodeId, u64>,
    /// The level at which the cluster writes.
    pub(super) level: Level,
    /// Last log index of this node.
    pub(super) last: u64,
    /// Last log index of this node a moment ago, if it ran then.
    pub(super) last_before: Option<u64>,
    /// What the others are known to have; absent: nothing.
    pub(super) matched: BTreeMap<NodeId, u64>,
}

/// The next step of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing is left to do.
    Done { node_id: Option<NodeId>, message: String },
    /// Ends a way between two memberships that somebody began.
    Flatten,
    /// Brings an empty server a snapshot.
    Seed { node_id: NodeId, address: String },
    /// Makes it a member that does not vote.
    AddLearner { node_id: NodeId, member: Member },
    /// Waits for a newcomer, which is not at the end of the log yet.
    Wait { node_id: NodeId },
    /// Lets learners vote, in one change.
    Promote { node_ids: BTreeSet<NodeId> },
    /// Lets a learner vote and removes another member, in one change.
    Swap { old: NodeId, new: NodeId },
    /// Corrects the address of a member.
    Readdress { node_id: NodeId, member: Member },
    /// Removes a member.
    Remove { node_id: NodeId },
    /// Another one is to lead.
    HandOver { to: NodeId },
}

/// How far the admission of a newcomer is.
enum Admission {
    Voter(NodeId),
    /// A learner that may vote.
    Ready(NodeId),
    Next(Action),
}

/// `newcomers` is what the addresses of an add or replace answer, in their order.
pub(super) fn plan(view: &View, change: &Change, newcomers: &[Seen]) -> Result<Action, Refusal> {
    if view.joint {
        return Ok(Action::Flatten);
    }
    let nobody = Err("nobody asked".to_owned());
    match change {
        Change::Add { addresses } => add(view, addresses, newcomers),
        Change::Replace { old, address } => replace(view, old, address, newcomers.first().unwrap_or(&nobody)),
        Change::Remove { who } => remove(view, who),
        Change::Transfer { to } => transfer(view, to.as_ref()),
    }
}

/// All that is wrong with any of them is found before the first one is taken in.
fn add(view: &View, addresses: &[String], newcomers: &[Seen]) -> Result<Action, Refusal> {
    let mut ready = BTreeSet::new();
    let mut voters = Vec::new();
    let mut steps = Vec::new();
    let mut at: BTreeMap<NodeId, &String> = BTreeMap::new();
    for (address, newcomer) in addresses.iter().zip(newcomers) {
        if let Ok(whoami) = newcomer
            && let Some(other) = at.insert(whoami.node_id, address)
        {
            let (address, other) = (address.clone(), other.clone());
            return Err(Refusal::SameServer { node_id: whoami.node_id, address, other });
        }
        match view.admit(address, newcomer, None)? {
            Admission::Next(action) => steps.push(action),
            Admission::Voter(node_id) => voters.push((node_id, address)),
            Admission::Ready(node_id) => _ = ready.insert(node_id),
        }
    }
    let new = at.keys().filter(|id| !view.nodes.contains_key(id)).count();
    if new > 0 && view.nodes.len() + new > MEMBERS_MAX {
        return Err(Refusal::TooMany);
    }
    // So that they catch up side by side.
    steps.sort_by_key(|action| match action {
        Action::AddLearner { .. } => 0,
        Action::Seed { .. } => 1,
        _ => 2,
    });
    if let Some(first) = steps.into_iter().next() {
        return Ok(first);
    }
    if ready.is_empty() {
        return Ok(view.added(&voters));
    }
    let after: BTreeSet<NodeId> = view.voters.union(&ready).copied().collect();
    view.check_quorum(if ready.len() == 1 { "adding this server" } else { "adding these servers" }, &after)?;
    Ok(Action::Promote { node_ids: ready })
}

fn remove(view: &View, who: &Who) -> Result<Action, Refusal> {
    let node_id = match view.find(who) {
        Err(Refusal::NoMember { .. }) if view.is_gone(who) => {
            let message = format!("server {who} is removed");
            return Ok(Action::Done { node_id: None, message });
        }
        found => found?,
    };
    if !view.voters.contains(&node_id) {
        return Ok(Action::Remove { node_id });
    }
    let after = without(&view.voters, node_id);
    if after.is_empty() {
        return Err(Refusal::LastVoter { node_id });
    }
    view.check_quorum("removing this server", &after)?;
    match view.successor() {
        Some(to) if node_id == view.me => Ok(Action::HandOver { to }),
        _ => Ok(Action::Remove { node_id }),
    }
}

fn transfer(view: &View, to: Option<&Who>) -> Result<Action, Refusal> {
    let Some(who) = to else {
        return view.successor().map(|to| Action::HandOver { to }).ok_or(Refusal::NoSuccessor);
    };
    let to = view.find(who)?;
    if to == view.me {
        return Ok(Action::Done { node_id: Some(to), message: format!("server {to:016x} leads") });
    }
    if !view.voters.contains(&to) {
        return Err(Refusal::NotVoter { node_id: to });
    }
    if !view.answering.contains_key(&to) {
        return Err(Refusal::Silent { node_id: to, address: view.address(to) });
    }
    if !view.is_near(to) {
        return Err(Refusal::Behind { node_id: to, lag: view.lag(to) });
    }
    Ok(Action::HandOver { to })
}

impl View {
    fn added(&self, voters: &[(NodeId, &String)]) -> Action {
        let server = |(node_id, address): &(NodeId, &String)| format!("server {node_id:016x} at {address}");
        let servers: Vec<String> = voters.iter().map(server).collect();
        let are = if servers.len() == 1 { "is a voter" } else { "are voters" };
        // One of two is no majority.
        let survives_nothing = match self.voters.len() {
            2 => "; of two voters none may fail: add a third",
            _ => "",
        };
        let message = format!("{} {are}{survives_nothing}", servers.join(", "));
        let node_id = voters.first().filter(|_| voters.len() == 1).map(|(node_id, _)| *node_id);
        Action::Done { node_id, message }
    }

    fn admit(&self, address: &str, newcomer: &Seen, replaced: Option<NodeId>) -> Result<Admission, Refusal> {
        let here = |(id, member): &(&NodeId, &Member)| {
            member.raft_address == address && Some(**id) != replaced && !self.tombstones.contains(id)
        };
        let whoami = match newcomer {
            Ok(whoami) => whoami,
            // What is on its way already may be away for a moment.
            Err(reason) => match self.nodes.iter().find(here) {
                Some((&node_id, _)) if !self.voters.contains(&node_id) => {
                    return Ok(Admission::Next(Action::Wait { node_id }));
                }
                _ => return Err(self.not_started(address, reason)),
            },
        };
        let node_id = whoami.node_id;
        if self.tombstones.contains(&node_id) {
            return Err(Refusal::Tombstone { address: address.to_owned(), node_id });
        }
        if let Some(member) = self.nodes.get(&node_id) {
            if member.raft_address != address {
                self.check_one_process(address, whoami)?;
                let (address, known) = (address.to_owned(), member.raft_address.clone());
                return Err(Refusal::OtherAddress { node_id, address, known });
            }
            return Ok(match () {
                () if self.voters.contains(&node_id) => Admission::Voter(node_id),
                () if self.is_near(node_id) => Admission::Ready(node_id),
                () => Admission::Next(Action::Wait { node_id }),
            });
        }
        if let Some((&taken, _)) = self.nodes.iter().find(here) {
            return Err(Refusal::AddressTaken { address: address.to_owned(), by: taken, is: node_id });
        }
        self.check_newcomer(address, whoami)?;
        if self.nodes.len() >= MEMBERS_MAX + usize::from(replaced.is_some()) {
            return Err(Refusal::TooMany);
        }
        Ok(Admission::Next(if whoami.last_log_index.is_none() && self.last >= SEED_ENTRIES_MIN {
            Action::Seed { node_id, address: address.to_owned() }
        } else {
            Action::AddLearner { node_id, member: member(address, whoami) }
        }))
    }

    /// Why a server that is to be admitted at `address` was not asked who it is.
    fn not_started(&self, address: &str, reason: &str) -> Refusal {
        self.api_address(address).unwrap_or_else(|| Refusal::NotStarted {
            address: address.to_owned(),
            reason: reason.to_owned(),
            join: self.join_address(address),
        })
    }

    /// The raft address of a member for the `--join` of a server at `address`.
    fn join_address(&self, address: &str) -> String {
        let others = self.nodes.values().map(|member| &member.raft_address);
        others.filter(|other| *other != address).min().cloned().unwrap_or_default()
    }

    /// Whether a server that is no member may become one.
    fn check_newcomer(&self, address: &str, whoami: &Whoami) -> Result<(), Refusal> {
        let address = address.to_owned();
        let own = self.cluster.to_string();
        let ours = |entry: &String| {
            *entry != address && self.nodes.values().any(|member| member.raft_address == *entry)
        };
        let names_us = whoami.list.iter().any(ours);
        let join = self.join_address(&address);
        if let Some(cluster) = whoami.cluster_id.clone().filter(|cluster| *cluster != own) {
            let list = if names_us { Vec::new() } else { whoami.list.clone() };
            return Err(Refusal::OtherCluster { address, cluster, own, list, join });
        }
        self.check_reach(&address, whoami)?;
        let pristine = whoami.cluster_id.is_none();
        // Who is alone in its list waits for nobody else.
        let founds = whoami.list.len() > 1 && whoami.list_hash != self.list_hash;
        let is_missed = whoami.missed_by.as_ref() == Some(&own);
        if pristine && founds && !names_us && !is_missed {
            return Err(Refusal::Founds { address, list: whoami.list.join(","), join });
        }
        if !whoami.reads.can_run_at(self.level) {
            return Err(Refusal::Level { address, reads: whoami.reads.level, active: self.level });
        }
        Ok(())
    }

    /// Loopback is another host to each member, unless all are on one.
    fn check_reach(&self, address: &str, whoami: &Whoami) -> Result<(), Refusal> {
        let others = self.nodes.iter().filter(|(id, _)| **id != whoami.node_id);
        let elsewhere = others.map(|(_, member)| &member.raft_address).find(|other| !is_loopback(other));
        let Some(other) = elsewhere.filter(|_| is_loopback(address) || is_loopback(&whoami.api_address))
        else {
            return Ok(());
        };
        let (address, api_address) = (address.to_owned(), whoami.api_address.clone());
        Err(Refusal::Loopback { address, api_address, other: other.clone() })
    }

    fn find(&self, who: &Who) -> Result<NodeId, Refusal> {
        let found: Vec<NodeId> = match who {
            Who::Id(id) => self.nodes.contains_key(id).then_some(*id).into_iter().collect(),
            Who::Address(address) => {
                self.nodes.iter().filter(|(_, m)| m.raft_address == *address).map(|(id, _)| *id).collect()
            }
        };
        match found.as_slice() {
            [] => Err(self.no_member(who)),
            [one] => Ok(*one),
            _ => Err(Refusal::Ambiguous { address: who.to_string(), ids: found }),
        }
    }

    fn no_member(&self, who: &Who) -> Refusal {
        let api = match who {
            Who::Address(address) => self.api_address(address),
            Who::Id(_) => None,
        };
        api.unwrap_or_else(|| Refusal::NoMember { who: who.clone() })
    }

    /// The refusal of `address` if it is that of a member's discovery API.
    fn api_address(&self, address: &str) -> Option<Refusal> {
        let (node_id, member) = self.nodes.iter().find(|(_, member)| member.api_address == address)?;
        let (address, raft_address) = (address.to_owned(), member.raft_address.clone());
        Some(Refusal::ApiAddress { address, node_id: *node_id, raft_address })
    }

    /// Whether the server was removed before.
    fn is_gone(&self, who: &Who) -> bool {
        matches!(who, Who::Id(id) if self.tombstones.contains(id) && !self.nodes.contains_key(id))
    }

    /// A majority of `after` must answer: otherwise nothing could be written any more, not even the
    /// change back.
    fn check_quorum(&self, what: &'static str, after: &BTreeSet<NodeId>) -> Result<(), Refusal> {
        let answers = |id: &&NodeId| self.answering.contains_key(*id);
        let silent: Vec<NodeId> = after.iter().filter(|id| !answers(id)).copied().collect();
        let (voters, answering, majority) = (after.len(), after.len() - silent.len(), after.len() / 2 + 1);
        if answering >= majority {
            return Ok(());
        }
        let silent = silent.into_iter().map(|id| format!("{id:016x} at {}", self.address(id))).collect();
        Err(Refusal::Quorum { what, voters, answering, majority, silent })
    }

    /// The voter that answers and is the furthest, apart from this node.
    fn successor(&self) -> Option<NodeId> {
        let others = self.voters.iter().filter(|id| **id != self.me && self.answering.contains_key(id));
        others.filter(|id| self.is_near(**id)).max_by_key(|id| self.matched.get(id)).copied()
    }

    fn lag(&self, node_id: NodeId) -> u64 {
        self.last.saturating_sub(self.matched.get(&node_id).copied().unwrap_or(0))
    }

    fn is_near(&self, node_id: NodeId) -> bool {
        let keeps_pace = |matched: &u64| self.last_before.is_some_and(|before| *matched >= before);
        let near = |matched| self.lag(node_id) <= LAG_MAX || keeps_pace(matched);
        node_id == self.me || self.matched.get(&node_id).is_some_and(near)
    }

    pub(super) fn address(&self, node_id: NodeId) -> String {
        self.nodes.get(&node_id).map(|member| member.raft_address.clone()).unwrap_or_default()
    }
}

fn member(address: &str, whoami: &Whoami) -> Member {
    Member { raft_address: address.to_owned(), api_address: whoami.api_address.clone() }
}

fn with(voters: &BTreeSet<NodeId>, node_id: NodeId) -> BTreeSet<NodeId> {
    voters.iter().copied().chain([node_id]).collect()
}

fn without(voters: &BTreeSet<NodeId>, node_id: NodeId) -> BTreeSet<NodeId> {
    voters.iter().copied().filter(|id| *id != node_id).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
