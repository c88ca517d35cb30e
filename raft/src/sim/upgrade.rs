//! Upgrades: servers of the next build take the places of those before them, one after the other and under
//! load; forwards, back again before the level begins, and stuck half-way.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::cluster::Cluster;
use super::env::DAY;
use super::host::{Host, Role};
use super::nemesis::insist;
use super::net::HostId;
use super::world;
use crate::cluster::{Change, Node};
use crate::format::{Level, Levels};

/// A leader, or a server that was restarted, within so long, milliseconds.
const SOON_MS: u64 = 20_000;
/// Pause between two restarts, milliseconds.
const PAUSE_MS: u64 = 600;
/// Within so long the state on a disk says what is applied, in a simulation.
const FLUSHED_MS: u64 = 2_500;
/// Interval between two looks at the levels, milliseconds.
const LOOK_MS: u64 = 200;
const DAY_MS: u64 = DAY.as_millis() as u64;
/// What a level may come later: a piece of the count for each change of leaders, and what the leader does not
/// see while it waits for one.
const LATE_MS: u64 = DAY_MS;
/// Nobody who has asked for a change waits for so long, milliseconds.
const PATIENCE_MS: u64 = 6_500;
/// A message of a leader without entries is smaller, one with an entry is larger, bytes.
const HEARTBEAT_BYTES_MAX: usize = 100;
const HOLDERS: u8 = 2;
/// Holders that write without pairs.
const RAW_HOLDERS: u8 = 1;

fn born(seed: u64) -> Cluster {
    let mut cluster = Cluster::of_listed(seed, 3, 0);
    assert!(cluster.run_until(SOON_MS, |cluster| cluster.leader().is_some()), "seed {seed}: not born");
    cluster.spawn_clients(HOLDERS, RAW_HOLDERS);
    cluster.run(PAUSE_MS);
    cluster
}

impl Cluster {
    /// Stops a server, which hands its lead over, and starts the other build with its folder.
    fn exchange(&mut self, id: HostId, next: bool) {
        let starts = self.hosts[id].starts;
        self.hosts[id].next = next;
        self.hosts[id].stop();
        let is_back = |cluster: &mut Self| {
            let host = &cluster.hosts[id];
            host.starts > starts && host.ask(Node::is_member) == Some(true) && cluster.leader().is_some()
        };
        assert!(self.run_until(SOON_MS, is_back), "s{id} is not back: {}", self.tell());
        self.run(PAUSE_MS);
    }

    /// Until one of these leads, and all servers run: another one is killed when it does.
    fn until_one_leads(&mut self, these: &[HostId]) {
        let is_led = |cluster: &mut Self| match cluster.leader() {
            Some(id) if !these.contains(&id) => {
                cluster.kill(id);
                false
            }
            leader => leader.is_some() && cluster.levels().len() == cluster.members.len(),
        };
        assert!(self.run_until(SOON_MS, is_led), "none of {these:?} leads: {}", self.tell());
    }

    fn levels(&self) -> Vec<Levels> {
        self.hosts.iter().filter_map(Host::node).map(|node| node.index().levels()).collect()
    }

    /// Until all servers that run are at such levels.
    fn until_levels(&mut self, deadline_ms: u64, like: impl Fn(&Levels) -> bool) -> bool {
        self.run_until(deadline_ms, |cluster| {
            let levels = cluster.levels();
            levels.len() == cluster.members.len() && levels.iter().all(&like)
        })
    }

    /// For so long no server may begin the next level.
    fn stay_at_the_first(&mut self, duration_ms: u64) {
        for _ in 0..duration_ms / LOOK_MS {
            self.run(LOOK_MS);
            let levels = self.levels();
            assert!(levels.iter().all(|levels| levels.active == Level::FIRST), "{levels:?}");
        }
    }

    /// All holders say their last word, and all servers show it.
    fn ends_well(mut self) {
        self.book.open().stop = true;
        let holders = usize::from(HOLDERS + RAW_HOLDERS);
        let level = |cluster: &mut Self| cluster.book.open().ended == holders && cluster.is_level();
        assert!(self.run_until(SOON_MS, level), "they do not agree: {}", self.tell());
        self.judge_all();
        assert_eq!(self.violations(), Vec::<String>::new());
    }
}

fn is_on_its_way(levels: &Levels) -> bool {
    levels.next.is_some_and(|next| next.level == Level::NEXT_BUILD)
}

