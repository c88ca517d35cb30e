//! What this node may still take in, by the level of its disk: shared by the routes, the proposals and
//! the task that looks.

use std::sync::{Mutex, MutexGuard};

use openraft::EntryPayload;
use tokio::time::Instant;

use crate::command::Command;
use crate::disk::Space;
use crate::index::Room;
use crate::limits::{FLUSH_BYTES_MOST, LITTLE_ROOM, SNAPSHOT_ROOM_FACTOR, SNAPSHOT_WANTED_FOR};
use crate::types::Entry;

use super::DiskSpace;
use super::NoRoom;
use super::fullness::{Fullness, Marks};

/// Refused: the disk of this node is low.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk is low: {disk}")]
pub(crate) struct DiskLow {
    /// The disk that is low.
    pub(crate) disk: DiskSpace,
}

/// The disk as it was last seen, and what follows.
#[derive(Debug)]
pub(crate) struct Guard {
    setting: Option<u64>,
    folder: String,
    state: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    space: Option<Space>,
    fullness: Fullness,
    /// What is still taken of entries although the level is low.
    grace: u64,
    /// Entries or a snapshot have been refused since the level is low.
    refused: bool,
    /// What a snapshot would have needed, and until when that counts.
    wanted: Option<(u64, Instant)>,
    /// On a leader: why it takes no writes.
    no_room: Option<NoRoom>,
}

