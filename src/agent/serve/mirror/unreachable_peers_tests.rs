//! Peers that are not to be had at all, or of no use: what they cost a pull, whatever its number of blobs
//! (I4). Each pull here asks as containerd does, three layers at a time, and falls back to a registry that
//! costs no time, so that what it took is what this node cost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::agent::RegistryPolicy;
use crate::agent::content::store::Store;
use crate::agent::testing::*;
use crate::limits::{CANDIDATES, SOURCE_STALL_TIMEOUT, STALL_BUDGET};
use crate::oci::Digest;
use crate::task::Stop;

/// What a pull may cost more than without us is 3 s; twice as much here, where others keep the machine busy. What is
/// found are costs of each layer: tens of seconds.
const COST_MAX: Duration = Duration::from_secs(3 * 2);
/// As containerd does.
const LAYERS_AT_ONCE: usize = 3;

/// What a pull was like.
struct Pulled {
    took: Duration,
    from_peers: usize,
}

/// Pulls `layers` through the mirror of `node`. A cut is followed by a request for the rest, and whatever
/// is not answered properly then comes from the registry.
async fn pull(node: &Node, layers: &[Digest]) -> Pulled {
    let (start, from_peers) = (Instant::now(), AtomicUsize::new(0));
    let one = |digest: Digest| {
        let from_peers = &from_peers;
        async move {
            let mut got = long_get(node.mirror, &blob_target(&digest), "").await;
            if got.status == 200 && !got.is_complete() {
                let range = format!("Range: bytes={}-\r\n", got.body.len());
                let range = if got.body.is_empty() { String::new() } else { range };
                got = long_get(node.mirror, &blob_target(&digest), &range).await;
            }
            from_peers.fetch_add(usize::from(got.is_complete() && got.status < 300), Ordering::Relaxed);
        }
    };
    futures_util::stream::iter(layers.iter().cloned())
        .map(one)
        .buffer_unordered(LAYERS_AT_ONCE)
        .count()
        .await;
    Pulled { took: start.elapsed(), from_peers: from_peers.into_inner() }
}

/// [`request`] allows less than a slow source takes.
async fn long_get(address: SocketAddr, target: &str, headers: &str) -> Got {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).await.map(|_| ()).map_err(|error| error.kind());
        Got::parse(&bytes, end)
    };
    tokio::time::timeout(Duration::from_secs(60), exchange).await.expect("an answer that ends")
}

/// Layers that nobody but `holders` has, by their word.
fn layers(node: &Node, image: &str, count: usize, holders: &[SocketAddr]) -> Vec<Digest> {
    let layers: Vec<_> = (0..count).map(|n| Digest::of(format!("{image} {n}").as_bytes())).collect();
    layers.iter().for_each(|layer| node.servers.hold(layer, holders));
    layers
}

fn notices(node: &Node) -> String {
    node.notices.texts().join("\n")
}

/// The commonest mistake of a rollout: a firewall between the nodes drops what goes to the peers' port.
#[tokio::test]
async fn a_pull_of_30_layers_with_every_peer_black_holed_costs_at_most_3_s_and_the_next_one_nothing() {
    let node = Node::start().await;
    let holes: Vec<_> = (0..CANDIDATES).map(|_| Swallowing::start()).collect();
    let addresses: Vec<_> = holes.iter().map(|hole| hole.address).collect();
    let first = pull(&node, &layers(&node, "first", 30, &addresses)).await;
    assert!(first.took < COST_MAX, "{:?}", first.took);
    let second = pull(&node, &layers(&node, "second", 30, &addresses)).await;
    assert!(second.took < COST_MAX / 2, "{:?}", second.took);
    assert!(notices(&node).contains("no peer can be reached: "), "{}", notices(&node));
    assert!(notices(&node).contains("open between the nodes?"));

    // The firewall is opened; nobody needs to restart anything.
    let bytes = noise(100_000);
    let holder = Node::with(&bytes).await;
    let digest = Digest::of(&bytes);
    node.servers.hold(&digest, &[holder.peer]);
    let reached = async {
        while get(node.mirror, &blob_target(&digest)).await.body != bytes {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, reached).await.is_ok(), "a peer that can be reached is found");
    assert_eq!(notices(&node), "");
}

