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
//! Ends are in *lease time*: monotonic time without the stretches in which nobody could have
//! renewed (the process was stopped, there was no quorum). Extending all leases is one addition.

pub mod fleet;
pub mod task;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use piccolo_raft::command::Command;
use piccolo_raft::model::{Fingerprint, Holder, Pair};

use crate::limits::{
    FORGET_SEEN_MIN, FORGETS_PER_SWEEP_MAX, HIDE_SHARE_OF_GROUP, HIDE_WINDOW, HIDES_PER_GROUP_MIN,
    HIDES_PER_SWEEP_MAX,
};

/// Clocks of two machines that differ by no more than this count as right, milliseconds.
const CLOCKS_APART_MAX_MS: u64 = 60 * 60 * 1_000;
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
    /// The epoch of its last write, by the holder's own wall clock; `None`: it writes without pairs.
    pub epoch_unix_ms: Option<u64>,
}

impl HostState {
    /// For how long the host has been hidden at `unix_ms`, by the clocks of the leader that hid it and of
    /// this one; `None`: it is visible. Zero if the first clock was behind the holder's own, which began its
    /// epoch before it was hidden: a leader without a battery for its clock says 1970, and the next one
    /// would take its hosts for gone for decades.
    fn hidden_for(&self, unix_ms: u64) -> Option<Duration> {
        let since = self.hidden_unix_ms?;
        let since_least = self.epoch_unix_ms.map_or(0, |epoch| epoch.saturating_sub(CLOCKS_APART_MAX_MS));
        let hidden_ms = if since < since_least { 0 } else { unix_ms.saturating_sub(since) };
        Some(Duration::from_millis(hidden_ms))
    }
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

/// How a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Visible until `end`, unless it is heard of. `heard`: it was, since its `Hide` was last proposed.
    Visible { end: Duration, heard: bool },
    /// Out of all answers since the wall clock `unix_ms`, to be forgotten at `end`.
    Hidden { unix_ms: u64, end: Duration },
    /// Its `Hide` or `Forget` is on its way.
    Leaving,
}

/// The leases of all hosts. A sweep's work is bounded by what it finds, whatever has ended: groups
/// stand in a queue by the time at which their next host may be hidden.
#[derive(Debug)]
pub struct Leases {
    lease_default: Duration,
    forget_after: Duration,
    groups: HashMap<Arc<str>, Group>,
    /// Groups with visible hosts, by [`Group::due`].
    by_due: BTreeSet<(Duration, Arc<str>)>,
    /// Hidden hosts by the time at which they are forgotten.
    by_forget: BTreeSet<(Duration, Arc<str>, SocketAddr)>,
    /// Monotonic time that does not count.
    paused: Duration,
    /// When the last sweep was.
    swept: Duration,
}

/// One group's hosts, and its budget of hosts that may be hidden.
#[derive(Debug, Default)]
struct Group {
    hosts: HashMap<SocketAddr, Standing>,
    /// The visible ones by the end of their lease.
    by_end: BTreeSet<(Duration, SocketAddr)>,
    /// How many were hidden when, over the last [`HIDE_WINDOW`].
    spent: VecDeque<(Duration, usize)>,
    /// Where it stands in [`Leases::by_due`].
    queued: Option<Duration>,
}

impl Group {
    /// How many of its hosts may be hidden within [`HIDE_WINDOW`]. Hidden ones count as its hosts, so
    /// that a group whose hosts die one after the other is not hidden ever more slowly.
    fn hides_max(&self) -> usize {
        (self.hosts.len() / HIDE_SHARE_OF_GROUP).max(HIDES_PER_GROUP_MIN)
    }

    /// How many of them may be now.
    fn budget(&mut self, now: Duration) -> usize {
        while self.spent.front().is_some_and(|(at, _)| *at + HIDE_WINDOW <= now) {
            self.spent.pop_front();
        }
        let spent: usize = self.spent.iter().map(|(_, count)| count).sum();
        self.hides_max().saturating_sub(spent)
    }

