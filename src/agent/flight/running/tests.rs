//! What children are told and sent, and when a fetch has ended.

use super::*;
use crate::agent::flight::children::Applicant;
use crate::agent::flight::header::Known;
use std::sync::Arc;

pub(super) const KNOWN: Known = Known { came: 1, attempt: 0 };

pub(super) fn node(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], number))
}

pub(super) fn applicant(number: u16) -> Applicant {
    let (address, zone) = (node(number), String::new());
    Applicant { address, zone, have_bytes: 0, has_children: false, has_left_slow: false }
}

pub(super) fn holder() -> Arc<Flight> {
    Arc::new(Flight::new(Digest::of(b"x"), Growing::new(10, None), Role::Receives { source: node(9) }))
}

pub(super) fn admitted(flight: &Arc<Flight>, number: u16) -> ChildConnection {
    match flight.apply(&applicant(number), KNOWN) {
        Answer::Admitted(connection) => connection,
        Answer::Elsewhere(told) => panic!("{told:?}"),
    }
}

#[test]
fn a_child_is_one_until_its_connection_ends() {
    let flight = holder();
    let first = admitted(&flight, 1);
    let Answer::Elsewhere(told) = flight.apply(&applicant(2), KNOWN) else { panic!("a second child") };
    assert_eq!((told.children, told.source), (vec![node(1)], Some(node(9))));
    drop(first);
    assert!(!flight.has_children());
    admitted(&flight, 2);
}

#[test]
fn a_child_that_connects_again_is_not_lost_with_its_former_connection() {
    let flight = holder();
    let former = admitted(&flight, 1);
    let _again = admitted(&flight, 1);
    drop(former);
    assert!(flight.has_children());
}

#[test]
fn only_those_are_ended_that_are_children_now() {
    let flight = holder();
    let former = admitted(&flight, 1);
    flight.end_children(ChildEnd::Wrong);
    assert_eq!((former.end(), flight.has_children()), (Some(ChildEnd::Wrong), false));
    let later = admitted(&flight, 1);
    drop(former);
    assert_eq!((later.end(), flight.has_children()), (None, true));
}

#[test]
fn a_node_without_a_source_names_whom_it_asks() {
    let flight = holder();
    for (role, waits_for) in [(Role::Seeks { asks: Some(node(3)) }, Some(node(3))), (Role::Idle, None)] {
        flight.becomes(role, 0);
        let Answer::Elsewhere(told) = flight.apply(&applicant(1), KNOWN) else { panic!("{role:?}") };
        assert_eq!((told.waits_for, told.children), (waits_for, Vec::new()), "{role:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_children_of_a_node_that_has_paused_for_too_long_find_another_source() {
    let flight = holder();
    let child = admitted(&flight, 1);
    flight.becomes(Role::Idle, 0);
    tokio::time::advance(PAUSE_MAX - Duration::from_millis(1)).await;
    flight.look();
    assert_eq!((child.end(), flight.has_children()), (None, true));
    tokio::time::advance(Duration::from_millis(1)).await;
    flight.look();
    assert_eq!((child.end(), flight.has_children()), (Some(ChildEnd::Lost), false));
    flight.becomes(Role::Receives { source: node(9) }, 0);
    let again = admitted(&flight, 1);
    flight.look();
    assert_eq!(again.end(), None);
}

/// What broke: containerd was killed, and the nodes that waited for its fetch learned it only when the claim passed on
/// for want of bytes.
#[tokio::test(start_paused = true)]
async fn a_fetch_ends_soon_after_its_containerd_was_lost_unless_that_still_writes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let growing = Growing::new(10, Some(file.reopen().unwrap()));
    let flight = Arc::new(Flight::new(Digest::of(b"x"), growing, Role::Fetches { begun_at: 0 }));
    let child = admitted(&flight, 1);
    for length in 1..=2 {
        flight.store_is_lost();
        tokio::time::advance(FETCH_DOUBTED_MAX - Duration::from_millis(1)).await;
        std::fs::write(file.path(), &b"01"[..length]).unwrap();
        flight.look();
        tokio::time::advance(Duration::from_secs(2)).await;
        flight.look();
        assert_eq!((child.end(), flight.role()), (None, Role::Fetches { begun_at: 0 }), "it writes");
    }
    flight.store_is_lost();
    tokio::time::advance(FETCH_DOUBTED_MAX).await;
    flight.look();
    assert_eq!((child.end(), flight.role()), (Some(ChildEnd::Lost), Role::Idle));
}

#[test]
fn a_fetcher_whose_ingest_is_gone_takes_no_child() {
    let flight = holder();
    flight.becomes(Role::Fetches { begun_at: 0 }, 0);
    assert!(matches!(flight.apply(&applicant(1), KNOWN), Answer::Elsewhere(_)));
}
