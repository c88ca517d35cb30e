//! The real binary with full disks: small file systems that each test mounts, as root.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "../support/ports.rs"]
mod ports;
mod servers;
mod volume;

use std::time::{Duration, Instant};

use serde_json::json;

use servers::{BRIEFLY, HOLDER, Lookups, SOON, Server, Writer, agree, leader, poll, servers, within};
use volume::MIB;

const VOLUME: u64 = 128 * MIB;
const MINIMUM_MIB: f64 = 32.0;
const MINIMUM: &str = "32MiB";
/// Free space below the minimum, and above what makes a server release its ballast, bytes. A leader writes on
/// until it has handed over, several MiB at the pace of [`HAND_OVER_PACE`].
const LOW: u64 = 16 * MIB;
/// Number of writes beyond what a low disk still stores, which is a sixteenth of the minimum.
const MANY: u64 = 240;
/// Pause between two writes while a leader hands over: a disk of this size would be full within half a second
/// without it.
const HAND_OVER_PACE: Duration = Duration::from_millis(20);
/// Time for what happens at one of the next two checks: a second or two on an idle machine.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Posts one key of another holder to this server.
async fn advertise(server: &Server, key: &str) -> (u16, Option<u64>, String) {
    let body = json!({"holder": "127.0.0.1:4002", "group": "default", "keys": [key]});
    server.post("/api/v1/distribution/advertise", &body).await
}

/// Polls until this server answers 507; returns the message. Before that, the leadership may be transferred.
async fn refused(server: &Server) -> String {
    refused_for(server, |_| true).await
}

/// Polls until a refusal has the expected reason: a leader refuses before it knows all disks, and its data
/// about them is a second old.
async fn refused_for(server: &Server, is_reason: impl Fn(&str) -> bool) -> String {
    let mut last = None;
    let seen = poll(AT_ONCE, async || {
        let (status, retry_after, text) = advertise(server, "registry.example/refused:1").await;
        assert!([201, 503, 504, 507].contains(&status), "{status} {text}");
        if status == 507 {
            assert!(retry_after.is_some_and(|seconds| (5..=15).contains(&seconds)), "{retry_after:?}");
        }
        let found = (status == 507 && is_reason(&text)).then(|| text.clone());
        last = Some((status, text));
        found
    })
    .await;
    seen.unwrap_or_else(|| panic!("no such refusal within {AT_ONCE:?}; the last answer: {last:?}"))
}

/// What a refusal says about the disk of this folder: free MiB, and the text of the minimum. The servers
/// write on a low disk, too, so that the free space has no exact value.
fn disk_in<'a>(text: &'a str, folder: &str) -> Option<(f64, &'a str)> {
    let (_, rest) = text.split_once(&format!("{folder}/data has "))?;
    let (free, rest) = rest.split_once(" free, the minimum is ")?;
    let (free, unit) = free.split_once(' ')?;
    let free: f64 = free.parse().ok()?;
    let free_mib = match unit {
        "MiB" => free,
        "KiB" => free / 1024.0,
        _ => return None,
    };
    Some((free_mib, rest.split([';', ')', '"']).next()?))
}

async fn keepalive(server: &Server) -> u16 {
    server.post("/api/v1/keepalive", &json!({"host": HOLDER, "group": "default"})).await.0
}

