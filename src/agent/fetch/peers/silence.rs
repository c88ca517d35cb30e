//! Peers that did not answer a request: for a time they are asked after all others.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{PEER_SILENCE_DOUBLINGS_MAX, PEER_UNREACHABLE_TTL, TROUBLES_REMEMBERED_MAX};

/// The silences of at most [`TROUBLES_REMEMBERED_MAX`] peers.
#[derive(Debug, Default)]
pub(super) struct Silences {
    peers: Mutex<HashMap<SocketAddr, Silence>>,
}

/// How often a peer did not answer since its last answer.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// The peer counts as silent until then.
    until: Instant,
    times: u32,
}

impl Silences {
    /// Whether `peer` counts as silent now.
    pub(super) fn is_silent(&self, peer: &SocketAddr) -> bool {
        self.lock().get(peer).is_some_and(|silence| Instant::now() < silence.until)
    }

    /// Notes that `peer` did not answer. Returns how many silences followed each other.
    pub(super) fn stayed_silent(&self, peer: SocketAddr) -> u32 {
        let (now, mut peers) = (Instant::now(), self.lock());
        if peers.len() >= TROUBLES_REMEMBERED_MAX && !peers.contains_key(&peer) {
            let oldest = peers.iter().min_by_key(|(_, silence)| silence.until).map(|(peer, _)| *peer);
            oldest.map(|oldest| peers.remove(&oldest));
        }
        let silence = peers.entry(peer).or_insert(Silence { until: now, times: 0 });
        // Several requests at once see the same silence, which counts once.
        if silence.until <= now {
            let time: Duration =
                PEER_UNREACHABLE_TTL * 2_u32.pow(silence.times.min(PEER_SILENCE_DOUBLINGS_MAX));
            *silence = Silence { until: now + time, times: silence.times + 1 };
        }
        silence.times
    }

    /// Notes that `peer` answered: its silences are forgotten.
    pub(super) fn answered(&self, peer: SocketAddr) {
        self.lock().remove(&peer);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Silence>> {
        // A map of instants is whole after any panic.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    #[tokio::test(start_paused = true)]
    async fn several_requests_at_once_see_one_silence_and_an_answer_ends_it() {
        let silences = Silences::default();
        assert_eq!((silences.stayed_silent(peer(1)), silences.stayed_silent(peer(1))), (1, 1));
        assert!(silences.is_silent(&peer(1)) && !silences.is_silent(&peer(2)));
        tokio::time::advance(PEER_UNREACHABLE_TTL).await;
        assert!(!silences.is_silent(&peer(1)));
        assert_eq!(silences.stayed_silent(peer(1)), 2);
        silences.answered(peer(1));
        assert!(!silences.is_silent(&peer(1)));
        assert_eq!(silences.stayed_silent(peer(1)), 1, "forgotten by the answer");
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let silences = Silences::default();
        for number in 0..=u16::try_from(TROUBLES_REMEMBERED_MAX).unwrap() {
            silences.stayed_silent(peer(number));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(silences.lock().len(), TROUBLES_REMEMBERED_MAX);
        assert!(!silences.is_silent(&peer(0)), "the oldest is forgotten");
    }
}
