//! One seed, one life of a cluster: it is disturbed for some seconds while holders write, then left in
//! peace. During all of it nothing may be seen that breaks a promise; afterwards it must recover.
//!
//! Deterministic are: the RNG of the crate and of openraft, the clocks, the order of all tasks and
//! messages, the disk. Not covered by the seed are the hash maps of redb and of this crate, and tokio's
//! own RNG (`select!` without `biased`, tokio's watch): nothing that is observed may depend on them, and
//! a test holds that. A life that shows what a read or a checksum must not show ends at once.

use std::ops::AddAssign;
use std::time::{SystemTime, UNIX_EPOCH};

use super::cluster::Cluster;
use super::nemesis::Nemesis;
use super::world::{self, Fault};

/// How long a cluster is disturbed, milliseconds.
const DISTURBED_MS: u64 = 6_000;
/// A leader, and every holder's last write acknowledged, within so long after the last disturbance.
const RECOVERY_MS: u64 = 20_000;
/// All members show the same within so long after that.
const LEVEL_MS: u64 = 10_000;

/// Of so many lives, some must have sent a snapshot.
const LIVES_WITH_SNAPSHOTS: usize = 30;

/// Size and spares of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    servers: usize,
    spares: usize,
}

pub(crate) const THREE: Scenario = Scenario { name: "three", servers: 3, spares: 0 };
const FIVE: Scenario = Scenario { name: "five", servers: 5, spares: 0 };
const CHANGING: Scenario = Scenario { name: "changing", servers: 3, spares: 2 };
const ALL: [Scenario; 3] = [THREE, FIVE, CHANGING];

/// The outcome of a life.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) violations: Vec<String>,
    trace: u64,
    counts: Counts,
}

/// What was done, and what went wrong, in one life or in many.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    acknowledged: usize,
    reads: usize,
    /// Reads at the index of an acknowledged write, of `reads`; and those that got no such answer.
    reads_behind: usize,
    reads_unanswered: usize,
    leaders: usize,
    splits: usize,
    one_way: usize,
    lost: usize,
    doubled: usize,
    cuts_at_a_sync: usize,
    losses: usize,
    lives_with_purges: usize,
    snapshots: usize,
    changes: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.reads_behind += other.reads_behind;
        self.reads_unanswered += other.reads_unanswered;
        self.leaders += other.leaders;
        self.splits += other.splits;
        self.one_way += other.one_way;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.cuts_at_a_sync += other.cuts_at_a_sync;
        self.losses += other.losses;
        self.lives_with_purges += other.lives_with_purges;
        self.snapshots += other.snapshots;
        self.changes += other.changes;
    }
}

impl Counts {
    fn of(cluster: &Cluster, nemesis: &Nemesis) -> Self {
        let (shared, seen) = (cluster.book.open(), &cluster.seen);
        let (lost, doubled, snapshots) =
            world::inside(|world| (world.net.lost, world.doubled, world.snapshots));
        Self {
            acknowledged: shared.histories.values().map(|history| history.acknowledged()).sum(),
            reads: shared.reads,
            reads_behind: shared.reads_behind,
            reads_unanswered: shared.reads_unanswered,
            leaders: seen.leaders(),
            splits: nemesis.done.splits,
            one_way: nemesis.done.one_way,
            lost,
            doubled,
            cuts_at_a_sync: seen.cuts,
            losses: seen.losses,
            lives_with_purges: usize::from(seen.purges > 0),
            snapshots,
            changes: nemesis.done.changes,
        }
    }

    /// The trouble was there that many lives must have seen.
    fn assert_trouble(&self, scenario: Scenario, lives: usize) {
        assert!(
            self.acknowledged > lives * 10 && self.reads > lives * 10,
            "next to nothing was done: {self:?}"
        );
        assert!(self.reads_behind > lives * 5, "hardly any read at an index was answered: {self:?}");
        assert!(self.leaders > lives, "nobody was deposed: {self:?}");
        let Self {
            splits, one_way, lost, doubled, cuts_at_a_sync, losses, lives_with_purges, snapshots, ..
        } = *self;
        let network = [splits, one_way, lost, doubled];
        let disks = [cuts_at_a_sync, losses, lives_with_purges];
        assert!(network.into_iter().chain(disks).all(|count| count > 0), "some trouble never came: {self:?}");
        // Rarer: a few lives may do without.
        assert!(snapshots > 0 || lives < LIVES_WITH_SNAPSHOTS, "no snapshot was sent: {self:?}");
        assert!(scenario.spares == 0 || self.changes > 0, "the membership never changed: {self:?}");
    }
}

