//! The slots for the connections of one listener. The other servers of the cluster, known by their addresses,
//! have slots of their own ([`KnownAddresses`]): however many clients come, forwarded requests find one. All
//! others share the rest.
//!
//! When those are taken, the connections that have waited longest for a request are closed: a client that
//! opens thousands of connections and sends nothing must not keep others out. A connection with a request in
//! flight is never closed for another one; nor is a new one that has not been polled yet, because its request
//! may have arrived. One address gets three quarters of the slots at most, unless it is this host's own.
//!
//! When every slot has a request in flight, a few more connections are admitted beyond the limit. Each gets
//! one answer, soon, so that probes and refusals do not wait behind large transfers.

mod known;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

pub use known::KnownAddresses;

use crate::limits::{
    FULL_LISTENER_LOOK_INTERVAL, FULL_LISTENER_WARN_INTERVAL, WAITING_CONNECTIONS_PER_CLOSED,
};

/// State of a connection: a request is in flight.
const BUSY: u64 = 0;
/// State of a connection: the answer is complete, and its last bytes are being written to the socket.
const FINISHING: u64 = 1;
/// State of a connection: it was told to close.
const CLOSING: u64 = 2;
/// State of a connection: it has not been polled yet, and its request may have arrived.
const NEW: u64 = 3;
/// From this number on, the state says since when the connection waits for a request: [`WAITING`] plus
/// milliseconds since the start of the listener.
const WAITING: u64 = 4;

/// How many slots a listener has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotCounts {
    /// Slots for connections from any address.
    pub(crate) anybody: usize,
    /// Slots beyond that limit.
    pub(crate) over_limit: usize,
    /// Slots for connections from known addresses only.
    pub(crate) known: usize,
}

/// All slots of one listener.
#[derive(Debug)]
pub(crate) struct Slots {
    counts: SlotCounts,
    known: KnownAddresses,
    start: Instant,
    table: Mutex<Table>,
    /// The number of open connections in the table, for reads without its lock.
    open: AtomicUsize,
    /// Notified when a connection ends.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    open: HashMap<u64, Arc<Activity>>,
    /// Connections of each address that is not known.
    by_address: HashMap<IpAddr, Held>,
    all: Held,
    known: usize,
    warned: Option<Instant>,
}

/// Numbers of connections from addresses that are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    open: usize,
    /// Open connections beyond the limit.
    over_limit: usize,
    /// Other open connections that were told to close: they end at once, and their slots count as free.
    closing: usize,
}

impl Held {
    fn regular(self) -> usize {
        self.open - self.over_limit - self.closing
    }

    /// Whether these are as many as one address may have.
    fn has_enough(self, counts: SlotCounts) -> bool {
        self.regular() >= address_share(counts.anybody).max(1)
    }
}

/// One connection, and what it is doing.
#[derive(Debug)]
struct Activity {
    kind: Kind,
    address: IpAddr,
    state: AtomicU64,
    close: Notify,
}

/// The slot of one connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    all: Arc<Slots>,
    id: u64,
    activity: Arc<Activity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Known,
    Anybodys,
    OverLimit,
}

/// Whether a new connection is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Admitted(Kind),
    /// Not before another connection has ended.
    Later,
    /// Never: its address has as many as it may have.
    Never,
}

impl Slots {
    pub(crate) fn new(counts: SlotCounts, known: KnownAddresses) -> Arc<Self> {
        Arc::new(Self {
            counts,
            known,
            start: Instant::now(),
            table: Mutex::default(),
            open: AtomicUsize::new(0),
            ended: Notify::new(),
        })
    }

    /// Takes a slot for a connection from `peer` that was just accepted; `None` if it must be closed.
    pub(crate) async fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Slot> {
        let mut has_waited = false;
        loop {
            let (admission, slot) = self.try_take(peer);
            match admission {
                Admission::Admitted(_) => return slot,
                Admission::Never => return None,
                // The next connection may be from a known address, which has a slot of its own.
                Admission::Later if has_waited && self.counts.known > 0 => return None,
                // A connection that begins to wait for a request notifies nobody: look again after a while.
                Admission::Later => {
                    drop(tokio::time::timeout(FULL_LISTENER_LOOK_INTERVAL, self.ended.notified()).await)
                }
            }
            has_waited = true;
        }
    }

    fn try_take(self: &Arc<Self>, peer: IpAddr) -> (Admission, Option<Slot>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let address = neighbourhood(peer);
        let admission = if self.known.has_slots(peer) && table.known < self.counts.known {
            Admission::Admitted(Kind::Known)
        } else {
            self.admit(&mut table, address)
        };
        let Admission::Admitted(kind) = admission else { return (admission, None) };
        let id = table.next_id;
        table.next_id += 1;
        let activity = Activity { kind, address, state: AtomicU64::new(NEW), close: Notify::new() };
        let activity = Arc::new(activity);
        table.open.insert(id, Arc::clone(&activity));
        table.count(kind, address, |count| *count += 1);
        self.open.store(table.all.open, Ordering::Relaxed);
        (admission, Some(Slot { all: Arc::clone(self), id, activity }))
    }

    fn admit(&self, table: &mut Table, address: IpAddr) -> Admission {
        let mut all = table.all;
        let mut own = table.by_address.get(&address).copied().unwrap_or_default();
        let is_this_host = address.is_loopback();
        if is_this_host {
            // All clients on this host have the same address.
            own = Held::default();
        }
        let has_enough = own.has_enough(self.counts);
        if all.regular() >= self.counts.anybody || has_enough {
            self.close_some(table, has_enough.then_some(address));
            for one in table.open.values().filter(|one| one.kind == Kind::Anybodys && one.is(CLOSING)) {
                all.closing += 1;
                own.closing += usize::from(one.address == address && !is_this_host);
            }
        }
        admission(all, own, self.counts)
    }