    /// Takes out hosts whose lease has ended, as many as the budget and `room` allow.
    fn take_ended(&mut self, now: Duration, room: usize) -> Vec<SocketAddr> {
        let allowed = self.budget(now).min(room);
        let mut ended = Vec::new();
        while ended.len() < allowed
            && let Some((_, address)) = self.by_end.first().filter(|(end, _)| *end <= now).copied()
        {
            self.by_end.pop_first();
            self.hosts.insert(address, Standing::Leaving);
            ended.push(address);
        }
        if !ended.is_empty() {
            self.spent.push_back((now, ended.len()));
        }
        ended
    }

    /// When its next host may be hidden: not before a lease ends, nor before there is a budget. `None`
    /// without visible hosts.
    fn due(&self) -> Option<Duration> {
        let (end, _) = self.by_end.first()?;
        let spent: usize = self.spent.iter().map(|(_, count)| count).sum();
        let again = self.spent.front().filter(|_| spent >= self.hides_max());
        Some(again.map_or(*end, |(at, _)| (*at + HIDE_WINDOW).max(*end)))
    }
}

impl Leases {
    /// No leases. `lease_default` is for hosts that name no length.
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

    /// The length of a lease: 0 seconds is the default.
    fn length(&self, ttl_seconds: u32) -> Duration {
        match ttl_seconds {
            0 => self.lease_default,
            seconds => Duration::from_secs(seconds.into()),
        }
    }

