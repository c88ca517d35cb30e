//! The flights that this node has a part in.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::children::Applicant;
use super::growing::Growing;
use super::header::Known;
use super::running::{ChildEnd, Flight, Role};
use super::yields::Yields;
use crate::agent::address::own::OwnAddress;
use crate::limits::{FLIGHT_LINGER, FLIGHTS_RUNNING_MAX};
use crate::oci::Digest;

/// All flights of this node.
#[derive(Debug)]
pub(crate) struct Flights {
    own: OwnAddress,
    zone: String,
    flights: Mutex<HashMap<Digest, Arc<Flight>>>,
    yields: Mutex<Yields>,
    begun: Instant,
    /// Number of the next transfer. It grows also when this agent starts again, unless the clock goes back.
    next_transfer: AtomicU64,
    /// Signals that there is a flight, or that one has ended.
    news: Notify,
    /// Signals that the servers are to learn at once that bytes are wrong.
    accusations: Notify,
}

/// A request that receives a blob. When it is dropped before all bytes have come, nothing comes here any more, and the
/// children find another source.
#[derive(Debug)]
pub(crate) struct Reception {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
}

impl Flights {
    /// No flights, on the node at `own` in `zone`, which is empty if it has none.
    pub(crate) fn new(own: OwnAddress, zone: String) -> Self {
        let (flights, yields) = (Mutex::default(), Mutex::default());
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let next_transfer = AtomicU64::new(u64::try_from(since_epoch.as_micros()).unwrap_or_default());
        let (news, accusations) = (Notify::new(), Notify::new());
        Self { own, zone, flights, yields, begun: Instant::now(), next_transfer, news, accusations }
    }

    /// The address of this node, if it is known.
    pub(crate) fn own(&self) -> Option<SocketAddr> {
        self.own.now()
    }

    /// The zone of this node; empty if it has none.
    pub(crate) fn zone(&self) -> &str {
        &self.zone
    }

    /// Begins to receive a blob of `total` bytes, which containerd writes to `ingest`. `None`: another request
    /// receives it, or there are [`FLIGHTS_RUNNING_MAX`] flights.
    pub(crate) fn receive(self: &Arc<Self>, digest: &Digest, total: u64, ingest: File) -> Option<Reception> {
        let mut flights = self.lock();
        let known = flights.get(digest).filter(|flight| flight.growing().total() == total).cloned();
        let flight = match known {
            Some(flight) => match flight.role() {
                Role::Seeks { .. } | Role::Receives { .. } => return None,
                Role::Fetches { .. } | Role::Late { .. } | Role::Holds | Role::Idle => {
                    flight.begins_anew(ingest);
                    flight.becomes(Role::Seeks { asks: None }, 0);
                    flight
                }
            },
            None if !has_room(&mut flights) => return None,
            None => {
                let growing = Growing::new(total, Some(ingest));
                let flight = Arc::new(Flight::new(digest.clone(), growing, Role::Seeks { asks: None }));
                flights.insert(digest.clone(), Arc::clone(&flight));
                flight
            }
        };
        flight.begins(self.next_transfer.fetch_add(1, Ordering::Relaxed));
        drop(flights);
        self.news.notify_one();
        Some(Reception { flights: Arc::clone(self), flight })
    }

