//! Which nodes receive a blob from this one while it is still arriving here, or is complete: a chain for small flights,
//! a tree for large ones. Pure: the time is an argument.
//!
//! A node that sends each byte to `c` others delivers at `1/c` of its link. So it has one child a blob, two once many
//! nodes have come, and a further one only while its link has nothing to send: all its children have all that it has.

use std::net::SocketAddr;
use std::time::Duration;

use crate::limits::{
    CHILD_SLOW_AFTER, CHILD_SLOW_SHARE, CHILDREN_IN_LARGE_FLIGHT, CHILDREN_MAX, FLIGHT_IS_LARGE_BEYOND,
    IDLE_BEFORE_FURTHER_CHILD,
};

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
}

#[derive(Debug)]
struct Child {
    address: SocketAddr,
    zone: String,
    /// Contiguous bytes that it has.
    have_bytes: u64,
    /// Bytes that it took in the running window, and since when that runs.
    window: (u64, Duration),
    is_slow: bool,
    /// When it was last named to an applicant.
    named: Option<Duration>,
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
        self.children.push(Child {
            address: applicant.address,
            zone: applicant.zone.clone(),
            have_bytes: applicant.have_bytes,
            window: (0, now),
            is_slow: false,
            named: None,
        });
        Admission::Admitted
    }

    /// Notes that the child at `address` has `have_bytes` by now.
    pub fn sent(&mut self, address: SocketAddr, have_bytes: u64) {
        if let Some(child) = self.children.iter_mut().find(|child| child.address == address) {
            child.window.0 += have_bytes.saturating_sub(child.have_bytes);
            child.have_bytes = have_bytes;
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

    /// Brings up to date who is slow, and whether the link is idle. Called when bytes come, and each second.
    pub fn look(&mut self, have_bytes: u64, now: Duration) {
        let all_have_all =
            !self.children.is_empty() && self.children.iter().all(|c| c.have_bytes >= have_bytes);
        self.idle_since = all_have_all.then(|| self.idle_since.unwrap_or(now));
        let is_due = |child: &Child| now.saturating_sub(child.window.1) >= CHILD_SLOW_AFTER;
        if !self.children.iter().all(is_due) {
            return;
        }
        let taken: u64 = self.children.iter().map(|child| child.window.0).sum();
        let others = self.children.len().saturating_sub(1) as u64;
        for child in &mut self.children {
            let others_took = taken - child.window.0;
            // One that has all there is cannot take more.
            let lags = child.have_bytes < have_bytes;
            child.is_slow = others > 0 && lags && child.window.0 * others * CHILD_SLOW_SHARE < others_took;
            child.window = (0, now);
        }
    }

    fn has_room(&self, source: Source, now: Duration) -> bool {
        let counting = self.children.iter().filter(|child| !child.is_slow).count();
        let regular = if source.came > FLIGHT_IS_LARGE_BEYOND { CHILDREN_IN_LARGE_FLIGHT } else { 1 };
        let is_idle =
            self.idle_since.is_some_and(|since| now.saturating_sub(since) >= IDLE_BEFORE_FURTHER_CHILD);
        self.children.len() < CHILDREN_MAX && (counting < regular || is_idle)
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

    fn node(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn applicant(number: u16) -> Applicant {
        Applicant { address: node(number), zone: String::new(), have_bytes: 0, has_children: false }
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
        children.apply(&applicant(1), SMALL, at(0));
        children.sent(node(1), 100);
        children.look(100, at(0));
        assert!(matches!(children.apply(&applicant(2), SMALL, at(999)), Admission::Full(_)));
        children.look(100, at(1_000));
        assert_eq!(children.apply(&applicant(2), SMALL, at(1_000)), Admission::Admitted);
        for number in 3..=4 {
            children.sent(node(number - 1), 100);
            let now = at(1_000 * u64::from(number - 1));
            children.look(100, now);
            assert!(matches!(children.apply(&applicant(number), SMALL, now), Admission::Full(_)));
            let now = now + at(1_000);
            children.look(100, now);
            assert_eq!(children.apply(&applicant(number), SMALL, now), Admission::Admitted, "{number}");
        }
        children.sent(node(4), 100);
        for now in [at(9_000), at(19_000)] {
            children.look(100, now);
            assert!(matches!(children.apply(&applicant(5), SMALL, now), Admission::Full(_)));
        }
        children.remove(node(2));
        children.look(200, at(20_000));
        assert!(
            matches!(children.apply(&applicant(5), SMALL, at(20_000)), Admission::Full(_)),
            "the link is busy"
        );
    }

    #[test]
    fn a_child_that_takes_under_a_third_of_the_others_does_not_count_and_is_named_last() {
        let mut children = Children::default();
        children.apply(&applicant(1), LARGE, at(0));
        children.apply(&applicant(2), LARGE, at(0));
        children.sent(node(1), 90);
        children.sent(node(2), 29);
        children.look(1_000, CHILD_SLOW_AFTER - at(1));
        assert!(matches!(children.apply(&applicant(3), LARGE, at(0)), Admission::Full(_)), "too soon");
        children.look(1_000, CHILD_SLOW_AFTER);
        assert_eq!(children.apply(&applicant(3), LARGE, CHILD_SLOW_AFTER), Admission::Admitted);
        let Admission::Full(named) = children.apply(&applicant(4), LARGE, CHILD_SLOW_AFTER) else { panic!() };
        assert_eq!(named.last(), Some(&node(2)));
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
