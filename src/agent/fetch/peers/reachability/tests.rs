//! Which holders requests wait for, after which events.

use std::net::Ipv4Addr;

use super::*;

fn peer(network: u8, number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, network, number], 7_781))
}

fn blob() -> Arc<ContentPath> {
    let item = Item::Blob(Digest::of(b"x"));
    Arc::new(ContentPath { registry: None, repository: "a".to_owned(), item })
}

fn walled_off(network: u8, count: usize, now: Instant) -> Reachability {
    let mut reach = Reachability::new();
    for number in 0..count {
        reach.unanswered(peer(network, number as u8), now, true);
    }
    reach
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_did_not_answer_is_not_waited_for_until_it_does() {
    let (now, mut reach) = (Instant::now(), Reachability::new());
    assert!(reach.unanswered(peer(0, 1), now, true) && !reach.unanswered(peer(0, 1), now, true));
    assert!(!reach.admits(peer(0, 1)) && reach.admits(peer(0, 2)));
    reach.answered(peer(0, 2), now);
    assert!(!reach.admits(peer(0, 1)), "another one says nothing of it");
    reach.answered(peer(0, 1), now);
    assert!(reach.admits(peer(0, 1)));
    // A refused connection costs no time.
    assert!(!reach.unanswered(peer(0, 1), now, false));
    assert!(reach.admits(peer(0, 1)));
}

#[tokio::test(start_paused = true)]
async fn enough_failures_speak_for_all_and_one_answer_against_it() {
    let now = Instant::now();
    let mut reach = walled_off(0, UNANSWERED_HOLDERS_MAX - 1, now);
    assert!(reach.admits(peer(1, 1)));
    reach.unanswered(peer(0, 200), now, true);
    assert!(!reach.admits(peer(1, 1)) && !reach.admits(peer(0, 201)));
    assert_eq!(reach.condition().unanswered, Some((UNANSWERED_HOLDERS_MAX, 7_781)));
    reach.answered(peer(2, 1), now);
    (0..UNANSWERED_HOLDERS_MAX as u8).for_each(|number| {
        reach.unanswered(peer(0, number), now, true);
    });
    assert!(reach.admits(peer(2, 1)) && !reach.admits(peer(2, 2)), "one that is known to be good");
    // Another network answers: that one is behind a wall of its own.
    reach.answered(peer(1, 1), now);
    assert!(reach.admits(peer(1, 2)) && !reach.admits(peer(0, 201)));
    assert_eq!(reach.condition(), Condition::default());
    // The wall falls, for all behind it.
    reach.answered(peer(0, 200), now);
    assert!(reach.admits(peer(0, 201)) && reach.admits(peer(0, 1)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_a_neighbour_does_not_bring_back_a_node_that_is_dead() {
    let now = Instant::now();
    let mut reach = walled_off(0, 2, now);
    reach.answered(peer(0, 50), now);
    reach.unanswered(peer(0, 51), now, true);
    reach.answered(peer(0, 51), now);
    assert!(!reach.admits(peer(0, 0)) && !reach.admits(peer(0, 1)));
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_at_once_share_one_budget() {
    let (start, mut reach) = (Instant::now(), walled_off(0, 2, Instant::now()));
    let ms = Duration::from_millis;
    assert_eq!(reach.patience(ms(2_000)), ms(2_000));
    reach.waited(start, start + ms(1_000));
    reach.waited(start + ms(500), start + ms(1_000));
    assert_eq!(reach.patience(ms(2_000)), ms(1_000));
    assert!(reach.admits(peer(1, 1)));
    reach.waited(start + ms(500), start + UNANSWERED_WAIT_MAX);
    assert!(!reach.admits(peer(1, 1)), "the time is over, and it was not one holder alone");
    reach.waited(start, start + ms(9_000));
    assert_eq!(reach.patience(ms(2_000)), UNANSWERED_WAIT_MIN);
    reach.answered(peer(0, 1), start);
    assert_eq!(reach.patience(ms(2_000)), ms(2_000));
}

#[tokio::test(start_paused = true)]
async fn one_holder_that_takes_all_the_time_says_nothing_of_others() {
    let (start, mut reach) = (Instant::now(), walled_off(0, 1, Instant::now()));
    reach.waited(start, start + Duration::from_secs(9));
    assert!(!reach.admits(peer(0, 0)) && reach.admits(peer(0, 1)));
}

#[tokio::test(start_paused = true)]
async fn answers_do_not_end_what_missing_bytes_began() {
    let (start, mut reach) = (Instant::now(), Reachability::new());
    // Many that freeze at once say nothing of others.
    for number in 0..20 {
        reach.stalled(peer(0, number), None, start + STALL_BUDGET / 2, STALL_BUDGET / 2);
        reach.answered(peer(0, number), start);
        assert!(!reach.admits(peer(0, number)) && reach.admits(peer(7, 7)));
        assert!(reach.may_go_on_with(peer(7, 7)) && !reach.may_go_on_with(peer(0, number)));
    }
    reach.stalled(peer(0, 20), None, start + STALL_BUDGET, STALL_BUDGET / 2);
    assert!(!reach.admits(peer(7, 7)) && !reach.may_go_on_with(peer(7, 7)));
    assert_eq!(reach.condition(), Condition { unanswered: None, undelivered: Some(21) });
    reach.delivered(peer(7, 7), start);
    assert!(reach.admits(peer(7, 8)), "one delivers");
    assert!(!reach.admits(peer(0, 100)), "of its network none does");
    reach.delivered(peer(0, 1), start);
    assert!(reach.admits(peer(0, 100)) && reach.admits(peer(0, 2)));
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_busy_holders_for_so_long_in_all() {
    let (start, mut reach) = (Instant::now(), Reachability::new());
    assert!(reach.waits_for_busy(start, start + BUSY_WAIT_MAX));
    assert!(!reach.waits_for_busy(start, start + BUSY_WAIT_MAX));
    reach.won();
    assert!(reach.waits_for_busy(start, start + BUSY_WAIT_MAX));
}

#[tokio::test(start_paused = true)]
async fn a_few_refused_requests_are_told_and_the_text_changes_seldom() {
    let (now, mut reach) = (Instant::now(), Reachability::new());
    for _ in 0..UNANSWERED_REQUESTS_MAX {
        assert_eq!(reach.news(), None);
        reach.unanswered(peer(0, 1), now, false);
        reach.request_was_unanswered();
    }
    let condition = reach.news().and_then(|condition| condition.unanswered);
    assert_eq!(condition, Some((1, 7_781)));
    assert_eq!(reach.news(), None, "told");
    reach.unanswered(peer(0, 2), now, false);
    assert!(reach.news().is_some(), "twice as many");
    reach.unanswered(peer(0, 3), now, false);
    assert_eq!(reach.news(), None);
    reach.answered(peer(0, 3), now);
    assert_eq!(reach.news(), Some(Condition::default()));
}

#[tokio::test(start_paused = true)]
async fn holders_that_are_not_waited_for_or_doubtful_are_probed_and_not_for_ever() {
    let (now, mut reach) = (Instant::now(), Reachability::new());
    reach.asked(&[peer(0, 1), peer(0, 2), peer(1, 3)], &blob(), now);
    assert!(reach.probes_due(now).is_empty());
    reach.unanswered(peer(0, 1), now, true);
    let mut probed: Vec<_> = reach.probes_due(now).into_iter().map(|(holder, _)| holder).collect();
    probed.sort();
    assert_eq!(probed, [peer(0, 1), peer(0, 2)], "that of another network is not in doubt");
    assert!(reach.probes_due(now + PEER_FORGOTTEN_AFTER * 2).is_empty());
    // As long as no peer at all answers, somebody must find out when one does.
    let mut reach = walled_off(0, 100, now);
    let all: Vec<_> = (0..100).map(|number| peer(0, number)).collect();
    reach.asked(&all, &blob(), now);
    assert_eq!(reach.probes_due(now + PEER_FORGOTTEN_AFTER * 2).len(), PROBES_AT_ONCE_MAX);
}

/// A rack that is dead, and whose images are asked for again and again.
#[tokio::test(start_paused = true)]
async fn holders_that_are_asked_often_and_never_answer_keep_no_other_one_from_its_probe() {
    let (now, mut reach) = (Instant::now(), walled_off(0, 30, Instant::now()));
    let dead: Vec<_> = (0..30).map(|number| peer(0, number)).collect();
    reach.asked(&[peer(1, 1), peer(1, 2)], &blob(), now);
    let mut probed = HashSet::new();
    for second in 1..8 {
        let now = now + Duration::from_secs(second);
        reach.asked(&dead, &blob(), now);
        let due: Vec<_> = reach.probes_due(now).into_iter().map(|(holder, _)| holder).collect();
        assert_eq!(due.len(), PROBES_AT_ONCE_MAX);
        reach.probing(due.iter().copied(), now);
        probed.extend(due);
    }
    assert!(probed.contains(&peer(1, 1)) && probed.contains(&peer(1, 2)), "{probed:?}");
}

/// Manifests and configs are small, and a site without its registry has nothing else to ask for first.
#[tokio::test(start_paused = true)]
async fn what_did_not_come_is_probed_and_all_of_it_is_enough() {
    let (now, mut reach) = (Instant::now() + STALL_BUDGET, Reachability::new());
    let (small, other) = (Digest::of(b"x"), Digest::of(b"y"));
    reach.asked(&[peer(0, 1)], &blob(), now);
    reach.stalled(peer(0, 1), Some(&other), now, STALL_BUDGET);
    reach.stalled(peer(0, 2), Some(&small), now, STALL_BUDGET);
    assert!(!reach.admits(peer(7, 7)));
    let probe = |reach: &mut Reachability| reach.probes_due(now).into_iter().next().unwrap().1;
    let missing = probe(&mut reach);
    assert_eq!(missing.digest(), Some(&other), "not what was asked for last");
    reach.probed(peer(0, 1), &blob(), true, now);
    assert!(!reach.admits(peer(0, 1)), "something else has come");
    reach.probed(peer(0, 1), &missing, false, now);
    assert!(!reach.admits(peer(0, 1)), "it is not there any more");
    assert_eq!(probe(&mut reach), blob());
    reach.stalled(peer(0, 1), Some(&small), now, STALL_BUDGET);
    reach.probed(peer(0, 1), &blob(), true, now);
    assert!(reach.admits(peer(0, 1)) && reach.admits(peer(7, 7)));
    // Nobody is asked for enough to tell: that does not last for ever.
    let now = now + STALL_BUDGET;
    reach.stalled(peer(0, 1), None, now, STALL_BUDGET);
    reach.stalled(peer(0, 2), None, now, STALL_BUDGET);
    assert!(!reach.admits(peer(7, 7)));
    reach.probes_due(now + PEER_FORGOTTEN_AFTER + Duration::from_secs(1));
    assert!(reach.admits(peer(7, 7)) && reach.admits(peer(0, 1)));
}

#[tokio::test(start_paused = true)]
async fn the_memory_is_bounded() {
    let (now, mut reach) = (Instant::now(), Reachability::new());
    for number in 0..6_000_u32 {
        let holder = SocketAddr::from((Ipv4Addr::from_bits(number << 8), 1));
        reach.asked(&[holder], &blob(), now);
        reach.unanswered(holder, now, true);
        reach.stalled(holder, None, now, Duration::ZERO);
        if number % 2 == 0 {
            reach.answered(holder, now);
        }
    }
    let bounds = [reach.last_asked.len(), reach.bodies.failed_holders().len()];
    assert!(bounds.iter().all(|length| *length <= TROUBLES_REMEMBERED_MAX), "{bounds:?}");
}
