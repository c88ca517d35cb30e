//! The registry is away in every way, or answers in every way: who gives a tag, and who gives a
//! digest. (A silent DNS needs a namespace of its own: `tests/e2e/policy.rs`.)

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::agent::testing::*;
use crate::agent::{RegistryPolicy, Sharing};
use crate::oci::Digest;

const REGISTRY: &str = "registry.test:5000";
const NAME: &str = "registry.test:5000/library/test:v1";
/// The promise is 2 s, whatever is wrong with the registry; twice as much here, where others keep the machine busy.
const SERVED_WITHIN: Duration = Duration::from_secs(2 * 2);

/// A registry of which only connections are seen.
struct Bare {
    url: String,
    connections: Arc<AtomicUsize>,
    _queue: Vec<Socket>,
}

impl Bare {
    /// Its queue of connections is full: packets of new ones are thrown away.
    fn that_swallows_packets() -> Self {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue: Vec<Socket> = Vec::new();
        for _ in 0..4 {
            let waiting = socket();
            waiting.set_nonblocking(true).unwrap();
            _ = waiting.connect(&address);
            queue.push(waiting);
        }
        let probe = socket().connect_timeout(&address, Duration::from_millis(200));
        assert!(probe.is_err(), "its queue is not full");
        queue.push(listener);
        Self {
            url: format!("http://{}", address.as_socket().unwrap()),
            connections: Arc::default(),
            _queue: queue,
        }
    }

    /// It answers every hello with an alert.
    fn that_refuses_tls() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                count.fetch_add(1, Ordering::Relaxed);
                _ = stream.write_all(b"\x15\x03\x01\x00\x02\x02\x28"); // handshake_failure
            }
        });
        Self { url, connections, _queue: Vec::new() }
    }
}

async fn node(origin: String, manifests: Sharing) -> Node {
    let policy = RegistryPolicy { origin: Some(origin), manifests, ..RegistryPolicy::default() };
    Node::wish(Wish { registries: [(REGISTRY.to_owned(), policy)].into(), ..Wish::default() }).await
}

/// A node with an image of a manifest and a layer, and another that is told so.
struct Image {
    holder: Node,
    manifest: Vec<u8>,
    layer: Vec<u8>,
}

impl Image {
    async fn held() -> Self {
        let (holder, manifest, layer) = (Node::start().await, manifest("layer"), noise(100_000));
        let digest = holder.store.add(manifest.clone());
        holder.store.tag(NAME, &digest);
        holder.store.add(layer.clone());
        Self { holder, manifest, layer }
    }

    fn known_to(&self, node: &Node) {
        node.servers.hold(NAME, &[self.holder.peer]);
        for bytes in [&self.manifest, &self.layer] {
            node.servers.hold(Digest::of(bytes), &[self.holder.peer]);
        }
    }

    fn by_digest(&self) -> String {
        manifest_target(Digest::of(&self.manifest), REGISTRY)
    }

    fn of_layer(&self) -> String {
        format!("/v2/library/test/blobs/{}?ns={REGISTRY}", Digest::of(&self.layer))
    }
}

/// The answer, if it came within the promise.
async fn timely(what: &str, node: &Node, target: &str) -> Got {
    let start = Instant::now();
    let got = get(node.mirror, target).await;
    assert!(start.elapsed() < SERVED_WITHIN, "{what}: {target} took {:?}", start.elapsed());
    got
}

#[tokio::test]
async fn whatever_keeps_a_registry_from_answering_peers_serve_its_tags_and_digests_in_time() {
    let image = Image::held().await;
    let swallows = Bare::that_swallows_packets();
    let no_tls = Bare::that_refuses_tls();
    let closes = RawPeer::start("", End::Close).await;
    let resets = RawPeer::start("", End::Reset).await;
    let [broken, bad_gateway, unavailable, limited, portal] = [
        RawPeer::start("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", End::Close).await,
        RawPeer::start("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", End::Close).await,
        RawPeer::start("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", End::Close).await,
        RawPeer::start("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", End::Close).await,
        RawPeer::start("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", End::Close)
            .await,
    ];
    let http = |peer: &RawPeer| format!("http://{}", peer.address);
    for (what, origin) in [
        ("refused", format!("http://{}", nobody().await)),
        ("packets swallowed", swallows.url.clone()),
        ("TLS error", no_tls.url.clone()),
        ("closes", http(&closes)),
        ("resets", http(&resets)),
        ("500", http(&broken)),
        ("502", http(&bad_gateway)),
        ("503", http(&unavailable)),
        ("429", http(&limited)),
        ("a web page", http(&portal)),
    ] {
        let node = self::node(origin.clone(), Sharing::Peers).await;
        image.known_to(&node);
        let by_digest = timely(what, &node, &image.by_digest()).await;
        assert_eq!((by_digest.status, &by_digest.body), (200, &image.manifest), "{what}: digest");
        let layer = timely(what, &node, &image.of_layer()).await;
        assert_eq!((layer.status, layer.body == image.layer), (200, true), "{what}: layer");
        let of_origin = |peer: &RawPeer| if http(peer) == origin { peer.asked() } else { 0 };
        let asked: usize = [&closes, &resets, &broken].map(of_origin).iter().sum();
        assert_eq!(asked, 0, "{what}: nobody asks the registry for a digest");
        let tag = timely(what, &node, &manifest_target("v1", REGISTRY)).await;
        assert_eq!((tag.status, &tag.body), (200, &image.manifest), "{what}: tag");

        // Its own word is wanted at every pull: without it there is no image, only its parts.
        let node = self::node(origin, Sharing::Origin).await;
        image.known_to(&node);
        for target in [manifest_target("v1", REGISTRY), image.by_digest()] {
            assert_eq!(
                timely(what, &node, &target).await.status,
                404,
                "{what}: {target} under manifests=origin"
            );
        }
        assert_eq!(timely(what, &node, &image.of_layer()).await.status, 200, "{what}: blobs are shared");
    }
    assert!(no_tls.connections.load(Ordering::Relaxed) > 0, "the registry without TLS was not asked at all");
}

/// I6
#[tokio::test]
async fn while_a_registry_answers_no_peer_serves_its_tags_whatever_it_says() {
    let image = Image::held().await;
    let found = "200 OK\r\nDocker-Content-Digest: sha256:0";
    for status in [found, "401 Unauthorized", "403 Forbidden", "404 Not Found"] {
        let origin =
            RawPeer::start(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"), End::Close).await;
        let url = format!("http://{}", origin.address);
        for manifests in [Sharing::Peers, Sharing::Origin] {
            let node = self::node(url.clone(), manifests).await;
            image.known_to(&node);
            let digest_status = timely(status, &node, &image.by_digest()).await.status;
            let layer_status = timely(status, &node, &image.of_layer()).await.status;
            let asked = origin.asked();
            let tag_status = timely(status, &node, &manifest_target("v1", REGISTRY)).await.status;
            let (digest_expected, probes) = match manifests {
                Sharing::Peers => (200, 1),
                Sharing::Origin => (404, 0),
            };
            let found = (tag_status, digest_status, layer_status);
            assert_eq!(found, (404, digest_expected, 200), "{status}, manifests from {manifests:?}");
            assert_eq!(origin.asked() - asked, probes, "{status}, manifests from {manifests:?}");
        }
        assert_eq!(origin.asked(), 1, "{status}: one probe for the tag, none for digests");
    }
}
