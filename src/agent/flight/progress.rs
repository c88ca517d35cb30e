//! Tells the servers how far this node is in its flights: each second of what it fetches from a registry, from time to
//! time of what it receives, and once when it gives up. Of a short flight that goes well they hear nothing but its
//! question.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use piccolo_raft::errors::chain;
use tokio::time::Instant;

use super::running::{ChildEnd, Flight, Role};
use super::table::Flights;
use crate::api::client::{Client, ClientError};
use crate::api::flight::{FlightProgress, FlightState, FlightsRequest, FlightsResponse};
use crate::limits::{
    CLAIM_PROGRESS_INTERVAL, FLIGHT_FIRST_SAID_AFTER, FLIGHT_PROGRESS_TIMEOUT, FLIGHT_RENEWAL_INTERVAL,
};
use crate::oci::Digest;
use crate::task::Stop;

/// Takes what a node says of its flights. A trait, so that tests can take the place of the servers.
pub(crate) trait ProgressSink: Send + Sync + 'static {
    /// Says it to a server.
    fn say<'a>(&'a self, said: &'a FlightsRequest) -> BoxFuture<'a, Result<FlightsResponse, ClientError>>;
}

impl ProgressSink for Client {
    fn say<'a>(&'a self, said: &'a FlightsRequest) -> BoxFuture<'a, Result<FlightsResponse, ClientError>> {
        Box::pin(self.flights(said, FLIGHT_PROGRESS_TIMEOUT))
    }
}

/// The task that tells the servers.
pub(crate) struct Progress {
    flights: Arc<Flights>,
    servers: Arc<dyn ProgressSink>,
    group: String,
    /// When each flight in which this node receives was said.
    renewed: HashMap<Digest, Instant>,
}

impl Progress {
    /// Tells `servers` of the `flights` of a node in `group`.
    pub(crate) fn new(flights: Arc<Flights>, servers: Arc<dyn ProgressSink>, group: String) -> Self {
        Self { flights, servers, group, renewed: HashMap::new() }
    }

    /// Tells them until `stop`. While there is no flight, nothing is done.
    pub(crate) async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        while stop.run_until_cancelled(self.flights.news()).await.is_some() {
            while self.flights.is_any() {
                let turn = async {
                    self.tell().await;
                    // An error: none has come in time.
                    _ = tokio::time::timeout(CLAIM_PROGRESS_INTERVAL, self.flights.accusation()).await;
                };
                if stop.run_until_cancelled(turn).await.is_none() {
                    return Ok(());
                }
            }
            self.renewed.clear();
        }
        Ok(())
    }

    /// Looks at all flights, and tells what is to be told now.
    async fn tell(&mut self) {
        for flight in self.flights.all() {
            flight.look();
        }
        ::metrics::gauge!("piccolo_flights").set(self.flights.all().len() as f64);
        self.flights.remove_unused();
        let (accused, others): (Vec<_>, Vec<_>) =
            self.flights.all().into_iter().partition(|flight| flight.accused().is_some());
        let wrong = |flight: &Arc<Flight>| FlightProgress {
            wrong_attempt: flight.accused(),
            keeps_bytes: flight.keeps_bytes(),
            ..progress(flight, FlightState::Ended, flight.transfer())
        };
        let mut said: Vec<_> = accused.iter().map(wrong).collect();
        // One that has all is of use to others until the servers forget it.
        for flight in &others {
            if let Some(transfer) = flight.has_ended() {
                said.push(progress(flight, FlightState::Ended, transfer));
            }
        }
        for flight in others.iter().filter(|flight| flight.is_registered()) {
            said.extend(self.due(flight));
        }
        self.renewed.retain(|digest, _| self.flights.get(digest).is_some());
        if let Some(own) = self.flights.own().filter(|_| !said.is_empty()) {
            self.say(FlightsRequest { host: own.to_string(), group: self.group.clone(), flights: said })
                .await;
        }
        // Without an answer, too: their children cannot wait for ever.
        accused.iter().for_each(|flight| flight.was_accused());
    }

    async fn say(&self, request: FlightsRequest) {
        match self.servers.say(&request).await {
            Ok(FlightsResponse { passed_on }) => passed_on.iter().for_each(|key| self.passed_on(key)),
            Err(error) => tracing::debug!(error = chain(&error), "no server learned of this node's flights"),
        }
    }

    /// What is said of a flight now, if anything is.
    fn due(&mut self, flight: &Flight) -> Option<FlightProgress> {
        // Before the role: what is said of a transfer that has just begun would end the one before it.
        let transfer = flight.transfer();
        let state = match flight.role() {
            Role::Fetches { .. } => FlightState::Fetches,
            Role::Seeks { .. } | Role::Receives { .. } | Role::Holds => FlightState::Receives,
            Role::Late { .. } | Role::Idle => return None,
        };
        let is_due = match self.renewed.get(flight.digest()) {
            // A server learned of it when this node asked.
            None => flight.age() >= FLIGHT_FIRST_SAID_AFTER,
            Some(last) => last.elapsed() >= FLIGHT_RENEWAL_INTERVAL,
        };
        if state == FlightState::Receives && !is_due {
            return None;
        }
        self.renewed.insert(flight.digest().clone(), Instant::now());
        Some(progress(flight, state, transfer))
    }

    /// Another node fetches `key` now, because nothing has come here for too long.
    fn passed_on(&self, key: &str) {
        let flight = key.parse().ok().and_then(|digest| self.flights.get(&digest));
        let Some(flight) = flight.filter(|flight| matches!(flight.role(), Role::Fetches { .. })) else {
            return;
        };
        tracing::info!(digest = %flight.digest(), "another node fetches this blob from the registry now");
        ::metrics::counter!("piccolo_flight_events_total", "event" => "passed_on").increment(1);
        // The registry may only be slow: with its first byte this node says so.
        match flight.role() {
            Role::Fetches { begun_at } if flight.is_owed() => flight.becomes(Role::Late { begun_at }, 0),
            _ => flight.becomes(Role::Idle, 0),
        }
        flight.end_children(ChildEnd::Lost);
    }
}

