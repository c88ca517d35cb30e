//! A site without a registry: an image is imported with `ctr image import` on one node.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::process::run;
use crate::harness::{Image, Node, PICCOLO, SOON, Servers, find, within};

/// Repository of a registry that does not exist.
const REPOSITORY: &str = "registry.airgap.test/app";
const CONFIG: &str = "[registry.\"registry.airgap.test\"]\ntags = \"peers\"\n";
/// Two imports less than this apart count as simultaneous.
const APART: Duration = Duration::from_millis(2_500);

/// Path of an archive of `image`, as an operator would bring it.
fn archive(image: &Image) -> String {
    let file = image.folder.with_extension("tar").display().to_string();
    run(Command::new("tar").args(["-cf", &file, "-C"]).arg(&image.folder).arg("."));
    file
}

fn import(node: &Node, archive: &str) {
    let arguments = ["images", "import", "--no-unpack", "--base-name", REPOSITORY, archive];
    run(&mut node.containerd.ctr(&arguments));
}

/// Digest of the tag in a node's containerd.
fn target(node: &Node, tag: &str) -> String {
    let listed = run(&mut node.containerd.ctr(&["images", "list", &format!("name=={tag}")]));
    let line = listed.lines().find(|line| line.starts_with(tag)).unwrap_or_default();
    line.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap_or_default().to_owned()
}

async fn start(folder: &Path, servers: &Servers, name: &str) -> Node {
    let registry = "http://registry.airgap.test";
    Node::start_with(&folder.join(name), &servers.urls(), registry, CONFIG).await
}

/// The case of k3s issue 13794.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_imported_anew_on_one_node_is_what_the_others_pull() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let old = Image::make(&folder.path().join("old"), 31, &[1_000_000, 2_000]);
    let new = Image::make(&folder.path().join("new"), 32, &[1_000_000, 3_000]);
    let tag = format!("{REPOSITORY}:latest");
    let (a, b, c) = (
        start(folder.path(), &servers, "a").await,
        start(folder.path(), &servers, "b").await,
        start(folder.path(), &servers, "c").await,
    );
    let old_archive = archive(&old);
    for node in [&a, &b, &c] {
        import(node, &old_archive);
    }
    let imported = Instant::now();
    let client = servers.client(1);
    within("the tag of every node is known", SOON, || async {
        (find(&client, &tag).await.len() == 3).then_some(())
    })
    .await;
    tokio::time::sleep(APART.saturating_sub(imported.elapsed())).await;

    import(&a, &archive(&new));
    within("the new image is known", SOON, || async {
        find(&client, new.manifest.as_str()).await.contains(&a.agent.holder()).then_some(())
    })
    .await;
    c.pull(&tag).await;
    assert_eq!(target(&c, &tag), new.manifest.as_str());
    assert_eq!(target(&b, &tag), old.manifest.as_str(), "nobody has pulled there");
    let shown = run(Command::new(PICCOLO).args(["find", &tag, "--server", &servers.urls()[0]]));
    assert!(shown.contains(&format!("{} was set last", new.manifest)), "{shown}");
    assert!(shown.contains(old.manifest.as_str()) && shown.contains(&b.agent.holder()), "{shown}");
    b.pull(&tag).await;
    assert_eq!(target(&b, &tag), new.manifest.as_str());
}
