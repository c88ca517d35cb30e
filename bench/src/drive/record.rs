//! What the load saw: latencies and outcomes, in all and second by second.

use std::collections::BTreeMap;
use std::time::Duration;

use super::histogram::Histogram;

/// One kind of requests.
#[derive(Clone, Default)]
pub(crate) struct Record {
    /// Of requests that had a final answer, from when they were due.
    pub(crate) latency: Histogram,
    /// Final answers by status; 0 stands for none.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Answers 503 on the way, even if another server or a later try answered.
    pub(crate) unavailable: u64,
    /// Connections refused, broken or without an answer in time, likewise.
    pub(crate) failures: u64,
    /// By the second in which the answer came.
    pub(crate) seconds: Vec<Second>,
}

/// One second of it.
#[derive(Clone, Default)]
pub(crate) struct Second {
    pub(crate) latency: Histogram,
    /// Answers below 400, and 404 (nobody holds it).
    pub(crate) good: u64,
    pub(crate) unavailable: u64,
    pub(crate) failures: u64,
}

/// Whether an answer is what a client can work with.
pub(crate) fn is_good(status: u16) -> bool {
    (200..400).contains(&status) || status == 404
}

impl Record {
    pub(crate) fn second(&mut self, at: Duration) -> &mut Second {
        let number = usize::try_from(at.as_secs()).unwrap_or(usize::MAX);
        if self.seconds.len() <= number {
            self.seconds.resize(number + 1, Second::default());
        }
        &mut self.seconds[number]
    }

    /// A request ended at `at`, `latency` after it was due.
    pub(crate) fn ended(&mut self, at: Duration, latency: Duration, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
        self.latency.record(latency);
        let second = self.second(at);
        second.latency.record(latency);
        second.good += u64::from(is_good(status));
    }

    /// One try got 503.
    pub(crate) fn was_unavailable(&mut self, at: Duration) {
        self.unavailable += 1;
        self.second(at).unavailable += 1;
    }

    /// One try got nothing.
    pub(crate) fn failed(&mut self, at: Duration) {
        self.failures += 1;
        self.second(at).failures += 1;
    }

    /// The seconds from number `from` on, together.
    pub(crate) fn since(&self, from: usize) -> Second {
        self.between(from, self.seconds.len())
    }

    /// The seconds from number `from` to `to`, without that one.
    pub(crate) fn between(&self, from: usize, to: usize) -> Second {
        let mut sum = Second::default();
        for second in self.seconds.iter().take(to).skip(from) {
            sum.latency.add(&second.latency);
            sum.good += second.good;
            sum.unavailable += second.unavailable;
            sum.failures += second.failures;
        }
        sum
    }

    /// A quantile of each second's latencies, milliseconds by seconds.
    pub(crate) fn quantile_by_second(&self, share: f64) -> Vec<(f64, f64)> {
        let seconds = self.seconds.iter().enumerate();
        seconds.map(|(at, second)| (at as f64, millis(second.latency.quantile(share)))).collect()
    }

    /// Final answers that were not good.
    pub(crate) fn bad(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| !is_good(**status)).map(|(_, count)| count).sum()
    }

    /// `200: 17, 404: 3`; what had no answer is called so.
    pub(crate) fn statuses_text(&self) -> String {
        let text = |(status, count): (&u16, &u64)| match status {
            0 => format!("no answer: {count}"),
            _ => format!("{status}: {count}"),
        };
        let mut parts: Vec<String> = self.statuses.iter().map(text).collect();
        if self.unavailable + self.failures > 0 {
            parts.push(format!("tries before that: {} × 503, {} × nothing", self.unavailable, self.failures));
        }
        parts.join(", ")
    }

    /// See [`Histogram::text`].
    pub(crate) fn latency_text(&self) -> String {
        self.latency.text()
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_in_all_and_in_their_second() {
        let mut record = Record::default();
        let ms = Duration::from_millis;
        record.ended(ms(500), ms(3), 201);
        record.was_unavailable(ms(2100));
        record.ended(ms(2900), ms(800), 201);
        record.ended(ms(2950), ms(1), 0);
        let good: Vec<u64> = record.seconds.iter().map(|second| second.good).collect();
        assert_eq!(good, [1, 0, 1]);
        assert_eq!((record.seconds[2].unavailable, record.bad()), (1, 1));
        assert!(
            record.statuses_text().starts_with("no answer: 1, 201: 2, tries"),
            "{}",
            record.statuses_text()
        );
    }
}
