//! A small site of real processes on loopback: one server, agents over image layouts, and clients that see
//! every byte. Its temporary folders are removed with the test.

#![allow(dead_code, reason = "each test binary uses its part")]

#[path = "ports.rs"]
mod ports;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use piccolo::api::client::Client;
use piccolo::api::{FindQuery, WriteRequest};
use piccolo::oci::Digest;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use ports::free_address;

/// Time for steps without a promised duration: a process starts, a write is acknowledged.
pub(crate) const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Polls until there is a value.
pub(crate) async fn within<T>(what: &str, time: Duration, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + time;
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {time:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// A process, killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the binary under test. `launcher` comes before it, and ends with `exec "$@"` or the like.
    fn start(folder: &Path, name: &str, launcher: &[&str], arguments: &[String]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).unwrap();
        let words: Vec<&str> = launcher.iter().copied().chain([env!("CARGO_BIN_EXE_piccolo")]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(arguments);
        command.env_clear().env("TMPDIR", folder).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        if launcher.is_empty() {
            // Also if this process is killed, which runs no destructors.
            command.args(["--exit-with-parent", &std::process::id().to_string()]);
        }
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        Self { child: command.spawn().unwrap(), log }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Pids of this process and its descendants.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = pids.get(next).copied() {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
            next += 1;
        }
        pids
    }

    /// Sum of a field of `/proc/<pid>/status` in kB, in bytes.
    pub(crate) fn memory_bytes(&self, field: &str) -> u64 {
        let of = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        self.pids().iter().map(of).sum()
    }

    /// Peak of anonymous memory, bytes: without the pages of the binary, which are many in a debug build, and
    /// which the kernel can take back.
    pub(crate) fn own_memory_peak_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM") - self.memory_bytes("RssFile").min(self.memory_bytes("VmHWM"))
    }

    /// Number of open sockets.
    pub(crate) fn sockets(&self) -> usize {
        let of = |pid: &u32| {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            files
                .filter(|file| {
                    fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
                })
                .count()
        };
        self.pids().iter().map(of).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- {}", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A folder in memory if possible: a disk that is busy with other work must not fail the test.
pub(crate) fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A discovery server, as a cluster of one.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) client: Client,
    /// Raft address for other servers.
    pub(crate) raft: SocketAddr,
    pub(crate) process: Process,
    _folder: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::listening_on(free_address()).await
    }

    pub(crate) async fn listening_on(api: SocketAddr) -> Self {
        let folder = in_memory();
        let data = folder.path().join("data");
        let raft = free_address();
        let (listen, raft_listen) = (api.to_string(), raft.to_string());
        let arguments = [
            "server",
            "--listen",
            &listen,
            "--raft-listen",
            &raft_listen,
            "--found-after",
            "0s",
            "--data-dir",
            data.to_str().unwrap(),
        ]
        .map(str::to_owned);
        let process = Process::start(folder.path(), "server", &[], &arguments);
        let url = format!("http://{api}");
        let client = Client::new(vec![url.clone()]).unwrap();
        within("a leader", SOON, async || {
            client.status(Duration::from_secs(2)).await.is_ok_and(|status| status.quorum).then_some(())
        })
        .await;
        Self { url, client, raft, process, _folder: folder }
    }

    /// Adds these keys of `holder` to the index.
    pub(crate) async fn advertise(&self, holder: SocketAddr, keys: &[String]) {
        let request = WriteRequest {
            holder: holder.to_string(),
            group: "default".to_owned(),
            keys: keys.to_vec(),
            epoch: None,
            seq: None,
            zone: None,
            ttl_seconds: None,
        };
        within("an advertise", SOON, async || self.client.advertise(&request, SOON).await.ok()).await;
    }

    /// Waits until the index has a holder of `key`.
    pub(crate) async fn found(&self, key: &str) {
        let query = FindQuery { key: key.to_owned(), group: "default".to_owned(), ..FindQuery::default() };
        within("a holder in the index", SOON, async || self.client.find(&query, SOON).await.ok().flatten())
            .await;
    }
}

/// An image layout.
pub(crate) struct Layout {
    folder: TempDir,
}

impl Layout {
    /// A layout without content.
    pub(crate) fn empty() -> Self {
        let layout = Self { folder: in_memory() };
        for algorithm in ["sha256", "sha512"] {
            fs::create_dir_all(layout.path().join("blobs").join(algorithm)).unwrap();
        }
        layout.index(r#"{"schemaVersion":2,"manifests":[]}"#);
        fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        layout
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Stores a blob; returns its digest.
    pub(crate) fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.put_as(&digest, bytes);
        digest
    }

    /// Stores a blob under a digest of any algorithm.
    pub(crate) fn put_as(&self, digest: &Digest, bytes: &[u8]) {
        let folder = self.path().join("blobs").join(digest.algorithm().name());
        fs::write(folder.join(digest.hex()), bytes).unwrap();
    }

    pub(crate) fn index(&self, json: &str) {
        fs::write(self.path().join("index.json"), json).unwrap();
    }
}

/// An agent that has started.
pub(crate) struct Agent {
    pub(crate) mirror: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) process: Process,
    _folders: [TempDir; 2],
}

