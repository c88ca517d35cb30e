//! Tables of what a node does next.

use super::*;

fn node(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], number))
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A node with port 1 that a server has told of these.
fn told(sources: &[u16]) -> Follow {
    let mut follow = Follow::new(node(1), 0, at(0));
    assert_eq!(follow.next(at(0)), Step::AskServer(Need::Begins));
    follow.server_answered(ServerAnswer::Sources(sources.iter().map(|n| node(*n)).collect()));
    follow
}

fn attached() -> Follow {
    let mut follow = told(&[2]);
    assert_eq!(follow.next(at(0)), Step::Attach(node(2)));
    follow.source_answered(node(2), SourceAnswer::Sends, at(0));
    follow
}

/// The answer of a source that has as much as [`attached`], and has a source.
const PROBED: Probed =
    Probed { have_bytes: 0, has_source: true, should_be_left: false, should_leave: false, instead: None };

#[test]
fn sources_are_asked_in_order_and_each_once() {
    let mut follow = told(&[2, 1, 3, 2]);
    for expected in [2, 3] {
        assert_eq!(follow.next(at(0)), Step::Attach(node(expected)), "never itself, nobody twice");
        follow.source_answered(node(expected), SourceAnswer::Nothing, at(0));
    }
    assert_eq!(follow.next(at(0)), Step::WaitUntil(SERVER_ASKED_AGAIN_AFTER));
    assert_eq!(follow.next(SERVER_ASKED_AGAIN_AFTER), Step::AskServer(Need::Sources));
}

#[test]
fn a_full_source_is_left_for_its_children_until_the_limit_of_steps() {
    let mut follow = told(&[2, 3]);
    assert_eq!(follow.next(at(0)), Step::Attach(node(2)));
    for step in 0..DESCENTS_MAX as u16 {
        let child = node(10 + step);
        follow.source_answered(node(2), SourceAnswer::Full(vec![child, node(50)]), at(0));
        if usize::from(step) + 1 < DESCENTS_MAX {
            assert_eq!(follow.next(at(0)), Step::Attach(child));
        }
    }
    assert_eq!(follow.next(SERVER_ASKED_AGAIN_AFTER), Step::AskServer(Need::Sources));
    let mut follow = told(&[2]);
    follow.next(at(0));
    follow.source_answered(node(2), SourceAnswer::Waits(node(7)), at(0));
    assert_eq!(follow.next(at(0)), Step::Attach(node(7)));
}

#[test]
fn a_source_is_probed_at_intervals_and_starved_is_not_dead() {
    let mut follow = attached();
    assert_eq!(follow.next(at(0)), Step::WaitUntil(SOURCE_PROBE_INTERVAL));
    for round in 1..20 {
        let now = SOURCE_PROBE_INTERVAL * round;
        assert_eq!(follow.next(now), Step::Probe(node(2)));
        follow.probe_answered(Some(PROBED), now);
        assert_eq!(follow.next(now), Step::WaitUntil(now + SOURCE_PROBE_INTERVAL));
    }
}

#[test]
fn only_a_child_of_the_first_node_tells_the_owner_that_nothing_comes() {
    for (has_source, expected) in [(false, Step::AskServer(Need::Starved)), (true, Step::Probe(node(2)))] {
        let mut follow = attached();
        follow.next(SOURCE_PROBE_INTERVAL);
        follow.probe_answered(Some(Probed { has_source, ..PROBED }), SOURCE_PROBE_INTERVAL);
        assert_eq!(follow.next(SOURCE_PROBE_INTERVAL + STARVED_SAID_AFTER), expected);
    }
}

/// A claim that has lapsed passes on with the next question: each node shall have its own error within 20 s.
#[test]
fn a_child_of_the_first_node_says_each_second_that_nothing_comes() {
    let mut follow = attached();
    let mut asked = Vec::new();
    for time in (0..=7_000).step_by(50) {
        match follow.next(at(time)) {
            Step::Probe(_) => {
                follow.probe_answered(Some(Probed { has_source: false, ..PROBED }), at(time));
            }
            Step::AskServer(need) => asked.push((at(time), need)),
            _ => {}
        }
    }
    let first = SOURCE_PROBE_INTERVAL + STARVED_SAID_AFTER;
    let expected = (0..4).map(|time| (first + STARVED_SAID_AGAIN_AFTER * time, Need::Starved));
    assert_eq!(asked, expected.collect::<Vec<_>>());
}

