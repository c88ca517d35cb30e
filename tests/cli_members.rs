//! The real binary: servers join and leave with `piccolo server --join` and `piccolo members`, while clients
//! write and read.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/ports.rs"]
mod ports;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{get, post};
use piccolo::api::client::Client;
use piccolo::api::{FindQuery, MembersResponse, WriteRequest};
use ports::free_ports;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Longer than anything in these tests.
const SOON: Duration = Duration::from_secs(60);
const BRIEFLY: Duration = Duration::from_secs(2);

/// Polls until there is a value.
async fn within<T>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Like [`within`] for a spawned task: the compiler cannot see yet that an async closure is Send.
async fn retried<T, F: Future<Output = Option<T>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        assert!(Instant::now() < end, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server process.
struct Server {
    folder: PathBuf,
    api: u16,
    raft: u16,
    /// `--cluster …` or `--join …`.
    how: [String; 2],
    starts: usize,
    child: Option<Child>,
}

impl Server {
    fn new(root: &Path, api: u16, raft: u16, how: [String; 2]) -> Self {
        Self { folder: root.join(format!("server-{raft}")), api, raft, how, starts: 0, child: None }
    }

    fn start(&mut self) {
        self.starts += 1;
        fs::create_dir_all(self.folder.parent().unwrap()).unwrap();
        let log = File::create(self.log_path()).unwrap();
        let mut command = binary();
        command.args(["server", "--listen", &format!("127.0.0.1:{}", self.api)]);
        command.args(["--raft-listen", &self.raft_address(), "--data-dir"]).arg(&self.folder).args(&self.how);
        self.child = Some(command.stderr(log).spawn().unwrap());
    }

    fn kill_and_wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.folder).unwrap();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until it ends by itself.
    async fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let status = within("its end", SOON, async || child.try_wait().unwrap()).await;
        self.child = None;
        status
    }

    fn log_path(&self) -> PathBuf {
        self.folder.with_extension(format!("{}.log", self.starts))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap()
    }

    fn raft_address(&self) -> String {
        format!("127.0.0.1:{}", self.raft)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api)
    }

    fn client(&self) -> Client {
        Client::new(vec![self.url()]).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && self.starts > 0 {
            eprintln!("--- {}\n{}", self.log_path().display(), self.log());
        }
    }
}

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_piccolo"));
    let inherited = std::env::vars().filter(|(name, _)| !name.starts_with("PICCOLO_"));
    command.env_clear().envs(inherited);
    command
}

/// Runs `piccolo members …` with `server`.
async fn members(server: &Server, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(binary());
    command.arg("members").args(arguments).args(["--server", &server.url()]);
    if arguments[0] != "list" && !arguments.contains(&"--patience") {
        command.args(["--patience", "30s"]);
    }
    tokio::time::timeout(SOON * 2, command.kill_on_drop(true).output()).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

async fn list(server: &Server) -> MembersResponse {
    serde_json::from_str(&text(&members(server, &["list", "--json"]).await.stdout)).unwrap()
}

/// Raft addresses of the voters, sorted.
async fn voters(server: &Server) -> Vec<String> {
    let entries = list(server).await.members.into_iter().filter(|entry| entry.role != "learner");
    let mut addresses: Vec<String> = entries.map(|entry| entry.raft_address).collect();
    addresses.sort();
    addresses
}

/// Position of the leader.
async fn leader(servers: &[Server]) -> usize {
    within("a leader", SOON, async || {
        for server in servers {
            let Ok(status) = server.client().status(BRIEFLY).await else { continue };
            let Some(leader) = status.leader.filter(|_| status.quorum) else { continue };
            let entry = status.members.into_iter().find(|entry| entry.node == leader)?;
            return servers.iter().position(|server| server.raft_address() == entry.raft_address);
        }
        None
    })
    .await
}

/// Three servers that found a cluster.
async fn three(root: &Path) -> Vec<Server> {
    let ports = free_ports(6);
    let cluster: Vec<String> = ports[3..].iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let how = ["--cluster".to_owned(), cluster.join(",")];
    let mut servers: Vec<Server> =
        (0..3).map(|at| Server::new(root, ports[at], ports[3 + at], how.clone())).collect();
    servers.iter_mut().for_each(Server::start);
    leader(&servers).await;
    servers
}

/// Starts a server that waits to be added.
fn joining(root: &Path, member: &Server) -> Server {
    let ports = free_ports(2);
    let mut server = Server::new(root, ports[0], ports[1], ["--join".to_owned(), member.raft_address()]);
    server.start();
    server
}

fn key(number: u64) -> String {
    format!("registry.example/app:v{number}")
}

async fn holders(client: &Client, key: String) -> Option<Vec<String>> {
    let query = FindQuery { key, group: "default".to_owned(), ..FindQuery::default() };
    let found = client.find(&query, BRIEFLY).await.ok()?;
    Some(found.map(|found| found.holders).unwrap_or_default())
}

fn of_holder(holder: String, keys: Vec<String>, seq: u64) -> WriteRequest {
    WriteRequest {
        holder,
        group: "default".to_owned(),
        keys,
        epoch: Some(1),
        seq: Some(seq),
        zone: None,
        ttl_seconds: None,
    }
}

/// A client that writes key after key, and one that looks acknowledged ones up, until this is dropped. Both
/// ask the next server if one does not answer.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: JoinSet<Duration>,
}

