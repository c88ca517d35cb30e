//! Reports: three distinct nodes that report a holder change the answers, fewer do not.

use std::time::Duration;

use piccolo::api::client::Client;
use piccolo::api::{ReportReason, ReportRequest};
use piccolo::limits::REPORTS_PER_NODE_MAX;
use serde_json::{Value, json};

use crate::harness::{Answer, PATIENCE, Server, always_for, digest, paired, plain, send_from, three, within};

const PATH: &str = "/api/v1/distribution/report";
/// The first of the three holders that [`hold`] makes, in the order without an asker.
const DEAD: &str = "10.0.0.1:7781";

/// Servers of a test listen on loopback only, where agents are distinguished by the `host` in their reports.
async fn report(server: &Server, reporter: u32, holder: &str, reason: &str) -> Answer {
    let host = format!("10.0.1.{reporter}:7781");
    server.post(PATH, json!({"host": host, "holder": holder, "key": digest(1), "reason": reason})).await
}

async fn hold(server: &Server) {
    for n in 1..=3 {
        server
            .advertise(paired(&format!("10.0.0.{n}:7781"), &[digest(1), digest(2)], 1, 1))
            .await
            .expect(201);
    }
}

fn in_order(order: [u32; 3]) -> Vec<String> {
    order.map(|n| format!("10.0.0.{n}:7781")).to_vec()
}

