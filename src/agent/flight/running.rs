//! This node's part in the flight of one blob: where its bytes come from, what has come, and who receives them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::children::{Admission, Applicant, Children, Source};
use super::growing::Growing;
use super::header::{Advice, Told};
use crate::limits::{FETCH_DOUBTED_MAX, FETCH_GIVEN_UP_AFTER, FETCH_STANDS_AFTER, PAUSE_MAX};
use crate::oci::Digest;

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

/// Why a child is sent no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildEnd {
    /// This node has lost its source, or bytes.
    Lost,
    /// What this node has received is wrong.
    Wrong,
}

/// The flight of one blob on this node.
#[derive(Debug)]
pub(crate) struct Flight {
    digest: Digest,
    growing: Growing,
    begun: Instant,
    state: Mutex<State>,
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
}

/// What a node is answered that asks to receive the blob.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is a child now.
    Admitted(ChildConnection),
    /// It asks elsewhere: what it is told says where.
    Elsewhere(Told),
}

/// The connection to one child. The child is one until this is dropped, or until it connects again.
#[derive(Debug)]
pub(crate) struct ChildConnection {
    pub(crate) flight: Arc<Flight>,
    address: SocketAddr,
    number: u64,
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
        };
        Self { digest, growing, begun: Instant::now(), state: Mutex::new(state) }
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

    /// Whether other nodes receive it from this one.
    pub(crate) fn has_children(&self) -> bool {
        !self.state().children.is_empty()
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

    /// Notes where the children should go instead of this node, if it is slow.
    pub(crate) fn should_be_left_for(&self, better: Option<SocketAddr>) {
        self.state().instead = better;
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
        state.is_held = true;
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

    /// Sends nothing more to the nodes that are children now.
    pub(crate) fn end_children(&self, why: ChildEnd) {
        self.state().end_children(why);
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
            if have_bytes == self.growing.total() {
                state.becomes(Role::Holds);
            } else if is_aborted || rests {
                state.becomes(Role::Idle);
                state.end_children(ChildEnd::Lost);
            }
        }
        match state.role {
            Role::Holds if ingested == self.growing.total() => self.growing.forget_spool(),
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

    /// What the node at `from` is told, which receives from this one, in `zone`, and asks how far it is.
    pub(crate) fn tell_child(&self, from: SocketAddr, zone: &str) -> Told {
        let told = self.tell(Vec::new());
        let state = self.state();
        let advice = Advice {
            should_be_left: state.children.should_be_left(from, zone),
            should_leave: state.children.should_leave(from, state.came),
            instead: state.instead,
        };
        Told { advice, ..told }
    }

    /// What a node that is admitted, or sent elsewhere, is told.
    pub(crate) fn tell(&self, children: Vec<SocketAddr>) -> Told {
        let have_bytes = self.have_bytes();
        let state = self.state();
        let (source, waits_for) = match state.role {
            Role::Receives { source } => (Some(source), None),
            Role::Seeks { asks } => (None, asks),
            Role::Fetches { .. } | Role::Late { .. } | Role::Holds | Role::Idle => (None, None),
        };
        let (depth, came) = (state.depth, state.came);
        let (is_holder, advice) = (state.is_held, Advice::default());
        Told { have_bytes, depth, came, is_holder, source, children, waits_for, advice }
    }

    /// Decides on a node that asks to receive the blob, and knows of `came` nodes.
    pub(crate) fn apply(self: &Arc<Self>, applicant: &Applicant, came: u64) -> Answer {
        let have_bytes = self.have_bytes();
        let mut state = self.state();
        // What others say is not passed on.
        let came = state.came.max(came);
        let is_attached = match state.role {
            // A slow node takes no child that would leave it at once.
            Role::Receives { .. } => state.instead.is_none(),
            Role::Holds => have_bytes > 0,
            Role::Fetches { .. } => self.growing.has_ingest(),
            Role::Seeks { .. } | Role::Late { .. } | Role::Idle => false,
        };
        let source = Source { have_bytes, is_attached, came };
        let now = self.age();
        state.children.look(have_bytes, now);
        let children = match state.children.apply(applicant, source, now) {
            Admission::Admitted => {
                state.connections_made += 1;
                let (address, number) = (applicant.address, state.connections_made);
                state.connections.insert(address, number);
                state.touched = Instant::now();
                return Answer::Admitted(ChildConnection { flight: Arc::clone(self), address, number });
            }
            Admission::Full(children) => children,
            Admission::NoSource => Vec::new(),
        };
        drop(state);
        Answer::Elsewhere(self.tell(children))
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

    fn end_children(&mut self, why: ChildEnd) {
        self.ended = Some((self.connections_made, why));
        self.children = Children::default();
        self.connections.clear();
    }
}

impl ChildConnection {
    /// Notes that the child has `have_bytes` of the blob by now.
    pub(crate) fn sent(&self, have_bytes: u64) {
        let source_bytes = self.flight.have_bytes();
        let mut state = self.flight.state();
        if state.connections.get(&self.address) == Some(&self.number) {
            state.children.sent(self.address, have_bytes);
            state.children.look(source_bytes, self.flight.age());
        }
    }

    /// Why the child is sent no more, if that is so.
    pub(crate) fn end(&self) -> Option<ChildEnd> {
        let state = self.flight.state();
        state.ended.filter(|(last, _)| self.number <= *last).map(|(_, why)| why)
    }
}

impl Drop for ChildConnection {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        if state.connections.get(&self.address) == Some(&self.number) {
            state.connections.remove(&self.address);
            state.children.remove(self.address);
            state.touched = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn applicant(number: u16) -> Applicant {
        let (address, zone) = (node(number), String::new());
        Applicant { address, zone, have_bytes: 0, has_children: false, has_left_slow: false }
    }

    fn holder() -> Arc<Flight> {
        Arc::new(Flight::new(Digest::of(b"x"), Growing::new(10, None), Role::Receives { source: node(9) }))
    }

    fn admitted(flight: &Arc<Flight>, number: u16) -> ChildConnection {
        match flight.apply(&applicant(number), 1) {
            Answer::Admitted(connection) => connection,
            Answer::Elsewhere(told) => panic!("{told:?}"),
        }
    }

    #[test]
    fn a_child_is_one_until_its_connection_ends() {
        let flight = holder();
        let first = admitted(&flight, 1);
        let Answer::Elsewhere(told) = flight.apply(&applicant(2), 1) else { panic!("a second child") };
        assert_eq!((told.children, told.source), (vec![node(1)], Some(node(9))));
        drop(first);
        assert!(!flight.has_children());
        admitted(&flight, 2);
    }

    #[test]
    fn a_child_that_connects_again_is_not_lost_with_its_former_connection() {
        let flight = holder();
        let former = admitted(&flight, 1);
        let _again = admitted(&flight, 1);
        drop(former);
        assert!(flight.has_children());
    }

    #[test]
    fn only_those_are_ended_that_are_children_now() {
        let flight = holder();
        let former = admitted(&flight, 1);
        flight.end_children(ChildEnd::Wrong);
        assert_eq!((former.end(), flight.has_children()), (Some(ChildEnd::Wrong), false));
        let later = admitted(&flight, 1);
        drop(former);
        assert_eq!((later.end(), flight.has_children()), (None, true));
    }

    #[test]
    fn a_node_without_a_source_names_whom_it_asks() {
        let flight = holder();
        for (role, waits_for) in [(Role::Seeks { asks: Some(node(3)) }, Some(node(3))), (Role::Idle, None)] {
            flight.becomes(role, 0);
            let Answer::Elsewhere(told) = flight.apply(&applicant(1), 1) else { panic!("{role:?}") };
            assert_eq!((told.waits_for, told.children), (waits_for, Vec::new()), "{role:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_children_of_a_node_that_has_paused_for_too_long_find_another_source() {
        let flight = holder();
        let child = admitted(&flight, 1);
        flight.becomes(Role::Idle, 0);
        tokio::time::advance(PAUSE_MAX - Duration::from_millis(1)).await;
        flight.look();
        assert_eq!((child.end(), flight.has_children()), (None, true));
        tokio::time::advance(Duration::from_millis(1)).await;
        flight.look();
        assert_eq!((child.end(), flight.has_children()), (Some(ChildEnd::Lost), false));
        flight.becomes(Role::Receives { source: node(9) }, 0);
        let again = admitted(&flight, 1);
        flight.look();
        assert_eq!(again.end(), None);
    }

    /// What broke: containerd was killed, and the nodes that waited for its fetch learned it only when the claim passed on
    /// for want of bytes.
    #[tokio::test(start_paused = true)]
    async fn a_fetch_ends_soon_after_its_containerd_was_lost_unless_that_still_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let growing = Growing::new(10, Some(file.reopen().unwrap()));
        let flight = Arc::new(Flight::new(Digest::of(b"x"), growing, Role::Fetches { begun_at: 0 }));
        let child = admitted(&flight, 1);
        for length in 1..=2 {
            flight.store_is_lost();
            tokio::time::advance(FETCH_DOUBTED_MAX - Duration::from_millis(1)).await;
            std::fs::write(file.path(), &b"01"[..length]).unwrap();
            flight.look();
            tokio::time::advance(Duration::from_secs(2)).await;
            flight.look();
            assert_eq!((child.end(), flight.role()), (None, Role::Fetches { begun_at: 0 }), "it writes");
        }
        flight.store_is_lost();
        tokio::time::advance(FETCH_DOUBTED_MAX).await;
        flight.look();
        assert_eq!((child.end(), flight.role()), (Some(ChildEnd::Lost), Role::Idle));
    }

    #[test]
    fn a_fetcher_whose_ingest_is_gone_takes_no_child() {
        let flight = holder();
        flight.becomes(Role::Fetches { begun_at: 0 }, 0);
        assert!(matches!(flight.apply(&applicant(1), 1), Answer::Elsewhere(_)));
    }
}
