//! A fleet's traffic for half a day, and for a month, through the real log, index and purge on real files:
//! neither file may grow with time. Time is what the tests say; openraft is left out, which adds no
//! byte to either file that is not an entry.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cluster::compaction::Compaction;
use crate::index::STATE_FILE;
use crate::log::LOG_FILE;
use crate::model::Pair;
use crate::snapshot::SnapshotData;
use crate::testing::{entry, log_id};

/// Between two turns of the simulated site.
const TURN: Duration = Duration::from_secs(10);
const TURNS_A_DAY: u64 = 24 * 3600 / TURN.as_secs();
const HOSTS: u16 = 200;
/// Releases that a host keeps; the image garbage collection takes the oldest.
const RELEASES_KEPT: usize = 8;
const LAYERS: u8 = 8;
/// One in so many turns a release is rolled out.
const ROLLOUT_TURNS: u64 = 60;
const HOSTS_A_ROLLOUT: usize = 60;

/// What the files may come to: the site's log of ten minutes is under 1 MiB, its state as well.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
const STATE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// redb's files grow by regions: a small one may double once without any meaning.
const FILE_STEP_BYTES: u64 = 1024 * 1024;

struct Site {
    random: StdRng,
    releases: u64,
    /// Of each host: its releases, the oldest first.
    held: BTreeMap<u16, VecDeque<u64>>,
    /// Of each host that is gone: when it comes back, with nothing.
    gone: BTreeMap<u16, u64>,
    /// Commands that are to be proposed, and when.
    due: BTreeMap<u64, Vec<Command>>,
    seq: u64,
}

impl Site {
    fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self {
            random,
            releases: 0,
            held: BTreeMap::new(),
            gone: BTreeMap::new(),
            due: BTreeMap::new(),
            seq: 0,
        }
    }

    fn holder(host: u16) -> Holder {
        let [high, low] = host.to_be_bytes();
        Holder { group: "default".to_owned(), address: ([10, 0, high, low], 7781).into() }
    }

    fn write(&mut self, host: u16, release: u64) -> Write {
        let layer = |layer: u8| {
            let mut digest = [layer; 32];
            digest[..8].copy_from_slice(&release.to_be_bytes());
            // Layers differ in their first bytes, as digests do.
            digest[8..16].copy_from_slice(&release.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            Key::Sha256(digest)
        };
        self.seq += 1;
        let mut keys: Vec<Key> = (0..LAYERS).map(layer).collect();
        keys.push(format!("registry.local/app:{release}").parse().unwrap());
        let pair = Some(Pair { epoch: 1, seq: self.seq });
        Write { holder: Self::holder(host), pair, stores_pair: true, keys }
    }

    /// What is proposed in this turn: roll-outs, collected garbage, hosts that go silent, are forgotten and
    /// come back.
    fn turn(&mut self, turn: u64, last_index: u64) -> Vec<Command> {
        if turn.is_multiple_of(ROLLOUT_TURNS) {
            self.roll_out(turn);
        }
        self.gone.retain(|_, until| *until > turn);
        if turn % 90 == 7 {
            self.silence(turn, last_index);
        }
        self.due.remove(&turn).unwrap_or_default()
    }

    /// A host is hidden: for two minutes, or, every third one, until it is forgotten after a day.
    fn silence(&mut self, turn: u64, last_index: u64) {
        let host = self.random.random_range(0..HOSTS);
        // Writes of a roll-out that are still to come would show it again.
        let quiet = ROLLOUT_TURNS;
        if self.gone.contains_key(&host) {
            return;
        }
        let holder = Self::holder(host);
        let hide = Command::Hide { holder: holder.clone(), last_write_index: last_index, unix_ms: turn };
        let hidden_at = turn + quiet;
        if self.random.random_range(0..3) == 0 {
            let hide = Command::Hide { holder: holder.clone(), last_write_index: u64::MAX, unix_ms: turn };
            let forget = Command::Forget { holder, hidden_unix_ms: turn };
            self.due.entry(hidden_at).or_default().push(hide);
            self.due.entry(hidden_at + TURNS_A_DAY).or_default().push(forget);
            self.held.remove(&host);
            self.gone.insert(host, hidden_at + TURNS_A_DAY + 1);
        } else {
            self.due.entry(turn).or_default().push(hide);
            self.due.entry(turn + 12).or_default().push(Command::Unhide { holder });
        }
    }

    fn roll_out(&mut self, turn: u64) {
        self.releases += 1;
        let release = self.releases;
        let hosts: Vec<u16> = (0..HOSTS).filter(|host| !self.gone.contains_key(host)).collect();
        let chosen: Vec<u16> = hosts.choose_multiple(&mut self.random, HOSTS_A_ROLLOUT).copied().collect();
        for host in chosen {
            let at = turn + self.random.random_range(0..12);
            let advertise = Command::Advertise(self.write(host, release));
            self.due.entry(at).or_default().push(advertise);
            let held = self.held.entry(host).or_default();
            held.push_back(release);
            if held.len() > RELEASES_KEPT
                && let Some(oldest) = held.pop_front()
            {
                let withdraw = Command::Withdraw(self.write(host, oldest));
                self.due.entry(at + 30).or_default().push(withdraw);
            }
        }
    }
}

