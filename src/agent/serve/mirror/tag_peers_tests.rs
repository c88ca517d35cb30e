//! `tags = "peers"`: the newest import says what a tag is.

use std::time::{Duration, SystemTime};

use crate::agent::content::tag_claims::TAG_AGE_MS;
use crate::agent::testing::*;
use crate::agent::{RegistryPolicy, TagPolicy};
use crate::limits::{CANDIDATES, TAG_AGE_TOLERANCE};
use crate::oci::Digest;

const REGISTRY: &str = "registry.test:5000";
const NAME: &str = "registry.test:5000/library/test:v1";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn node_with(origin: Option<String>) -> Node {
    let policy = RegistryPolicy { tags: TagPolicy::Peers, origin, ..RegistryPolicy::default() };
    let registries = [(REGISTRY.to_owned(), policy)].into();
    Node::wish(Wish { registries, resolve_timeout: SOON, ..Wish::default() }).await
}

/// A node that takes tags from peers, and waits for them as long as this busy machine takes.
async fn node() -> Node {
    node_with(None).await
}

/// The tag was set to `manifest` on this node so long ago; `None`: it does not tell, as an old agent.
fn import(node: &Node, manifest: &[u8], age: Option<Duration>) -> Digest {
    let digest = node.store.add(manifest.to_vec());
    node.store.tag_at(NAME, &digest, age.map(|age| SystemTime::now() - age));
    digest
}

async fn holder(manifest: &[u8], age: Option<Duration>) -> Node {
    let node = Node::start().await;
    import(&node, manifest, age);
    node
}

fn target() -> String {
    manifest_target("v1", REGISTRY)
}

#[tokio::test]
async fn a_tag_imported_anew_on_one_node_is_answered_with_the_new_image_whoever_holds_the_old_one() {
    let origin = RawPeer::ok(0, b"", End::Close).await;
    let (old, new) = (manifest("old"), manifest("new"));
    // The one that was updated is the last of many, and an old agent tells no time.
    let mut holders = vec![holder(&old, None).await, Node::start().await];
    for _ in 0..4 {
        holders.push(holder(&old, Some(DAY)).await);
    }
    holders.push(holder(&new, Some(DAY / 2)).await);
    let node = node_with(Some(format!("http://{}", origin.address))).await;
    let mut addresses: Vec<_> = holders.iter().map(|holder| holder.peer).collect();
    addresses.push(nobody().await);
    node.servers.hold(NAME, &addresses);
    let got = get(node.mirror, &target()).await;
    assert_eq!((got.status, &got.body), (200, &new));
    assert_eq!(got.header("docker-content-digest"), Some(Digest::of(&new).as_str()));

    // What this node holds itself is one claim among the others, older or newer.
    import(&node, &old, Some(DAY));
    assert_eq!(get(node.mirror, &target()).await.body, new);
    let newest = manifest("newest");
    import(&node, &newest, Some(DAY / 4));
    assert_eq!(get(node.mirror, &target()).await.body, newest);
    assert_eq!(origin.asked(), 0, "the registry has no say here");
}

/// What broke: only the nearest holders were asked. On a site of more nodes than those, each that had the old image
/// under this tag, most nodes never heard of the import.
#[tokio::test]
async fn an_import_on_a_far_node_of_many_is_heard_of() {
    let (old, new) = (manifest("old"), manifest("new"));
    let updated = holder(&new, Some(DAY / 2)).await;
    let says_old = format!(
        "HTTP/1.1 200 OK\r\nDocker-Content-Digest: {}\r\n{TAG_AGE_MS}: {}\r\nContent-Length: {}\r\n\r\n",
        Digest::of(&old),
        DAY.as_millis(),
        old.len()
    );
    let mut many = Vec::new();
    while many.len() < 3 * CANDIDATES {
        many.push(RawPeer::start(says_old.clone(), End::Close).await);
    }
    let mut addresses: Vec<_> = many.iter().map(|peer| peer.address).collect();
    addresses.push(updated.peer);
    let node = node().await;
    node.servers.hold(NAME, &addresses);
    assert_eq!(get(node.mirror, &target()).await.body, new);
}

