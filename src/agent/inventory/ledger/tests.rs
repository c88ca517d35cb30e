//! Table tests of the ledger: which requests are sent, and in which order.

use std::collections::BTreeSet;

use super::*;
use crate::api::WriteRequest;

fn all(_: &str) -> bool {
    true
}

fn digest(n: u64) -> Digest {
    Digest::of(&n.to_be_bytes())
}

fn key(n: u64) -> Key {
    key_of(&digest(n))
}

fn scan(digests: impl IntoIterator<Item = u64>) -> Scan {
    Scan { content: digests.into_iter().map(|n| (digest(n), 1)).collect(), ..Scan::default() }
}

fn add(ledger: &mut Ledger, n: u64) {
    ledger.changed(&StoreEvent::Added { digest: digest(n), size_bytes: 1 }, &all);
}

fn remove(ledger: &mut Ledger, n: u64) {
    ledger.changed(&StoreEvent::Removed { digest: digest(n) }, &all);
}

/// A ledger whose first sync, with these keys, has been acknowledged.
fn synced(digests: impl IntoIterator<Item = u64>) -> Ledger {
    let mut ledger = Ledger::new(7);
    let pair = ledger.begin_scan();
    ledger.scanned(pair, scan(digests), &all);
    assert_eq!(ledger.next_request().unwrap().kind, Write::Sync);
    ledger.succeeded();
    ledger
}

/// Acknowledges all pending requests; returns `(kind, seq, keys)` of each.
fn drain(ledger: &mut Ledger) -> Vec<(Write, u64, Vec<Key>)> {
    let mut sent = Vec::new();
    while let Some(request) = ledger.next_request() {
        sent.push((request.kind, request.pair.seq, request.keys.clone()));
        ledger.succeeded();
    }
    sent
}

#[test]
fn nothing_is_sent_before_the_first_scan_is_complete() {
    let mut ledger = Ledger::new(7);
    add(&mut ledger, 1);
    assert_eq!(ledger.next_request(), None);
    ledger.begin_scan();
    assert_eq!(ledger.next_request(), None);
    ledger.scan_failed();
    assert_eq!(ledger.next_request(), None);
}

#[test]
fn a_change_during_the_scan_is_sent_after_the_sync_and_wins() {
    let mut ledger = synced([1, 2]);
    let pair = ledger.begin_scan();
    add(&mut ledger, 3);
    remove(&mut ledger, 1);
    assert_eq!(ledger.next_request(), None, "no write overtakes the sync");
    ledger.scanned(pair, scan([1, 2]), &all);
    let sent = drain(&mut ledger);
    let mut both = vec![key(1), key(2)];
    both.sort();
    assert_eq!(
        sent,
        [
            (Write::Sync, pair.seq, both),
            (Write::Advertise, pair.seq + 1, vec![key(3)]),
            (Write::Withdraw, pair.seq + 2, vec![key(1)]),
        ]
    );
}

#[test]
fn opposite_changes_of_a_key_cancel_before_they_are_sent() {
    let mut ledger = synced([1]);
    add(&mut ledger, 2);
    remove(&mut ledger, 2);
    remove(&mut ledger, 1);
    add(&mut ledger, 1);
    assert_eq!(drain(&mut ledger), []);
}

#[test]
fn a_key_removed_while_its_advertise_is_outstanding_is_withdrawn_next() {
    let mut ledger = synced([]);
    add(&mut ledger, 1);
    let advertise = ledger.next_request().unwrap();
    remove(&mut ledger, 1);
    assert_eq!(ledger.next_request().unwrap(), advertise, "the same request until its outcome is known");
    ledger.succeeded();
    assert_eq!(drain(&mut ledger), [(Write::Withdraw, advertise.pair.seq + 1, vec![key(1)])]);
}

#[test]
fn a_failed_scan_changes_nothing_and_skips_no_change() {
    let mut ledger = synced([1]);
    ledger.begin_scan();
    add(&mut ledger, 2);
    ledger.scan_failed();
    let sent = drain(&mut ledger);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0, &sent[0].2), (Write::Advertise, &vec![key(2)]));
}

