//! The task that ends leases. On the leader it follows the log, sweeps the leases and proposes what is due;
//! on the other servers it only waits for its own election.

use std::collections::HashSet;
use std::convert::Infallible;

use futures_util::{StreamExt, stream};
use piccolo_raft::cluster::{Node, ProposeError};
use piccolo_raft::command::Command;
use piccolo_raft::index::{HostChanges, HostRecord, Index};
use piccolo_raft::model::Holder;
use tokio::time::MissedTickBehavior;

use super::fleet::{Fleet, FleetUsage};
use super::table::LeaseTable;
use super::{Due, HostLease};
use crate::limits::{LEASE_PROPOSALS_MAX, LEASE_PROPOSE_AGAIN_AFTER, LEASE_SWEEP_INTERVAL};
use crate::server::cluster::leadership::Leadership;
use crate::task::Stop;

/// Ends leases on the leader.
pub struct LeaseTask {
    /// Proposes the ends of leases.
    pub node: Node,
    /// Says what became of the hosts.
    pub index: Index,
    /// Begins with a term once its leases are here.
    pub leadership: Leadership,
    /// The leases that are swept.
    pub leases: LeaseTable,
    /// Begins anew with each term.
    pub fleet: FleetUsage,
}

/// How far the leases have followed the log, in which term.
#[derive(Clone, Copy, Debug)]
struct Followed {
    term: u64,
    index: u64,
}

impl LeaseTask {
    /// Sweeps the leases until `stop`.
    pub async fn run(self, stop: Stop) -> Result<(), Infallible> {
        let mut ticks = tokio::time::interval(LEASE_SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut followed = None;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            followed = stop.run_until_cancelled(self.tick(followed)).await.flatten();
        }
        self.leadership.end_term();
        Ok(())
    }

    async fn tick(&self, followed: Option<Followed>) -> Option<Followed> {
        if !self.node.is_leader() {
            self.leadership.end_term();
            return None;
        }
        let term = self.node.term();
        match followed {
            Some(followed) if followed.term == term => Some(self.sweep(followed).await),
            _ => self.begin(term).await,
        }
    }

    /// Begins a term. First everything from before it must be applied here, or a heartbeat would be compared
    /// with an old record and a sync with an old inventory.
    async fn begin(&self, term: u64) -> Option<Followed> {
        self.leadership.end_term();
        if let Err(error) = self.node.catch_up().await {
            tracing::debug!(%error, term, "does not lead yet");
            return None;
        }
        let HostChanges { index, changed, .. } = self.index.hosts_changed_since(0);
        let hosts = changed.len();
        *self.fleet.lock() = Fleet::default();
        let (now, unix_ms) = (self.leases.now(), self.leases.unix_ms());
        self.leases.lock().begin_term(changed.into_iter().map(host_lease), now, unix_ms);
        if self.node.term() != term {
            return None;
        }
        self.leadership.begin_term(term);
        tracing::info!(term, hosts, "leads, every host has a full lease");
        Some(Followed { term, index })
    }

    async fn sweep(&self, followed: Followed) -> Followed {
        let (followed, renewed) = self.follow(followed);
        let now = self.leases.now();
        // The end of a lease must be written.
        if !self.node.has_quorum() || self.node.no_room().is_some() {
            self.leases.lock().pause(now);
            return followed;
        }
        let due = self.leases.lock().sweep(now);
        let shown = stream::iter(renewed).map(|holder| self.show_again(holder));
        shown.buffer_unordered(LEASE_PROPOSALS_MAX).collect::<()>().await;
        let ended = stream::iter(due).map(|due| self.end(due, followed.index));
        ended.buffer_unordered(LEASE_PROPOSALS_MAX).collect::<()>().await;
        followed
    }

    /// Brings the leases up to what is applied; returns the hosts that are to be shown again.
    fn follow(&self, followed: Followed) -> (Followed, Vec<Holder>) {
        if self.index.applied_index() == followed.index {
            return (followed, Vec::new());
        }
        let HostChanges { index, all, changed, gone } = self.index.hosts_changed_since(followed.index);
        let now = self.leases.now();
        let mut leases = self.leases.lock();
        let mut fleet = self.fleet.lock();
        if all {
            let known: HashSet<_> = changed.iter().map(|record| record.holder.clone()).collect();
            leases.retain(&known);
            fleet.retain(|holder| known.contains(holder));
        }
        for holder in &gone {
            leases.remove(holder);
            fleet.remove(holder);
        }
        drop(fleet);
        let renewed = leases.follow(changed.into_iter().map(host_lease), now);
        (Followed { index, ..followed }, renewed)
    }

