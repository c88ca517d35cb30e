//! Flights: of the nodes that ask for content which nobody holds, one is told to fetch it, and all others learn where
//! the bytes will come from, whichever server they ask.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, always_for, digest, paired, plain, settled, three, within};

const PROGRESS: &str = "/api/v1/distribution/flights";
const OWNED: &str = "/api/v1/distribution/flights/owned";
const LIST: &str = "/api/v1/flights";

fn host(node: u32) -> String {
    format!("10.0.{}.{}:7781", node / 200 + 1, node % 200 + 1)
}

/// What a node is told that asks for a source of `key`. A server that is behind sends it to another one: it asks again.
async fn ask(server: &Server, key: &str, node: u32, more: &str) -> Value {
    let query = format!("&request_host={}&intent=fetch{more}", host(node));
    let answer = within(PATIENCE, async || {
        let answer = server.find(key, &query).await;
        let is_behind = answer.status == 404 && answer.headers.contains_key("piccolo-behind");
        (!is_behind).then_some(answer)
    });
    answer.await.expect(200).json()["flight"].clone()
}

async fn says(server: &Server, node: u32, flights: Value) -> Value {
    let body = json!({"host": host(node), "group": "default", "flights": flights});
    server.post(PROGRESS, body).await.expect(200).json()["passed_on"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_all_that_ask_three_servers_at_once_fetches_and_the_others_learn_who() {
    let servers = three().await;
    for round in 0..4 {
        let key = digest(round);
        let asked = (0..30).map(|node| ask(&servers[node as usize % 3], &key, node, "&begins=true"));
        let told: Vec<Value> = join_all(asked).await;
        let yours: Vec<usize> = (0..30).filter(|node| told[*node]["claim"] == "yours").collect();
        let [fetcher] = yours[..] else { panic!("{yours:?} of {told:?}") };
        let fetcher = host(fetcher as u32);
        for (node, flight) in told.iter().enumerate().filter(|(_, flight)| flight["claim"] != "yours") {
            let partial = flight["partial"].as_array().unwrap();
            assert!(!partial.contains(&json!(host(node as u32))), "its own address: {flight}");
            assert_eq!(flight["fetcher"], json!(fetcher), "{flight}");
        }
        within(PATIENCE, async || {
            let list = servers[round as usize % 3].get(LIST).await.json();
            let flights = list["flights"].as_array()?.clone();
            let flight = flights.into_iter().find(|flight| flight["key"] == json!(key))?;
            (flight["nodes"] == 30 && flight["copies"] == 1 && flight["fetcher"] == json!(fetcher))
                .then_some(())
        })
        .await;
    }
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_ask_for_flights_sees_none_of_them() {
    let server = Server::one().await;
    assert_eq!(ask(&server, &digest(1), 1, "&begins=true").await["claim"], "yours");
    server.find(&digest(1), &format!("&request_host={}", host(2))).await.expect(404);
    server.find(&digest(1), "&request_host=10.0.1.9").await.expect(404);
    server.find(&digest(1), &format!("&request_host={}&intent=other", host(2))).await.expect(404);
    server.advertise(paired("10.0.0.1:7781", &[digest(1)], 1, 1)).await.expect(201);
    let plain = server.find(&digest(1), &format!("&request_host={}", host(2))).await;
    assert_eq!((plain.holders(), plain.json().get("flight")), (vec!["10.0.0.1:7781".to_owned()], None));
    let query = format!("&request_host={}&intent=fetch&begins=true", host(3));
    let answer = server.find(&digest(1), &query).await;
    assert_eq!(answer.holders(), ["10.0.0.1:7781"], "complete holders are told to both");
    assert_eq!(answer.json()["flight"]["partial"], json!([host(1)]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetcher_that_ends_is_followed_by_one_of_those_that_lost_it_and_learns_that_it_has_no_claim() {
    let servers = three().await;
    let key = digest(9);
    assert_eq!(ask(&servers[0], &key, 1, "&begins=true&transfer=5").await["claim"], "yours");
    let of_transfer = |transfer: u64, have: u64, state: &str| json!([{"key": key, "state": state, "have": have, "transfer": transfer}]);
    let progress = |have: u64, state: &str| of_transfer(5, have, state);
    assert_eq!(says(&servers[1], 1, progress(10, "fetches")).await, json!([]));
    assert_eq!(says(&servers[2], 1, of_transfer(4, 9, "ended")).await, json!([]), "a former one");
    for node in 2..=4 {
        assert_eq!(
            ask(&servers[node as usize % 3], &key, node, "&begins=true").await["fetcher"],
            json!(host(1))
        );
    }
    says(&servers[2], 1, progress(10, "ended")).await;
    let lost = |node: u32, have: u64| {
        let more = format!("&starved=true&have={have}&lost={}", host(1));
        let server = &servers[node as usize % 3];
        let key = key.clone();
        async move { ask(server, &key, node, &more).await }
    };
    let told = join_all([lost(2, 5), lost(3, 9), lost(4, 7)]).await;
    let next: Vec<usize> = (0..3).filter(|n| told[*n]["claim"] == "yours").collect();
    let [next] = next[..] else { panic!("{told:?}") };
    let next = next as u32 + 2;
    assert!(
        told.iter().all(|flight| flight["claim"] == "yours" || flight["fetcher"] == json!(host(next))),
        "{told:?}"
    );
    assert_eq!(says(&servers[0], 1, progress(11, "fetches")).await, json!([key]));
    assert_eq!(says(&servers[0], next, progress(11, "fetches")).await, json!([]));
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_without_a_byte_passes_on_and_in_the_end_everybody_goes_to_the_registry() {
    let server = Server::one().await;
    let key = digest(3);
    assert_eq!(ask(&server, &key, 1, "&begins=true").await["claim"], "yours");
    always_for(Duration::from_millis(1_500), async || {
        let flight = ask(&server, &key, 2, "&starved=true").await;
        flight["claim"] == "held" && flight["fetcher"] == json!(host(1))
    })
    .await;
    let ended = json!([{"key": key, "state": "ended"}]);
    within(PATIENCE, async || {
        (ask(&server, &key, 2, "&starved=true").await["claim"] == "yours").then_some(())
    })
    .await;
    says(&server, 2, ended.clone()).await;
    assert_eq!(ask(&server, &key, 3, "&starved=true").await["claim"], "yours");
    says(&server, 3, ended).await;
    assert_eq!(ask(&server, &key, 4, "&starved=true").await["claim"], "open");
    assert_eq!(ask(&server, &key, 5, "&starved=true&begins=true").await["claim"], "open");
    server.stop().await;
}

/// A server that does not answer costs one wait, and at worst one more copy.
#[tokio::test(flavor = "multi_thread")]
async fn without_two_of_three_servers_one_node_is_still_told_to_fetch() {
    let mut servers = three().await;
    settled(async || servers[0].advertise(plain("10.0.0.1:7781", &[digest(0)])).await).await.expect(201);
    let last = servers.pop().unwrap();
    for server in servers {
        server.stop().await;
    }
    for round in 10..16 {
        let key = digest(round);
        let told = join_all((1..=5).map(|node| ask(&last, &key, node, "&begins=true"))).await;
        let yours = told.iter().filter(|flight| flight["claim"] == "yours").count();
        assert_eq!(yours, 1, "{told:?}");
    }
    let list = last.get(LIST).await.json();
    assert_eq!(list["unanswered"].as_array().unwrap().len(), 2, "what is missing is said: {list}");
    last.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_only_servers_ask_owners() {
    let server = Server::one().await;
    let refused = async |body: Value, reason: &str| {
        let answer = server.post(PROGRESS, body).await.expect(400);
        assert!(answer.text.contains(reason), "{answer:?}");
    };
    let flight = json!({"key": digest(1), "state": "fetches"});
    refused(json!({"group": "g", "flights": []}), "missing field `host`").await;
    refused(json!({"host": "x", "group": "g", "flights": []}), "field host is not ip:port").await;
    refused(
        json!({"host": host(1), "group": "g", "flights": [{"key": "sha256:0", "state": "ended"}]}),
        "field key",
    )
    .await;
    refused(
        json!({"host": host(1), "group": "g", "flights": [{"key": digest(1), "state": "?"}]}),
        "unknown variant",
    )
    .await;
    let many: Vec<&Value> = std::iter::repeat_n(&flight, 257).collect();
    refused(json!({"host": host(1), "group": "g", "flights": many}), "field flights are more than 256").await;
    server.find(&digest(1), "&request_host=10.0.0.1:1&intent=fetch&have=-1").await.expect(400);
    let large = "x".repeat(300 * 1024);
    server.post(PROGRESS, json!({"host": large, "group": "g", "flights": []})).await.expect(413);
    let forwarded = [("piccolo-forwarded", "1")];
    let answer = server.send_with("POST", OWNED, r#"{"messages":[]}"#, &forwarded).await.expect(403);
    assert!(answer.text.contains("only the other servers"), "{answer:?}");
    server.stop().await;
}
