//! Who fetches a key from its registry: one node at a time. Pure: the time is an argument.
//!
//! A claim is free until a node asks, and then held by that node, the *fetcher*. It passes on when the fetcher says
//! that it has ended, when a node has lost it that has not said for [`CLAIM_LOST_AFTER`] that bytes come, and after a
//! longer time without a byte. A connection to a fetcher may break while it fetches: what counts is what the fetcher
//! says itself. Then the owner of the key compares
//! for [`CLAIM_COLLECT_TIME`] those that ask, and the one with the most bytes is the next fetcher. After
//! [`CLAIM_PATIENCE`]`.len()` fetchers in a row without a byte the key is open for [`CLAIM_OPEN_TIME`]: every node
//! goes to the registry, and has its own error soon. When the bytes of a fetch are wrong, the claim is free again.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{
    CLAIM_COLLECT_TIME, CLAIM_LOST_AFTER, CLAIM_OPEN_TIME, CLAIM_PATIENCE, CLAIM_STALL_MAX, FETCHES_OWED_MAX,
};

/// What a node that asks for a claim is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// The node fetches the key from the registry.
    Yours,
    /// Another node fetches it.
    HeldBy(SocketAddr),
    /// It is not decided yet: the node asks again after this time.
    Undecided(Duration),
    /// Every node fetches it from the registry.
    Open,
}

/// A node that needs a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Address of its blob server.
    pub address: SocketAddr,
    /// Number of the transfer for which it asks. Those of one node grow.
    pub transfer: u64,
    /// Contiguous bytes of the content that it has.
    pub have_bytes: u64,
    /// Claims on other keys that it holds and that have not had a byte yet.
    pub owes: u32,
    /// A source that it has lost, as long as it has no other one.
    pub lost: Option<SocketAddr>,
}

impl Claimant {
    /// The best claimant has the smallest rank: one that does not owe too much, then the longest.
    fn rank(&self) -> (bool, Reverse<u64>, u32) {
        (self.owes >= FETCHES_OWED_MAX, Reverse(self.have_bytes), self.owes)
    }
}

/// The claim on one key.
#[derive(Debug, Default)]
pub struct Claim {
    stage: ClaimStage,
    /// Fetchers in a row that had no byte.
    failed: usize,
    /// The last fetchers from which the claim passed on, and how many bytes each had.
    former: Vec<(SocketAddr, u64)>,
    /// How many fetchers there were: at most so many copies have left the registry.
    grants: u64,
    /// The fetcher whose bytes were wrong, until another fetch is granted.
    wrong: Option<SocketAddr>,
}

#[derive(Debug, Default)]
enum ClaimStage {
    #[default]
    Free,
    /// Claimants are compared.
    Collecting {
        until: Duration,
        best: Option<Claimant>,
    },
    Held(Fetch),
    Open {
        until: Duration,
    },
}

#[derive(Debug)]
struct Fetch {
    fetcher: SocketAddr,
    /// The last transfer of the fetcher that is known.
    transfer: u64,
    have_bytes: u64,
    /// When it was granted, or when the last byte came.
    since: Duration,
    has_grown: bool,
}

impl Fetch {
    /// Whether it was granted, or had a byte, less than [`CLAIM_LOST_AFTER`] ago.
    fn has_just_grown(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) < CLAIM_LOST_AFTER
    }
}

impl Claim {
    /// Rules on `claimant`.
    pub fn ask(&mut self, claimant: Claimant, now: Duration) -> Ruling {
        self.pass_time(now);
        match &mut self.stage {
            ClaimStage::Open { .. } => return Ruling::Open,
            ClaimStage::Held(fetch) if fetch.fetcher == claimant.address => {
                fetch.transfer = claimant.transfer;
                return Ruling::Yours;
            }
            ClaimStage::Held(fetch) if claimant.lost != Some(fetch.fetcher) || fetch.has_just_grown(now) => {
                return Ruling::HeldBy(fetch.fetcher);
            }
            ClaimStage::Held(_) => self.release(now),
            ClaimStage::Free if claimant.owes < FETCHES_OWED_MAX => return self.grant(claimant, now),
            ClaimStage::Free => self.collect(now),
            ClaimStage::Collecting { .. } => {}
        }
        self.compare(claimant, now)
    }

