//! When an agent calls its servers: heartbeats, and pauses that double. All times have jitter, so that 50,000
//! agents that started, or were refused, in the same second do not call in step. Pure: the RNG is an
//! argument, so that the bench can compute a whole fleet.

use std::time::Duration;

use rand::Rng;

use crate::limits::{HEARTBEAT_JITTER, HEARTBEAT_RETRY_PAUSE, RETRY_AFTER_HONOURED_MAX};

/// A random time up to a bound that doubles ("full jitter"): clients that were refused together come back
/// evenly over the bound.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// A backoff with these first and longest bounds.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first.min(longest) }
    }

    /// Begins again with the first bound, after a success.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.longest);
    }

    /// The pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        self.pause_by(&mut rand::rng())
    }

    /// The pause before the next attempt after an answer that may have asked for one (`Retry-After`): never
    /// shorter than that.
    pub fn next_pause_after(&mut self, wanted: Option<Duration>) -> Duration {
        wanted.unwrap_or_default().min(RETRY_AFTER_HONOURED_MAX) + self.next_pause()
    }

    /// The pause before the next attempt, drawn from this RNG.
    pub fn pause_by(&mut self, rng: &mut impl Rng) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        within(rng, pause)
    }
}

/// Times of the heartbeats of one agent.
#[derive(Clone, Debug)]
pub struct HeartbeatSchedule {
    interval: Duration,
    retries: Backoff,
}

impl HeartbeatSchedule {
    /// Heartbeats with this interval between two.
    pub fn new(interval: Duration) -> Self {
        Self { interval, retries: Backoff::new(HEARTBEAT_RETRY_PAUSE, interval) }
    }

    /// Time until the first heartbeat: the rest of an interval of which a random part has passed, as if the
    /// agent had been running for long. A fleet that started together is as even from its first second on as
    /// it will ever be. With a uniform time within one interval, first and second heartbeats would overlap,
    /// and half as many again would come around the end of the interval.
    ///
    /// (A random moment falls into a long interval more often than into a short one, so that the density of
    /// the length grows with the length, and any part of it is left: D. R. Cox, Renewal Theory, 1962, chapter
    /// 5.)
    pub fn first(&self, rng: &mut impl Rng) -> Duration {
        let (shortest, longest) = (1.0 - HEARTBEAT_JITTER, 1.0 + HEARTBEAT_JITTER);
        let uniform: f64 = rng.random_range(0.0..1.0);
        let length = (shortest.powi(2) + uniform * (longest.powi(2) - shortest.powi(2))).sqrt();
        within(rng, self.interval.mul_f64(length))
    }

    /// Time until the next heartbeat after a successful one: the interval with jitter, which separates agents
    /// that have come into step.
    pub fn after_success(&mut self, rng: &mut impl Rng) -> Duration {
        self.retries.reset();
        self.interval.mul_f64(rng.random_range(1.0 - HEARTBEAT_JITTER..=1.0 + HEARTBEAT_JITTER))
    }

    /// Time until the next heartbeat after a failed one. A pause that the servers ask for is limited to the
    /// interval, because a lease is three intervals.
    pub fn after_failure(&mut self, rng: &mut impl Rng, wanted: Option<Duration>) -> Duration {
        wanted.unwrap_or_default().min(self.interval) + self.retries.pause_by(rng)
    }
}

