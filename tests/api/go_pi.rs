//! The requests of the Go `pi` v0.0.36, byte for byte as its client sends them, and the answers that
//! it expects (docs/go-piccolo.md).

use serde_json::json;

use crate::harness::{PATIENCE, Server, digest, plain, within};

fn advertise_body(holder: &str, keys: &[String]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
    format!(r#"{{"holder":"{holder}","keys":[{}],"group":"default"}}"#, keys.join(","))
}

const ADVERTISE: &str = "/api/v1/distribution/advertise";
const SYNC: &str = "/api/v1/distribution/sync";
const TAG: &str = "docker.io/library/alpine:3.20";
const CREATED: &str = r#"{"success":true,"message":"Distribution created!"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn its_whole_life_is_served_as_it_is() {
    let server = Server::one().await;
    let tag = [TAG.to_owned(), digest(1)];

    let answer = server.send("POST", SYNC, advertise_body("10.0.0.1:7781", &tag)).await.expect(201);
    assert_eq!(answer.text, CREATED);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let answer = server.send("POST", ADVERTISE, advertise_body("10.0.0.2:7781", &tag)).await.expect(201);
    assert_eq!(answer.text, CREATED);
    let again = server.send("POST", ADVERTISE, advertise_body("10.0.0.2:7781", &tag)).await.expect(201);
    assert_eq!(again.text, CREATED, "duplicates are ignored");

    let keepalive = r#"{"host":"10.0.0.1:7781","Group":"default"}"#;
    let answer = server.send("POST", "/api/v1/keepalive", keepalive).await.expect(201);
    assert_eq!(answer.text, r#"{"success":true,"message":"keep alive success","resync":false}"#);

    let find = "/api/v1/distribution/findkey?count=3&group=default\
                &key=docker.io%2Flibrary%2Falpine%3A3.20&request_host=10.0.0.9";
    let answer = server.get(find).await.expect(200);
    assert_eq!(
        answer.text,
        r#"{"key":"docker.io/library/alpine:3.20","Group":"default","holders":["10.0.0.1:7781","10.0.0.2:7781"],"total":0}"#
    );

    let answer = server.send("POST", SYNC, advertise_body("10.0.0.1:7781", &tag)).await.expect(201);
    assert_eq!(answer.text, CREATED, "also when nothing changed");
    let answer = server.send("POST", SYNC, advertise_body("10.0.0.1:7781", &[])).await.expect(201);
    assert_eq!(answer.text, CREATED);
    assert_eq!(server.holders(TAG).await, ["10.0.0.2:7781"], "an empty sync deletes everything");

    let answer = server.find("sha256:abc", "&request_host=10.0.0.9").await.expect(404);
    assert_eq!(answer.text, r#"{"message":"Didn't find the key sha256:abc in piccolo"}"#);
    assert_eq!(server.get("/healthz").await.expect(200).text, r#"{"message":"ok"}"#);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_in_any_case_are_read_as_go_reads_them() {
    let server = Server::one().await;
    let body = json!({"Holder": "10.0.0.1:7781", "KEYS": [TAG], "Group": "default"});
    server.advertise(body).await.expect(201);
    for group in ["group", "Group", "GROUP"] {
        let body = json!({"Host": "10.0.0.1:7781", group: "default"});
        assert_eq!(server.keepalive(body).await.expect(201).json()["resync"], json!(false));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_key_in_a_sync_does_not_hide_the_node() {
    let server = Server::one().await;
    let keys = [TAG.to_owned(), "sha256:tooshort".to_owned(), "k".repeat(256), digest(1)];
    let answer = server.sync(plain("10.0.0.1:7781", &keys)).await.expect(201);
    assert_eq!(answer.json(), json!({"success": true, "message": "Distribution created!", "skipped": 2}));
    assert_eq!(server.holders(TAG).await, ["10.0.0.1:7781"]);
    assert_eq!(server.holders(&digest(1)).await, ["10.0.0.1:7781"]);
    let answer = server.sync(plain("10.0.0.1:7781", &["sha256:x".to_owned()])).await.expect(400);
    assert!(answer.text.contains("no valid key"), "{answer:?}");
    assert_eq!(server.holders(TAG).await, ["10.0.0.1:7781"], "a sync of rubbish deletes nothing");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_do_is_said_with_its_words() {
    let server = Server::one().await;
    for keys in [vec![], vec![String::new(), String::new()]] {
        let answer = server.advertise(plain("10.0.0.1:7781", &keys)).await.expect(400);
        assert_eq!(answer.text, r#"{"success":false,"message":"No operation needed"}"#);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_for_a_bare_ip_is_prefix_then_address_then_text() {
    let server = Server::one().await;
    let holders =
        ["10.0.0.3:9999", "10.0.0.3:10000", "10.0.0.2:1", "10.0.1.1:1", "192.168.0.1:1", "10.0.0.1:7781"];
    for holder in holders {
        server.advertise(plain(holder, &[digest(1)])).await.expect(201);
    }
    let found = server.find(&digest(1), "&request_host=10.0.0.1").await.holders();
    let expected = ["10.0.0.2:1", "10.0.0.3:10000", "10.0.0.3:9999", "10.0.1.1:1", "192.168.0.1:1"];
    assert_eq!(found, expected);
    let two = server.find(&digest(1), "&request_host=10.0.0.1&count=2").await.holders();
    assert_eq!(two, expected[..2]);
    let all = server.find(&digest(1), "&count=-1").await.holders();
    assert_eq!(all.len(), holders.len(), "without request_host nobody is left out");
    server.stop().await;
}

/// B6: the Go server ranks the asking holder itself first.
#[tokio::test(flavor = "multi_thread")]
async fn b6_the_asker_is_never_told_itself() {
    let server = Server::one().await;
    server.advertise(plain("10.0.0.1:7781", &[digest(1)])).await.expect(201);
    server.find(&digest(1), "&request_host=10.0.0.1").await.expect(404);
    server.find(&digest(1), "&request_host=10.0.0.1:7781").await.expect(404);
    assert_eq!(server.find(&digest(1), "&request_host=10.0.0.1:7791").await.holders(), ["10.0.0.1:7781"]);
    server.stop().await;
}

/// B7: the Go server selects any 2,000 rows and sorts those.
#[tokio::test(flavor = "multi_thread")]
async fn b7_the_nearest_is_found_behind_two_thousand_others() {
    use futures_util::StreamExt;
    let server = Server::one().await;
    let holders = (0..2_100).map(|n| format!("10.1.{}.{}:7781", n / 250, n % 250 + 1));
    let holders = holders.chain(["203.0.113.7:7781".to_owned()]);
    futures_util::stream::iter(holders)
        .map(|holder| {
            let server = &server;
            async move { server.advertise(plain(&holder, &[digest(1)])).await.expect(201) }
        })
        .buffer_unordered(64)
        .for_each(|_| async {})
        .await;
    for asker in ["203.0.113.9", "203.0.113.9:7781"] {
        let found = server.find(&digest(1), &format!("&count=3&request_host={asker}")).await.holders();
        assert_eq!((found.len(), found[0].as_str()), (3, "203.0.113.7:7781"), "{asker}");
    }
    let most = server.find(&digest(1), "&count=5000&request_host=203.0.113.9").await.holders();
    assert_eq!(most.len(), 2_000);
    server.stop().await;
}

/// B8: one holder without an IPv4 address makes the Go server answer 404 for its keys, to everybody.
#[tokio::test(flavor = "multi_thread")]
async fn b8_an_ipv6_holder_poisons_no_key() {
    let server = Server::one().await;
    server.advertise(plain("[fd00::1]:7781", &[digest(1)])).await.expect(201);
    server.advertise(plain("10.0.0.2:7781", &[digest(1)])).await.expect(201);
    let found = server.find(&digest(1), "&request_host=10.0.0.1").await.holders();
    assert_eq!(found, ["10.0.0.2:7781", "[fd00::1]:7781"]);
    let found = server.find(&digest(1), "&request_host=fd00::2").await.holders();
    assert_eq!(found, ["[fd00::1]:7781", "10.0.0.2:7781"]);
    let found = server.find(&digest(1), "&request_host=[fd00::1]").await.holders();
    assert_eq!(found, ["10.0.0.2:7781"], "not the asker itself");
    // What a Go pi on IPv6 sends, cut at the first colon.
    let unknown = server.find(&digest(1), "").await.holders();
    assert_eq!(unknown.len(), 2);
    assert_eq!(server.find(&digest(1), "&request_host=[fd00").await.holders(), unknown);
    server.find(&digest(2), "&request_host=[fd00").await.expect(404);
    server.stop().await;
}

/// B25: MySQL truncates long holders and keys, and treats tags that differ in case as equal.
#[tokio::test(flavor = "multi_thread")]
async fn b25_keys_and_holders_are_kept_whole_and_in_their_case() {
    let server = Server::one().await;
    let holder = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
    let longest = format!("r.io/{}", "k".repeat(250));
    let keys = [longest.clone(), "r.io/a:Latest".to_owned()];
    server.advertise(plain(holder, &keys)).await.expect(201);
    assert_eq!(server.holders(&longest).await, [holder]);
    assert_eq!(server.holders("r.io/a:Latest").await, [holder]);
    server.find("r.io/a:latest", "").await.expect(404);
    let answer = server.advertise(plain("10.0.0.1:1", &[format!("{longest}x")])).await.expect(400);
    assert!(answer.text.contains("no valid key"), "{answer:?}");
    server.find(&longest[..254], "").await.expect(404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_survive_a_restart() {
    let server = Server::one().await;
    server.sync(plain("10.0.0.1:7781", &[digest(1), TAG.to_owned()])).await.expect(201);
    let folder = server.stop().await.unwrap();
    let server = Server::start(crate::harness::config(folder.path())).await;
    assert_eq!(server.holders(TAG).await, ["10.0.0.1:7781"]);
    within(PATIENCE, async || {
        let answer = server.advertise(plain("10.0.0.2:7781", &[digest(1)])).await;
        (answer.status == 201).then_some(())
    })
    .await;
    server.stop().await;
}