#[test]
fn a_rolling_upgrade_under_load_begins_the_level_a_day_after_the_last_server() {
    let mut cluster = born(1);
    cluster.exchange(0, true);
    cluster.exchange(1, true);
    // An old leader knows of no next level.
    cluster.until_one_leads(&[0, 1]);
    cluster.run(4 * LOOK_MS);
    assert!(!cluster.levels().iter().any(is_on_its_way), "one cannot read it: {:?}", cluster.levels());
    cluster.exchange(2, true);
    assert!(cluster.until_levels(SOON_MS, is_on_its_way), "{:?}", cluster.levels());
    // Leaders change, and none counts what it has not seen.
    cluster.stay_at_the_first(DAY_MS / 2);
    let leader = cluster.leader().expect("it was quiet");
    cluster.kill(leader);
    cluster.stay_at_the_first(DAY_MS / 3);
    let begun = |levels: &Levels| *levels == Levels { active: Level::NEXT_BUILD, next: None };
    assert!(cluster.until_levels(LATE_MS, begun), "{:?}", cluster.levels());
    // From now on the new command is written, and everything of it survives power cuts and snapshots.
    let noted = |host: &Host| host.node().map_or(0, |node| node.index().noted());
    let is_written = |cluster: &mut Cluster| cluster.hosts.iter().all(|host| noted(host) > 0);
    assert!(cluster.run_until(SOON_MS, is_written), "nobody wrote the new command: {}", cluster.tell());
    (0..3).for_each(|id| cluster.cut_power(id));
    assert!(cluster.run_until(SOON_MS, is_written), "the new command is lost: {}", cluster.tell());
    cluster.ends_well();
}

#[test]
fn servers_go_back_before_the_level_begins_and_nothing_of_it_is_left() {
    let mut cluster = born(2);
    (0..3).for_each(|id| cluster.exchange(id, true));
    assert!(cluster.until_levels(SOON_MS, is_on_its_way), "{:?}", cluster.levels());
    cluster.stay_at_the_first(DAY_MS / 2);
    (0..3).for_each(|id| cluster.exchange(id, false));
    assert!(cluster.until_levels(SOON_MS, |levels| *levels == Levels::default()), "{:?}", cluster.levels());
    cluster.stay_at_the_first(DAY_MS);
    cluster.ends_well();
}

/// Two of three are new, one is not, or it is away: for longer than the day after which a level begins.
fn stuck(seed: u64, duration_ms: u64) {
    let mut cluster = born(seed);
    cluster.exchange(0, true);
    cluster.exchange(1, true);
    cluster.until_one_leads(&[0, 1]);
    cluster.stay_at_the_first(duration_ms / 2);
    // The last one is away, and the operator turns to something else: silence is no consent.
    cluster.destroy(2);
    cluster.members.remove(&2);
    cluster.stay_at_the_first(duration_ms / 2);
    assert!(!cluster.levels().iter().any(is_on_its_way), "{:?}", cluster.levels());
    cluster.ends_well();
}

#[test]
fn an_upgrade_that_is_stuck_half_way_goes_on_at_the_first_level() {
    stuck(3, DAY_MS + DAY_MS / 2);
}

#[test]
fn soak_an_upgrade_that_is_stuck_half_way_for_an_hour_goes_on_at_the_first_level() {
    stuck(4, 3_600_000);
}

#[test]
fn an_old_build_does_not_start_with_a_folder_of_a_level_that_it_does_not_know() {
    let mut cluster = born(5);
    (0..3).for_each(|id| cluster.exchange(id, true));
    assert!(cluster.until_levels(DAY_MS + LATE_MS, |levels| levels.active == Level::NEXT_BUILD));
    cluster.run(FLUSHED_MS);
    cluster.hosts[1].next = false;
    cluster.kill(1);
    assert!(
        cluster.run_until(SOON_MS, |cluster| !cluster.seen.unknown_levels.is_empty()),
        "{}",
        cluster.tell()
    );
    let said = cluster.seen.unknown_levels[0].clone();
    assert!(said.contains("runs at level 2, and this piccolo reads levels 1 to 1"), "{said}");
    // Its folder is as it was.
    cluster.hosts[1].next = true;
    cluster.start(1);
    assert!(cluster.run_until(SOON_MS, |cluster| cluster.hosts[1].ask(Node::is_member) == Some(true)));
    cluster.ends_well();
}

