//! Which nodes receive a blob from this one while it is still arriving here, or is complete: a chain for small flights,
//! a tree for large ones. Pure: the time is an argument.
//!
//! A node that sends each byte to `c` others delivers at `1/c` of its link. So it has one child a blob, two once many
//! nodes have come, and a further one only while its link has nothing to send: all its children have all that it has.
//! A child that is slow does not count (`child`), and those that receive from it are sent here.

mod child;

use std::net::SocketAddr;
use std::time::Duration;

use crate::limits::{
    CHILDREN_IN_LARGE_FLIGHT, CHILDREN_MAX, FLIGHT_IS_LARGE_BEYOND, IDLE_BEFORE_FURTHER_CHILD, STARVED_AFTER,
};
use child::Child;

/// A node that asks to receive a blob from this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// Address of its blob server.
    pub address: SocketAddr,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// Contiguous bytes of the blob that it has.
    pub have_bytes: u64,
    /// Whether it has children of its own.
    pub has_children: bool,
    /// Whether it comes because its former source was slow.
    pub has_left_slow: bool,
}

/// This node, as the source of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Contiguous bytes of the blob that it has.
    pub have_bytes: u64,
    /// Whether bytes come here, or all have come.
    pub is_attached: bool,
    /// How many nodes have come to the flight, as far as this one knows.
    pub came: u64,
}

/// What an applicant is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is a child now.
    Admitted,
    /// This node has as many children as it may; the applicant asks them, in this order.
    Full(Vec<SocketAddr>),
    /// This node has no bytes to come, or fewer than the applicant.
    NoSource,
}

/// The children of one blob.
#[derive(Debug, Default)]
pub struct Children {
    children: Vec<Child>,
    /// Since when all children have had all that this node has.
    idle_since: Option<Duration>,
    /// Bytes that this node had when it was looked at last, and when there were more than before.
    grew: (u64, Duration),
}

impl Children {
    /// Decides on `applicant`, and adds it if it is admitted. An applicant that is a child already takes the place of
    /// its former connection.
    pub fn apply(&mut self, applicant: &Applicant, source: Source, now: Duration) -> Admission {
        if !source.is_attached || !may_attach(applicant, source.have_bytes) {
            return Admission::NoSource;
        }
        self.remove(applicant.address);
        if !self.has_room(source, now) {
            return Admission::Full(self.name(&applicant.zone, now));
        }
        self.idle_since = None;
        self.children.push(Child::new(applicant, source.have_bytes, now));
        Admission::Admitted
    }

    /// Notes that the child at `address` has `have_bytes` by now.
    pub fn sent(&mut self, address: SocketAddr, have_bytes: u64) {
        if let Some(child) = self.children.iter_mut().find(|child| child.address == address) {
            child.sent(have_bytes);
        }
    }

    /// Removes the child at `address`, whose connection has ended.
    pub fn remove(&mut self, address: SocketAddr) {
        self.children.retain(|child| child.address != address);
    }

    /// Whether this node has children.
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Whether the slow child at `address` should look for another source, because others have taken its place: it
    /// takes from their share of the link, and would be as well off with a node that has no children.
    pub fn should_leave(&self, address: SocketAddr, came: u64) -> bool {
        let is_slow = self.children.iter().any(|child| child.address == address && child.is_slow);
        is_slow && self.children.len() > regular(came)
    }

    /// Brings up to date who is slow, and whether the link is idle. Called when bytes come, and some times a second.
    pub fn look(&mut self, have_bytes: u64, now: Duration) {
        if have_bytes > self.grew.0 {
            self.grew = (have_bytes, now);
        }
        let all_have_all =
            !self.children.is_empty() && self.children.iter().all(|c| c.have_bytes >= have_bytes);
        self.idle_since = (all_have_all && self.grows(now)).then(|| self.idle_since.unwrap_or(now));
        let count = self.children.len();
        for position in 0..count {
            let others = self.children.iter().enumerate().filter(|(other, _)| *other != position);
            let (mut rates, mut known) = (0, 0);
            for rate in others.filter_map(|(_, child)| child.rate(now)) {
                (rates, known) = (rates + rate, known + 1);
            }
            self.children[position].judge(have_bytes, count as u64, rates / known.max(1), now);
        }
    }