#[test]
fn a_source_that_is_silent_is_left_unless_it_sends() {
    let mut follow = attached();
    follow.next(SOURCE_PROBE_INTERVAL);
    follow.received(1, SOURCE_PROBE_INTERVAL + at(1));
    follow.probe_answered(None, SOURCE_PROBE_INTERVAL + at(2));
    assert_eq!(follow.source(), Some(node(2)));
    for time in [2, 3] {
        let now = SOURCE_PROBE_INTERVAL * time;
        assert_eq!(follow.next(now), Step::Probe(node(2)), "one late answer is no reason");
        follow.probe_answered(None, now);
    }
    let now = SOURCE_PROBE_INTERVAL * 3;
    assert_eq!(follow.next(now), Step::AskServer(Need::Lost(node(2))));
}

/// Where containerd writes a step of 1 MiB each second, a probe may meet the moment in which the source has just got it.
#[test]
fn a_source_that_has_more_is_left_when_it_has_sent_nothing_of_it_for_a_time() {
    let has_more = Some(Probed { have_bytes: 9, ..PROBED });
    let first = at(10_000);
    for (fed, is_left) in [(0, true), (10_001, false)] {
        let mut follow = attached();
        follow.probe_answered(has_more, first);
        assert!(follow.source().is_some(), "it may be on its way");
        follow.received(u64::from(fed > 0), at(fed));
        follow.probe_answered(has_more, first + SOURCE_STALLS_AFTER);
        assert_eq!(follow.source().is_none(), is_left, "fed at {fed} ms");
    }
}

#[test]
fn a_node_whose_source_is_lost_asks_all_others_that_it_knows_and_then_tells_the_owner() {
    let mut follow = told(&[2, 3]);
    follow.next(at(0));
    follow.source_answered(node(2), SourceAnswer::Sends, at(0));
    follow.lost();
    assert_eq!(follow.next(at(1)), Step::Attach(node(3)));
    follow.source_answered(node(3), SourceAnswer::Nothing, at(1));
    assert_eq!(follow.next(at(1)), Step::WaitUntil(LOST_SAID_AGAIN_AFTER), "a server was asked just before");
    assert_eq!(follow.next(LOST_SAID_AGAIN_AFTER), Step::AskServer(Need::Lost(node(2))));
}

/// What broke: it was said once, and an owner that does not believe it at once would not have heard of it again.
#[test]
fn a_node_says_again_that_its_source_is_lost_until_another_one_sends() {
    let mut follow = attached();
    follow.lost();
    assert!(follow.has_lost(node(2)));
    for round in 1..10 {
        let now = LOST_SAID_AGAIN_AFTER * round;
        assert_eq!(follow.next(now - at(1)), Step::WaitUntil(now), "not more often");
        assert_eq!(follow.next(now), Step::AskServer(Need::Lost(node(2))));
        follow.server_answered(ServerAnswer::Sources(vec![node(2)]));
        assert_eq!(follow.next(now), Step::Attach(node(2)), "its connection may only have broken");
        follow.source_answered(node(2), SourceAnswer::Nothing, now);
    }
    let now = LOST_SAID_AGAIN_AFTER * 10;
    follow.next(now);
    follow.server_answered(ServerAnswer::Sources(vec![node(3)]));
    follow.next(now);
    follow.source_answered(node(3), SourceAnswer::Sends, now);
    follow.leave_for(node(4));
    assert!(!follow.has_lost(node(2)) && !follow.has_lost(node(3)));
    follow.next(now);
    follow.source_answered(node(4), SourceAnswer::Nothing, now);
    assert_eq!(follow.next(now + SERVER_ASKED_AGAIN_AFTER), Step::AskServer(Need::Sources));
}

