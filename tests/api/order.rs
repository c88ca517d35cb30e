//! Order among the writes of one holder: pairs, staleness, syncs.

use serde_json::json;

use crate::harness::{Server, digest, paired, plain};

const HOLDER: &str = "10.0.0.1:7781";

#[tokio::test(flavor = "multi_thread")]
async fn a_late_duplicate_of_an_advertise_does_not_undo_a_withdraw() {
    let server = Server::one().await;
    let advertise = paired(HOLDER, &[digest(1)], 5, 1);
    let first = server.advertise(advertise.clone()).await.expect(201);
    assert_eq!(
        first.json(),
        json!({"success": true, "message": "Distribution created!", "epoch": 5, "seq": 1})
    );
    server.withdraw(paired(HOLDER, &[digest(1)], 5, 2)).await.expect(201);
    let late = server.advertise(advertise).await.expect(409);
    assert_eq!(late.text, r#"{"success":false,"stale":true,"epoch":5,"seq":2}"#);
    server.find(&digest(1), "").await.expect(404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_pair_is_answered_like_the_first() {
    let server = Server::one().await;
    let advertise = paired(HOLDER, &[digest(1), digest(2)], 5, 1);
    let withdraw = paired(HOLDER, &[digest(1)], 5, 2);
    let first = server.advertise(advertise.clone()).await.expect(201);
    let again = server.advertise(advertise).await.expect(201);
    assert_eq!((&again.text, again.applied_index()), (&first.text, first.applied_index()), "in the log once");
    let first = server.withdraw(withdraw.clone()).await.expect(201);
    assert_eq!(first.json()["message"], json!("Distribution withdrawn!"));
    let again = server.withdraw(withdraw).await.expect(201);
    assert_eq!((&again.text, again.applied_index()), (&first.text, first.applied_index()), "in the log once");
    for _ in 0..2 {
        server.sync(paired(HOLDER, &[digest(3)], 5, 3)).await.expect(201);
    }
    server.find(&digest(2), "").await.expect(404);
    assert_eq!(server.holders(&digest(3)).await, [HOLDER]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_is_after_every_seq_of_the_old_one() {
    let server = Server::one().await;
    server.advertise(paired(HOLDER, &[digest(1)], 5, 900)).await.expect(201);
    server.advertise(paired(HOLDER, &[digest(2)], 6, 0)).await.expect(201);
    for request in [paired(HOLDER, &[digest(3)], 5, 901), paired(HOLDER, &[digest(3)], 4, 999)] {
        let answer = server.sync(request.clone()).await.expect(409);
        assert_eq!(answer.json(), json!({"success": false, "stale": true, "epoch": 6, "seq": 0}));
        server.withdraw(request).await.expect(409);
    }
    assert_eq!(server.holders(&digest(1)).await, [HOLDER]);
    server.stop().await;
}

/// B16: a full sync of the Go version deletes what was advertised while it was listing. A native sync takes
/// its seq when its scan starts, so that the advertise has the higher one.
#[tokio::test(flavor = "multi_thread")]
async fn b16_a_sync_deletes_nothing_that_was_advertised_after_its_scan_began() {
    let server = Server::one().await;
    server.sync(paired(HOLDER, &[digest(1)], 5, 1)).await.expect(201);
    let scan_begins_at = 2;
    server.advertise(paired(HOLDER, &[digest(2)], 5, 3)).await.expect(201);
    server.sync(paired(HOLDER, &[digest(1)], 5, scan_begins_at)).await.expect(409);
    assert_eq!(server.holders(&digest(2)).await, [HOLDER]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_is_the_difference_and_an_unchanged_one_of_the_go_pi_writes_nothing() {
    let server = Server::one().await;
    server.sync(plain(HOLDER, &[digest(1), digest(2)])).await.expect(201);
    server.sync(plain(HOLDER, &[digest(2), digest(3)])).await.expect(201);
    server.find(&digest(1), "").await.expect(404);
    assert_eq!(server.holders(&digest(2)).await, [HOLDER]);
    let changed = server.sync(plain(HOLDER, &[digest(3), digest(2), digest(2)])).await.expect(201);
    let before = server.get("/api/v1/status").await.json()["applied_index"].as_u64().unwrap();
    assert_eq!(changed.applied_index(), before);
    server.sync(plain(HOLDER, &[digest(2), digest(3)])).await.expect(201);
    assert_eq!(server.get("/api/v1/status").await.json()["applied_index"], json!(before));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_larger_than_one_entry_is_whole_and_can_be_undone() {
    let server = Server::one().await;
    let keys: Vec<String> = (0..3_000).map(|n| format!("r.io/{}:{n}", "k".repeat(240))).collect();
    server.sync(paired(HOLDER, &keys, 5, 1)).await.expect(201);
    assert_eq!(server.get("/api/v1/status").await.json()["pairs"], json!(3_000));
    assert_eq!(server.holders(&keys[2_999]).await, [HOLDER]);
    server.sync(paired(HOLDER, &keys[..1], 5, 2)).await.expect(201);
    assert_eq!(server.get("/api/v1/status").await.json()["pairs"], json!(1));
    server.sync(paired(HOLDER, &[], 5, 3)).await.expect(201);
    let status = server.get("/api/v1/status").await.json();
    assert_eq!((&status["pairs"], &status["hosts"]), (&json!(0), &json!(1)));
    server.stop().await;
}

/// Writes of a holder are applied one at a time: in any interleaving the index has the content of the last
/// sync.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_syncs_of_one_holder_leave_one_of_them_whole() {
    use futures_util::future::join_all;
    let server = Server::one().await;
    for round in 0..10_u32 {
        // Another holder each time, because many syncs of one are slowed down.
        let holder = format!("10.0.1.{round}:7781");
        let sets: Vec<Vec<String>> =
            (0..8).map(|n| (0..20).map(|key| digest(round * 10_000 + n * 100 + key)).collect()).collect();
        join_all(sets.iter().map(|set| async {
            server.sync(plain(&holder, set)).await.expect(201);
        }))
        .await;
        assert_eq!(
            server.get("/api/v1/status").await.json()["pairs"],
            json!(20 * (round + 1)),
            "round {round}"
        );
    }
    server.stop().await;
}
