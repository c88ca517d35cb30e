//! A node looks at the room in its data folder, and writes nothing for it. Below the minimum it is *low*: it stores
//! no more entries of others, does not stand for election as long as another can win, and purges its log hard. Below
//! an eighth of the minimum the *ballast* is given back, for what must still be written. All of it ends by itself
//! when there is room again.
//!
//! The marks, and what a node still takes in, are in `crate::space`; what a leader does is in `room`.

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::disk::{Bytes, Disk, Fault, Space};
use crate::limits::{BALLAST_AGAIN_AFTER, CANDIDATE_AFTER, DISK_LOOK_INTERVAL};
use crate::space::{Fullness, Guard};

use super::leadership::Leadership;
use super::stores::Stores;

/// Before the stores are opened, which may want to write: on a disk that is full already the ballast goes.
pub(super) fn prepare(disk: &dyn Disk, guard: &Guard) {
    // What cannot be seen now is told at the first look of the task.
    let Ok(Some(space)) = disk.space() else { return };
    if guard.look(space).1 == Fullness::Critical {
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

/// The task that looks at the node's own disk.
pub(super) struct DiskWatch {
    pub(super) stores: Stores,
    pub(super) leadership: Leadership,
    pub(super) stop: CancellationToken,
}

impl DiskWatch {
    /// Looks at the own disk until the node stops, or the disk fails.
    pub(super) async fn run(&self) -> Result<(), Fault> {
        let now = Instant::now();
        let mut watch = Watch { led: now, electable: true, ballast_from: now, blind: false };
        let mut ticks = interval(DISK_LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Some(fault) = self.stores.disk.fault() {
                return Err(fault);
            }
            // The kernel answers from memory.
            if let Some(space) = watch.read(self.stores.disk.as_ref()) {
                self.note(space);
                self.keep_ballast(space, &mut watch).await;
            }
            self.allow_election(&mut watch);
        }
        Ok(())
    }

    fn note(&self, space: Space) {
        let (before, after) = self.stores.guard.look(space);
        let Some(disk) = self.stores.guard.disk().filter(|_| before != after) else { return };
        match after {
            Fullness::Fine => tracing::info!(%disk, "the disk has room again"),
            Fullness::Low => tracing::warn!(
                %disk,
                "the disk has too little free space: this server stores no more writes until some is freed"
            ),
            Fullness::Critical => tracing::error!(%disk, "the disk is nearly full: free space now"),
        }
    }

    async fn keep_ballast(&self, space: Space, watch: &mut Watch) {
        let marks = self.stores.guard.marks_of(space.total_bytes);
        let Ok(has) = self.stores.disk.ballast() else { return };
        let without = Space { free_bytes: space.free_bytes + has, ..space };
        let level = self.stores.guard.fullness();
        if has > 0 && (level == Fullness::Critical || marks.ballast == 0) {
            give_back(self.stores.disk.as_ref());
        } else if level == Fullness::Fine
            && has != marks.ballast
            && marks.has_room_for_ballast(without)
            && Instant::now() >= watch.ballast_from
        {
            let disk = self.stores.disk.clone();
            // Where the file system cannot allocate it is written, which takes a while.
            let made = self.stores.threads.blocking(move || disk.set_ballast(marks.ballast)).await;
            if let Ok(Err(error)) = made {
                tracing::warn!(
                    %error,
                    folder = self.stores.disk.place(),
                    "could not reserve space for the last writes on a full disk"
                );
                watch.ballast_from = Instant::now() + BALLAST_AGAIN_AFTER;
            }
        }
    }

    /// A node that stores nothing should not lead while others can; when nobody else does, it is better
    /// than nobody: keepalives need a leader.
    fn allow_election(&self, watch: &mut Watch) {
        if self.leadership.is_led_within(DISK_LOOK_INTERVAL * 2) {
            watch.led = Instant::now();
        }
        let metrics = self.leadership.metrics();
        let alone = metrics.membership_config.membership().voter_ids().eq([metrics.id]);
        let low = self.stores.guard.fullness() > Fullness::Fine;
        let electable = !low || alone || watch.led.elapsed() >= CANDIDATE_AFTER;
        if electable != watch.electable {
            watch.electable = electable;
            self.leadership.raft.runtime_config().elect(electable);
        }
    }
}
