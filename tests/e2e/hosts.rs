//! The same command on each of three hosts, which are network namespaces on one bridge.

use std::path::Path;
use std::time::Duration;

use piccolo::api::StatusResponse;
use piccolo::api::client::Client;

use crate::harness::{Network, PICCOLO, Process, SOON, find_if_up, keys_of, never_for, within};

const HOLDER: &str = "192.0.2.7:7781";

/// Three hosts of the network.
struct Hosts(Network);

impl Hosts {
    fn make() -> Self {
        Self(Network::make(3))
    }

    fn list(&self) -> String {
        [1, 2, 3].map(|host| format!("{}:7790", self.0.address(host))).join(",")
    }

    fn start(&self, folder: &Path, host: u8, list: &str) -> Process {
        let mut command = self.0.command(host, PICCOLO);
        command.args(["server", "--cluster", list, "--insecure"]);
        command.arg("--data-dir").arg(folder.join(format!("host-{host}")));
        Process::start(folder, &format!("server-{host}"), command)
    }

    fn client(&self, host: u8) -> Client {
        Client::new(vec![format!("http://{}:7789", self.0.address(host))]).unwrap()
    }

    async fn status(&self, host: u8) -> Option<StatusResponse> {
        self.client(host).status(Duration::from_secs(1)).await.ok()
    }

    /// The leading host by the answers of `hosts`.
    async fn leader(&self, hosts: &[u8]) -> u8 {
        within("a leader", SOON, || async {
            for host in hosts {
                let Some(status) = self.status(*host).await.filter(|status| status.quorum) else { continue };
                let Some(leader) = status.members.iter().find(|m| Some(&m.node) == status.leader.as_ref())
                else {
                    continue;
                };
                let found =
                    hosts.iter().find(|h| leader.api_address == format!("{}:7789", self.0.address(**h)));
                if let Some(found) = found {
                    return Some(*found);
                }
            }
            None
        })
        .await
    }
}

async fn write(client: &Client, seq: u64) {
    let request = keys_of(HOLDER, Some((1, seq)), &[format!("registry.example/app:v{seq}")]);
    within("the write is acknowledged", SOON, || async {
        client.advertise(&request, Duration::from_secs(2)).await.ok().filter(|answer| answer.success)
    })
    .await;
}

async fn readable(client: &Client, seq: u64) {
    within("the write is readable", SOON, || async {
        let found = find_if_up(client, &format!("registry.example/app:v{seq}")).await?;
        (found == [HOLDER]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hosts_form_one_cluster_and_survive_restarts_and_cut_links() {
    let folder = tempfile::tempdir().unwrap();
    let network = Hosts::make();
    let list = network.list();
    // Starts in any order, with the list in any order.
    let shuffled = list.split(',').rev().collect::<Vec<_>>().join(",");
    let mut third = network.start(folder.path(), 3, &list);
    let mut first = network.start(folder.path(), 1, &shuffled);
    let second = network.start(folder.path(), 2, &list);
    network.leader(&[1, 2, 3]).await;
    write(&network.client(2), 1).await;
    let cluster = network.status(1).await.unwrap().cluster;
    for host in 1..=3 {
        readable(&network.client(host), 1).await;
        assert_eq!(network.status(host).await.unwrap().cluster, cluster);
    }

    // Restarts in another order, one of them after kill -9.
    second.kill();
    third = restart(&network, folder.path(), third, 3, &list);
    let second = network.start(folder.path(), 2, &list);
    first = restart(&network, folder.path(), first, 1, &list);
    network.leader(&[1, 2, 3]).await;
    write(&network.client(3), 2).await;
    readable(&network.client(1), 2).await;

    // The leader's link is cut: the others continue; it refuses writes but answers, and catches up.
    let leader = network.leader(&[1, 2, 3]).await;
    let rest: Vec<u8> = (1..=3).filter(|host| *host != leader).collect();
    network.0.unplug(leader);
    network.leader(&rest).await;
    write(&network.client(rest[0]), 3).await;
    readable(&network.client(rest[1]), 3).await;
    network.0.plug(leader);
    readable(&network.client(leader), 3).await;
    drop((first, second, third));
}

fn restart(network: &Hosts, folder: &Path, process: Process, host: u8, list: &str) -> Process {
    assert!(process.stop().success(), "SIGTERM ends a server with success");
    network.start(folder, host, list)
}

#[tokio::test(flavor = "multi_thread")]
async fn different_lists_form_no_cluster_and_both_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let network = Hosts::make();
    let list = network.list();
    let wrong = format!("{},{}:7790", list.rsplit_once(',').unwrap().0, network.0.address(77));
    let _processes = [
        network.start(folder.path(), 1, &list),
        network.start(folder.path(), 2, &wrong),
        network.start(folder.path(), 3, &list),
    ];
    let reasons = within("the reason is shown", SOON, || async {
        let status = network.status(1).await?;
        let text = status.reasons.join("\n");
        (text.contains(&network.0.address(77)) && text.contains(&network.0.address(3))).then_some(text)
    })
    .await;
    never_for(&format!("a cluster forms although {reasons}"), Duration::from_secs(3), || async {
        for host in 1..=3 {
            if network.status(host).await.is_some_and(|status| !status.cluster.is_empty()) {
                return true;
            }
        }
        false
    })
    .await;
}