/// What broke: the fetcher had died before anybody received from it, and those that asked it asked for sources in vain
/// until the claim passed on for want of bytes, or 20 s were over.
#[test]
fn a_fetcher_that_cannot_be_reached_counts_as_lost() {
    let mut follow = told(&[2, 3]);
    for (source, answer) in [(2, SourceAnswer::Nothing), (3, SourceAnswer::FetcherFails)] {
        assert_eq!(follow.next(at(0)), Step::Attach(node(source)));
        follow.source_answered(node(source), answer, at(0));
    }
    assert_eq!(follow.next(at(0)), Step::WaitUntil(LOST_SAID_AGAIN_AFTER));
    assert_eq!(follow.next(LOST_SAID_AGAIN_AFTER), Step::AskServer(Need::Lost(node(3))));
}

#[test]
fn who_had_nothing_is_asked_again_when_its_source_names_it() {
    let mut follow = told(&[2, 3]);
    assert_eq!(follow.next(at(0)), Step::Attach(node(2)));
    follow.source_answered(node(2), SourceAnswer::Nothing, at(0));
    assert_eq!(follow.next(at(0)), Step::Attach(node(3)));
    follow.source_answered(node(3), SourceAnswer::Full(vec![node(2), node(3)]), at(0));
    assert_eq!(follow.next(at(0)), Step::Attach(node(2)));
    follow.source_answered(node(2), SourceAnswer::Full(vec![node(3)]), at(0));
    assert_ne!(follow.next(at(0)), Step::Attach(node(3)), "a full one is asked once");
}

#[test]
fn the_children_of_a_slow_node_go_to_its_source() {
    let mut slow = attached();
    slow.probe_answered(Some(Probed { have_bytes: 100, should_be_left: true, ..PROBED }), at(1));
    assert_eq!(slow.instead(), Some(node(2)));
    assert_eq!(slow.next(at(1)), Step::WaitUntil(SOURCE_PROBE_INTERVAL), "it stays itself");
    let mut child = told(&[4]);
    child.next(at(0));
    child.source_answered(node(4), SourceAnswer::Sends, at(0));
    child.received(10, at(1));
    assert!(!child.has_left_slow());
    child.probe_answered(Some(Probed { have_bytes: 11, instead: Some(node(2)), ..PROBED }), at(2));
    assert!(child.source().is_none() && child.has_left_slow());
    assert_eq!(child.next(at(2)), Step::Attach(node(2)));
    child.source_answered(node(2), SourceAnswer::Full(vec![node(4), node(5)]), at(3));
    assert_eq!(child.next(at(3)), Step::Attach(node(5)), "never back to the slow one");
    child.source_answered(node(5), SourceAnswer::Sends, at(4));
    assert!(child.instead().is_none());
    child.lost();
    assert!(!child.has_left_slow());
}

#[test]
fn a_slow_node_whose_place_is_taken_is_sent_on_by_its_source() {
    let mut slow = attached();
    slow.probe_answered(Some(Probed { should_be_left: true, should_leave: true, ..PROBED }), at(1));
    assert!(!slow.has_lost(node(2)), "it is asked again");
    assert_eq!(slow.next(at(1)), Step::Attach(node(2)));
    slow.source_answered(node(2), SourceAnswer::Full(vec![node(5)]), at(2));
    assert_eq!(slow.next(at(2)), Step::Attach(node(5)));
    slow.source_answered(node(5), SourceAnswer::Nothing, at(3));
    assert_eq!(slow.next(at(3)), Step::WaitUntil(SERVER_ASKED_AGAIN_AFTER), "nothing was lost");
}

#[test]
fn a_new_source_has_its_own_opinion() {
    let mut follow = attached();
    follow.probe_answered(Some(Probed { should_be_left: true, ..PROBED }), at(1));
    follow.lost();
    assert_eq!(follow.instead(), None);
    follow.source_answered(node(3), SourceAnswer::Sends, at(2));
    assert_eq!(follow.instead(), None);
}

#[test]
fn only_the_owner_or_twenty_seconds_without_a_byte_send_a_node_to_the_registry() {
    for (answer, why) in [
        (ServerAnswer::Yours, Why::Claim),
        (ServerAnswer::Open, Why::Open),
        (ServerAnswer::Nobody, Why::NoServer),
    ] {
        let mut follow = Follow::new(node(1), 0, at(0));
        follow.next(at(0));
        follow.server_answered(answer);
        assert_eq!(follow.next(at(0)), Step::GoToRegistry(why));
    }
    let mut follow = attached();
    follow.server_answered(ServerAnswer::Nobody);
    follow.received(1, at(500));
    assert!(!matches!(follow.next(at(499) + WITHOUT_BYTES_MAX), Step::GoToRegistry(_)));
    assert_eq!(follow.next(at(500) + WITHOUT_BYTES_MAX), Step::GoToRegistry(Why::Starved));
}

