//! What a server lists of flights while nodes pull.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use piccolo::api::flight::FlightList;
use piccolo::api::path::FLIGHTS;

use super::side::Seen;
use crate::client::fetch;
use crate::net::Network;

const INTERVAL: Duration = Duration::from_millis(200);

/// Does `job`, and meanwhile asks the server at `api` in `network` for its flights.
pub(super) fn watched<T>(network: &Network, api: SocketAddr, job: impl FnOnce() -> T) -> Result<(T, Seen)> {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| network.run(|| watch(api, &is_done)));
        let result = job();
        is_done.store(true, Ordering::Relaxed);
        let seen = watcher.join().map_err(|_| anyhow!("a thread panicked"))?;
        Ok((result, seen?))
    })
}

fn watch(api: SocketAddr, is_done: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    while !is_done.load(Ordering::Relaxed) {
        if let Some((200, body)) = fetch(api, FLIGHTS) {
            seen.add(&serde_json::from_slice(&body).context("could not understand a list of flights")?);
        }
        thread::sleep(INTERVAL);
    }
    Ok(seen)
}

impl Seen {
    fn add(&mut self, list: &FlightList) {
        for flight in &list.flights {
            self.depth = self.depth.max(flight.depth.into());
            self.copies = self.copies.max(flight.copies);
        }
    }
}

#[cfg(test)]
mod tests {
    use piccolo::api::flight::FlightStatus;

    use super::*;

    #[test]
    fn the_highest_figures_of_all_lists_stay() {
        let flight = |depth, copies| FlightStatus {
            group: "default".to_owned(),
            key: "sha256:1".to_owned(),
            nodes: 8,
            depth,
            copies,
            fetcher: None,
        };
        let mut seen = Seen::default();
        for flights in [vec![flight(2, 1), flight(7, 1)], vec![flight(1, 2)], vec![]] {
            seen.add(&FlightList { flights, ..FlightList::default() });
        }
        assert_eq!(seen, Seen { depth: 7, copies: 2 });
    }
}