const HOLDER: &str = "127.0.0.1:4001";

impl Load {
    /// Starts the clients with these servers; servers that join later are not asked.
    fn on(servers: &[Server]) -> Self {
        let client = Client::new(servers.iter().map(Server::url).collect()).unwrap();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        let (writing, stopped, count) = (client.clone(), stop.clone(), written.clone());
        tasks.spawn(async move {
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed) + 1;
                let request = of_holder(HOLDER.to_owned(), vec![key(number)], number);
                let begun = Instant::now();
                retried("a write", || async {
                    writing.advertise(&request, BRIEFLY).await.ok().filter(|answer| answer.success)
                })
                .await;
                longest = longest.max(begun.elapsed());
                count.store(number, Ordering::Relaxed);
            }
            longest
        });
        let (stopped, count) = (stop.clone(), written.clone());
        tasks.spawn(async move {
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let begun = Instant::now();
                retried("a lookup", || async {
                    holders(&client, key(number)).await.filter(|found| number == 0 || *found == [HOLDER])
                })
                .await;
                longest = longest.max(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            longest
        });
        Self { stop, written, tasks }
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Returns the number of acknowledged keys, and prints the longest write and lookup.
    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            println!("longest {:?}", ended.unwrap());
        }
        self.written()
    }
}