impl Guard {
    /// `setting` is the minimum of free bytes: see [`Marks::of`].
    pub(crate) fn new(setting: Option<u64>, folder: String) -> Self {
        Self { setting, folder, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().expect("nothing panics while it holds the state of the disk")
    }

    /// The marks of a disk of `total_bytes`, without what a snapshot wants.
    pub(crate) fn marks_of(&self, total_bytes: u64) -> Marks {
        Marks::of(self.setting, total_bytes)
    }

    fn marks(&self, state: &Seen, space: Space) -> Marks {
        let wanted = state.wanted.filter(|(_, until)| *until > Instant::now());
        self.marks_of(space.total_bytes).at_least(wanted.map_or(0, |(bytes, _)| bytes))
    }

    /// Notes what a look has found; the level before and after.
    pub(crate) fn look(&self, space: Space) -> (Fullness, Fullness) {
        let mut state = self.state();
        let marks = self.marks(&state, space);
        let before = state.fullness;
        state.space = Some(space);
        state.fullness = before.next(space.free_bytes, &marks);
        if before == Fullness::Fine {
            state.grace = marks.grace;
        }
        state.refused &= state.fullness > Fullness::Fine;
        (before, state.fullness)
    }

    /// How full the disk was at the last look.
    pub(crate) fn fullness(&self) -> Fullness {
        self.state().fullness
    }

    /// The disk as it was at the last look; `None` for a disk without bounds.
    pub(crate) fn disk(&self) -> Option<DiskSpace> {
        self.disk_in(&self.state())
    }

    fn disk_in(&self, state: &Seen) -> Option<DiskSpace> {
        let space = state.space?;
        Some(DiskSpace {
            folder: self.folder.clone(),
            free_bytes: space.free_bytes,
            total_bytes: space.total_bytes,
            minimum_bytes: self.marks(state, space).minimum,
            low: state.fullness > Fullness::Fine,
        })
    }

    fn low(&self, state: &Seen) -> Result<(), DiskLow> {
        match self.disk_in(state) {
            Some(disk) if disk.low => Err(DiskLow { disk }),
            _ => Ok(()),
        }
    }

    /// Whether entries of a leader may be stored. What is under way when the disk becomes low is, and what
    /// a change of leader or membership needs.
    pub(crate) fn admit_entries(&self, entries: &[Entry]) -> Result<(), DiskLow> {
        let bytes: u64 = entries.iter().map(weight).sum();
        let mut state = self.state();
        if state.fullness > Fullness::Fine {
            match state.grace.checked_sub(bytes) {
                Some(left) => state.grace = left,
                None => {
                    state.refused = true;
                    self.low(&state)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a snapshot may come in.
    pub(crate) fn admit_snapshot(&self) -> Result<(), DiskLow> {
        let mut state = self.state();
        state.refused |= state.fullness > Fullness::Fine;
        self.low(&state)
    }

    /// Whether what comes from the leader has been refused, and still would be.
    pub(crate) fn is_refusing(&self) -> bool {
        self.state().refused
    }

    /// Whether a snapshot of `bytes` may be installed. If not, the disk counts as low until there is room.
    pub(crate) fn admit_install(&self, bytes: u64) -> Result<(), DiskLow> {
        let mut state = self.state();
        let Some(space) = state.space else { return Ok(()) };
        let marks = self.marks_of(space.total_bytes);
        let wanted = marks.critical + SNAPSHOT_ROOM_FACTOR * bytes;
        if marks.minimum == 0 || space.free_bytes >= wanted {
            state.wanted = None;
            return Ok(());
        }
        state.wanted = Some((wanted, Instant::now() + SNAPSHOT_WANTED_FOR));
        state.fullness = state.fullness.next(space.free_bytes, &self.marks(&state, space));
        tracing::warn!(bytes, wanted, free = space.free_bytes, "the disk has no room for a snapshot");
        self.low(&state)
    }

    /// Whether what can wait may be written, a durable state or a purge: on a disk without any room it would
    /// end the node, which can still answer lookups.
    pub(crate) fn has_room_for_upkeep(&self) -> bool {
        let state = self.state();
        state.space.is_none_or(|space| space.free_bytes >= self.marks_of(space.total_bytes).grace)
    }

    /// How much room there is for the state. A disk that is not watched counts as one with plenty.
    pub(crate) fn room_to_flush(&self) -> Room {
        let state = self.state();
        let Some(space) = state.space else { return Room::Plenty };
        let marks = self.marks_of(space.total_bytes);
        let little = (LITTLE_ROOM * marks.minimum).min(marks.minimum + FLUSH_BYTES_MOST);
        match space.free_bytes {
            free if free < marks.grace => Room::None,
            free if free < little => Room::Little,
            _ => Room::Plenty,
        }
    }

    /// On a leader: why it takes no writes, from now on.
    pub(crate) fn set_no_room(&self, no_room: Option<NoRoom>) {
        self.state().no_room = no_room;
    }

    /// Why this leader takes no writes, as it was last set.
    pub(crate) fn no_room(&self) -> Option<NoRoom> {
        self.state().no_room.clone()
    }
}

/// Bytes of an entry that a low disk is spared of.
fn weight(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Normal(Command::Tombstone { .. })
        | EntryPayload::Blank
        | EntryPayload::Membership(_) => 0,
        EntryPayload::Normal(command) => command.bytes_at_most() as u64,
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry;

    use super::*;
    use crate::testing::{entry, log_id, write};

    const MIB: u64 = 1 << 20;

    fn guard() -> Guard {
        Guard::new(Some(16 * MIB), "/data".to_owned())
    }

    fn free(free_bytes: u64) -> Space {
        Space { free_bytes, total_bytes: 1024 * MIB }
    }

    fn advertise() -> Entry {
        entry(1, Command::Advertise(write(1, &["a:1"])))
    }

    #[test]
    fn a_disk_with_room_or_without_bounds_takes_everything() {
        let guard = guard();
        guard.admit_entries(&[advertise()]).unwrap();
        guard.admit_install(u64::MAX / 4).unwrap();
        assert_eq!(guard.disk(), None);
        guard.look(free(16 * MIB));
        guard.admit_entries(&[advertise()]).unwrap();
        guard.admit_snapshot().unwrap();
    }

    /// A node's disk that is four fifths full, and a small volume that is nearly empty, are what sites have: each
    /// second a commit of the state would be most of what a server writes.
    #[test]
    fn the_state_is_flushed_often_only_where_a_late_flush_might_find_no_room() {
        const GIB: u64 = 1024 * MIB;
        let room = |free_bytes, total_bytes| {
            let guard = Guard::new(None, "/data".to_owned());
            guard.look(Space { free_bytes, total_bytes });
            guard.room_to_flush()
        };
        assert_eq!(room(19 * GIB, 100 * GIB), Room::Plenty);
        assert_eq!(room(6 * GIB, 100 * GIB), Room::Plenty);
        assert_eq!(room(5 * GIB + 400 * MIB, 100 * GIB), Room::Little);
        assert_eq!(room(1900 * MIB, 2 * GIB), Room::Plenty);
        assert_eq!(room(700 * MIB, 2 * GIB), Room::Little);
        assert_eq!(room(30 * MIB, 64 * MIB), Room::Little);
        assert_eq!(room(0, 64 * MIB), Room::None);
    }

    #[test]
    fn a_low_disk_takes_what_is_under_way_and_then_no_entries() {
        let guard = guard();
        guard.look(free(20 * MIB));
        assert_eq!(guard.look(free(16 * MIB - 1)), (Fullness::Fine, Fullness::Low));
        assert!(guard.admit_snapshot().is_err());
        let most = guard.marks_of(1024 * MIB).grace / weight(&advertise());
        let taken = (0..=most).take_while(|_| guard.admit_entries(&[advertise()]).is_ok()).count() as u64;
        assert_eq!(taken, most);
        // Another look at a disk that is still low gives nothing back.
        guard.look(free(MIB));
        let error = guard.admit_entries(&[advertise()]).unwrap_err().to_string();
        assert_eq!(error, "the disk is low: /data has 1.0 MiB free, the minimum is 16.0 MiB");
        guard.admit_entries(&[Entry::new_blank(log_id(2))]).unwrap();
        guard.admit_entries(&[]).unwrap();
        assert!(guard.is_refusing());
        guard.look(free(18 * MIB));
        assert!(!guard.is_refusing());
        guard.admit_entries(&[advertise()]).unwrap();
    }

    #[test]
    fn a_snapshot_without_room_makes_the_disk_low_until_there_is_some() {
        let guard = guard();
        guard.look(free(100 * MIB));
        guard.admit_install(10 * MIB).unwrap();
        assert!(guard.admit_install(50 * MIB).is_err());
        assert_eq!(guard.look(free(101 * MIB)), (Fullness::Low, Fullness::Low));
        assert_eq!(guard.look(free(102 * MIB)), (Fullness::Low, Fullness::Fine));
        guard.admit_install(50 * MIB).unwrap();
        assert_eq!(guard.disk().unwrap().minimum_bytes, 16 * MIB);
    }
}
