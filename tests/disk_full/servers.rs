//! Server processes, each on its own volume, and clients of them.

use std::fs::{self, File};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioExecutor;
use piccolo::api::client::{Client, ClientError};
use piccolo::api::{FindQuery, StatusResponse, WriteRequest};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::ports::free_ports;
use super::volume::Volume;

/// Longer than anything in these tests.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const BRIEFLY: Duration = Duration::from_secs(8);
/// Number of keys in one write; with their length about 20 KB.
pub(crate) const KEYS: usize = 100;

/// Polls until there is a value.
pub(crate) async fn within<T>(what: &str, deadline: Duration, look: impl AsyncFnMut() -> Option<T>) -> T {
    poll(deadline, look).await.unwrap_or_else(|| panic!("{what}: not within {deadline:?}"))
}

/// Polls until there is a value, or the deadline is over.
pub(crate) async fn poll<T>(deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        let found = look().await;
        if found.is_some() || Instant::now() >= end {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server process and its disk.
pub(crate) struct Server {
    pub(crate) volume: Volume,
    logs: TempDir,
    arguments: Vec<String>,
    api: u16,
    pub(crate) raft: u16,
    starts: usize,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn start(&mut self) {
        self.starts += 1;
        let log = File::create(self.logs.path().join(self.starts.to_string())).unwrap();
        let inherited = std::env::vars().filter(|(name, _)| !name.starts_with("PICCOLO_"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_piccolo"));
        command.env_clear().envs(inherited).args(&self.arguments).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Its exit status, if it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// Its log since the last start.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.logs.path().join(self.starts.to_string())).unwrap()
    }

    /// Waits until the server has written nothing for three seconds. With little room it flushes its state
    /// within a second; if the disk becomes full during that, a write fails, which ends the server.
    pub(crate) async fn at_rest(&self) {
        const REST: Duration = Duration::from_secs(3);
        let data = self.volume.path().join("data");
        let (mut written, mut since) = (None, Instant::now());
        within("three seconds without a write", SOON, async || {
            let now = ["log.redb", "state.redb"]
                .map(|name| fs::metadata(data.join(name)).unwrap().modified().unwrap());
            if written.replace(now) != Some(now) {
                since = Instant::now();
            }
            (since.elapsed() > REST).then_some(())
        })
        .await;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(vec![self.url()]).unwrap()
    }

    pub(crate) async fn status(&self) -> Option<StatusResponse> {
        self.client().status(BRIEFLY).await.ok()
    }

    /// Body of a GET that must be answered with 200.
    pub(crate) async fn get(&self, path: &str) -> String {
        let (status, _, text) = self.ask(Method::GET, path, String::new()).await;
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// Body of its `/readyz`. A full server is not ready once it is behind and others serve.
    pub(crate) async fn readiness(&self) -> String {
        let (_, _, text) = self.ask(Method::GET, "/readyz", String::new()).await;
        text
    }

    /// Status, `Retry-After` and body of a POST.
    pub(crate) async fn post(&self, path: &str, body: &serde_json::Value) -> (u16, Option<u64>, String) {
        self.ask(Method::POST, path, body.to_string()).await
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> (u16, Option<u64>, String) {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url()))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)));
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request.unwrap()).await.unwrap();
        let after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, after, String::from_utf8(body.to_vec()).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.url(), self.log());
        }
        self.kill();
    }
}

/// Starts `count` servers on volumes of `bytes` with a `minimum` of free space, and waits for a leader.
pub(crate) async fn servers(count: usize, bytes: u64, minimum: &str) -> Vec<Server> {
    let ports = free_ports(2 * count);
    let cluster: Vec<String> = ports[count..].iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let server = |at: usize| {
        let (volume, logs) = (Volume::of(bytes), TempDir::new().unwrap());
        let (api, raft) = (ports[at], ports[count + at]);
        let mut arguments = vec!["server".to_owned()];
        let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        flag("data-dir", volume.path().join("data").display().to_string());
        flag("listen", format!("127.0.0.1:{api}"));
        flag("raft-listen", format!("127.0.0.1:{raft}"));
        flag("disk-free-min", minimum.to_owned());
        if count > 1 {
            flag("cluster", cluster.join(","));
        } else {
            flag("found-after", "0s".to_owned());
        }
        Server { volume, logs, arguments, api, raft, starts: 0, child: None }
    };
    let mut servers: Vec<Server> = (0..count).map(server).collect();
    servers.iter_mut().for_each(Server::start);
    leader(&servers).await;
    servers
}

