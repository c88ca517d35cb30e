//! This node's part in the flight of one blob: where its bytes come from, and what has come. Who receives them is in
//! [`sending`].

mod sending;

mod wrong;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::children::Children;
use super::growing::Growing;
use crate::limits::{FETCH_DOUBTED_MAX, FETCH_GIVEN_UP_AFTER, FETCH_STANDS_AFTER, PAUSE_MAX};
use crate::oci::Digest;

pub(crate) use self::sending::{Answer, ChildConnection, ChildEnd};

/// Where the bytes of a blob come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A request looks for a source, and asks this node now.
    Seeks { asks: Option<SocketAddr> },
    /// A request receives it from another node.
    Receives { source: SocketAddr },
    /// containerd fetches it from the registry. It had so many bytes when that began.
    Fetches { begun_at: u64 },
    /// containerd fetches it from the registry and has had no byte, and another node was told to fetch it meanwhile.
    Late { begun_at: u64 },
    /// All bytes are here.
    Holds,
    /// Nothing comes.
    Idle,
}

/// The flight of one blob on this node.
#[derive(Debug)]
pub(crate) struct Flight {
    digest: Digest,
    growing: Growing,
    begun: Instant,
    state: Mutex<State>,
    /// The attempt of which the servers are to learn that its bytes are wrong, as they are here.
    accused: watch::Sender<Option<u64>>,
    /// Held while the bytes that containerd has fetched are verified.
    verifying: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    role: Role,
    /// When the role was taken.
    role_since: Instant,
    children: Children,
    /// The connection of each child that counts.
    connections: HashMap<SocketAddr, u64>,
    connections_made: u64,
    /// Why the children admitted up to this connection are sent no more.
    ended: Option<(u64, ChildEnd)>,
    came: u64,
    depth: u32,
    /// Whether a server knows of this node as a part of the flight.
    is_registered: bool,
    /// Number of the last transfer of the blob to this node; 0 if there was none.
    transfer: u64,
    /// Whether the store of this node holds the blob.
    is_held: bool,
    /// How many bytes containerd had when it was seen to write last, and when that was.
    written: (u64, Instant),
    /// When the containerd that fetches the blob was lost, unless it has written since.
    doubted: Option<Instant>,
    touched: Instant,
    /// Bytes that there were when containerd began to fetch the blob from the registry.
    had_bytes: u64,
    /// Where the children should go instead, because this node is slow.
    instead: Option<SocketAddr>,
    /// The number of the attempt that the bytes are of; `None` until a server or a source says it.
    attempt: Option<u64>,
    /// Whether the bytes that are here are known to be wrong.
    is_wrong: bool,
}

impl Flight {
    /// The flight of a blob of which this node has the bytes in `growing`.
    pub(super) fn new(digest: Digest, growing: Growing, role: Role) -> Self {
        let state = State {
            role,
            role_since: Instant::now(),
            children: Children::default(),
            connections: HashMap::new(),
            connections_made: 0,
            ended: None,
            came: 0,
            depth: 0,
            is_registered: false,
            transfer: 0,
            is_held: false,
            written: (0, Instant::now()),
            doubted: None,
            touched: Instant::now(),
            had_bytes: 0,
            instead: None,
            attempt: None,
            is_wrong: false,
        };
        let (state, accused) = (Mutex::new(state), watch::Sender::new(None));
        Self {
            digest,
            growing,
            begun: Instant::now(),
            state,
            accused,
            verifying: tokio::sync::Mutex::default(),
        }
    }

    /// The blob.
    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its bytes.
    pub(crate) fn growing(&self) -> &Growing {
        &self.growing
    }

    /// How many contiguous bytes other nodes can have from here.
    pub(crate) fn have_bytes(&self) -> u64 {
        if self.state().is_held { self.growing.total() } else { self.growing.have_bytes() }
    }

    /// Most contiguous bytes that other nodes could have had from here.
    pub(crate) fn most_bytes(&self) -> u64 {
        self.have_bytes().max(self.growing.most_bytes())
    }

    /// What a fetcher says to have: what it had when it was granted the claim, and what has come since. A blob that was
    /// gathered in part before begins anew.
    pub(super) fn claimed_bytes(&self) -> u64 {
        let had_bytes = self.state().had_bytes;
        match self.role() {
            Role::Fetches { begun_at } => {
                had_bytes + self.growing.most_ingested_bytes().saturating_sub(begun_at)
            }
            _ => self.most_bytes(),
        }
    }

    /// Where its bytes come from.
    pub(crate) fn role(&self) -> Role {
        self.state().role
    }

    /// Whether bytes are to come.
    pub(super) fn is_arriving(&self) -> bool {
        !matches!(self.role(), Role::Holds | Role::Idle)
    }

    /// Whether containerd fetches the blob from the registry, and has not had a byte of it since that began.
    pub(super) fn is_owed(&self) -> bool {
        matches!(self.role(), Role::Fetches { begun_at } if self.growing.ingested_bytes() <= begun_at)
    }

    /// How many bytes containerd has of the blob, if it fetches it from the registry and nothing comes now.
    pub(super) fn stands_at(&self) -> Option<u64> {
        let ingested = self.growing.ingested_bytes();
        let mut state = self.state();
        let Role::Fetches { begun_at } = state.role else { return None };
        state.sees_written(ingested);
        let since = state.role_since.max(state.written.1);
        (ingested <= begun_at || since.elapsed() >= FETCH_STANDS_AFTER).then_some(ingested)
    }

    /// How many nodes have come, as far as is known here.
    pub(crate) fn came(&self) -> u64 {
        self.state().came
    }

    /// How many nodes are before this one.
    pub(crate) fn depth(&self) -> u32 {
        self.state().depth
    }

