//! What the owner of a key knows of its flight: who has a part of it, who fetches it, how many came. Pure: time and
//! random numbers are arguments.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use piccolo_raft::model::Key;
use rand::Rng;
use rand::seq::{IteratorRandom, SliceRandom};
use serde::{Deserialize, Serialize};

use super::claim::{Claim, Claimant, Ruling};
use super::sample::{PartialHolder, Sample};
use crate::limits::{
    FLIGHT_ZONES_MAX, FLIGHTS_MAX, PARTIAL_HOLDER_TTL, PARTIAL_HOLDERS_SHARED_MAX, PARTIAL_HOLDERS_TOLD_MAX,
};

/// The content of a flight: a key in a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Content {
    /// Group of the nodes.
    pub group: String,
    /// Key of the content.
    #[serde(with = "super::wire::key_text")]
    pub key: Key,
}

/// A node that speaks of its part of a flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Address of its blob server.
    pub address: SocketAddr,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// Contiguous bytes of the content that it has.
    pub have_bytes: u64,
    /// Number of its transfer of the content, by which a late message is told from one of the next transfer. The numbers of
    /// one node grow.
    pub transfer: u64,
}

/// What a node that needs a source says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The node.
    pub node: Node,
    /// Whether its pull begins now.
    pub begins: bool,
    /// Whether the server that it asks knows a complete holder.
    pub is_held: bool,
    /// Whether all sources that it knows bring nothing more.
    pub is_starved: bool,
    /// A source that it has lost.
    pub lost: Option<SocketAddr>,
    /// Claims on other keys that it holds and that have not had a byte yet.
    pub owes: u32,
}

/// What a node that receives or fetches says from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It receives from a node that is `depth - 1` nodes behind the first one.
    Receives {
        /// How many nodes are before it.
        depth: u32,
    },
    /// It fetches from the registry.
    Fetches,
    /// The transfer has ended: it has all of it, or has given up.
    Ended,
}

/// Where a node may get the content from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// Partial holders of the asker's zone, in random order.
    pub near: Vec<SocketAddr>,
    /// Partial holders of other zones, in random order.
    pub far: Vec<SocketAddr>,
    /// The node that fetches from the registry.
    pub fetcher: Option<SocketAddr>,
    /// The ruling on the claim; `None` if the node has no need of one.
    pub ruling: Option<Ruling>,
    /// How many nodes have come to this flight.
    pub came: u64,
}

impl Sources {
    /// Up to [`PARTIAL_HOLDERS_TOLD_MAX`] partial holders for one asker at random, those of its zone first, none of
    /// `not`.
    pub fn pick(&self, not: &[SocketAddr], rng: &mut impl Rng) -> Vec<SocketAddr> {
        let mut picked = Vec::with_capacity(PARTIAL_HOLDERS_TOLD_MAX);
        for tier in [&self.near, &self.far] {
            let may_be = tier.iter().copied().filter(|address| !not.contains(address));
            let mut some = may_be.choose_multiple(rng, PARTIAL_HOLDERS_TOLD_MAX - picked.len());
            some.shuffle(rng);
            picked.append(&mut some);
        }
        picked
    }
}

/// A flight, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlightSummary {
    /// The content.
    pub content: Content,
    /// How many nodes have come.
    pub came: u64,
    /// Most nodes between a partial holder and the first one.
    pub depth: u32,
    /// How often the claim was granted: at most so many copies have left the registry.
    pub grants: u64,
    /// The node that fetches from the registry.
    pub fetcher: Option<SocketAddr>,
}

/// The flights that this server keeps.
#[derive(Debug, Default)]
pub struct FlightTable {
    flights: HashMap<Content, Flight>,
}

#[derive(Debug, Default)]
struct Flight {
    zones: BTreeMap<String, Sample>,
    claim: Claim,
    came: u64,
    used: Duration,
}

