//! What a node is given of the world around it. A simulation gives other things than a server does, and the node
//! does not know the difference.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::disk::Disk;
use crate::network::names::{Resolve, SystemResolver};
use crate::network::{Http, Network};
use crate::random::{Random, SystemRandom};
use crate::threads::{SystemThreads, Threads};

use super::Timing;

/// The environment of one node.
#[derive(Clone, Debug)]
pub struct Env {
    /// Every byte that must survive a power cut goes there.
    pub disk: Arc<dyn Disk>,
    /// Where ids and nonces come from.
    pub random: Arc<dyn Random>,
    /// Where work is done that waits for the disk.
    pub threads: Arc<dyn Threads>,
    /// Carries requests to the other servers.
    pub network: Arc<dyn Network>,
    /// Looks names up.
    pub resolver: Arc<dyn Resolve>,
    /// The node's tasks run there, and its clock is that runtime's: all time in this crate is tokio's, which a
    /// simulation pauses and advances. [`super::Node::open`] and [`super::Opened::start`] are awaited on it.
    pub runtime: Handle,
    /// When the node does what it does now and then.
    pub timing: Timing,
}

impl Env {
    /// That of a server: `disk`, and what the system has of everything else.
    pub fn system(disk: Arc<dyn Disk>, runtime: Handle) -> Self {
        Self {
            disk,
            random: Arc::new(SystemRandom),
            threads: Arc::new(SystemThreads),
            network: Arc::new(Http::default()),
            resolver: Arc::new(SystemResolver),
            runtime,
            timing: Timing::default(),
        }
    }
}
