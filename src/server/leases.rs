//! Leases of holders. They live in the leader's memory; when one ends, the holder is hidden, not deleted
//! (I3). This file is pure: the time is an argument, and what must be replicated comes back as a command.
//! [`table`] shares the leases between endpoints and the [`task`] that ends them; [`fleet`] sums what
//! heartbeats say of their agents.
//!
//! What happens, and where it is decided:
//!
//! | event | function |
//! |---|---|
//! | heartbeat: unknown host, lower pair, other fingerprint, hidden, changed zone or ttl | [`on_heartbeat`] |
//! | lease ended, hidden for `forget_after` | [`Leases::sweep`] |
//! | any applied write | [`Leases::follow`] |
//! | any accepted heartbeat | [`Leases::renew`] |
//! | new term, or start of the process | [`Leases::begin_term`] |
//! | the sweep was late; no quorum | [`Leases::sweep`], [`Leases::pause`] |
//!
//! Ends are in *lease time*: monotonic time without the stretches in which no host could have renewed,
//! because the process was stopped or there was no quorum. So extending all leases is one addition.

pub mod fleet;
pub mod table;
pub mod task;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use piccolo_raft::command::Command;
use piccolo_raft::model::{Fingerprint, Holder, Pair};

use crate::limits::{
    CLOCKS_APART_MAX_MS, FORGET_SEEN_MIN, FORGETS_PER_SWEEP_MAX, HIDE_SHARE_OF_GROUP, HIDE_WINDOW,
    HIDES_PER_GROUP_MIN, HIDES_PER_SWEEP_MAX, SWEEP_LATE_AFTER,
};

/// What the index knows of a host that matters for its heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownHost {
    /// Its zone label; empty if it has none.
    pub zone: String,
    /// Length of its lease; 0 is the default length.
    pub ttl_seconds: u32,
    /// The pair of its last write; `None` if it writes without pairs.
    pub pair: Option<Pair>,
    /// Fingerprint of its inventory.
    pub fingerprint: Fingerprint,
    /// Whether it is in no answers.
    pub hidden: bool,
}

/// What a heartbeat says of its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Its zone label; `None` leaves the stored one.
    pub zone: Option<String>,
    /// Length of its lease; `None` is the default length (Go `pi`).
    pub ttl_seconds: Option<u32>,
    /// The pair of its last acknowledged write.
    pub pair: Option<Pair>,
    /// Fingerprint of the inventory that it believes to be in the index.
    pub fingerprint: Option<Fingerprint>,
}

/// What the log says of a host that matters for its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLease {
    /// The host.
    pub holder: Holder,
    /// Length of its lease; 0 is the default length.
    pub ttl_seconds: u32,
    /// Since when it is hidden, by the wall clock of the leader that hid it; `None` if it is visible.
    pub hidden_unix_ms: Option<u64>,
    /// The epoch of its last write, by the holder's own wall clock; `None` if it writes without pairs.
    pub epoch_unix_ms: Option<u64>,
}

impl HostLease {
    /// For how long the host has been hidden at `unix_ms`, by the clocks of the leader that hid it and of
    /// this leader; `None` if it is visible. The result is zero if the clock of the first leader was behind
    /// the holder's own clock, because the holder began its epoch before it was hidden: a leader without a
    /// battery for its clock says 1970, and the next leader would believe that its hosts have been hidden for
    /// decades.
    fn hidden_for(&self, unix_ms: u64) -> Option<Duration> {
        let since = self.hidden_unix_ms?;
        let since_least = self.epoch_unix_ms.map_or(0, |epoch| epoch.saturating_sub(CLOCKS_APART_MAX_MS));
        let hidden_ms = if since < since_least { 0 } else { unix_ms.saturating_sub(since) };
        Some(Duration::from_millis(hidden_ms))
    }
}

/// What follows from a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatOutcome {
    /// Whether the sender is asked to sync: the index does not hold what it believes.
    pub resync: bool,
    /// Commands to propose, in this order; none if nothing has changed.
    pub commands: Vec<Command>,
}

