//! The real binary: servers that may lack what the others have, names with several servers, and a leader that
//! is slow for a moment.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/site.rs"]
mod site;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use piccolo::api::FindQuery;
use piccolo::api::client::Client;
use piccolo::api::header::{ASKS_OTHERS, BEHIND};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use cluster::{BRIEFLY, Server, binary, founded, three};
use site::{Agent, Answer, Layout, SOON, Setup, ask, get, noise, within};

const HOLDER: &str = "127.0.0.9:7781";
/// Number of keys in one write, each near the length limit: an eighth of a megabyte in the log.
const KEYS: usize = 500;
/// Number of writes: more than the 4 MiB that a server without room still stores.
const WRITES: usize = 48;
/// A key that is advertised after the server has stopped storing.
const LATE: &str = "registry.example/late:1";

fn address(server: &Server) -> SocketAddr {
    server.api_address().parse().unwrap()
}

/// A findkey of a client that asks other servers itself, or of one that cannot.
async fn find_raw(server: &Server, key: &str, asks_others: bool) -> Answer {
    let target = format!("/api/v1/distribution/findkey?group=default&key={key}");
    let headers = if asks_others { &[(ASKS_OTHERS, "1")][..] } else { &[] };
    ask(address(server), "GET", &target, headers).await.unwrap()
}

async fn find(client: &Client, key: &str) -> Vec<String> {
    let query = FindQuery { key: key.to_owned(), group: "default".to_owned(), ..FindQuery::default() };
    let found = client.find(&query, SOON).await.unwrap();
    found.map(|found| found.holders).unwrap_or_default()
}

fn urls<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Vec<String> {
    servers.into_iter().map(Server::url).collect()
}

/// Writes until the first server, which has no room, stores nothing more, and the others have more. It stores
/// everything as long as it leads.
async fn fill(servers: &[Server]) {
    within("the first server has handed over", SOON, async || {
        let status = servers[0].status().await?;
        (status.leader.is_some_and(|leader| leader != status.node)).then_some(())
    })
    .await;
    for write in 0..WRITES {
        let key = |n| format!("registry.example/{}:{write}-{n}", "x".repeat(220));
        servers[1].advertise("127.0.0.9:7782", (0..KEYS).map(key).collect()).await;
    }
    servers[1].advertise(HOLDER, vec![LATE.to_owned()]).await;
    within("the others have it", SOON, async || {
        let holders = servers[2].holders(LATE).await?;
        (holders == [HOLDER]).then_some(())
    })
    .await;
}

/// Seen at a site: one of three servers had a low disk and stored no more entries. It answered 404 for what
/// the others had, was ready, and so sent a third of the fleet to the registry.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_is_no_last_word_and_not_ready_where_others_serve() {
    let root = tempfile::tempdir().unwrap();
    let how = |n| if n == 0 { vec!["--disk-free-min", "900TiB"] } else { vec!["--disk-free-min", "0"] };
    let mut servers = founded((0..3).map(|n| Server::new(root.path(), &how(n))).collect()).await;
    fill(&servers).await;

    let low = &servers[0];
    let status = within("it knows that it is behind", SOON, async || {
        low.status().await.filter(|status| !status.current)
    })
    .await;
    assert!(status.reasons.iter().any(|reason| reason.contains("the others have committed")), "{status:?}");
    let marked = find_raw(low, LATE, true).await;
    assert_eq!((marked.status, marked.header(BEHIND)), (404, Some("1")), "{}", marked.text());
    // A Go `pi` has one address and asks no other server.
    let for_pi = find_raw(low, LATE, false).await;
    assert!(for_pi.status == 200 && for_pi.text().contains(HOLDER), "{}", for_pi.text());
    let nobody = find_raw(low, "registry.example/nobody:1", false).await;
    assert_eq!((nobody.status, nobody.header(BEHIND)), (404, None), "the others have said so");
    let old = find_raw(low, &format!("registry.example/{}:0-0", "x".repeat(220)), true).await;
    assert_eq!((old.status, old.header(BEHIND)), (200, None), "what it has is useful");

    let ready = within("it is not ready", SOON, async || {
        get(address(low), "/readyz").await.ok().filter(|answer| answer.status == 503)
    })
    .await;
    assert!(
        ready.text().contains("answers lookups") && ready.text().contains("the disk is low"),
        "{ready:?}"
    );
    assert_eq!(get(address(&servers[1]), "/readyz").await.unwrap().status, 200);
    assert_eq!(get(address(low), "/api/v1/hosts").await.unwrap().header(BEHIND), Some("1"));

    let everyone = Client::new(urls(&servers)).unwrap();
    assert_eq!(find(&everyone, LATE).await, [HOLDER], "the first server has said 404");
    let hosts = everyone.hosts(None, SOON).await.unwrap().hosts;
    assert!(hosts.iter().any(|host| host.holder == HOLDER), "{hosts:?}");

    // A survivor of a power cut continues with what it has, and says that it may be incomplete.
    let [low, others @ ..] = &mut servers[..] else { unreachable!("three") };
    others.iter_mut().for_each(Server::kill);
    let ready = within("it is ready", SOON, async || {
        let ready = get(address(low), "/readyz").await.ok().filter(|ready| ready.status == 200)?;
        ready.text().contains("no leader with a quorum is known").then_some(ready)
    })
    .await;
    assert!(ready.text().contains("\"ready\":true"), "{}", ready.text());
    assert_eq!(find(&everyone, LATE).await, [""; 0], "nobody is the answer of a site without a quorum");
    assert_eq!(find_raw(low, LATE, false).await.header(BEHIND), Some("1"));
    let found = binary().args(["find", LATE, "--server", &low.url()]).output().unwrap();
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.code() == Some(3) && said.contains("is sure of this"), "{found:?}");
}

