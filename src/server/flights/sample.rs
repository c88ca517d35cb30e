//! The partial holders of one key in one zone: a bounded random sample of those that came. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;

use crate::limits::{PARTIAL_HOLDER_TTL, PARTIAL_HOLDERS_PER_ZONE_MAX};

/// A node that has a part of the content and may pass it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialHolder {
    /// Address of its blob server.
    pub address: SocketAddr,
    /// Its last transfer that is known, by number.
    pub transfer: u64,
    /// How many nodes are between it and the registry or a complete holder, as far as it knows.
    pub depth: u32,
    /// When its last message came.
    pub seen: Duration,
}

/// A random sample of partial holders: each of those that came is in it with the same probability.
#[derive(Debug, Default)]
pub struct Sample {
    holders: Vec<PartialHolder>,
    positions: HashMap<SocketAddr, usize>,
    /// How many have come since the sample was empty.
    came: usize,
}

impl Sample {
    /// Adds `holder`, or renews it.
    pub fn put(&mut self, holder: PartialHolder, rng: &mut impl Rng) {
        if let Some(position) = self.positions.get(&holder.address) {
            self.holders[*position] = holder;
            return;
        }
        self.came += 1;
        if self.holders.len() < PARTIAL_HOLDERS_PER_ZONE_MAX {
            self.positions.insert(holder.address, self.holders.len());
            self.holders.push(holder);
            return;
        }
        // Algorithm R (Vitter 1985): the n-th takes the place of another one with probability size / n.
        let position = rng.random_range(0..self.came);
        if let Some(replaced) = self.holders.get_mut(position) {
            self.positions.remove(&replaced.address);
            self.positions.insert(holder.address, position);
            *replaced = holder;
        }
    }

    /// Renews `holder`, if it is in the sample. One that is not has been counted before.
    pub fn renew(&mut self, holder: PartialHolder) {
        if let Some(position) = self.positions.get(&holder.address)
            && self.holders[*position].transfer <= holder.transfer
        {
            self.holders[*position] = holder;
        }
    }

    /// Removes the holder at `address`, unless a later transfer than this one is known.
    pub fn end(&mut self, address: SocketAddr, transfer: u64) {
        let position = self.positions.get(&address);
        if position.is_some_and(|position| self.holders[*position].transfer <= transfer) {
            self.remove(address);
        }
    }

    /// Removes the holder at `address`.
    fn remove(&mut self, address: SocketAddr) {
        let Some(position) = self.positions.remove(&address) else { return };
        self.holders.swap_remove(position);
        if let Some(moved) = self.holders.get(position) {
            self.positions.insert(moved.address, position);
        }
    }

    /// Forgets those that were not heard of for [`PARTIAL_HOLDER_TTL`].
    pub fn expire(&mut self, now: Duration) {
        let is_over = |holder: &PartialHolder| now.saturating_sub(holder.seen) >= PARTIAL_HOLDER_TTL;
        let over: Vec<_> = self.holders.iter().filter(|holder| is_over(holder)).map(|h| h.address).collect();
        over.into_iter().for_each(|address| self.remove(address));
        if self.is_empty() {
            self.came = 0;
        }
    }

    /// Addresses of those that were heard of within [`PARTIAL_HOLDER_TTL`].
    pub fn fresh(&self, now: Duration) -> impl Iterator<Item = SocketAddr> {
        let is_fresh = move |holder: &&PartialHolder| now.saturating_sub(holder.seen) < PARTIAL_HOLDER_TTL;
        self.holders.iter().filter(is_fresh).map(|holder| holder.address)
    }

    /// The partial holders in the sample.
    pub fn iter(&self) -> impl Iterator<Item = &PartialHolder> {
        self.holders.iter()
    }

    /// Whether nobody is in the sample.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn holder(number: u32, seen: u64) -> PartialHolder {
        let address = SocketAddr::from((number.to_be_bytes(), 7781));
        PartialHolder { address, transfer: 4, depth: 0, seen: Duration::from_secs(seen) }
    }

    fn all(sample: &Sample, now: u64) -> Vec<SocketAddr> {
        let mut fresh: Vec<_> = sample.fresh(Duration::from_secs(now)).collect();
        fresh.sort();
        fresh
    }

    #[test]
    fn everybody_is_in_a_full_sample_with_the_same_probability() {
        const NODES: u32 = 1_024;
        const ROUNDS: usize = 400;
        let mut rng = StdRng::seed_from_u64(2);
        let mut in_last_half = 0;
        for _ in 0..ROUNDS {
            let mut sample = Sample::default();
            (0..NODES).for_each(|number| sample.put(holder(number, 0), &mut rng));
            assert_eq!(sample.iter().count(), PARTIAL_HOLDERS_PER_ZONE_MAX);
            let last_half = holder(NODES / 2, 0).address;
            in_last_half += sample.iter().filter(|holder| holder.address >= last_half).count();
        }
        let share = in_last_half as f64 / (ROUNDS * PARTIAL_HOLDERS_PER_ZONE_MAX) as f64;
        assert!((0.48..0.52).contains(&share), "{share}");
    }

    #[test]
    fn a_holder_is_there_until_it_goes_or_is_silent() {
        let (mut sample, mut rng) = (Sample::default(), StdRng::seed_from_u64(3));
        for number in 1..=3 {
            sample.put(holder(number, 0), &mut rng);
        }
        sample.put(holder(1, 30), &mut rng);
        sample.end(holder(2, 0).address, 4);
        sample.end(holder(1, 0).address, 3);
        sample.renew(holder(9, 30));
        sample.renew(PartialHolder { transfer: 3, ..holder(3, 30) });
        assert_eq!(all(&sample, 59), [holder(1, 0).address, holder(3, 0).address]);
        assert_eq!(all(&sample, 60), [holder(1, 0).address], "also before it is cleaned up");
        sample.expire(Duration::from_secs(60));
        assert_eq!(sample.iter().count(), 1);
        sample.expire(Duration::from_secs(90));
        assert!(sample.is_empty());
    }
}