/// Runs the life of one seed.
pub(crate) fn live(scenario: Scenario, seed: u64, fault: Option<Fault>) -> Life {
    let Scenario { servers, spares, .. } = scenario;
    let mut cluster = Cluster::of_listed(seed, servers, spares);
    if let Some(fault) = fault {
        world::break_it(fault);
    }
    let mut nemesis = Nemesis::new(seed, spares > 0);
    let born = cluster.run_until(RECOVERY_MS, |cluster| cluster.leader().is_some());
    if !born {
        cluster.book.violate("no cluster was born".to_owned());
    }
    if fault == Some(Fault::LogSyncIsALie) {
        cluster.hosts.iter().for_each(|host| host.disk.lie_about(crate::log::LOG_FILE));
    }
    cluster.spawn_clients(3, 1);
    let broken = |cluster: &mut Cluster| {
        nemesis.act(cluster);
        !cluster.book.open().violations.is_empty()
    };
    if !cluster.run_until(DISTURBED_MS, broken) {
        recover(&mut cluster, &mut nemesis);
    }
    let counts = Counts::of(&cluster, &nemesis);
    Life { violations: cluster.violations(), trace: cluster.trace(), counts }
}

/// Checks safety first, then liveness.
fn recover(cluster: &mut Cluster, nemesis: &mut Nemesis) {
    cluster.judge_all();
    nemesis.end(cluster);
    cluster.book.open().stop = true;
    let holders = 4;
    let broken = |cluster: &Cluster| !cluster.book.open().violations.is_empty();
    let recovered = cluster.run_until(RECOVERY_MS, |cluster| {
        let ended = cluster.book.open().ended == holders;
        broken(cluster) || (nemesis.is_settled(cluster) && ended && cluster.leader().is_some())
    });
    if !recovered {
        let told = {
            let shared = cluster.book.open();
            format!("{} of {holders} holders have ended, last change: {}", shared.ended, shared.last_change)
        };
        let leader = cluster.leader();
        cluster.book.violate(format!("not recovered after {RECOVERY_MS} ms: leader {leader:?}, {told}"));
    }
    if broken(cluster) {
        return;
    }
    if !cluster.run_until(LEVEL_MS, |cluster| broken(cluster) || cluster.is_level()) {
        let told = cluster.tell();
        cluster.book.violate(format!("members differ {LEVEL_MS} ms after the last write: {told}"));
    }
    cluster.judge_all();
}

/// Lives many lives and panics at the first that breaks a promise, with the way to see it again.
fn sweep(scenario: Scenario, seeds: impl Iterator<Item = u64>) {
    let start = std::time::Instant::now();
    let (mut lives, mut sums) = (0, Counts::default());
    for seed in seeds {
        let _told = TellsSeed(scenario, seed);
        let life = live(scenario, seed, None);
        assert!(life.violations.is_empty(), "{:#?}", life.violations);
        lives += 1;
        sums += life.counts;
    }
    println!("{}: {lives} seeds in {:?}: {sums:?}", scenario.name, start.elapsed());
    sums.assert_trouble(scenario, lives);
}

/// Prints, on a panic, how to run the seed again.
struct TellsSeed(Scenario, u64);

impl Drop for TellsSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(scenario, seed) = self;
            eprintln!(
                "again: PICCOLO_SIM_SCENARIO={} PICCOLO_SIM_SEED={seed} cargo test -p piccolo-raft --lib \
                 sim::seeds::one_seed_again -- --ignored --nocapture",
                scenario.name
            );
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// The first of seeds that no other day has.
fn of_today() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    since.as_secs() / 86_400 * 100_000
}

#[test]
fn three_servers_keep_their_promises() {
    sweep(THREE, 0..120);
}

#[test]
fn five_servers_keep_their_promises() {
    sweep(FIVE, 1000..1015);
}

#[test]
fn changing_servers_keep_their_promises() {
    sweep(CHANGING, 2000..2045);
}

#[test]
fn soak_seeds_keep_the_promises() {
    let (first, count) = (number("PICCOLO_SIM_FIRST", of_today()), number("PICCOLO_SIM_SEEDS", 1000));
    println!("PICCOLO_SIM_FIRST={first} PICCOLO_SIM_SEEDS={count}");
    // One thread a scenario: a simulation is one thread's.
    std::thread::scope(|scope| {
        for scenario in ALL {
            scope.spawn(move || sweep(scenario, first..first + count));
        }
    });
}

#[test]
#[ignore = "repeats a seed that is named by PICCOLO_SIM_SCENARIO and PICCOLO_SIM_SEED"]
fn one_seed_again() {
    let name = std::env::var("PICCOLO_SIM_SCENARIO").unwrap_or("three".to_owned());
    let scenario = ALL.into_iter().find(|scenario| scenario.name == name).expect("a scenario");
    let life = live(scenario, number("PICCOLO_SIM_SEED", 0), None);
    println!("{life:#?}");
    assert!(life.violations.is_empty());
}

#[test]
fn a_seed_lives_the_same_life_again() {
    for scenario in [THREE, CHANGING] {
        let (first, again) = (live(scenario, 7, None), live(scenario, 7, None));
        assert_eq!((first.trace, first.violations), (again.trace, again.violations));
        assert_ne!(first.trace, live(scenario, 8, None).trace);
    }
}
