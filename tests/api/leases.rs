//! Leases as a client sees them: a silent holder disappears after its lease, a returning one is found.

use std::time::{Duration, Instant};

use piccolo_raft::model::{Fingerprint, Key};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, always_for, digest, paired, plain, three, within};

const HOLDER: &str = "10.0.0.1:7781";

fn fingerprint(keys: &[String]) -> String {
    let keys: Vec<Key> = keys.iter().map(|key| key.parse().unwrap()).collect();
    keys.iter().collect::<Fingerprint>().to_string()
}

/// A native keepalive with the shortest lease.
fn heartbeat(keys: &[String], epoch: u64, seq: u64) -> Value {
    json!({
        "host": HOLDER, "group": "default", "ttl_seconds": 3, "zone": "a", "fingerprint": fingerprint(keys),
        "count": keys.len(), "epoch": epoch, "seq": seq
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_is_gone_from_all_servers_after_its_lease_and_comes_back_at_once() {
    let servers = three().await;
    let keys = [digest(1)];
    servers[0].advertise(paired(HOLDER, &keys, 5, 1)).await.expect(201);
    let start = Instant::now();
    let answer = servers[1].keepalive(heartbeat(&keys, 5, 1)).await.expect(201);
    assert_eq!(answer.json()["resync"], json!(false));

    for server in &servers {
        within(PATIENCE, async || server.holders(&keys[0]).await.is_empty().then_some(())).await;
    }
    assert!(start.elapsed() >= Duration::from_secs(3), "hidden after {:?}", start.elapsed());
    // Far from the default lease, and with time for an election: a new leader gives a full lease.
    assert!(start.elapsed() <= Duration::from_secs(30), "hidden after {:?}", start.elapsed());
    let hosts = servers[2].get("/api/v1/hosts").await.json();
    assert_eq!(hosts["hosts"][0]["keys"], json!(1), "hidden, not deleted");
    assert!(hosts["hosts"][0]["hidden_unix_ms"].is_u64());

    let answer = servers[2].keepalive(heartbeat(&keys, 5, 1)).await.expect(201);
    assert_eq!(answer.json()["resync"], json!(false), "it need not send its list again");
    for server in &servers {
        let back = async || (server.holders(&keys[0]).await == [HOLDER]).then_some(());
        within(PATIENCE, back).await;
    }
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_beats_stays_and_writes_nothing() {
    let server = Server::one().await;
    let keys = [digest(1)];
    server.advertise(paired(HOLDER, &keys, 5, 1)).await.expect(201);
    server.keepalive(heartbeat(&keys, 5, 1)).await.expect(201);
    let applied = server.get("/api/v1/status").await.json()["applied_index"].clone();
    let mut last = Instant::now();
    always_for(Duration::from_secs(5), async || {
        if last.elapsed() > Duration::from_secs(1) {
            server.keepalive(heartbeat(&keys, 5, 1)).await.expect(201);
            last = Instant::now();
        }
        server.holders(&keys[0]).await == [HOLDER]
    })
    .await;
    assert_eq!(server.get("/api/v1/status").await.json()["applied_index"], applied);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_node_that_believes_something_else_stays_hidden_until_its_write() {
    let server = Server::one().await;
    let keys = [digest(1)];
    server.advertise(paired(HOLDER, &keys, 5, 1)).await.expect(201);
    server.keepalive(heartbeat(&keys, 5, 1)).await.expect(201);
    within(PATIENCE, async || server.holders(&keys[0]).await.is_empty().then_some(())).await;
    // A keepalive with another lease changes the record, which must not unhide the host.
    let mut drifted = heartbeat(&[digest(2)], 5, 1);
    drifted["ttl_seconds"] = json!(60);
    let answer = server.keepalive(drifted).await.expect(201);
    assert_eq!(answer.json()["resync"], json!(true));
    always_for(Duration::from_secs(1), async || server.holders(&keys[0]).await.is_empty()).await;
    server.sync(paired(HOLDER, &keys, 5, 2)).await.expect(201);
    assert_eq!(server.holders(&keys[0]).await, [HOLDER]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_sums_what_agents_count() {
    let server = Server::one().await;
    let keys = [digest(1)];
    let heartbeat_of = |bytes_from_peers: u64| {
        let mut heartbeat = heartbeat(&keys, 5, 1);
        heartbeat["bytes_from_peers"] = json!(bytes_from_peers);
        heartbeat["bytes_served"] = json!(20);
        heartbeat["misses"] = json!(3);
        heartbeat
    };
    server.keepalive(heartbeat_of(1)).await.expect(201);
    let status = server.get("/api/v1/status").await.json();
    assert_eq!(status["bytes_from_peers"], json!(0), "an unknown host leaves nothing");
    server.advertise(paired(HOLDER, &keys, 5, 1)).await.expect(201);
    // The last agent has started again.
    for bytes in [100, 150, 30] {
        server.keepalive(heartbeat_of(bytes)).await.expect(201);
    }
    let status = server.get("/api/v1/status").await.json();
    assert_eq!([&status["bytes_from_peers"], &status["bytes_served"], &status["misses"]], [180, 20, 3]);
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("piccolo_fleet_bytes_from_peers"), "{metrics}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_or_drifted_holder_is_asked_to_sync() {
    let server = Server::one().await;
    let keys = [digest(1)];
    let resync = async |body: Value| server.keepalive(body).await.expect(201).json()["resync"].clone();
    assert_eq!(resync(heartbeat(&keys, 5, 1)).await, json!(true));
    assert_eq!(resync(json!({"host": HOLDER, "Group": "default"})).await, json!(true));
    assert_eq!(server.get("/api/v1/hosts").await.json(), json!({"hosts": []}), "no record is made");

    server.advertise(paired(HOLDER, &keys, 5, 1)).await.expect(201);
    assert_eq!(resync(heartbeat(&keys, 5, 1)).await, json!(false));
    assert_eq!(resync(heartbeat(&keys, 5, 2)).await, json!(true), "a write was lost");
    assert_eq!(resync(heartbeat(&[digest(2)], 5, 1)).await, json!(true), "it believes something else");
    assert_eq!(resync(heartbeat(&[digest(2)], 5, 0)).await, json!(false), "an answer is under way");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_never_beats_has_the_default_lease_and_any_write_shows_it_again() {
    let server = Server::with(|config| config.lease_default = Duration::from_secs(3)).await;
    server.advertise(plain(HOLDER, &[digest(1)])).await.expect(201);
    let gone = async || server.holders(&digest(1)).await.is_empty().then_some(());
    within(PATIENCE, gone).await;
    server.advertise(plain(HOLDER, &[digest(2)])).await.expect(201);
    assert_eq!(server.holders(&digest(1)).await, [HOLDER], "with all it has");
    within(PATIENCE, gone).await;
    server.sync(plain(HOLDER, &[digest(1), digest(2)])).await.expect(201);
    assert_eq!(server.holders(&digest(1)).await, [HOLDER], "a sync that changes no key, too");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_hidden_for_long_is_forgotten_and_asked_to_sync_when_it_comes_back() {
    let server = Server::with(|config| {
        config.lease_default = Duration::from_secs(1);
        config.forget_after = Duration::from_secs(1);
    })
    .await;
    server.advertise(plain(HOLDER, &[digest(1)])).await.expect(201);
    within(PATIENCE, async || (server.get("/api/v1/status").await.json()["hosts"] == json!(0)).then_some(()))
        .await;
    assert_eq!(server.get("/api/v1/status").await.json()["pairs"], json!(0));
    let answer = server.keepalive(json!({"host": HOLDER, "Group": "default"})).await.expect(201);
    assert_eq!(answer.json()["resync"], json!(true));
    server.stop().await;
}