    /// Notes how many nodes have come.
    pub(crate) fn have_come(&self, came: u64) {
        let mut state = self.state();
        state.came = state.came.max(came);
    }

    /// Notes where the bytes come from now, and how many nodes are before this one.
    pub(crate) fn becomes(&self, role: Role, depth: u32) {
        let had_bytes = self.have_bytes();
        let mut state = self.state();
        if matches!(role, Role::Fetches { .. }) {
            state.had_bytes = had_bytes;
        }
        state.becomes(role);
        (state.depth, state.instead) = (depth, None);
    }

    /// Notes that a request for the blob begins, which is the transfer with this number.
    pub(super) fn begins(&self, transfer: u64) {
        let mut state = self.state();
        state.becomes(Role::Seeks { asks: None });
        (state.transfer, state.depth, state.instead) = (transfer, 0, None);
    }

    /// Number of the last transfer of the blob to this node.
    pub(crate) fn transfer(&self) -> u64 {
        self.state().transfer
    }

    /// Notes that the daemon of this node's store has ended, or cannot be reached: what it fetches may have ended.
    pub(super) fn store_is_lost(&self) {
        let ingested = self.growing.ingested_bytes();
        let mut state = self.state();
        state.sees_written(ingested);
        state.doubted.get_or_insert_with(Instant::now);
    }

    /// Notes that the store of this node holds the blob.
    pub(super) fn is_held(&self) {
        let mut state = self.state();
        (state.is_held, state.is_wrong) = (true, false);
        if matches!(state.role, Role::Fetches { .. } | Role::Late { .. } | Role::Idle) {
            state.becomes(Role::Holds);
        }
    }

    /// Notes that the store of this node does not hold the blob, or no longer.
    pub(crate) fn is_not_held(&self) {
        self.state().is_held = false;
    }

    /// Notes that a server knows this node as a part of the flight.
    pub(super) fn register(&self) {
        self.state().is_registered = true;
    }

    /// The number of a transfer that a server knows, and that has ended. The server need not know of this node any more:
    /// once said, it is forgotten here.
    pub(super) fn has_ended(&self) -> Option<u64> {
        let mut state = self.state();
        let is_said = state.role == Role::Idle && std::mem::take(&mut state.is_registered);
        is_said.then_some(state.transfer)
    }

    /// Whether a server knows this node as a part of the flight.
    pub(super) fn is_registered(&self) -> bool {
        self.state().is_registered
    }

    /// Brings up to date which children are slow, and whether containerd still fetches the blob, or has all of it. Children
    /// of a request that has paused for too long find another source.
    pub(super) fn look(&self) {
        let (have_bytes, ingested) = (self.have_bytes(), self.growing.ingested_bytes());
        let is_aborted = !self.growing.has_ingest();
        let mut state = self.state();
        state.sees_written(ingested);
        if let Role::Late { begun_at } = state.role
            && ingested > begun_at
        {
            state.role = Role::Fetches { begun_at };
        }
        if matches!(state.role, Role::Fetches { .. } | Role::Late { .. }) {
            let rests = state.touched.max(state.written.1).elapsed() >= FETCH_GIVEN_UP_AFTER
                || state.doubted.is_some_and(|doubted| doubted.elapsed() >= FETCH_DOUBTED_MAX);
            if have_bytes.max(ingested) == self.growing.total() {
                state.becomes(Role::Holds);
            } else if is_aborted || rests {
                state.becomes(Role::Idle);
                state.end_children(ChildEnd::Lost);
            }
        }
        match state.role {
            // Until then children get what the agent has verified.
            Role::Holds if ingested == self.growing.total() && self.growing.is_verified() => {
                self.growing.forget_spool();
            }
            Role::Fetches { .. } | Role::Late { .. } => self.growing.forget_spool_if_behind(),
            _ => {}
        }
        // containerd has found that its bytes are wrong, or its pull was given up.
        if state.role == Role::Holds && !state.is_held && have_bytes == 0 && is_aborted {
            state.becomes(Role::Idle);
            state.end_children(ChildEnd::Lost);
        }
        if state.role == Role::Idle && state.role_since.elapsed() >= PAUSE_MAX {
            state.end_children(ChildEnd::Lost);
        }
        let now = self.age();
        state.children.look(have_bytes, now);
        if !state.children.is_empty() {
            state.touched = Instant::now();
        }
    }

    /// Forgets what this agent has gathered of the blob, if no request receives it here and no node from here: containerd
    /// has, or will have, the same bytes.
    pub(super) fn release_room(&self) {
        let state = self.state();
        let is_gathered = matches!(state.role, Role::Seeks { .. } | Role::Receives { .. });
        if !is_gathered && state.children.is_empty() {
            self.growing.forget_spool();
        }
    }

    /// Whether nothing comes, or all has come, and nobody receives it.
    pub(super) fn is_only_remembered(&self) -> bool {
        let state = self.state();
        matches!(state.role, Role::Holds | Role::Idle) && state.children.is_empty()
    }

    /// Time since this flight was last of use: nothing comes, all has come, and nobody receives it.
    pub(super) fn unused_for(&self) -> Duration {
        let state = self.state();
        match state.role {
            Role::Holds | Role::Idle if state.children.is_empty() => state.touched.elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// Time since this node first had a part in the flight.
    pub(super) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl State {
    fn becomes(&mut self, role: Role) {
        let now = Instant::now();
        (self.role, self.role_since, self.touched, self.doubted) = (role, now, now, None);
    }

    fn sees_written(&mut self, ingested: u64) {
        if ingested > self.written.0 {
            (self.written, self.doubted) = ((ingested, Instant::now()), None);
        }
    }
}

#[cfg(test)]
mod tests;
