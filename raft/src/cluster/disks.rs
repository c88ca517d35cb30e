//! What a leader knows of the other members, as they last said: their disks, and what they can read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use tokio::time::Instant;

use crate::format::Reads;
use crate::limits::DISK_SILENT_AFTER;
use crate::space::DiskSpace;
use crate::types::NodeId;

/// What the leader knows of another voter's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskState {
    /// The disk has room, or the member has a version that does not say.
    Fine,
    /// The disk is low: the member takes no entries.
    Low,
    /// The member does not answer.
    Silent,
}

/// What a leader knows of the others, as they last said: their disks, and what they can read.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<BTreeMap<NodeId, Heard>>);

#[derive(Clone, Debug)]
struct Heard {
    at: Instant,
    /// `None`: without bounds, or of a version that does not say.
    disk: Option<DiskSpace>,
    /// Levels that the member can read.
    reads: Reads,
}

impl Disks {
    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heard>> {
        self.0.lock().expect("nothing panics while it holds the disks")
    }

    /// The disk of a member, as the member last reported it.
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

    /// What members have just said.
    pub(super) fn note(&self, answers: Vec<(NodeId, Option<DiskSpace>, Reads)>) {
        let at = Instant::now();
        let heard = answers.into_iter().map(|(id, disk, reads)| (id, Heard { at, disk, reads }));
        self.all().extend(heard);
    }

    /// Nothing is known any more.
    pub(super) fn clear(&self) {
        self.all().clear();
    }

    /// How all of them are by now.
    pub(super) fn states(&self) -> BTreeMap<NodeId, DiskState> {
        let state = |heard: &Heard| match &heard.disk {
            _ if heard.at.elapsed() >= DISK_SILENT_AFTER => DiskState::Silent,
            Some(disk) if disk.low => DiskState::Low,
            _ => DiskState::Fine,
        };
        self.all().iter().map(|(id, heard)| (*id, state(heard))).collect()
    }
}
