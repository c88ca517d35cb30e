//! Every kind of invalid request, with its answer.

use piccolo::limits::API_BODY_BYTES_MAX;
use serde_json::{Value, json};

use crate::harness::{Server, digest, plain, settled};

const WRITES: [&str; 3] =
    ["/api/v1/distribution/advertise", "/api/v1/distribution/withdraw", "/api/v1/distribution/sync"];

/// Checks an error of the write endpoints.
#[track_caller]
fn assert_refused(answer: &crate::harness::Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["success"], json!(false), "{answer:?}");
    assert!(body["message"].as_str().unwrap().contains(reason), "{reason}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_are_no_writes_are_refused_with_the_field() {
    let server = Server::one().await;
    for path in WRITES {
        for body in ["", "{", "[1]", "\"x\"", "null", "\u{0}\u{1}"] {
            let answer = server.send("POST", path, body).await;
            assert_refused(&answer, 400, "Wrong request format: ");
        }
        let good = json!({"holder": "10.0.0.1:7781", "group": "g", "keys": [digest(1)]});
        for (field, value, reason) in [
            ("holder", Value::Null, "field holder is required"),
            ("holder", json!(7), "field holder must be a string"),
            ("holder", json!("10.0.0.1"), "field holder is not ip:port"),
            ("group", Value::Null, "field group is required"),
            ("group", json!(""), "field group is required"),
            ("group", json!(["g"]), "field group must be a string"),
            ("group", json!("g".repeat(65)), "field group is longer than 64 bytes"),
            ("group", json!("a\u{1b}[2J"), "field group has white space or a control character"),
            ("keys", Value::Null, "field keys is required"),
            ("keys", json!("k"), "field keys must be a list of strings"),
            ("keys", json!([digest(1), 7]), "field keys[1] must be a string"),
            ("epoch", json!(1), "field epoch needs field seq"),
            ("seq", json!(1), "field seq needs field epoch"),
            ("seq", json!("1"), "field seq must be an integer"),
        ] {
            let mut body = good.clone();
            body[field] = value;
            let answer = server.post(path, body).await;
            assert_refused(&answer, 400, &format!("Wrong request format: {reason}"));
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_list_is_held_to_its_limits() {
    let server = Server::one().await;
    let with = |keys: Vec<String>| json!({"holder": "10.0.0.1:7781", "group": "default", "keys": keys, "epoch": 1, "seq": 1});
    let answer = server.advertise(with(vec![digest(1), "sha256:xyz".into()])).await;
    assert_refused(&answer, 400, "field keys[1] is not sha256:");
    let answer = server.advertise(with(vec!["k".repeat(256)])).await;
    assert_refused(&answer, 400, "field keys[0] has 256 bytes, the limit is 255");
    let answer = server.sync(with((0..=100_000).map(|n| format!("a:{n}")).collect())).await;
    assert_refused(&answer, 400, "field keys has 100001 entries, the limit is 100000");
    assert_eq!(server.get("/api/v1/status").await.json()["hosts"], json!(0), "nothing was written");

    let many: Vec<String> = (0..100_000).map(digest).collect();
    settled(async || server.sync(with(many.clone())).await).await.expect(201);
    assert_eq!(server.get("/api/v1/status").await.json()["pairs"], json!(100_000));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413() {
    let server = Server::one().await;
    let body = vec![b' '; API_BODY_BYTES_MAX + API_BODY_BYTES_MAX / 2];
    let answer = server.send("POST", WRITES[0], body).await;
    assert_refused(&answer, 413, "over the limit");
    let mut body = plain("10.0.0.1:7781", &[digest(1)]).to_string();
    body.push_str(&" ".repeat(API_BODY_BYTES_MAX - body.len()));
    server.send("POST", WRITES[0], body).await.expect(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_that_are_none_are_refused_in_the_shape_of_findkey() {
    let server = Server::one().await;
    for (query, reason) in [
        ("", "field key is required"),
        ("key=k", "field group is required"),
        ("key=k&group=g&count=x", "field count must be an integer"),
        ("key=k&group=g&count=1.5", "field count must be an integer"),
        ("key=k&group=a%0ab", "field group has white space"),
        ("key=k&group=g&min_index=-1", "field min_index must be an integer"),
        ("key=k&group=g&rank=nearest", "field rank must be prefix"),
    ] {
        let answer = server.get(&format!("/api/v1/distribution/findkey?{query}")).await.expect(400);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with(&format!("Wrong request format: {reason}")), "{query}: {error}");
    }
    for key in ["sha256:xyz", "..%2f..%2fetc%2fpasswd", "%00", "%ff", &"k".repeat(300)] {
        server.find(key, "").await.expect(404);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalives_that_are_none_are_refused() {
    let server = Server::one().await;
    for (body, reason) in [
        (json!({"Group": "g"}), "field host is required"),
        (json!({"host": "10.0.0.1:1"}), "field group is required"),
        (json!({"host": "10.0.0.1:1", "group": "g", "ttl_seconds": 2}), "field ttl_seconds must be 3 to"),
        (json!({"host": "10.0.0.1:1", "group": "g", "zone": "a\nb"}), "field zone has white space"),
        (json!({"host": "10.0.0.1:1", "group": "g", "fingerprint": "x"}), "field fingerprint is not"),
    ] {
        let answer = server.keepalive(body).await;
        assert_refused(&answer, 400, &format!("Wrong request format: {reason}"));
    }
    server.stop().await;
}

/// No epoch or seq above the largest number is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_epochs_are_refused_in_a_write_and_only_compared_in_a_keepalive() {
    let server = Server::one().await;
    let far = json!({"holder": "10.0.0.1:1", "group": "g", "keys": [digest(1)], "epoch": u64::MAX, "seq": 1});
    for path in WRITES {
        let answer = server.post(path, far.clone()).await;
        assert_refused(
            &answer,
            400,
            "field epoch 18446744073709551615 is over the limit of 9007199254740992",
        );
    }
    let heartbeat = json!({"host": "10.0.0.1:1", "group": "g", "epoch": u64::MAX, "seq": 1});
    let answer = server.keepalive(heartbeat).await.expect(201);
    assert_eq!(answer.json()["resync"], json!(true));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_routes_and_methods_are_404() {
    let server = Server::one().await;
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/api/v1/nothing"),
        ("GET", "/api/v1/distribution/..%2fkeepalive"),
        ("GET", WRITES[0]),
        ("DELETE", WRITES[0]),
        ("POST", "/api/v1/distribution/findkey"),
        ("BREW", "/healthz"),
    ] {
        let answer = server.send(method, path, "").await.expect(404);
        assert_eq!(answer.json(), json!({"message": "404 page not found"}), "{method} {path}");
    }
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains(r#"route="unmatched",method="GET",status="404""#), "{metrics}");
    assert!(metrics.contains(r#"method="other""#) && !metrics.contains("BREW"), "{metrics}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_for_others_takes_no_holder_that_others_cannot_reach() {
    let server = Server::with(|config| config.listen = "0.0.0.0:0".parse().unwrap()).await;
    for holder in ["127.0.0.1:7781", "[::1]:7781", "0.0.0.0:7781", "169.254.0.1:7781", "[fe80::1]:7781"] {
        let answer = server.advertise(plain(holder, &[digest(1)])).await;
        assert_refused(&answer, 400, "Wrong request format: field holder is a");
        let answer = server.keepalive(json!({"host": holder, "Group": "default"})).await;
        assert_refused(&answer, 400, "Wrong request format: field host is a");
    }
    server.advertise(plain("10.0.0.1:7781", &[digest(1)])).await.expect(201);
    server.stop().await;
}