    /// The flight of `digest`, if this node has a part in it.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<Flight>> {
        self.lock().get(digest).cloned()
    }

    /// The flight of a blob that this node holds, for the nodes that receive it from here. `None`: there are
    /// [`FLIGHTS_RUNNING_MAX`] others.
    pub(crate) fn of_held(&self, digest: &Digest, total: u64) -> Option<Arc<Flight>> {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(digest) {
            flight.is_held();
            return Some(Arc::clone(flight));
        }
        if !has_room(&mut flights) {
            return None;
        }
        let flight = Arc::new(Flight::new(digest.clone(), Growing::new(total, None), Role::Holds));
        flight.is_held();
        flights.insert(digest.clone(), Arc::clone(&flight));
        self.news.notify_one();
        Some(flight)
    }

    /// All flights.
    pub(crate) fn all(&self) -> Vec<Arc<Flight>> {
        self.lock().values().cloned().collect()
    }

    /// Whether this node has a part in any flight.
    pub(crate) fn is_any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Whether content is arriving here that other nodes can have meanwhile.
    pub(crate) fn are_running(&self) -> bool {
        self.lock().values().any(|flight| flight.is_registered() && flight.is_arriving())
    }

    /// The blobs, but for `digest`, that this node fetches from a registry and has not had a byte of yet.
    pub(crate) fn owed(&self, digest: &Digest) -> Vec<Digest> {
        let flights = self.lock();
        let owed = flights.values().filter(|flight| flight.digest() != digest && flight.is_owed());
        owed.map(|flight| flight.digest().clone()).collect()
    }

    /// Notes that the daemon of this node's store has ended, or cannot be reached.
    pub(crate) fn store_is_lost(&self) {
        self.all().iter().for_each(|flight| flight.store_is_lost());
    }

    /// Gives up room that is only taken for nodes which may still ask for small blobs.
    pub(crate) fn release_room(&self) {
        self.all().iter().for_each(|flight| flight.release_room());
    }

    /// The blobs, but for `digest`, that this node fetches from a registry and of which nothing comes now, with the
    /// bytes that have come.
    fn standing(&self, digest: &Digest) -> Vec<(Digest, u64)> {
        let flights = self.lock();
        let others = flights.values().filter(|flight| flight.digest() != digest);
        others.filter_map(|flight| Some((flight.digest().clone(), flight.stands_at()?))).collect()
    }

    /// Removes the flights that have not been of use for [`FLIGHT_LINGER`].
    pub(super) fn remove_unused(&self) {
        self.lock().retain(|_, flight| flight.unused_for() < FLIGHT_LINGER);
    }

    /// Notes that the bytes of `flight` here are wrong, and waits until the owner of the key has ended their attempt:
    /// before that, the children would find nothing else.
    pub(crate) async fn accuse(&self, flight: &Flight) {
        tracing::warn!(digest = %flight.digest(), "the bytes of a blob that is arriving are wrong");
        ::metrics::counter!("piccolo_flight_events_total", "event" => "wrong").increment(1);
        flight.accuse();
        self.news.notify_one();
        self.accusations.notify_one();
        flight.until_accused().await;
    }

    /// Waits until the servers are to learn that bytes are wrong.
    pub(super) async fn accusation(&self) {
        self.accusations.notified().await;
    }

    /// Waits until there may be a flight that was not there before.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    fn yields(&self) -> MutexGuard<'_, Yields> {
        self.yields.lock().expect("no code panics while it holds this lock")
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Flight>>> {
        self.flights.lock().expect("no code panics while it holds this lock")
    }
}

/// Whether there is room for a further flight. Those that are only remembered give way.
fn has_room(flights: &mut HashMap<Digest, Arc<Flight>>) -> bool {
    if flights.len() >= FLIGHTS_RUNNING_MAX {
        flights.retain(|_, flight| !flight.is_only_remembered());
    }
    flights.len() < FLIGHTS_RUNNING_MAX
}

impl Reception {
    /// The flight.
    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Notes that a server knows this node as a part of the flight.
    pub(crate) fn register(&self) {
        self.flight.register();
    }

    /// What this node says of itself that asks another one for the blob, of which it has `have_bytes`, and whether it
    /// comes because its former source was slow. `None`: its address is not known any more.
    pub(crate) fn applicant(&self, have_bytes: u64, has_left_slow: bool) -> Option<Applicant> {
        let (zone, has_children) = (self.flights.zone.clone(), self.flight.has_children());
        // Its children have had all that it ever had, also where a pull began again: it must not come behind them.
        let have_bytes = if has_children { have_bytes.max(self.flight.most_bytes()) } else { have_bytes };
        Some(Applicant { address: self.flights.own()?, zone, have_bytes, has_children, has_left_slow })
    }

    /// How many other blobs this node fetches from a registry and has not had a byte of yet.
    pub(crate) fn owes(&self) -> u32 {
        u32::try_from(self.flights.owed(self.flight.digest()).len()).unwrap_or(u32::MAX)
    }

    /// Whether a request that has passed on the bytes before `start` gives its turn in containerd's queue away to a fetch
    /// of which nothing comes.
    pub(crate) fn yields(&self, start: u64) -> bool {
        let digest = self.flight.digest();
        let standing = self.flights.standing(digest);
        self.flights.yields().yields(digest, start, &standing, self.flights.begun.elapsed())
    }

    /// Notes that the request ends, and that another one comes in its place: the children wait.
    pub(crate) fn pauses(&self) {
        self.flight.becomes(Role::Idle, self.flight.depth());
    }

    /// Notes that containerd fetches the blob from the registry.
    pub(crate) fn fetches(&self) {
        let begun_at = self.flight.growing().ingested_bytes();
        self.flight.becomes(Role::Fetches { begun_at }, 0);
        self.flights.news.notify_one();
    }

    /// Notes that every node fetches the blob from the registry: the children do not wait for this one.
    pub(crate) fn fetches_like_all(&self) {
        self.fetches();
        self.flight.end_children(ChildEnd::Lost);
    }

    /// The attempt of which this node has `have_bytes`, as the servers learn it.
    pub(crate) fn attempt(&self, have_bytes: u64) -> Option<u64> {
        // Bytes that are not forgotten need the rest in any case.
        self.flight.entered().filter(|_| have_bytes == 0 || !self.flight.keeps_bytes())
    }

    /// What this node knows of the flight, for a node that it asks.
    pub(crate) fn known(&self) -> Known {
        Known { came: self.flight.came(), attempt: self.flight.attempt() }
    }