/// What follows from the heartbeat of `holder`. `known` is `None` for an unknown host, which leaves no
/// record.
pub fn on_heartbeat(holder: &Holder, known: Option<&KnownHost>, heartbeat: &Heartbeat) -> HeartbeatOutcome {
    let Some(known) = known else {
        return HeartbeatOutcome { resync: true, commands: Vec::new() };
    };
    let other_fingerprint = heartbeat.fingerprint.is_some_and(|fingerprint| fingerprint != known.fingerprint);
    let lost_writes = known.pair < heartbeat.pair;
    let drifted = known.pair == heartbeat.pair && other_fingerprint;
    let mut outcome = HeartbeatOutcome { resync: lost_writes || drifted, commands: Vec::new() };

    let zone = heartbeat.zone.as_ref().unwrap_or(&known.zone);
    let ttl_seconds = heartbeat.ttl_seconds.unwrap_or(0);
    if *zone != known.zone || ttl_seconds != known.ttl_seconds {
        let (holder, zone) = (holder.clone(), zone.clone());
        outcome.commands.push(Command::SetHost { holder, zone, ttl_seconds });
    }
    if known.hidden {
        if other_fingerprint {
            // The host stays hidden until a write of its own shows it again.
            outcome.resync = true;
        } else {
            outcome.commands.push(Command::Unhide { holder: holder.clone() });
        }
    }
    outcome
}

/// A command that a sweep found to be due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// The lease of this host has ended: propose `Hide`.
    Hide(Holder),
    /// The host has been hidden since this wall time, `forget_after` ago: propose `Forget`.
    Forget(Holder, u64),
}

/// The state of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaseState {
    /// In answers until `end`, unless its lease is renewed. `renewed`: it was, since its `Hide` was last
    /// proposed.
    Visible { end: Duration, renewed: bool },
    /// In no answers since the wall time `unix_ms`, to be forgotten at `end`.
    Hidden { unix_ms: u64, end: Duration },
    /// Its `Hide` or `Forget` is being proposed.
    Leaving,
}

/// The leases of all hosts. The work of a sweep is bounded by what it returns, however many leases have
/// ended: groups are queued by the time at which their next host may be hidden.
#[derive(Debug)]
pub struct Leases {
    lease_default: Duration,
    forget_after: Duration,
    groups: HashMap<Arc<str>, Group>,
    /// Groups with visible hosts, by [`Group::due`].
    by_due: BTreeSet<(Duration, Arc<str>)>,
    /// Hidden hosts by the time at which they are forgotten.
    by_forget: BTreeSet<(Duration, Arc<str>, SocketAddr)>,
    /// Monotonic time that is not lease time.
    paused: Duration,
    /// Monotonic time of the last sweep.
    swept: Duration,
}

/// The hosts of one group, and how many of them may be hidden.
#[derive(Debug, Default)]
struct Group {
    hosts: HashMap<SocketAddr, LeaseState>,
    /// The visible hosts by the ends of their leases.
    by_end: BTreeSet<(Duration, SocketAddr)>,
    /// When how many hosts were hidden, over the last [`HIDE_WINDOW`].
    spent: VecDeque<(Duration, usize)>,
    /// The time under which the group is in [`Leases::by_due`].
    queued: Option<Duration>,
}

impl Group {
    /// How many of its hosts may be hidden within [`HIDE_WINDOW`]. It is a share of all hosts, hidden ones
    /// included, so that a group whose hosts die one after the other is not hidden ever more slowly.
    fn hides_max(&self) -> usize {
        (self.hosts.len() / HIDE_SHARE_OF_GROUP).max(HIDES_PER_GROUP_MIN)
    }

    /// How many hosts may be hidden now.
    fn budget(&mut self, now: Duration) -> usize {
        while self.spent.front().is_some_and(|(at, _)| *at + HIDE_WINDOW <= now) {
            self.spent.pop_front();
        }
        let spent: usize = self.spent.iter().map(|(_, count)| count).sum();
        self.hides_max().saturating_sub(spent)
    }

    /// Takes out hosts whose leases have ended, as many as the budget and `room` allow.
    fn take_ended(&mut self, now: Duration, room: usize) -> Vec<SocketAddr> {
        let allowed = self.budget(now).min(room);
        let mut ended = Vec::new();
        while ended.len() < allowed
            && let Some((_, address)) = self.by_end.first().filter(|(end, _)| *end <= now).copied()
        {
            self.by_end.pop_first();
            self.hosts.insert(address, LeaseState::Leaving);
            ended.push(address);
        }
        if !ended.is_empty() {
            self.spent.push_back((now, ended.len()));
        }
        ended
    }

    /// When its next host may be hidden: once a lease has ended and there is a budget for it. `None` without
    /// visible hosts.
    fn due(&self) -> Option<Duration> {
        let (end, _) = self.by_end.first()?;
        let spent: usize = self.spent.iter().map(|(_, count)| count).sum();
        let again = self.spent.front().filter(|_| spent >= self.hides_max());
        Some(again.map_or(*end, |(at, _)| (*at + HIDE_WINDOW).max(*end)))
    }
}

