//! What goes wrong: partitions, delays, losses, kills, power cuts at chosen moments, frozen processes,
//! graceful stops, and an operator who changes the membership meanwhile.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::cluster::{Change, Phase, Who};
use crate::index::STATE_FILE;
use crate::log::LOG_FILE;
use crate::types::NodeId;

use super::client::{Answer, Request};
use super::cluster::{CLIENTS, Cluster};
use super::host::{Role, address_of};
use super::net::{self, HostId, Payload};
use super::workload::Book;

/// Longest duration of a disturbance, milliseconds.
const LASTS_MS_MAX: u64 = 2500;
/// How long an operator waits for an answer, and before asking again.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(8);
const OPERATOR_PAUSE: Duration = Duration::from_millis(250);

/// Disturbs a cluster at random.
pub(crate) struct Nemesis {
    rng: StdRng,
    next_ms: u64,
    heal_at_ms: Option<u64>,
    flapping: Option<HostId>,
    frozen: Vec<(u64, HostId)>,
    operator: Option<Operator>,
    /// Hosts that may become members.
    changes: bool,
    pub(crate) done: Done,
}

/// Counts of what was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// Changes of the membership that came to their end.
    pub(crate) changes: usize,
    /// Members were divided into two sides that heard nothing of each other.
    pub(crate) splits: usize,
    /// A member heard others that did not hear it, or the other way round.
    pub(crate) one_way: usize,
}

/// A change of the membership that is under way.
struct Operator {
    gain: Option<HostId>,
    loss: Option<HostId>,
    done: Arc<Mutex<bool>>,
}

