//! Servers in this process, and a client that returns status, headers and body.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use piccolo::identity::TlsMode;
use piccolo::limits::{FORGET_AFTER_DEFAULT, LEASE_DEFAULT};
use piccolo::server::{self, Addresses, Config};
use piccolo::task::Stop;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::ports::free_address;

/// Longer than anything in these tests; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Source address of a client that sets none.
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A digest that is different for each `n`.
pub(crate) fn digest(n: u32) -> String {
    format!("sha256:{n:064x}")
}

/// A server in this process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Stop,
    task: JoinSet<Result<(), server::Error>>,
    folder: Option<TempDir>,
    config: Config,
}

/// A received answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.header("piccolo-applied-index").unwrap().parse().unwrap()
    }

    pub(crate) fn holders(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_value(self.json()["holders"].clone()).unwrap()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// The configuration of a cluster of one on loopback.
pub(crate) fn config(folder: &Path) -> Config {
    Config {
        data_dir: folder.to_owned(),
        listen: free_address(),
        raft_listen: Some("127.0.0.1:0".parse().unwrap()),
        advertise: None,
        cluster: vec![],
        join: None,
        insecure: false,
        lease_default: LEASE_DEFAULT,
        forget_after: FORGET_AFTER_DEFAULT,
        found_after: Duration::ZERO,
        // The tests do not depend on the free space of the machine.
        cluster_secret: None,
        tls: TlsMode::Off,
        disk_free_min: Some(0),
    }
}

impl Server {
    /// A cluster of one server that accepts writes.
    pub(crate) async fn one() -> Self {
        Self::with(|_| {}).await
    }

    /// A cluster of one server with a changed configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let mut server = Self::start(config).await;
        server.folder = Some(folder);
        server.wait_leader().await;
        server
    }

    pub(crate) async fn start(config: Config) -> Self {
        let stop = Stop::new();
        let (ready, addresses) = mpsc::channel::<Addresses>();
        let mut task = JoinSet::new();
        let (inner, given) = (stop.clone(), config.clone());
        task.spawn(async move {
            let ended = server::run(given, inner, move |addresses| ready.send(addresses).unwrap()).await;
            if let Err(error) = &ended {
                eprintln!("a server ended: {error:?}");
            }
            ended
        });
        let addresses = within(PATIENCE, async || {
            if let Some(ended) = task.try_join_next() {
                panic!("the server ended at its start: {ended:?}");
            }
            addresses.try_recv().ok()
        })
        .await;
        let ip = if addresses.api.ip().is_unspecified() {
            "127.0.0.1".parse().unwrap()
        } else {
            addresses.api.ip()
        };
        Self { address: SocketAddr::new(ip, addresses.api.port()), stop, task, folder: None, config }
    }

    pub(crate) async fn wait_leader(&self) {
        within(PATIENCE, async || {
            (self.get("/api/v1/status").await.json()["quorum"] == json!(true)).then_some(())
        })
        .await;
    }

    /// Configuration of its start.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Stops the server as SIGTERM does; returns its folder.
    pub(crate) async fn stop(mut self) -> Option<TempDir> {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap().unwrap();
        self.folder.take()
    }

    pub(crate) async fn send(&self, method: &str, target: &str, body: impl Into<Bytes>) -> Answer {
        self.send_with(method, target, body, &[]).await
    }

    pub(crate) async fn send_with(
        &self,
        method: &str,
        target: &str,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> Answer {
        send_from(LOCALHOST, self.address, method, target, body, headers).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, "").await
    }

    pub(crate) async fn post(&self, target: &str, body: Value) -> Answer {
        self.send("POST", target, body.to_string()).await
    }

    pub(crate) async fn advertise(&self, body: Value) -> Answer {
        self.post("/api/v1/distribution/advertise", body).await
    }

    pub(crate) async fn withdraw(&self, body: Value) -> Answer {
        self.post("/api/v1/distribution/withdraw", body).await
    }

    pub(crate) async fn sync(&self, body: Value) -> Answer {
        self.post("/api/v1/distribution/sync", body).await
    }

    pub(crate) async fn keepalive(&self, body: Value) -> Answer {
        self.post("/api/v1/keepalive", body).await
    }

    /// findkey in group `default`, with `more` appended to the query.
    pub(crate) async fn find(&self, key: &str, more: &str) -> Answer {
        self.get(&format!("/api/v1/distribution/findkey?key={key}&group=default{more}")).await
    }

    /// Holders of a key; empty if the answer is 404.
    pub(crate) async fn holders(&self, key: &str) -> Vec<String> {
        let answer = self.find(key, "").await;
        if answer.status == 404 { vec![] } else { answer.holders() }
    }
}

/// Sends a request from a local address on a new connection.
pub(crate) async fn send_from(
    local: IpAddr,
    address: SocketAddr,
    method: &str,
    target: &str,
    body: impl Into<Bytes>,
    headers: &[(&str, &str)],
) -> Answer {
    let mut connector = HttpConnector::new();
    connector.set_local_address(Some(local));
    let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(format!("http://{address}{target}"))
        .header("content-type", "application/json")
        .header("accept", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let response = tokio::time::timeout(PATIENCE, client.request(request)).await.unwrap().unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    Answer { status: head.status.as_u16(), headers: head.headers, text }
}

/// A write of `holder` in group `default` without a pair.
pub(crate) fn plain(holder: &str, keys: &[String]) -> Value {
    json!({"holder": holder, "group": "default", "keys": keys})
}

/// A write of `holder` in group `default` with a pair.
pub(crate) fn paired(holder: &str, keys: &[String], epoch: u64, seq: u64) -> Value {
    json!({"holder": holder, "group": "default", "keys": keys, "epoch": epoch, "seq": seq})
}

/// Repeats a write with a pair while its outcome is unknown: on a slow machine an entry or an election can
/// take longer than a server waits.
pub(crate) async fn settled(mut send: impl AsyncFnMut() -> Answer) -> Answer {
    within(PATIENCE, async || {
        let answer = send().await;
        (answer.status != 504).then_some(answer)
    })
    .await
}

/// Three servers on loopback in a new cluster.
pub(crate) async fn three() -> Vec<Server> {
    let raft = [(); 3].map(|()| free_address());
    let cluster: Vec<String> = raft.iter().map(SocketAddr::to_string).collect();
    let mut servers = Vec::new();
    for raft_listen in raft {
        let folder = tempfile::tempdir().unwrap();
        let config =
            Config { cluster: cluster.clone(), raft_listen: Some(raft_listen), ..config(folder.path()) };
        let mut server = Server::start(config).await;
        server.folder = Some(folder);
        servers.push(server);
    }
    for server in &servers {
        server.wait_leader().await;
    }
    servers
}

/// Polls until there is a value.
pub(crate) async fn within<T>(deadline: Duration, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asserts that `holds` is true all the time.
pub(crate) async fn always_for(time: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(holds().await, "did not hold for {time:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