#[test]
fn an_epoch_at_its_end_goes_no_further() {
    let mut ledger = synced([1]);
    ledger.stale(Some(u64::MAX));
    add(&mut ledger, 2);
    assert_eq!(ledger.next_request().unwrap().pair, Pair { epoch: u64::MAX, seq: 1 });
}

#[test]
fn after_a_stale_answer_the_epoch_is_above_the_stored_one() {
    let mut ledger = synced([1]);
    add(&mut ledger, 2);
    ledger.next_request().unwrap();
    ledger.stale(Some(900));
    let pair = ledger.begin_scan();
    assert_eq!(pair, Pair { epoch: 901, seq: 1 });
    ledger.scanned(pair, scan([1, 2]), &all);
    assert_eq!(ledger.next_request().unwrap().pair, pair);
}

#[test]
fn a_sync_that_waits_when_the_epoch_changes_goes_on_in_the_new_one() {
    let mut ledger = synced([1]);
    add(&mut ledger, 2);
    ledger.next_request().unwrap();
    let pair = ledger.begin_scan();
    ledger.scanned(pair, scan([1, 2]), &all);
    ledger.stale(Some(8));
    let sync = ledger.next_request().unwrap();
    assert_eq!((sync.kind, sync.pair), (Write::Sync, Pair { epoch: 9, seq: 1 }));
    let mut ledger = synced([1]);
    add(&mut ledger, 2);
    ledger.next_request().unwrap();
    let pair = ledger.begin_scan();
    ledger.stale(Some(8));
    ledger.scanned(pair, scan([1, 2]), &all);
    assert_eq!(ledger.next_request().unwrap().pair.epoch, 9, "also while the scan runs");
}

#[test]
fn an_index_that_is_full_is_told_first_what_goes() {
    let mut ledger = synced([1, 2]);
    add(&mut ledger, 3);
    let advertise = ledger.next_request().unwrap();
    remove(&mut ledger, 1);
    ledger.found_full();
    let seq = advertise.pair.seq;
    assert_eq!(
        drain(&mut ledger),
        [(Write::Withdraw, seq + 1, vec![key(1)]), (Write::Advertise, seq + 2, vec![key(3)])]
    );
    add(&mut ledger, 4);
    remove(&mut ledger, 2);
    let kinds: Vec<Write> = drain(&mut ledger).into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(kinds, [Write::Advertise, Write::Withdraw], "there is room again");
}

#[test]
fn a_refusal_changes_the_epoch_only_before_anything_was_acknowledged() {
    let mut ledger = Ledger::new(900);
    let pair = ledger.begin_scan();
    ledger.scanned(pair, scan([1]), &all);
    ledger.next_request().unwrap();
    ledger.refused(900);
    assert_eq!(ledger.begin_scan(), Pair { epoch: 900, seq: 2 }, "no pair is used twice");
    ledger.refused(50);
    let pair = ledger.begin_scan();
    assert_eq!(pair, Pair { epoch: 50, seq: 1 });
    ledger.scanned(pair, scan([1]), &all);
    ledger.next_request().unwrap();
    ledger.succeeded();
    ledger.refused(40);
    assert_eq!(ledger.begin_scan(), Pair { epoch: 50, seq: 2 });
}

#[test]
fn the_fingerprint_is_that_of_the_acknowledged_keys() {
    let mut ledger = synced([1, 2]);
    add(&mut ledger, 3);
    remove(&mut ledger, 1);
    assert_eq!(ledger.acknowledged().unwrap().fingerprint, [key(1), key(2)].iter().collect());
    drain(&mut ledger);
    let acknowledged = ledger.acknowledged().unwrap();
    assert_eq!(acknowledged.fingerprint, [key(2), key(3)].iter().collect());
    assert_eq!(acknowledged.count, 2);
    assert_eq!(acknowledged.pair, Pair { epoch: 7, seq: 3 });
}

