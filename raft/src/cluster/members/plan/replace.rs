//! A server takes the place of a member, or turns out to be that member at another address.

use std::collections::BTreeSet;

use super::{Action, Admission, View, member, with, without};
use crate::cluster::bootstrap::Seen;
use crate::cluster::members::{Refusal, Who};
use crate::network::Whoami;
use crate::types::NodeId;

pub(super) fn replace(view: &View, old: &Who, address: &str, newcomer: &Seen) -> Result<Action, Refusal> {
    let new = newcomer.as_ref().ok().map(|whoami| whoami.node_id);
    let old = view.old(old, address, new)?;
    if let (Some(old), Ok(whoami)) = (old, newcomer)
        && old == whoami.node_id
    {
        return view.readdress(old, address, whoami);
    }
    let (new, votes) = match view.admit(address, newcomer, old)? {
        Admission::Next(action) => return Ok(action),
        Admission::Voter(new) => (new, true),
        Admission::Ready(new) => (new, false),
    };
    let Some(old) = old else {
        if votes {
            let message = format!("server {new:016x} at {address} is a voter, the old one is gone");
            return Ok(Action::Done { node_id: Some(new), message });
        }
        view.check_quorum("adding this server", &with(&view.voters, new))?;
        return Ok(Action::Promote { node_ids: BTreeSet::from([new]) });
    };
    let after = without(&with(&view.voters, new), old);
    view.check_quorum("replacing this server", &after)?;
    if old != view.me {
        return Ok(Action::Swap { old, new });
    }
    match view.successor() {
        Some(to) => Ok(Action::HandOver { to }),
        // Nobody else could take over from the only voter.
        None => Ok(Action::Promote { node_ids: BTreeSet::from([new]) }),
    }
}

impl View {
    /// The member to be replaced; `None` if it is gone already.
    fn old(&self, old: &Who, address: &str, new: Option<NodeId>) -> Result<Option<NodeId>, Refusal> {
        let Who::Address(text) = old else {
            return match self.find(old) {
                Err(Refusal::NoMember { .. }) if self.is_gone(old) => Ok(None),
                found => found.map(Some),
            };
        };
        let at = self.nodes.iter().filter(|(_, member)| member.raft_address == *text);
        // A wiped server comes back at its old address, and is another one there.
        let others = at.filter(|(id, _)| *text != address || Some(**id) != new).map(|(id, _)| *id);
        let others: Vec<NodeId> = others.collect();
        match others.as_slice() {
            [] if new.is_some_and(|new| self.voters.contains(&new)) => Ok(None),
            [] => Err(self.no_member(old)),
            [one] => Ok(Some(*one)),
            _ => Err(Refusal::Ambiguous { address: text.clone(), ids: others }),
        }
    }

    fn readdress(&self, node_id: NodeId, address: &str, whoami: &Whoami) -> Result<Action, Refusal> {
        let taken = self.nodes.iter().find(|(id, m)| m.raft_address == address && **id != node_id);
        if let Some((&by, _)) = taken {
            return Err(Refusal::AddressTaken { address: address.to_owned(), by, is: node_id });
        }
        self.check_one_process(address, whoami)?;
        self.check_reach(address, whoami)?;
        let member = member(address, whoami);
        if self.nodes.get(&node_id) != Some(&member) {
            return Ok(Action::Readdress { node_id, member });
        }
        let message = format!("server {node_id:016x} is at {address}");
        Ok(Action::Done { node_id: Some(node_id), message })
    }

    /// Who has moved is not where it was: if another process answers there by the same id, one of them
    /// runs on a copy of the other's folder, and both would vote.
    pub(super) fn check_one_process(&self, address: &str, whoami: &Whoami) -> Result<(), Refusal> {
        let node_id = whoami.node_id;
        let known = self.address(node_id);
        let other = self.answering.get(&node_id).is_some_and(|nonce| *nonce != whoami.boot_nonce);
        if other && known != address {
            return Err(Refusal::Copy { node_id, address: address.to_owned(), known });
        }
        Ok(())
    }
}
