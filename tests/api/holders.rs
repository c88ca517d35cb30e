//! Which holders a client gets: groups, native clients, zones, views.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{Server, digest, paired, plain};

#[tokio::test(flavor = "multi_thread")]
async fn groups_do_not_see_each_other() {
    let server = Server::one().await;
    server.advertise(plain("10.0.0.1:7781", &[digest(1)])).await.expect(201);
    let other = json!({"holder": "10.0.0.2:7781", "group": "other", "keys": [digest(1)]});
    server.advertise(other).await.expect(201);
    assert_eq!(server.holders(&digest(1)).await, ["10.0.0.1:7781"]);
    let find = |group: &str| format!("/api/v1/distribution/findkey?key={}&group={group}", digest(1));
    assert_eq!(server.get(&find("other")).await.holders(), ["10.0.0.2:7781"]);
    server.get(&find("Default")).await.expect(404);
    let same_address = json!({"holder": "10.0.0.1:7781", "group": "other", "keys": []});
    server.sync(same_address).await.expect(201);
    assert_eq!(server.holders(&digest(1)).await, ["10.0.0.1:7781"], "a sync in another group");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_client_gets_its_zone_first_and_rank_prefix_ignores_zones() {
    let server = Server::one().await;
    for (holder, zone) in [("10.0.0.1:7781", "a"), ("10.0.0.2:7781", "b"), ("10.9.9.9:7781", "a")] {
        server.advertise(paired(holder, &[digest(1)], 1, 1)).await.expect(201);
        let heartbeat = json!({"host": holder, "group": "default", "zone": zone, "ttl_seconds": 90});
        server.keepalive(heartbeat).await.expect(201);
    }
    let holders = server.find(&digest(1), "&request_host=10.0.0.1:7781").await.holders();
    assert_eq!(holders, ["10.9.9.9:7781", "10.0.0.2:7781"]);
    let holders = server.find(&digest(1), "&request_host=10.0.0.1:7781&rank=prefix").await.holders();
    assert_eq!(holders, ["10.0.0.2:7781", "10.9.9.9:7781"]);
    server.stop().await;
}

/// B10: in the Go version all nodes of a subnet choose the same peer.
#[tokio::test(flavor = "multi_thread")]
async fn neighbours_start_at_different_holders() {
    let server = Server::one().await;
    for n in 1..=20 {
        server.advertise(plain(&format!("10.0.0.{n}:7781"), &[digest(1)])).await.expect(201);
    }
    let mut first = BTreeSet::new();
    for n in 100..140 {
        let query = format!("&count=1&request_host=10.0.0.{n}:7781");
        first.extend(server.find(&digest(1), &query).await.holders());
    }
    assert!(first.len() >= 10, "{first:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_show_what_is_there() {
    let server = Server::one().await;
    server.advertise(paired("10.0.0.1:7781", &[digest(1), digest(2)], 1, 1)).await.expect(201);
    let other = json!({"holder": "[fd00::1]:7781", "group": "other", "keys": [digest(1)]});
    server.advertise(other).await.expect(201);

    let hosts = server.get("/api/v1/hosts").await.expect(200).json();
    let first = json!({"group": "default", "holder": "10.0.0.1:7781", "zone": "", "keys": 2});
    let second = json!({"group": "other", "holder": "[fd00::1]:7781", "zone": "", "keys": 1});
    assert_eq!(hosts, json!({"hosts": [first, second]}));
    assert_eq!(server.get("/api/v1/hosts?group=other").await.json(), json!({"hosts": [second]}));
    assert_eq!(server.get("/api/v1/hosts?group=none").await.json(), json!({"hosts": []}));

    let status = server.get("/api/v1/status").await.expect(200).json();
    assert_eq!((&status["hosts"], &status["keys"], &status["pairs"]), (&json!(2), &json!(2), &json!(3)));
    assert_eq!(status["leader"], status["node"]);
    assert_eq!(status["members"][0]["role"], json!("leader"));
    assert_eq!(status["members"][0]["api_address"], json!(server.address.to_string()));
    assert_eq!(status["reasons"], json!([]));

    let capabilities = server.get("/api/v1/capabilities").await.expect(200).json();
    assert_eq!((&capabilities["api"], &capabilities["cluster"]), (&json!(1), &status["cluster"]));
    assert!(capabilities["features"].as_array().unwrap().contains(&json!("withdraw")));

    assert_eq!(server.get("/livez").await.expect(200).text, r#"{"message":"ok"}"#);
    assert_eq!(server.get("/readyz").await.expect(200).json(), json!({"ready": true, "reasons": []}));
    let metrics = server.get("/metrics").await.expect(200).text;
    for name in [
        "piccolo_api_version{version=",
        "http_requests_total{route=\"/api/v1/distribution/advertise\",method=\"POST\",status=\"201\"}",
        "http_request_duration_seconds_bucket{route=\"/api/v1/hosts\",method=\"GET\"",
        "piccolo_index_checksum ",
        "piccolo_raft_is_leader ",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    server.find(&digest(1), "").await.expect(200);
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("piccolo_api_findkey_db_result_count_bucket"), "{metrics}");
    server.stop().await;
}