    async fn show_again(&self, holder: Holder) {
        if let Err(error) = self.node.propose(Command::Unhide { holder }).await {
            // The next heartbeat of the holder proposes it again.
            tracing::warn!(%error, "could not show a host again");
        }
    }

    /// Hides the host whose lease has ended, or forgets a hidden one. `followed` is the log index that the
    /// leases have followed.
    async fn end(&self, due: Due, followed: u64) {
        let command = match &due {
            Due::Hide(holder) => {
                let Some(record) = self.index.host(holder) else { return };
                if record.hidden_unix_ms.is_some() {
                    let now = self.leases.now();
                    self.leases.lock().follow([host_lease(record)], now);
                    return;
                }
                if !self.leases.lock().is_leaving(holder) {
                    // A heartbeat has come while it waited for those before it.
                    return;
                }
                if record.last_write_index > followed {
                    // Written since the leases last followed the log: the next time they do renews it.
                    return;
                }
                let (last_write_index, unix_ms) = (record.last_write_index, self.leases.unix_ms());
                Command::Hide { holder: holder.clone(), last_write_index, unix_ms }
            }
            Due::Forget(holder, hidden_unix_ms) => {
                Command::Forget { holder: holder.clone(), hidden_unix_ms: *hidden_unix_ms }
            }
        };
        let name = command.name();
        match self.node.propose(command).await {
            Ok(_) => tracing::info!(holder = %address(&due), command = name, "a lease has ended"),
            Err(error) => self.postpone(due, &error),
        }
    }

    fn postpone(&self, due: Due, error: &ProposeError) {
        tracing::warn!(holder = %address(&due), %error, "could not end a lease");
        let now = self.leases.now();
        self.leases.lock().postpone(due, now, LEASE_PROPOSE_AGAIN_AFTER);
    }
}

fn host_lease(record: HostRecord) -> HostLease {
    let HostRecord { holder, ttl_seconds, hidden_unix_ms, pair, .. } = record;
    HostLease { holder, ttl_seconds, hidden_unix_ms, epoch_unix_ms: pair.map(|pair| pair.epoch) }
}

fn address(due: &Due) -> std::net::SocketAddr {
    match due {
        Due::Hide(holder) | Due::Forget(holder, _) => holder.address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use piccolo_raft::command::Write;

    use super::*;
    use crate::server::testing::leading_app;

    /// Sweeps as the task does, until something is due.
    fn sweep_until_due(leases: &LeaseTable, now: &mut Duration) -> Vec<Due> {
        loop {
            *now += LEASE_SWEEP_INTERVAL;
            let due = leases.lock().sweep(*now);
            if !due.is_empty() {
                return due;
            }
        }
    }

    #[tokio::test]
    async fn a_host_whose_heartbeat_comes_while_its_hide_waits_is_not_hidden() {
        let app = leading_app().await;
        let task = app.lease_task();
        let (index, leases) = (&app.index, &app.leases);
        let holder = Holder { group: "g".into(), address: ([10, 0, 0, 1], 1).into() };
        let keys = vec!["a:1".parse().unwrap()];
        let write = Write { holder: holder.clone(), pair: None, stores_pair: false, keys };
        app.node.propose(Command::Advertise(write)).await.unwrap();
        let visible = || index.host(&holder).unwrap().is_visible();
        let mut now = Duration::from_secs(1_000);
        leases.lock().begin_term([host_lease(index.host(&holder).unwrap())], now, 0);

        let due = sweep_until_due(leases, &mut now).remove(0);
        leases.lock().renew(&holder, 0, now);
        task.end(due, index.applied_index()).await;
        assert!(visible(), "its heartbeat came");
        let due = sweep_until_due(leases, &mut now).remove(0);
        task.end(due, index.applied_index()).await;
        assert!(!visible(), "no heartbeat came");
        app.node.shutdown().await;
    }
}
