//! Tables of what the owner of a key answers.

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
        Self { table: FlightTable::default(), content, rng: StdRng::seed_from_u64(1), now: Duration::ZERO }
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

fn wrong(attempt: u64) -> Progress {
    Progress::Wrong { attempt, keeps_bytes: false }
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
        attempt: None,
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

/// Others are told of it, and its number counts.
#[test]
fn who_has_come_and_has_a_source_already_is_a_partial_holder() {
    let mut scene = Scene::new();
    scene.begins(1, "");
    scene.table.came(&scene.content, &question(2, "").node, scene.now, &mut scene.rng);
    let sources = scene.begins(3, "");
    assert!(sources.near.contains(&address(2)) && sources.came == 3, "{sources:?}");
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
fn an_attempt_whose_bytes_are_wrong_is_told_to_nobody_and_one_node_fetches_anew() {
    let mut scene = Scene::new();
    (1..=4).for_each(|number| drop(scene.begins(number, "")));
    scene.progress(2, 9, wrong(0));
    let lost = |number| Question { lost: Some(address(1)), begins: false, ..question(number, "") };
    let first = scene.ask(&lost(2));
    assert_eq!((first.attempt, first.ruling), (1, Some(Ruling::Yours)));
    assert_eq!((first.near, first.fetcher), (vec![], None));
    scene.progress(3, 9, wrong(0));
    let next = scene.ask(&lost(3));
    assert_eq!((next.attempt, next.ruling), (1, Some(Ruling::HeldBy(address(2)))), "it has ended already");
    assert_eq!((next.near, next.fetcher), (vec![address(2)], Some(address(2))));
    let late = scene.begins(5, "");
    assert!(!late.near.contains(&address(1)) && late.attempt == 1, "{late:?}");
}

/// What broke: nodes behind the one that fetched anew said that they had lost it, because it had left the attempt that
/// was wrong. The claim passed on three times without a byte, and every node went to the registry.
#[test]
fn who_lost_its_source_with_an_attempt_that_has_ended_takes_no_claim_from_it() {
    for (attempt, have_bytes, is_told) in
        [(Some(0), 9, false), (Some(0), 0, true), (Some(1), 9, true), (None, 9, true)]
    {
        let mut scene = Scene::new();
        (1..=3).for_each(|number| drop(scene.begins(number, "")));
        scene.progress(1, 9, wrong(0));
        assert_eq!(scene.begins(2, "").ruling, Some(Ruling::Yours));
        scene.now += CLAIM_LOST_AFTER;
        let lost = Question { lost: Some(address(2)), attempt, begins: false, ..question(3, "") };
        let sources = scene.ask(&Question { node: Node { have_bytes, ..lost.node.clone() }, ..lost });
        assert_eq!(sources.attempt, 1);
        let keeps_claim = attempt == Some(0);
        assert_eq!(sources.fetcher.is_some(), is_told && keeps_claim, "{attempt:?} {have_bytes}");
        let is_undecided = matches!(sources.ruling, Some(Ruling::Undecided(_)));
        assert_eq!(is_undecided, !keeps_claim, "{attempt:?} {have_bytes}");
    }
}

#[test]
fn nodes_that_go_on_with_bytes_of_an_attempt_that_has_ended_keep_their_sources() {
    let mut scene = Scene::new();
    (1..=3).for_each(|number| drop(scene.begins(number, "")));
    scene.progress(2, 9, Progress::Wrong { attempt: 0, keeps_bytes: true });
    let sources = scene.begins(4, "");
    assert_eq!((sources.attempt, sources.near.len(), sources.fetcher), (1, 3, Some(address(1))));
}

#[test]
fn a_server_that_has_lost_its_memory_learns_which_attempt_was_wrong() {
    let mut scene = Scene::new();
    scene.progress(2, 9, wrong(3));
    assert_eq!(scene.begins(2, "").attempt, 4);
    scene.progress(2, 9, wrong(u64::MAX));
    assert_eq!(scene.begins(2, "").attempt, u64::MAX);
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

/// What broke: nobody was told to fetch anew, because a node that had been told of the attempt before counted as a
/// source.
#[test]
fn who_comes_to_an_attempt_that_has_ended_is_no_source_for_others() {
    let mut scene = Scene::new();
    scene.begins(1, "");
    scene.progress(1, 9, wrong(0));
    scene.table.came(&scene.content, &question(5, "").node, scene.now, &mut scene.rng);
    assert_eq!(scene.begins(2, "").ruling, Some(Ruling::Yours));
}

#[test]
fn an_owner_without_memory_learns_the_attempt_from_a_question() {
    let mut scene = Scene::new();
    let starved = Question { attempt: Some(2), is_starved: true, ..question(2, "") };
    assert_eq!(scene.ask(&starved).attempt, 2);
    assert_eq!(scene.begins(3, "").attempt, 2);
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
