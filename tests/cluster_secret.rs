//! The real binary: servers that know each other by a cluster secret, and change it and TLS while clients
//! write.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/site.rs"]
mod site;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster::{BRIEFLY, Server, agree, founded, run, succeeded, text};
use piccolo::api::WriteRequest;
use piccolo::api::client::Client;
use piccolo::clock::SystemClock;
use piccolo::identity::{Role, Tls};
use piccolo_raft::format::{Level, WIRE};
use site::{SOON, Wire, get, head, within};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

/// Longest time without an acknowledged write while servers restart one after the other: several elections of
/// a busy machine.
const OUTAGE_MAX: Duration = Duration::from_secs(20);
const HOLDER: &str = "127.0.0.1:4001";

async fn secret(words: &[&str], file: &Path) -> String {
    succeeded(&run(["cluster-secret"].iter().chain(words).copied().chain([file.to_str().unwrap()])).await)
}

/// A server with a copy of the secret of its own.
fn with_secret(root: &Path, secret: &Path, flags: &[&str]) -> Server {
    let mut server = Server::new(root, flags);
    let copy = copy_of(&server);
    fs::copy(secret, &copy).unwrap();
    server.how.extend(["--cluster-secret".to_owned(), copy.display().to_string()]);
    server
}

fn copy_of(server: &Server) -> PathBuf {
    server.folder.with_extension("pem")
}

/// Status and body of a plain `whoami` at the raft port.
async fn plain_whoami(server: &Server) -> (u16, String) {
    let mut wire = Wire::connect(server.raft_address().parse().unwrap()).await.unwrap();
    wire.send(&head("POST", "/raft/v1/whoami", &[("Content-Length", "0")])).await.unwrap();
    let answer = wire.answer(false).await.unwrap();
    (answer.status, answer.text())
}

async fn refused_total(server: &Server, reason: &str) -> f64 {
    let scrape = get(server.api_address().parse().unwrap(), "/metrics").await.unwrap().text();
    let start = format!("piccolo_tls_refused_total{{port=\"raft\",reason=\"{reason}\"}} ");
    let line = scrape.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {start} in {scrape}")).parse().unwrap()
}

