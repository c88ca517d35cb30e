//! The places of one listener's connections. Servers of the cluster, known by their address, have places of
//! their own ([`Known`]): however many clients come, forwards find one. All others share the rest.
//!
//! When those are taken, the connections that have waited longest for a request are closed: a client that
//! opens thousands of connections and sends nothing must not keep others out. A connection with a request in
//! flight is never closed for another one, nor one that nobody has looked at yet: its request may be there.
//! One address is given three quarters of them at most, unless it is this host's own.
//!
//! When every place has a request in flight, a few more connections are admitted beyond the limit. Each
//! gets one answer, soon, so that probes and refusals do not wait behind large transfers.

mod known;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use known::Known;

/// Of the connections that wait for a request, one in so many is closed at a time: looking through all
/// connections for each new one would cost too much CPU time.
const CLOSED_SHARE: usize = 64;
/// How often a full listener looks again for a connection to close.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often the log says that a listener is full.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// A request is in flight.
const BUSY: u64 = 0;
/// The answer is complete, and its last bytes are on their way to the socket.
const FINISHING: u64 = 1;
/// The connection was told to close.
const CLOSING: u64 = 2;
/// Nobody has looked at it yet: its request may be there.
const NEW: u64 = 3;
/// Every number from here on says since when the connection waits for a request, in milliseconds after
/// the listener's start.
const WAITING: u64 = 4;

/// How many places a listener has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlaceCounts {
    /// For anybody.
    pub(crate) anybody: usize,
    /// Beyond those.
    pub(crate) over_limit: usize,
    /// For addresses that are known, and for nobody else.
    pub(crate) known: usize,
}

/// All places of one listener.
#[derive(Debug)]
pub(crate) struct Places {
    counts: PlaceCounts,
    known: Known,
    start: Instant,
    table: Mutex<Table>,
    /// As in the table: to be read without it.
    open: AtomicUsize,
    /// A connection has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    open: HashMap<u64, Arc<Activity>>,
    /// Connections that are nobody's known, of each address.
    by_address: HashMap<IpAddr, Held>,
    all: Held,
    known: usize,
    warned: Option<Instant>,
}

/// Connections that are nobody's known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    open: usize,
    /// Of those, beyond the limit.
    over_limit: usize,
    /// Of the others, told to close: their places are free already, they end at once.
    closing: usize,
}

impl Held {
    fn regular(self) -> usize {
        self.open - self.over_limit - self.closing
    }

    /// Whether that is all that one address is given.
    fn has_enough(self, counts: PlaceCounts) -> bool {
        self.regular() >= address_share(counts.anybody).max(1)
    }
}

/// What one connection is doing.
#[derive(Debug)]
struct Activity {
    kind: Kind,
    address: IpAddr,
    state: AtomicU64,
    close: Notify,
}

/// The place of one connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Arc<Places>,
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
    /// Not at all: its address has enough.
    Never,
}

impl Places {
    pub(crate) fn new(counts: PlaceCounts, known: Known) -> Arc<Self> {
        Arc::new(Self {
            counts,
            known,
            start: Instant::now(),
            table: Mutex::default(),
            open: AtomicUsize::new(0),
            ended: Notify::new(),
        })
    }

