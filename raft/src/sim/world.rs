//! What all hosts of one simulation share: a world for each thread that is a simulation.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::types::Vote;

use super::net::{Answer, HostId, Message, Net, Payload};

/// What a broken build would do; each is there to show that the checks find it.
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
    /// A missed lease deletes.
    HideDeletes,
    /// A founder does not wait for those who do not answer.
    FoundsWithoutSeeingAll,
    /// A server that is alone in its list does not listen before it founds.
    FoundsWithoutListening,
}

/// Shared by all hosts of one simulation.
pub(crate) struct World {
    pub(crate) dice: StdRng,
    pub(crate) net: Net,
    /// The host whose turn it is.
    pub(crate) current: Option<Current>,
    fault: Option<Fault>,
    /// Hosts on which an append was acknowledged that is still to be committed.
    pub(crate) acknowledged_early: BTreeSet<HostId>,
    /// What each host has voted for, by the answers that have left it.
    promised: BTreeMap<HostId, Vote>,
    /// Requests with a snapshot that have arrived.
    pub(crate) snapshots: usize,
    /// Requests that have arrived a second time.
    pub(crate) doubled: usize,
    /// Of everything that was delivered and observed, in order.
    trace: u64,
}

/// The host whose code runs now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current {
    pub(crate) host: HostId,
    /// The host's clock when its runtime began ...
    pub(crate) began: Instant,
    /// ... at this time of the world, milliseconds.
    pub(crate) began_ms: u64,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Makes the thread a simulation until it is dropped.
pub(crate) struct Inside(());

impl Inside {
    pub(crate) fn new(seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        let world = World {
            dice,
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

/// Whether the build is broken in this way.
pub(crate) fn is_broken(fault: Fault) -> bool {
    with(|world| world.fault == Some(fault)).unwrap_or(false)
}

/// From now on the build is broken.
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

/// The same, for those who are inside.
pub(crate) fn inside<T>(work: impl FnOnce(&mut World) -> T) -> T {
    with(work).expect("the thread is a simulation")
}

/// Random bits of the simulation; `None` outside of one.
pub(crate) fn bits() -> Option<u128> {
    with(|world| world.dice.random())
}

impl World {
    /// The time of the host whose turn it is, milliseconds of the world.
    pub(crate) fn now_ms(&self) -> u64 {
        let current = self.current.expect("some host's code runs");
        current.began_ms + current.began.elapsed().as_millis() as u64
    }

    /// The host has answered that it votes so.
    pub(crate) fn promise(&mut self, host: HostId, vote: Vote) {
        let before = self.promised.entry(host).or_insert(vote);
        if vote.leader_id > before.leader_id {
            *before = vote;
        }
    }

    /// Its disk is new: so is who it is.
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

    /// A message arrives.
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

    /// Of all that happened so far.
    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }
}
