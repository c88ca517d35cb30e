//! What must not be shared of a registry with passwords, and how few requests a registry gets when everything
//! may be shared.

use std::time::Duration;

use piccolo::oci::Digest;

use crate::harness::process::run;
use crate::harness::{Image, Node, READER, Registry, SOON, Servers, find, http, never_for, within};

const MIB: usize = 1 << 20;

/// Waits until `holder` is found for each of the digests.
async fn findable(servers: &Servers, digests: &[&Digest], holder: &str) {
    let client = servers.client(1);
    for digest in digests {
        within(&format!("{digest} of {holder}"), SOON, || async {
            find(&client, digest.as_str()).await.contains(&holder.to_owned()).then_some(())
        })
        .await;
    }
}

/// Status of a request for content.
async fn status(method: &str, url: &str, headers: &[(&str, &str)]) -> u16 {
    let method = method.parse().unwrap();
    let mut request = http().request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap().status().as_u16()
}

/// Every path for `what` of the repository `app`: without `ns`, with that of the registry, with another one,
/// and as CRI-O writes it.
fn routes(kind: &str, what: &str, registry: &str) -> [String; 4] {
    [
        format!("/v2/app/{kind}/{what}"),
        format!("/v2/app/{kind}/{what}?ns={registry}"),
        format!("/v2/app/{kind}/{what}?ns=other.example"),
        format!("/v2/{registry}/app/{kind}/{what}"),
    ]
}

fn manifests_origin(registry: &str) -> String {
    format!("[registry.\"{registry}\"]\nmanifests = \"origin\"\n")
}

