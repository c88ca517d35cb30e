//! What clients may do to an agent without harm (I7): send slowly, read nothing, vanish, keep thousands of
//! connections, send too much or garbage, or make a thousand requests at once. Also the cost of a pull while
//! all of Piccolo is down (I4). The real binary, on loopback and in a network namespace of the test.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/site.rs"]
mod site;

use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use piccolo::limits::{
    CLIENT_SILENT_MAX, CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_READ_TIMEOUT, WORKER_SILENT_MAX,
};
use piccolo::oci::Digest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use site::{
    Agent, Answer, Layout, SOON, Server, Setup, Swallowing, Wire, ask, free_address, get, head, noise, within,
};

/// Memory of an agent at its connection limits, bytes: the budget of a release build (docs/budgets.md).
/// Futures of a debug build are larger, by tens of KiB for each request: 85 MiB were seen. The test finds
/// memory that grows with the bytes of the blobs, which are 700 MiB here. `piccolo-bench agent` measures the
/// budget.
const AGENT_MEMORY_MAX: u64 = if cfg!(debug_assertions) { 160 << 20 } else { 64 << 20 };
/// Additional time for a machine with two cores and other tests.
const SLACK: Duration = Duration::from_secs(10);
/// Size of a blob that does not fit into socket buffers.
const LARGE: usize = 64 << 20;

fn blob(digest: &Digest) -> String {
    format!("/v2/library/app/blobs/{digest}")
}

/// Two agents: one that holds the layout's content, and an empty one.
struct Site {
    server: Server,
    holder: Agent,
    asker: Agent,
}

impl Site {
    async fn start(layout: &Layout, flags: &[&str], launcher: &[&str]) -> Self {
        let server = Server::start().await;
        let setup = || Setup { servers: vec![server.url.clone()], flags, launcher, ..Setup::default() };
        let holder = Agent::start(Setup { layout: Some(layout.path()), ..setup() }).await;
        let asker = Agent::start(setup()).await;
        holder.synced().await;
        Self { server, holder, asker }
    }
}

#[track_caller]
fn is_blob(answer: &Answer, bytes: &[u8]) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.body == bytes, "other bytes");
}

/// A client that sends one byte a second, or nothing, is cut after the time for a request's headers.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_slow_headers_is_cut_while_others_are_served() {
    const SLOW: usize = 200;
    let layout = Layout::empty();
    let bytes = noise(1, 100_000);
    let digest = layout.put(&bytes);
    let agent = Agent::start(Setup { layout: Some(layout.path()), ..Setup::default() }).await;
    let mut slow = JoinSet::new();
    let start = Instant::now();
    for n in 0..SLOW {
        let address = if n % 2 == 0 { agent.mirror } else { agent.peer };
        slow.spawn(async move {
            let mut wire = Wire::connect(address).await.unwrap();
            wire.send(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: ").await.unwrap();
            while n % 4 < 2 && wire.send(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            wire.rest().await;
            start.elapsed()
        });
    }
    while slow.try_join_next().is_none() {
        is_blob(&get(agent.mirror, &blob(&digest)).await.unwrap(), &bytes);
        is_blob(&get(agent.peer, &blob(&digest)).await.unwrap(), &bytes);
        assert!(start.elapsed() < HEADER_READ_TIMEOUT + SLACK, "nobody is cut");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for took in slow.join_all().await {
        assert!(took < HEADER_READ_TIMEOUT + SLACK, "cut after {took:?}");
    }
}

/// Opens connections that request `target` and read only the first bytes of the answer.
async fn take_nothing(address: SocketAddr, target: &str, count: usize) -> Vec<TcpStream> {
    let mut stuck = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let mut wire = Wire::over(stream);
        wire.send(&head("GET", target, &[])).await.unwrap();
        let mut first = [0; 100];
        wire.stream.read_exact(&mut first).await.unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&first));
        stuck.push(wire.stream);
    }
    stuck
}

