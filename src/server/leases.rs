//! Leases of holders: they live in the leader's memory, and when one ends the holder is hidden, not
//! deleted (I3). Pure: the time is an argument, and what is to be replicated comes back as a command.
//!
//! The rows of the state table, and where they are:
//!
//! | event | here |
//! |---|---|
//! | keepalive: unknown host, lower pair, other fingerprint, hidden, changed zone or ttl | [`judge`] |
//! | lease ended, hidden for `forget_after` | [`Leases::sweep`] |
//! | any applied write | [`Leases::follow`] |
//! | any accepted keepalive | [`Leases::renew`] |
//! | new term, or start of the process | [`Leases::begin_term`] |
//! | the sweep was late; no quorum | [`Leases::sweep`], [`Leases::pause`] |
//!
//! Expiries are in *lease time*: monotonic time without the stretches in which nobody could have
//! renewed (the process was stopped, there was no quorum). Extending all leases is one addition.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use piccolo_raft::command::{Command, Holder, Pair};
use piccolo_raft::fingerprint::Fingerprint;

/// A sweep that comes later than this after the one before was held up, and time is added.
pub const SWEEP_LATE_AFTER: Duration = Duration::from_secs(1);

/// What the index says of a known host, as far as a keepalive is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Zone label, empty if none.
    pub zone: String,
    /// Length of its lease, 0: the default.
    pub ttl_seconds: u32,
    /// The pair of its last write.
    pub pair: Option<Pair>,
    /// Of its inventory.
    pub fingerprint: Fingerprint,
    /// Whether it is out of all answers.
    pub hidden: bool,
}

/// What a keepalive says of its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// `None`: not told, what is stored stays.
    pub zone: Option<String>,
    /// `None`: the default lease (Go `pi`).
    pub ttl_seconds: Option<u32>,
    /// Pair of its last acknowledged write.
    pub pair: Option<Pair>,
    /// Of what it believes the index holds.
    pub fingerprint: Option<Fingerprint>,
}

/// What the log says of a host, as far as its lease is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// Which.
    pub holder: Holder,
    /// Length of its lease, 0: the default.
    pub ttl_seconds: u32,
    /// Since which wall clock it is hidden.
    pub hidden_unix_ms: Option<u64>,
}

/// What follows from a keepalive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The index does not hold what the sender believes: it is asked to sync.
    pub resync: bool,
    /// To be replicated, in this order; nothing when nothing has changed.
    pub commands: Vec<Command>,
}

/// Decides on one keepalive. An unknown host leaves no record.
pub fn judge(holder: &Holder, known: Option<&Known>, beat: &Beat) -> Verdict {
    let Some(known) = known else {
        return Verdict { resync: true, commands: Vec::new() };
    };
    let other_fingerprint = beat.fingerprint.is_some_and(|fingerprint| fingerprint != known.fingerprint);
    let lost_writes = known.pair < beat.pair;
    let drifted = known.pair == beat.pair && other_fingerprint;
    let mut verdict = Verdict { resync: lost_writes || drifted, commands: Vec::new() };

    let zone = beat.zone.as_ref().unwrap_or(&known.zone);
    let ttl_seconds = beat.ttl_seconds.unwrap_or(0);
    if *zone != known.zone || ttl_seconds != known.ttl_seconds {
        let (holder, zone) = (holder.clone(), zone.clone());
        verdict.commands.push(Command::SetHost { holder, zone, ttl_seconds });
    }
    if known.hidden {
        if other_fingerprint {
            // It stays hidden until a write of its own shows it again.
            verdict.resync = true;
        } else {
            verdict.commands.push(Command::Unhide { holder: holder.clone() });
        }
    }
    verdict
}

/// A sweep's find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its lease has ended: propose `Hide`.
    Hide(Holder),
    /// Hidden since this wall clock for `forget_after`: propose `Forget`.
    Forget(Holder, u64),
}

/// The leases of all hosts.
#[derive(Debug)]
pub struct Leases {
    lease_default: Duration,
    forget_after: Duration,
    /// Of visible hosts: when each ends, in lease time.
    ends: HashMap<Arc<Holder>, Duration>,
    /// The same, by end.
    by_end: BTreeSet<(Duration, Arc<Holder>)>,
    /// Hidden hosts, and since which wall clock.
    hidden: HashMap<Arc<Holder>, u64>,
    /// The same, by time.
    by_hidden: BTreeSet<(u64, Arc<Holder>)>,
    /// Monotonic time that does not count.
    paused: Duration,
    /// When the last sweep was.
    swept: Duration,
}

impl Leases {
    /// No leases. `lease_default` is for hosts that name no length.
    pub fn new(lease_default: Duration, forget_after: Duration) -> Self {
        Self {
            lease_default,
            forget_after,
            ends: HashMap::new(),
            by_end: BTreeSet::new(),
            hidden: HashMap::new(),
            by_hidden: BTreeSet::new(),
            paused: Duration::ZERO,
            swept: Duration::ZERO,
        }
    }