impl Leases {
    /// No leases yet. `lease_default` is the length for hosts that name none; a hidden host is forgotten
    /// after `forget_after`.
    pub fn new(lease_default: Duration, forget_after: Duration) -> Self {
        Self {
            lease_default,
            forget_after,
            groups: HashMap::new(),
            by_due: BTreeSet::new(),
            by_forget: BTreeSet::new(),
            paused: Duration::ZERO,
            swept: Duration::ZERO,
        }
    }

    /// The length of a lease; 0 seconds are the default length.
    fn length(&self, ttl_seconds: u32) -> Duration {
        match ttl_seconds {
            0 => self.lease_default,
            seconds => Duration::from_secs(seconds.into()),
        }
    }

    /// Begins a term of this node as leader: forgets all leases and gives every host of `all` a full one.
    ///
    /// Wall time is trusted only here, for how long hosts were hidden before (see `HostLease::hidden_for`).
    /// From here on monotonic time counts, so that a clock that jumps neither ends a lease nor forgets a
    /// host. A clock that is wrong now cannot forget a host that this leader has not seen hidden for
    /// [`FORGET_SEEN_MIN`], nor keep one for longer than `forget_after`.
    pub fn begin_term(&mut self, all: impl IntoIterator<Item = HostLease>, now: Duration, unix_ms: u64) {
        *self = Self { swept: now, ..Self::new(self.lease_default, self.forget_after) };
        for host in all {
            let hidden = host.hidden_unix_ms.zip(host.hidden_for(unix_ms));
            match hidden {
                None => self.renew(&host.holder, host.ttl_seconds, now),
                Some((since, hidden_for)) => {
                    let left = self.forget_after.saturating_sub(hidden_for);
                    let left = left.max(FORGET_SEEN_MIN.min(self.forget_after));
                    self.hide(&host.holder, since, now, left);
                }
            }
        }
    }

    /// Takes over what the log has changed. A visible host has just written, or was shown or set: it gets a
    /// full lease. Returns the hosts that were hidden although their leases were renewed meanwhile: they must
    /// be shown again.
    pub fn follow(&mut self, changed: impl IntoIterator<Item = HostLease>, now: Duration) -> Vec<Holder> {
        let mut renewed = Vec::new();
        for HostLease { holder, ttl_seconds, hidden_unix_ms, epoch_unix_ms: _ } in changed {
            match (hidden_unix_ms, self.state(&holder)) {
                (None, _) => self.renew(&holder, ttl_seconds, now),
                (Some(_), Some(LeaseState::Visible { renewed: true, .. })) => renewed.push(holder),
                (Some(unix_ms), Some(LeaseState::Hidden { unix_ms: known, .. })) if unix_ms == known => {}
                // This leader has just hidden it.
                (Some(unix_ms), _) => self.hide(&holder, unix_ms, now, self.forget_after),
            }
        }
        renewed
    }

    /// Removes every host that is not in `all`: the log forgot more hosts than it can name.
    pub fn retain(&mut self, all: &HashSet<Holder>) {
        let known = self.groups.iter().flat_map(|(group, hosts)| {
            hosts.hosts.keys().map(|address| Holder { group: group.to_string(), address: *address })
        });
        let gone: Vec<_> = known.filter(|holder| !all.contains(holder)).collect();
        gone.iter().for_each(|holder| self.remove(holder));
    }

    /// Gives `holder` a full lease from `now`; 0 seconds are the default length.
    pub fn renew(&mut self, holder: &Holder, ttl_seconds: u32, now: Duration) {
        let end = self.lease_time(now) + self.length(ttl_seconds);
        self.put(holder, LeaseState::Visible { end, renewed: true });
    }

    /// Makes a command that could not be proposed due again after `delay`, unless the host's lease was
    /// renewed, or the log has said what became of it.
    pub fn postpone(&mut self, due: Due, now: Duration, delay: Duration) {
        let (Due::Hide(holder) | Due::Forget(holder, _)) = &due;
        if self.state(holder) != Some(LeaseState::Leaving) {
            return;
        }
        match due {
            Due::Hide(holder) => {
                let end = self.lease_time(now) + delay;
                self.put(&holder, LeaseState::Visible { end, renewed: false });
            }
            Due::Forget(holder, unix_ms) => self.hide(&holder, unix_ms, now, delay),
        }
    }

    /// Whether a sweep took the host out, and its lease was not renewed since.
    pub fn is_leaving(&self, holder: &Holder) -> bool {
        self.state(holder) == Some(LeaseState::Leaving)
    }

    /// Removes a host that the log has forgotten.
    pub fn remove(&mut self, holder: &Holder) {
        self.change(holder, None);
    }

    fn hide(&mut self, holder: &Holder, unix_ms: u64, now: Duration, forget_after: Duration) {
        let end = self.lease_time(now) + forget_after;
        self.put(holder, LeaseState::Hidden { unix_ms, end });
    }