#[tokio::test]
async fn nobody_who_could_be_reached_holds_the_tag_is_404() {
    let node = Node::wish(Wish {
        registries: [(
            REGISTRY.to_owned(),
            RegistryPolicy { tags: TagPolicy::Peers, ..RegistryPolicy::default() },
        )]
        .into(),
        ..Wish::default()
    })
    .await;
    let stale = Node::start().await;
    node.servers.hold(NAME, &[stale.peer, nobody().await]);
    assert_eq!(get(node.mirror, &target()).await.status, 404);
}

#[tokio::test]
async fn a_holder_that_takes_a_second_to_answer_is_waited_for() {
    let (old, new) = (manifest("old"), manifest("new"));
    let fast = holder(&old, Some(DAY)).await;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\nPiccolo-Tag-Age-Ms: 60000\r\n\r\n",
        new.len(),
        Digest::of(&new)
    );
    let slow = RawPeer::paused(with_head(&head, &new), End::Close, Duration::from_secs(1)).await;
    let node = node().await;
    node.servers.hold(NAME, &[fast.peer, slow.address]);
    assert_eq!(get(node.mirror, &target()).await.body, new);
}

/// An older one in its place would be a silent step back.
#[tokio::test]
async fn a_newest_image_whose_manifest_cannot_be_had_is_not_replaced_by_an_older_one() {
    let (old, new) = (manifest("old"), manifest("new"));
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDocker-Content-Digest: {}\r\nPiccolo-Tag-Age-Ms: 60000\r\n\r\n",
        Digest::of(&new)
    );
    let (liar, sound) =
        (RawPeer::start(with_head(&head, b"wrong"), End::Close).await, holder(&old, Some(DAY)).await);
    let node = node().await;
    node.servers.hold(NAME, &[liar.address, sound.peer]);
    let got = get(node.mirror, &target()).await;
    assert_eq!(got.status, 404);
    assert!(got.text().contains(Digest::of(&new).as_str()), "{}", got.text());
}

#[tokio::test]
async fn different_images_set_at_the_same_time_are_refused_and_the_nodes_named() {
    let (one, two) = (manifest("one"), manifest("two"));
    let (a, b) = (holder(&one, Some(DAY)).await, holder(&two, Some(DAY + TAG_AGE_TOLERANCE / 2)).await);
    let same = holder(&one, Some(DAY)).await;
    let node = node().await;
    node.servers.hold(NAME, &[a.peer, same.peer]);
    assert_eq!(get(node.mirror, &target()).await.body, one, "the same image is no conflict");
    node.servers.hold(NAME, &[a.peer, b.peer]);
    let got = get(node.mirror, &target()).await;
    assert_eq!(got.status, 404);
    for (holder, manifest) in [(&a, &one), (&b, &two)] {
        let claim = format!("{} holds {}", holder.peer, Digest::of(manifest));
        assert!(got.text().contains(&claim), "{claim}: {}", got.text());
    }
}

/// Else a pull that ends after somebody's import would bring the old image back, everywhere.
#[tokio::test]
async fn an_image_that_was_pulled_is_as_old_as_its_import() {
    let old = manifest("old");
    let importer = holder(&old, Some(DAY)).await;
    let node = node().await;
    node.servers.hold(NAME, &[importer.peer]);
    assert_eq!(get(node.mirror, &target()).await.body, old);
    // containerd has pulled it, and its record is of now.
    import(&node, &old, Some(Duration::ZERO));
    let age = |got: &Got| Duration::from_millis(got.header("piccolo-tag-age-ms").unwrap().parse().unwrap());
    let got = request(node.peer, "HEAD", &target(), "").await;
    assert!(age(&got) >= DAY && age(&got) < DAY + SOON, "{:?}", age(&got));
    // A pull of its own tag, as for each pod with `Always`, changes nothing either.
    assert_eq!(get(node.mirror, &target()).await.body, old);
    import(&node, &old, Some(Duration::ZERO));
    assert!(age(&request(node.peer, "HEAD", &target(), "").await) >= DAY);
}
