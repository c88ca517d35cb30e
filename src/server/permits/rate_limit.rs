//! How often one holder may do something expensive: a burst, then once each interval (a token bucket for each
//! holder). Pure: the time is an argument. Only holders whose bucket is not full are remembered.

use std::collections::HashMap;
use std::time::Duration;

use piccolo_raft::model::Holder;

use crate::limits::SYNC_HOLDERS_REMEMBERED_MIN;

/// The rate limit of all holders, each by itself.
#[derive(Debug)]
pub struct RateLimit {
    every: Duration,
    burst: u32,
    /// When the bucket of each holder is full again.
    full_at: HashMap<Holder, Duration>,
    /// As soon as so many are remembered, those with a full bucket are forgotten.
    prune_at: usize,
}

impl RateLimit {
    /// Lets a holder take `burst` tokens at once, then one each `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { every, burst, full_at: HashMap::new(), prune_at: SYNC_HOLDERS_REMEMBERED_MIN }
    }

    /// Takes one token of `holder`.
    ///
    /// # Errors
    /// The time until the next token, if none is left.
    pub fn take(&mut self, holder: &Holder, now: Duration) -> Result<(), Duration> {
        let full_at = self.full_at.get(holder).copied().unwrap_or_default().max(now) + self.every;
        let ahead = (full_at - now).saturating_sub(self.every * self.burst);
        if !ahead.is_zero() {
            return Err(ahead);
        }
        self.full_at.insert(holder.clone(), full_at);
        if self.full_at.len() >= self.prune_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            // Twice as many as are left, so that the search costs each of them little.
            self.prune_at = (self.full_at.len() * 2).max(SYNC_HOLDERS_REMEMBERED_MIN);
        }
        Ok(())
    }

    /// How many holders are remembered.
    pub fn remembered(&self) -> usize {
        self.full_at.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(2);

    fn holder(n: u32) -> Holder {
        Holder { group: "g".into(), address: (n.to_be_bytes(), 1).into() }
    }

    #[test]
    fn a_loop_has_its_burst_and_then_one_each_interval() {
        let mut limit = RateLimit::new(5, EVERY);
        let mut now = Duration::from_secs(100);
        assert_eq!((0..20).filter(|_| limit.take(&holder(1), now).is_ok()).count(), 5);
        assert_eq!(limit.take(&holder(1), now), Err(EVERY));
        let taken = (0..1_000).filter(|_| {
            now += Duration::from_millis(20);
            limit.take(&holder(1), now).is_ok()
        });
        assert_eq!(taken.count(), 10, "in 20 s");
        assert_eq!(limit.take(&holder(2), now), Ok(()), "others are not concerned");
        now += EVERY * 5;
        assert_eq!((0..20).filter(|_| limit.take(&holder(1), now).is_ok()).count(), 5, "full again");
    }

    #[test]
    fn holders_with_a_full_bucket_are_forgotten() {
        let mut limit = RateLimit::new(5, EVERY);
        for n in 0..100_000 {
            limit.take(&holder(n), Duration::from_millis(n.into())).unwrap();
        }
        // 2,000 of them are under way at any time.
        assert!(limit.remembered() <= 4_096, "{} are remembered", limit.remembered());
    }
}
