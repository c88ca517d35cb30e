//! Nodes whose images cannot be shared properly, and what the agent reports: a content folder that is wrong
//! or not readable, exhausted file notifications, images of other namespaces.

use std::path::Path;
use std::process::Command;

use crate::harness::process::run;
use crate::harness::{Agent, Containerd, Image, PICCOLO, SOON, Servers, find, status_of, text_of, within};

/// Waits until the agent's readiness reports all of these.
async fn says(agent: &Agent, parts: &[&str]) {
    let url = format!("http://127.0.0.1:{}/readyz", agent.metrics);
    within(&format!("the agent says {parts:?}"), SOON, || async {
        let said = text_of(&url).await;
        parts.iter().all(|part| said.contains(part)).then_some(())
    })
    .await;
}

/// A containerd that holds `image`.
async fn containerd_with(folder: &Path, image: &Image) -> Containerd {
    let mut containerd = Containerd::prepare(folder);
    containerd.start().await;
    import(&containerd, "k8s.io", image);
    containerd
}

fn import(containerd: &Containerd, namespace: &str, image: &Image) {
    let file = image.folder.with_extension("tar").display().to_string();
    run(Command::new("tar").args(["-cf", &file, "-C"]).arg(&image.folder).arg("."));
    let arguments = ["images", "import", "--no-unpack", "--base-name", "registry.test/app", &file];
    run(&mut containerd.ctr_in(namespace, &arguments));
}

/// Waits until all of `image` is found at the agent, and fetches it.
async fn shared(servers: &Servers, agent: &Agent, image: &Image) {
    let client = servers.client(1);
    for digest in image.digests() {
        within(&format!("{digest} is found"), SOON, || async {
            find(&client, digest.as_str()).await.contains(&agent.holder()).then_some(())
        })
        .await;
        let url = format!("http://{}/v2/app/blobs/{digest}", agent.holder());
        assert_eq!(status_of(&url).await, Some(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_content_path_other_namespaces_and_discarded_layers_are_said_in_readyz() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 41, &[100_000, 2_000]);
    let containerd = containerd_with(&folder.path().join("a"), &image).await;
    let elsewhere = Image::make(&folder.path().join("elsewhere"), 42, &[1_000]);
    import(&containerd, "default", &elsewhere);
    let discarded = Image::make(&folder.path().join("discarded"), 43, &[3_000]);
    let archive = discarded.folder.with_extension("tar").display().to_string();
    run(Command::new("tar").args(["-cf", &archive, "-C"]).arg(&discarded.folder).arg("."));
    let arguments = ["images", "import", "--no-unpack", "--base-name", "registry.test/gone", &archive];
    run(&mut containerd.ctr(&arguments));
    run(&mut containerd.ctr(&["content", "rm", discarded.layers[0].as_str()]));

    // The layout's folder has blobs, too, but not those of this containerd.
    let wrong = elsewhere.folder.display().to_string();
    let arguments = ["--containerd-sock", &containerd.socket(), "--containerd-content-path", &wrong];
    let agent = Agent::start(&folder.path().join("a"), &servers.urls(), &arguments);
    agent.ready().await;
    let right = folder.path().join("a/root/io.containerd.content.v1.content").display().to_string();
    says(&agent, &[&wrong, &right, "1 in default", "1 of 2 images", "discard_unpacked_layers"]).await;
    shared(&servers, &agent, &image).await;
    let said = agent.process.log().lines().filter(|line| line.contains("does not hold the content")).count();
    assert_eq!(said, 1, "{}", agent.process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_closed_to_the_agent_are_read_over_grpc_and_the_reason_names_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 44, &[100_000]);
    let containerd = containerd_with(&folder.path().join("a"), &image).await;
    let blobs = folder.path().join("a/root/io.containerd.content.v1.content/blobs");
    run(Command::new("chmod").arg("000").arg(&blobs));
    // Root without the capability to override permissions.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-dac_override,-dac_read_search", PICCOLO]);
    let arguments = ["--containerd-sock", &containerd.socket()];
    let agent = Agent::start_by(command, &folder.path().join("a"), &servers.urls(), &arguments);
    agent.ready().await;
    let path = blobs.display().to_string();
    says(&agent, &[&path, "Permission denied", "over gRPC"]).await;
    shared(&servers, &agent, &image).await;

    // A layout has no fallback; the reason says where and why.
    let arguments = ["--layout", &image.folder.display().to_string()];
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-dac_override,-dac_read_search", PICCOLO]);
    let closed = image.folder.join("blobs/sha256");
    run(Command::new("chmod").arg("000").arg(&closed));
    let layout = Agent::start_by(command, &folder.path().join("a"), &servers.urls(), &arguments);
    says(&layout, &["waiting for the image store", &closed.display().to_string(), "Permission denied"]).await;
    run(Command::new("chmod").arg("755").arg(&closed));
    layout.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_file_notifications_new_images_are_found_and_notifications_taken_up_when_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 45, &[100_000]);
    let containerd = containerd_with(&folder.path().join("a"), &image).await;
    // A user namespace has its own limit.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c"]);
    command.args(["echo 0 >/proc/sys/user/max_inotify_instances; exec \"$0\" \"$@\"", PICCOLO]);
    let arguments = ["--containerd-sock", &containerd.socket()];
    let agent = Agent::start_by(command, &folder.path().join("a"), &servers.urls(), &arguments);
    agent.ready().await;
    says(&agent, &["fs.inotify.max_user_instances"]).await;
    shared(&servers, &agent, &image).await;
    let later = Image::make(&folder.path().join("later"), 46, &[3_000]);
    import(&containerd, "k8s.io", &later);
    shared(&servers, &agent, &later).await;

    let pid = agent.process.pid().to_string();
    let raise = "echo 128 >/proc/sys/user/max_inotify_instances";
    run(Command::new("nsenter").args(["--user", "--target", &pid, "sh", "-c", raise]));
    let url = format!("http://127.0.0.1:{}/readyz", agent.metrics);
    within("it watches again", SOON, || async { (!text_of(&url).await.contains("inotify")).then_some(()) })
        .await;
}