/// A server that was cut off, and one that was paused: later writes are on the others only.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hears_no_leader_is_no_last_word_until_it_has_caught_up() {
    let root = tempfile::tempdir().unwrap();
    let mut servers = three(root.path()).await;
    servers[0].kill();
    for n in 0..20 {
        servers[1].advertise(HOLDER, vec![format!("registry.example/meanwhile:{n}")]).await;
    }
    // The server is alone with its state; the others run and do not answer.
    for server in &servers[1..] {
        signal(server, Signal::STOP);
    }
    servers[0].start();
    let key = "registry.example/meanwhile:19";
    let alone = within("an answer", SOON, async || {
        let target = format!("/api/v1/distribution/findkey?group=default&key={key}");
        let answer = tokio::time::timeout(BRIEFLY, get(address(&servers[0]), &target)).await.ok()?.ok()?;
        (answer.status != 503).then_some(answer)
    })
    .await;
    assert_eq!((alone.status, alone.header(BEHIND)), (404, Some("1")), "{}", alone.text());
    within("it is ready", SOON, async || {
        get(address(&servers[0]), "/readyz").await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    for server in &servers[1..] {
        signal(server, Signal::CONT);
    }
    // From here on a 404 without the mark would be wrong.
    within("it has caught up", SOON, async || {
        let answer = find_raw(&servers[0], key, true).await;
        assert!(answer.status == 200 || answer.header(BEHIND).is_some(), "{}", answer.text());
        (answer.status == 200).then_some(())
    })
    .await;
    within("it is current", SOON, async || servers[0].status().await.filter(|status| status.current)).await;
}

fn signal(server: &Server, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap(), signal).unwrap();
}

/// Connections to `address` (127.0.0.1).
fn connections_to(address: SocketAddr) -> usize {
    let there = format!("0100007F:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().filter(|line| line.split_whitespace().nth(2) == Some(&there)).count()
}

/// When a whole fleet comes back at once, agents time out and close their connections. Each of them closed a
/// connection between its server and the leader, and the next keepalive needed a new one, which waited behind
/// the leader's own clients.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_cost_their_server_no_connection_to_the_leader() {
    const AT_ONCE: usize = 40;
    const TIMES: usize = 5;
    let root = tempfile::tempdir().unwrap();
    let servers = three(root.path()).await;
    servers[0].advertise(HOLDER, vec![LATE.to_owned()]).await;
    let leader = within("a leader", SOON, async || {
        let status = servers[0].status().await?;
        servers.iter().position(|server| {
            status.members.iter().any(|member| {
                status.leader.as_deref() == Some(&member.node) && member.api_address == server.api_address()
            })
        })
    })
    .await;
    let follower = address(&servers[(leader + 1) % 3]);
    let leader = &servers[leader];
    let heartbeat = format!(r#"{{"host":"{HOLDER}","Group":"default"}}"#);
    let request = format!(
        "POST /api/v1/keepalive HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{heartbeat}",
        heartbeat.len()
    );
    let before = connections_to(address(leader));
    for _ in 0..TIMES {
        // For less than an election takes.
        signal(leader, Signal::STOP);
        let mut clients = Vec::new();
        for _ in 0..AT_ONCE {
            let mut client = TcpStream::connect(follower).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            clients.push(client);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(clients);
        tokio::time::sleep(Duration::from_millis(50)).await;
        signal(leader, Signal::CONT);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let more = connections_to(address(leader)).saturating_sub(before);
    println!("{} clients left, {more} connections more", AT_ONCE * TIMES);
    assert!((AT_ONCE / 2..2 * AT_ONCE).contains(&more), "of {AT_ONCE} connections {more} were kept");
}

/// One name for all servers, like a headless Service. If the server at the first address was frozen, every
/// agent stayed with it.
#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_a_name_is_tried_by_agents_and_by_the_command_line() {
    let root = tempfile::tempdir().unwrap();
    let mut servers: Vec<Server> = (0..3).map(|_| Server::new(root.path(), &[])).collect();
    let api = servers[0].api;
    for (server, host) in servers.iter_mut().zip(["127.0.0.2", "127.0.0.3", "127.0.0.4"]) {
        (server.host, server.api) = (host, api);
    }
    let servers = founded(servers).await;

    let hosts = root.path().join("hosts");
    let lines = servers.iter().map(|server| format!("{} servers.example\n", server.host));
    fs::write(&hosts, format!("127.0.0.1 localhost\n{}", lines.collect::<String>())).unwrap();
    let bind = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let in_site = ["unshare", "--mount", "sh", "-c", &bind, "sh"];
    let url = format!("http://servers.example:{api}");
    // The order of the addresses depends on the resolver.
    for frozen in &servers {
        signal(frozen, Signal::STOP);
        let layout = Layout::empty();
        let blob = layout.put(&noise(u64::from(frozen.raft), 1_000));
        let setup = Setup {
            servers: vec![url.clone()],
            layout: Some(layout.path()),
            launcher: &in_site,
            ..Setup::default()
        };
        let agent = Agent::start(setup).await;
        agent.synced().await;
        // Seen once on a busy machine: no address was known in the time of the command.
        within("it is found", SOON, async || {
            let mut command = Command::new(in_site[0]);
            command.args(&in_site[1..]).arg(binary().get_program());
            command.args(["find", &blob.to_string(), "--server", &url]);
            let found = tokio::process::Command::from(command).kill_on_drop(true).output().await.unwrap();
            let text = String::from_utf8_lossy(&found.stdout).into_owned();
            (found.status.success() && text.contains(&agent.peer.to_string())).then_some(())
        })
        .await;
        signal(frozen, Signal::CONT);
        within("it is back", SOON, async || frozen.status().await.filter(|status| status.current)).await;
    }
}