    /// Notes that `fetcher` has `have_bytes` of the content in this transfer. Returns whether it holds the claim. One that
    /// is free becomes its own: a server that has just become the owner of the key learns so who fetches. One that passed
    /// on from it comes back if it has got bytes since, and no other node has.
    pub fn has_grown(
        &mut self,
        (fetcher, transfer): (SocketAddr, u64),
        have_bytes: u64,
        now: Duration,
    ) -> bool {
        if self.is_of_former_transfer(fetcher, transfer) {
            return true;
        }
        let comes_back = || {
            let former = self.former.iter().find(|former| former.0 == fetcher);
            former.is_some_and(|(_, had_bytes)| have_bytes > *had_bytes)
        };
        let is_new = match &self.stage {
            ClaimStage::Free if self.wrong == Some(fetcher) => return false,
            ClaimStage::Free => true,
            ClaimStage::Held(fetch) if fetch.fetcher == fetcher => false,
            ClaimStage::Held(fetch) if fetch.has_grown || !comes_back() => return false,
            ClaimStage::Collecting { .. } | ClaimStage::Open { .. } if !comes_back() => return false,
            ClaimStage::Held(_) | ClaimStage::Collecting { .. } | ClaimStage::Open { .. } => true,
        };
        if matches!(self.stage, ClaimStage::Free) {
            self.grants += 1;
        }
        if let ClaimStage::Held(fetch) = &mut self.stage
            && fetch.fetcher == fetcher
        {
            fetch.transfer = transfer;
        }
        if is_new || matches!(&self.stage, ClaimStage::Held(fetch) if have_bytes > fetch.have_bytes) {
            self.stage =
                ClaimStage::Held(Fetch { fetcher, transfer, have_bytes, since: now, has_grown: true });
            self.failed = 0;
        }
        true
    }

    /// Notes that this transfer of `node`, which has had `have_bytes` of the content, has ended. The message may come
    /// after the question of a later transfer, over another connection: it ends that one's claim not.
    pub fn ended(&mut self, (node, transfer): (SocketAddr, u64), have_bytes: u64, now: Duration) {
        if self.is_of_former_transfer(node, transfer) {
            return;
        }
        if let ClaimStage::Held(fetch) = &mut self.stage
            && fetch.fetcher == node
        {
            if have_bytes > fetch.have_bytes {
                (fetch.has_grown, self.failed) = (true, 0);
            }
            self.release(now);
        }
        self.former.retain(|(former, _)| *former != node);
    }

    /// Whether `node` holds the claim for a later transfer than this one.
    fn is_of_former_transfer(&self, node: SocketAddr, transfer: u64) -> bool {
        matches!(&self.stage, ClaimStage::Held(fetch) if fetch.fetcher == node && transfer < fetch.transfer)
    }

    /// Notes that the bytes that were fetched are wrong: the next node that asks fetches them anew. What the fetcher
    /// says of its bytes does not bring the claim back. A key that is open stays so.
    pub fn had_wrong_bytes(&mut self) {
        if !matches!(self.stage, ClaimStage::Open { .. }) {
            self.wrong = self.fetcher();
            (self.stage, self.failed) = (ClaimStage::Free, 0);
            self.former.clear();
        }
    }

    /// The node that fetches.
    pub fn fetcher(&self) -> Option<SocketAddr> {
        match &self.stage {
            ClaimStage::Held(fetch) => Some(fetch.fetcher),
            _ => None,
        }
    }

    /// Whether every node goes to the registry at `now`.
    pub fn is_open(&self, now: Duration) -> bool {
        matches!(self.stage, ClaimStage::Open { until } if now < until)
    }

    /// How often the claim was granted.
    pub fn grants(&self) -> u64 {
        self.grants
    }

    /// Ends what is over at `now`.
    fn pass_time(&mut self, now: Duration) {
        match &self.stage {
            ClaimStage::Open { until } if now >= *until => {
                self.failed = 0;
                self.stage = ClaimStage::Free;
            }
            ClaimStage::Held(fetch) => {
                let patience = if fetch.has_grown { CLAIM_STALL_MAX } else { CLAIM_PATIENCE[self.failed] };
                if now.saturating_sub(fetch.since) >= patience {
                    self.release(now);
                }
            }
            _ => {}
        }
    }

    /// Takes the claim from its fetcher.
    fn release(&mut self, now: Duration) {
        let ClaimStage::Held(fetch) = &self.stage else { return };
        self.former.retain(|(former, _)| *former != fetch.fetcher);
        if self.former.len() == CLAIM_PATIENCE.len() {
            self.former.remove(0);
        }
        self.former.push((fetch.fetcher, fetch.have_bytes));
        if !fetch.has_grown {
            self.failed += 1;
        }
        if self.failed < CLAIM_PATIENCE.len() {
            self.collect(now);
        } else {
            self.stage = ClaimStage::Open { until: now + CLAIM_OPEN_TIME };
        }
    }

