//! Latencies and outcomes of a load, in total and by second.

use std::collections::BTreeMap;
use std::time::Duration;

use super::histogram::Histogram;

/// Results of one kind of requests.
#[derive(Clone, Default)]
pub(crate) struct Record {
    /// Latencies of requests with a final answer, counted from when they were due.
    pub(crate) latency: Histogram,
    /// Number of final answers by status; 0 stands for no answer.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Number of 503 answers, including those after which another server or attempt succeeded.
    pub(crate) unavailable: u64,
    /// Number of refused or broken connections and timeouts, including those after which another server or
    /// attempt succeeded.
    pub(crate) failures: u64,
    /// Results by the second of the answer.
    pub(crate) seconds: Vec<Second>,
}

/// Results of one second.
#[derive(Clone, Default)]
pub(crate) struct Second {
    pub(crate) latency: Histogram,
    /// Number of answers below 400, and of 404 (nobody holds it).
    pub(crate) good: u64,
    pub(crate) unavailable: u64,
    pub(crate) failures: u64,
}

/// True if a client can use the answer.
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

    /// Records a request that ended at `at`, `latency` after it was due.
    pub(crate) fn ended(&mut self, at: Duration, latency: Duration, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
        self.latency.record(latency);
        let second = self.second(at);
        second.latency.record(latency);
        second.good += u64::from(is_good(status));
    }

    /// Records an attempt with the answer 503.
    pub(crate) fn was_unavailable(&mut self, at: Duration) {
        self.unavailable += 1;
        self.second(at).unavailable += 1;
    }

    /// Records an attempt without an answer.
    pub(crate) fn failed(&mut self, at: Duration) {
        self.failures += 1;
        self.second(at).failures += 1;
    }

    /// Sum of the seconds from number `from` on.
    pub(crate) fn since(&self, from: usize) -> Second {
        self.between(from, self.seconds.len())
    }

    /// Sum of the seconds from number `from` to `to`, exclusive.
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

    /// Quantile of each second's latencies, milliseconds, with its second.
    pub(crate) fn quantile_by_second(&self, share: f64) -> Vec<(f64, f64)> {
        let seconds = self.seconds.iter().enumerate();
        seconds.map(|(at, second)| (at as f64, millis(second.latency.quantile(share)))).collect()
    }

    /// Number of final answers that were not good.
    pub(crate) fn bad(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| !is_good(**status)).map(|(_, count)| count).sum()
    }

    /// Statuses with their numbers, as in `200: 17, 404: 3`; those without an answer are named so.
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

    /// Text of [`Histogram::text`] for the latencies.
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
