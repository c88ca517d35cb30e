//! Three servers: each takes every request, acknowledged writes are readable on all, and without a quorum
//! there are no writes.

use serde_json::json;

use crate::harness::{PATIENCE, Server, digest, paired, plain, settled, three, within};

fn leader_of(servers: &[Server], leader: &str, member: &serde_json::Value) -> usize {
    let address = member.as_array().unwrap().iter().find(|member| member["node"] == json!(leader)).unwrap();
    let address = address["api_address"].as_str().unwrap();
    servers.iter().position(|server| server.address.to_string() == address).unwrap()
}

/// Position of the leader.
async fn leader(servers: &[Server]) -> usize {
    let status = servers[0].get("/api/v1/status").await.json();
    leader_of(servers, status["leader"].as_str().unwrap(), &status["members"])
}

async fn stop_all(servers: Vec<Server>) {
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_any_server_is_readable_on_all_at_its_index() {
    let servers = three().await;
    for (n, server) in servers.iter().enumerate() {
        let n = n as u32;
        let holder = format!("10.0.0.{}:7781", n + 1);
        for (answer, key) in [
            (server.advertise(paired(&holder, &[digest(n)], 5, 1)).await.expect(201), digest(n)),
            (
                server.sync(paired(&holder, &[digest(n), digest(100 + n)], 5, 2)).await.expect(201),
                digest(100 + n),
            ),
        ] {
            let at = answer.applied_index();
            for reader in &servers {
                let found = reader.find(&key, &format!("&min_index={at}")).await;
                assert_eq!(found.holders(), [holder.as_str()]);
                assert!(found.applied_index() >= at);
            }
        }
        let answer = server.withdraw(paired(&holder, &[digest(n)], 5, 3)).await.expect(201);
        for reader in &servers {
            let query = format!("&min_index={}", answer.applied_index());
            reader.find(&digest(n), &query).await.expect(404);
        }
    }
    let mut checksums = Vec::new();
    for server in &servers {
        let status = server.get("/api/v1/status").await.json();
        checksums.push((status["applied_index"].clone(), status["checksum"].clone()));
    }
    assert!(checksums.windows(2).all(|pair| pair[0] == pair[1]), "{checksums:?}");
    stop_all(servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_never_comes_is_504() {
    let server = Server::one().await;
    let answer = server.find(&digest(1), "&min_index=1000000").await.expect(504);
    assert!(answer.json()["error"].as_str().unwrap().contains("1000000"), "{answer:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_request_is_not_forwarded_again() {
    let servers = three().await;
    // A leader that was just elected accepts writes a moment later; this write waits for that.
    let first = paired("10.0.0.1:7781", &[digest(0)], 5, 1);
    settled(async || servers[0].advertise(first.clone()).await).await.expect(201);
    let leader = leader(&servers).await;
    let follower = &servers[(leader + 1) % 3];
    let body = paired("10.0.0.1:7781", &[digest(1)], 5, 2).to_string();
    let path = "/api/v1/distribution/advertise";
    let forwarded = [("piccolo-forwarded", "1")];
    let answer = follower.send_with("POST", path, body.clone(), &forwarded).await.expect(503);
    assert_eq!(answer.header("piccolo-leader"), Some(servers[leader].address.to_string().as_str()));
    assert!(answer.header("retry-after").is_some());
    let send = async || servers[leader].send_with("POST", path, body.clone(), &forwarded).await;
    settled(send).await.expect(201);
    stop_all(servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_leader_hands_over_and_no_write_of_a_client_that_tries_the_next_server_is_lost() {
    let mut servers = three().await;
    let leader = leader(&servers).await;
    let stopping = servers.remove(leader);
    servers[0].advertise(plain("10.0.0.1:7781", &[digest(0)])).await.expect(201);
    let stopped = stopping.stop();
    let writes = async {
        for n in 1..40 {
            let body = paired("10.0.0.1:7781", &[digest(n)], 5, n.into());
            servers[n as usize % 2].advertise(body).await.expect(201);
        }
    };
    tokio::join!(stopped, writes);
    for n in 0..40 {
        assert_eq!(servers[0].holders(&digest(n)).await, ["10.0.0.1:7781"], "{n}");
    }
    stop_all(servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_writes_are_503_and_reads_go_on() {
    let mut servers = three().await;
    let answer = servers[0].advertise(plain("10.0.0.1:7781", &[digest(1)])).await.expect(201);
    let at = answer.applied_index();
    servers[2].find(&digest(1), &format!("&min_index={at}")).await.expect(200);
    let last = servers.pop().unwrap();
    stop_all(servers).await;

    for path in ["advertise", "withdraw", "sync"] {
        let path = format!("/api/v1/distribution/{path}");
        let answer = within(PATIENCE, async || {
            let answer = last.post(&path, plain("10.0.0.2:7781", &[digest(2)])).await;
            // Right after the loss the leader may still wait for the quorum, and answers 504.
            (answer.status == 503).then_some(answer)
        })
        .await;
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert_eq!(answer.json()["success"], json!(false));
    }
    let heartbeat = json!({"host": "10.0.0.1:7781", "Group": "default"});
    let answer = last.keepalive(heartbeat).await.expect(503);
    assert!(answer.header("retry-after").is_some());

    assert_eq!(last.holders(&digest(1)).await, ["10.0.0.1:7781"]);
    let ready = last.get("/readyz").await.expect(200).json();
    assert_eq!(ready["ready"], json!(true));
    assert!(!ready["reasons"].as_array().unwrap().is_empty(), "{ready}");
    assert_eq!(last.get("/api/v1/status").await.json()["quorum"], json!(false));
    last.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_catches_up() {
    let mut servers = three().await;
    let leader = leader(&servers).await;
    let follower = servers.remove((leader + 1) % 3);
    let mut config = follower.config().clone();
    config.listen = follower.address;
    let _folder = follower.stop().await.unwrap();
    let at = servers[0].advertise(plain("10.0.0.1:7781", &[digest(1)])).await.expect(201).applied_index();
    let follower = Server::start(config).await;
    within(PATIENCE, async || {
        let answer = follower.find(&digest(1), &format!("&min_index={at}")).await;
        (answer.status == 200).then_some(())
    })
    .await;
    servers.push(follower);
    stop_all(servers).await;
}
