//! The leader's task that ends leases: follows the log, sweeps, proposes. On other nodes it only
//! watches for its own election.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use piccolo_raft::cluster::ProposeError;
use piccolo_raft::command::Command;
use piccolo_raft::index::{HostChanges, HostRecord};
use piccolo_raft::model::Holder;
use tokio::time::MissedTickBehavior;

use crate::limits::{LEASE_PROPOSALS_MAX, LEASE_SWEEP_INTERVAL};
use crate::server::app::App;
use crate::server::leases::fleet::Fleet;
use crate::server::leases::{Due, HostState};
use crate::task::Stop;

/// A command that could not be proposed is due again after this.
const PROPOSE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How far the leases have followed the log, in which term.
#[derive(Clone, Copy, Debug)]
struct Followed {
    term: u64,
    index: u64,
}

/// Until `stop`.
pub async fn run(app: Arc<App>, stop: Stop) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(LEASE_SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut followed = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        followed = stop.run_until_cancelled(tick(&app, followed)).await.flatten();
    }
    app.set_leading_term(0);
    Ok(())
}

async fn tick(app: &App, followed: Option<Followed>) -> Option<Followed> {
    if !app.node.is_leader() {
        app.set_leading_term(0);
        return None;
    }
    let term = app.node.term();
    match followed {
        Some(followed) if followed.term == term => Some(sweep(app, followed).await),
        _ => begin(app, term).await,
    }
}

/// A new term: first everything from before it must be applied here, or a keepalive would be judged
/// by an old record and a sync by an old inventory.
async fn begin(app: &App, term: u64) -> Option<Followed> {
    app.set_leading_term(0);
    if let Err(error) = app.node.catch_up().await {
        tracing::debug!(%error, term, "does not lead yet");
        return None;
    }
    let HostChanges { index, changed, .. } = app.index.hosts_changed_since(0);
    let hosts = changed.len();
    *app.fleet() = Fleet::default();
    app.leases().begin_term(changed.into_iter().map(state), app.now(), app.clock.unix_ms());
    if app.node.term() != term {
        return None;
    }
    app.set_leading_term(term);
    tracing::info!(term, hosts, "leads, every host has a full lease");
    Some(Followed { term, index })
}

async fn sweep(app: &App, followed: Followed) -> Followed {
    let (followed, heard_of) = follow(app, followed);
    // What ends with a lease must be written.
    if !app.node.has_quorum() || app.node.no_room().is_some() {
        app.leases().pause(app.now());
        return followed;
    }
    let due = app.leases().sweep(app.now());
    let shown = stream::iter(heard_of).map(|holder| show_again(app, holder));
    shown.buffer_unordered(LEASE_PROPOSALS_MAX).collect::<()>().await;
    let ended = stream::iter(due).map(|due| end(app, due, followed.index));
    ended.buffer_unordered(LEASE_PROPOSALS_MAX).collect::<()>().await;
    followed
}

/// Brings the leases up to what is applied; returns the hosts to be shown again.
fn follow(app: &App, followed: Followed) -> (Followed, Vec<Holder>) {
    if app.index.applied_index() == followed.index {
        return (followed, Vec::new());
    }
    let HostChanges { index, all, changed, gone } = app.index.hosts_changed_since(followed.index);
    let mut leases = app.leases();
    let mut fleet = app.fleet();
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
    let heard_of = leases.follow(changed.into_iter().map(state), app.now());
    (Followed { index, ..followed }, heard_of)
}

fn state(record: HostRecord) -> HostState {
    let HostRecord { holder, ttl_seconds, hidden_unix_ms, pair, .. } = record;
    HostState { holder, ttl_seconds, hidden_unix_ms, epoch_unix_ms: pair.map(|pair| pair.epoch) }
}

async fn show_again(app: &App, holder: Holder) {
    if let Err(error) = app.node.propose(Command::Unhide { holder }).await {
        // Its next keepalive does it.
        tracing::warn!(%error, "could not show a host again");
    }
}

/// One lease that has ended, or one hidden host to forget.
async fn end(app: &App, due: Due, followed: u64) {
    let command = match &due {
        Due::Hide(holder) => {
            let Some(record) = app.index.host(holder) else { return };
            if record.hidden_unix_ms.is_some() {
                app.leases().follow([state(record)], app.now());
                return;
            }
            if !app.leases().is_leaving(holder) {
                // Heard of while it waited for those before it.
                return;
            }
            if record.last_write_index > followed {
                // Written since we looked: the next look renews it.
                return;
            }
            let (last_write_index, unix_ms) = (record.last_write_index, app.clock.unix_ms());
            Command::Hide { holder: holder.clone(), last_write_index, unix_ms }
        }
        Due::Forget(holder, hidden_unix_ms) => {
            Command::Forget { holder: holder.clone(), hidden_unix_ms: *hidden_unix_ms }
        }
    };
    let name = command.name();
    match app.node.propose(command).await {
        Ok(_) => tracing::info!(holder = %address(&due), command = name, "a lease has ended"),
        Err(error) => postpone(app, due, &error),
    }
}

fn postpone(app: &App, due: Due, error: &ProposeError) {
    tracing::warn!(holder = %address(&due), %error, "could not end a lease");
    app.leases().postpone(due, app.now(), PROPOSE_AGAIN_AFTER);
}

fn address(due: &Due) -> std::net::SocketAddr {
    match due {
        Due::Hide(holder) | Due::Forget(holder, _) => holder.address,
    }
}

#[cfg(test)]
mod tests {
    use piccolo_raft::command::Write;

    use super::*;
    use crate::server::endpoints::tests::leading_app;

    /// Sweeps as the task does, until something is due.
    fn sweep_until_due(app: &App, now: &mut Duration) -> Vec<Due> {
        loop {
            *now += LEASE_SWEEP_INTERVAL;
            let due = app.leases().sweep(*now);
            if !due.is_empty() {
                return due;
            }
        }
    }

    #[tokio::test]
    async fn a_host_that_beats_while_its_hide_waits_is_not_hidden() {
        let app = leading_app().await;
        let holder = Holder { group: "g".into(), address: ([10, 0, 0, 1], 1).into() };
        let keys = vec!["a:1".parse().unwrap()];
        let write = Write { holder: holder.clone(), pair: None, stores_pair: false, keys };
        app.node.propose(Command::Advertise(write)).await.unwrap();
        let visible = || app.index.host(&holder).unwrap().is_visible();
        let mut now = Duration::from_secs(1_000);
        app.leases().begin_term([state(app.index.host(&holder).unwrap())], now, 0);

        let due = sweep_until_due(&app, &mut now).remove(0);
        app.leases().renew(&holder, 0, now);
        end(&app, due, app.index.applied_index()).await;
        assert!(visible(), "it was heard of");
        let due = sweep_until_due(&app, &mut now).remove(0);
        end(&app, due, app.index.applied_index()).await;
        assert!(!visible(), "it was not heard of again");
        app.node.shutdown().await;
    }
}
