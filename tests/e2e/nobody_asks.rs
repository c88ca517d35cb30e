//! A node whose containerd does not read the `hosts.toml` with our mirror: images arrive without requests to
//! the mirror, and both the agent and `piccolo mirror check` report that.

use std::fs;
use std::process::Command;
use std::time::Duration;

use piccolo::agent::MIRROR_BYPASSED;

use crate::harness::process::run;
use crate::harness::{Image, Node, PICCOLO, Registry, SOON, Servers, never_for, text_of, within};

async fn readyz(node: &Node) -> String {
    text_of(&format!("http://127.0.0.1:{}/readyz", node.agent.metrics)).await
}

/// Imports an image like a build or an offline site.
fn import(node: &Node, image: &Image, number: u64) {
    let archive = image.folder.with_extension("tar");
    let files = ["oci-layout", "index.json", "blobs"];
    run(Command::new("tar").arg("-C").arg(&image.folder).arg("-cf").arg(&archive).args(files));
    let (base, archive) = (format!("registry.example/built{number}"), archive.display().to_string());
    run(&mut node.containerd.ctr(&["images", "import", "--no-unpack", "--base-name", &base, &archive]));
}

/// Output of `piccolo mirror check`, and whether it succeeded.
fn check(node: &Node, config_path: &str) -> (String, bool) {
    let folder = &node.containerd.folder;
    let config = folder.join("for-check.toml");
    let text = format!(
        "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '{config_path}'\n"
    );
    fs::write(&config, text).unwrap();
    let output = Command::new(PICCOLO)
        .args(["mirror", "check", "--mirror", &node.agent.mirror_url()])
        .args(["--agent", &format!("http://127.0.0.1:{}", node.agent.metrics)])
        .args(["--containerd-sock", &node.containerd.socket()])
        .arg("--containerd-config")
        .arg(config)
        .arg("--certs-dir")
        .arg(folder.join("certs.d"))
        .output()
        .unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_are_pulled_past_the_mirror_are_noticed_and_those_that_are_imported_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let servers = Servers::up(folder).await;
    let registry = Registry::start(folder).await;
    let images: Vec<Image> =
        (1..=8).map(|seed| Image::make(&folder.join(format!("image-{seed}")), seed, &[10_000])).collect();
    let node = Node::start(&folder.join("node"), &servers.urls(), &registry.url()).await;
    let certs = node.containerd.folder.join("certs.d").display().to_string();

    (1..).zip(&images[..4]).for_each(|(number, image)| import(&node, image, number));
    never_for("imports count as pulls", Duration::from_secs(4), || async {
        readyz(&node).await.contains(MIRROR_BYPASSED)
    })
    .await;
    let (text, is_good) = check(&node, &certs);
    assert!(is_good && text.contains("our mirror is first") && text.contains("has not asked"), "{text}");
    let (text, is_good) = check(&node, "/etc/elsewhere");
    assert!(!is_good && text.contains("does NOT read"), "{text}");

    for (number, image) in (1..).zip(&images[4..7]) {
        let reference = registry.push(image, &format!("team/app:v{number}"));
        let pull = ["images", "pull", "--snapshotter", "native", "--plain-http", &reference];
        run(&mut node.containerd.ctr(&pull));
    }
    within("the agent says that nobody asks", SOON, || async {
        readyz(&node).await.contains(MIRROR_BYPASSED).then_some(())
    })
    .await;
    let (text, is_good) = check(&node, &certs);
    assert!(!is_good && text.contains(MIRROR_BYPASSED), "{text}");

    node.pull(&registry.push(&images[7], "team/app:v4")).await;
    within("one request ends that", SOON, || async {
        (!readyz(&node).await.contains(MIRROR_BYPASSED)).then_some(())
    })
    .await;
    let (text, is_good) = check(&node, &certs);
    assert!(is_good && text.contains("since the agent started"), "{text}");
}