    /// This node has become leader: what it knew is void, every host of `all` gets a full lease.
    ///
    /// This is the only place that believes a wall clock: for how long hosts were hidden before, see
    /// `HostState::hidden_for`. From here on monotonic time counts, so that no jump of the clock ends or forgets anything. One that
    /// is wrong now cannot forget a host that this leader has not seen hidden for
    /// [`FORGET_SEEN_MIN`], nor keep one for longer than `forget_after`.
    pub fn begin_term(&mut self, all: impl IntoIterator<Item = HostState>, now: Duration, unix_ms: u64) {
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

    /// Hosts that the log has changed: who is visible has just written, beaten or been set, and gets
    /// a full lease. Returns hosts that were hidden although they have been heard of meanwhile: they
    /// are to be shown again.
    pub fn follow(&mut self, changed: impl IntoIterator<Item = HostState>, now: Duration) -> Vec<Holder> {
        let mut heard_of = Vec::new();
        for HostState { holder, ttl_seconds, hidden_unix_ms, epoch_unix_ms: _ } in changed {
            match (hidden_unix_ms, self.standing(&holder)) {
                (None, _) => self.renew(&holder, ttl_seconds, now),
                (Some(_), Some(Standing::Visible { heard: true, .. })) => heard_of.push(holder),
                (Some(unix_ms), Some(Standing::Hidden { unix_ms: known, .. })) if unix_ms == known => {}
                // It is this leader that has just hidden it.
                (Some(unix_ms), _) => self.hide(&holder, unix_ms, now, self.forget_after),
            }
        }
        heard_of
    }

    /// Drops whatever is not in `all`: the log forgot more hosts than it could name.
    pub fn retain(&mut self, all: &HashSet<Holder>) {
        let known = self.groups.iter().flat_map(|(group, hosts)| {
            hosts.hosts.keys().map(|address| Holder { group: group.to_string(), address: *address })
        });
        let gone: Vec<_> = known.filter(|holder| !all.contains(holder)).collect();
        gone.iter().for_each(|holder| self.remove(holder));
    }

    /// A full lease from now.
    pub fn renew(&mut self, holder: &Holder, ttl_seconds: u32, now: Duration) {
        let end = self.lease_time(now) + self.length(ttl_seconds);
        self.put(holder, Standing::Visible { end, heard: true });
    }

    /// A command could not be proposed: due again after `delay`, unless the host was heard of, or the
    /// log has meanwhile said what became of it.
    pub fn postpone(&mut self, due: Due, now: Duration, delay: Duration) {
        let (Due::Hide(holder) | Due::Forget(holder, _)) = &due;
        if self.standing(holder) != Some(Standing::Leaving) {
            return;
        }
        match due {
            Due::Hide(holder) => {
                let end = self.lease_time(now) + delay;
                self.put(&holder, Standing::Visible { end, heard: false });
            }
            Due::Forget(holder, unix_ms) => self.hide(&holder, unix_ms, now, delay),
        }
    }

    /// Whether a sweep took the host out, and nobody has heard of it since.
    pub fn is_leaving(&self, holder: &Holder) -> bool {
        self.standing(holder) == Some(Standing::Leaving)
    }

    /// The host is forgotten.
    pub fn remove(&mut self, holder: &Holder) {
        self.change(holder, None);
    }

    fn hide(&mut self, holder: &Holder, unix_ms: u64, now: Duration, forget_after: Duration) {
        let end = self.lease_time(now) + forget_after;
        self.put(holder, Standing::Hidden { unix_ms, end });
    }

    fn lease_time(&self, now: Duration) -> Duration {
        now.saturating_sub(self.paused)
    }

    fn standing(&self, holder: &Holder) -> Option<Standing> {
        self.groups.get(holder.group.as_str())?.hosts.get(&holder.address).copied()
    }

    fn put(&mut self, holder: &Holder, standing: Standing) {
        self.change(holder, Some(standing));
    }

    /// The one place where a host's standing changes: what is sorted follows it.
    fn change(&mut self, holder: &Holder, standing: Option<Standing>) {
        let address = holder.address;
        let name = match self.groups.get_key_value(holder.group.as_str()) {
            Some((name, _)) => Arc::clone(name),
            None if standing.is_none() => return,
            None => Arc::from(holder.group.as_str()),
        };
        let group = self.groups.entry(Arc::clone(&name)).or_default();
        let before = match standing {
            Some(standing) => group.hosts.insert(address, standing),
            None => group.hosts.remove(&address),
        };
        match before {
            Some(Standing::Visible { end, .. }) => _ = group.by_end.remove(&(end, address)),
            Some(Standing::Hidden { end, .. }) => {
                self.by_forget.remove(&(end, Arc::clone(&name), address));
            }
            Some(Standing::Leaving) | None => {}
        }
        match standing {
            Some(Standing::Visible { end, .. }) => _ = group.by_end.insert((end, address)),
            Some(Standing::Hidden { end, .. }) => {
                self.by_forget.insert((end, Arc::clone(&name), address));
            }
            Some(Standing::Leaving) | None => {}
        }
        self.queue(&name);
    }

    /// Puts the group where it belongs in the queue, and drops it once it is empty.
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

    /// The time since the last sweep does not count: there was no quorum, nobody could renew.
    pub fn pause(&mut self, now: Duration) {
        self.paused += now.saturating_sub(self.swept);
        self.swept = now;
    }

    /// Takes out what is due. A sweep that is late itself (the process was stopped) first extends
    /// all leases by what it missed: their renewals were waiting in the sockets.
    ///
    /// Of a group at most a hundredth, or ten hosts, is hidden within a second: what looks like many
    /// deaths at once is more often a cut between them and us, and an index that empties at once
    /// would send everybody to the registry. Who is over that stays visible, and a keepalive renews
    /// it as if nothing had been. Forgetting has no such bound: nobody can see it.
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
            if let Some(Standing::Hidden { unix_ms, .. }) = self.standing(&holder) {
                due.push(Due::Forget(holder.clone(), unix_ms));
            }
            self.put(&holder, Standing::Leaving);
        }
        due
    }
}

#[cfg(test)]
mod tests;