    /// Whether the children of the child at `address` should leave it, because it is slow. `zone` is that of this node.
    /// In another zone the way there may be what is slow: those who have left a slow source there, and are slow like
    /// it, keep their own children, so that not the whole zone comes one after the other.
    pub fn should_be_left(&self, address: SocketAddr, zone: &str) -> bool {
        let child = self.children.iter().find(|child| child.address == address);
        child.is_some_and(|child| child.is_slow && (child.zone == zone || !child.has_left_slow))
    }

    /// Whether bytes come. A node to which nothing comes has an idle link, too, but not for long.
    fn grows(&self, now: Duration) -> bool {
        now.saturating_sub(self.grew.1) < STARVED_AFTER
    }

    fn has_room(&self, source: Source, now: Duration) -> bool {
        let counting = self.children.iter().filter(|child| !child.is_slow).count();
        let is_idle = self.grows(now)
            && self.idle_since.is_some_and(|since| now.saturating_sub(since) >= IDLE_BEFORE_FURTHER_CHILD);
        self.children.len() < CHILDREN_MAX && (counting < regular(source.came) || is_idle)
    }

    /// The children in the order in which an applicant of `zone` asks them: slow ones last, its own zone first, and
    /// among those the one that was not named for the longest time.
    fn name(&mut self, zone: &str, now: Duration) -> Vec<SocketAddr> {
        self.children.sort_by_key(|child| (child.is_slow, child.zone != zone, child.named));
        if let Some(first) = self.children.first_mut() {
            first.named = Some(now);
        }
        self.children.iter().map(|child| child.address).collect()
    }
}

/// Children of a node in a flight to which so many have come.
fn regular(came: u64) -> usize {
    if came > FLIGHT_IS_LARGE_BEYOND { CHILDREN_IN_LARGE_FLIGHT } else { 1 }
}