/// Configuration of an agent.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// Discovery servers; empty: a port where nothing listens.
    pub(crate) servers: Vec<String>,
    /// Layout of its images; `None`: an empty layout.
    pub(crate) layout: Option<&'a Path>,
    pub(crate) flags: &'a [&'a str],
    /// Arguments before the binary.
    pub(crate) launcher: &'a [&'a str],
    /// Text of the `--config` file.
    pub(crate) config: &'a str,
    /// Address of the blob server; `None`: loopback.
    pub(crate) peer_ip: Option<IpAddr>,
    /// Folder of `--state-dir`; `None`: a new one, on a disk if there is one.
    pub(crate) state_dir: Option<&'a Path>,
}

impl Agent {
    pub(crate) async fn start(setup: Setup<'_>) -> Self {
        let folder = in_memory();
        let [mirror, mut peer, metrics] = [(); 3].map(|()| free_address());
        if let Some(ip) = setup.peer_ip {
            peer.set_ip(ip);
        }
        let mut servers = setup.servers;
        if servers.is_empty() {
            servers.push(format!("http://{}", free_address()));
        }
        let own = folder.path().join("layout");
        if setup.layout.is_none() {
            fs::create_dir_all(own.join("blobs/sha256")).unwrap();
            fs::write(own.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
            fs::write(own.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        }
        let layout = setup.layout.unwrap_or(&own);
        let config = folder.path().join("config.toml");
        fs::write(&config, setup.config).unwrap();
        let state = tempfile::tempdir_in("/var/tmp").or_else(|_| tempfile::tempdir()).unwrap();
        let state_dir = setup.state_dir.unwrap_or(state.path());
        let mut arguments: Vec<String> = vec!["agent".into(), "--servers".into(), servers.join(",")];
        for (flag, value) in [
            ("--mirror-listen", mirror.to_string()),
            ("--peer-listen", peer.to_string()),
            ("--metrics-listen", metrics.to_string()),
            ("--advertise", peer.to_string()),
            ("--layout", layout.display().to_string()),
            ("--config", config.display().to_string()),
            ("--state-dir", state_dir.display().to_string()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend(setup.flags.iter().map(|flag| (*flag).to_owned()));
        let process = Process::start(folder.path(), "agent", setup.launcher, &arguments);
        let agent = Self { mirror, peer, metrics, process, _folders: [folder, state] };
        within("an agent that listens", SOON, async || {
            get(agent.metrics, "/livez").await.ok().filter(|answer| answer.status == 200)
        })
        .await;
        agent
    }

    /// Waits until all that it holds is in the index.
    pub(crate) async fn synced(&self) {
        within("a synced inventory", SOON, async || {
            get(self.metrics, "/readyz").await.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }
}

/// A received answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Headers, with names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a GET on a new connection.
pub(crate) async fn get(address: SocketAddr, target: &str) -> io::Result<Answer> {
    ask(address, "GET", target, &[]).await
}

/// Sends a request on a new connection.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> io::Result<Answer> {
    let mut connection = Wire::connect(address).await?;
    connection.send(&head(method, target, headers)).await?;
    connection.answer(method == "HEAD").await
}

/// Bytes of a request without a body.
pub(crate) fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}

/// A connection whose bytes the test sees.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream =
            tokio::time::timeout(SOON, TcpStream::connect(address)).await.map_err(io::Error::other)??;
        Ok(Self::over(stream))
    }

    /// Uses an existing connection.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Closes the sending direction.
    pub(crate) async fn finish(&mut self) {
        // An error means that the other side has closed already.
        self.stream.shutdown().await.ok();
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads the next answer. A truncated body is an error.
    pub(crate) async fn answer(&mut self, without_body: bool) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no HTTP: {head:?}")))?;
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.get("content-length").and_then(|value| value.parse::<usize>().ok()).unwrap_or(0);
        let length = if without_body || status == 304 { 0 } else { length };
        assert!(!headers.contains_key("transfer-encoding"), "every length is known: {head}");
        while self.unread.len() < length {
            self.more().await?;
        }
        let body = self.unread.drain(..length).collect();
        Ok(Answer { status, headers, body })
    }

    async fn more(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        let read =
            tokio::time::timeout(SOON, self.stream.read(&mut chunk)).await.map_err(io::Error::other)??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(&chunk[..read]);
        Ok(())
    }

    /// Bytes until the other side closes or resets the connection.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        loop {
            match self.more().await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Other => panic!("the connection is still open"),
                Err(_) => return self.unread,
            }
        }
    }
}

/// Random bytes, which do not compress and differ by seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// An address that answers no packet, like a host without power: the kernel drops the first packet of each
/// connection to a listener with a full queue.
pub(crate) struct Swallowing {
    pub(crate) address: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl Swallowing {
    pub(crate) fn start() -> Self {
        Self::at(Ipv4Addr::LOCALHOST)
    }

    pub(crate) fn at(ip: Ipv4Addr) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        // Until a connection is not accepted.
        while queued.len() < 100 {
            let client = socket();
            if client.connect_timeout(&address.into(), Duration::from_millis(100)).is_err() {
                return Self { address, _listener: listener, _queued: queued };
            }
            queued.push(client);
        }
        panic!("the queue of a listener is never full");
    }
}
