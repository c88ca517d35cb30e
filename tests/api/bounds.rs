//! Excessive requests of a client: each is limited and gets a clear answer, and other clients are not
//! affected.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use piccolo::api::WriteRequest;
use piccolo::api::client::Client;
use piccolo::limits::{
    FULL_RETRY_AFTER_SECONDS, HIDES_PER_GROUP_MIN, INDEX_GROUPS_MAX, REQUEST_KEYS_MAX, SYNC_BURST, SYNC_EVERY,
};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, digest, paired, settled, within};

/// Number of concurrent requests.
const AT_ONCE: usize = 64;

fn in_group(group: &str, holder: &str, keys: &[String], seq: u64) -> Value {
    json!({"holder": holder, "group": group, "keys": keys, "epoch": 5, "seq": seq})
}

fn heartbeat(group: &str, holder: &str) -> Value {
    json!({"host": holder, "group": group, "ttl_seconds": 3, "epoch": 5, "seq": 1})
}

async fn status(server: &Server, field: &str) -> u64 {
    server.get("/api/v1/status").await.json()[field].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_sync_is_taken_while_others_write() {
    let server = Server::one().await;
    let many: Vec<String> = (0..REQUEST_KEYS_MAX as u32).map(digest).collect();
    let large = paired("10.0.0.1:7781", &many, 5, 1);
    let start = Instant::now();
    let (mut others, mut slowest) = (0, Duration::ZERO);
    let answer = {
        let mut sync = std::pin::pin!(settled(async || server.sync(large.clone()).await));
        loop {
            let sent = Instant::now();
            let body = paired("10.0.0.2:7781", &[digest(others)], 5, others.into());
            tokio::select! {
                answer = &mut sync => break answer,
                answer = server.advertise(body) => { answer.expect(201); }
            }
            others += 1;
            slowest = slowest.max(sent.elapsed());
        }
    };
    answer.expect(201);
    assert!(start.elapsed() < PATIENCE);
    assert!(others > 0, "others wait for the sync");
    assert!(slowest < Duration::from_secs(10), "others wait for {slowest:?}");
    // The last request may have been dropped in its middle.
    let pairs = status(&server, "pairs").await;
    assert!(pairs >= u64::from(others) + REQUEST_KEYS_MAX as u64, "{pairs} pairs");
    let one_more: Vec<String> = (0..=REQUEST_KEYS_MAX as u32).map(digest).collect();
    let answer = server.sync(paired("10.0.0.1:7781", &one_more, 5, 2)).await.expect(400);
    assert!(answer.text.contains("field keys has 100001 entries, the limit is 100000"), "{answer:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_name_without_end_is_refused_everywhere_with_field_and_limit() {
    let server = Server::one().await;
    let reason = "field group is longer than 64 bytes";
    let group = "g".repeat(64 * 1024);
    for path in ["advertise", "withdraw", "sync"] {
        let path = format!("/api/v1/distribution/{path}");
        let answer = server.post(&path, in_group(&group, "10.0.0.1:1", &[digest(1)], 1)).await.expect(400);
        assert!(answer.text.contains(reason), "{answer:?}");
    }
    // The body of a keepalive is not read that far.
    let answer = server.keepalive(heartbeat(&group, "10.0.0.1:1")).await.expect(413);
    assert!(answer.text.contains("request body is over the limit of 65536 bytes"), "{answer:?}");
    let answer = server.keepalive(heartbeat(&group[..60_000], "10.0.0.1:1")).await.expect(400);
    assert!(answer.text.contains(reason), "{answer:?}");
    let report = json!({"host": "10.0.0.1:1", "holder": "10.0.0.2:1", "group": group, "key": digest(1),
                        "reason": "unreachable"});
    let answer = server.post("/api/v1/distribution/report", report).await.expect(400);
    assert!(answer.text.contains(reason), "{answer:?}");
    for path in ["/api/v1/hosts?group=", "/api/v1/distribution/findkey?key=k&group="] {
        let answer = server.get(&format!("{path}{}", &group[..60_000])).await.expect(400);
        assert!(answer.text.contains(reason), "{answer:?}");
    }
    assert_eq!(status(&server, "hosts").await, 0);
    server.stop().await;
}

/// No URL may be that long: it is refused before anything parses it.
#[tokio::test(flavor = "multi_thread")]
async fn a_url_without_end_is_refused_and_the_server_goes_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::one().await;
    let mut wire = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = format!("GET /api/v1/hosts?group={} HTTP/1.1\r\nHost: x\r\n\r\n", "g".repeat(70_000));
    // The server may close the connection before everything is sent.
    wire.write_all(head.as_bytes()).await.ok();
    let mut answer = [0; 12];
    wire.read_exact(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(["HTTP/1.1 414", "HTTP/1.1 431"].contains(&answer.as_str()), "{answer}");
    server.get("/api/v1/hosts").await.expect(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn distinct_groups_have_a_limit_and_who_is_there_goes_on() {
    let server = Server::one().await;
    let over = 2 * AT_ONCE as u64;
    // Reuses its connections: as many new ones would take the ports of other tests.
    let client = Client::new(vec![format!("http://{}", server.address)]).unwrap();
    let advertise = |n: u64| {
        let request = WriteRequest {
            holder: "10.0.0.1:7781".to_owned(),
            group: format!("g{n}"),
            keys: vec![digest(1)],
            epoch: Some(5),
            seq: Some(1),
            zone: None,
            ttl_seconds: None,
        };
        let client = &client;
        async move {
            match client.advertise(&request, PATIENCE).await {
                Ok(answer) => answer.success,
                Err(error) if error.is_full() => false,
                Err(error) => panic!("group {n}: {error}"),
            }
        }
    };
    let taken = stream::iter(0..INDEX_GROUPS_MAX + over).map(advertise).buffer_unordered(AT_ONCE);
    let taken = taken.filter(|taken| std::future::ready(*taken)).count().await as u64;
    // Concurrent writes may exceed the limit by their own number.
    let most = AT_ONCE as u64;
    assert!((INDEX_GROUPS_MAX..=INDEX_GROUPS_MAX + most).contains(&taken), "{taken} were taken");
    assert!((INDEX_GROUPS_MAX..=INDEX_GROUPS_MAX + most).contains(&status(&server, "hosts").await));

    let answer = server.advertise(in_group("one-more", "10.0.0.1:7781", &[digest(1)], 1)).await.expect(507);
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert_eq!(
        message,
        format!("could not add to the index: the index holds {INDEX_GROUPS_MAX} groups, the limit")
    );
    let again: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(FULL_RETRY_AFTER_SECONDS.contains(&again), "{again}");
    assert_eq!(answer.header("piccolo-full"), Some("index"));
    let sync = server.sync(in_group("one-more", "10.0.0.1:7781", &[], 1)).await;
    sync.expect(507);
    let answer = server.keepalive(heartbeat("one-more", "10.0.0.1:7781")).await.expect(201);
    assert_eq!(answer.json()["resync"], json!(true), "a keepalive makes no group");

    server.advertise(in_group("g7", "10.0.0.1:7781", &[digest(2)], 2)).await.expect(201);
    server.advertise(in_group("g7", "10.0.0.2:7781", &[digest(2)], 1)).await.expect(201);
    server.keepalive(heartbeat("g7", "10.0.0.1:7781")).await.expect(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_syncs_in_a_loop_is_slowed_down_and_no_other() {
    let server = Server::one().await;
    let keys = [digest(1)];
    let start = Instant::now();
    let (mut taken, mut refused) = (0, None);
    for seq in 1..1_000 {
        let answer = server.sync(paired("10.0.0.1:7781", &keys, 5, seq)).await;
        if answer.status == 503 {
            refused = Some(answer);
            break;
        }
        answer.expect(201);
        taken += 1;
    }
    let refused = refused.expect("a loop is slowed down");
    let refilled = start.elapsed().as_secs_f64() / SYNC_EVERY.as_secs_f64();
    assert!(f64::from(taken) <= f64::from(SYNC_BURST) + refilled + 1.0, "{taken} were taken");
    assert!(taken >= SYNC_BURST as i32, "only {taken} were taken");
    assert!(refused.text.contains("syncs too often"), "{refused:?}");
    let again: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=5).contains(&again), "{again}");

    let start = Instant::now();
    // Other requests, including an advertise of the same holder, are served.
    server.advertise(paired("10.0.0.1:7781", &[digest(2)], 6, 1)).await.expect(201);
    server.sync(paired("10.0.0.2:7781", &keys, 5, 1)).await.expect(201);
    let applied = status(&server, "applied_index").await;
    let loops = (0..200).map(|seq| server.sync(paired("10.0.0.1:7781", &keys, 7, seq)));
    let answers: Vec<_> = stream::iter(loops).buffered(8).collect().await;
    let refilled = start.elapsed().as_secs_f64() / SYNC_EVERY.as_secs_f64() + 1.0;
    let grown = status(&server, "applied_index").await - applied;
    assert!(grown as f64 <= refilled, "the log grew by {grown}");
    assert!(answers.iter().filter(|answer| answer.status == 503).count() as f64 >= 200.0 - refilled);
    within(PATIENCE, async || {
        (server.sync(paired("10.0.0.1:7781", &keys, 8, 1)).await.status == 201).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_hosts_end_together_goes_dark_slowly_and_comes_back_at_once() {
    const HOSTS: usize = 50;
    let server = Server::one().await;
    let holders: Vec<String> = (1..=HOSTS).map(|n| format!("10.0.0.{n}:7781")).collect();
    let heartbeats = || {
        let heartbeats = stream::iter(&holders).map(|holder| server.keepalive(heartbeat("default", holder)));
        heartbeats.buffer_unordered(AT_ONCE).collect::<Vec<_>>()
    };
    let writes = stream::iter(&holders).map(|holder| server.advertise(paired(holder, &[digest(1)], 5, 1)));
    for answer in writes.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
        answer.expect(201);
    }
    for answer in heartbeats().await {
        assert_eq!(answer.expect(201).json()["resync"], json!(false));
    }
    // The last time at which certainly nobody was hidden, however late the answers come.
    let mut before_first = Instant::now();
    within(PATIENCE, async || {
        let asked = Instant::now();
        match status(&server, "hosts_hidden").await {
            0 => before_first = asked,
            hidden => return (hidden == HOSTS as u64).then_some(()),
        }
        None
    })
    .await;
    // The first budget is spent at once, each further one a second later.
    let least = Duration::from_secs((HOSTS / HIDES_PER_GROUP_MIN - 1) as u64) - Duration::from_millis(200);
    assert!(before_first.elapsed() >= least, "all hidden after {:?}", before_first.elapsed());

    for answer in heartbeats().await {
        assert_eq!(answer.expect(201).json()["resync"], json!(false), "nobody sends its list again");
    }
    assert_eq!(status(&server, "hosts_hidden").await, 0);
    assert_eq!(server.holders(&digest(1)).await.len(), HOSTS);
    server.stop().await;
}
