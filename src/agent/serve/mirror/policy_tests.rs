//! What a registry keeps to itself: no route of ours gives it, neither at the node that holds it nor
//! at the one that wants it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agent::testing::*;
use crate::agent::{RegistryPolicy, Sharing, TagPolicy};
use crate::limits::VERIFIED_WHOLE_BYTES_MAX;
use crate::oci::Digest;

const PRIVATE: &str = "private.test:5000";
const NAME: &str = "private.test:5000/library/test:v1";

async fn node(policy: RegistryPolicy) -> Node {
    let registries = [(PRIVATE.to_owned(), policy)].into();
    Node::wish(Wish { registries, ..Wish::default() }).await
}

fn manifests_origin() -> RegistryPolicy {
    RegistryPolicy { manifests: Sharing::Origin, ..RegistryPolicy::default() }
}

/// Every way to ask for content by its digest.
fn routes(digest: &Digest) -> Vec<String> {
    let mut routes = Vec::new();
    for kind in ["manifests", "blobs"] {
        routes.push(format!("/v2/library/test/{kind}/{digest}"));
        routes.push(format!("/v2/{PRIVATE}/library/test/{kind}/{digest}"));
        for ns in [PRIVATE, "PRIVATE.test:5000", "other.test"] {
            routes.push(format!("/v2/library/test/{kind}/{digest}?ns={ns}"));
        }
    }
    routes
}

const HEADERS: [(&str, &str); 4] =
    [("GET", ""), ("HEAD", ""), ("GET", "Range: bytes=0-9\r\n"), ("GET", "If-None-Match: \"x\"\r\n")];

/// A node with an image of the private registry.
struct Holder {
    node: Node,
    index: (Digest, Vec<u8>),
    manifest: (Digest, Vec<u8>),
    config: (Digest, Vec<u8>),
    layer: (Digest, Vec<u8>),
}

async fn holder(policy: RegistryPolicy) -> Holder {
    let node = node(policy).await;
    let add = |bytes: Vec<u8>| (node.store.add(bytes.clone()), bytes);
    let layer = add(noise(300_000));
    let config = add(br#"{"architecture":"amd64","config":{},"os":"linux"}"#.to_vec());
    let (of_config, of_layer) = (&config.0, &layer.0);
    let manifest = add(format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{of_config}","size":1}},"layers":[{{"digest":"{of_layer}","size":1}}]}}"#
    )
    .into_bytes());
    let of_manifest = &manifest.0;
    let index =
        add(format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{of_manifest}","size":1}}]}}"#)
            .into_bytes());
    node.store.tag(NAME, &index.0);
    Holder { node, index, manifest, config, layer }
}

#[tokio::test]
async fn no_route_of_the_holder_gives_a_manifest_that_its_registry_keeps() {
    let holder = holder(manifests_origin()).await;
    for (digest, _) in [&holder.index, &holder.manifest] {
        for port in [holder.node.peer, holder.node.mirror] {
            for route in routes(digest) {
                for (method, headers) in HEADERS {
                    let got = request(port, method, &route, headers).await;
                    assert_eq!(got.status, 404, "{method} {route} {headers}");
                }
            }
        }
    }
    for route in [
        format!("/v2/library/test/manifests/v1?ns={PRIVATE}"),
        format!("/v2/{PRIVATE}/library/test/manifests/v1"),
    ] {
        assert_eq!(get(holder.node.peer, &route).await.status, 404, "{route}");
        assert_eq!(get(holder.node.mirror, &route).await.status, 404, "{route}");
    }
    for (digest, bytes) in [&holder.config, &holder.layer] {
        for port in [holder.node.peer, holder.node.mirror] {
            let got = get(port, &format!("/v2/library/test/blobs/{digest}?ns={PRIVATE}")).await;
            assert_eq!((got.status, &got.body == bytes), (200, true), "config and layers are shared");
        }
    }
}

