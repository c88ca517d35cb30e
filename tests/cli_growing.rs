//! The real binary with real agents: one server becomes three, and the first one loses its disk.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/site.rs"]
mod site;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::{BRIEFLY, Server, agree, refused, run, succeeded};
use serde_json::Value;
use site::{Agent, Layout, SOON, Setup, Wire, get, head, within};
use tempfile::TempDir;

/// Time that a server which is alone in its list listens, and a little longer.
const FOUNDED_AFTER: Duration = Duration::from_secs(7);

/// A first server with default settings, and two that wait for it.
async fn one_and_two(root: &Path) -> Vec<Server> {
    let mut first = Server::new(root, &["--lease-default", "31m"]);
    first.start();
    first.ready().await;
    let join = first.raft_address();
    let mut servers = vec![first];
    for _ in 0..2 {
        let mut server = Server::new(root, &["--join", &join]);
        server.start();
        server.answers().await;
        servers.push(server);
    }
    servers
}

async fn members(server: &Server, words: &[&str]) -> std::process::Output {
    let url = server.url();
    run(["members"].into_iter().chain(words.iter().copied()).chain(["--server", &url])).await
}

/// Three servers in one cluster, added with one command.
async fn grown(root: &Path) -> Vec<Server> {
    let servers = one_and_two(root).await;
    let (second, third) = (servers[1].raft_address(), servers[2].raft_address());
    let said = succeeded(&members(&servers[0], &["add", &second, &third]).await);
    assert!(said.contains(&second) && said.contains(&third) && said.contains("are voters"), "{said}");
    servers
}

fn urls(servers: &[Server]) -> Vec<String> {
    servers.iter().map(Server::url).collect()
}

async fn agent(servers: Vec<String>, layout: &Layout) -> Agent {
    let flags = &["--heartbeat-interval", "1s"];
    Agent::start(Setup { servers, layout: Some(layout.path()), flags, ..Setup::default() }).await
}

/// Status and body of an agent's `/readyz`.
async fn readyz(agent: &Agent) -> (u16, String) {
    let answer = within("/readyz", SOON, async || get(agent.metrics, "/readyz").await.ok()).await;
    (answer.status, answer.text())
}

async fn reasons(server: &Server) -> Option<Vec<String>> {
    Some(server.status().await?.reasons)
}

