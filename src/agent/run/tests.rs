//! Tests of whole agents, which are started by their configuration, with servers that are a set in this
//! process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get as get_route, post};
use axum::{Json, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::{Addresses, Error, run};
use crate::agent::testing::*;
use crate::agent::{Config, RegistryPolicy, Selection, StoreConfig, TagPolicy};
use crate::api::{FindQuery, FindResponse, KeepaliveResponse, Message, WriteRequest, WriteResponse, path};
use crate::http::{self, ConnectionLimits};
use crate::oci::Digest;
use crate::task::Stop;

type Pairs = Arc<Mutex<BTreeSet<(String, String)>>>;

/// A discovery server without order, leases or groups.
async fn server(tasks: &TaskTracker, stop: &Stop) -> (String, Pairs) {
    let pairs = Pairs::default();
    let router = Router::new()
        .route(path::ADVERTISE, post(advertise))
        .route(path::SYNC, post(advertise))
        .route(path::FINDKEY, get_route(find))
        .route(path::KEEPALIVE, post(keepalive))
        .with_state(Arc::clone(&pairs));
    let listener = http::bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(http::serve(listener, router, ConnectionLimits::default(), stop.clone()));
    (url, pairs)
}

async fn advertise(State(pairs): State<Pairs>, Json(request): Json<WriteRequest>) -> Response {
    let mut pairs = pairs.lock().unwrap();
    pairs.extend(request.keys.iter().map(|key| (key.clone(), request.holder.clone())));
    let (epoch, seq) = (request.epoch, request.seq);
    let answer =
        WriteResponse { success: true, message: String::new(), stale: false, epoch, seq, skipped: 0 };
    (StatusCode::CREATED, Json(answer)).into_response()
}

async fn find(State(pairs): State<Pairs>, Query(query): Query<FindQuery>) -> Response {
    let pairs = pairs.lock().unwrap();
    let asker = query.request_host.unwrap_or_default();
    let holders: Vec<String> = pairs
        .iter()
        .filter(|(key, holder)| *key == query.key && *holder != asker)
        .map(|(_, h)| h.clone())
        .collect();
    if holders.is_empty() {
        let message = Message { success: None, message: "nobody".to_owned(), error: String::new() };
        return (StatusCode::NOT_FOUND, Json(message)).into_response();
    }
    Json(FindResponse { key: query.key, group: query.group, holders, total: 0, flight: None }).into_response()
}

async fn keepalive() -> Response {
    let answer = KeepaliveResponse { success: true, message: String::new(), resync: false };
    (StatusCode::CREATED, Json(answer)).into_response()
}

fn layout(folder: &Path, blobs: &[&[u8]], tagged: Option<(&str, &[u8])>) {
    let blobs_folder = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs_folder).unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    for bytes in blobs {
        fs::write(blobs_folder.join(Digest::of(bytes).hex()), bytes).unwrap();
    }
    let entries = tagged.map_or_else(String::new, |(name, manifest)| {
        fs::write(blobs_folder.join(Digest::of(manifest).hex()), manifest).unwrap();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},"annotations":{{"io.containerd.image.name":"{name}"}}}}"#,
            Digest::of(manifest),
            manifest.len()
        )
    });
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
    fs::write(folder.join("index.json"), index).unwrap();
}

fn config(server: &str, folder: &Path) -> Config {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let policy = RegistryPolicy { tags: TagPolicy::Peers, ..RegistryPolicy::default() };
    Config {
        servers: vec![server.to_owned()],
        group: "default".to_owned(),
        mirror_listen: any,
        peer_listen: any,
        advertise: None,
        advertise_among: Selection::default(),
        metrics_listen: any,
        store: StoreConfig::Layout { folder: folder.to_owned() },
        zone: String::new(),
        resolve_timeout: Duration::from_secs(2),
        uploads_max: 4,
        upload_bytes_per_second: 0,
        heartbeat_interval: Duration::from_secs(30),
        state_dir: folder.join("state"),
        supervisor: std::process::id(),
        certs_dirs: Some(Vec::new()),
        registries: BTreeMap::from([("registry.test".to_owned(), policy)]),
    }
}

struct Agent {
    addresses: Addresses,
    stop: Stop,
    ended: oneshot::Receiver<Result<(), Error>>,
}

async fn start(tasks: &TaskTracker, config: Config) -> Agent {
    let (ready, is_ready) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let stop = Stop::new();
    let agent_stop = stop.clone();
    tasks.spawn(async move {
        let result = run(config, agent_stop, |addresses| ready.send(addresses).unwrap()).await;
        _ = end.send(result);
    });
    let addresses = is_ready.await.expect("the agent starts");
    Agent { addresses, stop, ended }
}

impl Agent {
    async fn stopped(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(SOON, self.ended).await.expect("it stops in time").unwrap();
        assert!(ended.is_ok(), "{ended:?}");
    }
}

