//! Pauses that double, with jitter, so that a fleet does not come back in step.

use std::time::Duration;

use rand::Rng;

/// Between half of a doubling pause and all of it.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// It worked: begin with the shortest pause.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// `around`, a tenth more or less.
pub(super) fn jittered(around: Duration) -> Duration {
    around.mul_f64(rand::rng().random_range(0.9..=1.1))
}

/// Any time up to `longest`.
pub(super) fn within(longest: Duration) -> Duration {
    longest.mul_f64(rand::rng().random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(500));
        let mut backoff = Backoff::new(first, longest);
        for expected in [100, 200, 400, 500, 500] {
            let pause = backoff.next_pause().as_millis();
            assert!((expected / 2..=expected).contains(&pause), "{pause} for {expected}");
        }
        backoff.reset();
        assert!(backoff.next_pause() <= first);
    }
}
