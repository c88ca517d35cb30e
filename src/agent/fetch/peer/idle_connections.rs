//! Connections to peers that are open and free. Nobody drives them: what a peer did meanwhile is seen
//! when they are used again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::Wire;
use crate::limits::{PEER_IDLE_CONNECTIONS_MAX, PEER_IDLE_TIMEOUT};

/// At most [`PEER_IDLE_CONNECTIONS_MAX`], each for at most twice [`PEER_IDLE_TIMEOUT`].
#[derive(Default)]
pub(crate) struct Peers {
    state: Mutex<State>,
    /// The sweeper.
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    idle: VecDeque<Idle>,
    /// It runs only while there is something to sweep.
    is_swept: bool,
}

struct Idle {
    peer: SocketAddr,
    since: Instant,
    wire: Wire,
}

impl Peers {
    /// A connection to `peer`, the one used last.
    pub(super) fn take(&self, peer: SocketAddr) -> Option<Wire> {
        let idle = &mut self.lock().idle;
        let at = idle.iter().rposition(|idle| idle.peer == peer)?;
        idle.remove(at).filter(|idle| idle.since.elapsed() < PEER_IDLE_TIMEOUT).map(|idle| idle.wire)
    }

    /// Keeps a connection that is free. If there are too many, the oldest ends.
    pub(super) fn keep(self: &Arc<Self>, peer: SocketAddr, wire: Wire) {
        let mut state = self.lock();
        if state.idle.len() >= PEER_IDLE_CONNECTIONS_MAX {
            state.idle.pop_front();
        }
        state.idle.push_back(Idle { peer, since: Instant::now(), wire });
        if !std::mem::replace(&mut state.is_swept, true) {
            self.tasks.spawn(sweep(Arc::clone(self)));
        }
    }

    /// Ends all of them.
    pub(crate) fn clear(&self) {
        self.lock().idle.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A list is whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends connections that nobody wanted for [`PEER_IDLE_TIMEOUT`], until none is left.
async fn sweep(peers: Arc<Peers>) {
    loop {
        tokio::time::sleep(PEER_IDLE_TIMEOUT).await;
        let mut state = peers.lock();
        state.idle.retain(|idle| idle.since.elapsed() < PEER_IDLE_TIMEOUT);
        state.is_swept = !state.idle.is_empty();
        if !state.is_swept {
            return;
        }
    }
}