    /// Closes connections although slots are free: the process has no descriptors left.
    pub(crate) fn close_longest_waiting(&self) {
        self.close_some(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner), None);
    }

    /// Closes some of the connections that wait for a request, of all addresses or of one. Connections from
    /// known addresses are never closed for others.
    fn close_some(&self, table: &mut Table, of: Option<IpAddr>) {
        let waiting = table.open.iter().filter_map(|(id, one)| {
            let state = one.state.load(Ordering::Acquire);
            let is_meant = one.kind != Kind::Known && of.is_none_or(|of| of == one.address);
            (state >= WAITING && is_meant).then_some((state, *id))
        });
        let mut closed = 0;
        for (state, id) in longest_waiting(waiting.collect()) {
            let one = &table.open[&id];
            // A request may have come meanwhile: then the connection stays.
            let replaced = one.state.compare_exchange(state, CLOSING, Ordering::AcqRel, Ordering::Acquire);
            if replaced.is_ok() {
                one.close.notify_one();
                closed += 1;
            }
        }
        let now = Instant::now();
        if table.warned.is_none_or(|warned| now - warned >= FULL_LISTENER_WARN_INTERVAL) {
            table.warned = Some(now);
            let address = of.map(tracing::field::display);
            tracing::warn!(
                open = table.all.open,
                limit = self.counts.anybody,
                closed,
                address,
                "too many connections on one port: those that wait longest for a request are closed"
            );
        }
    }

    /// Whether connections must end with their next answer, so that slots are left for new ones.
    fn is_crowded(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= crowded_from(self.counts.anybody)
    }

    fn waiting_from_now(&self) -> u64 {
        WAITING + u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - WAITING)
    }
}

impl Table {
    fn count(&mut self, kind: Kind, address: IpAddr, change: impl Fn(&mut usize)) {
        if kind == Kind::Known {
            return change(&mut self.known);
        }
        let of_address = self.by_address.entry(address).or_default();
        for held in [&mut self.all, &mut *of_address] {
            change(&mut held.open);
            if kind == Kind::OverLimit {
                change(&mut held.over_limit);
            }
        }
        if of_address.open == 0 {
            self.by_address.remove(&address);
        }
    }
}

/// The addresses that one client may have: a single one of IPv4, and those of one link (/64) of IPv6.
pub(crate) fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::from(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))
        }
        other => other,
    }
}

/// How many of so many slots one address may have.
pub(crate) fn address_share(slots: usize) -> usize {
    crowded_from(slots)
}

/// Three quarters of so many slots.
fn crowded_from(slots: usize) -> usize {
    slots - slots / 4
}

/// Those of the `waiting` (since when, and id of the connection) that are closed for new ones.
fn longest_waiting(mut waiting: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let count = waiting.len().div_ceil(WAITING_CONNECTIONS_PER_CLOSED);
    if let Some(last) = count.checked_sub(1) {
        waiting.select_nth_unstable(last);
    }
    waiting.truncate(count);
    waiting
}

/// By what `all` and its `own` address have.
fn admission(all: Held, own: Held, counts: SlotCounts) -> Admission {
    let SlotCounts { anybody, over_limit, .. } = counts;
    let has_enough = own.has_enough(counts);
    if !has_enough && all.regular() < anybody {
        // Closing connections have not ended yet.
        let most = anybody + over_limit.max(usize::from(all.closing > 0));
        return if all.open < most { Admission::Admitted(Kind::Anybodys) } else { Admission::Later };
    }
    if over_limit > 0 && own.over_limit >= over_limit.div_ceil(4) {
        return Admission::Never;
    }
    if all.open < anybody + over_limit && all.over_limit < over_limit {
        return Admission::Admitted(Kind::OverLimit);
    }
    if has_enough { Admission::Never } else { Admission::Later }
}

impl Activity {
    fn is(&self, state: u64) -> bool {
        self.state.load(Ordering::Acquire) == state
    }
}

impl Slot {
    /// Whether the connection was admitted beyond the limit, and gets one answer.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.activity.kind == Kind::OverLimit
    }

    /// Whether the connection must end with its next answer.
    pub(super) fn is_to_end(&self) -> bool {
        match self.activity.kind {
            Kind::Known => false,
            Kind::Anybodys => self.all.is_crowded(),
            Kind::OverLimit => true,
        }
    }

    /// The connection was polled: if it was new, its request has not arrived yet.
    pub(crate) fn looked_at(&self) {
        let waiting = self.all.waiting_from_now();
        // Any other state stays.
        let _ = self.activity.state.compare_exchange(NEW, waiting, Ordering::AcqRel, Ordering::Acquire);
    }

    /// A request has come. False if the connection must close instead, without an answer.
    #[must_use]
    pub(crate) fn begin(&self) -> bool {
        let begin = |state| (state != CLOSING).then_some(BUSY);
        self.activity.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, begin).is_ok()
    }

    /// The body of the answer was read to its end.
    pub(super) fn answered(&self) {
        self.activity.state.store(FINISHING, Ordering::Release);
    }

    /// All written bytes were handed to the kernel.
    pub(super) fn flushed(&self) {
        if self.activity.is(FINISHING) {
            self.activity.state.store(self.all.waiting_from_now(), Ordering::Release);
        }
    }

    /// Waits until this connection must make room for another one.
    pub(crate) async fn must_close(&self) {
        self.activity.close.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.all.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.open.remove(&self.id);
        let Activity { kind, address, .. } = *self.activity;
        table.count(kind, address, |count| *count -= 1);
        self.all.open.store(table.all.open, Ordering::Relaxed);
        drop(table);
        self.all.ended.notify_one();
    }
}

#[cfg(test)]
mod tests;
