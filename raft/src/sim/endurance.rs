//! A long time: log and state stay bounded while holders write and one follower is away. The limits of the
//! compaction are [`KEPT_MS`] here instead of ten minutes, so a minute is some seven hours.

use super::cluster::Cluster;
use super::env::KEPT_MS;
use super::host::Host;
use super::net::HostId;
use super::world;
use crate::index::STATE_FILE;
use crate::limits::{SNAPSHOT_HOLD, SNAPSHOT_IDLE_TIMEOUT};
use crate::log::LOG_FILE;
use openraft::async_runtime::WatchReceiver;

/// Time until the sizes are those of normal operation, milliseconds.
const WARM_UP_MS: u64 = 20 * KEPT_MS;
/// For so long at most a snapshot that does not move holds the log, and a little longer.
const HELD_MS: u64 = (SNAPSHOT_IDLE_TIMEOUT.as_millis() + SNAPSHOT_HOLD.as_millis()) as u64 + 10 * KEPT_MS;
/// A follower that was away catches up within so long.
const CATCH_UP_MS: u64 = 10_000;
/// Interval between two looks at the sizes, milliseconds.
const LOOK_MS: u64 = 500;

/// The largest sizes that were seen.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    log_bytes: u64,
    state_bytes: u64,
    log_entries: u64,
}

impl Sizes {
    fn look(&mut self, hosts: &[Host]) {
        for host in hosts {
            self.log_bytes = self.log_bytes.max(host.disk.bytes(LOG_FILE));
            self.state_bytes = self.state_bytes.max(host.disk.bytes(STATE_FILE));
            let Some(node) = host.node() else { continue };
            let metrics = node.parts().0.metrics();
            let metrics = metrics.borrow_watched();
            let purged = metrics.purged.map_or(0, |id| id.index);
            let entries = metrics.last_log_index.unwrap_or(0).saturating_sub(purged);
            self.log_entries = self.log_entries.max(entries);
        }
    }
}

fn run(cluster: &mut Cluster, duration_ms: u64) -> Sizes {
    let mut sizes = Sizes::default();
    for _ in 0..duration_ms / LOOK_MS {
        cluster.run(LOOK_MS);
        sizes.look(&cluster.hosts);
    }
    sizes
}

fn cut(away: HostId) {
    for other in [0, 1, 2].into_iter().filter(|id| *id != away) {
        world::inside(|world| {
            world.net.link(away, other).cut = true;
            world.net.link(other, away).cut = true;
        });
    }
}

/// Lives for a while; with `away`, one follower is cut off for all of it but the beginning.
fn live_for(duration_ms: u64, seed: u64, away: bool) {
    let mut cluster = Cluster::of_listed(seed, 3, 0);
    assert!(cluster.run_until(10_000, |cluster| cluster.leader().is_some()));
    cluster.spawn_clients(3, 1);
    let first = run(&mut cluster, WARM_UP_MS);
    let leader = cluster.leader();
    if away {
        cut((0..3).find(|id| Some(*id) != leader).expect("a follower"));
    }
    let begin = applied(&cluster);
    let during = run(&mut cluster, duration_ms);
    let written = applied(&cluster) - begin;
    let now_ms = cluster.now_ms;
    world::inside(|world| world.net.heal(&mut world.rng, now_ms));
    cluster.book.open().stop = true;
    let caught_up =
        cluster.run_until(CATCH_UP_MS, |cluster| cluster.book.open().ended == 4 && cluster.is_level());
    assert!(caught_up, "the follower that was away: {}", cluster.tell());
    cluster.judge_all();
    assert_eq!(cluster.violations(), Vec::<String>::new());
    println!("{written} entries; at first {first:?}, then {during:?}");
    // A snapshot for the one who is away holds the log behind it until it is given up.
    let held = if away { written * HELD_MS / duration_ms } else { 0 };
    assert!(written > 3 * (held + first.log_entries), "too short to say anything");
    assert!(during.log_entries <= held + first.log_entries * 2, "{during:?}, at first {first:?}");
    assert!(during.log_bytes <= first.log_bytes * if away { 8 } else { 2 }, "{during:?}, at first {first:?}");
    assert!(during.state_bytes <= first.state_bytes * 2, "{during:?}, at first {first:?}");
}

fn applied(cluster: &Cluster) -> u64 {
    let applied = |host: &Host| host.node().map_or(0, |node| node.index().applied_index());
    cluster.hosts.iter().map(applied).max().expect("there are hosts")
}

#[test]
fn log_and_state_stay_bounded() {
    live_for(20 * KEPT_MS, 1, false);
}

#[test]
fn soak_log_and_state_stay_bounded_while_a_follower_is_away() {
    live_for(6 * HELD_MS, 1, true);
}

/// Four days at the product's limits are 576 times ten minutes.
#[test]
fn soak_four_days_keep_log_and_state_bounded() {
    live_for(576 * KEPT_MS, 2, false);
}
