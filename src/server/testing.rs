//! A server of a cluster of one, in memory, for tests.

use std::sync::Arc;
use std::time::Duration;

use piccolo_raft::cluster::{Env, Node, NodeConfig};
use piccolo_raft::disk::{MemoryDisk, Space};

use super::app::{App, Policy};
use super::leases::Leases;
use super::operators::Operators;
use super::requests::accepted::HolderPolicy;
use crate::clock::{SharedClock, SystemClock};
use crate::http::KnownAddresses;
use crate::task::Stop;

/// The app of a cluster of one, in memory.
pub(super) async fn app() -> Arc<App> {
    app_on(MemoryDisk::default(), 0).await
}

/// The same app, by that clock.
pub(super) async fn app_with_clock(clock: SharedClock) -> Arc<App> {
    app_of(MemoryDisk::default(), 0, clock).await
}

async fn app_on(disk: MemoryDisk, disk_free_min: u64) -> Arc<App> {
    app_of(disk, disk_free_min, SystemClock::shared()).await
}

async fn app_of(disk: MemoryDisk, disk_free_min: u64, clock: SharedClock) -> Arc<App> {
    let config = NodeConfig {
        members: vec!["127.0.0.1:1".to_owned()],
        raft_address: Some("127.0.0.1:1".to_owned()),
        api_address: "127.0.0.1:2".to_owned(),
        disk_free_min: Some(disk_free_min),
        found_after: Duration::ZERO,
        api_port: None,
    };
    let env = Env::system(Arc::new(disk), tokio::runtime::Handle::current());
    let node = Node::start(config, env, Stop::new()).await.unwrap();
    let policy = Policy {
        holders: HolderPolicy { loopback: true },
        operators: Operators::default(),
        leases: Leases::new(Duration::from_secs(60), Duration::from_secs(60)),
    };
    Arc::new(App::new(node, policy, clock, KnownAddresses::default(), Stop::new()))
}

/// The app of a cluster of one, once it leads. The task that ends leases does not run.
pub(super) async fn leading_app() -> Arc<App> {
    leading(app().await).await
}

/// The given app, once it leads.
pub(super) async fn leading(app: Arc<App>) -> Arc<App> {
    until("it leads", || {
        app.cluster.leadership.begin_term(app.node.term());
        app.cluster.leadership.is_ready() && app.node.behind().is_none()
    })
    .await;
    app
}

/// The app on a disk without room, once that is known. The disk had room while `before` ran.
pub(super) async fn app_without_room(before: impl AsyncFnOnce(&Arc<App>)) -> Arc<App> {
    let disk = MemoryDisk::default();
    let bytes = |free_bytes| Space { free_bytes, total_bytes: 1 << 30 };
    disk.set_space(bytes(1 << 29));
    let app = leading(app_on(disk.clone(), 16 << 20).await).await;
    before(&app).await;
    // This is less than what is reserved for upkeep, too.
    disk.set_space(bytes(0));
    until("it is without room", || app.node.no_room().is_some()).await;
    app
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(tokio::time::Instant::now() < end, "not {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
