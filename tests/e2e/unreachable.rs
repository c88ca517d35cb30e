//! A registry behind a silent network: packets that are dropped, a resolver that never answers. Everything
//! runs in its own namespace.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use piccolo::api::client::Client;

use crate::harness::process::run;
use crate::harness::{Image, PICCOLO, Process, SOON, find_if_up, http, status_of, within};

static NETWORKS: AtomicU8 = AtomicU8::new(0);
/// The promise is 2 s; twice that here, on a busy machine.
const SERVED_WITHIN: Duration = Duration::from_secs(2 * 2);
/// Time to stop: delayed headers for containerd are answered until then.
const STOPPED_WITHIN: Duration = Duration::from_secs(8);

/// A namespace with a link to the test, and a neighbour on another link that drops all packets and serves as
/// resolver and registry.
struct Network {
    number: u8,
}

impl Network {
    fn make() -> Self {
        let network =
            Self { number: (std::process::id() % 120) as u8 * 2 + NETWORKS.fetch_add(1, Ordering::Relaxed) };
        let (space, outer) = (network.space(), network.outer());
        let netns = PathBuf::from("/etc/netns").join(&space);
        fs::create_dir_all(&netns).unwrap();
        fs::write(netns.join("resolv.conf"), format!("nameserver {}\n", network.silent())).unwrap();
        ip(&["netns", "add", &space]);
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space]);
        ip(&["addr", "add", &format!("{}/24", network.address(254)), "dev", &outer]);
        ip(&["link", "set", &outer, "up"]);
        let inside = |arguments: &[&str]| ip(&[&["-n", &space], arguments].concat());
        inside(&["addr", "add", &format!("{}/24", network.address(1)), "dev", "eth0"]);
        inside(&["link", "set", "eth0", "up"]);
        inside(&["link", "set", "lo", "up"]);
        inside(&["link", "add", "hole", "type", "veth", "peer", "name", "bottom"]);
        inside(&["link", "set", "bottom", "up"]);
        inside(&["addr", "add", &format!("10.214.{}.1/24", network.number), "dev", "hole"]);
        inside(&["link", "set", "hole", "up"]);
        let neighbour = ["neigh", "add", &network.silent(), "lladdr", "02:00:00:00:00:01", "dev", "hole"];
        inside(&neighbour);
        network
    }

    fn space(&self) -> String {
        format!("picu{}", self.number)
    }

    fn outer(&self) -> String {
        format!("picu{}v", self.number)
    }

    fn address(&self, host: u8) -> String {
        format!("10.213.{}.{host}", self.number)
    }

    /// Address of a host that does not exist, without an error from the network.
    fn silent(&self) -> String {
        format!("10.214.{}.9", self.number)
    }

    fn piccolo(&self, role: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(), PICCOLO, role]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "del", &self.space()]).status().ok();
        Command::new("ip")
            .args(["link", "del", &self.outer()])
            .stderr(std::process::Stdio::null())
            .status()
            .ok();
        fs::remove_dir_all(PathBuf::from("/etc/netns").join(self.space())).ok();
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_serve_tags_and_digests_while_dns_is_silent_or_packets_vanish() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::make();
    let image = Image::make(&folder.path().join("image"), 31, &[100_000]);
    let registries = [
        ("silent DNS", "registry.nowhere.test".to_owned()),
        ("swallowed packets", format!("{}:5000", network.silent())),
    ];
    let entries: Vec<String> = registries
        .iter()
        .map(|(_, registry)| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":1,
                   "annotations":{{"org.opencontainers.image.ref.name":"{registry}/app:v1"}}}}"#,
                image.manifest
            )
        })
        .collect();
    fs::write(
        image.folder.join("index.json"),
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")),
    )
    .unwrap();

    let mut server = network.piccolo("server");
    server.args([
        "--insecure",
        "--found-after",
        "0s",
        "--listen",
        &format!("{}:7789", network.address(1)),
        "--data-dir",
    ]);
    server.arg(folder.path().join("server"));
    let _server = Process::start(folder.path(), "server", server);
    let servers = format!("http://{}:7789", network.address(1));
    let agent = |name: &str, base: u16, layout: &std::path::Path| {
        let mut command = network.piccolo("agent");
        command.args(["--servers", &servers, "--heartbeat-interval", "2s", "--layout"]).arg(layout);
        for (flag, port) in
            [("--mirror-listen", base), ("--peer-listen", base + 1), ("--metrics-listen", base + 2)]
        {
            command.args([flag, &format!("{}:{port}", network.address(1))]);
        }
        command.env("PICCOLO_STATE_DIR", folder.path().join(format!("{name}-state")));
        Process::start(folder.path(), name, command)
    };
    let empty = folder.path().join("empty");
    fs::create_dir_all(empty.join("blobs/sha256")).unwrap();
    fs::write(empty.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(empty.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    let (_holder, asker) = (agent("holder", 7780, &image.folder), agent("asker", 7880, &empty));
    let client = Client::new(vec![servers.clone()]).unwrap();
    let keys = registries
        .iter()
        .map(|(_, registry)| format!("{registry}/app:v1"))
        .chain([image.manifest.to_string()]);
    for key in keys {
        within(&format!("{key} is findable"), SOON, || async {
            find_if_up(&client, &key).await.filter(|holders| !holders.is_empty())
        })
        .await;
    }
    let ready = format!("http://{}:7882/readyz", network.address(1));
    within("the asker is ready", SOON, || async { status_of(&ready).await.filter(|status| *status == 200) })
        .await;

    for (what, registry) in &registries {
        for reference in [image.manifest.to_string(), "v1".to_owned()] {
            let start = Instant::now();
            let url =
                format!("http://{}:7880/v2/app/manifests/{reference}?ns={registry}", network.address(1));
            let answer = http().get(&url).send().await.unwrap();
            let took = start.elapsed();
            assert_eq!(answer.status().as_u16(), 200, "{what}: {reference}");
            assert_eq!(piccolo::oci::Digest::of(&answer.bytes().await.unwrap()), image.manifest);
            assert!(took < SERVED_WITHIN, "{what}: {reference} took {took:?}");
        }
    }
    let start = Instant::now();
    assert!(asker.stop().success());
    assert!(start.elapsed() < STOPPED_WITHIN, "a resolver that waits holds the agent: {:?}", start.elapsed());
}
