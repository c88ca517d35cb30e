//! Distance of a server: its measured round trip, and the timeouts that follow from it. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::{
    API_ATTEMPT_TIMEOUT_MIN, FAR_ROUND_TRIP, LOOKUP_CONCLUSIVE_MIN, LOOKUP_TIMEOUT_FAR_MAX,
    LOOKUP_TIMEOUT_MAX, LOOKUP_TIMEOUT_UNMEASURED, ROUND_TRIP_SAMPLES,
};

/// Half round trips of one request on a new connection: two for the connection, four for a later TLS
/// handshake, two for the request, and one spare.
const NEW_CONNECTION_HALF_TRIPS: u32 = 9;
/// Half round trips of one request on a new connection without TLS, as it is today.
const CONCLUSIVE_HALF_TRIPS: u32 = 5;

/// Round trip to one server.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundTrip {
    samples: VecDeque<Duration>,
}

impl RoundTrip {
    /// Records that a small request on an open connection was answered after this time.
    pub(super) fn answered(&mut self, took: Duration) {
        if self.samples.len() == ROUND_TRIP_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(took);
    }

    /// Records a lookup without an answer in time. The server may have moved away, so that earlier samples
    /// are dropped.
    pub(super) fn missed(&mut self) {
        self.samples.clear();
    }

    /// The measured round trip; `None` while it is unknown.
    pub(super) fn measured(&self) -> Option<Duration> {
        self.samples.iter().min().copied()
    }
}

/// Timeouts that follow from a measured round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// Longest time of one lookup.
    pub(crate) lookup: Duration,
    /// Shortest time after which an unanswered lookup counts as evidence against the servers.
    pub(crate) conclusive: Duration,
    /// True if the round trip is so long that a connection is kept.
    pub(crate) far: bool,
}

impl Timeouts {
    /// Timeouts for servers at this distance; `None`: it is not known.
    pub(crate) fn of(round_trip: Option<Duration>) -> Self {
        let Some(trip) = round_trip else {
            let lookup = LOOKUP_TIMEOUT_UNMEASURED;
            return Self { lookup, conclusive: LOOKUP_CONCLUSIVE_MIN, far: false };
        };
        Self {
            lookup: half_trips(trip, NEW_CONNECTION_HALF_TRIPS)
                .clamp(LOOKUP_TIMEOUT_MAX, LOOKUP_TIMEOUT_FAR_MAX),
            conclusive: half_trips(trip, CONCLUSIVE_HALF_TRIPS).max(LOOKUP_CONCLUSIVE_MIN),
            far: trip > FAR_ROUND_TRIP,
        }
    }
}

/// Shortest share of a call's deadline for one server.
pub(super) fn attempt_min(round_trip: Option<Duration>) -> Duration {
    let trip = round_trip.unwrap_or_default();
    half_trips(trip, NEW_CONNECTION_HALF_TRIPS).max(API_ATTEMPT_TIMEOUT_MIN)
}

fn half_trips(trip: Duration, count: u32) -> Duration {
    trip.saturating_mul(count) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_round_trip_is_the_shortest_of_the_last_answers() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.measured(), None);
        let samples = [(300, 300), (170, 170), (900, 170), (180, 170), (175, 170), (181, 175), (182, 175)];
        for (sample, expected) in samples {
            trip.answered(ms(sample));
            assert_eq!(trip.measured(), Some(ms(expected)), "after {sample} ms");
        }
        trip.missed();
        assert_eq!(trip.measured(), None, "nothing is known of a server that did not answer");
        trip.answered(ms(400));
        assert_eq!(trip.measured(), Some(ms(400)), "it may have moved away");
    }

    #[test]
    fn time_outs_follow_the_round_trip_within_their_limits() {
        // Round trip, then the expected lookup, conclusive and far.
        let cases = [
            (0, 1_000, 250, false),
            (50, 1_000, 250, false),
            (51, 1_000, 250, true),
            (170, 1_000, 425, true),
            (300, 1_350, 750, true),
            (450, 2_025, 1_125, true),
            (500, 2_200, 1_250, true),
            (9_000, 2_200, 22_500, true),
        ];
        for (trip, lookup, conclusive, far) in cases {
            let expected = Timeouts { lookup: ms(lookup), conclusive: ms(conclusive), far };
            assert_eq!(Timeouts::of(Some(ms(trip))), expected, "{trip} ms");
        }
        assert!(Timeouts::of(None).lookup > 2 * ms(500), "the first lookup reaches a server 500 ms away");
        assert!(!Timeouts::of(None).far);
    }

    /// I4: one silent lookup is enough evidence, at each supported distance.
    #[test]
    fn a_silent_lookup_of_full_length_is_conclusive_up_to_500_ms_of_round_trip() {
        for trip in (0..=500).step_by(10) {
            let Timeouts { lookup, conclusive, .. } = Timeouts::of(Some(ms(trip)));
            let held = lookup.min(crate::limits::RESOLVE_TIMEOUT_DEFAULT);
            assert!(held >= conclusive, "{trip} ms: {held:?} of {conclusive:?}");
            assert!(4 * ms(trip) <= lookup, "{trip} ms: room for a new connection with TLS in {lookup:?}");
        }
    }

    #[test]
    fn an_attempt_has_time_for_a_new_connection() {
        assert_eq!(attempt_min(None), API_ATTEMPT_TIMEOUT_MIN);
        assert_eq!(attempt_min(Some(ms(1))), API_ATTEMPT_TIMEOUT_MIN);
        assert_eq!(attempt_min(Some(ms(500))), ms(2_250));
    }
}