/// The largest that each file was, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Largest {
    log: u64,
    state: u64,
}

impl Largest {
    fn see(&mut self, folder: &Path) {
        let size = |name: &str| std::fs::metadata(folder.join(name)).unwrap().len();
        self.log = self.log.max(size(LOG_FILE));
        self.state = self.state.max(size(STATE_FILE));
    }
}

/// Runs the site for so many half days; the largest files of the first and of the second half.
async fn run_site(folder: &Path, half_days: u64) -> (Largest, Largest) {
    let disk = FolderDisk::open(folder).unwrap();
    let (mut log, index) = (LogStore::open(&disk).unwrap(), Index::open(&disk).unwrap());
    let durable = index.clone();
    log.guard_purge(move || durable.durable_applied().map_or(0, |id| id.index));
    let (mut site, mut compaction) = (Site::new(6), Compaction::default());
    let (start, mut last, mut purges) = (Instant::now(), 0, 0);
    let mut halves = [Largest::default(); 2];
    let turns = half_days * TURNS_A_DAY / 2;
    for turn in 0..turns {
        let commands = site.turn(turn, last);
        let entries: Vec<_> = (last + 1..).zip(commands).map(|(at, command)| entry(at, command)).collect();
        if !entries.is_empty() {
            last += entries.len() as u64;
            log.blocking_append(entries.clone()).await.unwrap();
            index.apply(&entries).await.unwrap();
            index.flush_durable().await.unwrap();
        }
        let at = start + TURN * turn as u32;
        if let Some(upto) = compaction.due(
            at,
            index.applied_index(),
            log.purged().map_or(0, |id| id.index),
            log.appended_bytes(),
        ) {
            SnapshotData::of(&index).await.map(drop).unwrap();
            log.purge(log_id(upto)).await.unwrap();
            purges += 1;
        }
        if turn % 360 == 0 {
            halves[usize::from(turn >= turns / 2)].see(folder);
        }
    }
    let counts = index.counts();
    println!("{half_days} half days: {last} entries, {purges} purges, {counts:?}, {halves:?}");
    assert!(last > 2_500 * half_days && purges > 2 * half_days && counts.pairs > 5_000, "the site was busy");
    index.close().await.unwrap();
    log.close().await;
    (halves[0], halves[1])
}

fn assert_bounded(first: Largest, second: Largest) {
    assert!(first.log > 0 && first.state > 0);
    assert!(second.log <= LOG_BYTES_MAX && second.state <= STATE_BYTES_MAX, "{second:?}");
    let grown = |before: u64, after: u64| after > before + before / 4 + FILE_STEP_BYTES;
    assert!(!grown(first.log, second.log), "the log grew: {first:?}, then {second:?}");
    assert!(!grown(first.state, second.state), "the state grew: {first:?}, then {second:?}");
}

#[tokio::test]
async fn half_a_busy_day_leaves_the_files_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = run_site(folder.path(), 1).await;
    assert_bounded(first, second);
}

#[tokio::test]
async fn soak_a_month_of_fleet_traffic_leaves_the_files_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = run_site(folder.path(), 60).await;
    assert_bounded(first, second);
}