    fn collect(&mut self, now: Duration) {
        self.stage = ClaimStage::Collecting { until: now + CLAIM_COLLECT_TIME, best: None };
    }

    /// Compares `claimant` with those that asked before, and grants the claim when the time is over.
    fn compare(&mut self, claimant: Claimant, now: Duration) -> Ruling {
        let ClaimStage::Collecting { until, best } = &mut self.stage else { return Ruling::Open };
        let leading = match *best {
            Some(best) if best.address != claimant.address && best.rank() <= claimant.rank() => best,
            _ => claimant,
        };
        *best = Some(leading);
        match until.saturating_sub(now) {
            Duration::ZERO if leading == claimant => self.grant(leading, now),
            Duration::ZERO => {
                self.grant(leading, now);
                Ruling::HeldBy(leading.address)
            }
            left => Ruling::Undecided(left),
        }
    }

    fn grant(&mut self, claimant: Claimant, now: Duration) -> Ruling {
        self.grants += 1;
        self.wrong = None;
        self.stage = ClaimStage::Held(Fetch {
            fetcher: claimant.address,
            transfer: claimant.transfer,
            have_bytes: claimant.have_bytes,
            since: now,
            has_grown: false,
        });
        Ruling::Yours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn claimant(number: u16) -> Claimant {
        Claimant { address: node(number), transfer: 0, have_bytes: 0, owes: 0, lost: None }
    }

    /// A node that has lost the fetcher.
    fn lost(number: u16, fetcher: u16) -> Claimant {
        Claimant { lost: Some(node(fetcher)), ..claimant(number) }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// What the node is answered once those that asked at the same time were compared.
    fn settled(claim: &mut Claim, claimant: Claimant, now: Duration) -> Ruling {
        match claim.ask(claimant, now) {
            Ruling::Undecided(wait) => claim.ask(claimant, now + wait),
            ruling => ruling,
        }
    }

    #[test]
    fn the_first_node_fetches_and_the_others_learn_who_does() {
        let mut claim = Claim::default();
        assert_eq!(claim.ask(claimant(1), at(0)), Ruling::Yours);
        assert_eq!(claim.ask(claimant(2), at(0)), Ruling::HeldBy(node(1)));
        assert_eq!(claim.ask(claimant(1), at(1)), Ruling::Yours, "its answer was lost");
        assert_eq!(claim.grants(), 1);
    }

    #[test]
    fn a_claim_without_a_byte_passes_on_after_two_four_and_eight_seconds_and_then_the_key_is_open() {
        let mut claim = Claim::default();
        let mut now = at(0);
        assert_eq!(claim.ask(claimant(0), now), Ruling::Yours);
        for (fetcher, patience) in [(0, 2_000), (1, 4_000)] {
            let next = fetcher + 1;
            assert_eq!(claim.ask(claimant(next), now + at(patience - 1)), Ruling::HeldBy(node(fetcher)));
            now += at(patience);
            assert_eq!(claim.ask(claimant(next), now), Ruling::Undecided(CLAIM_COLLECT_TIME));
            now += CLAIM_COLLECT_TIME;
            assert_eq!(claim.ask(claimant(next), now), Ruling::Yours);
        }
        now += at(8_000);
        assert_eq!(claim.ask(claimant(3), now), Ruling::Open);
        assert!(claim.is_open(now + CLAIM_OPEN_TIME - at(1)));
        assert_eq!(claim.ask(claimant(3), now + CLAIM_OPEN_TIME), Ruling::Yours);
        assert_eq!(claim.grants(), 4);
    }

    #[test]
    fn bytes_keep_a_claim_until_they_stop() {
        let mut claim = Claim::default();
        claim.ask(claimant(1), at(0));
        assert!(claim.has_grown((node(1), 0), 1, at(1_900)));
        assert!(!claim.has_grown((node(2), 0), 9, at(1_900)), "it holds no claim");
        assert_eq!(claim.ask(claimant(2), at(6_000)), Ruling::HeldBy(node(1)));
        assert!(claim.has_grown((node(1), 0), 1, at(6_800)), "the same length is no growth");
        assert_eq!(claim.ask(claimant(2), at(6_900)), Ruling::Undecided(CLAIM_COLLECT_TIME));
    }

    #[test]
    fn a_new_owner_of_the_key_learns_from_the_fetcher_that_there_is_one() {
        let mut claim = Claim::default();
        assert!(claim.has_grown((node(1), 0), 10, at(0)));
        assert_eq!(claim.ask(claimant(2), at(1)), Ruling::HeldBy(node(1)));
        assert!(!claim.has_grown((node(2), 0), 10, at(2)));
        assert_eq!(claim.grants(), 1);
    }

    #[test]
    fn a_claim_that_passed_on_too_early_comes_back_with_the_first_byte() {
        let mut claim = Claim::default();
        claim.ask(claimant(1), at(0));
        settled(&mut claim, claimant(2), at(2_000));
        assert!(!claim.has_grown((node(1), 0), 0, at(3_000)), "it has nothing");
        assert!(claim.has_grown((node(1), 0), 1, at(3_000)));
        assert_eq!(claim.ask(claimant(2), at(3_001)), Ruling::HeldBy(node(1)));
        assert!(!claim.has_grown((node(2), 0), 5, at(3_002)), "bytes come to the first one");
        assert_eq!(claim.grants(), 2);
        let stage = ClaimStage::Open { until: at(60_000) };
        let mut open = Claim { stage, former: vec![(node(1), 7)], ..Claim::default() };
        assert!(!open.has_grown((node(1), 0), 7, at(1_000)) && !open.has_grown((node(2), 0), 9, at(1_000)));
        assert!(open.has_grown((node(1), 0), 8, at(1_000)));
        assert_eq!(open.ask(claimant(2), at(1_001)), Ruling::HeldBy(node(1)));
    }

    #[test]
    fn a_length_below_that_at_the_claim_is_no_growth() {
        let mut claim = Claim::default();
        claim.ask(Claimant { have_bytes: 10, ..claimant(1) }, at(0));
        claim.has_grown((node(1), 0), 10, at(1_999));
        assert!(matches!(claim.ask(claimant(2), at(2_000)), Ruling::Undecided(_)));
    }

    #[test]
    fn the_longest_of_those_that_lost_the_fetcher_is_the_next_one() {
        let mut claim = Claim::default();
        claim.ask(claimant(1), at(0));
        claim.has_grown((node(1), 0), 50, at(100));
        let lost = |number, have_bytes| Claimant { have_bytes, ..lost(number, 1) };
        assert_eq!(claim.ask(lost(2, 20), at(1_700)), Ruling::Undecided(CLAIM_COLLECT_TIME));
        assert_eq!(claim.ask(lost(3, 40), at(1_750)), Ruling::Undecided(at(150)));
        assert_eq!(
            claim.ask(lost(4, 40), at(1_760)),
            Ruling::Undecided(at(140)),
            "the first of equals leads"
        );
        assert_eq!(claim.ask(lost(2, 20), at(1_900)), Ruling::HeldBy(node(3)));
        assert_eq!(claim.ask(lost(3, 40), at(1_901)), Ruling::Yours);
        assert_eq!(claim.ask(lost(4, 40), at(3_500)), Ruling::HeldBy(node(3)), "it lost another one");
    }

    /// What broke: a child whose connection to the fetcher was reset once got the claim of a fetcher that went on, and a
    /// second copy left the registry.
    #[test]
    fn a_fetcher_that_says_that_bytes_come_keeps_its_claim_whoever_has_lost_it() {
        let mut claim = Claim::default();
        claim.ask(claimant(1), at(0));
        let mut now = at(0);
        for second in 1..20 {
            assert_eq!(claim.ask(lost(2, 1), now + CLAIM_LOST_AFTER - at(1)), Ruling::HeldBy(node(1)));
            now = at(second * 1_000);
            assert!(claim.has_grown((node(1), 0), second, now));
        }
        assert!(claim.has_grown((node(1), 0), 19, now + at(1_000)), "it lives, and nothing comes");
        let asked = now + CLAIM_LOST_AFTER;
        assert_eq!(claim.ask(claimant(3), asked), Ruling::HeldBy(node(1)), "it has lost nobody");
        assert_eq!(claim.ask(lost(2, 1), asked), Ruling::Undecided(CLAIM_COLLECT_TIME));
        assert_eq!(claim.ask(lost(2, 1), asked + CLAIM_COLLECT_TIME), Ruling::Yours);
    }

    #[test]
    fn a_fetcher_that_ends_passes_on_at_once() {
        let mut claim = Claim::default();
        claim.ask(claimant(1), at(0));
        claim.ended((node(2), 0), 0, at(10));
        assert_eq!(claim.fetcher(), Some(node(1)));
        claim.ended((node(1), 0), 0, at(10));
        assert_eq!(settled(&mut claim, claimant(2), at(20)), Ruling::Yours);
        claim.ended((node(2), 0), 0, at(500));
        assert_eq!(settled(&mut claim, claimant(3), at(5_000)), Ruling::Yours, "nobody asked meanwhile");
        claim.ended((node(3), 0), 0, at(5_001));
        assert_eq!(claim.ask(claimant(4), at(5_002)), Ruling::Open, "three had no byte");
    }

    /// What broke: a node said that a transfer had ended, and asked for the next one over another connection, which was
    /// faster. The owner took the claim from it that it had just granted.
    #[test]
    fn the_end_of_a_former_transfer_does_not_end_the_claim_of_a_later_one() {
        let of = |transfer| Claimant { transfer, ..claimant(1) };
        let mut claim = Claim::default();
        claim.ask(of(7), at(0));
        claim.ended((node(1), 6), 9, at(1));
        assert!(claim.has_grown((node(1), 6), 9, at(2)), "no word of the later one");
        assert_eq!(claim.ask(claimant(2), at(1_999)), Ruling::HeldBy(node(1)));
        assert_eq!(claim.ask(of(8), at(1_999)), Ruling::Yours, "it begins again");
        claim.ended((node(1), 7), 0, at(1_999));
        assert_eq!(claim.fetcher(), Some(node(1)));
        claim.ended((node(1), 8), 0, at(1_999));
        assert_eq!(claim.fetcher(), None);
        let mut of_new_owner = Claim::default();
        assert!(of_new_owner.has_grown((node(1), 7), 1, at(0)));
        of_new_owner.ended((node(1), 6), 1, at(1));
        assert_eq!(of_new_owner.fetcher(), Some(node(1)));
        assert!(of_new_owner.has_grown((node(1), 8), 2, at(2)), "it fetches again");
        of_new_owner.ended((node(1), 7), 1, at(3));
        assert_eq!(of_new_owner.fetcher(), Some(node(1)));
    }

    /// What broke: fetchers of the last piece of a blob whose bytes are wrong ended before they had said that some came,
    /// and after three of them every node went to the registry.
    #[test]
    fn a_fetcher_that_ends_after_some_bytes_has_not_failed() {
        let mut claim = Claim::default();
        for fetcher in 0..4_u16 {
            let now = at(u64::from(fetcher) * 1_000);
            assert_eq!(settled(&mut claim, claimant(fetcher), now), Ruling::Yours);
            claim.ended((node(fetcher), 0), 1, now + at(500));
        }
        assert!(!claim.is_open(at(5_000)));
    }

    #[test]
    fn after_wrong_bytes_the_next_node_that_asks_fetches_them_anew_and_only_one_does() {
        let mut claim = Claim::default();
        claim.ask(claimant(1), at(0));
        claim.has_grown((node(1), 0), 9, at(100));
        claim.had_wrong_bytes();
        assert!(!claim.has_grown((node(1), 0), 9, at(200)), "what it said before it knew");
        assert_eq!(claim.ask(claimant(2), at(201)), Ruling::Yours);
        assert_eq!(claim.ask(claimant(3), at(202)), Ruling::HeldBy(node(2)));
        assert!(!claim.has_grown((node(1), 0), 10, at(203)), "nor is it a former fetcher");
        let open = ClaimStage::Open { until: at(60_000) };
        let mut open = Claim { stage: open, ..Claim::default() };
        open.had_wrong_bytes();
        assert_eq!(open.ask(claimant(2), at(1)), Ruling::Open);
    }

    #[test]
    fn a_node_that_owes_three_fetches_gets_a_fourth_only_if_nobody_else_asks() {
        let busy = |number| Claimant { owes: FETCHES_OWED_MAX, have_bytes: 9, ..claimant(number) };
        let mut claim = Claim::default();
        assert_eq!(settled(&mut claim, busy(1), at(0)), Ruling::Yours);
        let mut claim = Claim::default();
        assert_eq!(claim.ask(busy(1), at(0)), Ruling::Undecided(CLAIM_COLLECT_TIME));
        assert_eq!(claim.ask(claimant(2), at(199)), Ruling::Undecided(at(1)));
        assert_eq!(claim.ask(busy(1), at(200)), Ruling::HeldBy(node(2)));
    }
}