impl FlightTable {
    /// Answers a node that needs a source of `content`, and registers it as a partial holder if it gets one. Of each
    /// tier at most [`PARTIAL_HOLDERS_SHARED_MAX`] holders are named.
    pub fn ask(
        &mut self,
        content: &Content,
        question: &Question,
        now: Duration,
        rng: &mut impl Rng,
    ) -> Sources {
        let flight = self.flight(content, now);
        let Node { address, transfer, .. } = question.node;
        flight.came += u64::from(question.begins);
        let not: Vec<_> = std::iter::once(address).chain(question.lost).collect();
        let [near, far] = flight.choose(&question.node.zone, &not, now, rng);
        let has_source = question.is_held || !near.is_empty() || !far.is_empty();
        // A node that was granted the claim while others asked has to learn it.
        let is_fetcher = flight.claim.fetcher() == Some(address) && !question.is_held;
        let is_in_need = question.is_starved || question.lost.is_some() || !has_source;
        let needs_ruling = is_in_need || is_fetcher || flight.claim.is_open(now);
        let ruling = needs_ruling.then(|| {
            let Node { have_bytes, .. } = question.node;
            let claimant =
                Claimant { address, transfer, have_bytes, owes: question.owes, lost: question.lost };
            flight.claim.ask(claimant, now)
        });
        // Also to a node that has lost it: the fetcher fetches on, and that node may only have lost a connection.
        let fetcher = flight.claim.fetcher().filter(|fetcher| *fetcher != address);
        if has_source || fetcher.is_some() || ruling == Some(Ruling::Yours) {
            let holder = PartialHolder { address, transfer, depth: 0, seen: now };
            flight.zone(&question.node.zone).put(holder, rng);
        }
        Sources { near, far, fetcher, ruling, came: flight.came }
    }

    /// Registers a node that has come and has been told a source already.
    pub fn came(&mut self, content: &Content, node: &Node, now: Duration, rng: &mut impl Rng) {
        let flight = self.flight(content, now);
        flight.came += 1;
        let holder = PartialHolder { address: node.address, transfer: node.transfer, depth: 0, seen: now };
        flight.zone(&node.zone).put(holder, rng);
    }

    /// Notes how far a node is. Returns whether its claim still stands; true for one that claims nothing.
    pub fn progress(&mut self, content: &Content, node: &Node, progress: Progress, now: Duration) -> bool {
        let Node { address, have_bytes, transfer, .. } = *node;
        if progress == Progress::Ended {
            if let Some(flight) = self.flights.get_mut(content) {
                flight.zones.values_mut().for_each(|sample| sample.end(address, transfer));
                flight.claim.ended((address, transfer), have_bytes, now);
            }
            return true;
        }
        let flight = self.flight(content, now);
        let holder = PartialHolder { address, transfer, depth: 0, seen: now };
        match progress {
            Progress::Receives { depth } => {
                flight.zone(&node.zone).renew(PartialHolder { depth, ..holder });
                true
            }
            Progress::Fetches => {
                flight.zone(&node.zone).renew(holder);
                flight.claim.has_grown((address, transfer), have_bytes, now)
            }
            Progress::Ended => true,
        }
    }

    /// Forgets partial holders that are silent, and flights that nobody is in.
    pub fn expire(&mut self, now: Duration) {
        self.flights.retain(|_, flight| {
            flight.zones.values_mut().for_each(|sample| sample.expire(now));
            flight.zones.retain(|_, sample| !sample.is_empty());
            !flight.zones.is_empty() || now.saturating_sub(flight.used) < PARTIAL_HOLDER_TTL
        });
    }

    /// All flights, by content.
    pub fn summaries(&self) -> Vec<FlightSummary> {
        let mut summaries: Vec<_> =
            self.flights.iter().map(|(content, flight)| flight.summary(content)).collect();
        summaries.sort_by(|a, b| a.content.cmp(&b.content));
        summaries
    }

    /// How many flights there are.
    pub fn count(&self) -> usize {
        self.flights.len()
    }

    /// The flight of `content`, used now. A table that is full forgets the one that was used longest ago.
    fn flight(&mut self, content: &Content, now: Duration) -> &mut Flight {
        if !self.flights.contains_key(content) {
            if self.flights.len() >= FLIGHTS_MAX {
                self.expire(now);
            }
            if self.flights.len() >= FLIGHTS_MAX
                && let Some(oldest) = self.flights.iter().min_by_key(|(_, flight)| flight.used)
            {
                let oldest = oldest.0.clone();
                self.flights.remove(&oldest);
            }
        }
        let flight = self.flights.entry(content.clone()).or_default();
        flight.used = now;
        flight
    }
}

impl Flight {
    /// Partial holders in `zone` and elsewhere, at random.
    fn choose(
        &self,
        zone: &str,
        not: &[SocketAddr],
        now: Duration,
        rng: &mut impl Rng,
    ) -> [Vec<SocketAddr>; 2] {
        let (near, far): (Vec<_>, Vec<_>) = self.zones.iter().partition(|(name, _)| *name == zone);
        [near, far].map(|samples| {
            let holders = samples.into_iter().flat_map(|(_, sample)| sample.fresh(now));
            let holders = holders.filter(|address| !not.contains(address));
            let mut chosen = holders.choose_multiple(rng, PARTIAL_HOLDERS_SHARED_MAX);
            chosen.shuffle(rng);
            chosen
        })
    }