impl Nemesis {
    pub(crate) fn new(seed: u64, changes: bool) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ 0x6e65_6d65_7369_7321);
        let (next_ms, heal_at_ms, frozen, done) = (0, None, vec![], Done::default());
        Self { rng, next_ms, heal_at_ms, flapping: None, frozen, operator: None, changes, done }
    }

    /// Disturbs the cluster, or does nothing; called once a tick.
    pub(crate) fn act(&mut self, cluster: &mut Cluster) {
        let now = cluster.now_ms;
        self.settle(cluster);
        self.flap(cluster);
        if self.heal_at_ms.is_some_and(|at| at <= now) {
            self.heal(cluster);
        }
        self.thaw(cluster, now);
        if self.next_ms > now {
            return;
        }
        self.next_ms = now + self.rng.random_range(50..900);
        let what = self.rng.random_range(0..if self.changes { 17 } else { 13 });
        super::world::say(|| format!("{now}: disturbance {what}; {}", cluster.tell()));
        match what {
            0 => self.split(cluster),
            1 | 2 => self.cut_one_way(cluster),
            3 => self.flapping = Some(self.any(cluster)),
            4 => self.worsen(cluster),
            5 => {
                let victim = self.any(cluster);
                cluster.kill(victim);
            }
            6 => {
                let victim = self.any(cluster);
                cluster.cut_power(victim);
            }
            7 => self.cut_several(cluster),
            8..=10 => self.cut_at_a_sync(cluster),
            11 => self.freeze(cluster),
            12 => {
                let id = self.any(cluster);
                cluster.hosts[id].stop();
            }
            _ => self.change(cluster),
        }
        if self.heal_at_ms.is_none() {
            self.heal_at_ms = Some(now + self.rng.random_range(100..LASTS_MS_MAX));
        }
    }

    /// Ends all disturbances, and starts the hosts that are down.
    pub(crate) fn end(&mut self, cluster: &mut Cluster) {
        self.heal(cluster);
        self.thaw(cluster, u64::MAX);
        for id in 0..cluster.hosts.len() {
            cluster.hosts[id].disk.keep_power();
            if cluster.hosts[id].disk.is_off() && cluster.hosts[id].is_running() {
                cluster.cut_power(id);
            }
        }
        let down: Vec<HostId> = cluster.restarts.keys().copied().collect();
        for id in down {
            cluster.start(id);
        }
    }

    /// Nobody changes the membership, and the last change is done.
    pub(crate) fn is_settled(&mut self, cluster: &mut Cluster) -> bool {
        self.settle(cluster);
        self.operator.is_none()
    }

    fn heal(&mut self, cluster: &mut Cluster) {
        self.heal_at_ms = None;
        self.flapping = None;
        super::world::inside(|world| world.net.heal(&mut world.rng, cluster.now_ms));
    }

    fn thaw(&mut self, cluster: &mut Cluster, now: u64) {
        self.frozen.retain(|(until, id)| {
            if *until <= now {
                cluster.hosts[*id].frozen = false;
            }
            *until > now
        });
    }

    /// A random member, running or not.
    fn any(&mut self, cluster: &Cluster) -> HostId {
        let members: Vec<HostId> = cluster.members.iter().copied().collect();
        *members.choose(&mut self.rng).expect("a cluster has members")
    }

    fn link(from: HostId, to: HostId, change: impl FnOnce(&mut net::Link)) {
        super::world::inside(|world| change(world.net.link(from, to)));
    }

    fn split(&mut self, cluster: &Cluster) {
        let side: Vec<bool> = cluster.hosts.iter().map(|_| self.rng.random()).collect();
        let sides: BTreeSet<bool> = cluster.members.iter().map(|id| side[*id]).collect();
        self.done.splits += usize::from(sides.len() == 2);
        for (from, one) in side.iter().enumerate() {
            for (to, other) in side.iter().enumerate() {
                Self::link(from, to, |link| link.cut |= one != other);
            }
        }
    }

    fn cut_one_way(&mut self, cluster: &Cluster) {
        let victim = self.any(cluster);
        let mut cut = false;
        for other in (0..cluster.hosts.len()).filter(|other| *other != victim) {
            let way = match self.rng.random_range(0..100) {
                0..60 => (victim, other),
                60..68 => (other, victim),
                _ => continue,
            };
            Self::link(way.0, way.1, |link| link.cut = true);
            cut |= cluster.members.contains(&other);
        }
        self.done.one_way += usize::from(cut);
    }

    fn flap(&mut self, cluster: &Cluster) {
        let Some(victim) = self.flapping else { return };
        if !self.rng.random_bool(0.05) {
            return;
        }
        for other in 0..cluster.hosts.len() {
            Self::link(victim, other, |link| link.cut = !link.cut);
            Self::link(other, victim, |link| link.cut = !link.cut);
        }
    }

    fn worsen(&mut self, cluster: &Cluster) {
        let delay_ms_max = [20, 100, 400, 1500][self.rng.random_range(0..4)];
        let (lost, doubled) = (self.rng.random_range(0..250), self.rng.random_range(0..100));
        let ends: Vec<HostId> = (0..cluster.hosts.len()).chain([CLIENTS]).collect();
        for from in &ends {
            for to in &ends {
                Self::link(*from, *to, |link| {
                    (link.delay_ms_max, link.lost, link.doubled) = (delay_ms_max, lost, doubled);
                });
            }
        }
    }

    fn cut_several(&mut self, cluster: &mut Cluster) {
        let all = self.rng.random_bool(0.5);
        for id in cluster.members.clone() {
            if all || self.rng.random() {
                cluster.cut_power(id);
            }
        }
    }

    /// Soon: at one of the next syncs of any file, or of one.
    fn cut_at_a_sync(&mut self, cluster: &Cluster) {
        let all = self.rng.random_bool(0.3);
        let one = self.any(cluster);
        for id in cluster.members.iter().filter(|id| all || **id == one) {
            let (disk, ahead) = (&cluster.hosts[*id].disk, self.rng.random_range(1..5));
            match self.rng.random_range(0..3) {
                0 => disk.cut_power_at_sync(disk.syncs() + ahead),
                1 => disk.cut_power_at(LOG_FILE, disk.activity(LOG_FILE).0 + ahead),
                _ => disk.cut_power_at(STATE_FILE, disk.activity(STATE_FILE).0 + 1),
            }
        }
    }

    fn freeze(&mut self, cluster: &mut Cluster) {
        let id = self.any(cluster);
        cluster.hosts[id].frozen = true;
        self.frozen.push((cluster.now_ms + self.rng.random_range(200..LASTS_MS_MAX), id));
    }

    fn node_id(cluster: &Cluster, id: HostId) -> Option<NodeId> {
        cluster.hosts[id].node().map(|node| node.parts().1.node_id)
    }

    fn change(&mut self, cluster: &mut Cluster) {
        if self.operator.is_some() {
            return;
        }
        let spare = (0..cluster.hosts.len()).find(|id| {
            !cluster.members.contains(id)
                && !cluster.hosts[*id].is_running()
                && !cluster.restarts.contains_key(id)
        });
        let victim = self.any(cluster);
        let victim_id = Self::node_id(cluster, victim);
        let (change, gain, loss) = match (self.rng.random_range(0..4), spare, victim_id) {
            (0, Some(spare), _) => (Change::Add { addresses: vec![address_of(spare)] }, Some(spare), None),
            (1, Some(spare), Some(old)) => {
                let change = Change::Replace { old: Who::Id(old), address: address_of(spare) };
                // Its disk is gone for good, or it is as healthy as the others.
                if self.rng.random() && cluster.leader().is_some_and(|leader| leader != victim) {
                    cluster.destroy(victim);
                }
                (change, Some(spare), Some(victim))
            }
            (2, _, Some(old)) if cluster.members.len() > 3 => {
                (Change::Remove { who: Who::Id(old) }, None, Some(victim))
            }
            (3, _, Some(to)) => {
                let change = Change::Transfer { to: Some(Who::Id(to)) };
                let ask = ask_once(change, cluster.book.clone(), self.rng.random());
                return cluster.spawn(ask);
            }
            _ => return,
        };
        if let Some(spare) = gain {
            let Some(member) = cluster.members.iter().find(|id| Some(**id) != loss) else { return };
            cluster.wipe(spare, Role::Joining(address_of(*member)));
            cluster.start(spare);
        }
        // The one that is added may lead before the change is done, and would not be asked.
        cluster.book.open().joining = gain.map(address_of);
        let done = Arc::new(Mutex::new(false));
        let work = insist(change, cluster.book.clone(), self.rng.random(), done.clone());
        cluster.spawn(work);
        self.operator = Some(Operator { gain, loss, done });
    }

    /// Takes note of a change that is done.
    fn settle(&mut self, cluster: &mut Cluster) {
        let done = self.operator.as_ref().is_some_and(|operator| *operator.done.lock().unwrap());
        if !done {
            return;
        }
        let Some(Operator { gain, loss, .. }) = self.operator.take() else { return };
        self.done.changes += 1;
        cluster.members.extend(gain);
        if let Some(loss) = loss {
            cluster.members.remove(&loss);
        }
        let servers: BTreeSet<String> = cluster.members.iter().map(|id| address_of(*id)).collect();
        let mut shared = cluster.book.open();
        (shared.servers, shared.joining) = (servers.into_iter().collect(), None);
    }
}