/// A tag and a blob travel from the layout of one agent to a client of another, which holds neither.
#[tokio::test]
async fn one_agent_serves_what_another_holds() {
    let (tasks, stop, folders) = (TaskTracker::new(), Stop::new(), tempfile::tempdir().unwrap());
    let (server, pairs) = server(&tasks, &stop).await;
    let (bytes, manifest) = (noise(3_000_000), manifest("a"));
    layout(&folders.path().join("full"), &[&bytes], Some(("registry.test/library/test:v1", &manifest)));
    layout(&folders.path().join("empty"), &[], None);
    let holder = start(&tasks, config(&server, &folders.path().join("full"))).await;
    let asker = start(&tasks, config(&server, &folders.path().join("empty"))).await;
    assert_eq!(holder.addresses.advertise, Some(holder.addresses.peer));
    until("the tag is advertised", || {
        pairs.lock().unwrap().iter().any(|(key, _)| key == "registry.test/library/test:v1")
    })
    .await;

    let got = get(asker.addresses.mirror, &manifest_target("v1", "registry.test")).await;
    assert_eq!((got.status, got.body), (200, manifest));
    let got = get(asker.addresses.mirror, &blob_target(&Digest::of(&bytes))).await;
    assert!(got.status == 200 && got.is_complete() && got.body == bytes);

    let ready = async {
        while get(asker.addresses.metrics, "/readyz").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, ready).await.is_ok(), "never ready");
    assert_eq!(get(asker.addresses.metrics, "/livez").await.status, 200);
    let metrics = get(asker.addresses.metrics, "/metrics").await.text();
    assert!(metrics.contains(r#"piccolo_mirror_requests_total{cache="hit",ref_kind="Blob"}"#), "{metrics}");
    asker.stopped().await;
    holder.stopped().await;
    stop.cancel();
}

#[tokio::test]
async fn stopping_lets_a_transfer_end_first() {
    let (tasks, stop, folder) = (TaskTracker::new(), Stop::new(), tempfile::tempdir().unwrap());
    let (server, _) = server(&tasks, &stop).await;
    let bytes = noise(20_000_000);
    layout(folder.path(), &[&bytes], None);
    let agent = start(&tasks, config(&server, folder.path())).await;
    let mut stream = TcpStream::connect(agent.addresses.peer).await.unwrap();
    let target = blob_target(&Digest::of(&bytes));
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut got = vec![0; 1_000];
    stream.read_exact(&mut got).await.unwrap();
    agent.stop.cancel();
    let gone = async {
        while TcpStream::connect(agent.addresses.mirror).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, gone).await.is_ok(), "it still listens");
    stream.read_to_end(&mut got).await.unwrap();
    assert!(got.ends_with(&bytes[bytes.len() - 1_000..]));
    agent.stopped().await;
    stop.cancel();
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let (folder, held) =
        (tempfile::tempdir().unwrap(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let mut config = config("http://127.0.0.1:1", folder.path());
    config.mirror_listen = held.local_addr().unwrap();
    let error = run(config, Stop::new(), |_| {}).await.unwrap_err().to_string();
    assert!(
        error.contains(&held.local_addr().unwrap().to_string()) && error.contains("--mirror-listen"),
        "{error}"
    );
}

#[tokio::test]
async fn bad_registry_tables_are_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let with = |policy: RegistryPolicy| {
        let mut config = config("http://127.0.0.1:1", folder.path());
        config.registries.insert("bad.test".to_owned(), policy);
        config
    };
    let missing = RegistryPolicy { ca: Some("/nowhere/ca.pem".into()), ..RegistryPolicy::default() };
    let error = run(with(missing), Stop::new(), |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("bad.test") && error.contains("/nowhere/ca.pem"), "{error}");
    let url = RegistryPolicy { origin: Some("bad.test:5000".to_owned()), ..RegistryPolicy::default() };
    let error = run(with(url), Stop::new(), |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("bad.test:5000"), "{error}");
}

/// What earlier runs verified is not read again, as a wrong entry shows.
#[tokio::test]
async fn verdicts_of_an_earlier_run_are_taken_over() {
    let (tasks, stop) = (TaskTracker::new(), Stop::new());
    let (server, _) = server(&tasks, &stop).await;
    let root = tempfile::tempdir().unwrap();
    let bytes = noise(2 << 20);
    layout(root.path(), &[&bytes], None);
    let digest = Digest::of(&bytes);
    let first = start(&tasks, config(&server, root.path())).await;
    assert_eq!(get(first.addresses.peer, &blob_target(&digest)).await.status, 200);
    first.stop.cancel();
    first.ended.await.unwrap().unwrap();
    let verdicts = root.path().join("state/verdicts");
    let text = fs::read_to_string(&verdicts).unwrap();
    assert!(text.contains(digest.as_str()), "{text}");
    // The same file under a digest that its bytes do not have.
    let other = Digest::of(b"other");
    let blobs = root.path().join("blobs/sha256");
    let lines: Vec<&str> = text.lines().skip(2).collect();
    fs::hard_link(blobs.join(digest.hex()), blobs.join(other.hex())).unwrap();
    let meta = fs::metadata(blobs.join(other.hex())).unwrap();
    let mut fields: Vec<String> = lines[0].split(' ').map(str::to_owned).collect();
    // The new name has changed the inode.
    (fields[5], fields[6]) = (meta.ctime().to_string(), meta.ctime_nsec().to_string());
    fields[7] = other.to_string();
    let line = fields.join(" ") + "\n";
    fs::write(&verdicts, format!("piccolo verdicts 1\n{}\n{line}", Digest::of(line.as_bytes()))).unwrap();
    let second = start(&tasks, config(&server, root.path())).await;
    let got = get(second.addresses.peer, &blob_target(&other)).await;
    assert!(got.status == 200 && got.body == bytes, "{}", got.status);
    second.stop.cancel();
    second.ended.await.unwrap().unwrap();
    stop.cancel();
}