fn progress(flight: &Flight, state: FlightState, transfer: u64) -> FlightProgress {
    FlightProgress {
        key: flight.digest().to_string(),
        state,
        have: flight.claimed_bytes(),
        transfer,
        depth: flight.depth(),
        wrong_attempt: None,
        keeps_bytes: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::address::own::OwnAddress;
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::time::Duration;
    use tokio_util::task::TaskTracker;

    /// Servers that note what they are told, and that have passed on the claims on these keys.
    #[derive(Default)]
    struct Told {
        said: Mutex<Vec<(FlightState, u64)>>,
        passed_on: Mutex<Vec<String>>,
        wrong: Mutex<Vec<u64>>,
    }

    impl ProgressSink for Told {
        fn say<'a>(
            &'a self,
            said: &'a FlightsRequest,
        ) -> BoxFuture<'a, Result<FlightsResponse, ClientError>> {
            self.wrong.lock().unwrap().extend(said.flights.iter().filter_map(|flight| flight.wrong_attempt));
            let said = said.flights.iter().map(|flight| (flight.state, flight.have));
            self.said.lock().unwrap().extend(said);
            let passed_on = self.passed_on.lock().unwrap().clone();
            Box::pin(std::future::ready(Ok(FlightsResponse { passed_on })))
        }
    }

    struct Running {
        flights: Arc<Flights>,
        told: Arc<Told>,
        stop: Stop,
    }

    impl Running {
        fn start() -> Self {
            let own = OwnAddress::from(SocketAddr::from(([10, 0, 0, 1], 1)));
            let flights = Arc::new(Flights::new(own, String::new()));
            let (told, stop) = (Arc::<Told>::default(), Stop::new());
            let sink = Arc::clone(&told) as Arc<dyn ProgressSink>;
            let progress = Progress::new(Arc::clone(&flights), sink, "g".to_owned());
            TaskTracker::new().spawn(progress.run(stop.clone()));
            Self { flights, told, stop }
        }

        async fn seconds(&self, seconds: u64) -> Vec<(FlightState, u64)> {
            tokio::time::sleep(Duration::from_secs(seconds) + Duration::from_millis(1)).await;
            std::mem::take(&mut *self.told.said.lock().unwrap())
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetcher_speaks_each_second_and_one_that_has_all_now_and_then() {
        let running = Running::start();
        let file = tempfile::NamedTempFile::new().unwrap();
        let reception = running.flights.receive(&Digest::of(b"x"), 3, file.reopen().unwrap()).unwrap();
        reception.register();
        reception.fetches();
        drop(reception);
        assert_eq!(running.seconds(2).await, [(FlightState::Fetches, 0); 3]);
        std::fs::write(file.path(), b"012").unwrap();
        assert_eq!(running.seconds(10).await, [], "it has all: others may still receive it");
        running.seconds(5).await;
        assert!(!running.flights.is_any(), "forgotten after a while");
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_speaks_after_a_while_and_when_it_gives_up() {
        let running = Running::start();
        let file = tempfile::NamedTempFile::new().unwrap();
        let reception = running.flights.receive(&Digest::of(b"x"), 3, file.reopen().unwrap()).unwrap();
        reception.register();
        assert_eq!(running.seconds(4).await, []);
        assert_eq!(running.seconds(20).await, [(FlightState::Receives, 0)]);
        drop(reception);
        assert_eq!(running.seconds(3).await, [(FlightState::Ended, 0)]);
    }

    /// What broke: a request that began again between two messages was said to have ended.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_transfer_names_it_and_is_not_said_once_the_next_one_has_begun() {
        let (flights, digest) = (Running::start().flights.clone(), Digest::of(b"x"));
        let receive = || flights.receive(&digest, 3, tempfile::tempfile().unwrap()).unwrap();
        let first = receive();
        first.register();
        let (flight, number) = (Arc::clone(first.flight()), first.flight().transfer());
        drop(first);
        let second = receive();
        second.register();
        assert!(flight.transfer() > number);
        assert_eq!(flight.has_ended(), None);
        let number = flight.transfer();
        drop(second);
        assert_eq!((flight.has_ended(), flight.has_ended()), (Some(number), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_has_passed_on_is_given_up_and_its_children_with_it() {
        let running = Running::start();
        let digest = Digest::of(b"x");
        let file = tempfile::NamedTempFile::new().unwrap();
        let reception = running.flights.receive(&digest, 3, file.reopen().unwrap()).unwrap();
        reception.register();
        reception.fetches();
        drop(reception);
        running.told.passed_on.lock().unwrap().push(digest.to_string());
        running.seconds(1).await;
        assert_eq!(running.flights.get(&digest).unwrap().role(), Role::Late { begun_at: 0 });
        assert_eq!(running.seconds(5).await, [], "it fetches for nobody");
        running.told.passed_on.lock().unwrap().clear();
        std::fs::write(file.path(), b"0").unwrap();
        assert_eq!(running.seconds(1).await, [(FlightState::Fetches, 1)], "the registry was only slow");
        running.told.passed_on.lock().unwrap().push(digest.to_string());
        running.seconds(1).await;
        assert_eq!(running.flights.get(&digest).unwrap().role(), Role::Idle, "another node is further");
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_bytes_are_said_at_once_and_only_once() {
        let running = Running::start();
        let file = tempfile::NamedTempFile::new().unwrap();
        let reception = running.flights.receive(&Digest::of(b"x"), 3, file.reopen().unwrap()).unwrap();
        reception.register();
        reception.fetches();
        running.seconds(1).await;
        let begun = Instant::now();
        running.flights.accuse(reception.flight()).await;
        assert!(begun.elapsed() < CLAIM_PROGRESS_INTERVAL / 2, "{:?}", begun.elapsed());
        assert_eq!(*running.told.wrong.lock().unwrap(), [0]);
        assert_eq!(running.seconds(30).await, [(FlightState::Ended, 0)], "it fetches no more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_servers_do_not_know_of_is_not_said() {
        let running = Running::start();
        let file = tempfile::NamedTempFile::new().unwrap();
        drop(running.flights.receive(&Digest::of(b"x"), 3, file.reopen().unwrap()));
        assert!(running.seconds(30).await.is_empty());
    }
}
