//! Which connections have a slot, which wait for one, and which are closed for others.

use std::time::Duration;

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::*;

const SELF: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LONG: Duration = Duration::from_secs(60);

fn slots(anybody: usize, over_limit: usize) -> Arc<Slots> {
    Slots::new(SlotCounts { anybody, over_limit, known: 0 }, KnownAddresses::default())
}

fn host(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

/// A connection of this host that was polled: it waits for its request.
async fn silent(slots: &Arc<Slots>) -> Slot {
    let slot = slots.take(SELF).await.unwrap();
    slot.looked_at();
    slot
}

/// A connection with a request in flight.
async fn busy(slots: &Arc<Slots>, from: IpAddr) -> Slot {
    let slot = slots.take(from).await.unwrap();
    assert!(slot.begin());
    slot
}

#[test]
fn the_longest_waiting_are_closed_and_of_few_only_one() {
    assert_eq!(longest_waiting(Vec::new()), []);
    assert_eq!(longest_waiting(vec![(9, 1)]), [(9, 1)]);
    assert_eq!(longest_waiting(vec![(9, 1), (4, 2), (7, 3)]), [(4, 2)]);
    let many = (0..640).rev().map(|n| (n, n)).collect();
    let mut closed = longest_waiting(many);
    closed.sort_unstable();
    assert_eq!(closed, (0..10).map(|n| (n, n)).collect::<Vec<_>>());
}

#[test]
fn admission_by_what_is_open_and_closing() {
    const REGULAR: Admission = Admission::Admitted(Kind::Anybodys);
    const OVER_LIMIT: Admission = Admission::Admitted(Kind::OverLimit);
    let admitted = |open, beyond, closing, over_limit| {
        let all = Held { open, over_limit: beyond, closing };
        admission(all, Held::default(), SlotCounts { anybody: 10, over_limit, known: 0 })
    };
    for (open, beyond, closing, expected) in [
        (0, 0, 0, REGULAR),
        (9, 0, 0, REGULAR),
        (10, 0, 0, OVER_LIMIT),
        (10, 0, 1, REGULAR),
        (11, 1, 0, OVER_LIMIT),
        (11, 1, 1, REGULAR),
        (11, 0, 2, REGULAR),
        (10, 2, 0, REGULAR),
        (12, 2, 0, Admission::Later),
        (12, 2, 5, Admission::Later),
    ] {
        let found = admitted(open, beyond, closing, 2);
        assert_eq!(found, expected, "{open} open, of these {beyond} beyond the limit and {closing} closing");
    }
    assert_eq!(admitted(10, 0, 0, 0), Admission::Later);
    assert_eq!(admitted(10, 0, 1, 0), REGULAR, "the slot of the closing one is free");
    assert_eq!(admitted(11, 0, 1, 0), Admission::Later);
}

#[tokio::test(start_paused = true)]
async fn the_one_that_waits_longest_is_closed_and_never_one_with_a_request() {
    let slots = slots(3, 0);
    let later = || tokio::time::advance(Duration::from_millis(10));
    let busy = busy(&slots, SELF).await;
    later().await;
    let used_lately = silent(&slots).await;
    later().await;
    let waits_longest = silent(&slots).await;
    later().await;
    // The answer is complete and flushed: from now on the connection waits.
    assert!(used_lately.begin());
    used_lately.answered();
    used_lately.flushed();

    let new = slots.take(SELF).await.unwrap();
    waits_longest.must_close().await;
    assert!(!waits_longest.begin(), "a connection that is closing answers nothing more");
    drop(waits_longest);
    assert!(new.begin() && used_lately.begin() && busy.begin());
    let none_waits = tokio::time::timeout(LONG, slots.take(SELF)).await;
    assert!(none_waits.is_err(), "a connection with a request in flight lost its slot");
}

/// When all agents come back at once, they are accepted faster than they are served. Each new connection cost
/// earlier ones their slots, although their requests were in their sockets.
#[tokio::test(start_paused = true)]
async fn a_connection_that_was_not_polled_yet_is_not_closed_for_a_new_one() {
    let slots = slots(2, 0);
    let unread = [slots.take(SELF).await.unwrap(), slots.take(SELF).await.unwrap()];
    assert!(tokio::time::timeout(LONG, slots.take(SELF)).await.is_err(), "an unread one lost its slot");
    assert!(unread[0].begin());
    unread[1].looked_at();
    let new = slots.take(SELF).await;
    unread[1].must_close().await;
    drop(new);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_which_bytes_are_left_is_still_in_flight() {
    let slots = slots(1, 0);
    let sending = busy(&slots, SELF).await;
    sending.flushed();
    sending.answered();
    let early = tokio::time::timeout(LONG, slots.take(SELF)).await;
    assert!(early.is_err(), "the last bytes of an answer were cut off");
    sending.flushed();
    let _new = slots.take(SELF).await;
    sending.must_close().await;
}

#[tokio::test(start_paused = true)]
async fn over_the_limit_a_few_are_admitted_and_the_silent_ones_of_them_are_closed() {
    let slots = slots(1, 2);
    let regular = busy(&slots, SELF).await;
    assert!(!regular.is_over_limit());
    let (silent, asking) = (silent(&slots).await, busy(&slots, SELF).await);
    assert!(silent.is_over_limit() && asking.is_over_limit());
    let (probe, ()) = tokio::join!(slots.take(SELF), async {
        silent.must_close().await;
        drop(silent);
    });
    let probe = probe.unwrap();
    assert!(probe.is_over_limit() && probe.begin());
    drop((regular, asking, probe));
    assert!(!slots.take(SELF).await.unwrap().is_over_limit(), "the slots are free again");
}

/// At the limit of the leader, requests that the other servers forwarded were refused: living hosts were
/// hidden.
#[tokio::test(start_paused = true)]
async fn known_addresses_have_slots_that_no_other_connection_takes() {
    let known = KnownAddresses::default();
    known.set(HashSet::from([host(200), SELF]));
    let slots = Slots::new(SlotCounts { anybody: 4, over_limit: 1, known: 2 }, known.clone());
    let mut held = Vec::new();
    for n in 0..5 {
        held.push(busy(&slots, host(n)).await);
    }
    assert!(slots.take(host(9)).await.is_none(), "everything is taken, and somebody known may wait behind");
    assert!(slots.take(SELF).await.is_none(), "clients of this host are no servers");
    let member = busy(&slots, host(200)).await;
    assert!(!member.is_over_limit() && !member.is_to_end(), "its connection goes on");
    let idle = slots.take("::ffff:10.0.0.200".parse().unwrap()).await.unwrap();
    idle.looked_at();
    assert!(slots.take(host(200)).await.is_none(), "it has used up its own and finds no other");
    assert!(tokio::time::timeout(LONG, idle.must_close()).await.is_err(), "it made room for somebody else");
    drop(idle);
    assert!(slots.take(host(200)).await.is_some());
    known.set(HashSet::new());
    assert!(slots.take(host(200)).await.is_none(), "it is no server any more");
    held.pop();
    held.pop();
    assert!(!slots.take(host(9)).await.unwrap().is_over_limit(), "others' slots are free again");
}

#[tokio::test(start_paused = true)]
async fn one_address_takes_three_quarters_and_others_find_the_rest() {
    let slots = slots(8, 8);
    let mut of_one = Vec::new();
    for _ in 0..6 {
        of_one.push(busy(&slots, host(1)).await);
    }
    let answered_once = [busy(&slots, host(1)).await, busy(&slots, host(1)).await];
    assert!(answered_once.iter().all(Slot::is_over_limit));
    assert!(slots.take(host(1)).await.is_none(), "it took the slots for probes, too");
    let other = busy(&slots, host(2)).await;
    assert!(!other.is_over_limit());
    // A waiting connection of this address makes room for its next one.
    let waits = of_one.pop().unwrap();
    waits.answered();
    waits.flushed();
    let next = slots.take(host(1)).await.unwrap();
    assert!(!next.is_over_limit());
    waits.must_close().await;
    drop((of_one, answered_once, waits, next, other));
    assert_eq!(slots.table.lock().unwrap().by_address, HashMap::new());
}

#[tokio::test]
async fn all_addresses_of_one_link_are_one_client_and_this_host_may_take_everything() {
    let slots = slots(4, 0);
    let address = |n: u8| format!("fd00:0:0:1::{n}").parse().unwrap();
    let held =
        [busy(&slots, address(1)).await, busy(&slots, address(2)).await, busy(&slots, address(3)).await];
    assert!(slots.take(address(4)).await.is_none());
    assert!(slots.take("fd00:0:0:2::1".parse().unwrap()).await.is_some());
    drop(held);
    for own in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(busy(&slots, own.parse().unwrap()).await);
        }
    }
}

#[tokio::test]
async fn from_three_quarters_on_connections_end_with_their_answer() {
    let slots = slots(8, 0);
    let mut held = Vec::new();
    for n in 0..8_u8 {
        held.push(busy(&slots, host(n)).await);
        assert_eq!(held[0].is_to_end(), held.len() >= 6, "{} open", held.len());
    }
    held.truncate(5);
    assert!(!held[0].is_to_end());
}
