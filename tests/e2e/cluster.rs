//! Three servers of `piccolo up` that are killed and restarted, and never lose an acknowledged write.

use std::time::{Duration, Instant};

use piccolo::api::client::Client;
use piccolo::api::{FindQuery, KeepaliveRequest};
use piccolo::limits::LEASE_SECONDS_MIN;
use rustix::process::Signal;

use crate::harness::{Agent, Image, SOON, Servers, find, find_if_up, http, keys_of, never_for, within};

/// Writes are possible again within 2 s of a leader's kill on an idle machine; three times that here.
const WRITES_AGAIN: Duration = Duration::from_secs(2 * 3);
/// Time until writes are possible again after a leader froze: its connections stay open, so that only the
/// election shows it.
const OVERTAKEN: Duration = Duration::from_secs(4 * 3);
const HOLDER: &str = "127.0.0.1:4001";

fn key(number: usize) -> String {
    format!("registry.example/app:v{number}")
}

/// Advertises one key, at any server, with retries at the next ones until the deadline.
async fn advertise(client: &Client, seq: u64, key: String, deadline: Duration) {
    let request = keys_of(HOLDER, Some((1, seq)), &[key]);
    within("the write is acknowledged", deadline, || async {
        client.advertise(&request, Duration::from_secs(1)).await.ok().filter(|answer| answer.success)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_loses_what_was_acknowledged_and_writes_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let everyone = Client::new(servers.urls()).unwrap();
    let mut written = 0;
    for round in 0..4 {
        for _ in 0..20 {
            written += 1;
            advertise(&everyone, written as u64, key(written), SOON).await;
        }
        // Kills the leader twice, otherwise a follower: any server can be killed at any time.
        let leader = servers.leader().await;
        let victim = if round % 2 == 0 { leader } else { leader % 3 + 1 };
        servers.signal(victim, Signal::KILL);
        let killed = Instant::now();
        written += 1;
        let others: Vec<String> =
            (1..=3).filter(|number| *number != victim).map(|n| servers.urls()[n - 1].clone()).collect();
        advertise(&Client::new(others).unwrap(), written as u64, key(written), WRITES_AGAIN).await;
        assert!(killed.elapsed() <= WRITES_AGAIN, "writes went on after {:?}", killed.elapsed());
    }
    for number in 1..=3 {
        let client = servers.client(number);
        for written in 1..=written {
            within(&format!("key {written} on server {number}"), SOON, || async {
                let found = find_if_up(&client, &key(written)).await?;
                (found == [HOLDER]).then_some(())
            })
            .await;
        }
    }
    same_state(&servers).await;
}

/// Checks I2: equal checksums at equal log indices on all three servers.
async fn same_state(servers: &Servers) {
    within("three equal checksums at one log index", SOON, || async {
        let mut seen = Vec::new();
        for number in 1..=3 {
            let status = servers.client(number).status(Duration::from_secs(1)).await.ok()?;
            seen.push((status.applied_index, status.checksum));
        }
        let same_index = seen.iter().all(|(index, _)| *index == seen[0].0);
        assert!(!same_index || seen.iter().all(|(_, sum)| *sum == seen[0].1), "states differ: {seen:?}");
        same_index.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn started_again_it_finds_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let base_port = servers.base_port;
    let cluster = servers.client(1).status(SOON).await.unwrap().cluster;
    advertise(&servers.client(1), 1, key(1), SOON).await;
    assert!(servers.up.stop().success(), "SIGTERM ends `up` with success");

    let servers = Servers::up_at(folder.path(), base_port).await;
    assert_eq!(servers.client(2).status(SOON).await.unwrap().cluster, cluster);
    for number in 1..=3 {
        let client = servers.client(number);
        within("the key is there again", SOON, || async {
            (find(&client, &key(1)).await == [HOLDER]).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_writes_are_refused_clearly_and_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    advertise(&servers.client(1), 1, key(1), SOON).await;
    let survivor = servers.leader().await;
    let client = servers.client(survivor);
    let others: Vec<usize> = (1..=3).filter(|number| *number != survivor).collect();
    // Stopped instead of killed, because `up` would start a killed one again.
    others.iter().for_each(|number| servers.signal(*number, Signal::STOP));

    let url = format!("{}/api/v1/distribution/advertise", servers.urls()[survivor - 1]);
    let body = serde_json::to_string(&keys_of(HOLDER, Some((1, 2)), &[key(2)])).unwrap();
    let http = http();
    let refused = within("a write is refused with 503", SOON, || async {
        let answer = http.post(&url).body(body.clone()).send().await.unwrap();
        (answer.status() == 503).then_some(answer)
    })
    .await;
    assert!(refused.headers().contains_key("retry-after"), "{:?}", refused.headers());
    assert_eq!(find(&client, &key(1)).await, [HOLDER]);

    others.iter().for_each(|number| servers.signal(*number, Signal::CONT));
    advertise(&client, 3, key(3), SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_for_a_frozen_leader_goes_to_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    advertise(&servers.client(1), 1, key(1), SOON).await;
    let leader = servers.leader().await;
    let other = servers.client(leader % 3 + 1);
    servers.signal(leader, Signal::STOP);
    let frozen = Instant::now();
    // One request: the server repeats it.
    let written = other.advertise(&keys_of(HOLDER, Some((1, 2)), &[key(2)]), SOON).await;
    let took = frozen.elapsed();
    servers.signal(leader, Signal::CONT);
    assert!(written.as_ref().is_ok_and(|answer| answer.success), "{written:?} after {took:?}");
    assert!(took <= OVERTAKEN, "acknowledged after {took:?}");
    for number in 1..=3 {
        let client = servers.client(number);
        within("the write is on every server", SOON, || async {
            (find_if_up(&client, &key(2)).await? == [HOLDER]).then_some(())
        })
        .await;
    }
}

/// Sends heartbeats with the shortest lease twice a second, at any server that answers, without end.
async fn send_heartbeats(servers: &Servers) {
    let everyone = Client::new(servers.urls()).unwrap();
    let heartbeat = KeepaliveRequest {
        host: HOLDER.to_owned(),
        group: "default".to_owned(),
        ttl_seconds: Some(LEASE_SECONDS_MIN),
        epoch: Some(1),
        seq: Some(1),
        ..KeepaliveRequest::default()
    };
    loop {
        // A failed heartbeat is accepted; the next one goes to another server.
        everyone.keepalive(&heartbeat, Duration::from_secs(1)).await.ok();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Asserts for `time` that no answering server has lost the holder, while it sends heartbeats.
async fn stays_for(servers: &Servers, time: Duration) {
    let end = Instant::now() + time;
    let looks = async {
        while Instant::now() < end {
            for number in 1..=3 {
                let query = FindQuery { key: key(1), group: "default".to_owned(), ..FindQuery::default() };
                // A stopped server does not answer.
                if let Ok(found) = servers.client(number).find(&query, Duration::from_millis(300)).await {
                    assert!(found.is_some(), "server {number} has lost the holder");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // Heartbeats do not wait for the checks, because the lease is short.
    tokio::select! {
        () = looks => {}
        () = send_heartbeats(servers) => {}
    }
}

/// Longer than a lease: a new leader gives every holder a full lease, and the old one no longer leads when it
/// continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_for_longer_than_a_lease_hides_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    advertise(&servers.client(1), 1, key(1), SOON).await;
    let asleep = Duration::from_secs(LEASE_SECONDS_MIN.into()) * 2;
    stays_for(&servers, Duration::from_secs(1)).await;
    let leader = servers.leader().await;
    servers.signal(leader, Signal::STOP);
    stays_for(&servers, asleep).await;
    servers.signal(leader, Signal::CONT);
    stays_for(&servers, asleep).await;
}

/// No heartbeat was possible meanwhile. The next leader was stopped itself, and extends all leases by that
/// time.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_all_stopped_for_longer_than_a_lease_hide_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    advertise(&servers.client(1), 1, key(1), SOON).await;
    let asleep = Duration::from_secs(LEASE_SECONDS_MIN.into()) * 2;
    stays_for(&servers, Duration::from_secs(1)).await;
    (1..=3).for_each(|number| servers.signal(number, Signal::STOP));
    tokio::time::sleep(asleep).await;
    (1..=3).for_each(|number| servers.signal(number, Signal::CONT));
    stays_for(&servers, asleep).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_leaves_all_answers_after_its_lease_and_comes_back_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 20, &[1000]);
    let layout = ["--layout", image.folder.to_str().unwrap()];
    let agent = Agent::start(folder.path(), &servers.urls(), &layout);
    agent.ready().await;
    let (holder, digest) = (agent.holder(), image.layers[0].to_string());
    let held_by = |number: usize| {
        let client = servers.client(number);
        let (holder, digest) = (holder.clone(), digest.clone());
        async move { find(&client, &digest).await.contains(&holder) }
    };
    for number in 1..=3 {
        within("the layer is findable", SOON, || async { held_by(number).await.then_some(()) }).await;
    }

    // The heartbeat is 2 s, so that the lease is 6 s: a living holder stays visible for longer than that.
    never_for("a living holder is hidden", Duration::from_secs(8), || async { !held_by(1).await }).await;
    agent.process.signal_all(Signal::STOP);
    for number in 1..=3 {
        within("a dead holder is hidden", Duration::from_secs(6 + 20), || async {
            (!held_by(number).await).then_some(())
        })
        .await;
    }
    agent.process.signal_all(Signal::CONT);
    for number in 1..=3 {
        within("it is findable again", Duration::from_secs(20), || async {
            held_by(number).await.then_some(())
        })
        .await;
    }
}