    /// The length of a lease: 0 seconds is the default.
    fn length(&self, ttl_seconds: u32) -> Duration {
        match ttl_seconds {
            0 => self.lease_default,
            seconds => Duration::from_secs(seconds.into()),
        }
    }

    /// This node has become leader: what it knew is void, every host of `all` gets a full lease.
    pub fn begin_term(&mut self, all: impl IntoIterator<Item = HostState>, now: Duration) {
        *self = Self { swept: now, ..Self::new(self.lease_default, self.forget_after) };
        self.follow(all, now);
    }

    /// Hosts that the log has changed: who is visible has just written, beaten or been set, and gets
    /// a full lease. Returns hosts that were hidden although they have been heard of meanwhile: they
    /// are to be shown again.
    pub fn follow(&mut self, changed: impl IntoIterator<Item = HostState>, now: Duration) -> Vec<Holder> {
        let mut heard_of = Vec::new();
        for HostState { holder, ttl_seconds, hidden_unix_ms } in changed {
            match hidden_unix_ms {
                None => self.renew(&holder, ttl_seconds, now),
                Some(_) if self.ends.contains_key(&holder) => heard_of.push(holder),
                Some(unix_ms) => self.hide(holder, unix_ms),
            }
        }
        heard_of
    }

    /// Drops whatever is not in `all`: the log forgot more hosts than it could name.
    pub fn retain(&mut self, all: &HashSet<Holder>) {
        let known = self.ends.keys().chain(self.hidden.keys());
        let gone: Vec<_> = known.filter(|holder| !all.contains(&***holder)).map(Arc::clone).collect();
        gone.iter().for_each(|holder| self.remove(holder));
    }

    /// A full lease from now.
    pub fn renew(&mut self, holder: &Holder, ttl_seconds: u32, now: Duration) {
        self.set(holder, now, self.length(ttl_seconds));
    }

    /// A command could not be proposed: due again after `delay`, unless the host was heard of.
    pub fn postpone(&mut self, due: Due, now: Duration, delay: Duration) {
        match due {
            Due::Hide(holder) if !self.ends.contains_key(&holder) => self.set(&holder, now, delay),
            Due::Forget(holder, unix_ms) if !self.ends.contains_key(&holder) => self.hide(holder, unix_ms),
            Due::Hide(_) | Due::Forget(..) => {}
        }
    }

    fn set(&mut self, holder: &Holder, now: Duration, length: Duration) {
        let end = now.saturating_sub(self.paused) + length;
        let name = match self.ends.get_key_value(holder) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::new(holder.clone()),
        };
        self.remove(holder);
        self.ends.insert(Arc::clone(&name), end);
        self.by_end.insert((end, name));
    }

    /// The host is forgotten.
    pub fn remove(&mut self, holder: &Holder) {
        if let Some((name, end)) = self.ends.remove_entry(holder) {
            self.by_end.remove(&(end, name));
        }
        if let Some((name, unix_ms)) = self.hidden.remove_entry(holder) {
            self.by_hidden.remove(&(unix_ms, name));
        }
    }

    fn hide(&mut self, holder: Holder, unix_ms: u64) {
        self.remove(&holder);
        let name = Arc::new(holder);
        self.hidden.insert(Arc::clone(&name), unix_ms);
        self.by_hidden.insert((unix_ms, name));
    }

    /// The time since the last sweep does not count: there was no quorum, nobody could renew.
    pub fn pause(&mut self, now: Duration) {
        self.paused += now.saturating_sub(self.swept);
        self.swept = now;
    }

    /// Takes out what is due. A sweep that is late itself (the process was stopped) first extends
    /// all leases by what it missed: their renewals were waiting in the sockets.
    ///
    /// What is taken out comes back by [`Leases::follow`] when its command was applied, or else by
    /// [`Leases::postpone`].
    pub fn sweep(&mut self, now: Duration, unix_ms: u64) -> Vec<Due> {
        if now.saturating_sub(self.swept) > SWEEP_LATE_AFTER {
            self.pause(now);
        }
        self.swept = now;
        let now = now.saturating_sub(self.paused);
        let mut due = Vec::new();
        while self.by_end.first().is_some_and(|(end, _)| *end <= now) {
            let (_, holder) = self.by_end.pop_first().expect("there is a first");
            self.ends.remove(&holder);
            due.push(Due::Hide(Arc::unwrap_or_clone(holder)));
        }
        let forget_after_ms = self.forget_after.as_millis() as u64;
        while self
            .by_hidden
            .first()
            .is_some_and(|(since, _)| since.saturating_add(forget_after_ms) <= unix_ms)
        {
            let (since, holder) = self.by_hidden.pop_first().expect("there is a first");
            self.hidden.remove(&holder);
            due.push(Due::Forget(Arc::unwrap_or_clone(holder), since));
        }
        due
    }
}

#[cfg(test)]
mod tests;