async fn applied(server: &Server) -> u64 {
    server.status().await.unwrap().applied_index
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_its_server_the_lead_and_the_entries_and_clients_nothing() {
    let servers = servers(3, VOLUME, MINIMUM).await;
    let mut writer = Writer::on(&servers);
    writer.write().await.unwrap();
    agree(&servers, 1).await;
    let lookups = Lookups::on(&servers);

    let full = leader(&servers).await;
    servers[full].volume.fill_up_to(LOW);
    let begun = Instant::now();
    let leads = async || {
        let leading = leader(&servers).await;
        (leading != full).then_some(leading)
    };
    let mut leading = None;
    while leading.is_none() {
        writer.write().await.expect("writes go on during the hand-over");
        tokio::time::sleep(HAND_OVER_PACE).await;
        leading = leads().await;
        assert!(begun.elapsed() < AT_ONCE, "another server leads");
    }
    println!("handed over within {:?}", begun.elapsed());
    let leading = leading.unwrap();
    for _ in 0..MANY {
        writer.write().await.expect("writes go on without the full server");
    }

    let address = format!("127.0.0.1:{}", servers[full].raft);
    let low = |status: &piccolo::api::StatusResponse| {
        let member = status.members.iter().find(|member| member.raft_address == address).unwrap();
        member.disk.as_ref().is_some_and(|disk| disk.low)
    };
    // A new leader asks the others for their disks once a second.
    let shown = within("the leader shows the full disk", AT_ONCE, async || {
        servers[leading].status().await.filter(low)
    })
    .await;
    assert!(servers[full].readiness().await.contains("the disk is low, no more entries are stored"));
    assert!(servers[full].get("/metrics").await.contains("piccolo_disk_low 1"));
    let (stored, term) = (applied(&servers[full]).await, shown.term);
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(2) {
        writer.write().await.unwrap();
        assert_eq!(applied(&servers[full]).await, stored, "the full server stores more");
    }

    servers[full].volume.clear();
    let begun = Instant::now();
    agree(&servers, writer.acknowledged).await;
    println!("all agree {:?} after there was room", begun.elapsed());
    assert_eq!(servers[leading].status().await.unwrap().term, term, "it has cost an election");
    lookups.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_disk_full_lookups_and_keepalives_go_on_through_kills_and_writes_return() {
    let mut servers = servers(3, VOLUME, MINIMUM).await;
    let mut writer = Writer::on(&servers);
    for _ in 0..10 {
        writer.write().await.unwrap();
    }
    agree(&servers, 10).await;
    let lookups = Lookups::on(&servers);
    servers.iter().for_each(|server| server.volume.fill_up_to(LOW));
    for server in &servers {
        let text = refused_for(server, |text| {
            let folders = servers.iter().map(|server| server.volume.path().to_str().unwrap());
            text.contains("the disks of too many servers are low")
                && folders.map(|folder| disk_in(text, folder)).all(|disk| disk.is_some())
        })
        .await;
        for server in &servers {
            let (free_mib, minimum) = disk_in(&text, server.volume.path().to_str().unwrap()).unwrap();
            assert!(free_mib < MINIMUM_MIB && minimum == "32.0 MiB", "{text}");
        }
        assert_eq!(keepalive(server).await, 201);
    }
    lookups.end().await;

    servers.iter().for_each(|server| server.volume.fill_up_to(0));
    servers.iter_mut().for_each(Server::kill);
    servers.iter_mut().for_each(Server::start);
    within("a leader that hears keepalives", SOON, async || {
        let heard = servers[leader(&servers).await].client();
        let heartbeat = piccolo::api::KeepaliveRequest {
            host: HOLDER.to_owned(),
            group: "default".to_owned(),
            ..Default::default()
        };
        heard.keepalive(&heartbeat, BRIEFLY).await.ok()
    })
    .await;
    let lookups = Lookups::on(&servers);
    refused(&servers[0]).await;
    servers.iter().for_each(|server| server.volume.clear());
    let begun = Instant::now();
    writer.write_soon(AT_ONCE).await;
    println!("a write {:?} after there was room", begun.elapsed());
    agree(&servers, writer.acknowledged).await;
    lookups.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_alone_refuses_on_a_full_disk_starts_on_it_and_goes_on_with_room() {
    let mut servers = servers(1, VOLUME, MINIMUM).await;
    let mut writer = Writer::on(&servers);
    for _ in 0..10 {
        writer.write().await.unwrap();
    }
    let server = &mut servers[0];
    let ballast = server.volume.path().join("data/ballast");
    within("the ballast", AT_ONCE, async || ballast.exists().then_some(())).await;
    // A holder that sends nothing after this.
    assert_eq!(advertise(server, "registry.example/left:1").await.0, 201);
    let gone = json!({"host": "127.0.0.1:4002", "group": "default", "ttl_seconds": 3});
    assert_eq!(server.post("/api/v1/keepalive", &gone).await.0, 201);
    server.volume.fill_up_to(LOW);
    let text = refused(server).await;
    assert!(text.starts_with(r#"{"success":false,"message":"could not write: the disk is low: "#), "{text}");
    assert_eq!(keepalive(server).await, 201);
    let moved = json!({"host": HOLDER, "group": "default", "zone": "another", "ttl_seconds": 90});
    let (status, retry_after, text) = server.post("/api/v1/keepalive", &moved).await;
    assert_eq!((status, retry_after.is_some()), (507, true), "a change must be written: {text}");
    assert!(ballast.exists(), "given back while there is room");
    server.at_rest().await;
    server.volume.fill_up_to(0);
    within("the ballast given back", AT_ONCE, async || (!ballast.exists()).then_some(())).await;
    // Longer than its lease.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(server.status().await.unwrap().hosts_hidden, 0);
    assert!(!server.log().contains("could not end a lease"), "leases end, and cannot be written");

    server.kill();
    server.start();
    leader(std::slice::from_ref(server)).await;
    let lookups = Lookups::on([&*server]);
    server.at_rest().await;
    server.volume.fill_up_to(0);
    refused(server).await;
    // With a completely full disk it still answers.
    tokio::time::sleep(Duration::from_secs(3)).await;
    lookups.end().await;
    server.volume.clear();
    let begun = Instant::now();
    writer.write_soon(AT_ONCE).await;
    println!("a write {:?} after there was room", begun.elapsed());
    within("the ballast again", AT_ONCE, async || ballast.exists().then_some(())).await;
    server.kill();
    server.start();
    leader(&servers).await;
    agree(&servers, writer.acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_fills_its_disk_is_purged_and_makes_room_by_itself() {
    let servers = servers(1, 48 * MIB, "16MiB").await;
    let mut writer = Writer::on(&servers);
    let (mut refusals, mut after) = (0, 0);
    let begun = Instant::now();
    // Until there was no room, and then room again.
    while refusals == 0 || after < 100 {
        match writer.write().await {
            Ok(()) if refusals > 0 => after += 1,
            Ok(()) => {}
            Err(error) => {
                assert!(error.to_string().contains("the disk is low"), "{error}");
                refusals += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        assert!(begun.elapsed() < SOON, "{refusals} refusals, {after} writes after them");
    }
    println!("{} writes, {refusals} refusals within {:?}", writer.acknowledged, begun.elapsed());
    assert!(servers[0].log().contains("the raft log was compacted"));
    agree(&servers, writer.acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_a_write_ends_the_server_with_the_reason_and_loses_nothing() {
    let mut servers = servers(1, VOLUME, "0").await;
    let mut writer = Writer::on(&servers);
    let server = &mut servers[0];
    writer.write().await.unwrap();
    server.volume.fill_up_to(2 * MIB);
    let status = within("its end", SOON, async || {
        writer.write().await.ok();
        server.ended()
    })
    .await;
    assert_eq!(status.code(), Some(6), "{}", server.log());
    let data = server.volume.path().join("data");
    let log = server.log();
    // Another thread closes the raft log meanwhile, and may log an error after it.
    let reason = format!("piccolo: could not write {}", data.display());
    let reason = log.lines().find(|line| line.starts_with(&reason)).unwrap_or_else(|| panic!("{log}"));
    assert!(reason.contains("No space left on device"), "{reason}");
    assert!(reason.contains("free space on its disk"), "{reason}");
    assert!(writer.acknowledged > 1, "nothing was written before");
    server.volume.clear();
    server.start();
    leader(&servers).await;
    writer.write_soon(AT_ONCE).await;
    agree(&servers, writer.acknowledged).await;
}
