//! The inventory of a node with a real containerd, and a recorder in place of discovery.

#[path = "support/containerd.rs"]
mod containerd;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd::{Containerd, Image};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use piccolo::agent::content::store::ContainerdStore;
use piccolo::agent::counters::Counters;
use piccolo::agent::inventory::{Config, IndexApi, Inventory, InventoryState, Write};
use piccolo::api::client::ClientError;
use piccolo::api::{KeepaliveRequest, KeepaliveResponse, WriteRequest, WriteResponse};
use piccolo::clock::SystemClock;
use piccolo::task::{Stop, TaskError};
use tokio::sync::{Notify, watch};

const NAMESPACE: &str = "k8s.io";
/// Time for expected events; long, because tests share the machine.
const SOON: Duration = Duration::from_secs(60);

/// Accepts and records everything.
#[derive(Default)]
struct Recorder {
    index: watch::Sender<BTreeSet<String>>,
    kinds: Mutex<Vec<Write>>,
}

impl IndexApi for Recorder {
    fn write<'a>(
        &'a self,
        kind: Write,
        request: &'a WriteRequest,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<WriteResponse, ClientError>> {
        self.kinds.lock().expect("no panic while locked").push(kind);
        self.index.send_modify(|index| match kind {
            Write::Sync => *index = request.keys.iter().cloned().collect(),
            Write::Advertise => index.extend(request.keys.iter().cloned()),
            Write::Withdraw => index.retain(|key| !request.keys.contains(key)),
        });
        let response = WriteResponse {
            success: true,
            message: String::new(),
            stale: false,
            epoch: request.epoch,
            seq: request.seq,
            skipped: 0,
        };
        std::future::ready(Ok(response)).boxed()
    }

    fn keepalive<'a>(
        &'a self,
        _request: &'a KeepaliveRequest,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<KeepaliveResponse, ClientError>> {
        std::future::ready(Ok(KeepaliveResponse { success: true, message: String::new(), resync: false }))
            .boxed()
    }
}

/// The inventory of one node.
struct Node {
    recorder: Arc<Recorder>,
    inventory: Inventory,
    /// Signals that containerd was lost.
    lost: Arc<Notify>,
    stop: Stop,
    tasks: tokio::task::JoinSet<Result<(), TaskError>>,
}

impl Node {
    fn start(containerd: &Containerd) -> Self {
        let recorder = Arc::new(Recorder::default());
        let store = ContainerdStore::new(&containerd.socket(), NAMESPACE, None).expect("a valid namespace");
        let lost = Arc::<Notify>::default();
        let signal = Arc::clone(&lost);
        let config = Config {
            holder: std::net::SocketAddr::from(([10, 0, 0, 1], 7781)).into(),
            group: "default".into(),
            zone: String::new(),
            heartbeat_interval: Duration::from_secs(30),
            advertises_tag: Box::new(|_| true),
            lost: Box::new(move || signal.notify_one()),
            is_in_flight: Box::new(|| false),
            seen: Box::new(|_| {}),
            counters: Arc::new(Counters::default()),
        };
        let inventory = Inventory::new(Arc::new(store), recorder.clone(), &SystemClock::shared(), config);
        let (stop, mut tasks) = (Stop::new(), tokio::task::JoinSet::new());
        let (running, stopped) = (inventory.clone(), stop.clone());
        tasks.spawn(async move { running.run(stopped).await });
        Self { recorder, inventory, lost, stop, tasks }
    }

    async fn state_is(&self, what: &str, is: impl FnMut(&InventoryState) -> bool) {
        let mut states = self.inventory.state();
        let reached = tokio::time::timeout(SOON, states.wait_for(is)).await;
        reached.unwrap_or_else(|_| panic!("not {what}")).expect("the inventory lives");
    }

    /// Waits until the index holds all of an image, or none of it.
    async fn index_has(&self, image: &Image, wanted: bool) {
        let keys: Vec<String> =
            image.content().iter().map(ToString::to_string).chain([image.name.clone()]).collect();
        let mut index = self.recorder.index.subscribe();
        let reached = index.wait_for(|index| keys.iter().all(|key| index.contains(key) == wanted));
        let reached = tokio::time::timeout(SOON, reached).await;
        assert!(reached.is_ok(), "{}: wanted {wanted}, index {:?}", image.name, self.recorder.index.borrow());
    }

    fn syncs(&self) -> usize {
        let kinds = self.recorder.kinds.lock().expect("no panic while locked");
        kinds.iter().filter(|kind| **kind == Write::Sync).count()
    }

    async fn end(mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(SOON, self.tasks.join_next()).await.expect("it stops");
        ended.expect("one task").expect("no panic").expect("no failure");
    }
}

#[tokio::test]
async fn an_image_is_advertised_as_it_comes_and_withdrawn_as_it_goes_without_another_sync() {
    let containerd = Containerd::start();
    let node = Node::start(&containerd);
    node.state_is("synced", InventoryState::is_synced).await;
    let first = containerd.import(NAMESPACE, "registry.example/app:1", &[b"shared layer", b"layer one"]);
    node.index_has(&first, true).await;
    let second = containerd.import(NAMESPACE, "registry.example/app:2", &[b"shared layer", b"layer two"]);
    node.index_has(&second, true).await;
    containerd.ctr(&["-n", NAMESPACE, "images", "rm", "--sync", &first.name]);
    let own = Image { layers: first.layers[1..].to_vec(), ..first };
    node.index_has(&own, false).await;
    node.index_has(&second, true).await; // with the layer that both had
    assert_eq!(node.syncs(), 1);
    node.end().await;
}

#[tokio::test]
async fn a_restart_of_containerd_loses_no_key_and_misses_none() {
    let mut containerd = Containerd::start();
    let before = containerd.import(NAMESPACE, "registry.example/before:1", &[b"before"]);
    let node = Node::start(&containerd);
    node.index_has(&before, true).await;
    containerd.kill();
    let lost = tokio::time::timeout(SOON, node.lost.notified()).await;
    assert!(lost.is_ok(), "nobody is told that containerd is gone");
    node.state_is("waiting", |state| matches!(state, InventoryState::Waiting(_))).await;
    node.index_has(&before, true).await;
    containerd.run();
    let after = containerd.import(NAMESPACE, "registry.example/after:1", &[b"after"]);
    node.index_has(&after, true).await;
    node.index_has(&before, true).await;
    node.state_is("synced", InventoryState::is_synced).await;
    assert!(node.syncs() >= 2);
    node.end().await;
}

#[tokio::test]
async fn a_socket_that_is_not_there_yet_is_waited_for_and_named() {
    let mut containerd = Containerd::prepare();
    let node = Node::start(&containerd);
    let socket = containerd.socket().display().to_string();
    let named = |state: &InventoryState| {
        let text = state.to_string();
        matches!(state, InventoryState::Waiting(_)) && text.contains(&socket) && text.contains("No such file")
    };
    node.state_is("waiting for the socket", named).await;
    containerd.run();
    node.state_is("synced", InventoryState::is_synced).await;
    let image = containerd.import(NAMESPACE, "registry.example/app:1", &[b"layer"]);
    node.index_has(&image, true).await;
    node.end().await;
}