#[test]
fn a_tag_is_a_key_if_the_filter_lets_it_and_goes_with_its_target() {
    let only_a = |name: &str| name.starts_with("a.example/");
    let tagged = |name: &str| StoreEvent::Tagged { name: name.into(), digest: digest(1) };
    let mut ledger = synced([1]);
    ledger.changed(&tagged("a.example/x:1"), &only_a);
    ledger.changed(&tagged("b.example/x:1"), &only_a);
    let tag: Key = "a.example/x:1".parse().unwrap();
    assert_eq!(drain(&mut ledger), [(Write::Advertise, 2, vec![tag.clone()])]);
    remove(&mut ledger, 1);
    let sent = drain(&mut ledger);
    assert_eq!(sent[0].0, Write::Withdraw);
    assert_eq!(sent[0].2.iter().collect::<BTreeSet<_>>(), [&key(1), &tag].into());
}

#[test]
fn what_one_sync_cannot_carry_is_advertised_after_it() {
    let mut ledger = Ledger::new(7);
    ledger.sync_keys_max = 10;
    let pair = ledger.begin_scan();
    ledger.scanned(pair, scan(0..15), &all);
    let sent = drain(&mut ledger);
    assert_eq!(
        sent.iter().map(|(kind, _, keys)| (*kind, keys.len())).collect::<Vec<_>>(),
        [(Write::Sync, 10), (Write::Advertise, 5),]
    );
    assert_eq!(ledger.acknowledged().unwrap().count, 15);
}

#[test]
fn a_request_stays_below_the_limit_of_a_body() {
    let keys = (0..100_000_u32).map(|n| Key::Text(format!("a.example/{n:0>240}:1")));
    let request = WriteRequest {
        holder: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".into(),
        group: "g".repeat(64),
        keys: bounded(keys, REQUEST_KEYS_MAX).iter().map(ToString::to_string).collect(),
        epoch: Some(u64::MAX),
        seq: Some(u64::MAX),
        zone: Some("z".repeat(64)),
        ttl_seconds: Some(u32::MAX),
    };
    let size = serde_json::to_vec(&request).unwrap().len();
    assert!(size <= API_BODY_BYTES_MAX && size > API_BODY_BYTES_MAX - 2 * WRITE_ENVELOPE_BYTES_MAX, "{size}");
}

#[test]
fn a_node_that_moves_writes_all_of_it_anew_and_leaves_one_write_for_the_address_before() {
    let addresses = [1, 2].map(|last| SocketAddr::from(([10, 0, 0, last], 7781)));
    let mut ledger = Ledger::new(1_000);
    assert_eq!(ledger.move_to(addresses[0], 1_000), None, "the first address");
    let pair = ledger.begin_scan();
    let digest = Digest::of(b"layer");
    let scan = || Scan { content: BTreeMap::from([(digest.clone(), 5)]), tags: BTreeMap::new() };
    ledger.scanned(pair, scan(), &|_| true);
    assert_eq!(ledger.next_request().unwrap().kind, Write::Sync);
    ledger.succeeded();
    assert_eq!(ledger.acknowledged().map(|acknowledged| acknowledged.count), Some(1));

    let left = ledger.move_to(addresses[1], 900).unwrap();
    assert_eq!((left.holder, left.pair), (addresses[0], Pair { epoch: 1_000, seq: 2 }));
    assert_eq!((ledger.holder(), ledger.acknowledged()), (Some(addresses[1]), None));
    assert_eq!(ledger.next_request(), None, "nothing before a sync");
    let pair = ledger.begin_scan();
    ledger.scanned(pair, scan(), &|_| true);
    let sync = ledger.next_request().unwrap();
    assert_eq!((sync.kind, sync.pair.epoch, sync.keys.len()), (Write::Sync, 1_001, 1));

    // The answer to that sync is lost: the index may have applied it.
    assert_eq!(ledger.move_to(addresses[0], 5_000).map(|left| left.holder), Some(addresses[1]));
    assert_eq!(ledger.move_to(addresses[1], 5_000), None, "nothing was written there since");
}
