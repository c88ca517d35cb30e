//! What all hosts of one simulation share: a world for each thread that is a simulation.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::types::Vote;

use super::net::{Answer, HostId, Message, Net, Payload};

/// A fault that a broken build would have; each shows that the checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The log's syncs are acknowledged and not done.
    LogSyncIsALie,
    /// The disk acknowledges the log's syncs and does them a few syncs later.
    LogSyncsAreLate,
    /// A vote is answered before it is on disk.
    VoteIsNotSynced,
    /// An append is acknowledged before its commit.
    AppendAckedBeforeCommit,
    /// The log of one server loses the keys of withdraws.
    WithdrawsLostOnOne,
    /// The log of one server loses the keys of some advertises, at random.
    AdvertisesLostAtRandomOnOne,
    /// The end of a lease deletes the host.
    HideDeletes,
    /// A founder does not wait for servers that do not answer.
    FoundsWithoutSeeingAll,
    /// A server that is alone in its list does not listen before it founds.
    FoundsWithoutListening,
}

/// State that all hosts of one simulation share.
pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) net: Net,
    /// The host whose code runs.
    pub(crate) current: Option<Current>,
    fault: Option<Fault>,
    /// Hosts on which an append was acknowledged that is still to be committed.
    pub(crate) acknowledged_early: BTreeSet<HostId>,
    /// The highest vote of each host among the answers that have left it.
    promised: BTreeMap<HostId, Vote>,
    /// Number of snapshots that have arrived.
    pub(crate) snapshots: usize,
    /// Number of requests that have arrived a second time.
    pub(crate) doubled: usize,
    /// Hash of everything that was delivered and observed, in order.
    trace: u64,
}

/// The host whose code runs now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current {
    pub(crate) host: HostId,
    /// Time of the host's clock when its runtime began.
    pub(crate) began: Instant,
    /// Time of the world when it began, milliseconds.
    pub(crate) began_ms: u64,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Makes the thread a simulation until it is dropped.
pub(crate) struct Inside(());

impl Inside {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let world = World {
            rng,
            net: Net::default(),
            current: None,
            fault: None,
            acknowledged_early: BTreeSet::new(),
            promised: BTreeMap::new(),
            snapshots: 0,
            doubled: 0,
            trace: 0xcbf2_9ce4_8422_2325,
        };
        let before = WORLD.with_borrow_mut(|slot| slot.replace(world));
        assert!(before.is_none(), "one simulation at a time on a thread");
        Self(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let world = WORLD.with_borrow_mut(Option::take);
        drop(world);
        crate::format::next::set_on_this_thread(false);
    }
}

/// Whether the simulated build has this fault.
pub(crate) fn is_broken(fault: Fault) -> bool {
    with(|world| world.fault == Some(fault)).unwrap_or(false)
}

/// From now on the simulated build has this fault.
pub(crate) fn break_it(fault: Fault) {
    inside(|world| world.fault = Some(fault));
}

/// Prints what happens, of a life that is looked at closely.
pub(crate) fn say(text: impl FnOnce() -> String) {
    if std::env::var_os("PICCOLO_SIM_VERBOSE").is_some() {
        println!("{}", text());
    }
}

/// `None` outside of a simulation. Nothing that `work` drops may come back here.
pub(crate) fn with<T>(work: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.with_borrow_mut(|world| world.as_mut().map(work))
}

/// [`with`], where the thread is known to be a simulation.
pub(crate) fn inside<T>(work: impl FnOnce(&mut World) -> T) -> T {
    with(work).expect("the thread is a simulation")
}

/// Random bits of the simulation; `None` outside of one.
pub(crate) fn bits() -> Option<u128> {
    with(|world| world.rng.random())
}

impl World {
    /// The time of the host whose turn it is, milliseconds of the world.
    pub(crate) fn now_ms(&self) -> u64 {
        let current = self.current.expect("some host's code runs");
        current.began_ms + current.began.elapsed().as_millis() as u64
    }

    /// Notes a vote that a host has answered.
    pub(crate) fn promise(&mut self, host: HostId, vote: Vote) {
        let before = self.promised.entry(host).or_insert(vote);
        if vote.leader_id > before.leader_id {
            *before = vote;
        }
    }

    /// Forgets the votes of a host that has a new disk.
    pub(crate) fn release(&mut self, host: HostId) {
        self.promised.remove(&host);
    }

    /// Whether a host that starts with this vote has forgotten one.
    pub(crate) fn check_promise(&self, host: HostId, vote: Vote) -> Result<(), String> {
        let Some(promised) = self.promised.get(&host) else { return Ok(()) };
        if vote.leader_id >= promised.leader_id {
            return Ok(());
        }
        Err(format!("s{host} has forgotten its vote: it answered {promised} and starts with {vote}"))
    }

    /// Adds to the trace (FNV-1a).
    pub(crate) fn note(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Adds a message that arrives to the trace.
    pub(crate) fn note_message(&mut self, host: HostId, at_ms: u64, message: &Message) {
        self.note(&at_ms.to_le_bytes());
        self.note(&[host as u8]);
        self.doubled += usize::from(matches!(message, Message::Request { again: true, .. }));
        match message {
            Message::Request { payload: Payload::Rpc { route, body }, .. } => {
                self.snapshots += usize::from(route == "snapshot");
                self.note(route.as_bytes());
                self.note(body);
            }
            Message::Request { payload: Payload::Client(request), .. } => {
                self.note(format!("{request:?}").as_bytes());
            }
            Message::GivenUp { call } => self.note(&call.to_le_bytes()),
            Message::Answer { answer: Answer::Rpc(status, body), .. } => {
                self.note(status.as_str().as_bytes());
                self.note(body);
            }
            Message::Answer { answer, .. } => self.note(format!("{answer:?}").as_bytes()),
        }
    }

    /// The hash of all that has happened so far.
    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }
}