    /// Notes that all bytes have come, and whether all that containerd has of them are known to be right.
    pub(crate) fn is_whole(&self, is_verified: bool) {
        if is_verified {
            self.flight.growing().is_right();
        }
        self.flight.becomes(Role::Holds, self.flight.depth());
        self.flights.yields().forget(self.flight.digest());
    }

    /// Notes that the bytes that have come are wrong, tells the owner of the key, and forgets them. The children learn it.
    pub(crate) async fn is_wrong(&self) {
        self.flights.accuse(&self.flight).await;
        self.leaves_attempt();
    }

    /// Forgets the bytes, which are of an attempt that has ended. The children learn it.
    pub(crate) fn leaves_attempt(&self) {
        self.flight.leave_attempt();
        self.flight.becomes(Role::Seeks { asks: None }, 0);
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        if matches!(self.flight.role(), Role::Seeks { .. } | Role::Receives { .. }) {
            self.flight.end_children(ChildEnd::Lost);
            self.flight.becomes(Role::Idle, 0);
            self.flight.growing().forget_spool();
            self.flights.news.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::flight::running::Answer;
    use crate::limits::FETCH_STANDS_AFTER;
    use std::time::Duration;

    fn flights() -> Arc<Flights> {
        Arc::new(Flights::new(OwnAddress::from(SocketAddr::from(([10, 0, 0, 1], 1))), "a".to_owned()))
    }

    fn file() -> File {
        tempfile::tempfile().unwrap()
    }

    #[tokio::test]
    async fn one_request_receives_a_blob_and_the_next_one_when_that_has_ended() {
        let (flights, digest) = (flights(), Digest::of(b"x"));
        let reception = flights.receive(&digest, 10, file()).unwrap();
        assert!(flights.receive(&digest, 10, file()).is_none());
        drop(reception);
        assert_eq!(flights.get(&digest).unwrap().role(), Role::Idle);
        let reception = flights.receive(&digest, 10, file()).unwrap();
        reception.is_whole(true);
        drop(reception);
        assert_eq!(flights.get(&digest).unwrap().role(), Role::Holds);
    }

    #[tokio::test]
    async fn what_is_owed_is_what_has_not_grown_since_it_was_claimed() {
        let flights = flights();
        let [first, second] = [b"1", b"2"].map(|bytes| Digest::of(bytes));
        let named = tempfile::NamedTempFile::new().unwrap();
        let reception = flights.receive(&first, 10, named.reopen().unwrap()).unwrap();
        assert!(flights.owed(&second).is_empty());
        reception.fetches();
        drop(reception);
        assert_eq!((flights.owed(&second), flights.owed(&first)), (vec![first.clone()], vec![]));
        std::fs::write(named.path(), b"01").unwrap();
        assert!(flights.owed(&second).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_stands_before_its_first_byte_and_when_no_more_come() {
        let flights = flights();
        let [first, second] = [b"1", b"2"].map(|bytes| Digest::of(bytes));
        let named = tempfile::NamedTempFile::new().unwrap();
        let reception = flights.receive(&first, 10, named.reopen().unwrap()).unwrap();
        assert!(flights.standing(&second).is_empty(), "it receives");
        reception.fetches();
        assert_eq!((flights.standing(&second), flights.standing(&first)), (vec![(first.clone(), 0)], vec![]));
        for length in 1..3 {
            std::fs::write(named.path(), &b"01"[..length]).unwrap();
            assert!(flights.standing(&second).is_empty());
            tokio::time::advance(FETCH_STANDS_AFTER).await;
            assert_eq!(flights.standing(&second), [(first.clone(), length as u64)]);
        }
    }

    #[tokio::test]
    async fn the_children_of_a_fetcher_stay_unless_every_node_fetches() {
        let (flights, named) = (flights(), tempfile::NamedTempFile::new().unwrap());
        let reception = flights.receive(&Digest::of(b"x"), 10, named.reopen().unwrap()).unwrap();
        reception.fetches();
        let address = SocketAddr::from(([10, 0, 0, 2], 1));
        let applicant = Applicant {
            address,
            zone: String::new(),
            have_bytes: 0,
            has_children: false,
            has_left_slow: false,
        };
        let Answer::Admitted(child) = reception.flight().apply(&applicant, Known::default()) else {
            panic!("no child")
        };
        assert_eq!(child.end(), None);
        reception.fetches_like_all();
        assert_eq!(child.end(), Some(ChildEnd::Lost));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_that_nobody_uses_is_forgotten_after_a_while() {
        let (flights, digest) = (flights(), Digest::of(b"x"));
        drop(flights.receive(&digest, 10, file()));
        flights.remove_unused();
        assert!(flights.is_any());
        tokio::time::advance(FLIGHT_LINGER + Duration::from_millis(1)).await;
        flights.remove_unused();
        assert!(!flights.is_any());
    }
}