fn succeeded(output: &std::process::Output) -> bool {
    output.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_password_pulls_by_no_route_what_its_neighbour_holds() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start_private(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 21, &[18 * MIB, 3 * MIB, 1000]);
    let reference = registry.push(&image, "app:v1");
    let config = manifests_origin(&registry.name);
    let (urls, url) = (servers.urls(), registry.url());
    let a = Node::start_with(&folder.path().join("a"), &urls, &url, &config).await;
    let b = Node::start_with(&folder.path().join("b"), &urls, &url, &config).await;
    // Like a Go pi, or an agent without the policy: it offers everything.
    let lax = Node::start(&folder.path().join("lax"), &urls, &url).await;

    assert!(succeeded(&a.try_pull_as(Some(READER), &reference).await), "the registry knows this user");
    let shared: Vec<&Digest> = image.layers.iter().chain([&image.config]).collect();
    findable(&servers, &shared, &a.agent.holder()).await;
    let client = servers.client(1);
    never_for("the manifest or its tag is advertised", Duration::from_secs(1), || async {
        !find(&client, image.manifest.as_str()).await.is_empty()
            || !find(&client, &reference).await.is_empty()
    })
    .await;
    assert!(succeeded(&lax.try_pull_as(Some(READER), &reference).await));
    findable(&servers, &[&image.manifest], &lax.agent.holder()).await;

    // containerd itself, by tag and by digest, while a neighbour offers content that it should not.
    let by_digest = format!("{}/app@{}", registry.name, image.manifest);
    for name in [&reference, &by_digest] {
        assert!(!succeeded(&b.try_pull(name).await), "{name} came without a password");
        assert!(!succeeded(&b.try_pull_as(Some("reader:wrong"), name).await), "{name} came with a wrong one");
    }
    // Requests by hand: the neighbour's peer port, and the mirrors of both.
    let ports = [
        ("neighbour's peer port", a.agent.peer),
        ("neighbour's mirror", a.agent.mirror),
        ("own peer port", b.agent.peer),
    ];
    for (what, port) in ports {
        for kind in ["manifests", "blobs"] {
            for route in routes(kind, image.manifest.as_str(), &registry.name) {
                for method in ["GET", "HEAD"] {
                    let url = format!("http://127.0.0.1:{port}{route}");
                    assert_eq!(status(method, &url, &[]).await, 404, "{what}: {method} {route}");
                    assert_eq!(
                        status(method, &url, &[("range", "bytes=0-9")]).await,
                        404,
                        "{what}: {method} {route}"
                    );
                }
            }
        }
        for route in routes("manifests", "v1", &registry.name) {
            for method in ["GET", "HEAD"] {
                assert_eq!(
                    status(method, &format!("http://127.0.0.1:{port}{route}"), &[]).await,
                    404,
                    "{what}: {route}"
                );
            }
        }
    }
    // The node's own mirror passes on nothing of this registry, whichever node offers it.
    for (kind, what) in
        [("manifests", "v1"), ("manifests", image.manifest.as_str()), ("blobs", image.manifest.as_str())]
    {
        let [_, with_ns, _, in_path] = routes(kind, what, &registry.name);
        for route in [with_ns, in_path] {
            for method in ["GET", "HEAD"] {
                let url = format!("http://127.0.0.1:{}{route}", b.agent.mirror);
                assert_eq!(status(method, &url, &[]).await, 404, "own mirror: {method} {route}");
            }
        }
    }

    let blobs = || registry.requests("GET", "/v2/app/blobs/");
    let manifests = || registry.requests("GET", "/v2/app/manifests/");
    let (blobs_before, manifests_before) = (blobs(), manifests());
    assert!(blobs_before >= 4, "the first pull has asked for config and layers: {blobs_before}");
    assert!(succeeded(&b.try_pull_as(Some(READER), &reference).await), "{}", b.agent.process.log());
    assert_eq!(blobs(), blobs_before, "config and layers come from neighbours");
    assert!(
        manifests() > manifests_before,
        "the manifest comes from the registry, which has checked the password"
    );

    // Even with a local copy: the next user of this node must give the password as well.
    run(&mut b.containerd.ctr(&["images", "rm", &reference]));
    assert!(!succeeded(&b.try_pull(&reference).await), "the own copy was given without a password");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_withdrawn_when_it_becomes_known_from_a_registry_that_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 22, &[50_000, 1000]);
    let strict = registry.push(&image, "app:v1");
    // The same registry under a name without the policy.
    let open = strict.replace("127.0.0.1", "localhost");
    let config = manifests_origin(&registry.name);
    let node = Node::start_with(&folder.path().join("a"), &servers.urls(), &registry.url(), &config).await;
    node.pull(&open).await;
    let all = image.digests();
    findable(&servers, &all.iter().collect::<Vec<_>>(), &node.agent.holder()).await;
    let url =
        format!("http://127.0.0.1:{}/v2/app/manifests/{}?ns=other.example", node.agent.peer, image.manifest);
    assert_eq!(status("GET", &url, &[]).await, 200);

    node.pull(&strict).await;
    let client = servers.client(1);
    for key in [image.manifest.as_str(), &open] {
        within(&format!("{key} is withdrawn"), SOON, || async {
            find(&client, key).await.is_empty().then_some(())
        })
        .await;
    }
    assert_eq!(status("GET", &url, &[]).await, 404);
    findable(&servers, &image.layers.iter().collect::<Vec<_>>(), &node.agent.holder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_and_filtered_repositories_stay_with_their_registry() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let (kept, secret) = (
        Image::make(&folder.path().join("kept"), 23, &[50_000]),
        Image::make(&folder.path().join("secret"), 24, &[60_000]),
    );
    let names = [registry.push(&kept, "app:latest"), registry.push(&secret, "team/secret:v1")];
    let config = format!(
        "[registry.\"{}\"]\nblobs = \"origin\"\nfilter = [\":latest$\", \"/team/secret\"]\n",
        registry.name
    );
    let node = Node::start_with(&folder.path().join("a"), &servers.urls(), &registry.url(), &config).await;
    for name in &names {
        node.pull(name).await;
    }
    findable(&servers, &[&kept.manifest], &node.agent.holder()).await;
    let client = servers.client(1);
    let hidden: Vec<String> = secret
        .digests()
        .iter()
        .chain(&kept.layers)
        .chain([&kept.config])
        .map(Digest::to_string)
        .chain(names.clone())
        .collect();
    never_for("something is advertised that should not be", Duration::from_secs(1), || async {
        for key in &hidden {
            if !find(&client, key).await.is_empty() {
                return true;
            }
        }
        false
    })
    .await;
    for (kind, digest, expected) in [
        ("manifests", &kept.manifest, 200),
        ("blobs", &kept.layers[0], 404),
        ("blobs", &kept.config, 404),
        ("manifests", &secret.manifest, 404),
        ("blobs", &secret.layers[0], 404),
    ] {
        let url = format!("http://127.0.0.1:{}/v2/x/{kind}/{digest}?ns=other.example", node.agent.peer);
        assert_eq!(status("GET", &url, &[]).await, expected, "{kind}/{digest}");
    }
}

/// Apart from the agent's own HEAD, whose result is remembered for 10 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_asks_the_registry_at_most_once_for_a_tag_and_never_for_a_digest() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 25, &[3 * MIB, 2000, 1000]);
    let tagged = registry.push(&image, "app:v1");
    let pinned = format!("{}/app@{}", registry.name, image.manifest);
    let a = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    let b = Node::start(&folder.path().join("b"), &servers.urls(), &registry.url()).await;
    let c = Node::start(&folder.path().join("c"), &servers.urls(), &registry.url()).await;
    a.pull(&tagged).await;
    findable(&servers, &image.digests().iter().collect::<Vec<_>>(), &a.agent.holder()).await;

    let images = || ["HEAD", "GET"].map(|method| registry.requests(method, "/v2/app/"));
    let [heads, gets] = images();
    b.pull(&pinned).await;
    assert_eq!(images(), [heads, gets], "a digest needs no word of the registry");
    c.pull(&tagged).await;
    assert_eq!(images(), [heads + 2, gets], "one HEAD for the tag, and one of our own");
}