/// Asks for a change once, of any server.
async fn ask_once(change: Change, book: Book, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    ask(&change, &book, &mut rng).await;
}

/// Asks for a change until it is done.
pub(super) async fn insist(change: Change, book: Book, seed: u64, done: Arc<Mutex<bool>>) {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        if let Some(Answer::Changing { phase: Phase::Done, .. }) = ask(&change, &book, &mut rng).await {
            *done.lock().unwrap() = true;
            return;
        }
        tokio::time::sleep(OPERATOR_PAUSE).await;
    }
}

async fn ask(change: &Change, book: &Book, rng: &mut StdRng) -> Option<Answer> {
    let server = {
        let shared = book.open();
        let asked: Vec<&String> = shared.servers.iter().chain(&shared.joining).collect();
        (*asked.choose(rng).expect("there are servers")).clone()
    };
    let asked = net::ask(CLIENTS, &server, Payload::Client(Request::Change(change.clone())));
    match tokio::time::timeout(OPERATOR_PATIENCE, asked).await {
        Ok(net::Answer::Client(answer)) => {
            if let Answer::Changing { message, .. } | Answer::NotChanged { reason: message, .. } = &answer {
                book.open().last_change = format!("{change:?}: {message}");
            }
            Some(answer)
        }
        _ => None,
    }
}
