//! Connections to peers that are open and free. Nothing drives them: what a peer did meanwhile is seen
//! when they are used again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::wire::Wire;
use crate::limits::{PEER_IDLE_CONNECTIONS_MAX, PEER_IDLE_TIMEOUT};

/// Keeps at most [`PEER_IDLE_CONNECTIONS_MAX`] connections, each for at most twice [`PEER_IDLE_TIMEOUT`].
#[derive(Default)]
pub(super) struct IdleConnections {
    list: Mutex<IdleList>,
    /// Owns the task that closes old connections.
    tasks: TaskTracker,
}

#[derive(Default)]
struct IdleList {
    /// The connection used last is at the end.
    idle: VecDeque<Idle>,
    /// Whether the task that closes old connections runs, which it does while there are any.
    is_swept: bool,
}

struct Idle {
    peer: SocketAddr,
    since: Instant,
    wire: Wire,
}

impl IdleConnections {
    /// Takes out the connection to `peer` that was used last.
    pub(super) fn take(&self, peer: SocketAddr) -> Option<Wire> {
        let idle = &mut self.lock().idle;
        let at = idle.iter().rposition(|idle| idle.peer == peer)?;
        idle.remove(at).filter(|idle| idle.since.elapsed() < PEER_IDLE_TIMEOUT).map(|idle| idle.wire)
    }

    /// Keeps a connection that is free. If there are too many, the oldest is closed.
    pub(super) fn keep(self: &Arc<Self>, peer: SocketAddr, wire: Wire) {
        let mut list = self.lock();
        if list.idle.len() >= PEER_IDLE_CONNECTIONS_MAX {
            list.idle.pop_front();
        }
        list.idle.push_back(Idle { peer, since: Instant::now(), wire });
        if !std::mem::replace(&mut list.is_swept, true) {
            self.tasks.spawn(sweep(Arc::clone(self)));
        }
    }

    /// Closes all connections.
    pub(super) fn clear(&self) {
        self.lock().idle.clear();
    }

    fn lock(&self) -> MutexGuard<'_, IdleList> {
        // A list is whole after any panic.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections that were not used for [`PEER_IDLE_TIMEOUT`], until none is left.
async fn sweep(connections: Arc<IdleConnections>) {
    loop {
        tokio::time::sleep(PEER_IDLE_TIMEOUT).await;
        let mut list = connections.lock();
        list.idle.retain(|idle| idle.since.elapsed() < PEER_IDLE_TIMEOUT);
        list.is_swept = !list.idle.is_empty();
        if !list.is_swept {
            return;
        }
    }
}