async fn heartbeat(server: &Server, holder: &str) {
    server.keepalive(json!({"host": holder, "group": "default", "ttl_seconds": 90})).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_reporters_rank_a_holder_last_and_two_do_not_until_its_next_heartbeat() {
    let server = Server::one().await;
    hold(&server).await;
    for (reporter, reason) in [(1, "unreachable"), (2, "silent"), (2, "unreachable"), (1, "broken")] {
        let answer = report(&server, reporter, DEAD, reason).await.expect(201).json();
        assert_eq!(answer, json!({"success": true, "message": "report accepted", "recorded": true}));
        assert_eq!(server.holders(&digest(1)).await, in_order([1, 2, 3]), "two nodes only");
    }
    report(&server, 3, DEAD, "broken").await.expect(201);
    for key in [digest(1), digest(2)] {
        assert_eq!(server.holders(&key).await, in_order([2, 3, 1]), "whatever the key");
    }
    let first = server.find(&digest(1), "&count=1&request_host=10.0.0.9").await.holders();
    assert_ne!(first, [DEAD], "it does not take the place of a sound one");
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("piccolo_api_reports_total{reason=\"silent\"}"), "{metrics}");
    assert!(metrics.contains("piccolo_index_hosts_reported "), "{metrics}");

    heartbeat(&server, "10.0.0.2:7781").await;
    assert_eq!(server.holders(&digest(1)).await, in_order([2, 3, 1]), "another one's heartbeat");
    heartbeat(&server, DEAD).await;
    assert_eq!(server.holders(&digest(1)).await, in_order([1, 2, 3]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_a_sign_of_life_too() {
    let server = Server::one().await;
    hold(&server).await;
    for reporter in 1..=3 {
        report(&server, reporter, DEAD, "unreachable").await.expect(201);
    }
    assert_eq!(server.holders(&digest(1)).await, in_order([2, 3, 1]));
    always_for(Duration::from_secs(3), async || server.holders(&digest(1)).await == in_order([2, 3, 1]))
        .await;
    server.advertise(paired(DEAD, &[digest(9)], 1, 2)).await.expect(201);
    within(PATIENCE, async || (server.holders(&digest(1)).await == in_order([1, 2, 3])).then_some(())).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_leave_a_holder_out_for_that_key_whether_or_not_it_sends_heartbeats() {
    let server = Server::one().await;
    hold(&server).await;
    for reporter in 1..=3 {
        assert_eq!(server.holders(&digest(1)).await, in_order([1, 2, 3]));
        report(&server, reporter, DEAD, "wrong").await.expect(201);
    }
    heartbeat(&server, DEAD).await;
    assert_eq!(server.holders(&digest(1)).await, ["10.0.0.2:7781", "10.0.0.3:7781"]);
    assert_eq!(server.holders(&digest(2)).await, in_order([1, 2, 3]));
    for holder in ["10.0.0.2:7781", "10.0.0.3:7781"] {
        for reporter in 1..=3 {
            report(&server, reporter, holder, "wrong").await.expect(201);
        }
    }
    server.find(&digest(1), "").await.expect(404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_to_any_server_counts_on_all_and_so_does_the_heartbeat_that_ends_it() {
    let servers = three().await;
    hold(&servers[0]).await;
    for server in &servers {
        within(PATIENCE, async || (server.holders(&digest(1)).await == in_order([1, 2, 3])).then_some(()))
            .await;
    }
    // Each server receives the report of only one node.
    for (reporter, server) in (1..).zip(&servers) {
        report(server, reporter, DEAD, "unreachable").await.expect(201);
    }
    let all = async |order| {
        for server in &servers {
            within(PATIENCE, async || (server.holders(&digest(1)).await == in_order(order)).then_some(()))
                .await;
        }
    };
    all([2, 3, 1]).await;
    for server in &servers {
        heartbeat(server, DEAD).await;
        all([1, 2, 3]).await;
        for reporter in 1..=3 {
            report(server, reporter, DEAD, "unreachable").await.expect(201);
        }
        all([2, 3, 1]).await;
    }
    for server in servers {
        server.stop().await;
    }
}

/// A server that does not only listen on loopback. All of 127.0.0.0/8 is this host, so that requests can have
/// many source addresses.
async fn open_to_all() -> Server {
    let server = Server::with(|config| config.listen = "0.0.0.0:0".parse().unwrap()).await;
    hold(&server).await;
    server
}

async fn report_from(server: &Server, from: u8, host: &str, headers: &[(&str, &str)]) {
    let body = json!({"host": host, "holder": DEAD, "key": digest(1), "reason": "silent"}).to_string();
    let local = [127, 0, 0, from].into();
    send_from(local, server.address, "POST", PATH, body, headers).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_counted_and_not_what_nodes_call_themselves() {
    let server = open_to_all().await;
    for name in 1..=9 {
        report_from(&server, 2, &format!("10.0.1.{name}:7781"), &[]).await;
    }
    assert_eq!(server.holders(&digest(1)).await, in_order([1, 2, 3]), "one liar");
    for from in 3..=4 {
        report_from(&server, from, "10.0.1.1:7781", &[]).await;
    }
    assert_eq!(server.holders(&digest(1)).await, in_order([2, 3, 1]));
    server.stop().await;
}

/// A client that is not one of the servers cannot report for others, whatever headers it sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_forward_is_a_report_of_the_host_it_comes_from() {
    let server = open_to_all().await;
    for reporter in 1..=9 {
        let ip = format!("10.0.1.{reporter}");
        let headers = [("piccolo-forwarded", "1"), ("piccolo-reporter", ip.as_str())];
        report_from(&server, 2, &format!("{ip}:7781"), &headers).await;
    }
    assert_eq!(server.holders(&digest(1)).await, in_order([1, 2, 3]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_report_is_refused_with_the_reason_and_unknown_holders_leave_nothing() {
    let server = Server::one().await;
    hold(&server).await;
    let good = json!({"host": "10.0.1.1:7781", "holder": DEAD, "group": "default", "key": digest(1),
        "reason": "silent"});
    let rows: [(&str, Value, &str); 13] = [
        ("host", Value::Null, "field host is required"),
        ("host", json!("node-1:7781"), "field host is not ip:port"),
        ("host", json!(DEAD), "field holder is the reporting host itself"),
        ("holder", Value::Null, "field holder is required"),
        ("holder", json!("0.0.0.0:1"), "field holder is an unspecified address"),
        ("holder", json!("10.0.0.99:7781"), "field holder is not known: 10.0.0.99:7781"),
        ("group", json!("other"), "field holder is not known"),
        ("group", json!(7), "field group must be a string, not a number"),
        ("key", Value::Null, "field key is required"),
        ("key", json!("sha256:xyz"), "field key is not sha256:"),
        ("key", json!("k".repeat(256)), "field key has 256 bytes"),
        ("reason", json!("alive"), "field reason must be one of unreachable, silent, broken, wrong"),
        ("reason", Value::Null, "field reason is required"),
    ];
    for (field, value, expected) in rows {
        let mut body = good.clone();
        body[field] = value;
        let answer = server.post(PATH, body).await.expect(400).json();
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(expected), "{field}: {message}");
        assert_eq!(answer["success"], json!(false));
    }
    server.send("POST", PATH, "{").await.expect(400);
    server.get(PATH).await.expect(404);

    // Earlier reports do not apply to a holder that is added later.
    for reporter in 1..=3 {
        report(&server, reporter, "10.0.0.0:7781", "silent").await.expect(400);
    }
    server.advertise(plain("10.0.0.0:7781", &[digest(1)])).await.expect(201);
    assert_eq!(server.holders(&digest(1)).await[0], "10.0.0.0:7781");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_cannot_fill_the_table() {
    let server = Server::one().await;
    hold(&server).await;
    let wrong = async |n: u32| {
        let body = json!({"host": "10.0.1.1:7781", "holder": DEAD, "key": digest(n), "reason": "wrong"});
        server.post(PATH, body).await.expect(201).json()["recorded"] == json!(true)
    };
    for n in 0..REPORTS_PER_NODE_MAX as u32 {
        assert!(wrong(n).await, "{n}");
    }
    assert!(!wrong(REPORTS_PER_NODE_MAX as u32).await);
    assert!(wrong(0).await, "what it has said it may say again");
    let of_another = report(&server, 2, DEAD, "wrong").await.expect(201).json();
    assert_eq!(of_another["recorded"], json!(true));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_reports_and_says_who_refused() {
    let server = Server::one().await;
    hold(&server).await;
    let client = Client::new(vec![format!("http://{}", server.address)]).unwrap();
    let request = ReportRequest {
        host: "10.0.1.1:7781".into(),
        holder: DEAD.into(),
        group: "default".into(),
        key: digest(1),
        reason: ReportReason::Unreachable,
    };
    assert!(client.report(&request, PATIENCE).await.unwrap().recorded);
    let unknown = ReportRequest { holder: "10.0.0.99:7781".into(), ..request };
    let refused = client.report(&unknown, PATIENCE).await.unwrap_err().to_string();
    assert!(refused.contains("400") && refused.contains("not known"), "{refused}");
    server.stop().await;
}
