//! How often one holder may do something expensive: a burst, then one each interval. Pure: the time is
//! an argument. Remembered are only holders whose burst is not whole again.

use std::collections::HashMap;
use std::time::Duration;

use piccolo_raft::model::Holder;

/// Holders remembered before anybody looks for some to forget.
const REMEMBERED_MIN: usize = 1_024;

/// The pace of all holders.
#[derive(Debug)]
pub struct Pace {
    every: Duration,
    burst: u32,
    /// When the burst of each is whole again.
    whole_at: HashMap<Holder, Duration>,
    /// With so many remembered, those that are whole again are looked for.
    look_at: usize,
}

impl Pace {
    /// `burst` at once, then one each `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { every, burst, whole_at: HashMap::new(), look_at: REMEMBERED_MIN }
    }

    /// Takes one.
    ///
    /// # Errors
    /// None is left; the next one is there after that time.
    pub fn take(&mut self, holder: &Holder, now: Duration) -> Result<(), Duration> {
        let whole_at = self.whole_at.get(holder).copied().unwrap_or_default().max(now) + self.every;
        let ahead = (whole_at - now).saturating_sub(self.every * self.burst);
        if !ahead.is_zero() {
            return Err(ahead);
        }
        self.whole_at.insert(holder.clone(), whole_at);
        if self.whole_at.len() >= self.look_at {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            // Twice as many as are left, so that looking costs each of them little.
            self.look_at = (self.whole_at.len() * 2).max(REMEMBERED_MIN);
        }
        Ok(())
    }

    /// How many holders are remembered.
    pub fn remembered(&self) -> usize {
        self.whole_at.len()
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
        let mut pace = Pace::new(5, EVERY);
        let mut now = Duration::from_secs(100);
        assert_eq!((0..20).filter(|_| pace.take(&holder(1), now).is_ok()).count(), 5);
        assert_eq!(pace.take(&holder(1), now), Err(EVERY));
        let taken = (0..1_000).filter(|_| {
            now += Duration::from_millis(20);
            pace.take(&holder(1), now).is_ok()
        });
        assert_eq!(taken.count(), 10, "in 20 s");
        assert_eq!(pace.take(&holder(2), now), Ok(()), "others are not concerned");
        now += EVERY * 5;
        assert_eq!((0..20).filter(|_| pace.take(&holder(1), now).is_ok()).count(), 5, "whole again");
    }

    #[test]
    fn holders_that_are_whole_again_are_forgotten() {
        let mut pace = Pace::new(5, EVERY);
        for n in 0..100_000 {
            pace.take(&holder(n), Duration::from_millis(n.into())).unwrap();
        }
        // 2,000 of them are under way at any time.
        assert!(pace.remembered() <= 4_096, "{} are remembered", pace.remembered());
    }
}
