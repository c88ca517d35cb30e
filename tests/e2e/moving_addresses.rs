//! Default settings at sites whose nodes get their addresses late, lose them to DHCP, or have no IPv4.

use std::fs;
use std::process::Command;
use std::time::Duration;

use piccolo::api::client::Client;

use crate::harness::process::run;
use crate::harness::{Image, Network, PICCOLO, Process, SOON, find_if_up, free_ports_in_a_row, http, within};

/// Default port of the blob server.
const PEER_PORT: u16 = 7781;

struct Site {
    _server: Process,
    network: Network,
    image: Image,
    server_port: u16,
    /// Last, because the logs of the processes are in it.
    folder: tempfile::TempDir,
}

impl Site {
    /// Makes a server with default listeners, on a bridge with one host that has no address.
    async fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let network = Network::make(1);
        let own = format!("{}/64", network.address_v6(254));
        run(Command::new("ip").args(["addr", "add", &own, "dev", &network.bridge(), "nodad"]));
        network.inside(1, &["addr", "flush", "dev", "eth0"]);
        let server_port = free_ports_in_a_row(2);
        let mut server = Command::new(PICCOLO);
        server.args(["server", "--found-after", "0s", "--listen", &format!("[::]:{server_port}")]);
        server.args(["--raft-listen", &format!("127.0.0.1:{}", server_port + 1), "--data-dir"]);
        server.arg(folder.path().join("server"));
        let server = Process::start(folder.path(), "server", server);
        let image = Image::make(&folder.path().join("image"), 77, &[300_000]);
        let site = Self { folder, network, image, server_port, _server: server };
        let client = Client::new(vec![format!("http://127.0.0.1:{server_port}")]).unwrap();
        let up = || async { client.status(Duration::from_secs(1)).await.ok().filter(|status| status.quorum) };
        within("the server leads", SOON, up).await;
        site
    }

    fn agent(&self, server: &str) -> Process {
        let mut agent = self.network.command(1, PICCOLO);
        agent.args(["agent", "--servers", &format!("http://{server}:{}", self.server_port)]);
        // The lease of a former address outlives the test, so that keys that are not withdrawn are found.
        agent.args(["--heartbeat-interval", "5m", "--metrics-listen", "[::]:7782", "--layout"]);
        agent.arg(&self.image.folder);
        agent.env("PICCOLO_STATE_DIR", self.folder.path().join("state"));
        Process::start(self.folder.path(), "agent", agent)
    }

    /// Waits until the image is found at exactly these addresses.
    async fn is_held_at(&self, hosts: &[&str]) {
        let client = Client::new(vec![format!("http://127.0.0.1:{}", self.server_port)]).unwrap();
        let expected: Vec<String> = hosts.iter().map(|host| format!("{host}:{PEER_PORT}")).collect();
        let layer = self.image.layers[0].to_string();
        within(&format!("held at {expected:?}"), SOON, || async {
            find_if_up(&client, &layer).await.filter(|holders| *holders == expected)
        })
        .await;
    }

    /// Bytes that a peer gets at an address.
    async fn fetch(&self, host: &str) -> Vec<u8> {
        let layer = &self.image.layers[0];
        let url = format!("http://{host}:{PEER_PORT}/v2/app/blobs/{layer}?ns=registry.test");
        http().get(&url).send().await.unwrap().bytes().await.unwrap().to_vec()
    }
}

async fn readiness(host: &str) -> Option<(u16, String)> {
    let answer = http().get(format!("http://{host}:7782/readyz")).send().await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

/// Without a route at its start the agent ended, and a changed address was never updated.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_comes_late_and_changes_is_followed() {
    let site = Site::make().await;
    let [first, second] = [1, 9].map(|host| site.network.address(host));
    let mut agent = site.agent(&site.network.address(254));
    within("it serves without an address, and says so", SOON, || async {
        let log = agent.log();
        (log.contains("not known yet") && log.contains("--advertise") && log.contains("serving"))
            .then_some(())
    })
    .await;
    assert!(agent.is_running());
    site.network.inside(1, &["addr", "add", &format!("{first}/24"), "dev", "eth0"]);
    site.is_held_at(&[&first]).await;
    let (status, reasons) = within("probes answer", SOON, || readiness(&first)).await;
    assert!(status == 200 && !reasons.contains("not known yet"), "{status}: {reasons}");

    site.network.inside(1, &["addr", "del", &format!("{first}/24"), "dev", "eth0"]);
    site.network.inside(1, &["addr", "add", &format!("{second}/24"), "dev", "eth0"]);
    site.is_held_at(&[&second]).await;
    let blob = site.image.folder.join("blobs/sha256").join(site.image.layers[0].hex());
    assert_eq!(site.fetch(&second).await, fs::read(blob).unwrap());
}

/// The message advised `--advertise`, with an address that the peer port did not accept.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_without_ipv4_works_with_the_defaults() {
    let site = Site::make().await;
    let own = site.network.address_v6(1);
    site.network.inside(1, &["addr", "add", &format!("{own}/64"), "dev", "eth0", "nodad"]);
    let _agent = site.agent(&format!("[{}]", site.network.address_v6(254)));
    site.is_held_at(&[&format!("[{own}]")]).await;
    let blob = site.image.folder.join("blobs/sha256").join(site.image.layers[0].hex());
    assert_eq!(site.fetch(&format!("[{own}]")).await, fs::read(blob).unwrap());
}
