//! A first server that was started without regard to others, and its operator's way to three. Each host is a
//! network namespace, so that each has its own 127.0.0.1.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use piccolo::api::client::Client;

use crate::harness::{Network, PICCOLO, Process, SOON, find_if_up, keys_of, within};

const HOLDER: &str = "192.0.2.7:7781";
const KEY: &str = "registry.example/app:v1";

struct Hosts {
    network: Network,
    folder: tempfile::TempDir,
}

impl Hosts {
    fn raft(&self, host: u8) -> String {
        format!("{}:7790", self.network.address(host))
    }

    fn start(&self, host: u8, flags: &[&str]) -> Process {
        let folder: &Path = self.folder.path();
        let mut command = self.network.command(host, PICCOLO);
        command.args(["server", "--insecure", "--found-after", "0s"]).args(flags);
        command.arg("--data-dir").arg(folder.join(format!("host-{host}")));
        Process::start(folder, &format!("server-{host}"), command)
    }

    fn client(&self, host: u8) -> Client {
        Client::new(vec![format!("http://{}:7789", self.network.address(host))]).unwrap()
    }

    async fn leads(&self, host: u8) {
        let client = self.client(host);
        within("it leads", SOON, || async {
            client.status(Duration::from_secs(1)).await.ok().filter(|status| status.quorum)
        })
        .await;
    }

    /// `piccolo members …` with the first server.
    fn members(&self, words: &[&str]) -> Output {
        let server = format!("http://{}:7789", self.network.address(1));
        let mut command = self.network.command(1, PICCOLO);
        command.arg("members").args(words).args(["--server", &server]).output().unwrap()
    }
}

/// Both adds succeeded, and afterwards no write through a joined server did.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_server_that_calls_itself_127_0_0_1_is_joined_by_nobody_until_it_has_moved() {
    let hosts = Hosts { network: Network::make(3), folder: tempfile::tempdir().unwrap() };
    let first = hosts.start(1, &["--raft-listen", "0.0.0.0:7790"]);
    hosts.leads(1).await;
    let join = hosts.raft(1);
    let _others = [2, 3].map(|host| hosts.start(host, &["--join", &join]));
    for host in [2, 3] {
        let client = hosts.client(host);
        within("an answer", SOON, || async { client.status(Duration::from_secs(1)).await.ok() }).await;
    }
    let (second, third) = (hosts.raft(2), hosts.raft(3));
    let refused = hosts.members(&["add", &second, &third]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for part in [
        &format!("the server at {second} does not reach raft of member"),
        &format!("the server at {third} does not reach the discovery API of member"),
        " is an address of that member's own host only",
        "--advertise HOST --raft-listen 0.0.0.0:7790",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(hosts.client(1).members(SOON).await.unwrap().members.len(), 1);

    // Follows the advice in the output.
    let id = said.split("piccolo members replace ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert!(first.stop().success());
    let address = hosts.network.address(1);
    let _first = hosts.start(1, &["--advertise", &address, "--raft-listen", "0.0.0.0:7790"]);
    hosts.leads(1).await;
    for words in [&["replace", &id, &join], &["add", &second, &third]] {
        let done = hosts.members(words);
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let request = keys_of(HOLDER, Some((1, 1)), &[KEY.to_owned()]);
    for host in [3, 2, 1] {
        let client = hosts.client(host);
        within("a write through each of them", SOON, || async {
            client.advertise(&request, Duration::from_secs(5)).await.ok().filter(|answer| answer.success)
        })
        .await;
        within("it is readable there", SOON, || async {
            find_if_up(&client, KEY).await.filter(|found| *found == [HOLDER])
        })
        .await;
    }
}