#[test]
fn an_old_server_is_not_admitted_to_a_level_that_it_does_not_know_and_a_new_one_is() {
    let mut cluster = Cluster::of_listed(6, 3, 1);
    cluster.hosts.iter_mut().for_each(|host| host.next = true);
    (0..3).for_each(|id| cluster.kill(id));
    assert!(cluster.run_until(SOON_MS, |cluster| cluster.leader().is_some()), "not born");
    cluster.spawn_clients(HOLDERS, RAW_HOLDERS);
    assert!(cluster.until_levels(DAY_MS + LATE_MS, |levels| levels.active == Level::NEXT_BUILD));
    cluster.hosts[3].role = Role::Joining(cluster.hosts[0].address.clone());
    cluster.hosts[3].next = false;
    cluster.start(3);
    cluster.run(PAUSE_MS);
    let address = cluster.hosts[3].address.clone();
    let asks = insist(Change::Add { addresses: vec![address] }, cluster.book.clone(), 6, Arc::default());
    cluster.spawn(asks);
    let told = |cluster: &mut Cluster| {
        cluster.book.open().last_change.contains("reads levels 1 to 1, and the cluster")
    };
    assert!(cluster.run_until(SOON_MS, told), "{}", cluster.book.open().last_change);
    let own = cluster.hosts[3].ask(|node| node.status().reasons.join("; ")).unwrap_or_default();
    assert!(own.contains("runs at level 2, and this piccolo reads levels 1 to 1"), "{own}");
    cluster.hosts[3].next = true;
    cluster.kill(3);
    assert!(cluster.run_until(4 * SOON_MS, |cluster| cluster.hosts[3].ask(Node::is_member) == Some(true)));
    cluster.members.insert(3);
    cluster.ends_well();
}

/// The permit of a change ended with the caller's patience, while the entry that begins the level was in the log and
/// not committed yet: a server that cannot read it was admitted at the old level, and both were committed.
#[test]
fn nobody_is_admitted_while_a_level_waits_for_a_slow_quorum() {
    for (seed, caller_leaves) in [(7, false), (8, true)] {
        let mut cluster = Cluster::of_listed(seed, 3, 1);
        cluster.hosts[..3].iter_mut().for_each(|host| host.next = true);
        (0..3).for_each(|id| cluster.kill(id));
        assert!(cluster.run_until(SOON_MS, |cluster| cluster.leader().is_some()), "not born");
        cluster.hosts[3].role = Role::Joining(cluster.hosts[0].address.clone());
        cluster.start(3);
        let all_serve = |cluster: &mut Cluster| cluster.hosts.iter().all(|host| host.node().is_some());
        assert!(cluster.run_until(SOON_MS, all_serve), "{}", cluster.tell());
        cluster.run(PAUSE_MS);
        let leader = cluster.leader().expect("it was quiet");
        // The others hear the leader, and get no entry.
        for id in (0..3).filter(|id| *id != leader) {
            world::inside(|world| world.net.link(leader, id).rpc_bytes_max = HEARTBEAT_BYTES_MAX);
        }
        let activating = cluster.hosts[leader].ask(|node| {
            let node = node.clone();
            Handle::current().spawn(async move { node.activate().await }).abort_handle()
        });
        cluster.run(PAUSE_MS);
        if caller_leaves {
            activating.expect("the leader serves").abort();
        }
        cluster.run(PATIENCE_MS);
        let address = cluster.hosts[3].address.clone();
        let asks =
            insist(Change::Add { addresses: vec![address] }, cluster.book.clone(), seed, Arc::default());
        cluster.spawn(asks);
        cluster.run(PATIENCE_MS / 2);
        assert_eq!(cluster.leader(), Some(leader), "{}", cluster.tell());
        assert!(
            cluster.levels().iter().all(|levels| levels.active == Level::FIRST),
            "{:?}",
            cluster.levels()
        );
        world::inside(|world| world.net.heal(&mut world.rng, cluster.now_ms));
        let refused = |cluster: &mut Cluster| {
            cluster.book.open().last_change.contains("reads levels 1 to 1, and the cluster")
        };
        let is_refused = cluster.run_until(SOON_MS, refused);
        assert_eq!(cluster.seen.unknown_levels, Vec::<String>::new(), "it was admitted and cannot go on");
        assert!(is_refused, "{}; {}", cluster.book.open().last_change, cluster.tell());
        assert!(
            cluster.levels()[..3].iter().all(|levels| levels.active == Level::NEXT_BUILD),
            "{:?}",
            cluster.levels()
        );
        assert_eq!(cluster.violations(), Vec::<String>::new());
    }
}
