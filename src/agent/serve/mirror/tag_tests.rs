//! Who says what a tag is.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::agent::testing::*;
use crate::agent::{RegistryPolicy, TagPolicy};
use crate::limits::{ORIGIN_ANSWER_TIMEOUT, RESOLVE_TIMEOUT_DEFAULT};

const REGISTRY: &str = "registry.test:5000";
const NAME: &str = "registry.test:5000/library/test:v1";

async fn node(tags: TagPolicy, origin: Option<String>) -> Node {
    let policy = RegistryPolicy { tags, origin, ..RegistryPolicy::default() };
    let registries = [(REGISTRY.to_owned(), policy)].into();
    Node::wish(Wish { registries, ..Wish::default() }).await
}

/// A node that says that the tag is this manifest.
async fn holder(manifest: &[u8]) -> Node {
    let node = Node::start().await;
    let digest = node.store.add(manifest.to_vec());
    node.store.tag(NAME, &digest);
    node
}

fn target() -> String {
    manifest_target("v1", REGISTRY)
}

async fn origin(head: &str) -> RawPeer {
    RawPeer::start(format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n"), End::Close).await
}

/// I6: whom the registry refuses we do not serve. It answers, whatever it says.
#[tokio::test]
async fn a_tag_is_404_while_its_origin_answers_whatever_it_says() {
    let holder = holder(&manifest("a")).await;
    let found = "200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json";
    for head in [found, "401 Unauthorized", "403 Forbidden", "404 Not Found", "400 Bad Request"] {
        let origin = origin(head).await;
        let node = node(TagPolicy::OriginFirst, Some(format!("http://{}", origin.address))).await;
        node.servers.hold(NAME, &[holder.peer]);
        let own = node.store.add(manifest("own"));
        node.store.tag(NAME, &own);
        for _ in 0..3 {
            let got = get(node.mirror, &target()).await;
            assert_eq!(got.status, 404, "{head}");
            assert!(got.text().contains("MANIFEST_UNKNOWN"));
        }
        assert_eq!(origin.asked(), 1, "the answer is remembered");
        let asked = origin.requests.lock().unwrap()[0].clone();
        assert!(asked.starts_with("HEAD /v2/library/test/manifests/v1 "), "{asked}");
        assert!(!asked.to_lowercase().contains("authorization"), "{asked}");
    }
}

#[tokio::test]
async fn a_tag_comes_from_peers_while_its_origin_is_away_or_broken() {
    let manifest = manifest("a");
    let holder = holder(&manifest).await;
    let broken = origin("503 Service Unavailable").await;
    for origin in [nobody().await, broken.address] {
        let node = node(TagPolicy::OriginFirst, Some(format!("http://{origin}"))).await;
        let stale = Node::start().await;
        let liar = RawPeer::ok(manifest.len(), &manifest, End::Close).await;
        node.servers.hold(NAME, &[stale.peer, liar.address, holder.peer]);
        let got = get(node.mirror, &target()).await;
        assert_eq!((got.status, &got.body), (200, &manifest));
        assert_eq!(got.header("docker-content-digest"), Some(crate::oci::Digest::of(&manifest).as_str()));
        assert_eq!(liar.asked(), 1, "without a digest that fits, its word does not count");
        let got = request(node.mirror, "HEAD", &target(), "").await;
        assert_eq!((got.status, got.body.len()), (200, 0));
        assert_eq!(got.header("content-length"), Some(&*manifest.len().to_string()));
    }
}

/// It has accepted the connection, so it may be slow: only when nothing has come for long, nodes answer.
#[tokio::test]
async fn an_origin_that_accepts_and_never_answers_leaves_its_tags_to_nodes_in_the_end() {
    let manifest = manifest("a");
    let holder = holder(&manifest).await;
    let site = async |resolve_timeout| {
        let silent = RawPeer::start("", End::Hang).await;
        let origin = Some(format!("http://{}", silent.address));
        let policy = RegistryPolicy { origin, ..RegistryPolicy::default() };
        let registries = [(REGISTRY.to_owned(), policy)].into();
        let node = Node::wish(Wish { registries, resolve_timeout, ..Wish::default() }).await;
        node.servers.hold(NAME, &[holder.peer]);
        let start = Instant::now();
        assert_eq!(get(node.mirror, &target()).await.status, 404, "it may be slow");
        assert!(start.elapsed() < RESOLVE_TIMEOUT_DEFAULT * 2, "{:?}", start.elapsed());
        let served = async {
            while get(node.mirror, &target()).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        assert!(tokio::time::timeout(ORIGIN_ANSWER_TIMEOUT + SOON, served).await.is_ok(), "never served");
        let asked = silent.asked();
        assert_eq!(get(node.mirror, &target()).await.status, 200);
        assert_eq!(silent.asked(), asked, "it is remembered");
    };
    tokio::join!(site(RESOLVE_TIMEOUT_DEFAULT), site(Duration::from_millis(300)));
}

#[tokio::test]
async fn an_own_tag_is_answered_while_the_origin_is_away() {
    let node = node(TagPolicy::OriginFirst, Some(format!("http://{}", nobody().await))).await;
    let digest = node.store.add(manifest("own"));
    node.store.tag(NAME, &digest);
    let got = get(node.mirror, &target()).await;
    assert_eq!((got.status, got.header("docker-content-digest")), (200, Some(digest.as_str())));
    assert_eq!(node.servers.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn requests_at_once_share_one_probe_of_the_origin() {
    let origin = origin("404 Not Found").await;
    let node = node(TagPolicy::OriginFirst, Some(format!("http://{}", origin.address))).await;
    let target = target();
    let all = futures_util::future::join_all((0..10).map(|_| get(node.mirror, &target))).await;
    assert!(all.iter().all(|got| got.status == 404));
    assert_eq!(origin.asked(), 1);
}

#[tokio::test]
async fn under_origin_and_off_a_tag_is_never_ours() {
    for tags in [TagPolicy::Origin, TagPolicy::Off] {
        let node = node(tags, Some(format!("http://{}", nobody().await))).await;
        let digest = node.store.add(manifest("own"));
        node.store.tag(NAME, &digest);
        assert_eq!(get(node.mirror, &target()).await.status, 404);
        assert_eq!(get(node.mirror, &manifest_target(&digest, REGISTRY)).await.status, 200, "digests are");
        assert_eq!(node.servers.asked.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn a_tag_of_an_unknown_registry_is_404() {
    let node = node(TagPolicy::Peers, None).await;
    assert_eq!(get(node.mirror, "/v2/library/test/manifests/v1").await.status, 404);
    assert_eq!(node.servers.asked.load(Ordering::Relaxed), 0);
    // podman and CRI-O: the registry is in the path.
    let manifest = manifest("a");
    let holder = holder(&manifest).await;
    node.servers.hold(NAME, &[holder.peer]);
    let got = get(node.mirror, &format!("/v2/{REGISTRY}/library/test/manifests/v1")).await;
    assert_eq!((got.status, got.body), (200, manifest));
}