/// Checks I2, and that no acknowledged key is lost.
async fn agree(servers: &[Server], written: u64) {
    within("equal checksums at one log index", SOON, async || {
        let mut seen = Vec::new();
        for server in servers {
            let status = server.client().status(BRIEFLY).await.ok()?;
            seen.push((status.applied_index, status.checksum));
        }
        let same_index = seen.iter().all(|(index, _)| *index == seen[0].0);
        assert!(!same_index || seen.iter().all(|(_, sum)| *sum == seen[0].1), "states differ: {seen:?}");
        same_index.then_some(())
    })
    .await;
    for server in servers {
        let client = server.client();
        for number in 1..=written {
            assert_eq!(
                holders(&client, key(number)).await.unwrap(),
                [HOLDER],
                "{number} at {}",
                server.url()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_join_are_replaced_and_leave_while_clients_go_on() {
    let root = TempDir::new().unwrap();
    let mut servers = three(root.path()).await;
    let load = Load::on(&servers);

    // Adds a fourth server.
    let new = joining(root.path(), &servers[0]);
    let reasons = within("what it waits for", SOON, async || {
        let members = new.client().members(BRIEFLY).await.ok()?;
        members
            .reasons
            .iter()
            .any(|reason| reason.contains("waits to be admitted to"))
            .then_some(members.reasons)
    })
    .await;
    assert!(reasons[0].contains(&format!("piccolo members add {}", new.raft_address())), "{reasons:?}");
    within("the first key is written", SOON, async || (load.written() > 0).then_some(())).await;
    let query = FindQuery { key: key(1), group: "default".to_owned(), ..FindQuery::default() };
    // The server has no data, and asks a member or refers the client to one: it never answers "nobody".
    match new.client().find(&query, BRIEFLY).await {
        Ok(found) => assert!(!found.expect("a member knows a holder").holders.is_empty()),
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("is not a member of its cluster yet"), "{error}");
        }
    }
    let follower = (leader(&servers).await + 1) % 3;
    let said = succeeded(members(&servers[follower], &["add", &new.raft_address()]).await);
    assert!(said.contains("is a voter"), "{said}");
    servers.push(new);
    assert_eq!(voters(&servers[follower]).await.len(), 4);

    // One server is killed and loses its disk. Started as before, it replaces itself.
    let lost = (leader(&servers).await + 1) % 4;
    let old = list(&servers[lost]).await.members;
    let old = old.into_iter().find(|entry| entry.raft_address == servers[lost].raft_address()).unwrap().node;
    servers[lost].kill_and_wipe();
    let before = load.written();
    servers[lost].start();
    within("an answer", SOON, async || servers[lost].client().status(BRIEFLY).await.ok()).await;
    let other = (lost + 1) % 4;
    let address = servers[lost].raft_address();
    succeeded(members(&servers[other], &["replace", &address, &address]).await);
    let now = list(&servers[other]).await.members;
    assert!(now.len() == 4 && now.iter().all(|entry| entry.node != old), "{now:?}");
    within("writes go on", SOON, async || (load.written() > before).then_some(())).await;

    // Removes the leader.
    let leading = leader(&servers).await;
    let gone = servers[leading].raft_address();
    let asked = (leading + 1) % 4;
    let said = succeeded(members(&servers[asked], &["remove", &gone]).await);
    assert!(said.contains("is removed"), "{said}");
    assert_eq!(servers[leading].ended().await.code(), Some(5));
    let words = "was removed from its cluster: start with an empty folder and --join";
    assert!(servers[leading].log().contains(words), "{}", servers[leading].log());
    servers[leading].start();
    assert_eq!(servers[leading].ended().await.code(), Some(5), "it does not start again");
    assert!(servers[leading].log().contains(words), "{}", servers[leading].log());
    servers.remove(leading);
    assert!(!voters(&servers[0]).await.contains(&gone));

    let written = load.end().await;
    println!("{written} writes");
    agree(&servers, written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_is_refused_with_the_reason() {
    let root = TempDir::new().unwrap();
    let mut servers = three(root.path()).await;
    let leading = leader(&servers).await;
    let (alive, dead) = ((leading + 1) % 3, (leading + 2) % 3);

    let own = servers[alive].raft_address();
    assert!(succeeded(members(&servers[alive], &["add", &own]).await).contains("is a voter"), "as before");
    let refused = async |servers: &[Server], arguments: &[&str]| {
        let output = members(&servers[leading], arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
        text(&output.stderr)
    };
    let said = refused(&servers, &["add", "127.0.0.1:1"]).await;
    assert!(said.contains("could not ask 127.0.0.1:1 who it is"), "{said}");
    assert!(said.contains("start the new server there with --join 127.0.0.1:"), "{said}");
    let said = refused(&servers, &["remove", "127.0.0.1:1"]).await;
    assert!(said.contains("127.0.0.1:1 is not a member"), "{said}");
    let said = refused(&servers, &["remove", "somebody"]).await;
    assert!(said.contains("neither a node id"), "{said}");

    let api = format!("127.0.0.1:{}", servers[alive].api);
    let said = refused(&servers, &["transfer-leader", &api]).await;
    assert!(said.contains(&format!("name it by its raft address {own}")), "{said}");

    let shown = async |servers: &[Server]| text(&members(&servers[alive], &["list"]).await.stdout);
    let all = ", 1 may fail\n";
    within("all of them answer", SOON, async || shown(&servers).await.contains(all).then_some(())).await;
    servers[dead].kill();
    let expected = "2 of 3 voters must answer, 2 do, none of them may fail\n";
    within("one of them is silent", SOON, async || {
        let list = shown(&servers).await;
        (list.contains(expected) && list.contains("voter, silent for ")).then_some(())
    })
    .await;
    let said = refused(&servers, &["remove", &own]).await;
    let expected = "would lose the quorum: of 2 voters then, 2 must answer, and 1 do now (silent: ";
    assert!(said.contains(expected) && said.contains(&servers[dead].raft_address()), "{said}");
    let said = refused(&servers, &["transfer-leader", &servers[dead].raft_address()]).await;
    assert!(said.contains("does not answer"), "{said}");
    assert_eq!(voters(&servers[leading]).await.len(), 3, "nothing was changed");

    // The dead server may be removed; then another one may lead.
    succeeded(members(&servers[alive], &["remove", &servers[dead].raft_address()]).await);
    assert_eq!(voters(&servers[alive]).await.len(), 2);
    within("the other one leads", SOON, async || {
        let output = members(&servers[leading], &["transfer-leader", &own]).await;
        output.status.success().then_some(())
    })
    .await;
    assert_eq!(leader(&servers).await, alive);

    let both = binary()
        .args(["server", "--data-dir", "x", "--join", "a:1", "--cluster", "a:1,b:1"])
        .output()
        .unwrap();
    assert_eq!(both.status.code(), Some(2));
    assert!(text(&both.stderr).contains("not together with --cluster"), "{}", text(&both.stderr));
}

/// A server that names itself, is reachable and reaches all others, accepts invitations, and answers nothing
/// else.
async fn deaf_server() -> (JoinSet<()>, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let whoami = serde_json::json!({
        "node_id": 77, "boot_nonce": 1, "cluster_id": null, "list_hash": "0".repeat(32), "list": [],
        "raft_address": null, "api_address": address, "reads": piccolo_raft::format::Reads::of_this_build(),
    });
    let mut status: serde_json::Value =
        serde_json::from_str(include_str!("golden/status_response.json")).unwrap();
    status["node"] = "000000000000004d".into();
    let router = Router::new()
        .route("/api/v1/status", get(async move || status.to_string()))
        .route("/raft/v1/whoami", post(async move || whoami.to_string()))
        .route("/raft/v1/standing", post(async || ""))
        .route("/raft/v1/reach", post(async || "[]"));
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (serving, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_catches_up_is_given_up_and_costs_no_vote() {
    let root = TempDir::new().unwrap();
    let servers = three(root.path()).await;
    let (_serving, address) = deaf_server().await;
    let output = members(&servers[0], &["add", &address, "--patience", "5s"]).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("gave up after 5 s without progress (server 000000000000004d catches up"),
        "{said}"
    );
    let entries = list(&servers[0]).await.members;
    let learner = entries.iter().find(|entry| entry.raft_address == address).unwrap();
    assert_eq!(learner.role, "learner");
    assert_eq!(voters(&servers[0]).await.len(), 3);
    let load = Load::on(&servers);
    within("writes go on", SOON, async || (load.written() >= 20).then_some(())).await;
    succeeded(members(&servers[1], &["remove", "4d"]).await);
    assert_eq!(list(&servers[0]).await.members.len(), 3);
    let written = load.end().await;
    agree(&servers, written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_server_catches_up_by_snapshot_while_writes_go_on_then_checksums_agree() {
    const HOSTS: u64 = 1200;
    const KEYS: u64 = 50;
    let root = TempDir::new().unwrap();
    let mut servers = three(root.path()).await;
    let client = Client::new(servers.iter().map(Server::url).collect()).unwrap();
    let begun = Instant::now();
    let mut writes = JoinSet::new();
    for host in 0..HOSTS {
        let client = client.clone();
        let keys = (0..KEYS).map(|number| format!("sha256:{:064x}", host / 4 * KEYS + number)).collect();
        let request = of_holder(format!("10.0.{}.{}:7781", host / 250, host % 250), keys, 1);
        writes.spawn(async move {
            retried("a sync", || async { client.sync(&request, SOON).await.ok().filter(|a| a.success) })
                .await;
        });
        if writes.len() >= 64 {
            writes.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(ended) = writes.join_next().await {
        ended.unwrap();
    }
    println!("{:?}: {} pairs are there", begun.elapsed(), HOSTS * KEYS);
    let load = Load::on(&servers);

    let lost = (leader(&servers).await + 1) % 3;
    let other = (lost + 1) % 3;
    servers[lost].kill_and_wipe();
    println!("{:?}: a server is killed and wiped", begun.elapsed());
    servers[lost].how = ["--join".to_owned(), servers[other].raft_address()];
    servers[lost].start();
    within("an answer", SOON, async || servers[lost].client().status(BRIEFLY).await.ok()).await;
    let before = load.written();
    let address = servers[lost].raft_address();
    let said = succeeded(members(&servers[other], &["replace", &address, &address]).await);
    println!("{:?}: it is back, {} writes meanwhile\n{said}", begun.elapsed(), load.written() - before);
    assert!(said.contains("gets a snapshot"), "{said}");
    assert!(servers[lost].log().contains("received a snapshot"), "{}", servers[lost].log());
    assert!(load.written() > before, "writes went on");
    let written = load.end().await;
    agree(&servers, written).await;
    println!("{:?}: checksums agree", begun.elapsed());
}