/// Waits until a GET at `address` is no longer refused for lack of slots; HEAD always works.
async fn slots_are_free_again(address: SocketAddr, digest: &Digest, bytes: &[u8]) {
    let since = Instant::now();
    let refused = get(address, &blob(digest)).await.unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "all slots are taken");
    assert_eq!(ask(address, "HEAD", &blob(digest), &[]).await.unwrap().status, 200);
    let answer = within("a free slot", CLIENT_SILENT_MAX + SLACK, async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Some(get(address, &blob(digest)).await.unwrap()).filter(|answer| answer.status != 503)
    })
    .await;
    is_blob(&answer, bytes);
    assert!(since.elapsed() > CLIENT_SILENT_MAX / 2, "the slots were never taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_releases_its_slot() {
    let layout = Layout::empty();
    let large = layout.put(&noise(2, LARGE));
    let bytes = noise(3, 1_000);
    let small = layout.put(&bytes);
    let flags = ["--uploads-max", "4"];
    let agent = Agent::start(Setup { layout: Some(layout.path()), flags: &flags, ..Setup::default() }).await;
    let stuck = take_nothing(agent.peer, &blob(&large), 4).await;
    // Stands for containerd: the mirror has no slots, and continues to serve.
    let at_mirror = take_nothing(agent.mirror, &blob(&large), 32).await;
    is_blob(&get(agent.mirror, &blob(&small)).await.unwrap(), &bytes);
    slots_are_free_again(agent.peer, &small, &bytes).await;
    let held = agent.process.own_memory_peak_bytes();
    assert!(held < AGENT_MEMORY_MAX, "{} MiB", held >> 20);
    drop((stuck, at_mirror));
}

/// A network namespace with one link to the host, removed with the test.
struct Namespace {
    name: String,
    children: Vec<Child>,
}

impl Namespace {
    /// A namespace: the host's end of the link has `10.<x>.<y>.1`, the other one `.2`.
    fn new(tag: &str) -> (Self, IpAddr) {
        let id = std::process::id();
        let name = format!("piccolo-{tag}-{id}");
        let (outside, inside) = (format!("pv{tag}{}", id % 100_000), format!("pw{tag}{}", id % 100_000));
        let net = format!("10.{}.{}", 200 + id % 50, id / 50 % 256);
        let namespace = Self { name: name.clone(), children: Vec::new() };
        for command in [
            format!("ip netns add {name}"),
            format!("ip link add {outside} type veth peer name {inside} netns {name}"),
            format!("ip addr add {net}.1/24 dev {outside}"),
            format!("ip link set {outside} up"),
            format!("ip -n {name} addr add {net}.2/24 dev {inside}"),
            format!("ip -n {name} link set {inside} up"),
        ] {
            run(&command);
        }
        (namespace, format!("{net}.1").parse().unwrap())
    }

    /// Starts a shell in the namespace; returns its output.
    fn shell(&mut self, script: &str) -> std::process::ChildStdout {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "bash", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        self.children.push(child);
        output
    }