/// What broke: the fetcher had ended, all that the server knew were the children of the node that had lost it, and that
/// one asked for sources without a need of a ruling until 20 s were over.
#[test]
fn wrong_bytes_do_not_give_a_node_another_twenty_seconds() {
    // Bytes came at `came`, ms, and were wrong at `again`.
    for (came, again) in [(100, 200), (19_000, 19_999), (25_000, 30_000)] {
        let mut follow = attached();
        follow.received(5, at(came));
        follow.begin_again(at(again));
        let due = WITHOUT_BYTES_MAX.max(at(again) + BEGUN_AGAIN_FOR);
        assert_eq!(follow.next(at(again)), Step::AskServer(Need::Begins), "{again}");
        assert!(!matches!(follow.next(due - at(1)), Step::GoToRegistry(_)), "{again}");
        assert_eq!(follow.next(due), Step::GoToRegistry(Why::Starved), "{again}");
    }
    let mut follow = attached();
    follow.begin_again(at(19_000));
    follow.next(at(19_000));
    follow.server_answered(ServerAnswer::Sources(vec![node(2)]));
    assert_eq!(follow.next(at(19_001)), Step::Attach(node(2)), "it knows no source");
    follow.received(1, at(19_999));
    assert!(!matches!(follow.next(WITHOUT_BYTES_MAX), Step::GoToRegistry(_)), "right bytes count");
}

#[test]
fn who_finds_no_source_for_long_or_nothing_at_it_asks_for_a_ruling() {
    for (need, expected) in [
        (Need::Begins, false),
        (Need::Sources, false),
        (Need::Fetcher, true),
        (Need::Starved, true),
        (Need::Lost(node(2)), false),
    ] {
        assert_eq!(need.needs_ruling(), expected, "{need:?}");
    }
}

#[test]
fn a_node_that_all_sources_send_away_asks_who_fetches() {
    let mut follow = Follow::new(node(1), 0, at(0));
    assert_eq!(follow.next(at(0)), Step::AskServer(Need::Begins));
    let mut asked = Vec::new();
    for second in 0..6 {
        follow.server_answered(ServerAnswer::Sources(vec![node(2)]));
        assert_eq!(follow.next(at(second * 1_000)), Step::Attach(node(2)));
        follow.source_answered(node(2), SourceAnswer::Nothing, at(second * 1_000));
        let Step::WaitUntil(time) = follow.next(at(second * 1_000)) else { panic!("asked at once") };
        let Step::AskServer(need) = follow.next(time) else { panic!("{second}") };
        asked.push(need);
    }
    let [before, after] = [Need::Sources, Need::Fetcher];
    assert_eq!(asked, [before, before, before, after, after, after]);
    follow.server_answered(ServerAnswer::Sources(vec![node(2)]));
    follow.next(at(6_000));
    follow.source_answered(node(2), SourceAnswer::Sends, at(6_000));
    follow.leave_for(node(3));
    follow.next(at(6_000));
    follow.source_answered(node(3), SourceAnswer::Nothing, at(6_000));
    assert_eq!(follow.next(at(7_000)), Step::AskServer(Need::Sources), "a source has been there meanwhile");
}

#[test]
fn a_node_that_starves_for_long_says_so_whoever_is_before_it() {
    let mut follow = attached();
    let mut asked = Vec::new();
    for time in (0..=10_000).step_by(50) {
        match follow.next(at(time)) {
            Step::Probe(_) => {
                let probed = Probed { have_bytes: 0, has_source: true, ..PROBED };
                follow.probe_answered(Some(probed), at(time));
            }
            Step::AskServer(need) => asked.push((at(time), need)),
            _ => {}
        }
    }
    let first = CIRCLE_SUSPECTED_AFTER + STARVED_SAID_AFTER;
    assert_eq!(asked, [(first, Need::Starved), (first + STARVED_SAID_AFTER, Need::Starved)]);
}