/// Position of the leader.
pub(crate) async fn leader(servers: &[Server]) -> usize {
    within("a leader", SOON, async || {
        for server in servers {
            let Some(status) = server.status().await else { continue };
            let Some(leader) = status.leader.filter(|_| status.quorum) else { continue };
            let entry = status.members.into_iter().find(|entry| entry.node == leader)?;
            return servers.iter().position(|server| entry.raft_address.ends_with(&server.raft.to_string()));
        }
        None
    })
    .await
}

pub(crate) const HOLDER: &str = "127.0.0.1:4001";

/// Key of a write. The first one stands for the whole write, because an entry is applied whole.
pub(crate) fn key(write: u64, place: usize) -> String {
    format!("registry.example/{}/app:{write}-{place}", "a-project-with-a-long-name/".repeat(6))
}

/// Writes batch after batch, and counts acknowledged ones.
pub(crate) struct Writer {
    client: Client,
    pub(crate) acknowledged: u64,
}

impl Writer {
    pub(crate) fn on(servers: &[Server]) -> Self {
        let client = Client::new(servers.iter().map(Server::url).collect()).unwrap();
        Self { client, acknowledged: 0 }
    }

    /// Writes the next batch, or the same one again after a failure.
    pub(crate) async fn write(&mut self) -> Result<(), ClientError> {
        let number = self.acknowledged + 1;
        let request = WriteRequest {
            holder: HOLDER.to_owned(),
            group: "default".to_owned(),
            keys: (0..KEYS).map(|place| key(number, place)).collect(),
            epoch: Some(1),
            seq: Some(number),
            zone: None,
            ttl_seconds: None,
        };
        let answer = self.client.advertise(&request, BRIEFLY).await?;
        assert!(answer.success, "{answer:?}");
        self.acknowledged = number;
        Ok(())
    }

    /// Repeats a write until it is acknowledged.
    pub(crate) async fn write_soon(&mut self, deadline: Duration) {
        within("a write", deadline, async || self.write().await.ok()).await;
    }
}

/// Says whether a server has the write, with exactly its holder.
async fn holds(client: &Client, write: u64) -> Result<bool, ClientError> {
    let query = FindQuery { key: key(write, 0), group: "default".to_owned(), ..FindQuery::default() };
    let found = client.find(&query, BRIEFLY).await?;
    Ok(found.is_some_and(|found| found.holders == [HOLDER]))
}

/// Checks that every server gets to the same state, with all acknowledged writes (I1, I2).
pub(crate) async fn agree(servers: &[Server], acknowledged: u64) {
    within("equal checksums at one log index", SOON, async || {
        let mut seen = Vec::new();
        for server in servers {
            let status = server.status().await?;
            seen.push((status.applied_index, status.checksum));
        }
        seen.iter().all(|each| *each == seen[0]).then_some(())
    })
    .await;
    for server in servers {
        let client = server.client();
        for write in 1..=acknowledged {
            assert!(holds(&client, write).await.unwrap(), "write {write} at {}", server.url());
        }
    }
}

/// Looks the first write up at every server, repeatedly.
pub(crate) struct Lookups {
    stop: Arc<AtomicBool>,
    task: JoinSet<(u64, Duration)>,
}

impl Lookups {
    pub(crate) fn on<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Self {
        let clients: Vec<Client> = servers.into_iter().map(Server::client).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                for client in &clients {
                    let begun = Instant::now();
                    let found = holds(client, 1).await;
                    assert!(
                        matches!(found, Ok(true)),
                        "lookup {count} after {:?}: {found:?}",
                        begun.elapsed()
                    );
                    longest = longest.max(begun.elapsed());
                    count += 1;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (count, longest)
        });
        Self { stop, task }
    }

    /// Asserts that none of them failed.
    pub(crate) async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, longest) = self.task.join_next().await.unwrap().unwrap();
        println!("{count} lookups, the longest {longest:?}");
        assert!(count > 0);
    }
}