async fn held(server: &Server, digest: &str, agent: &Agent) {
    let own = [agent.peer.to_string()];
    within("what the agent holds", SOON, async || {
        server.holders(digest).await.filter(|holders| *holders == own)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_alone_is_admitted_with_a_warning() {
    let root = TempDir::new().unwrap();
    let servers = one_and_two(root.path()).await;
    let said = succeeded(&members(&servers[0], &["add", &servers[1].raft_address()]).await);
    assert!(said.contains("is a voter; of two voters none may fail: add a third"), "{said}");
    let own = servers[2].raft_address();
    assert!(refused(&members(&servers[0], &["add", &own, &own]).await).contains("are one server"));
}

/// It founded a second cluster within 0.1 s; agents synced to either one, and after their leases the two
/// halves of the site no longer found each other.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_server_that_lost_its_disk_waits_to_be_replaced_and_agents_are_served_meanwhile() {
    let root = TempDir::new().unwrap();
    let mut servers = grown(root.path()).await;
    let cluster = servers[1].ready().await.cluster;
    let (layout, other_layout) = (Layout::empty(), Layout::empty());
    let before = layout.put(b"before").to_string();
    let agents = [agent(urls(&servers), &layout).await, agent(urls(&servers), &other_layout).await];
    for agent in &agents {
        agent.synced().await;
    }
    held(&servers[2], &before, &agents[0]).await;

    servers[0].kill();
    fs::remove_dir_all(&servers[0].folder).unwrap();
    servers[0].start();
    let begun = Instant::now();
    let reason = within("why it waits", SOON, async || {
        let reasons = reasons(&servers[0]).await?;
        reasons.into_iter().find(|reason| reason.contains("this server has no data of it"))
    })
    .await;
    while begun.elapsed() < FOUNDED_AFTER {
        if let Some(status) = servers[0].status().await {
            assert_eq!(status.cluster, "", "a second cluster");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(servers[0].log().contains("this server has no data of it"), "{}", servers[0].log());

    // New content is found by all serving servers, and the other agent stays ready.
    let meanwhile = layout.put(b"meanwhile").to_string();
    for server in &servers[1..] {
        held(server, &meanwhile, &agents[0]).await;
        held(server, &before, &agents[0]).await;
    }
    assert_eq!(readyz(&agents[1]).await.0, 200);

    // Follows the advice in the message.
    let words = reason.split("run piccolo members ").nth(1).unwrap();
    let words: Vec<&str> = words.split_whitespace().take(3).collect();
    assert_eq!((words[0], words[2]), ("replace", servers[0].raft_address().as_str()), "{reason}");
    succeeded(&members(&servers[1], &words).await);
    for server in &servers {
        assert_eq!(server.ready().await.cluster, cluster);
    }
    agree(&servers).await;
    held(&servers[0], &meanwhile, &agents[0]).await;
}

/// A write as an agent of `cluster` sends it; its status and answer.
async fn write(server: &Server, cluster: Option<&str>) -> (u16, String, Option<String>) {
    let body = r#"{"holder":"127.0.0.1:4001","group":"default","keys":["a:1"]}"#;
    let length = body.len().to_string();
    let mut headers = vec![("Content-Type", "application/json"), ("Content-Length", &length)];
    headers.extend(cluster.map(|cluster| ("Piccolo-Cluster", cluster)));
    let mut wire = Wire::connect(server.api_address().parse().unwrap()).await.unwrap();
    wire.send(&head("POST", "/api/v1/distribution/advertise", &headers)).await.unwrap();
    wire.send(body.as_bytes()).await.unwrap();
    let answer = wire.answer(false).await.unwrap();
    let named = answer.header("piccolo-cluster").map(str::to_owned);
    (answer.status, answer.text(), named)
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_stay_with_their_cluster_and_say_that_there_is_another() {
    let root = TempDir::new().unwrap();
    let mut first = Server::new(root.path(), &[]);
    let mut stranger = Server::new(root.path(), &[]);
    first.start();
    let cluster = first.ready().await.cluster;
    let layout = Layout::empty();
    let digest = layout.put(b"held").to_string();
    // The foreign server has an address at which nothing listened when the agent was started.
    let agent = agent(vec![first.url(), stranger.url()], &layout).await;
    agent.synced().await;
    stranger.start();
    let other = stranger.ready().await.cluster;

    let (status, said, named) = write(&stranger, Some(&cluster)).await;
    assert_eq!((status, named.as_deref()), (421, Some(other.as_str())), "{said}");
    let message: Value = serde_json::from_str(&said).unwrap();
    let expected =
        format!("this server belongs to cluster {other}, and the request is for cluster {cluster}");
    assert_eq!(message["message"], expected);
    for right in [None, Some(other.as_str())] {
        assert_eq!(write(&stranger, right).await.0, 201);
    }

    // Its own server is down: nobody of its cluster answers, and the foreign server's answers do not count.
    first.kill();
    let text = within("that it says so", SOON, async || {
        let (_, text) = readyz(&agent).await;
        text.contains("no discovery server of this agent's cluster").then_some(text)
    })
    .await;
    assert!(text.contains(&cluster) && text.contains(&other) && text.contains(&stranger.url()), "{text}");
    let new = layout.put(b"new").to_string();
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        let hosts = stranger.client().hosts(None, BRIEFLY).await.unwrap().hosts;
        assert!(hosts.iter().all(|host| host.holder != agent.peer.to_string()), "{hosts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first.start();
    for digest in [&digest, &new] {
        held(&first, digest, &agent).await;
    }
    within("that it is calm about its own, and speaks of the other", SOON, async || {
        let (status, text) = readyz(&agent).await;
        (status == 200 && text.contains("this agent stays with cluster")).then_some(())
    })
    .await;

    // All servers are of the same other cluster.
    first.kill();
    fs::remove_dir_all(&first.folder).unwrap();
    first.how = vec!["--join".to_owned(), stranger.raft_address()];
    first.start();
    first.answers().await;
    held(&stranger, &new, &agent).await;
    within("nothing to say", SOON, async || {
        let (status, text) = readyz(&agent).await;
        (status == 200 && !text.contains("cluster")).then_some(())
    })
    .await;
}