/// Two nodes, and one of them behind a firewall.
#[tokio::test]
async fn a_lone_holder_that_is_black_holed_costs_one_connection_and_is_named() {
    let node = Node::start().await;
    let hole = Swallowing::start();
    let pulled = pull(&node, &layers(&node, "image", 30, &[hole.address])).await;
    assert!(pulled.took < COST_MAX / 2, "{:?}", pulled.took);
    let expected = format!("no peer can be reached: 1 of 1; is port {} open", hole.address.port());
    assert!(notices(&node).starts_with(&expected), "{}", notices(&node));
}

#[tokio::test]
async fn with_half_of_the_peers_walled_off_all_layers_still_come_from_the_others_and_soon() {
    let (node, holder) = (Node::start().await, Node::start().await);
    let holes: Vec<_> = (0..CANDIDATES / 2).map(|_| Swallowing::start()).collect();
    let mut layers = Vec::new();
    for n in 0..30_usize {
        let digest = holder.store.add(noise(1_000 + n));
        let mut holders: Vec<_> = holes.iter().map(|hole| hole.address).collect();
        holders.rotate_left(n % holes.len());
        holders.push(holder.peer);
        node.servers.hold(&digest, &holders);
        layers.push(digest);
    }
    let pulled = pull(&node, &layers).await;
    assert_eq!(pulled.from_peers, layers.len());
    assert!(pulled.took < COST_MAX, "{:?}", pulled.took);
    assert_eq!(notices(&node), "", "some are reached");
}

/// Half of a site is walled off, and this node has good peers in the other half all the time.
#[tokio::test]
async fn holders_behind_a_wall_cost_little_although_other_peers_answer() {
    let (node, holder) = (Node::start().await, Node::start().await);
    let holes: Vec<_> = (0..CANDIDATES).map(|_| Swallowing::start()).collect();
    let behind: Vec<_> = holes.iter().map(|hole| hole.address).collect();
    let mut all = layers(&node, "behind the wall", 15, &behind);
    for n in 0..15_usize {
        let digest = holder.store.add(noise(1_000 + n));
        node.servers.hold(&digest, &[holder.peer]);
        all.insert(n * 2, digest);
    }
    let pulled = pull(&node, &all).await;
    assert!(pulled.took < COST_MAX, "{:?}", pulled.took);
    assert!(pulled.from_peers >= 13, "{}", pulled.from_peers);
}

#[tokio::test]
async fn peers_that_accept_and_say_nothing_cost_a_pull_at_most_3_s() {
    let node = Node::start().await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(RawPeer::start("", End::Hang).await);
    }
    let addresses: Vec<_> = silent.iter().map(|peer| peer.address).collect();
    let pulled = pull(&node, &layers(&node, "image", 30, &addresses)).await;
    assert!(pulled.took < COST_MAX, "{:?}", pulled.took);
    assert!(notices(&node).contains("no peer can be reached: "), "{}", notices(&node));
}

#[tokio::test]
async fn peers_that_are_always_busy_or_reset_cost_a_pull_at_most_3_s() {
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    for (answer, end) in [(busy, End::Close), ("", End::Reset)] {
        let node = Node::start().await;
        let mut peers = Vec::new();
        for _ in 0..4 {
            peers.push(RawPeer::start(answer, end).await);
        }
        let addresses: Vec<_> = peers.iter().map(|peer| peer.address).collect();
        let pulled = pull(&node, &layers(&node, "image", 30, &addresses)).await;
        // Each reset comes after 100 ms, of four peers in turn.
        let allowed = if end == End::Reset { COST_MAX * 3 } else { COST_MAX };
        assert!(pulled.took < allowed, "{end:?}: {:?}", pulled.took);
        assert_eq!(notices(&node), "", "they are there");
    }
}

#[tokio::test]
async fn layers_whose_data_does_not_arrive_cost_9_s_at_most_when_the_manifests_did() {
    let node = Node::start().await;
    let mut holders = Vec::new();
    for _ in 0..6 {
        holders.push(RawPeer::ok(2_000_000, b"", End::Hang).await);
    }
    let addresses: Vec<_> = holders.iter().map(|peer| peer.address).collect();
    let pulled = pull(&node, &layers(&node, "image", 10, &addresses)).await;
    assert!(pulled.took < STALL_BUDGET + COST_MAX, "{:?}", pulled.took);
}