/// No node receives from one that receives from it. A node without children may attach to a source at its own length
/// or beyond, one with children only to a source that is strictly ahead. A child never has more than its source, so a
/// cycle would need equal lengths all round.
fn may_attach(applicant: &Applicant, source_bytes: u64) -> bool {
    match applicant.has_children {
        false => source_bytes >= applicant.have_bytes,
        true => source_bytes > applicant.have_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CHILD_SLOW_AFTER;

    fn node(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn applicant(number: u16) -> Applicant {
        Applicant {
            address: node(number),
            zone: String::new(),
            have_bytes: 0,
            has_children: false,
            has_left_slow: false,
        }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const SMALL: Source = Source { have_bytes: 100, is_attached: true, came: 3 };
    const LARGE: Source = Source { came: FLIGHT_IS_LARGE_BEYOND + 1, ..SMALL };

    #[test]
    fn a_small_flight_is_a_chain_and_a_large_one_a_tree_of_two() {
        for (source, admitted) in [(SMALL, 1), (LARGE, 2)] {
            let mut children = Children::default();
            for number in 1..=admitted {
                assert_eq!(children.apply(&applicant(number), source, at(0)), Admission::Admitted);
            }
            let Admission::Full(named) = children.apply(&applicant(9), source, at(0)) else { panic!() };
            assert_eq!(named.len(), usize::from(admitted));
            assert_eq!(
                children.apply(&applicant(1), source, at(1)),
                Admission::Admitted,
                "it connects again"
            );
        }
    }

    #[test]
    fn lengths_decide_who_may_attach() {
        for (have, has_children, source, expected) in [
            (100, false, 100, true),
            (101, false, 100, false),
            (99, true, 100, true),
            (100, true, 100, false),
            (0, false, 0, true),
            (0, true, 0, false),
        ] {
            let asks = Applicant { have_bytes: have, has_children, ..applicant(1) };
            let source = Source { have_bytes: source, ..SMALL };
            let admission = Children::default().apply(&asks, source, at(0));
            assert_eq!(admission == Admission::Admitted, expected, "{have} {has_children} {source:?}");
        }
        let unattached = Source { is_attached: false, ..SMALL };
        assert_eq!(Children::default().apply(&applicant(1), unattached, at(0)), Admission::NoSource);
    }

    #[test]
    fn a_further_child_comes_each_second_while_the_link_has_nothing_to_send_and_four_are_the_most() {
        let mut children = Children::default();
        let mut ask = |number: u16, millis: u64| {
            // A byte comes each millisecond, and all that are children have it at once.
            let source = Source { have_bytes: millis, ..SMALL };
            (1..=number).for_each(|child| children.sent(node(child), millis));
            children.look(millis, at(millis));
            children.apply(&applicant(number), source, at(millis)) == Admission::Admitted
        };
        assert!(ask(1, 1) && !ask(2, 2) && !ask(2, 1_001), "the first look was at 2 ms");
        assert!(ask(2, 1_002) && !ask(3, 1_003) && !ask(3, 2_002), "the next second begins with a child");
        assert!(ask(3, 2_003) && !ask(4, 2_004) && ask(4, 3_004));
        assert!(!ask(5, 3_005) && !ask(5, 9_000));
        children.remove(node(2));
        children.look(9_100, at(9_100));
        let source = Source { have_bytes: 9_100, ..SMALL };
        let admission = children.apply(&applicant(5), source, at(9_100));
        assert!(matches!(admission, Admission::Full(_)), "the link is busy");
    }

    #[test]
    fn the_link_of_a_source_to_which_nothing_comes_is_not_idle() {
        // The source looks at its only child each 100 ms, and that has all each time. Bytes come until `grows_until`,
        // and once more at `again`, ms; a further child asks at 3 s.
        for (grows_until, again, expected) in
            [(3_000, 3_000, true), (2_400, 2_400, false), (500, 2_900, false)]
        {
            let mut children = Children::default();
            children.apply(&applicant(1), SMALL, at(0));
            let mut have_bytes = 0;
            for now in (0..=3_000).step_by(100) {
                have_bytes += u64::from(now <= grows_until || now == again);
                children.sent(node(1), have_bytes);
                children.look(have_bytes, at(now));
            }
            let admission = children.apply(&applicant(2), Source { have_bytes, ..SMALL }, at(3_000));
            assert_eq!(admission == Admission::Admitted, expected, "{grows_until} {again}");
        }
    }

    #[test]
    fn a_slow_child_does_not_count_and_is_named_last_and_its_children_should_leave_it() {
        const MIB: u64 = 1024 * 1024;
        let source = Source { have_bytes: 1_000 * MIB, ..LARGE };
        let mut children = Children::default();
        let mut full = |number, now| match children.apply(&applicant(number), source, now) {
            Admission::Full(named) => Some(named),
            _ => None,
        };
        assert!(full(1, at(0)).is_none() && full(2, at(0)).is_none() && full(3, at(0)).is_some());
        children.sent(node(1), 90 * MIB);
        children.sent(node(2), 29 * MIB);
        children.look(source.have_bytes, CHILD_SLOW_AFTER);
        assert!(children.should_be_left(node(2), "") && !children.should_be_left(node(1), ""));
        assert!(!children.should_leave(node(2), source.came), "nobody has taken its place");
        assert_eq!(children.apply(&applicant(3), source, CHILD_SLOW_AFTER), Admission::Admitted);
        let Admission::Full(named) = children.apply(&applicant(4), source, CHILD_SLOW_AFTER) else {
            panic!()
        };
        assert_eq!(named.last(), Some(&node(2)));
        let should_leave = [1, 2, 3].map(|number| children.should_leave(node(number), source.came));
        assert_eq!(should_leave, [false, true, false]);
    }

    #[test]
    fn where_the_way_to_a_zone_is_slow_only_the_first_children_there_leave_their_source() {
        for (zone, has_left_slow, expected) in
            [("a", false, true), ("a", true, true), ("b", false, true), ("b", true, false)]
        {
            let source = Source { have_bytes: 1 << 40, ..LARGE };
            let mut children = Children::default();
            children.apply(&applicant(1), source, at(0));
            let slow = Applicant { zone: zone.to_owned(), has_left_slow, ..applicant(2) };
            children.apply(&slow, source, at(0));
            children.sent(node(1), 1 << 30);
            children.look(source.have_bytes, CHILD_SLOW_AFTER);
            assert_eq!(children.should_be_left(node(2), "a"), expected, "{zone} {has_left_slow}");
        }
    }

    #[test]
    fn applicants_are_sent_to_all_children_in_turn_and_to_their_own_zone_first() {
        let mut children = Children::default();
        let of_zone = |number, zone: &str| Applicant { zone: zone.to_owned(), ..applicant(number) };
        children.apply(&of_zone(1, "a"), LARGE, at(0));
        children.apply(&of_zone(2, "b"), LARGE, at(0));
        let mut first = |zone, now| match children.apply(&of_zone(9, zone), LARGE, at(now)) {
            Admission::Full(named) => named[0].port(),
            other => panic!("{other:?}"),
        };
        assert_eq!([first("c", 1), first("c", 2), first("c", 3)], [1, 2, 1]);
        assert_eq!([first("b", 4), first("b", 5)], [2, 2]);
    }
}