/// Writes one key after the other until `done`; the acknowledged keys, and the longest time for one.
async fn write_until(urls: Vec<String>, done: &AtomicBool) -> (Vec<String>, Duration) {
    let client = Client::new(urls).unwrap();
    let (mut keys, mut longest) = (Vec::new(), Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        let key = format!("write:{}", keys.len());
        let request = WriteRequest {
            holder: HOLDER.to_owned(),
            group: "default".to_owned(),
            keys: vec![key.clone()],
            epoch: None,
            seq: None,
            zone: None,
            ttl_seconds: None,
        };
        let begun = Instant::now();
        within("a write", SOON, async || {
            client.advertise(&request, BRIEFLY).await.ok().filter(|answer| answer.success)
        })
        .await;
        longest = longest.max(begun.elapsed());
        keys.push(key);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (keys, longest)
}

/// Does `work` with the servers while a client writes; then checks that nothing was lost.
async fn while_writing(mut servers: Vec<Server>, work: impl AsyncFnOnce(&mut Vec<Server>)) {
    let urls = servers.iter().map(Server::url).collect();
    let done = AtomicBool::new(false);
    let working = async {
        work(&mut servers).await;
        done.store(true, Ordering::Relaxed);
    };
    let ((), (keys, longest)) = tokio::join!(working, write_until(urls, &done));
    println!("{} writes, the longest took {longest:?}", keys.len());
    assert!(longest < OUTAGE_MAX, "{longest:?} without an acknowledged write");
    agree(&servers).await;
    for key in keys {
        assert_eq!(servers[0].holders(&key).await.unwrap(), [HOLDER], "{key} was acknowledged");
    }
}

/// Restarts a server; it is in its cluster again when this returns.
async fn restart(server: &mut Server) {
    server.stop().await;
    server.start();
    server.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_with_one_secret_are_a_cluster_and_others_do_not_get_in() {
    let root = TempDir::new().unwrap();
    let [ours, foreign] = ["ours.pem", "foreign.pem"].map(|name| root.path().join(name));
    let said = secret(&["create"], &ours).await;
    assert!(said.contains("signs"), "{said}");
    assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o7777, 0o600);
    secret(&["create"], &foreign).await;
    let flags: [&[&str]; 3] = [&["--log-level", "trace"], &[], &[]];
    let servers = founded(flags.map(|flags| with_secret(root.path(), &ours, flags)).into()).await;
    servers[1].advertise(HOLDER, vec!["a:1".to_owned()]).await;
    agree(&servers).await;
    for server in &servers {
        assert_eq!(server.holders("a:1").await.unwrap(), [HOLDER]);
        assert_eq!(refused_total(server, "foreign").await, 0.0);
    }

    let (status, said) = plain_whoami(&servers[2]).await;
    assert_eq!((status, said.contains("--tls")), (400, true), "{said}");
    assert_eq!(refused_total(&servers[2], "plain").await, 1.0);
    let log = servers[2].log();
    assert!(log.contains("refused a connection") && log.contains("it does not speak TLS"), "{log}");

    let mut stranger = with_secret(root.path(), &foreign, &["--join", &servers[2].raft_address()]);
    stranger.start();
    within("why it does not get in", SOON, async || {
        let reasons = stranger.status().await?.reasons;
        reasons.iter().any(|reason| reason.contains("signed by another cluster secret")).then_some(())
    })
    .await;
    within("that the member names it", SOON, async || {
        let log = servers[2].log();
        log.contains("it has another cluster secret, or a wrong clock").then_some(())
    })
    .await;
    assert!(refused_total(&servers[2], "distrusted").await >= 1.0);
    let url = servers[0].url();
    let add = run(["members", "add", &stranger.raft_address(), "--patience", "1s", "--server", &url]).await;
    assert!(!add.status.success(), "{}", text(&add.stdout));
    assert_eq!(stranger.status().await.unwrap().cluster, "");

    let mut fourth = with_secret(root.path(), &ours, &["--join", &servers[2].raft_address()]);
    fourth.start();
    fourth.answers().await;
    succeeded(&run(["members", "add", &fourth.raft_address(), "--server", &url]).await);
    fourth.ready().await;
    assert_eq!(fourth.holders("a:1").await.unwrap(), [HOLDER]);

    let own = standing(&servers[1], &ours, 1, 1).await;
    assert!(own.starts_with("HTTP/1.1 200 "), "{own}");
    let impostor = standing(&servers[1], &ours, 2, 1).await;
    assert!(impostor.starts_with("HTTP/1.1 403 "), "{impostor}");

    for file in [&ours, &foreign] {
        no_secret_is_shown(file, &servers).await;
    }
}

/// What the raft port answers to a message of `sender` on a connection with the certificate of `caller`.
async fn standing(server: &Server, secret: &Path, caller: u64, sender: u64) -> String {
    let status = server.status().await.unwrap();
    let cluster = u128::from_str_radix(&status.cluster, 16).unwrap();
    let target = u64::from_str_radix(&status.node, 16).unwrap();
    let header = (cluster, 0_u128, sender, target);
    let body = WIRE.encode(Level::FIRST, &(header, None::<String>));
    let secret = piccolo::identity::file::read(secret).unwrap();
    let tls = Tls::new(secret, Role::Server { node_id: caller }, SystemClock::shared()).unwrap();
    let stream = tokio::net::TcpStream::connect(server.raft_address()).await.unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    let mut stream = TlsConnector::from(tls.client).connect(name, stream).await.unwrap();
    let length = body.len().to_string();
    let head = head("POST", "/raft/v1/standing", &[("Content-Length", &length), ("Connection", "close")]);
    stream.write_all(&head).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    text(&answer)
}

/// No line of the file's keys is in a log, in the list of processes, or in what a server says of itself.
async fn no_secret_is_shown(file: &Path, servers: &[Server]) {
    let content = fs::read_to_string(file).unwrap();
    let key = content.split("-----BEGIN PRIVATE KEY-----").nth(1).unwrap();
    let key = key.split("-----END").next().unwrap().trim();
    assert!(key.lines().count() > 1, "{content}");
    for server in servers {
        let command = fs::read(format!("/proc/{}/cmdline", server.pid())).unwrap();
        let environment = fs::read(format!("/proc/{}/environ", server.pid())).unwrap();
        let mut said = server.log() + &text(&command) + &text(&environment);
        for path in ["/api/v1/status", "/metrics", "/readyz"] {
            said += &get(server.api_address().parse().unwrap(), path).await.unwrap().text();
        }
        for line in key.lines() {
            assert!(!said.contains(line), "a line of a key is shown");
        }
    }
    let shown = secret(&["show"], file).await;
    assert!(key.lines().all(|line| !shown.contains(line)), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_used_ends_the_start_and_is_named() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("secret.pem");
    secret(&["create"], &file).await;
    let again = run(["cluster-secret", "create", file.to_str().unwrap()]).await;
    assert!(text(&again.stderr).contains("exists already"), "{}", text(&again.stderr));
    for (mode, content, expected) in [
        (0o644, None, "chmod 600"),
        (0o600, Some("-----BEGIN PRIVATE KEY-----\nMIGH"), "cut or damaged"),
        (0o600, Some("nothing"), "no private key"),
    ] {
        let mut server = with_secret(root.path(), &file, &[]);
        let copy = copy_of(&server);
        if let Some(content) = content {
            fs::write(&copy, content).unwrap();
        }
        fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).unwrap();
        let (status, said) = server.refuses().await;
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains(expected) && said.contains(copy.to_str().unwrap()), "{said}");
    }
    let mut without = Server::new(root.path(), &["--tls", "require"]);
    let (status, said) = without.refuses().await;
    assert_eq!((status.code(), said.contains("--cluster-secret FILE")), (Some(2), true), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raft_port_for_other_hosts_requires_tls_or_the_word_that_it_is_open() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("secret.pem");
    secret(&["create"], &file).await;
    let for_all = |mut server: Server| {
        server.host = "0.0.0.0";
        server
    };
    let plain = Server::new(root.path(), &["--tls", "off"]);
    for server in [plain, with_secret(root.path(), &file, &["--tls", "accept"])] {
        let (status, said) = for_all(server).refuses().await;
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains("--cluster-secret FILE") && said.contains("--insecure"), "{said}");
    }
    for (flags, raft_is_open) in [(&[][..], false), (&["--tls", "accept", "--insecure"], true)] {
        let mut server = for_all(with_secret(root.path(), &file, flags));
        server.start();
        server.answers().await;
        let log = server.log();
        assert!(log.contains("the discovery API is served in the clear"), "{log}");
        assert_eq!(log.contains("raft is served in the clear"), raft_is_open, "{log}");
        assert_eq!(log.contains("may add and remove servers"), raft_is_open, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_site_goes_to_tls_and_back_one_server_at_a_time() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("secret.pem");
    secret(&["create"], &file).await;
    let off = || with_secret(root.path(), &file, &["--tls", "off"]);
    let servers = founded([(); 3].map(|()| off()).into()).await;
    while_writing(servers, async |servers| {
        for mode in ["accept", "require", "accept", "off"] {
            for server in servers.iter_mut() {
                assert_eq!(server.how[0], "--tls");
                mode.clone_into(&mut server.how[1]);
                restart(server).await;
            }
            for server in servers.iter() {
                let expected = if mode == "require" { 400 } else { 200 };
                assert_eq!(plain_whoami(server).await.0, expected, "{mode}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_rotated_one_server_at_a_time() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("secret.pem");
    secret(&["create"], &file).await;
    let old = secret(&["show"], &file).await;
    let servers = founded([(); 3].map(|()| with_secret(root.path(), &file, &[])).into()).await;
    while_writing(servers, async |servers| {
        for step in ["add", "retire"] {
            secret(&[step], &file).await;
            for server in servers.iter_mut() {
                fs::copy(&file, copy_of(server)).unwrap();
                restart(server).await;
            }
        }
        assert_ne!(secret(&["show"], &file).await, old);
    })
    .await;
    let logs = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path());
    let logs: Vec<_> = logs.filter(|path| path.extension().is_some_and(|is| is == "log")).collect();
    assert_eq!(logs.len(), 9, "three starts of each server");
    for log in logs {
        let said = fs::read_to_string(log).unwrap();
        assert!(!said.contains("another cluster secret"), "{said}");
    }
}