    /// The sample of `zone`. Zones beyond the limit share the one of nodes without a zone.
    fn zone(&mut self, zone: &str) -> &mut Sample {
        let is_kept = self.zones.contains_key(zone) || self.zones.len() < FLIGHT_ZONES_MAX;
        self.zones.entry(if is_kept { zone.to_owned() } else { String::new() }).or_default()
    }

    fn summary(&self, content: &Content) -> FlightSummary {
        let depths = self.zones.values().flat_map(Sample::iter).map(|holder| holder.depth);
        FlightSummary {
            content: content.clone(),
            came: self.came,
            depth: depths.max().unwrap_or_default(),
            grants: self.claim.grants(),
            fetcher: self.claim.fetcher(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{CLAIM_LOST_AFTER, FETCHES_OWED_MAX};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    struct Scene {
        table: FlightTable,
        content: Content,
        rng: StdRng,
        now: Duration,
    }

    impl Scene {
        fn new() -> Self {
            let content = Content { group: "g".to_owned(), key: "r/i:1".parse().unwrap() };
            Self {
                table: FlightTable::default(),
                content,
                rng: StdRng::seed_from_u64(1),
                now: Duration::ZERO,
            }
        }

        fn ask(&mut self, question: &Question) -> Sources {
            self.table.ask(&self.content, question, self.now, &mut self.rng)
        }

        fn begins(&mut self, number: u16, zone: &str) -> Sources {
            self.ask(&question(number, zone))
        }

        fn progress(&mut self, number: u16, have_bytes: u64, progress: Progress) -> bool {
            let node = Node { have_bytes, ..question(number, "").node };
            self.table.progress(&self.content, &node, progress, self.now)
        }
    }

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn question(number: u16, zone: &str) -> Question {
        Question {
            node: Node { address: address(number), zone: zone.to_owned(), have_bytes: 0, transfer: 0 },
            begins: true,
            is_held: false,
            is_starved: false,
            lost: None,
            owes: 0,
        }
    }

    #[test]
    fn the_first_fetches_and_each_of_the_others_gets_those_that_came_before() {
        let mut scene = Scene::new();
        assert_eq!(scene.begins(1, "").ruling, Some(Ruling::Yours));
        for number in 2..=20 {
            let sources = scene.begins(number, "");
            assert_eq!((sources.ruling, sources.fetcher), (None, Some(address(1))));
            let picked = sources.pick(&[address(2)], &mut scene.rng);
            let others = usize::from(number) - 1 - usize::from(number > 2);
            assert_eq!(picked.len(), PARTIAL_HOLDERS_TOLD_MAX.min(others));
            assert!(!picked.contains(&address(number)) && !picked.contains(&address(2)));
            assert_eq!(sources.came, u64::from(number));
        }
    }

    #[test]
    fn where_a_complete_holder_is_known_nobody_claims_and_all_may_pass_it_on() {
        let mut scene = Scene::new();
        for number in 1..=2 {
            let sources = scene.ask(&Question { is_held: true, ..question(number, "") });
            assert_eq!((sources.ruling, sources.fetcher), (None, None));
            assert_eq!(sources.near.len(), usize::from(number) - 1);
        }
        let starved = Question { is_held: true, is_starved: true, begins: false, ..question(1, "") };
        assert_eq!(scene.ask(&starved).ruling, Some(Ruling::Yours), "the complete holder brings nothing");
    }

    #[test]
    fn who_was_granted_the_claim_by_the_question_of_another_node_learns_it() {
        let mut scene = Scene::new();
        let busy = Question { owes: FETCHES_OWED_MAX, ..question(1, "") };
        let Some(Ruling::Undecided(wait)) = scene.ask(&busy).ruling else { panic!("decided at once") };
        scene.now += wait;
        let other = scene.ask(&Question { owes: FETCHES_OWED_MAX + 1, ..question(2, "") });
        assert_eq!((other.ruling, other.fetcher), (Some(Ruling::HeldBy(address(1))), Some(address(1))));
        let again = Question { begins: false, ..busy };
        assert_eq!(scene.ask(&again).ruling, Some(Ruling::Yours));
        assert_eq!(scene.ask(&Question { is_held: true, ..again }).ruling, None);
        assert_eq!(scene.begins(2, "").ruling, None);
    }

    #[test]
    fn while_the_key_is_open_every_node_learns_it() {
        let mut scene = Scene::new();
        for fetcher in 1..=3 {
            let claims = Question { is_starved: true, begins: false, ..question(fetcher, "") };
            if let Some(Ruling::Undecided(wait)) = scene.ask(&claims).ruling {
                scene.now += wait;
            }
            assert_eq!(scene.ask(&claims).ruling, Some(Ruling::Yours));
            scene.begins(4, "");
            scene.progress(fetcher, 0, Progress::Ended);
        }
        let sources = scene.begins(5, "");
        assert_eq!((sources.near, sources.ruling), (vec![address(4)], Some(Ruling::Open)));
    }

    #[test]
    fn the_zone_of_the_asker_comes_first_and_zones_have_a_limit() {
        let mut scene = Scene::new();
        (0..4).for_each(|number| drop(scene.begins(number, "a")));
        (4..20).for_each(|number| drop(scene.begins(number, "b")));
        let sources = scene.begins(30, "a");
        let picked = sources.pick(&[], &mut scene.rng);
        assert!(picked[..4].iter().all(|holder| holder.port() < 4), "{sources:?}");
        assert!(picked[4..].iter().all(|holder| holder.port() >= 4), "{sources:?}");
        (0..200).for_each(|number| drop(scene.begins(1_000 + number, &format!("zone-{number}"))));
        assert!(scene.table.flights[&scene.content].zones.len() <= FLIGHT_ZONES_MAX + 1);
    }

    #[test]
    fn who_lost_the_fetcher_is_sent_back_to_it_until_that_says_nothing_any_more_and_may_then_take_over() {
        let mut scene = Scene::new();
        scene.begins(1, "");
        scene.begins(2, "");
        let lost = Question { lost: Some(address(1)), begins: false, ..question(2, "") };
        let sources = scene.ask(&lost);
        let held = Some(Ruling::HeldBy(address(1)));
        assert_eq!((sources.near, sources.fetcher, sources.ruling), (vec![], Some(address(1)), held));
        scene.now += CLAIM_LOST_AFTER;
        let sources = scene.ask(&lost);
        let Some(Ruling::Undecided(wait)) = sources.ruling else { panic!("{sources:?}") };
        assert_eq!((sources.near, sources.fetcher), (vec![], None));
        scene.now += wait;
        assert_eq!(scene.ask(&lost).ruling, Some(Ruling::Yours));
        assert!(!scene.progress(1, 0, Progress::Fetches), "the claim has passed on");
        assert!(scene.progress(2, 5, Progress::Fetches));
    }

    #[test]
    fn who_ends_is_told_to_nobody() {
        let mut scene = Scene::new();
        (1..=3).for_each(|number| drop(scene.begins(number, "")));
        assert!(scene.progress(2, 0, Progress::Ended) && scene.progress(1, 0, Progress::Ended));
        let sources = scene.begins(4, "");
        assert_eq!((sources.near, sources.fetcher), (vec![address(3)], None));
    }

    #[test]
    fn who_has_begun_again_before_its_end_is_heard_of_stays() {
        let mut scene = Scene::new();
        scene.begins(1, "");
        let Question { node, .. } = question(2, "");
        scene.ask(&Question { node: Node { transfer: 3, ..node.clone() }, ..question(2, "") });
        for (transfer, near) in [(2, vec![address(2)]), (3, vec![])] {
            let ended = Node { transfer, ..node.clone() };
            scene.table.progress(&scene.content, &ended, Progress::Ended, scene.now);
            assert_eq!(scene.begins(1, "").near, near, "{transfer}");
        }
    }

    #[test]
    fn a_flight_is_forgotten_when_nobody_has_been_in_it_for_a_minute() {
        let mut scene = Scene::new();
        scene.begins(1, "");
        scene.now += PARTIAL_HOLDER_TTL - Duration::from_secs(1);
        scene.progress(1, 5, Progress::Receives { depth: 3 });
        assert_eq!(scene.table.summaries()[0].depth, 3);
        scene.now += PARTIAL_HOLDER_TTL - Duration::from_secs(1);
        scene.table.expire(scene.now);
        assert_eq!(scene.table.count(), 1);
        scene.now += Duration::from_secs(1);
        scene.table.expire(scene.now);
        assert_eq!(scene.table.count(), 0);
    }

    #[test]
    fn a_full_table_forgets_the_flight_that_was_used_longest_ago() {
        let mut scene = Scene::new();
        for number in 0..=FLIGHTS_MAX {
            scene.now = Duration::from_millis(number as u64 % 1_000 + 1);
            scene.content.key = format!("r/i:{number}").parse().unwrap();
            if number == 7 {
                scene.now = Duration::ZERO;
            }
            scene.begins(1, "");
        }
        assert_eq!(scene.table.count(), FLIGHTS_MAX);
        scene.content.key = "r/i:7".parse().unwrap();
        assert!(!scene.table.flights.contains_key(&scene.content));
    }
}
