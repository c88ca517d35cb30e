//! What clients of the simulation ask of a server, and how it answers: in short what the discovery API
//! does above this crate. Any server takes a request and forwards it to the leader once; the leader
//! handles one write of a holder at a time, answers a repeated pair like the first, and computes a
//! sync's difference to what it has applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cluster::{Change, Node, Phase, ProposeError};
use crate::command::{Command, Reply, Write};
use crate::model::{Holder, Key, Pair};

use super::net::{self, HostId, Payload};
use super::world::{self, Fault};

/// How long a read waits for its index, as in the discovery API.
const READ_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a write waits for a leader.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Wall time at which a lease ends, milliseconds since 1970.
const HIDDEN_UNIX_MS: u64 = 1;
/// Rounds of compare and propose in one sync, at most.
const SYNC_ROUNDS: usize = 4;

/// The kinds of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Advertise,
    Withdraw,
    Sync,
}

/// One write of a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) holder: Holder,
    pub(crate) pair: Option<Pair>,
    pub(crate) kind: Kind,
    /// The keys of the write, sorted.
    pub(crate) keys: Vec<Key>,
}

/// A request of a client.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Write {
        order: Order,
        forwarded: bool,
    },
    Read {
        holder: Holder,
        min_index: u64,
    },
    Change(Change),
    /// Of a leader: the holder's lease has ended, or it has beaten again.
    Hide {
        holder: Holder,
        hide: bool,
    },
}

/// The inventory and the pair that a read shows, and at which index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) index: u64,
    pub(crate) pair: Option<Pair>,
    pub(crate) keys: BTreeSet<Key>,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The write is applied; a read at this index shows it.
    Done {
        index: u64,
    },
    /// The write is refused: a later one is stored.
    Stale {
        stored: Pair,
    },
    /// The request has certainly had no effect.
    NotDone,
    /// The request may have had its effect.
    Unknown,
    Shown(Shown),
    /// The read's index was not there in time.
    Behind,
    /// Progress of a change of the membership.
    Changing {
        phase: Phase,
        message: String,
    },
    /// The change was refused, or its outcome is unknown.
    NotChanged {
        reason: String,
    },
}

