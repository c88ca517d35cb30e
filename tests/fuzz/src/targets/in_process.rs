//! Servers in this process, for targets.

use std::sync::Arc;

use piccolo_raft::cluster::{Env, Node, NodeConfig};
use piccolo_raft::disk::MemoryDisk;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// An address at which nothing listens.
pub(super) const NOBODY: &str = "127.0.0.1:1";

/// A runtime with one thread, so that the work of an input has a fixed order.
pub(super) fn runtime() -> Runtime {
    let built = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    built.expect("the system gives a thread")
}

/// A cluster of one on an empty in-memory disk.
pub(super) async fn node() -> Node {
    let config = NodeConfig {
        members: vec![NOBODY.to_owned()],
        raft_address: Some(NOBODY.to_owned()),
        api_address: NOBODY.to_owned(),
        disk_free_min: Some(0),
        found_after: std::time::Duration::ZERO,
        api_port: None,
    };
    let env = Env::system(Arc::new(MemoryDisk::default()), Handle::current());
    let node = Node::start(config, env, CancellationToken::new());
    node.await.expect("an empty disk is a new node's")
}
