//! A disk that is getting full.
//!
//! A node looks at the room in its data folder, twice a second, and writes nothing for it. Below the
//! minimum it is *low*: it stores no more entries of others (507 in front of openraft; heartbeats and votes
//! pass, so that nobody starts an election because of it), does not stand for election as long as another
//! can win, purges its log hard, and as a leader hands leadership to a voter with room. When too few voters
//! have room to commit anything, the leader takes no writes: none would ever be acknowledged. Below an
//! eighth of the minimum the *ballast* is given back, for what must still be written. All of it ends by
//! itself when there is room again.
//!
//! The marks, and what a node still takes in, are in `crate::space`. `plan`: what a leader does; pure.

mod plan;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::disk::{Bytes, Disk, Fault, Space};
use crate::format::Reads;
use crate::limits::{
    BALLAST_AGAIN_AFTER, CANDIDATE_AFTER, DISK_ASK_INTERVAL, DISK_LOOK_INTERVAL, DISK_SILENT_AFTER,
};
use crate::space::{DiskSpace, Guard, Level};
use crate::types::{NodeId, TypeConfig};

use super::{Inner, Node};
use plan::{Plan, Seen, plan};

/// Before the stores are opened, which may want to write: on a disk that is full already the ballast goes.
pub(super) fn prepare(disk: &dyn Disk, guard: &Guard) {
    // What cannot be seen now is told at the first look of the task.
    let Ok(Some(space)) = disk.space() else { return };
    if guard.look(space).1 == Level::Critical {
        give_back(disk);
        if let Ok(Some(space)) = disk.space() {
            guard.look(space);
        }
    }
}

fn give_back(disk: &dyn Disk) {
    match disk.ballast().and_then(|bytes| disk.set_ballast(0).map(|()| bytes)) {
        Ok(0) => {}
        Ok(bytes) => tracing::warn!(
            folder = disk.place(),
            "the disk is nearly full: frees the {} that were reserved for the last writes",
            Bytes(bytes)
        ),
        Err(error) => tracing::warn!(
            %error,
            folder = disk.place(),
            "could not free the space that is reserved for the last writes"
        ),
    }
}

/// What a leader knows of the others, as they last said: their disks, and what they can read.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<BTreeMap<NodeId, Heard>>);

#[derive(Clone, Debug)]
struct Heard {
    at: Instant,
    /// `None`: without bounds, or of a version that does not say.
    disk: Option<DiskSpace>,
    /// What it can read.
    reads: Reads,
}

impl Disks {
    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heard>> {
        self.0.lock().expect("nothing panics while it holds the disks")
    }

    /// As that node last told.
    pub(super) fn get(&self, node_id: NodeId) -> Option<DiskSpace> {
        self.all().get(&node_id)?.disk.clone()
    }

    /// What it can read, if it said so a moment ago.
    pub(super) fn reads(&self, node_id: NodeId) -> Option<Reads> {
        self.all()
            .get(&node_id)
            .filter(|heard| heard.at.elapsed() < DISK_SILENT_AFTER)
            .map(|heard| heard.reads)
    }

    /// Whether it last told that it is low.
    pub(super) fn is_low(&self, node_id: NodeId) -> bool {
        self.get(node_id).is_some_and(|disk| disk.low)
    }

    fn note(&self, heard: impl Iterator<Item = (NodeId, Heard)>) {
        self.all().extend(heard);
    }

    fn seen(&self) -> BTreeMap<NodeId, Seen> {
        let seen = |heard: &Heard| match &heard.disk {
            _ if heard.at.elapsed() >= DISK_SILENT_AFTER => Seen::Silent,
            Some(disk) if disk.low => Seen::Low,
            _ => Seen::Fine,
        };
        self.all().iter().map(|(id, heard)| (*id, seen(heard))).collect()
    }
}

/// The ballast and the elections, between two looks.
struct Watch {
    /// When there last was a leader.
    led: Instant,
    /// Whether openraft may stand for election.
    electable: bool,
    /// Not before this a ballast is made.
    ballast_from: Instant,
    /// The last look failed; that is told once.
    blind: bool,
}