/// A Go `pi`, or somebody who means no good, gives whatever it is asked for.
#[tokio::test]
async fn no_route_of_the_mirror_passes_on_such_a_manifest_whoever_offers_it() {
    let lax = self::holder(RegistryPolicy::default()).await;
    let node = node(manifests_origin()).await;
    for (digest, _) in [&lax.index, &lax.manifest, &lax.config, &lax.layer] {
        node.servers.hold(digest, &[lax.node.peer]);
    }
    node.servers.hold(NAME, &[lax.node.peer]);
    for (digest, _) in [&lax.index, &lax.manifest] {
        for route in
            routes(digest).iter().filter(|route| route.contains("rivate") || route.contains("PRIVATE"))
        {
            for (method, headers) in HEADERS {
                let got = request(node.mirror, method, route, headers).await;
                assert_eq!(
                    (got.status, got.body.is_empty() || got.text().contains("errors")),
                    (404, true),
                    "{method} {route}"
                );
            }
        }
    }
    let asked = node.servers.asked.load(Ordering::Relaxed);
    for tag in [manifest_target("v1", PRIVATE), manifest_target(&lax.manifest.0, PRIVATE)] {
        assert_eq!(get(node.mirror, &tag).await.status, 404);
    }
    assert_eq!(node.servers.asked.load(Ordering::Relaxed), asked, "nobody is asked in vain");
    for (digest, bytes) in [&lax.config, &lax.layer] {
        let got = get(node.mirror, &format!("/v2/library/test/blobs/{digest}?ns={PRIVATE}")).await;
        assert_eq!((got.status, &got.body == bytes), (200, true));
        let got =
            get_range(node.mirror, &format!("/v2/library/test/blobs/{digest}?ns={PRIVATE}"), "bytes=2-9")
                .await;
        assert_eq!((got.status, &got.body[..]), (206, &bytes[2..10]));
    }
}

/// containerd says where content is from only after it is there.
#[tokio::test]
async fn what_the_mirror_was_asked_for_is_kept_back_from_the_moment_it_arrives() {
    let node = node(manifests_origin()).await;
    let (asked, other) = (manifest("asked"), manifest("other"));
    let digest = Digest::of(&asked);
    assert_eq!(get(node.mirror, &manifest_target(&digest, PRIVATE)).await.status, 404);
    for bytes in [&asked, &other] {
        node.store.add(bytes.clone());
    }
    let status =
        async |bytes: &[u8]| get(node.peer, &manifest_target(Digest::of(bytes), "open.test")).await.status;
    assert_eq!((status(&asked).await, status(&other).await), (404, 200));

    // Nor is it given as what a tag of another registry is, if that is what peers say.
    let peers = RegistryPolicy { tags: TagPolicy::Peers, ..RegistryPolicy::default() };
    let registries = [(PRIVATE.to_owned(), manifests_origin()), ("open.test".to_owned(), peers)].into();
    let node = Node::wish(Wish { registries, ..Wish::default() }).await;
    let lax = Node::with(&asked).await;
    lax.store.tag("open.test/library/test:v1", &digest);
    node.servers.hold("open.test/library/test:v1", &[lax.peer]);
    assert_eq!(get(node.mirror, &manifest_target("v1", "open.test")).await.status, 200);
    assert_eq!(get(node.mirror, &manifest_target(&digest, PRIVATE)).await.status, 404);
    assert_eq!(get(node.mirror, &manifest_target("v1", "open.test")).await.status, 404);
}

