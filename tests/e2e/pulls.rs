//! Pulls of images: from registry to node, from node to node, and removal from the index.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use piccolo::oci::Digest;

use crate::harness::process::run;
use crate::harness::{
    Agent, Containerd, Image, Node, Registry, SOON, Servers, find, http, keys_of, never_for, status_of,
    text_of, within,
};

const MIB: usize = 1 << 20;

/// Waits until `holder` is among the holders of every digest, on every server in `numbers`.
async fn findable(servers: &Servers, numbers: &[usize], digests: &[Digest], holder: &str) {
    for number in numbers {
        let client = servers.client(*number);
        for digest in digests {
            within(&format!("{digest} of {holder} on server {number}"), SOON, || async {
                find(&client, digest.as_str()).await.contains(&holder.to_owned()).then_some(())
            })
            .await;
        }
    }
}

/// Waits until none of the digests has a holder, by the answers of server 1.
async fn gone(servers: &Servers, digests: &[Digest]) {
    let client = servers.client(1);
    for digest in digests {
        within(&format!("{digest} is gone"), SOON, || async {
            find(&client, digest.as_str()).await.is_empty().then_some(())
        })
        .await;
    }
}

/// The value of a metric without labels, or the sum over its labels.
async fn metric(url: &str, name: &str) -> f64 {
    let text = text_of(&format!("{url}/metrics")).await;
    let of_name = |line: &&str| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']);
    text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_reaches_the_neighbour_without_the_registry_and_without_the_leader() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let mut registry = Registry::start(folder.path()).await;
    let first = Image::make(&folder.path().join("first"), 1, &[40 * MIB, 3 * MIB, 1000]);
    let second = Image::make(&folder.path().join("second"), 2, &[20 * MIB, 17 * MIB]);
    let (first_name, second_name) = (registry.push(&first, "app:v1"), registry.push(&second, "app:v2"));
    let a = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    let b = Node::start(&folder.path().join("b"), &servers.urls(), &registry.url()).await;

    a.pull(&first_name).await;
    a.pull(&second_name).await;
    findable(&servers, &[1, 2, 3], &first.digests(), &a.agent.holder()).await;
    findable(&servers, &[1, 2, 3], &second.digests(), &a.agent.holder()).await;

    registry.stop();
    b.pull(&first_name).await;
    let leader = servers.leader().await;
    servers.signal(leader, rustix::process::Signal::KILL);
    b.pull(&second_name).await;
    let agent = format!("http://127.0.0.1:{}", b.agent.metrics);
    let from_peers = metric(&agent, "piccolo_bytes_from_peers_total").await;
    assert!(from_peers >= (80 * MIB) as f64, "neighbours have sent {from_peers} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_beside_a_running_registry_asks_it_for_the_tag_only() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 14, &[MIB, 2000]);
    let name = registry.push(&image, "app:v1");
    let a = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    let b = Node::start(&folder.path().join("b"), &servers.urls(), &registry.url()).await;
    a.pull(&name).await;
    findable(&servers, &[1, 2, 3], &image.digests(), &a.agent.holder()).await;

    let count = || ["HEAD", "GET"].map(|method| registry.requests(method, "/v2/app/"));
    let [heads, gets] = count();
    assert!(gets >= 4, "the first pull has asked for manifest, config and layers");
    b.pull(&name).await;
    assert_eq!(count(), [heads + 2, gets], "one HEAD for the tag and one of our own, and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_findable_while_the_rest_of_its_image_is_still_arriving() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 3, &[100_000, 200_000]);
    let gate = crate::harness::origin::Origin::start(&image, &image.layers[1]).await;
    let node = Node::start(&folder.path().join("a"), &servers.urls(), &gate.url()).await;

    let reference = format!("{}/app:v1", gate.name());
    let pull = node.try_pull(&reference);
    let watch = async {
        findable(&servers, &[1, 2, 3], &image.layers[..1], &node.agent.holder()).await;
        assert!(
            find(&servers.client(1), image.layers[1].as_str()).await.is_empty(),
            "nobody can hold it yet"
        );
        gate.open();
    };
    let (output, ()) = tokio::join!(pull, watch);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    findable(&servers, &[1, 2, 3], &image.digests(), &node.agent.holder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_image_is_withdrawn_without_a_scan_or_sync() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 4, &[2 * MIB, 1000]);
    let name = registry.push(&image, "app:v1");
    let node = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    node.pull(&name).await;
    findable(&servers, &[1], &image.digests(), &node.agent.holder()).await;

    let agent = format!("http://127.0.0.1:{}", node.agent.metrics);
    let scans_before = metric(&agent, "piccolo_inventory_scans_total").await;
    assert!(scans_before >= 1.0, "the agent counts its scans");
    run(&mut node.containerd.ctr(&["images", "rm", "--sync", &name]));
    gone(&servers, &image.digests()).await;
    let tag = find(&servers.client(1), &name).await;
    assert!(tag.is_empty(), "the tag is still there: {tag:?}");
    assert_eq!(metric(&agent, "piccolo_inventory_scans_total").await, scans_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_during_a_restart_of_containerd_are_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let before = Image::make(&folder.path().join("before"), 5, &[50_000]);
    let after = Image::make(&folder.path().join("after"), 6, &[60_000]);
    let (before_name, after_name) = (registry.push(&before, "app:v1"), registry.push(&after, "app:v2"));
    let mut node = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    node.pull(&before_name).await;
    let holder = node.agent.holder();
    findable(&servers, &[1], &before.digests(), &holder).await;

    node.containerd.kill();
    node.containerd.start().await;
    node.pull(&after_name).await;
    run(&mut node.containerd.ctr(&["images", "rm", "--sync", &before_name]));
    findable(&servers, &[1], &after.digests(), &holder).await;
    gone(&servers, &before.layers).await;
    assert!(node.agent.process.is_running(), "the agent has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_namespace_stays_private() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let ours = Image::make(&folder.path().join("ours"), 7, &[30_000]);
    let theirs = Image::make(&folder.path().join("theirs"), 8, &[40_000]);
    let (ours_name, theirs_name) = (registry.push(&ours, "ours:v1"), registry.push(&theirs, "theirs:v1"));
    let node = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    let pull = ["images", "pull", "--plain-http", "--snapshotter", "native", &theirs_name];
    run(&mut node.containerd.ctr_in("builds", &pull));
    node.pull(&ours_name).await;
    findable(&servers, &[1], &ours.digests(), &node.agent.holder()).await;

    let blob = &theirs.layers[0];
    assert!(
        node.containerd
            .folder
            .join("root/io.containerd.content.v1.content/blobs/sha256")
            .join(blob.hex())
            .exists(),
        "the blob of the other namespace lies in the same folder"
    );
    let client = servers.client(1);
    never_for("a blob of another namespace is advertised", Duration::from_secs(1), || async {
        !find(&client, blob.as_str()).await.is_empty()
    })
    .await;
    for port in [node.agent.peer, node.agent.mirror] {
        let url = format!("http://127.0.0.1:{port}/v2/theirs/blobs/{blob}?ns={}", registry.name);
        assert_eq!(status_of(&url).await, Some(404), "port {port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_dead_and_lying_holders_do_not_break_a_pull() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let mut registry = Registry::start(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 9, &[5 * MIB, 1000]);
    let name = registry.push(&image, "app:v1");
    let a = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    a.pull(&name).await;
    findable(&servers, &[1], &image.digests(), &a.agent.holder()).await;
    let stale = Agent::start(
        &make_folder(folder.path(), "stale"),
        &servers.urls(),
        &["--layout", empty_layout(folder.path()).to_str().unwrap(), "--group", "elsewhere"],
    );
    stale.ready().await;
    let liar = crate::harness::origin::Liar::start(&image).await;
    let keys: Vec<String> = image.digests().iter().map(Digest::to_string).chain([name.clone()]).collect();
    for holder in ["127.0.0.1:1".to_owned(), stale.holder(), liar.holder()] {
        let wrote = servers.client(1).advertise(&keys_of(&holder, None, &keys), SOON).await.unwrap();
        assert!(wrote.success);
    }

    registry.stop();
    let b = Node::start(&folder.path().join("b"), &servers.urls(), &registry.url()).await;
    b.pull(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_a_large_layer_fail_one_pull_and_the_next_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 10, &[20 * MIB]);
    let name = registry.push(&image, "app:v1");
    let liar = crate::harness::origin::Liar::start(&image).await;
    let keys = [image.layers[0].to_string()];
    servers.client(1).advertise(&keys_of(&liar.holder(), None, &keys), SOON).await.unwrap();

    let node = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    let first = node.try_pull(&name).await;
    assert!(liar.asked() > 0, "the liar was not asked at all");
    if !first.status.success() {
        node.pull(&name).await;
    }
    let blobs = node.containerd.folder.join("root/io.containerd.content.v1.content/blobs/sha256");
    let bytes = fs::read(blobs.join(image.layers[0].hex())).unwrap();
    assert_eq!(Digest::of(&bytes), image.layers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_server_the_registry_serves_and_the_mirror_recovers_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let (urls, base_port) = (servers.urls(), servers.base_port);
    let mut registry = Registry::start(folder.path()).await;
    let first = Image::make(&folder.path().join("first"), 11, &[1000, 2000, 3000]);
    let second = Image::make(&folder.path().join("second"), 12, &[4000]);
    let (first_name, second_name) = (registry.push(&first, "app:v1"), registry.push(&second, "app:v2"));
    let a = Node::start(&folder.path().join("a"), &urls, &registry.url()).await;
    let b = Node::start(&folder.path().join("b"), &urls, &registry.url()).await;
    a.pull(&second_name).await;

    assert!(servers.up.stop().success());
    let started = std::time::Instant::now();
    b.pull(&first_name).await;
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "a pull without servers took {:?}",
        started.elapsed()
    );

    let servers = Servers::up_at(folder.path(), base_port).await;
    findable(&servers, &[1], &second.digests(), &a.agent.holder()).await;
    registry.stop();
    within("the mirror has recovered", SOON, || async {
        b.try_pull(&second_name).await.status.success().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_the_registry_no_longer_has_is_served_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let mut registry = Registry::start(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 13, &[1000]);
    let name = registry.push(&image, "app:v1");
    let a = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    let b = Node::start(&folder.path().join("b"), &servers.urls(), &registry.url()).await;
    a.pull(&name).await;
    findable(&servers, &[1], &image.digests(), &a.agent.holder()).await;
    let unknown = format!("{}/app:v2", registry.name);
    run(&mut a.containerd.ctr(&["images", "tag", &name, &unknown]));
    within("the tag is findable", SOON, || async {
        (!find(&servers.client(1), &unknown).await.is_empty()).then_some(())
    })
    .await;

    assert!(
        !b.try_pull(&unknown).await.status.success(),
        "the registry answered 404, and somebody served it"
    );
    registry.stop();
    within("peers serve it once the registry is gone", SOON, || async {
        b.try_pull(&unknown).await.status.success().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_waits_for_a_containerd_that_is_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let mut containerd = Containerd::prepare(&folder.path().join("a"));
    let mut agent =
        Agent::start(&containerd.folder, &servers.urls(), &["--containerd-sock", &containerd.socket()]);
    let url = format!("http://127.0.0.1:{}/readyz", agent.metrics);
    within("readiness tells that containerd is not there", SOON, || async {
        let answer = http().get(&url).send().await.ok().filter(|answer| answer.status() == 503)?;
        answer.text().await.ok().filter(|reason| reason.contains(&containerd.socket()))
    })
    .await;
    assert!(agent.process.is_running());

    containerd.start().await;
    agent.ready().await;
}

fn make_folder(parent: &Path, name: &str) -> std::path::PathBuf {
    let folder = parent.join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn empty_layout(parent: &Path) -> std::path::PathBuf {
    let folder = make_folder(parent, "empty-layout");
    run(Command::new("umoci").args(["init", "--layout"]).arg(folder.join("layout")));
    folder.join("layout")
}