    /// A place for a connection from `peer` that was just accepted; `None` if it is to be closed.
    pub(crate) async fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut has_waited = false;
        loop {
            let (admission, place) = self.try_take(peer);
            match admission {
                Admission::Admitted(_) => return place,
                Admission::Never => return None,
                // Somebody with a place of his own may come behind it.
                Admission::Later if has_waited && self.counts.known > 0 => return None,
                // A connection that begins to wait says nothing here, so look again after a while.
                Admission::Later => drop(tokio::time::timeout(LOOK_AGAIN, self.ended.notified()).await),
            }
            has_waited = true;
        }
    }

    fn try_take(self: &Arc<Self>, peer: IpAddr) -> (Admission, Option<Place>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let address = neighbourhood(peer);
        let admission = if self.known.has_places(peer) && table.known < self.counts.known {
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
        (admission, Some(Place { all: Arc::clone(self), id, activity }))
    }

    fn admit(&self, table: &mut Table, address: IpAddr) -> Admission {
        let mut all = table.all;
        let mut own = table.by_address.get(&address).copied().unwrap_or_default();
        let is_this_host = address.is_loopback();
        if is_this_host {
            // Everybody on it has the same address.
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

    /// Makes room although places are left: the process has no descriptors for them.
    pub(crate) fn close_longest_waiting(&self) {
        self.close_some(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner), None);
    }

    /// Of all that wait, or of those of one address. Those of the known are never closed for others.
    fn close_some(&self, table: &mut Table, of: Option<IpAddr>) {
        let waiting = table.open.iter().filter_map(|(id, one)| {
            let state = one.state.load(Ordering::Acquire);
            let is_meant = one.kind != Kind::Known && of.is_none_or(|of| of == one.address);
            (state >= WAITING && is_meant).then_some((state, *id))
        });
        let mut closed = 0;
        for (state, id) in longest_waiting(waiting.collect()) {
            let one = &table.open[&id];
            // A request may have begun meanwhile: then the connection stays.
            let replaced = one.state.compare_exchange(state, CLOSING, Ordering::AcqRel, Ordering::Acquire);
            if replaced.is_ok() {
                one.close.notify_one();
                closed += 1;
            }
        }
        let now = Instant::now();
        if table.warned.is_none_or(|warned| now - warned >= WARN_INTERVAL) {
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

    /// From here on connections are asked to end with their answer, so that some are left for new ones.
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

/// What one client has all addresses of: one of IPv4, and of IPv6 those of one link (/64).
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::from(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))
        }
        other => other,
    }
}

/// Of so many places, those that one address is given.
fn address_share(places: usize) -> usize {
    crowded_from(places)
}

/// Of so many places three quarters.
fn crowded_from(places: usize) -> usize {
    places - places / 4
}

/// Which of the `waiting` (since when, and the id of the connection) are closed for new ones.
fn longest_waiting(mut waiting: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let count = waiting.len().div_ceil(CLOSED_SHARE);
    if let Some(last) = count.checked_sub(1) {
        waiting.select_nth_unstable(last);
    }
    waiting.truncate(count);
    waiting
}

/// By what `all` and its `own` address have.
fn admission(all: Held, own: Held, counts: PlaceCounts) -> Admission {
    let PlaceCounts { anybody, over_limit, .. } = counts;
    let has_enough = own.has_enough(counts);
    if !has_enough && all.regular() < anybody {
        // Those that are closing have not ended yet.
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

impl Place {
    /// Whether the connection was admitted beyond the limit: it gets one answer.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.activity.kind == Kind::OverLimit
    }

    /// Whether the next answer is the last one of the connection.
    pub(super) fn is_to_end(&self) -> bool {
        match self.activity.kind {
            Kind::Known => false,
            Kind::Anybodys => self.all.is_crowded(),
            Kind::OverLimit => true,
        }
    }

    /// Somebody has looked: if it was new, its request is not there yet.
    pub(crate) fn looked_at(&self) {
        let waiting = self.all.waiting_from_now();
        // Anything else it has become stays.
        let _ = self.activity.state.compare_exchange(NEW, waiting, Ordering::AcqRel, Ordering::Acquire);
    }

    /// A request has come. False if the connection has to close instead, without an answer.
    #[must_use]
    pub(crate) fn begin(&self) -> bool {
        let begin = |state| (state != CLOSING).then_some(BUSY);
        self.activity.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, begin).is_ok()
    }

    /// The answer was read to its end.
    pub(super) fn answered(&self) {
        self.activity.state.store(FINISHING, Ordering::Release);
    }

    /// Everything that was written is with the kernel.
    pub(super) fn flushed(&self) {
        if self.activity.is(FINISHING) {
            self.activity.state.store(self.all.waiting_from_now(), Ordering::Release);
        }
    }

    /// Waits until this connection has to make room for another one.
    pub(crate) async fn must_close(&self) {
        self.activity.close.notified().await;
    }
}

impl Drop for Place {
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