/// A random time up to `longest`.
fn within(rng: &mut impl Rng, longest: Duration) -> Duration {
    longest.mul_f64(rng.random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);
    const AGENTS: usize = 20_000;

    fn seeded() -> StdRng {
        StdRng::seed_from_u64(5)
    }

    /// Counts how many of the times fall into each second.
    fn by_second(times: impl Iterator<Item = Duration>) -> Vec<usize> {
        let mut counts = Vec::new();
        for time in times {
            let second = time.as_secs() as usize;
            counts.resize(counts.len().max(second + 1), 0);
            counts[second] += 1;
        }
        counts
    }

    #[track_caller]
    fn assert_even(counts: &[usize]) {
        let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
        for (second, count) in counts.iter().enumerate() {
            let ratio = *count as f64 / mean;
            assert!((0.8..1.2).contains(&ratio), "second {second} has {ratio} of the mean: {counts:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(500));
        let mut rng = seeded();
        let mut most = [Duration::ZERO; 5];
        for _ in 0..1_000 {
            let mut backoff = Backoff::new(first, longest);
            for (most, expected) in most.iter_mut().zip([100, 200, 400, 500, 500]) {
                let pause = backoff.pause_by(&mut rng);
                assert!(pause < Duration::from_millis(expected), "{pause:?} for {expected}");
                *most = pause.max(*most);
            }
            backoff.reset();
            assert!(backoff.pause_by(&mut rng) < first);
        }
        for (most, expected) in most.iter().zip([100, 200, 400, 500, 500]) {
            assert!(*most > Duration::from_millis(expected * 9 / 10), "{most:?} for {expected}");
        }
    }

    #[test]
    fn a_herd_that_is_refused_together_comes_back_evenly() {
        let mut rng = seeded();
        let longest = Duration::from_secs(10);
        let pause = |_| Backoff::new(longest, longest).pause_by(&mut rng);
        assert_even(&by_second((0..AGENTS).map(pause)));
    }

    #[test]
    fn retry_after_is_the_least_and_is_not_believed_without_end() {
        let wanted = Duration::from_secs(7);
        let mut first = Backoff::new(Duration::from_secs(1), INTERVAL);
        let mut schedule = HeartbeatSchedule::new(INTERVAL);
        let mut rng = seeded();
        for pause in [first.next_pause_after(Some(wanted)), schedule.after_failure(&mut rng, Some(wanted))] {
            assert!((wanted..=wanted + Duration::from_secs(1)).contains(&pause), "{pause:?}");
        }
        let endless = first.next_pause_after(Some(Duration::MAX));
        let pause = HeartbeatSchedule::new(INTERVAL).after_failure(&mut rng, Some(Duration::MAX));
        assert!(
            (INTERVAL..=INTERVAL + HEARTBEAT_RETRY_PAUSE).contains(&pause),
            "a lease would end: {pause:?}"
        );
        assert!(endless <= RETRY_AFTER_HONOURED_MAX + Duration::from_secs(2), "{endless:?}");
    }

    #[test]
    fn a_fleet_that_was_started_in_one_second_sends_heartbeats_evenly_in_each_period() {
        let mut rng = seeded();
        let mut schedules = vec![HeartbeatSchedule::new(INTERVAL); AGENTS];
        let mut times: Vec<Duration> = schedules.iter().map(|schedule| schedule.first(&mut rng)).collect();
        let mut all = times.clone();
        for _ in 0..5 {
            for (schedule, time) in schedules.iter_mut().zip(&mut times) {
                let pause = schedule.after_success(&mut rng);
                assert!((27.0..=33.0).contains(&pause.as_secs_f64()), "{pause:?}");
                *time += pause;
                all.push(*time);
            }
        }
        let counts = by_second(all.into_iter());
        assert_even(&counts[..30 * 4]);
    }

    /// The pause has grown to the interval after six failures.
    #[test]
    fn a_fleet_whose_servers_are_away_calls_no_more_often_than_heartbeats() {
        let mut rng = seeded();
        let mut schedule = HeartbeatSchedule::new(INTERVAL);
        (0..6).for_each(|_| _ = schedule.after_failure(&mut rng, None));
        let total: Duration = (0..AGENTS).map(|_| schedule.after_failure(&mut rng, None)).sum();
        let mean = total / AGENTS as u32;
        assert!((14.0..16.0).contains(&mean.as_secs_f64()), "half the interval: {mean:?}");
        let heard = schedule.after_success(&mut rng);
        assert!(heard >= INTERVAL.mul_f64(0.9));
        assert!(schedule.after_failure(&mut rng, None) <= HEARTBEAT_RETRY_PAUSE, "begins anew");
    }
}