/// Its headers are out before its bytes are known.
#[tokio::test]
async fn a_manifest_that_comes_late_is_cut_before_its_first_byte() {
    let bytes =
        [br#"{"schemaVersion":2,"layers":[]"#.to_vec(), vec![b' '; 2_000_000], b"}".to_vec()].concat();
    let digest = Digest::of(&bytes);
    let slow = RawPeer::trickle(&bytes, Duration::from_millis(700)).await;
    let registries = [(PRIVATE.to_owned(), manifests_origin())].into();
    let resolve_timeout = Duration::from_millis(300);
    let node = Node::wish(Wish { registries, resolve_timeout, ..Wish::default() }).await;
    node.servers.hold(&digest, &[slow.address]);
    let target = |ns: &str| format!("/v2/library/test/blobs/{digest}?ns={ns}");
    assert_eq!(get(node.mirror, &target("open.test")).await.body, bytes, "others are given it");
    let got = get(node.mirror, &target(PRIVATE)).await;
    assert_eq!((got.status, got.body.len(), got.is_complete()), (200, 0, false), "{got:?}");
    assert_eq!(get(node.mirror, &target(PRIVATE)).await.status, 404, "the next one is told at once");
    let got = get(node.mirror, &target("open.test")).await;
    assert_eq!((got.body.len(), got.is_complete()), (0, false), "it is known from a stricter one now");
}

#[tokio::test]
async fn blobs_that_a_registry_keeps_are_given_by_nobody_and_its_manifests_are() {
    let blobs =
        RegistryPolicy { blobs: Sharing::Origin, tags: TagPolicy::Peers, ..RegistryPolicy::default() };
    let holder = holder(blobs.clone()).await;
    let lax = self::holder(RegistryPolicy::default()).await;
    let node = node(blobs).await;
    for (digest, _) in [&lax.manifest, &lax.config, &lax.layer] {
        node.servers.hold(digest, &[lax.node.peer]);
    }
    for (digest, _) in [&holder.config, &holder.layer] {
        for (method, headers) in HEADERS {
            for route in routes(digest) {
                assert_eq!(request(holder.node.peer, method, &route, headers).await.status, 404, "{route}");
                assert_eq!(request(holder.node.mirror, method, &route, headers).await.status, 404, "{route}");
            }
            let route = format!("/v2/library/test/blobs/{digest}?ns={PRIVATE}");
            assert_eq!(request(node.mirror, method, &route, headers).await.status, 404, "{route}");
        }
    }
    for port in [holder.node.peer, holder.node.mirror, node.mirror] {
        let got = get(port, &manifest_target(&holder.manifest.0, PRIVATE)).await;
        assert_eq!((got.status, &got.body), (200, &holder.manifest.1));
    }
    assert_eq!(get(holder.node.mirror, &manifest_target("v1", PRIVATE)).await.status, 200);
}

#[tokio::test]
async fn what_a_filter_refuses_is_not_served_mirrored_or_asked_for() {
    let refuse = |pattern: &str| {
        let filter = vec![pattern.parse().unwrap()];
        RegistryPolicy { filter, tags: TagPolicy::Peers, ..RegistryPolicy::default() }
    };
    let holder = holder(refuse("^private\\.test:5000/library/")).await;
    let node = node(refuse("^private\\.test:5000/library/")).await;
    for (digest, _) in [&holder.index, &holder.manifest, &holder.config, &holder.layer] {
        node.servers.hold(digest, &[holder.node.peer]);
        for route in routes(digest) {
            assert_eq!(get(holder.node.peer, &route).await.status, 404, "{route}");
            assert_eq!(get(node.mirror, &route).await.status, 404, "{route}");
        }
    }
    let lax = self::holder(RegistryPolicy { tags: TagPolicy::Peers, ..RegistryPolicy::default() }).await;
    let latest = self::node(refuse(":latest$")).await;
    for tag in ["latest", "v1"] {
        let name = format!("{PRIVATE}/library/test:{tag}");
        lax.node.store.tag(&name, &lax.index.0);
        latest.servers.hold(&name, &[lax.node.peer]);
    }
    latest.servers.hold(&lax.index.0, &[lax.node.peer]);
    let own = latest.store.add(manifest("own"));
    for (tag, status) in [("latest", 404), ("v1", 200)] {
        latest.store.tag(&format!("{PRIVATE}/library/own:{tag}"), &own);
        let target = format!("/v2/library/own/manifests/{tag}?ns={PRIVATE}");
        assert_eq!(get(latest.peer, &target).await.status, status, "{tag} at the peer port");
    }
    assert_eq!(get(latest.mirror, &manifest_target("latest", PRIVATE)).await.status, 404);
    assert_eq!(get(latest.mirror, &manifest_target("v1", PRIVATE)).await.status, 200);
    assert_eq!(get(latest.mirror, &manifest_target(&lax.index.0, PRIVATE)).await.status, 200);
}

/// What is held back is decided by bytes that are right; those too large to be a manifest are not
/// read for it.
#[tokio::test]
async fn large_layers_of_such_a_registry_pass() {
    let bytes = [vec![b'{'; 10], noise(usize::try_from(VERIFIED_WHOLE_BYTES_MAX).unwrap() + 1)].concat();
    let lax = Node::with(&bytes).await;
    let digest = Digest::of(&bytes);
    let node = node(manifests_origin()).await;
    node.servers.hold(&digest, &[lax.peer]);
    let got = get(node.mirror, &format!("/v2/library/test/blobs/{digest}?ns={PRIVATE}")).await;
    assert!(got.status == 200 && got.is_complete() && got.body == bytes);
}