/// Answers requests at one server.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) host: HostId,
    pub(crate) node: Node,
    turns: Arc<Mutex<BTreeMap<Holder, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Front {
    pub(crate) fn new(host: HostId, node: Node) -> Self {
        Self { host, node, turns: Arc::default() }
    }

    pub(crate) async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Write { order, forwarded } => self.write(order, forwarded).await,
            Request::Read { holder, min_index } => self.read(&holder, min_index).await,
            Request::Change(change) => self.change(change).await,
            Request::Hide { holder, hide } => self.hide(holder, hide).await,
        }
    }

    async fn read(&self, holder: &Holder, min_index: u64) -> Answer {
        let index = self.node.index();
        if !self.node.is_member() {
            return Answer::Behind;
        }
        if tokio::time::timeout(READ_WAIT_MAX, index.wait_applied(min_index)).await.is_err() {
            return Answer::Behind;
        }
        // Nothing is applied in between: there is one thread and no await.
        let keys = match index.inventory(holder) {
            Ok(keys) => keys.unwrap_or_default(),
            Err(_) => return Answer::Behind,
        };
        let pair = index.host(holder).and_then(|record| record.pair);
        Answer::Shown(Shown { index: index.applied_index(), pair, keys })
    }

    async fn write(&self, order: Order, forwarded: bool) -> Answer {
        if self.node.is_leader() {
            let node = self.clone();
            // It goes on when the client leaves.
            let work = async move { node.decide(&order).await };
            let work = tokio::runtime::Handle::current().spawn(work);
            return work.await.unwrap_or(Answer::Unknown);
        }
        if forwarded {
            return Answer::NotDone;
        }
        let Some((_, leader)) = self.node.wait_leader(LEADER_WAIT_MAX).await else { return Answer::NotDone };
        let request = Request::Write { order, forwarded: true };
        match net::ask(self.host, &leader.raft_address, Payload::Client(request)).await {
            net::Answer::Client(answer) => answer,
            net::Answer::Refused => Answer::NotDone,
            net::Answer::Broken => Answer::Unknown,
            net::Answer::Rpc(..) => unreachable!("clients' requests are answered as such"),
        }
    }

    /// Handles a write on the leader, under the lock of its holder.
    async fn decide(&self, order: &Order) -> Answer {
        let turn = {
            let mut turns = self.turns.lock().expect("nothing panics while it holds the turns");
            turns.entry(order.holder.clone()).or_default().clone()
        };
        let _turn = turn.lock().await;
        let record = self.node.index().host(&order.holder);
        if let Some(record) = record.filter(|record| order.pair.is_some() && record.pair == order.pair)
            && order.kind != Kind::Sync
        {
            return Answer::Done { index: record.last_write_index };
        }
        match order.kind {
            Kind::Advertise => self.propose(order, vec![(Kind::Advertise, order.keys.clone())]).await,
            Kind::Withdraw => self.propose(order, vec![(Kind::Withdraw, order.keys.clone())]).await,
            Kind::Sync => self.sync(order).await,
        }
    }

    async fn sync(&self, order: &Order) -> Answer {
        let mut done = None;
        for _ in 0..SYNC_ROUNDS {
            let record = self.node.index().host(&order.holder);
            let stored = record.as_ref().and_then(|record| record.pair);
            if let Some(stored) = stored
                && order.pair < Some(stored)
            {
                return Answer::Stale { stored };
            }
            let Ok(applied) = self.node.index().inventory(&order.holder) else { return Answer::Unknown };
            let applied = applied.unwrap_or_default();
            let gone = applied.iter().filter(|key| order.keys.binary_search(key).is_err()).cloned().collect();
            let new = order.keys.iter().filter(|key| !applied.contains(*key)).cloned().collect();
            let mut parts: Vec<(Kind, Vec<Key>)> = vec![(Kind::Withdraw, gone), (Kind::Advertise, new)];
            parts.retain(|(_, keys)| !keys.is_empty());
            if parts.is_empty() && stored == order.pair {
                let index = record.map_or(0, |record| record.last_write_index);
                return Answer::Done { index: done.unwrap_or(index) };
            }
            if parts.is_empty() {
                parts.push((Kind::Advertise, vec![]));
            }
            match self.propose(order, parts).await {
                Answer::Done { index } => done = Some(index),
                Answer::NotDone if done.is_some() => return Answer::Unknown,
                other => return other,
            }
        }
        Answer::Unknown
    }

    /// Proposes the parts of a write; only the last entry stores the pair.
    async fn propose(&self, order: &Order, parts: Vec<(Kind, Vec<Key>)>) -> Answer {
        let last = parts.len() - 1;
        let mut done = None;
        for (at, (kind, keys)) in parts.into_iter().enumerate() {
            let Order { holder, pair, .. } = order.clone();
            let write = Write { holder, pair, stores_pair: at == last, keys };
            let command = match kind {
                Kind::Withdraw => Command::Withdraw(write),
                Kind::Advertise | Kind::Sync => Command::Advertise(write),
            };
            match self.node.propose(command).await {
                Ok(proposed) => match proposed.reply {
                    Reply::Stale { stored } => return Answer::Stale { stored },
                    _ => done = Some(proposed.index),
                },
                Err(ProposeError::OutcomeUnknown) => return Answer::Unknown,
                Err(_) if done.is_some() => return Answer::Unknown,
                Err(_) => return Answer::NotDone,
            }
        }
        Answer::Done { index: done.expect("a write has entries") }
    }

    async fn hide(&self, holder: Holder, hide: bool) -> Answer {
        let Some(record) = self.node.index().host(&holder) else { return Answer::NotDone };
        let command = match hide {
            true => {
                let last_write_index = record.last_write_index;
                Command::Hide { holder, last_write_index, unix_ms: HIDDEN_UNIX_MS }
            }
            false => Command::Unhide { holder },
        };
        let forget = Command::Forget { holder: record.holder, hidden_unix_ms: HIDDEN_UNIX_MS };
        match self.node.propose(command).await {
            Ok(proposed) => {
                if hide && world::is_broken(Fault::HideDeletes) {
                    self.node.propose(forget).await.ok();
                }
                Answer::Done { index: proposed.index }
            }
            Err(_) => Answer::NotDone,
        }
    }

    async fn change(&self, change: Change) -> Answer {
        match self.node.change_members(change).await {
            Ok(progress) => Answer::Changing { phase: progress.phase, message: progress.message },
            Err(error) => Answer::NotChanged { reason: error.to_string() },
        }
    }
}
