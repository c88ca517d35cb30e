//! Blobs that pass through nodes while they are still arriving.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::agent::discovery::FlightOffer;
use crate::agent::flight::running::Role;
use crate::agent::testing::*;
use crate::agent::{FlightPolicy, RegistryPolicy, Sharing};
use crate::api::flight::FlightClaim;
use crate::limits::{FLIGHT_MANIFEST_BYTES_MAX, VERIFIED_WHOLE_BYTES_MAX};
use crate::oci::Digest;

const MIB: usize = 1 << 20;
const SMALL: usize = 6 * MIB;
const LARGE: usize = VERIFIED_WHOLE_BYTES_MAX as usize + 4 * MIB;

/// What containerd writes on one node.
struct Ingest(NamedTempFile);

impl Ingest {
    /// An empty one, of a blob of `bytes`.
    fn begin(node: &Node, bytes: &[u8]) -> Self {
        let file = NamedTempFile::new().unwrap();
        node.store.add_partial(&Digest::of(bytes), bytes.len() as u64, file.reopen().unwrap());
        Self(file)
    }

    fn write(&mut self, bytes: &[u8]) {
        std::io::Write::write_all(&mut self.0, bytes).unwrap();
    }
}

/// A node whose containerd fetches a blob from its registry.
async fn fetcher(bytes: &[u8]) -> (Node, Ingest) {
    fetches(Node::start().await, bytes)
}

/// The same of this node.
fn fetches(node: Node, bytes: &[u8]) -> (Node, Ingest) {
    let ingest = Ingest::begin(&node, bytes);
    let file = ingest.0.reopen().unwrap();
    let reception = node.flights.receive(&Digest::of(bytes), bytes.len() as u64, file).unwrap();
    reception.fetches();
    (node, ingest)
}

fn sources(nodes: &[SocketAddr]) -> FlightOffer {
    FlightOffer { partial: nodes.to_vec(), claim: Some(FlightClaim::Held), came: 2, ..FlightOffer::default() }
}

fn claim(claim: FlightClaim) -> FlightOffer {
    FlightOffer { claim: Some(claim), came: 1, ..FlightOffer::default() }
}

/// A pull by a containerd that writes what it gets, piece by piece. Returns all of it, and how the connection ended.
async fn pull(mirror: SocketAddr, digest: Digest, mut ingest: Ingest) -> Got {
    let mut stream = TcpStream::connect(mirror).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", blob_target(&digest));
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut all, mut head_ends) = (Vec::new(), None);
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) => break Err(error.kind()),
        }
        let begins = all.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let written = head_ends.or(begins);
        if let Some(from) = written {
            ingest.write(&all[from..]);
            head_ends = Some(all.len());
        }
    };
    Got::parse(&all, end)
}

/// Nodes that pull `bytes`, each from the one before it, and the first one from `first`.
async fn chain(bytes: &[u8], first: SocketAddr, nodes: usize) -> (Vec<Node>, Pulls) {
    let (mut source, mut chain, pulls) = (first, Vec::new(), TaskTracker::new());
    let mut got = Vec::new();
    for _ in 0..nodes {
        let node = Node::wish(Wish { resolve_timeout: Duration::from_secs(1), ..Wish::default() }).await;
        let digest = Digest::of(bytes);
        node.servers.fly(&digest, sources(&[source]));
        source = node.peer;
        let ingest = Ingest::begin(&node, bytes);
        got.push(pulls.spawn(pull(node.mirror, digest, ingest)));
        chain.push(node);
    }
    (chain, Pulls(got))
}

struct Pulls(Vec<tokio::task::JoinHandle<Got>>);

impl Pulls {
    async fn end(self) -> Vec<Got> {
        let mut all = Vec::new();
        for pull in self.0 {
            all.push(tokio::time::timeout(SOON, pull).await.expect("a pull that ends").unwrap());
        }
        all
    }
}