/// A tunnel with a smaller MTU than the interfaces say: connections and headers pass, data does not.
#[tokio::test]
async fn peers_whose_data_does_not_arrive_cost_the_first_image_9_s_at_most_and_the_second_3_s() {
    let node = Node::start().await;
    let mut holders = Vec::new();
    for _ in 0..6 {
        holders.push(RawPeer::ok(2_000_000, b"", End::Hang).await);
    }
    let addresses: Vec<_> = holders.iter().map(|peer| peer.address).collect();
    let start = Instant::now();
    for manifest in layers(&node, "manifests", 2, &addresses) {
        assert_eq!(get(node.mirror, &manifest_target(manifest, "registry.test")).await.status, 404);
    }
    pull(&node, &layers(&node, "first", 10, &addresses)).await;
    assert!(start.elapsed() < STALL_BUDGET + COST_MAX, "{:?}", start.elapsed());
    let second = pull(&node, &layers(&node, "second", 10, &addresses)).await;
    assert!(second.took < COST_MAX, "{:?}", second.took);
    assert!(notices(&node).contains("their data does not arrive"), "{}", notices(&node));
    assert!(!notices(&node).contains("no peer can be reached"), "{}", notices(&node));
}

#[tokio::test]
async fn a_request_waits_for_stalled_sources_6_s_in_all_and_says_what_was_wrong() {
    let node = patient().await;
    let mut holders = Vec::new();
    for _ in 0..4 {
        holders.push(RawPeer::ok(2_000_000, b"", End::Hang).await);
    }
    let addresses: Vec<_> = holders.iter().map(|peer| peer.address).collect();
    let layer = layers(&node, "image", 1, &addresses).remove(0);
    let start = Instant::now();
    let got = get(node.mirror, &blob_target(&layer)).await;
    assert!(start.elapsed() < STALL_BUDGET + COST_MAX, "{:?}", start.elapsed());
    assert_eq!(got.status, 404);
    assert!(got.text().contains("the bytes of peers stopped coming"), "{}", got.text());
}

#[tokio::test]
async fn a_holder_that_stalled_is_not_waited_for_with_another_digest() {
    let (one, two) = (noise(100_000), noise(100_008)[8..].to_vec());
    let (node, holder) = (patient().await, Node::with(&one).await);
    holder.store.add(two.clone());
    let stalls = RawPeer::ok(100_000, b"", End::Hang).await;
    let mut took = Vec::new();
    for bytes in [&one, &two] {
        node.servers.hold(Digest::of(bytes), &[stalls.address, holder.peer]);
        let start = Instant::now();
        let got = get(node.mirror, &blob_target(&Digest::of(bytes))).await;
        assert!(got.status == 200 && got.body == *bytes);
        took.push(start.elapsed());
    }
    assert!(took[1] < SOURCE_STALL_TIMEOUT, "{took:?}");
}

/// The probe needs the data, not only the headers.
#[tokio::test]
async fn a_holder_that_stalled_once_is_asked_again_when_its_data_arrives() {
    let (one, two) = (noise(100_000), noise(200_000));
    let node = patient().await;
    let digests = [Digest::of(&one), Digest::of(&two)];
    let frozen = Arc::new(AtomicBool::new(true));
    let (is_frozen, right) = (Arc::clone(&frozen), [one.clone(), two.clone()]);
    let names = digests.clone();
    let peer = Paced::start(move |request| {
        let at = names.iter().position(|name| request.contains(name.as_str())).unwrap_or(0);
        let now = if is_frozen.load(Ordering::Relaxed) { 0 } else { usize::MAX };
        (right[at].clone(), now)
    })
    .await;
    digests.iter().for_each(|digest| node.servers.hold(digest, &[peer.address]));
    assert_eq!(get(node.mirror, &blob_target(&digests[0])).await.status, 404);
    let refused = get(node.mirror, &blob_target(&digests[1])).await;
    assert_eq!(refused.status, 404);
    assert!(refused.text().contains("none of its 1 holders answered and delivered"), "{}", refused.text());
    frozen.store(false, Ordering::Relaxed);
    let asked_again = async {
        while get(node.mirror, &blob_target(&digests[1])).await.body != two {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, asked_again).await.is_ok(), "it is never asked again");
}