impl Watch {
    fn read(&mut self, disk: &dyn Disk) -> Option<Space> {
        let space = disk.space();
        if let Err(error) = &space
            && !self.blind
        {
            tracing::warn!(%error, folder = disk.place(), "could not see how much room the disk has");
        }
        self.blind = space.is_err();
        space.ok().flatten()
    }
}

impl Inner {
    /// Looks at the own disk until the node stops, or the disk fails.
    pub(super) async fn watch_space(&self) -> Result<(), Fault> {
        let now = Instant::now();
        let mut watch = Watch { led: now, electable: true, ballast_from: now, blind: false };
        let mut ticks = interval(DISK_LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Some(fault) = self.env.disk.fault() {
                return Err(fault);
            }
            // The kernel answers from memory.
            if let Some(space) = watch.read(self.env.disk.as_ref()) {
                self.note(space);
                self.keep_ballast(space, &mut watch).await;
            }
            self.allow_election(&mut watch);
        }
        Ok(())
    }

    fn note(&self, space: Space) {
        let (before, after) = self.guard.look(space);
        let Some(disk) = self.guard.disk().filter(|_| before != after) else { return };
        match after {
            Level::Fine => tracing::info!(%disk, "the disk has room again"),
            Level::Low => tracing::warn!(
                %disk,
                "the disk has too little free space: this server stores no more writes until some is freed"
            ),
            Level::Critical => tracing::error!(%disk, "the disk is nearly full: free space now"),
        }
    }

    async fn keep_ballast(&self, space: Space, watch: &mut Watch) {
        let marks = self.guard.marks_of(space.total_bytes);
        let Ok(has) = self.env.disk.ballast() else { return };
        let without = Space { free_bytes: space.free_bytes + has, ..space };
        let level = self.guard.level();
        if has > 0 && (level == Level::Critical || marks.ballast == 0) {
            give_back(self.env.disk.as_ref());
        } else if level == Level::Fine
            && has != marks.ballast
            && marks.has_room_for_ballast(without)
            && Instant::now() >= watch.ballast_from
        {
            let disk = self.env.disk.clone();
            // Where the file system cannot allocate it is written, which takes a while.
            let made = self.env.threads.blocking(move || disk.set_ballast(marks.ballast)).await;
            if let Ok(Err(error)) = made {
                tracing::warn!(
                    %error,
                    folder = self.env.disk.place(),
                    "could not reserve space for the last writes on a full disk"
                );
                watch.ballast_from = Instant::now() + BALLAST_AGAIN_AFTER;
            }
        }
    }

    /// A node that stores nothing should not lead while others can; when nobody else does, it is better
    /// than nobody: keepalives need a leader.
    fn allow_election(&self, watch: &mut Watch) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state.is_leader() || self.heard.within(DISK_LOOK_INTERVAL * 2) {
            watch.led = Instant::now();
        }
        let alone = metrics.membership_config.membership().voter_ids().eq([metrics.id]);
        let low = self.guard.level() > Level::Fine;
        let electable = !low || alone || watch.led.elapsed() >= CANDIDATE_AFTER;
        if electable != watch.electable {
            watch.electable = electable;
            self.raft.runtime_config().elect(electable);
        }
    }
}

impl Node {
    /// On the leader: why no writes are taken, if that is so. The disks of too many voters are low.
    pub fn no_room(&self) -> Option<String> {
        self.inner.guard.no_room().filter(|_| self.is_leader())
    }

    /// The disk of this node; `None` if it has no bounds, or could not be looked at.
    pub fn disk(&self) -> Option<DiskSpace> {
        self.inner.guard.disk()
    }

    /// What an operator should know of the disks.
    pub(super) fn disk_reason(&self) -> Option<String> {
        if let Some(reason) = self.no_room() {
            return Some(format!("no writes: {reason}"));
        }
        let disk = self.disk().filter(|disk| disk.low)?;
        Some(format!("the disk is low, no more entries are stored: {disk}"))
    }

    /// While this node leads: asks the others for their disks and does what follows, until it stops.
    pub(super) async fn lead_with_room(&self) {
        let stop = &self.inner.stop;
        let mut ticks = interval(DISK_ASK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if self.is_leader() {
                stop.run_until_cancelled(self.ask_and_act()).await;
            } else {
                self.inner.guard.set_no_room(None);
                self.inner.disks.all().clear();
            }
        }
    }

