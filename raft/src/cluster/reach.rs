//! Keeps the other members in reach: one warm connection to each, and a search for those that have moved.
//!
//! Every member is asked for this node's standing every second or two, by the connection that votes take as well,
//! so that an election needs neither a new connection nor DNS. A member that does not answer is looked for:
//! where the membership says, where it says itself that it is, and at the entries of `--cluster`, which are
//! hints and no more than that. Who answers `whoami` there with its id and our cluster is that member, and is
//! spoken to there from now on. The leader then corrects the membership (`members/correct`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use hyper::StatusCode;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::limits::{LOOKUP_INTERVAL_MAX, REACH_ROUND_INTERVAL, REACH_WARM_INTERVAL};
use crate::network::Whoami;
use crate::network::client::CallError;
use crate::network::names::{self, split};
use crate::types::{Member, NodeId};

use super::contacts::Contacts;
use super::members::Changes;
use super::stores::Stores;

/// What the task remembers from one round to the next.
#[derive(Default)]
struct Rounds {
    /// When members last answered.
    answered: BTreeMap<NodeId, Instant>,
    /// When this node last looked for itself.
    sought: Option<Instant>,
    /// What is on disk of the addresses of names; none: not read yet.
    stored: Option<BTreeMap<String, IpAddr>>,
}

/// The task that keeps the other members in reach.
pub(super) struct Reach {
    pub(super) contacts: Contacts,
    pub(super) stores: Stores,
    pub(super) changes: Arc<Changes>,
    pub(super) stop: CancellationToken,
}

impl Reach {
    /// Keeps the other members in reach until the node stops.
    pub(super) async fn run(&self) {
        let mut rounds = Rounds::default();
        let mut ticks = interval(REACH_ROUND_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let round = async {
                self.round(&mut rounds).await;
                self.changes.correct_members().await;
                self.keep_names(&mut rounds).await;
            };
            self.stop.run_until_cancelled(round).await;
        }
    }

    async fn round(&self, rounds: &mut Rounds) {
        let others: BTreeMap<NodeId, Member> = self.contacts.other_members().into_iter().collect();
        self.contacts.whereabouts.retain(|id| others.contains_key(&id));
        rounds.answered.retain(|id, _| others.contains_key(id));
        let is_due =
            |id: &NodeId| rounds.answered.get(id).is_none_or(|at| at.elapsed() >= REACH_WARM_INTERVAL);
        let due = others.iter().filter(|(id, _)| is_due(id));
        let asked = join_all(due.map(|(id, member)| async move { (*id, self.touch(*id, member).await) }));
        let mut silent = BTreeMap::new();
        for (id, answers) in asked.await {
            if answers {
                rounds.answered.insert(id, Instant::now());
                self.contacts.whereabouts.answers(id);
            } else if self.contacts.whereabouts.is_silent(id) {
                silent.insert(id, others[&id].clone());
            }
        }
        let is_lost = !others.is_empty() && self.contacts.identity.raft_address().is_none();
        if !silent.is_empty()
            || (is_lost && rounds.sought.is_none_or(|at| at.elapsed() >= REACH_WARM_INTERVAL))
        {
            rounds.sought = Some(Instant::now());
            self.seek(&silent).await;
        }
    }

    /// Whether a member answers where it should be.
    async fn touch(&self, node_id: NodeId, member: &Member) -> bool {
        let Some(header) = self.contacts.identity.header(node_id) else { return false };
        let address = self.contacts.whereabouts.address(node_id, member);
        match self.contacts.say_where(&address, header).await {
            Ok(()) => true,
            Err(error) => {
                self.contacts.identity.hear(&error);
                let elsewhere = [StatusCode::MISDIRECTED_REQUEST, StatusCode::NOT_FOUND];
                matches!(error, CallError::Refused { status, .. } if !elsewhere.contains(&status))
            }
        }
    }

    /// Asks everywhere for the members that are silent, and for this node itself.
    async fn seek(&self, silent: &BTreeMap<NodeId, Member>) {
        let listed = silent.values().map(|member| member.raft_address.clone());
        let claimed = silent.keys().filter_map(|id| self.contacts.whereabouts.claimed(*id));
        let hints = self.contacts.hints().cloned();
        let mut places: Vec<String> = Vec::new();
        for place in listed.chain(claimed).chain(hints) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let answers = join_all(places.iter().map(|place| self.contacts.client.whoami(place))).await;
        let own_cluster = self.contacts.identity.cluster_id().map(|id| id.to_string());
        let mut found = BTreeSet::new();
        for (place, answer) in places.iter().zip(answers) {
            let Ok(Whoami { node_id, boot_nonce, cluster_id, .. }) = answer else { continue };
            if boot_nonce == self.contacts.identity.boot_nonce {
                if self.contacts.identity.raft_address().is_none() {
                    self.contacts.identity.set_raft_address(place);
                }
                continue;
            }
            let Some(member) = silent.get(&node_id).filter(|_| cluster_id == own_cluster) else { continue };
            if found.insert(node_id) {
                if self.contacts.whereabouts.address(node_id, member) != *place {
                    let was = &member.raft_address;
                    tracing::info!(node_id, address = place, was, "found a member at another address");
                }
                self.contacts.whereabouts.found_at(node_id, member, place);
            }
        }
    }

    /// Has names looked up before somebody needs them, and keeps what is good for the next start.
    async fn keep_names(&self, rounds: &mut Rounds) {
        let others: BTreeMap<NodeId, Member> = self.contacts.other_members().into_iter().collect();
        let of_members = others.iter().flat_map(|(id, member)| {
            [
                self.contacts.whereabouts.address(*id, member),
                member.raft_address.clone(),
                member.api_address.clone(),
            ]
        });
        let hints = self.contacts.hints().cloned();
        let host = |address: String| split(&address).map(|(host, _)| host.to_owned());
        let needed: BTreeSet<String> = of_members.chain(hints).filter_map(host).collect();
        let known = self.contacts.client.names();
        known.retain(&needed);
        needed.iter().for_each(|host| known.ask(host, LOOKUP_INTERVAL_MAX));
        let good = known.good();
        if rounds.stored.is_none() {
            let disk = self.stores.disk.clone();
            rounds.stored = self.stores.threads.blocking(move || names::stored(disk.as_ref())).await.ok();
        }
        if rounds.stored.as_ref() == Some(&good) || !self.stores.guard.has_room_for_upkeep() {
            return;
        }
        let (disk, level, storing) = (self.stores.disk.clone(), self.contacts.identity.level(), good.clone());
        if let Ok(Err(error)) =
            self.stores.threads.blocking(move || names::store(disk.as_ref(), level, &storing)).await
        {
            tracing::warn!(%error, "could not note the addresses of the other servers");
        }
        // After a failure it is tried again with the next change.
        rounds.stored = Some(good);
    }
}
