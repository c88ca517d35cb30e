//! What nodes have reported of holders: one could not be reached, or its bytes were wrong. While enough nodes
//! say so, the holder is ranked last, or left out of the answers for that key.
//!
//! Each server keeps its reports itself ([`table`]), because each answers lookups itself, also without leader
//! and quorum: holders die in numbers just when servers do. The server that a node sends its report to passes
//! it on to the others once ([`pass_on`]). Reports are not in the log.

pub mod pass_on;
pub mod table;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use piccolo_raft::index::{HostRecord, Index};
use piccolo_raft::model::{Holder, Key};
use tokio::time::MissedTickBehavior;

use super::ranking::Reputation;
use crate::clock::SharedClock;
use crate::limits::REPORTS_UPKEEP_INTERVAL;
use crate::task::Stop;
use pass_on::{News, PassOn};
use table::{Changed, ReportTable, Source, Subject, Taken};

/// The reports of one server.
pub struct Reports {
    index: Index,
    clock: SharedClock,
    tracked: Mutex<Tracked>,
    /// Whether any report has an effect: without one, lookups need no lock.
    effective: AtomicBool,
    pass_on: PassOn,
}

#[derive(Default)]
struct Tracked {
    table: ReportTable,
    /// The log index up to which the table has followed the hosts; of use only while there are reports.
    followed: u64,
}

impl Reports {
    /// No reports yet, of hosts in `index`.
    pub fn new(index: Index, clock: SharedClock, pass_on: PassOn) -> Self {
        Self { index, clock, tracked: Mutex::default(), effective: AtomicBool::new(false), pass_on }
    }

    /// Calls `read` with the reputation of each holder of `key` in `group`; `None` while no report has an
    /// effect.
    pub fn with_reputation<R>(
        &self,
        group: &str,
        key: &Key,
        read: impl FnOnce(&mut dyn FnMut(SocketAddr) -> Reputation) -> R,
    ) -> Option<R> {
        if !self.effective.load(Ordering::Acquire) {
            return None;
        }
        let tracked = self.lock();
        let mut reputation = tracked.table.reputation(group, key, self.clock.monotonic());
        Some(read(&mut reputation))
    }

    /// How many holders are ranked last, and how many pairs of holder and key are left out, together.
    pub fn effective(&self) -> usize {
        self.lock().table.effective()
    }

    /// Adds a report of `subject` by `source`.
    pub fn add(&self, subject: Subject, source: Source) -> Taken {
        let (index, now) = (self.index.applied_index(), self.clock.monotonic());
        self.change(|tracked| {
            if tracked.table.is_empty() {
                tracked.followed = index;
            }
            tracked.table.add(subject, source, index, now)
        })
    }

    /// A holder is alive: ends the reports that it could not be reached. Returns whether there were any.
    pub fn end_of(&self, holder: &Holder) -> bool {
        self.change(|tracked| tracked.table.alive(holder))
    }

    /// A heartbeat of `holder` came here: ends the reports that it could not be reached, on the other servers
    /// as well.
    pub fn heartbeat(&self, holder: &Holder) {
        if self.end_of(holder) {
            self.pass_on.spread(News::Alive { holder: holder.clone() });
        }
    }

    /// Passes a report on to the other servers.
    pub fn pass_on(&self, news: News) {
        self.pass_on.spread(news);
    }

    /// Forgets reports that have ended, and those of holders that have written since, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: Stop) -> Result<(), Infallible> {
        let mut ticks = tokio::time::interval(REPORTS_UPKEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.keep_up();
        }
        self.pass_on.finish().await;
        Ok(())
    }

    fn keep_up(&self) {
        let followed = {
            let tracked = self.lock();
            if tracked.table.is_empty() {
                return;
            }
            tracked.followed
        };
        let changes = self.index.hosts_changed_since(followed);
        let changed: Vec<_> = changes.changed.iter().map(changed).collect();
        self.change(|tracked| {
            tracked.followed = changes.index;
            tracked.table.follow(&changed, &changes.gone, changes.all);
            tracked.table.expire(self.clock.monotonic());
        });
    }

    fn change<R>(&self, change: impl FnOnce(&mut Tracked) -> R) -> R {
        let mut tracked = self.lock();
        let changed = change(&mut tracked);
        self.effective.store(tracked.table.effective() > 0, Ordering::Release);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Tracked> {
        self.tracked.lock().expect("no code panics while it holds this lock")
    }
}

fn changed(record: &HostRecord) -> Changed {
    Changed { holder: record.holder.clone(), written: record.last_write_index, visible: record.is_visible() }
}