    fn lease_time(&self, now: Duration) -> Duration {
        now.saturating_sub(self.paused)
    }

    fn state(&self, holder: &Holder) -> Option<LeaseState> {
        self.groups.get(holder.group.as_str())?.hosts.get(&holder.address).copied()
    }

    fn put(&mut self, holder: &Holder, state: LeaseState) {
        self.change(holder, Some(state));
    }

    /// Changes the state of a host; `None` removes it. All sorted sets are kept up to it here, and nowhere
    /// else.
    fn change(&mut self, holder: &Holder, state: Option<LeaseState>) {
        let address = holder.address;
        let name = match self.groups.get_key_value(holder.group.as_str()) {
            Some((name, _)) => Arc::clone(name),
            None if state.is_none() => return,
            None => Arc::from(holder.group.as_str()),
        };
        let group = self.groups.entry(Arc::clone(&name)).or_default();
        let before = match state {
            Some(state) => group.hosts.insert(address, state),
            None => group.hosts.remove(&address),
        };
        match before {
            Some(LeaseState::Visible { end, .. }) => _ = group.by_end.remove(&(end, address)),
            Some(LeaseState::Hidden { end, .. }) => {
                self.by_forget.remove(&(end, Arc::clone(&name), address));
            }
            Some(LeaseState::Leaving) | None => {}
        }
        match state {
            Some(LeaseState::Visible { end, .. }) => _ = group.by_end.insert((end, address)),
            Some(LeaseState::Hidden { end, .. }) => {
                self.by_forget.insert((end, Arc::clone(&name), address));
            }
            Some(LeaseState::Leaving) | None => {}
        }
        self.queue(&name);
    }

    /// Queues the group by its next due time, and removes it once it is empty.
    fn queue(&mut self, name: &Arc<str>) {
        let Some(group) = self.groups.get_mut(name) else { return };
        let due = group.due();
        if due != group.queued {
            if let Some(queued) = group.queued {
                self.by_due.remove(&(queued, Arc::clone(name)));
            }
            if let Some(due) = due {
                self.by_due.insert((due, Arc::clone(name)));
            }
            group.queued = due;
        }
        if group.hosts.is_empty() {
            self.groups.remove(name);
        }
    }

    /// Leaves the time since the last sweep out of lease time: there was no quorum, so that no host could
    /// renew.
    pub fn pause(&mut self, now: Duration) {
        self.paused += now.saturating_sub(self.swept);
        self.swept = now;
    }

    /// Takes out what is due at `now`. A late sweep (the process was stopped) first extends all leases by the
    /// time that it is late: the heartbeats that would have renewed them were waiting in the sockets.
    ///
    /// Of a group only a share is hidden within a [`HIDE_WINDOW`] ([`HIDE_SHARE_OF_GROUP`],
    /// [`HIDES_PER_GROUP_MIN`]): what looks like many deaths at once is more often a cut between the hosts
    /// and this server, and an index that empties at once would send all agents to the registry. Hosts beyond
    /// the share stay visible, and a heartbeat renews their leases. Forgetting has no such bound, because no
    /// answer shows it.
    ///
    /// What is taken out comes back by [`Leases::follow`] when its command was applied, or else by
    /// [`Leases::postpone`].
    pub fn sweep(&mut self, now: Duration) -> Vec<Due> {
        if now.saturating_sub(self.swept) > SWEEP_LATE_AFTER {
            self.pause(now);
        }
        self.swept = now;
        let now = self.lease_time(now);
        let mut due = self.take_ended(now);
        due.extend(self.take_forgotten(now));
        due
    }

    fn take_ended(&mut self, now: Duration) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < HIDES_PER_SWEEP_MAX
            && let Some((_, name)) = self.by_due.first().filter(|(at, _)| *at <= now).cloned()
        {
            let group = self.groups.get_mut(&name).expect("a queued group is there");
            let ended = group.take_ended(now, HIDES_PER_SWEEP_MAX - due.len());
            let hide = |address| Due::Hide(Holder { group: name.to_string(), address });
            due.extend(ended.into_iter().map(hide));
            self.queue(&name);
        }
        due
    }

    fn take_forgotten(&mut self, now: Duration) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < FORGETS_PER_SWEEP_MAX
            && let Some((_, name, address)) = self.by_forget.first().filter(|(end, ..)| *end <= now).cloned()
        {
            let holder = Holder { group: name.to_string(), address };
            if let Some(LeaseState::Hidden { unix_ms, .. }) = self.state(&holder) {
                due.push(Due::Forget(holder.clone(), unix_ms));
            }
            self.put(&holder, LeaseState::Leaving);
        }
        due
    }
}

#[cfg(test)]
mod tests;