    async fn ask_and_act(&self) {
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        inner.ask_disks(&metrics).await;
        let candidates = self.candidates();
        let others: Vec<NodeId> = candidates.iter().map(|(id, _)| *id).collect();
        let configs = metrics.membership_config.membership().get_joint_config().clone();
        let low = inner.guard.level() > Level::Fine;
        let no_room = match plan(metrics.id, low, &configs, &others, &inner.disks.seen()) {
            Plan::GoOn => None,
            Plan::Refuse => Some(inner.reason(&metrics)),
            Plan::HandOver(to) => {
                if inner.guard.level() == Level::Critical {
                    inner.guard.set_no_room(Some(inner.reason_alone()));
                }
                tracing::warn!("the disk is low: another server should lead");
                let mut to = candidates.into_iter().filter(|(id, _)| to.contains(id));
                if self.hand_over_to_any(&mut to).await { None } else { Some(inner.reason_alone()) }
            }
        };
        match (&no_room, inner.guard.no_room()) {
            (Some(reason), None) => tracing::warn!(reason, "takes no writes"),
            (None, Some(_)) => tracing::info!("takes writes again"),
            _ => {}
        }
        inner.guard.set_no_room(no_room);
    }
}

impl Inner {
    async fn ask_disks(&self, metrics: &RaftMetrics<TypeConfig>) {
        let membership = metrics.membership_config.membership();
        let others = membership.nodes().filter(|(id, _)| **id != metrics.id);
        let answers = join_all(others.map(|(id, member)| async move {
            let answer = self.client.whoami(&self.whereabouts.address(*id, member)).await.ok()?;
            if answer.node_id != *id {
                return None;
            }
            self.whereabouts.note_api(*id, &answer.api_address);
            Some((*id, answer.disk, answer.reads))
        }));
        let answers: Vec<(NodeId, Option<DiskSpace>, Reads)> = answers.await.into_iter().flatten().collect();
        let has_room = |disk: &Option<DiskSpace>| !disk.as_ref().is_some_and(|disk| disk.low);
        let again = answers.iter().filter(|(_, disk, _)| has_room(disk)).map(|(id, ..)| *id);
        let again: Vec<NodeId> = again.filter(|id| self.refusing.forget(*id)).collect();
        let at = Instant::now();
        self.disks.note(answers.into_iter().map(|(id, disk, reads)| (id, Heard { at, disk, reads })));
        if !again.is_empty() {
            tracing::info!(?again, "have room again");
            self.raft.trigger().reset_backoff(again).await.ok();
        }
    }

    /// Why there are no writes as long as no other server leads.
    fn reason_alone(&self) -> String {
        let disk = self.guard.disk().map_or_else(String::new, |disk| disk.to_string());
        format!("the disk of the leader is low, and no other server has taken over yet: {disk}")
    }

    /// Why there are no writes, for clients and operators.
    fn reason(&self, metrics: &RaftMetrics<TypeConfig>) -> String {
        let membership = metrics.membership_config.membership();
        let voters = || membership.voter_ids();
        let own = self.guard.disk().filter(|disk| disk.low);
        let alone = voters().eq([metrics.id]);
        if let Some(disk) = own.as_ref().filter(|_| alone) {
            return format!("the disk is low: {disk}");
        }
        let at = |id: NodeId| membership.get_node(&id).map_or("", |member| member.raft_address.as_str());
        let of = |id: NodeId| if id == metrics.id { own.clone() } else { self.disks.get(id) };
        let seen = self.disks.seen();
        let tell = |id: NodeId| match of(id).filter(|disk| disk.low) {
            Some(disk) => Some(format!("{}: {disk}", at(id))),
            None if id != metrics.id && seen.get(&id).is_none_or(|seen| *seen == Seen::Silent) => {
                Some(format!("{} does not answer", at(id)))
            }
            None => None,
        };
        let told: Vec<String> = voters().filter_map(tell).collect();
        format!("the disks of too many servers are low ({})", told.join("; "))
    }
}