/// The way to a node that is shut at first: who connects is heard by nobody.
struct Gate {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
    stop: Stop,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Gate {
    async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop, tasks) = (listener.local_addr().unwrap(), Stop::new(), TaskTracker::new());
        let is_open = Arc::new(AtomicBool::new(false));
        let (stopped, opened, connections) = (stop.clone(), Arc::clone(&is_open), tasks.clone());
        tasks.spawn(async move {
            while let Some(Ok((mut stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let is_open = opened.load(Ordering::Relaxed);
                connections.spawn(async move {
                    if is_open {
                        let mut behind = tokio::net::TcpStream::connect(target).await?;
                        tokio::io::copy_bidirectional(&mut stream, &mut behind).await?;
                    }
                    _ = stream.read_to_end(&mut Vec::new()).await;
                    std::io::Result::Ok(())
                });
            }
        });
        Self { address, is_open, stop }
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }
}

/// A site without its registry, whose first request is for a tag while the network is not up yet: without the tag
/// nothing is asked for by digest that would start a probe.
#[tokio::test]
async fn peers_that_did_not_answer_for_a_tag_are_asked_for_it_when_they_can_be_reached() {
    const REGISTRY: &str = "registry.test:5000";
    let origin = Some(format!("http://{}", nobody().await));
    let policy = RegistryPolicy { origin, ..RegistryPolicy::default() };
    let node =
        Node::wish(Wish { registries: [(REGISTRY.to_owned(), policy)].into(), ..Wish::default() }).await;
    let (holder, bytes) = (Node::start().await, manifest("a"));
    let digest = holder.store.add(bytes.clone());
    let name = format!("{REGISTRY}/library/test:v1");
    holder.store.tag(&name, &digest);
    let gates = [Gate::before(holder.peer).await, Gate::before(holder.peer).await];
    node.servers.hold(&name, &gates.each_ref().map(|gate| gate.address));
    let target = manifest_target("v1", REGISTRY);
    for _ in 0..3 {
        assert_eq!(get(node.mirror, &target).await.status, 404);
    }
    assert!(notices(&node).contains("no peer can be reached: 2 of 2"), "{}", notices(&node));
    gates.iter().for_each(Gate::open);
    let answered = async {
        while get(node.mirror, &target).await.body != bytes {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, answered).await.is_ok(), "they are never asked again");
    assert!(!notices(&node).contains("no peer can be reached"), "{}", notices(&node));
}

/// Manifests are small: that all of one has come is as much as anybody can ask for.
#[tokio::test]
async fn a_holder_that_stalled_with_a_manifest_is_asked_again_when_all_of_it_arrives() {
    let (node, bytes) = (patient().await, manifest("a"));
    let frozen = Arc::new(AtomicBool::new(true));
    let (is_frozen, right) = (Arc::clone(&frozen), bytes.clone());
    let peer = Paced::start(move |_| {
        let now = if is_frozen.load(Ordering::Relaxed) { 0 } else { usize::MAX };
        (right.clone(), now)
    })
    .await;
    let digest = Digest::of(&bytes);
    node.servers.hold(&digest, &[peer.address]);
    let target = manifest_target(&digest, "registry.test");
    assert_eq!(get(node.mirror, &target).await.status, 404);
    frozen.store(false, Ordering::Relaxed);
    let asked_again = async {
        while get(node.mirror, &target).await.body != bytes {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, asked_again).await.is_ok(), "it is never asked again");
}

/// A peer that sends so many bytes of a body ten times a second.
struct Paced {
    address: SocketAddr,
    stop: Stop,
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Paced {
    /// `answer`: the body for a request, and how much of it is sent at a time; 0: nothing.
    async fn start(answer: impl Fn(&str) -> (Vec<u8>, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop, tasks) = (listener.local_addr().unwrap(), Stop::new(), TaskTracker::new());
        let (stopped, connections, answer) = (stop.clone(), tasks.clone(), Arc::new(answer));
        tasks.spawn(async move {
            while let Some(Ok((mut stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let answer = Arc::clone(&answer);
                connections.spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        request.push(stream.read_u8().await?);
                    }
                    let (body, at_a_time) = answer(&String::from_utf8_lossy(&request));
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    stream.write_all(head.as_bytes()).await?;
                    if at_a_time == 0 {
                        _ = stream.read_u8().await;
                        return Ok(());
                    }
                    for piece in body.chunks(at_a_time.min(body.len().max(1))) {
                        stream.write_all(piece).await?;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    stream.shutdown().await
                });
            }
        });
        Self { address, stop }
    }
}

/// A lone holder at 80 KiB/s must not keep a pull from a registry that sends 10 MiB/s.
#[tokio::test]
async fn a_holder_that_is_far_slower_than_the_registry_lately_is_given_up_for_it() {
    let node = Node::start().await;
    // Nobody has this one: containerd gets it from the registry.
    let first = Digest::of(b"from the registry");
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = file.reopen().unwrap();
    node.store.add_partial(&first, 20 << 20, file.into_file());
    assert_eq!(get(node.mirror, &blob_target(&first)).await.status, 404);
    for _ in 0..10 {
        std::io::Write::write_all(&mut writer, &vec![1; 1 << 20]).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::io::Write::write_all(&mut writer, &vec![1; 10 << 20]).unwrap();

    let answers = Arc::new(std::sync::Mutex::new(noise(10 << 20)));
    let answer = Arc::clone(&answers);
    let slow = Paced::start(move |_| (answer.lock().unwrap().clone(), 8 << 10)).await;
    let all = layers(&node, "image", 12, &[slow.address]);
    let pulled = pull(&node, &all).await;
    assert_eq!(pulled.from_peers, 0);
    // At its own rate each layer would take two minutes.
    assert!(pulled.took < Duration::from_secs(20), "{:?}", pulled.took);
    assert_eq!(notices(&node), "", "slow is not out of reach");

    // The registry is gone now: who was told to go there and comes back has not found it.
    let small = noise(5_000);
    *answers.lock().unwrap() = small.clone();
    let digest = Digest::of(&small);
    node.servers.hold(&digest, &[slow.address]);
    let refused = get(node.mirror, &blob_target(&digest)).await;
    assert!(refused.text().contains("faster by far"), "{}", refused.text());
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert!(got.status == 200 && got.body == small, "{}", got.text());
}

/// Several honest holders and one wrong size in a manifest: they are right, and nobody tells on them.
#[tokio::test]
async fn a_wrong_size_in_a_manifest_blames_no_holder_and_leaves_the_answer_to_the_registry() {
    let bytes = noise(5_000);
    let digest = Digest::of(&bytes);
    let node = patient().await;
    let holders = [Node::with(&bytes).await, Node::with(&bytes).await, Node::with(&bytes).await];
    let addresses: Vec<_> = holders.iter().map(|holder| holder.peer).collect();
    node.servers.hold(&digest, &addresses);
    node.store.add_partial(&digest, 5_001, tempfile::tempfile().unwrap());
    let target = blob_target(&digest);
    for _ in 0..2 {
        assert_eq!(get(node.mirror, &target).await.status, 404);
    }
    let got = get_range(node.mirror, &target, "bytes=10-").await;
    assert!(got.text().contains("peers hold it with 5000 bytes, but containerd expects 5001"), "{got:?}");
    // What another manifest says is right.
    node.store.abort_ingests(&digest, std::time::SystemTime::now()).await.unwrap();
    node.store.add_partial(&digest, 5_000, tempfile::tempfile().unwrap());
    let got = get(node.mirror, &target).await;
    assert!(got.status == 200 && got.body == bytes, "{}", got.text());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let reports = node.servers.reports.lock().unwrap().clone();
    assert!(reports.is_empty(), "{reports:?}");
}

#[tokio::test]
async fn a_holder_of_another_length_is_told_on_when_another_one_has_what_is_expected() {
    let bytes = noise(5_000);
    let digest = Digest::of(&bytes);
    let (node, holder) = (patient().await, Node::with(&bytes).await);
    let liar = RawPeer::ok(4_000, &bytes[..4_000], End::Close).await;
    node.servers.hold(&digest, &[liar.address, holder.peer]);
    node.store.add_partial(&digest, 5_000, tempfile::tempfile().unwrap());
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert!(got.status == 200 && got.body == bytes);
    let told = || node.servers.reports.lock().unwrap().iter().any(|r| r.holder == liar.address.to_string());
    until("the liar is reported", told).await;
}
