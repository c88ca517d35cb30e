//! The background tasks of a node.

use std::sync::Arc;
use std::time::Duration;

use crate::network::peer::Refusing;

use super::bootstrap::{self, Birth};
use super::disk_watch::DiskWatch;
use super::lifetime::Ends;
use super::reach::Reach;
use super::room::LeadersRoom;
use super::standing::StandingWatch;
use super::{Env, Inner, Node};

impl Node {
    /// Starts all of them. `found_after` is that of [`super::NodeConfig`].
    pub(super) fn spawn_tasks(&self, env: &Env, refusing: Refusing, found_after: Duration) {
        let Inner { stores, contacts, leadership, lifetime, .. } = &*self.inner;
        let stop = || lifetime.stop.clone();
        let birth = Birth {
            contacts: contacts.clone(),
            threads: env.threads.clone(),
            random: env.random.clone(),
            found_after,
            reasons: self.inner.reasons.clone(),
            stop: stop(),
        };
        let (watched, of) = (lifetime.clone(), stores.clone());
        lifetime.watch_task("bootstrap", Ends::WhenDone, async move {
            let result = bootstrap::run(&birth).await;
            watched.unless_stopping(&of, result)
        });
        let standing = StandingWatch {
            contacts: contacts.clone(),
            leadership: leadership.clone(),
            stores: stores.clone(),
            changes: self.inner.changes.clone(),
            stop: stop(),
        };
        lifetime.watch_task("standing", Ends::WithNode, async move { standing.run().await });
        let reach = Reach {
            contacts: contacts.clone(),
            stores: stores.clone(),
            changes: self.inner.changes.clone(),
            stop: stop(),
        };
        lifetime.watch_task("reach", Ends::WithNode, async move {
            reach.run().await;
            Ok(())
        });
        let leveling = self.inner.leveling.clone();
        lifetime.watch_task("levels", Ends::WithNode, async move {
            leveling.run().await;
            Ok(())
        });
        self.spawn_tasks_of_disk(env.timing.flush_interval, refusing);
    }

    /// Those that write to the disk, and look how much room it has.
    fn spawn_tasks_of_disk(&self, flush_interval: Duration, refusing: Refusing) {
        let Inner { stores, contacts, leadership, lifetime, .. } = &*self.inner;
        let stop = || lifetime.stop.clone();
        let (watched, of, stopped) = (lifetime.clone(), stores.clone(), stop());
        lifetime.watch_task("flusher", Ends::WithNode, async move {
            let result = of.index.run_flusher(flush_interval, stopped, || of.guard.room_to_flush()).await;
            watched.unless_stopping(&of, result)
        });
        let compaction = self.inner.compaction.clone();
        lifetime.watch_task("compaction", Ends::WithNode, async move {
            compaction.run().await;
            Ok(())
        });
        let watch = DiskWatch { stores: stores.clone(), leadership: leadership.clone(), stop: stop() };
        let (watched, of) = (lifetime.clone(), stores.clone());
        lifetime.watch_task("disk watch", Ends::WithNode, async move {
            let result = watch.run().await;
            watched.unless_stopping(&of, result)
        });
        let room = LeadersRoom {
            guard: Arc::clone(&stores.guard),
            disks: self.inner.disks.clone(),
            refusing,
            contacts: contacts.clone(),
            leadership: leadership.clone(),
            handover: self.inner.handover.clone(),
            stop: stop(),
        };
        lifetime.watch_task("disks of members", Ends::WithNode, async move {
            room.run().await;
            Ok(())
        });
    }
}
