//! The other servers: who they are, where they are, and how to ask them.

use std::sync::Arc;

use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver;

use crate::network::client::{CallError, RpcClient};
use crate::network::identity::Identity;
use crate::network::reach::{ApiPort, Scout};
use crate::network::whereabouts::Whereabouts;
use crate::network::{Header, Whoami};
use crate::state_machine::Raft;
use crate::types::{Member, NodeId};

/// What a node needs to find the other servers and to ask them; clones share it.
#[derive(Clone)]
pub(super) struct Contacts {
    pub(super) identity: Arc<Identity>,
    pub(super) raft: Raft,
    pub(super) client: RpcClient,
    pub(super) whereabouts: Whereabouts,
    /// Raft address of a member of the cluster that this node waits to be admitted to.
    pub(super) join: Option<String>,
    pub(super) api_port: Option<Arc<dyn ApiPort>>,
}

impl Contacts {
    /// The other members, as the membership has them.
    pub(super) fn other_members(&self) -> Vec<(NodeId, Member)> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let members = metrics.membership_config.membership().nodes();
        let others = members.filter(|(id, _)| **id != metrics.id);
        others.map(|(id, member)| (*id, member.clone())).collect()
    }

    /// Where a member is as far as this node knows: its raft address.
    pub(super) fn address(&self, node_id: NodeId, member: &Member) -> String {
        self.whereabouts.address(node_id, member)
    }

    /// What a member says of itself; `None` if it does not answer, or if another server answers in its place.
    pub(super) async fn ask(&self, node_id: NodeId, member: &Member) -> Option<Whoami> {
        let answer = self.client.whoami(&self.address(node_id, member)).await.ok()?;
        (answer.node_id == node_id).then_some(answer)
    }

    /// Raft addresses of servers that this node was started with.
    pub(super) fn hints(&self) -> impl Iterator<Item = &String> {
        self.identity.list.iter().chain(&self.join)
    }

    /// API addresses of the servers that this node was started with and that belong to a cluster.
    pub(super) async fn listed_apis(&self) -> Vec<String> {
        let answers = join_all(self.hints().map(|address| self.client.whoami(address))).await;
        let others = answers.into_iter().flatten();
        let others = others.filter(|other| other.boot_nonce != self.identity.boot_nonce);
        others.filter(|other| other.cluster_id.is_some()).map(|other| other.api_address).collect()
    }

    /// Asks whether messages of this node are heard at `address`, and says where it is.
    pub(super) async fn say_where(&self, address: &str, header: Header) -> Result<(), CallError> {
        let (level, own) = (self.identity.level(), self.identity.raft_address());
        self.client.standing(address, header, level, own).await
    }

    /// What looks whether servers are reached from here.
    pub(super) fn scout(&self) -> Scout {
        Scout { client: self.client.clone(), api: self.api_port.clone() }
    }
}
