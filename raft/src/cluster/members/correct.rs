//! Corrects the addresses of members that have moved.
//!
//! By hand that is `replace` of a member by itself at its new address. The leader does the same by itself, for
//! members that are silent where the membership says, and answer elsewhere by their id (`reach`). All of them
//! change in one entry: servers may have got each other's addresses.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::ChangeMembers;
use tokio::time::timeout;

use super::Changes;
use crate::address::is_loopback;
use crate::cluster::contacts::Contacts;
use crate::limits::STEP_TIMEOUT;
use crate::network::Whoami;
use crate::network::reach::{Claimed, Port};
use crate::types::{Member, NodeId};

/// The addresses at which a member is found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct At {
    raft: String,
    api: String,
}

/// What the membership should say of members that it has wrong. A member keeps what is said of it if another
/// one would have the same address, or if the others could not reach it: loopback is another host to each.
fn corrections(nodes: &BTreeMap<NodeId, Member>, at: &BTreeMap<NodeId, At>) -> BTreeMap<NodeId, Member> {
    let corrected = |id: &NodeId, member: &Member| match at.get(id) {
        Some(At { raft, api }) => Member { raft_address: raft.clone(), api_address: api.clone() },
        None => member.clone(),
    };
    let mut after: BTreeMap<NodeId, Member> =
        nodes.iter().map(|(id, member)| (*id, corrected(id, member))).collect();
    let is_near = |member: &Member| is_loopback(&member.raft_address) || is_loopback(&member.api_address);
    loop {
        let mut by_address: BTreeMap<&str, NodeId> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (id, member) in &after {
            let others = || after.iter().filter(|(other, _)| *other != id).map(|(_, other)| other);
            if is_near(member) && others().any(|other| !is_loopback(&other.raft_address)) {
                wrong.push(*id);
            }
            match by_address.entry(&member.raft_address) {
                Entry::Vacant(free) => drop(free.insert(*id)),
                Entry::Occupied(taken) => wrong.extend([*id, *taken.get()]),
            }
        }
        wrong.retain(|id| after[id] != nodes[id]);
        if wrong.is_empty() {
            break;
        }
        for id in wrong {
            after.insert(id, nodes[&id].clone());
        }
    }
    after.retain(|id, member| *member != nodes[id]);
    after
}

impl Changes {
    /// On the leader: lets the membership say where members are, if it does not.
    pub(in crate::cluster) async fn correct_members(&self) {
        let metrics = self.leadership.metrics();
        let membership = metrics.membership_config.membership();
        let leads = self.leadership.leader().is_some_and(|(id, _)| id == metrics.id);
        if !leads || membership.get_joint_config().len() > 1 {
            return;
        }
        let nodes: BTreeMap<NodeId, Member> = membership
            .nodes()
            .filter(|(id, _)| !self.stores.index.is_tombstone(**id))
            .map(|(id, member)| (*id, member.clone()))
            .collect();
        let at = nodes.iter().map(|(id, member)| (*id, self.place_of(*id, member))).collect();
        let mut corrections = corrections(&nodes, &at);
        if corrections.is_empty() {
            return;
        }
        let mut verified = BTreeMap::new();
        while let Some((id, member)) = corrections.pop_first() {
            if self.is_verified(&nodes, id, &member).await {
                verified.insert(id, member);
            }
        }
        // What nobody can verify must not keep an operator from his changes.
        let Ok(_only) = self.changing.try_acquire() else { return };
        let now = self.leadership.metrics();
        let unchanged = now.membership_config.log_id() == metrics.membership_config.log_id();
        if verified.is_empty() || !unchanged {
            return;
        }
        for (node_id, member) in &verified {
            let (raft, api) = (&member.raft_address, &member.api_address);
            let was = &nodes[node_id].raft_address;
            tracing::info!(node_id, raft, api, was, "a member has moved: corrects the membership");
        }
        match timeout(STEP_TIMEOUT, self.change(ChangeMembers::SetNodes(verified), true)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not correct the addresses of members"),
            Err(_) => tracing::warn!("the corrected addresses of members wait for a quorum"),
        }
    }

    /// Where a member is as far as this node knows.
    fn place_of(&self, node_id: NodeId, member: &Member) -> At {
        let Contacts { identity, whereabouts, .. } = &self.contacts;
        if node_id == identity.node_id {
            let raft = identity.raft_address().unwrap_or_else(|| member.raft_address.clone());
            return At { raft, api: identity.api_address() };
        }
        let api = whereabouts.api(node_id).unwrap_or_else(|| member.api_address.clone());
        At { raft: whereabouts.address(node_id, member), api }
    }

