//! What a leader does about disks that are getting full, its own and those of the others: each second it asks for
//! them. With a low disk it hands leadership to a voter with room. When too few voters have room to commit anything,
//! it takes no writes: none would ever be acknowledged. All of it ends by itself when there is room again.
//!
//! `plan`: what is to be done; pure.

mod plan;

use std::sync::Arc;

use futures_util::future::join_all;
use openraft::metrics::RaftMetrics;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::format::Reads;
use crate::limits::DISK_ASK_INTERVAL;
use crate::network::peer::Refusing;
use crate::space::{DiskSpace, Fullness, Guard, NoRoom, VoterWithoutRoom};
use crate::types::{NodeId, TypeConfig};

use super::contacts::Contacts;
use super::disks::{DiskState, Disks};
use super::handover::Handover;
use super::leadership::Leadership;
use plan::{Plan, plan};

/// The task that asks the members for their disks.
pub(super) struct LeadersRoom {
    pub(super) guard: Arc<Guard>,
    pub(super) disks: Arc<Disks>,
    pub(super) refusing: Refusing,
    pub(super) contacts: Contacts,
    pub(super) leadership: Leadership,
    pub(super) handover: Handover,
    pub(super) stop: CancellationToken,
}

impl LeadersRoom {
    /// While this node leads: asks the others for their disks and does what follows, until it stops.
    pub(super) async fn run(&self) {
        let stop = &self.stop;
        let mut ticks = interval(DISK_ASK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if self.leadership.is_own() {
                stop.run_until_cancelled(self.ask_and_act()).await;
            } else {
                self.guard.set_no_room(None);
                self.disks.clear();
            }
        }
    }

    async fn ask_and_act(&self) {
        let metrics = self.leadership.metrics();
        self.ask_disks().await;
        let candidates = self.handover.candidates();
        let others: Vec<NodeId> = candidates.iter().map(|(id, _)| *id).collect();
        let configs = metrics.membership_config.membership().get_joint_config().clone();
        let low = self.guard.fullness() > Fullness::Fine;
        let no_room = match plan(metrics.id, low, &configs, &others, &self.disks.states()) {
            Plan::GoOn => None,
            Plan::Refuse => Some(self.reason(&metrics)),
            Plan::HandOver(to) => {
                if self.guard.fullness() == Fullness::Critical {
                    self.guard.set_no_room(Some(self.reason_alone()));
                }
                tracing::warn!("the disk is low: another server should lead");
                let mut to = candidates.into_iter().filter(|(id, _)| to.contains(id));
                if self.handover.hand_over_to_any(&mut to).await { None } else { Some(self.reason_alone()) }
            }
        };
        match (&no_room, self.guard.no_room()) {
            (Some(reason), None) => tracing::warn!(%reason, "this leader takes no writes"),
            (None, Some(_)) => tracing::info!("this leader takes writes again"),
            _ => {}
        }
        self.guard.set_no_room(no_room);
    }

    async fn ask_disks(&self) {
        let others = self.contacts.other_members();
        let answers = join_all(others.iter().map(|(id, member)| async move {
            let answer = self.contacts.ask(*id, member).await?;
            self.contacts.whereabouts.note_api(*id, &answer.api_address);
            Some((*id, answer.disk, answer.reads))
        }));
        let answers: Vec<(NodeId, Option<DiskSpace>, Reads)> = answers.await.into_iter().flatten().collect();
        let has_room = |disk: &Option<DiskSpace>| !disk.as_ref().is_some_and(|disk| disk.low);
        let again = answers.iter().filter(|(_, disk, _)| has_room(disk)).map(|(id, ..)| *id);
        let again: Vec<NodeId> = again.filter(|id| self.refusing.forget(*id)).collect();
        self.disks.note(answers);
        if !again.is_empty() {
            tracing::info!(?again, "members have room again");
            self.leadership.raft.trigger().reset_backoff(again).await.ok();
        }
    }

    /// Why there are no writes as long as no other server leads.
    fn reason_alone(&self) -> NoRoom {
        NoRoom::Leader { disk: self.guard.disk() }
    }

    /// Why there are no writes, for clients and operators.
    fn reason(&self, metrics: &RaftMetrics<TypeConfig>) -> NoRoom {
        let membership = metrics.membership_config.membership();
        let voters = || membership.voter_ids();
        let own = self.guard.disk().filter(|disk| disk.low);
        let alone = voters().eq([metrics.id]);
        if let Some(disk) = own.clone().filter(|_| alone) {
            return NoRoom::OnlyVoter { disk };
        }
        let at = |id: NodeId| {
            membership.get_node(&id).map_or_else(String::new, |member| member.raft_address.clone())
        };
        let of = |id: NodeId| if id == metrics.id { own.clone() } else { self.disks.get(id) };
        let seen = self.disks.states();
        let without_room = |id: NodeId| match of(id).filter(|disk| disk.low) {
            Some(disk) => Some(VoterWithoutRoom { raft_address: at(id), disk: Some(disk) }),
            None if id != metrics.id && seen.get(&id).is_none_or(|seen| *seen == DiskState::Silent) => {
                Some(VoterWithoutRoom { raft_address: at(id), disk: None })
            }
            None => None,
        };
        NoRoom::Majority { voters: voters().filter_map(without_room).collect() }
    }
}
