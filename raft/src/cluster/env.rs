//! The environment of a node: all that it takes from outside. A server passes what the system has, the simulation
//! parts of its own, and a test that needs a fault puts a decorator around one of them. The node's code does not
//! know which it has.

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
    /// Stores every byte that must survive a power cut.
    pub disk: Arc<dyn Disk>,
    /// Source of ids and nonces.
    pub random: Arc<dyn Random>,
    /// Do the work that waits for the disk.
    pub threads: Arc<dyn Threads>,
    /// Carries requests to the other servers.
    pub network: Arc<dyn Network>,
    /// Resolver of the names of servers.
    pub resolver: Arc<dyn Resolve>,
    /// Runs the node's tasks, and is its clock: all time in this crate is tokio's, and a simulation pauses and
    /// advances that of its runtimes. [`super::Node::open`] and [`super::Opened::start`] must be awaited on it.
    pub runtime: Handle,
    /// Intervals of the node's upkeep.
    pub timing: Timing,
}

impl Env {
    /// The environment of a server: `disk`, and for everything else what the system has.
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