    /// Whether the member answers where it should be from now on, and no longer where it was. A name that
    /// works stays, also beside another one; so does an address that a second process answers at.
    async fn is_verified(&self, nodes: &BTreeMap<NodeId, Member>, node_id: NodeId, after: &Member) -> bool {
        let Contacts { identity, client, .. } = &self.contacts;
        let before = &nodes[&node_id];
        let own_cluster = identity.cluster_id().map(|id| id.to_string());
        let is_it = |whoami: &Whoami| whoami.node_id == node_id && whoami.cluster_id == own_cluster;
        let is_self = node_id == identity.node_id;
        let new = client.whoami(&after.raft_address).await.ok().filter(is_it);
        let Some(new) = new.filter(|new| !is_self || new.boot_nonce == identity.boot_nonce) else {
            return false;
        };
        if new.api_address != after.api_address {
            return false;
        }
        let leaves_loopback = is_loopback(&before.raft_address) && !is_loopback(&after.raft_address);
        if before.raft_address == after.raft_address {
            return true;
        }
        if is_self && !self.others_find_me(nodes, after, leaves_loopback).await {
            return false;
        }
        if is_self && leaves_loopback {
            return true;
        }
        !client.whoami(&before.raft_address).await.ok().is_some_and(|old| is_it(&old))
    }

    /// Whether another member reaches this node at `after`, and none reaches it where the membership says, unless
    /// that is a loopback address to be left. Behind a NAT a node may reach itself only at the address that nobody
    /// else does, and not at the one that all others use.
    async fn others_find_me(
        &self,
        nodes: &BTreeMap<NodeId, Member>,
        after: &Member,
        leaves_loopback: bool,
    ) -> bool {
        let me = self.contacts.identity.node_id;
        let others = nodes.iter().filter(|(id, _)| **id != me);
        let others: Vec<String> = others.map(|(id, member)| self.contacts.address(*id, member)).collect();
        if others.is_empty() {
            return true;
        }
        let stays = !leaves_loopback && self.is_found_at(&others, &nodes[&me]).await;
        !stays && self.is_found_at(&others, after).await
    }

    /// Whether one of `others` reaches this node's raft port at that place.
    async fn is_found_at(&self, others: &[String], place: &Member) -> bool {
        let scout = self.contacts.scout();
        let Member { raft_address, api_address } = place.clone();
        let claimed = [Claimed { node_id: self.contacts.identity.node_id, raft_address, api_address }];
        let mut asked: FuturesUnordered<_> = others.iter().map(|other| scout.ask(other, &claimed)).collect();
        while let Some(answer) = asked.next().await {
            if answer.is_ok_and(|unreached| unreached.iter().all(|one| one.port != Port::Raft)) {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(places: &[(NodeId, &str, &str)]) -> BTreeMap<NodeId, Member> {
        let member =
            |raft: &str, api: &str| Member { raft_address: raft.to_owned(), api_address: api.to_owned() };
        places.iter().map(|(id, raft, api)| (*id, member(raft, api))).collect()
    }

    #[test]
    fn what_is_wrong_is_corrected_and_what_would_be_worse_is_not() {
        type Places<'a> = &'a [(NodeId, &'a str, &'a str)];
        let three: Places = &[(1, "a:1", "a:2"), (2, "b:1", "b:2"), (3, "c:1", "c:2")];
        let cases: [(&str, Places, Places, Places); 8] = [
            ("all is right", three, three, &[]),
            ("one moves", three, &[(2, "d:1", "d:2")], &[(2, "d:1", "d:2")]),
            ("an API moves", three, &[(2, "b:1", "b:9")], &[(2, "b:1", "b:9")]),
            (
                "they change places",
                three,
                &[(1, "b:1", "b:2"), (2, "c:1", "c:2"), (3, "a:1", "a:2")],
                &[(1, "b:1", "b:2"), (2, "c:1", "c:2"), (3, "a:1", "a:2")],
            ),
            ("the address is another's", three, &[(2, "c:1", "c:2")], &[]),
            (
                "the other one's correction falls, so this one's does",
                three,
                &[(1, "b:1", "b:2"), (2, "127.0.0.1:1", "b:2")],
                &[],
            ),
            ("two claim one address", three, &[(1, "d:1", "d:2"), (2, "d:1", "d:2")], &[]),
            ("loopback beside others", three, &[(1, "127.0.0.1:1", "a:2"), (2, "b:1", "localhost:2")], &[]),
        ];
        for (what, before, at, expected) in cases {
            let place = |(id, raft, api): &(NodeId, &str, &str)| {
                (*id, At { raft: (*raft).to_owned(), api: (*api).to_owned() })
            };
            let at = at.iter().map(place).collect();
            assert_eq!(corrections(&members(before), &at), members(expected), "{what}");
        }
        let near = members(&[(1, "127.0.0.1:1", "127.0.0.1:2"), (2, "127.0.0.1:3", "127.0.0.1:4")]);
        let at = BTreeMap::from([(2, At { raft: "127.0.0.1:5".to_owned(), api: "127.0.0.1:4".to_owned() })]);
        assert_eq!(corrections(&near, &at).len(), 1, "all on one host");
    }
}