    /// Drops all packets from and to the namespace from here on.
    fn swallow(&self) {
        let rules = "add table ip t; add chain ip t i { type filter hook input priority 0; policy drop; }; \
                     add chain ip t o { type filter hook output priority 0; policy drop; }";
        let status = Command::new("ip").args(["netns", "exec", &self.name, "nft", rules]).status().unwrap();
        assert!(status.success(), "nft: {status}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}

fn run(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{command}: {status} (as root?)");
}

/// No FIN and no RST ever comes: only timeouts of the agent can end these connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_silently_releases_slots_and_connections() {
    const UPLOADS: usize = 4;
    const IDLE: usize = 50;
    let layout = Layout::empty();
    let large = layout.put(&noise(4, LARGE));
    let bytes = noise(5, 1_000);
    let small = layout.put(&bytes);
    let (mut namespace, host) = Namespace::new("v");
    let flags = ["--uploads-max", "4"];
    let peer_ip = Some(host);
    let setup = Setup { layout: Some(layout.path()), flags: &flags, peer_ip, ..Setup::default() };
    let agent = Agent::start(setup).await;
    let before = agent.process.sockets();
    let script = format!(
        r#"open() {{ exec {{c}}<>/dev/tcp/{ip}/{port} && printf "$1" >&$c; }}
        for n in $(seq {UPLOADS}); do
            open 'GET {target} HTTP/1.1\r\nHost: x\r\n\r\n' && head -c 12 <&$c; echo
        done
        for n in $(seq {IDLE}); do open 'GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n' && head -c 12 <&$c; echo; done
        for n in $(seq {IDLE}); do open ''; done
        echo all; read"#,
        ip = host,
        port = agent.peer.port(),
        target = blob(&large),
    );
    let mut output = namespace.shell(&script);
    let said = tokio::task::spawn_blocking(move || {
        use std::io::{BufRead, BufReader};
        let mut said = Vec::new();
        for line in BufReader::new(&mut output).lines().map_while(Result::ok) {
            said.push(line);
            if said.last().is_some_and(|line| line == "all") {
                break;
            }
        }
        said
    })
    .await
    .unwrap();
    let answered = said.iter().filter(|line| *line == "HTTP/1.1 200").count();
    assert_eq!((answered, said.last().map(String::as_str)), (UPLOADS + IDLE, Some("all")), "{said:?}");
    // The first connections may be closed already, and some that the agent had before: a shell takes time to
    // open them.
    let opened = agent.process.sockets().saturating_sub(before);
    assert!(opened >= IDLE / 2, "{opened} connections");
    namespace.swallow();
    slots_are_free_again(agent.peer, &small, &bytes).await;
    within("all their connections are closed", SLACK, async || {
        (agent.process.sockets() <= before + 2).then_some(())
    })
    .await;
}

/// The tests of one process share its descriptors.
static DESCRIPTORS: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_on_either_port_do_not_stop_a_pull() {
    const IDLE: usize = 10_000;
    let _alone = DESCRIPTORS.lock().await;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let enough = maximum.is_none_or(|maximum| maximum > IDLE as u64 + 1_000);
    assert!(enough, "this test needs a hard limit of {} open files", IDLE + 1_000);

    let layout = Layout::empty();
    let bytes = noise(6, 300_000);
    let digest = layout.put(&bytes);
    // Like systemd and shells start it: the agent raises its soft limit itself.
    let as_shells_do = ["sh", "-c", "ulimit -Sn 1024; exec \"$@\"", "sh"];
    let site = Site::start(&layout, &[], &as_shells_do).await;
    for (name, address, agent) in
        [("mirror", site.asker.mirror, &site.asker), ("peer", site.holder.peer, &site.holder)]
    {
        let mut idle = Vec::with_capacity(IDLE);
        let start = Instant::now();
        while idle.len() < IDLE {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let accepted = within("all are accepted", SOON, async || {
            let sockets = agent.process.sockets();
            // They are closed after a while; they must exist during the pull.
            (sockets >= IDLE || start.elapsed() > HEADER_READ_TIMEOUT / 2).then_some(sockets)
        })
        .await;
        let start = Instant::now();
        is_blob(&get(site.asker.mirror, &blob(&digest)).await.unwrap(), &bytes);
        let took = start.elapsed();
        println!("{name}: {accepted} connections, a pull in {took:?}");
        assert!(took < HEADER_READ_TIMEOUT / 2, "{name}: it waited for them: {took:?}");
        let held = agent.process.own_memory_peak_bytes();
        println!("{name}: {} MiB at most", held >> 20);
        assert!(held < AGENT_MEMORY_MAX, "{name}: {} MiB", held >> 20);
        drop(idle);
        within("all are closed", SOON, async || (agent.process.sockets() < 100).then_some(())).await;
    }
    assert!(!site.holder.process.log().contains("Too many open files"));
    assert!(!site.asker.process.log().contains("Too many open files"));
}

/// Any local process can open them. They used to occupy all slots of the mirror for ten seconds: the
/// supervisor's probes got no answer, and the worker was killed together with its uploads.
#[tokio::test(flavor = "multi_thread")]
async fn more_idle_connections_than_places_keep_neither_probes_nor_requests_out() {
    const OVER: usize = 1_000;
    /// Longer than the silence after which a worker is killed.
    const HELD: Duration = WORKER_SILENT_MAX.saturating_add(Duration::from_secs(2));
    let _alone = DESCRIPTORS.lock().await;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let layout = Layout::empty();
    let bytes = noise(6, 300_000);
    let digest = layout.put(&bytes);
    let agent = Agent::start(Setup { layout: Some(layout.path()), ..Setup::default() }).await;
    let workers = agent.process.pids();
    for (address, held_for) in [(agent.mirror, HELD), (agent.peer, Duration::from_millis(100))] {
        let mut idle = Vec::with_capacity(CONNECTIONS_MAX + OVER);
        while idle.len() < CONNECTIONS_MAX + OVER {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let held = Instant::now();
        while held.elapsed() < held_for {
            let asked = Instant::now();
            is_blob(&get(address, &blob(&digest)).await.unwrap(), &bytes);
            let took = asked.elapsed();
            assert!(took < HEADER_READ_TIMEOUT / 4, "it waited for silent connections: {took:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(agent.process.pids(), workers, "the worker was replaced");
        let memory = agent.process.own_memory_peak_bytes();
        assert!(memory < AGENT_MEMORY_MAX, "{} MiB", memory >> 20);
        drop(idle);
        within("all are closed", SOON, async || (agent.process.sockets() < 100).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_over_the_limit_are_431_and_the_connection_ends() {
    let agent = Agent::start(Setup::default()).await;
    // hyper checks the size between two reads, each of which may add as much again.
    let long = "a".repeat(2 * HEADER_BYTES_MAX);
    let many = "X: y\r\n".repeat(1_000);
    for address in [agent.mirror, agent.peer] {
        let below = "a".repeat(HEADER_BYTES_MAX / 2);
        let answer = ask(address, "GET", "/v2/", &[("X", &below)]).await.unwrap();
        assert_eq!(answer.status, 200, "half of it is fine");
        for (what, request) in [
            ("one long header", format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n")),
            ("many headers", format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{many}\r\n")),
            ("a long path", format!("GET /v2/{long} HTTP/1.1\r\nHost: x\r\n\r\n")),
            ("a header without end", format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {long}")),
        ] {
            let mut wire = Wire::connect(address).await.unwrap();
            wire.send(request.as_bytes()).await.ok();
            let rest = wire.rest().await;
            let text = String::from_utf8_lossy(&rest);
            let refused = text.starts_with("HTTP/1.1 431 ") || text.starts_with("HTTP/1.1 414 ");
            assert!(refused && text.matches("HTTP/1.1 ").count() == 1, "{what}: {text:?}");
        }
        assert_eq!(get(address, "/v2/").await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order_and_garbage_ends_the_connection() {
    const PIPELINED: usize = 100;
    let layout = Layout::empty();
    let blobs: Vec<_> = (0..10).map(|n| noise(n, 1_000 + n as usize)).collect();
    let digests: Vec<_> = blobs.iter().map(|bytes| layout.put(bytes)).collect();
    let agent = Agent::start(Setup { layout: Some(layout.path()), ..Setup::default() }).await;
    let garbage: [&[u8]; 8] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // a TLS handshake
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost : x\r\n: no name\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ];
    for address in [agent.mirror, agent.peer] {
        for garbage in garbage {
            let mut wire = Wire::connect(address).await.unwrap();
            let requests = (0..PIPELINED).flat_map(|n| head("GET", &blob(&digests[n % 10]), &[]));
            let all: Vec<u8> = requests.chain(garbage.iter().copied()).collect();
            wire.send(&all).await.unwrap();
            for n in 0..PIPELINED {
                is_blob(&wire.answer(false).await.unwrap(), &blobs[n % 10]);
            }
            // Ends the sending direction, for garbage that could still become a request.
            wire.finish().await;
            let rest = wire.rest().await;
            let text = String::from_utf8_lossy(&rest);
            let refused = ["", "HTTP/1.1 400 ", "HTTP/1.1 505 "]
                .iter()
                .any(|start| if start.is_empty() { text.is_empty() } else { text.starts_with(start) });
            assert!(refused, "{:?}: {text:?}", String::from_utf8_lossy(garbage));
        }
        // A request with a body that does not come.
        let mut wire = Wire::connect(address).await.unwrap();
        wire.send(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\nx").await.unwrap();
        assert_eq!(wire.answer(false).await.unwrap().status, 200);
        wire.rest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pulls_at_once_are_all_answered_in_bounded_memory() {
    const PULLS: usize = 1_000;
    const BLOBS: usize = 20;
    let _alone = DESCRIPTORS.lock().await;
    let layout = Layout::empty();
    let blobs: Vec<_> = (0..BLOBS).map(|n| noise(100 + n as u64, 700_000)).collect();
    let digests: Vec<_> = blobs.iter().map(|bytes| layout.put(bytes)).collect();
    let site = Site::start(&layout, &[], &[]).await;
    for digest in &digests {
        site.server.found(digest.as_str()).await;
    }
    let (blobs, digests) = (Arc::new(blobs), Arc::new(digests));
    let idle = site.asker.process.own_memory_peak_bytes();
    let mut pulls = JoinSet::new();
    for n in 0..PULLS {
        let (blobs, digests, mirror) = (Arc::clone(&blobs), Arc::clone(&digests), site.asker.mirror);
        pulls.spawn(async move {
            let answer = get(mirror, &blob(&digests[n % BLOBS])).await.unwrap();
            match answer.status {
                200 => is_blob(&answer, &blobs[n % BLOBS]),
                // The holder's slots are limited: other requests go on to the registry.
                404 => {}
                other => panic!("{other}: {}", answer.text()),
            }
            answer.status
        });
    }
    // Asks until one is served. How many of a thousand are depends on the machine: lookups and pulls have
    // deadlines, and the other requests go on to the registry.
    within("one is served among them", SOON, async || {
        let answer = get(site.asker.mirror, &blob(&digests[0])).await.unwrap();
        (answer.status == 200).then_some(())
    })
    .await;
    let statuses = tokio::time::timeout(SOON, pulls.join_all()).await.expect("all are answered");
    let served = statuses.iter().filter(|status| **status == 200).count();
    let held = site.asker.process.own_memory_peak_bytes();
    let by_holder = site.holder.process.own_memory_peak_bytes();
    println!(
        "{served} of {PULLS} from the peer; memory {} MiB before, {} MiB at most",
        idle >> 20,
        held >> 20
    );
    println!("the holder: {} MiB at most", by_holder >> 20);
    assert!(held < AGENT_MEMORY_MAX, "{} MiB", held >> 20);
    assert!(by_holder < AGENT_MEMORY_MAX, "holder: {} MiB", by_holder >> 20);
    within("it goes on", SOON, async || {
        let answer = get(site.asker.mirror, &blob(&digests[0])).await.unwrap();
        (answer.status == 200).then_some(())
    })
    .await;
}

/// A server or peer that does not work.
enum Broken {
    /// Nothing listens at the address.
    Refuses,
    /// Accepts connections and requests, and answers none; records the lookups.
    Silent { address: SocketAddr, lookups: Arc<std::sync::Mutex<Vec<String>>>, _accepting: JoinSet<()> },
    /// Drops every packet.
    Swallows(Swallowing),
}

impl Broken {
    fn url(&self) -> String {
        match self {
            Broken::Refuses => format!("http://{}", free_address()),
            Broken::Silent { address, .. } => format!("http://{address}"),
            Broken::Swallows(swallowing) => format!("http://{}", swallowing.address),
        }
    }

    async fn silent() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, lookups) =
            (listener.local_addr().unwrap(), Arc::<std::sync::Mutex<Vec<String>>>::default());
        let (counted, mut accepting) = (Arc::clone(&lookups), JoinSet::new());
        let begun = Instant::now();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, peer) = listener.accept().await.unwrap();
                let lookups = Arc::clone(&counted);
                connections.spawn(async move {
                    let mut request = vec![0; 4_096];
                    while let Ok(read @ 1..) = stream.read(&mut request).await {
                        let request = String::from_utf8_lossy(&request[..read]);
                        if request.contains("findkey?key=sha256%3A00") {
                            let arrived = format!("{:?} from {peer}: {request}", begun.elapsed());
                            lookups.lock().unwrap().push(arrived);
                        }
                    }
                });
            }
        });
        Self::Silent { address, lookups, _accepting: accepting }
    }
}

/// Pulls like containerd: the manifest, then the rest, three at a time.
async fn pull_of_twenty(mirror: SocketAddr) -> Duration {
    let digest = |n: usize| format!("sha256:00{n:062x}");
    let start = Instant::now();
    let manifest = get(mirror, &format!("/v2/library/app/manifests/{}", digest(0))).await.unwrap();
    assert_eq!(manifest.status, 404, "{}", manifest.text());
    let mut blobs = JoinSet::new();
    for first in 0..3 {
        blobs.spawn(async move {
            for n in (1..=20).skip(first).step_by(3) {
                let answer = get(mirror, &format!("/v2/library/app/blobs/{}", digest(n))).await.unwrap();
                assert_eq!(answer.status, 404, "{}", answer.text());
            }
        });
    }
    blobs.join_all().await;
    start.elapsed()
}

/// I4. Without Piccolo the same requests would go to the registry at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_with_all_servers_and_peers_down_costs_three_seconds_at_most() {
    const COST_MAX: Duration = Duration::from_secs(3);
    let cases = [
        ("refused", vec![Broken::Refuses, Broken::Refuses, Broken::Refuses]),
        ("silent", vec![Broken::silent().await]),
        ("three silent", vec![Broken::silent().await, Broken::silent().await, Broken::silent().await]),
        ("swallowed", vec![Broken::Swallows(Swallowing::start())]),
        ("one of each", vec![Broken::Swallows(Swallowing::start()), Broken::silent().await, Broken::Refuses]),
    ];
    for (name, broken) in cases {
        let servers = broken.iter().map(Broken::url).collect();
        let agent = Agent::start(Setup { servers, ..Setup::default() }).await;
        let first = pull_of_twenty(agent.mirror).await;
        let second = pull_of_twenty(agent.mirror).await;
        println!("{name}: {first:?}, and {second:?} for the next");
        // A single server is asked again on a new connection.
        let lookups_max = if broken.len() == 1 { 2 } else { 1 };
        assert!(first < COST_MAX && second < COST_MAX, "{name}: {first:?}, {second:?}");
        for server in broken {
            if let Broken::Silent { lookups, .. } = server {
                let lookups = lookups.lock().unwrap();
                assert!(lookups.len() <= lookups_max, "{name}, at a server that says nothing: {lookups:#?}");
            }
        }
    }
}
