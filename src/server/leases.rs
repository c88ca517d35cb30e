//! Leases of holders: they live in the leader's memory, and when one ends the holder is hidden, not
//! deleted (I3). Pure: the time is an argument, and what is to be replicated comes back as a command.
//!
//! The rows of the state table, and where they are:
//!
//! | event | here |
//! |---|---|
//! | keepalive: unknown host, lower pair, other fingerprint, hidden, changed zone or ttl | [`judge`] |
//! | lease ended, hidden for `forget_after` | [`Leases::sweep`] |
//! | any applied write, any accepted keepalive | [`Leases::renew`] |
//! | new term, or start of the process | [`Leases::begin_term`] |
//! | the sweep was late; no quorum | [`Leases::sweep`], [`Leases::pause`] |
//!
//! Expiries are in *lease time*: monotonic time without the stretches in which nobody could have
//! renewed (the process was stopped, there was no quorum). Extending all leases is one addition.

use std::collections::{BTreeSet, HashMap};
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

    /// This node has become leader: what it knew is void, every host gets a full lease. Hosts are
    /// (holder, ttl, hidden since).
    pub fn begin_term(&mut self, hosts: impl IntoIterator<Item = (Holder, u32, Option<u64>)>, now: Duration) {
        *self = Self { swept: now, ..Self::new(self.lease_default, self.forget_after) };
        self.reconcile(hosts, now);
    }

    /// Hosts that it has missed get a full lease, leases of unknown hosts go.
    pub fn reconcile(&mut self, hosts: impl IntoIterator<Item = (Holder, u32, Option<u64>)>, now: Duration) {
        let mut gone: BTreeSet<Arc<Holder>> =
            self.ends.keys().chain(self.hidden.keys()).map(Arc::clone).collect();
        for (holder, ttl_seconds, hidden) in hosts {
            gone.remove(&holder);
            match hidden {
                // Whoever has a lease keeps it: if the index still says hidden, an `Unhide` is under way.
                _ if self.ends.contains_key(&holder) => {}
                None => self.renew(&holder, ttl_seconds, now),
                Some(unix_ms) => self.hide(holder, unix_ms),
            }
        }
        gone.iter().for_each(|holder| self.remove(holder));
    }

    /// A write of this host was applied, or its keepalive accepted: a full lease from now.
    pub fn renew(&mut self, holder: &Holder, ttl_seconds: u32, now: Duration) {
        self.set(holder, now, self.length(ttl_seconds));
    }

    /// A `Hide` could not be proposed: due again after `delay`, unless the host was heard of.
    pub fn postpone(&mut self, holder: &Holder, now: Duration, delay: Duration) {
        if !self.ends.contains_key(holder) {
            self.set(holder, now, delay);
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

    /// A `Hide` was applied. True if the host was heard of meanwhile: it is to be shown again.
    pub fn hidden(&mut self, holder: &Holder, unix_ms: u64) -> bool {
        if self.ends.contains_key(holder) {
            return true;
        }
        self.hide(holder.clone(), unix_ms);
        false
    }

    /// A `Forget` was applied, or the host turned out to be unknown.
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
    /// A host that is taken out has no lease until [`Leases::renew`], [`Leases::hidden`] or
    /// [`Leases::postpone`]; a `Forget` that failed comes back with the next [`Leases::reconcile`].
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
