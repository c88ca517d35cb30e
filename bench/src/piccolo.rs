//! Piccolo's real binary: a single server, and agents on layout folders.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::client::fetch;
use crate::layout::{Blob, Layout};
use crate::net::Network;
use crate::process::{DAEMON_TIMEOUT, Process, within};

/// The binary, and the folder for its processes.
pub(crate) struct Piccolo {
    binary: PathBuf,
    folder: PathBuf,
}

/// A running discovery server.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) api: SocketAddr,
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) process: Process,
    pub(crate) mirror: SocketAddr,
    pub(crate) peer: SocketAddr,
}

impl Piccolo {
    pub(crate) fn new(binary: &Path, folder: &Path) -> Result<Self> {
        let Ok(binary) = binary.canonicalize() else {
            bail!("there is no {}: run `make build` (tests: `cargo test --workspace`)", binary.display());
        };
        Ok(Self { binary, folder: folder.to_owned() })
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Starts a cluster of one server.
    pub(crate) fn server(&self, network: &Network) -> Result<Server> {
        let api = SocketAddr::new(network.ip, network.free_port()?);
        let mut command = network.command(&self.binary);
        let data = self.folder.join(format!("server-{}", api.port()));
        command.arg("server").arg("--data-dir").arg(data);
        command.args(["--listen", &api.to_string(), "--raft-listen", "127.0.0.1:0"]);
        command.args(["--found-after", "0s"]);
        let mut process = Process::start(&self.folder, &format!("server-{}", api.port()), command)?;
        wait_ready(&mut process, network, api)?;
        Ok(Server { process, api })
    }

    /// Starts a cluster of one server a network, and waits until all are ready.
    pub(crate) fn servers(&self, networks: &[&Network]) -> Result<Vec<Server>> {
        if let [network] = networks {
            return Ok(vec![self.server(network)?]);
        }
        let address = |network: &&Network| Ok(SocketAddr::new(network.ip, network.free_port()?));
        let raft: Vec<SocketAddr> = networks.iter().map(address).collect::<Result<_>>()?;
        let list = raft.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        let mut servers = Vec::new();
        for (network, raft) in networks.iter().zip(&raft) {
            let api = address(network)?;
            let mut command = network.command(&self.binary);
            let data = self.folder.join(format!("server-{}", api.port()));
            command.arg("server").arg("--data-dir").arg(data).args(["--log-level", "warn"]);
            command.args(["--listen", &api.to_string(), "--raft-listen", &raft.to_string()]);
            command.args(["--cluster", &list, "--insecure"]);
            let process = Process::start(&self.folder, &format!("server-{}", api.port()), command)?;
            servers.push(Server { process, api });
        }
        for (network, server) in networks.iter().zip(&mut servers) {
            wait_ready(&mut server.process, network, server.api)?;
        }
        Ok(servers)
    }

    /// Starts an agent with `store` arguments (`--layout DIR`, `--containerd-sock PATH`) and waits until it
    /// is ready.
    pub(crate) fn agent(&self, network: &Network, servers: &str, store: &[&str]) -> Result<Agent> {
        let address = || Ok::<_, anyhow::Error>(SocketAddr::new(network.ip, network.free_port()?));
        let (mirror, peer, metrics) = (address()?, address()?, address()?);
        let mut command = network.command(&self.binary);
        command.args(["agent", "--servers", servers, "--log-level", "warn"]).args(store);
        for (flag, address) in
            [("--mirror-listen", mirror), ("--peer-listen", peer), ("--metrics-listen", metrics)]
        {
            command.args([flag, &address.to_string()]);
        }
        command.env("PICCOLO_STATE_DIR", self.folder.join(format!("state-{}", peer.port())));
        let mut process = Process::start(&self.folder, &format!("agent-{}", peer.port()), command)?;
        wait_ready(&mut process, network, metrics)?;
        Ok(Agent { process, mirror, peer })
    }

    /// Starts an agent that holds `layout`, with `extra` arguments.
    pub(crate) fn layout_agent(
        &self,
        network: &Network,
        server: &Server,
        layout: &Layout,
        extra: &[&str],
    ) -> Result<Agent> {
        let folder = layout.folder.display().to_string();
        let arguments = [&["--layout", &folder], extra].concat();
        self.agent(network, &format!("http://{}", server.api), &arguments)
    }
}

fn wait_ready(process: &mut Process, network: &Network, address: SocketAddr) -> Result<()> {
    process.wait_until("/readyz answers 200", || {
        let answer = network.run(|| Ok(fetch(address, "/readyz"))).ok().flatten();
        answer.filter(|(status, _)| *status == 200).map(|_| ())
    })
}

/// True if `server` knows a holder of `blob`.
pub(crate) fn is_findable(server: SocketAddr, blob: &Blob) -> bool {
    let path = format!("/api/v1/distribution/findkey?group=default&key={}", blob.digest());
    fetch(server, &path).is_some_and(|(status, _)| status == 200)
}

/// Waits until `server` knows a holder of each blob.
pub(crate) fn wait_findable(network: &Network, server: SocketAddr, blobs: &[Blob]) -> Result<()> {
    network.run(|| {
        for blob in blobs {
            within("a blob is findable", DAEMON_TIMEOUT, || Ok(is_findable(server, blob).then_some(())))
                .with_context(|| blob.digest())?;
        }
        Ok(())
    })
}
