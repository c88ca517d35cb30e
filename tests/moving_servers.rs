//! The real binary: servers whose addresses change, and names that cannot be resolved.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/site.rs"]
mod site;

use std::time::{Duration, Instant};

use cluster::{Server, agree, run, succeeded, three};
use site::{SOON, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Promised time for servers that all have new addresses.
const MOVED: Duration = Duration::from_secs(10);

fn key(number: usize) -> String {
    format!("registry.local/app:{number}")
}

/// Answer of `/readyz` with its headers.
async fn readyz(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Gives all servers another loopback address, and the list of the new ones.
fn move_all(servers: &mut [Server], host: &'static str) {
    servers.iter_mut().for_each(|server| server.host = host);
    let list: Vec<String> = servers.iter().map(Server::raft_address).collect();
    for server in servers {
        server.how = vec!["--cluster".to_owned(), list.join(",")];
    }
}

/// Every server had data, and none the new addresses: they never elected a leader again, with all disks
/// healthy.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_all_have_new_bare_addresses_take_writes_within_ten_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let mut servers = three(folder.path()).await;
    servers[0].advertise("10.0.0.1:7781", vec![key(0)]).await;
    servers.iter_mut().for_each(Server::kill);
    move_all(&mut servers, "127.0.0.2");
    let begin = Instant::now();
    servers.iter_mut().for_each(Server::start);
    within("a leader at the new addresses", MOVED, async || {
        servers[0].status().await.filter(|status| status.quorum)
    })
    .await;
    println!("led after {:?}", begin.elapsed());
    // Two of them forward to the third: its API address is in the membership, too.
    for (number, server) in servers.iter().enumerate() {
        server.advertise("10.0.0.1:7781", vec![key(number)]).await;
    }
    agree(&servers).await;
    let listed = within("the members at their new addresses", MOVED, async || {
        let listed = succeeded(&run(["members", "list", "--server", &servers[1].url()]).await);
        let all = servers.iter().all(|server| listed.contains(&server.raft_address()));
        (all && !listed.contains("127.0.0.1:")).then_some(listed)
    })
    .await;
    println!("{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_knows_keep_no_server_with_data_from_its_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut servers = three(folder.path()).await;
    servers[0].advertise("10.0.0.1:7781", vec![key(0)]).await;
    servers.iter_mut().for_each(Server::kill);
    for server in &mut servers {
        let port = server.raft;
        let list = ["a", "b", "c"].map(|name| format!("{name}.invalid:{port}")).join(",");
        server.how = vec!["--cluster".to_owned(), list];
        server.start();
    }
    for server in &servers {
        server.ready().await;
        server.advertise("10.0.0.1:7781", vec![key(1)]).await;
    }
    agree(&servers).await;
}

/// It ended with exit code 2, which tells a service manager that a retry is useless.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_data_waits_for_the_names_of_its_list_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::new(folder.path(), &[]);
    let list = ["a", "b", "c"].map(|name| format!("{name}.invalid:{}", server.raft)).join(",");
    server.how = vec!["--cluster".to_owned(), list.clone()];
    server.start();
    let said = within("/readyz with the reason", SOON, async || {
        let answer = readyz(&server.api_address()).await.ok()?;
        answer.contains("waits for an address").then_some(answer)
    })
    .await;
    assert!(said.starts_with("HTTP/1.1 503"), "{said}");
    assert!(said.contains(&list) && said.contains("a.invalid") && said.contains("--advertise"), "{said}");
    assert!(server.log().contains("the start waits"), "{}", server.log());
    server.stop().await;
}