fn receives_from(node: &Node, bytes: &[u8], source: &Node) -> bool {
    let flight = node.flights.get(&Digest::of(bytes));
    flight.is_some_and(|flight| flight.role() == Role::Receives { source: source.peer })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_passes_through_a_chain_while_it_arrives_at_the_first_node() {
    for length in [SMALL, LARGE] {
        let bytes = noise(length);
        let (first, mut ingest) = fetcher(&bytes).await;
        let (chain, pulls) = chain(&bytes, first.peer, 3).await;
        until("the chain is there", || {
            receives_from(&chain[0], &bytes, &first)
                && receives_from(&chain[1], &bytes, &chain[0])
                && receives_from(&chain[2], &bytes, &chain[1])
        })
        .await;
        ingest.write(&bytes[..length / 2]);
        let digest = Digest::of(&bytes);
        let have = |node: &Node| node.flights.get(&digest).unwrap().have_bytes();
        until("the last node has most of the first half", || have(&chain[2]) > length as u64 / 4).await;
        ingest.write(&bytes[length / 2..]);
        for got in pulls.end().await {
            assert!(got.status == 200 && got.is_complete() && got.body == bytes, "{} bytes", got.body.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_source_sends_the_next_node_to_its_child() {
    let bytes = noise(SMALL);
    let (first, mut ingest) = fetcher(&bytes).await;
    let (child, pulls) = chain(&bytes, first.peer, 1).await;
    until("the child is there", || receives_from(&child[0], &bytes, &first)).await;
    let (next, more) = chain(&bytes, first.peer, 1).await;
    until("the next one is behind it", || receives_from(&next[0], &bytes, &child[0])).await;
    ingest.write(&bytes);
    for got in pulls.end().await.into_iter().chain(more.end().await) {
        assert!(got.is_complete() && got.body == bytes, "{} bytes", got.body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_gone_is_replaced_at_the_same_byte() {
    let bytes = noise(LARGE);
    let (first, mut ingest) = fetcher(&bytes).await;
    let (mut nodes, mut pulls) = chain(&bytes, first.peer, 2).await;
    until("the chain is there", || receives_from(&nodes[1], &bytes, &nodes[0])).await;
    nodes[1].servers.fly(Digest::of(&bytes), sources(&[first.peer]));
    ingest.write(&bytes[..LARGE / 2]);
    let digest = Digest::of(&bytes);
    until("some have come", || nodes[1].flights.get(&digest).unwrap().have_bytes() > 1).await;
    // Its containerd gives up, so that nothing comes there any more.
    pulls.0[0].abort();
    let _middle = nodes.remove(0);
    until("the last one has the first one as its source", || receives_from(&nodes[0], &bytes, &first)).await;
    ingest.write(&bytes[LARGE / 2..]);
    let last = tokio::time::timeout(SOON, pulls.0.pop().unwrap()).await.unwrap().unwrap();
    assert!(last.is_complete() && last.body == bytes, "{} bytes", last.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_with_the_claim_and_all_nodes_of_an_open_key_go_to_the_registry_at_once() {
    for ruling in [FlightClaim::Yours, FlightClaim::Open] {
        let bytes = noise(SMALL);
        let node = patient().await;
        let digest = Digest::of(&bytes);
        node.servers.fly(&digest, claim(ruling));
        let start = Instant::now();
        let got = pull(node.mirror, digest.clone(), Ingest::begin(&node, &bytes)).await;
        assert_eq!(got.status, 404, "{}", got.text());
        assert!(start.elapsed() < SOON / 2, "{:?}", start.elapsed());
        assert!(matches!(node.flights.get(&digest).unwrap().role(), Role::Fetches { .. }));
        let question = node.servers.flight_questions.lock().unwrap()[0];
        assert!(question.begins && question.have_bytes == 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_reach_the_fetcher_tells_the_owner_until_that_rules_on_the_claim() {
    let (bytes, node, gone) = (noise(SMALL), patient().await, nobody().await);
    let digest = Digest::of(&bytes);
    node.servers.fly(&digest, FlightOffer { fetcher: Some(gone), ..sources(&[gone]) });
    let ingest = Ingest::begin(&node, &bytes);
    let pulling = TaskTracker::new().spawn(pull(node.mirror, digest.clone(), ingest));
    let said = || {
        let questions = node.servers.flight_questions.lock().unwrap();
        questions.iter().filter(|question| question.lost == Some(gone)).count()
    };
    until("it has said so twice", || said() >= 2).await;
    node.servers.fly(&digest, claim(FlightClaim::Yours));
    let got = tokio::time::timeout(SOON, pulling).await.expect("a pull that ends").unwrap();
    assert_eq!(got.status, 404, "{}", got.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_in_its_body_until_a_server_says_that_it_fetches() {
    let bytes = noise(SMALL);
    let (first, _ingest) = fetcher(&bytes).await;
    let (nodes, pulls) = chain(&bytes, first.peer, 1).await;
    let digest = Digest::of(&bytes);
    until("it waits", || receives_from(&nodes[0], &bytes, &first)).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    nodes[0].servers.fly(&digest, claim(FlightClaim::Yours));
    let got = pulls.end().await.pop().unwrap();
    assert_eq!((got.status, got.body.len(), got.end), (200, 0, Ok(())), "cut without bytes");
    let again = get(nodes[0].mirror, &blob_target(&digest)).await;
    assert_eq!(again.status, 404, "containerd goes on to the registry");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_reach_neither_containerd_nor_a_report() {
    let bytes = noise(SMALL);
    let (first, mut ingest) = fetcher(&bytes).await;
    let (nodes, pulls) = chain(&bytes, first.peer, 1).await;
    until("it waits", || receives_from(&nodes[0], &bytes, &first)).await;
    let right = Node::with(&bytes).await;
    let digest = Digest::of(&bytes);
    nodes[0].servers.hold(&digest, &[right.peer]);
    nodes[0].servers.fly(&digest, FlightOffer { attempt: 1, ..sources(&[first.peer]) });
    let mut wrong = bytes.clone();
    wrong[SMALL / 2] ^= 1;
    ingest.write(&wrong);
    let got = pulls.end().await.pop().unwrap();
    assert!(got.is_complete() && got.body == bytes, "{} {} bytes", got.status, got.body.len());
    assert!(nodes[0].servers.reports.lock().unwrap().is_empty(), "a node cannot know what it passes on");
    assert_eq!(*first.servers.wrong.lock().unwrap(), [(digest.to_string(), 0)], "the fetcher has found it");
    assert_eq!(*nodes[0].servers.wrong.lock().unwrap(), [], "nobody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_children_of_a_node_that_has_wrong_bytes_begin_again_with_it() {
    let bytes = noise(SMALL);
    let digest = Digest::of(&bytes);
    let (first, mut ingest) = fetcher(&bytes).await;
    let (chain, pulls) = chain(&bytes, first.peer, 3).await;
    until("the chain is there", || {
        receives_from(&chain[1], &bytes, &chain[0]) && receives_from(&chain[2], &bytes, &chain[1])
    })
    .await;
    // What the owner of the key says once the attempt has ended.
    let (second, mut again) = fetcher(&bytes).await;
    second.flights.get(&digest).unwrap().enter(1, 0);
    for node in &chain {
        node.servers.fly(&digest, FlightOffer { attempt: 1, ..sources(&[second.peer]) });
    }
    let mut wrong = bytes.clone();
    wrong[0] ^= 1;
    ingest.write(&wrong);
    until("all have the second one before them", || {
        chain.iter().all(|node| node.flights.get(&digest).unwrap().attempt() == 1)
    })
    .await;
    again.write(&bytes);
    for got in pulls.end().await {
        assert!(got.is_complete() && got.body == bytes, "{} {} bytes", got.status, got.body.len());
    }
    assert!(first.servers.wrong.lock().unwrap().len() == 1);
    assert!(chain.iter().all(|node| node.servers.wrong.lock().unwrap().is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_wrong_bytes_that_no_source_has_found_tells_the_servers() {
    for length in [SMALL, LARGE] {
        let bytes = noise(length);
        let digest = Digest::of(&bytes);
        let (first, mut ingest) = fetcher(&bytes).await;
        // A liar: it says that it has verified the bytes.
        first.flights.get(&digest).unwrap().growing().is_right();
        let (nodes, mut pulls) = chain(&bytes, first.peer, 1).await;
        until("it waits", || receives_from(&nodes[0], &bytes, &first)).await;
        let mut wrong = bytes.clone();
        wrong[length / 2] ^= 1;
        ingest.write(&wrong);
        until("the servers know it", || !nodes[0].servers.wrong.lock().unwrap().is_empty()).await;
        assert_eq!(*nodes[0].servers.wrong.lock().unwrap(), [(digest.to_string(), 0)]);
        nodes[0].servers.fly(&digest, claim(FlightClaim::Yours));
        let got = tokio::time::timeout(SOON, pulls.0.pop().unwrap()).await.unwrap().unwrap();
        assert!(got.status == 404 || !got.is_complete(), "{length}: {} {} bytes", got.status, got.body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_of_the_blob_sends_it_to_one_node_and_names_it_to_others() {
    let bytes = noise(LARGE);
    let rate = 16 * MIB as u64;
    let store = crate::agent::content::store::MemoryStore::new();
    store.add(bytes.clone());
    let holder = Node::wish(Wish { store, upload_bytes_per_second: rate, ..Wish::default() }).await;
    let (first, pulls) = chain(&bytes, holder.peer, 1).await;
    until("the first one is there", || receives_from(&first[0], &bytes, &holder)).await;
    let (next, more) = chain(&bytes, holder.peer, 1).await;
    until("the next one is behind it", || receives_from(&next[0], &bytes, &first[0])).await;
    for got in pulls.end().await.into_iter().chain(more.end().await) {
        assert!(got.is_complete() && got.body == bytes, "{} bytes", got.body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_ingest_or_where_policy_keeps_content_back_there_is_no_flight() {
    let off = RegistryPolicy { flights: FlightPolicy::Off, ..RegistryPolicy::default() };
    let kept = RegistryPolicy { manifests: Sharing::Origin, ..RegistryPolicy::default() };
    let may_be_manifest = FLIGHT_MANIFEST_BYTES_MAX as usize;
    for (policy, length, has_ingest, expected) in [
        (RegistryPolicy::default(), SMALL, true, 1),
        (RegistryPolicy::default(), SMALL, false, 0),
        (off, SMALL, true, 0),
        (kept.clone(), may_be_manifest, true, 0),
        (kept, may_be_manifest + 1, true, 1),
    ] {
        let bytes = noise(length);
        let digest = Digest::of(&bytes);
        let registries = [("registry.test".to_owned(), policy.clone())].into();
        let node = Node::wish(Wish { registries, ..Wish::default() }).await;
        node.servers.fly(&digest, claim(FlightClaim::Yours));
        let _ingest = has_ingest.then(|| Ingest::begin(&node, &bytes));
        assert_eq!(get(node.mirror, &blob_target(&digest)).await.status, 404);
        let asked = node.servers.flight_questions.lock().unwrap().len();
        assert_eq!(asked, expected, "{policy:?} {length} {has_ingest}");
    }
}

/// What broke: the names of a blob were looked at when a child joined, and not again.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_sent_no_more_once_its_source_is_asked_under_a_name_that_keeps_the_blob_back() {
    let kept = RegistryPolicy { blobs: Sharing::Origin, ..RegistryPolicy::default() };
    let registries = [("private.test".to_owned(), kept)].into();
    let node = Node::wish(Wish { registries, ..Wish::default() }).await;
    let bytes = noise(LARGE);
    let (first, mut ingest) = fetches(node, &bytes);
    let (child, mut pulls) = chain(&bytes, first.peer, 1).await;
    until("the child is there", || receives_from(&child[0], &bytes, &first)).await;
    ingest.write(&bytes[..LARGE / 2]);
    let digest = Digest::of(&bytes);
    let have = || child[0].flights.get(&digest).unwrap().have_bytes();
    until("half of it has come", || have() > LARGE as u64 / 4).await;
    child[0].servers.fly(&digest, claim(FlightClaim::Yours));
    let private = blob_target(&digest).replace("registry.test", "private.test");
    assert_eq!(get(first.mirror, &private).await.status, 404);
    let mut rest = bytes[LARGE / 2..].chunks(16 * 1024);
    while receives_from(&child[0], &bytes, &first) {
        ingest.write(rest.next().expect("the child is sent all of it"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let got = tokio::time::timeout(SOON, pulls.0.remove(0)).await.expect("a pull that ends").unwrap();
    assert!(got.status == 200 && got.body.len() < LARGE * 3 / 4, "{} {}", got.status, got.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_containerd_gets_its_turn_back_for_what_others_wait_for() {
    let (waited_for, waiting) = (noise(SMALL), noise(LARGE));
    let (first, _ingest) = fetcher(&waiting).await;
    let node = Arc::new(patient().await);
    let (owed, digest) = (Digest::of(&waited_for), Digest::of(&waiting));
    let _owed = Ingest::begin(&node, &waited_for);
    node.servers.fly(&owed, claim(FlightClaim::Yours));
    assert_eq!(get(node.mirror, &blob_target(&owed)).await.status, 404);
    let _waits = Ingest::begin(&node, &waiting);
    node.servers.fly(&digest, sources(&[first.peer]));
    let limited = "User-Agent: containerd/2.1.4\r\n";
    let got = request(node.mirror, "GET", &blob_target(&digest), limited).await;
    assert_eq!((got.status, got.body.len(), got.end), (200, 0, Ok(())), "cut without bytes");
    // It comes back, and waits: neither is it cut again for the same fetch, nor sent to the registry.
    let target = blob_target(&digest);
    let waits = request(node.mirror, "GET", &target, limited);
    assert!(tokio::time::timeout(Duration::from_secs(2), waits).await.is_err());
}
