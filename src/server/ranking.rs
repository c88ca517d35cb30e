//! Which holders an asker is told, and in which order. Pure: positions in, addresses out.
//!
//! There are two orders. **Tiers with a spread** are for native agents. The tiers are zone + /24, zone + /16,
//! zone, and the rest; for IPv6 they are /64 (one link) and /48 (one site) instead. Inside a tier every asker
//! begins at another holder, so that the first holder of a new layer is not the first choice of all.
//! **Prefix** is for the Go `pi`, as in the Go Piccolo: longest common prefix first, then address, then text.
//!
//! The holders of a key come sorted by (zone, address), so that every tier is a contiguous range that a
//! binary search finds: a key with 50,000 holders costs hardly more than one with 40.

mod holders;
mod prefix;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use piccolo_raft::index::address_key;
use piccolo_raft::model::Key;
use sha2::{Digest, Sha256};

use crate::limits::RANKED_LAST_SKIPPED_MAX;
pub use holders::Holders;
use holders::prefix_bounds;
use prefix::by_prefix;

/// The client that asks for holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker<'a> {
    /// It has not named itself: the holders come in a stable order.
    Unknown,
    /// A native agent. Only its own blob server is left out.
    Holder {
        /// Address of its blob server.
        address: SocketAddr,
        /// Its zone, as the index knows it.
        zone: &'a str,
        /// Whether it wants the prefix order.
        prefix_order: bool,
    },
    /// A Go `pi`, which names its IP address only. All holders on that address are left out; the order is by
    /// prefix.
    Host(IpAddr),
}

/// What the reports of nodes say of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reputation {
    /// No report counts: it is ranked as usual.
    Sound,
    /// It could not be reached: it comes after all others.
    Last,
    /// Its bytes were wrong: it is left out.
    LeftOut,
}

/// Ranks as [`rank`] does, but by `reputation`: holders that could not be reached come after all others. At
/// most [`RANKED_LAST_SKIPPED_MAX`] of them are skipped; holders behind those do not move up.
pub fn rank_by_reputation(
    holders: &impl Holders,
    key: &Key,
    asker: &Asker<'_>,
    count: usize,
    reputation: &mut dyn FnMut(SocketAddr) -> Reputation,
) -> Vec<SocketAddr> {
    let enough = count.saturating_add(RANKED_LAST_SKIPPED_MAX);
    let mut wanted = count;
    loop {
        let ranked = rank(holders, key, asker, wanted);
        let all = ranked.len() < wanted;
        let (mut sound, mut last) = (Vec::with_capacity(count), Vec::new());
        for holder in ranked {
            match reputation(holder) {
                Reputation::Sound => sound.push(holder),
                Reputation::Last => last.push(holder),
                Reputation::LeftOut => {}
            }
        }
        if sound.len() >= count || all || wanted >= enough {
            sound.append(&mut last);
            sound.truncate(count);
            return sound;
        }
        wanted = wanted.saturating_mul(2).clamp(1, enough);
    }
}

/// Returns at most `count` holders of `key`, the best for `asker` first, never the asker itself.
pub fn rank(holders: &impl Holders, key: &Key, asker: &Asker<'_>, count: usize) -> Vec<SocketAddr> {
    match asker {
        Asker::Unknown => (0..holders.len().min(count)).map(|position| holders.address(position)).collect(),
        Asker::Holder { address, zone, prefix_order: false } => by_tiers(holders, key, *address, zone, count),
        Asker::Holder { address, .. } => by_prefix(holders, address.ip(), Some(*address), count),
        Asker::Host(ip) => by_prefix(holders, *ip, None, count),
    }
}

/// Prefix lengths of the two inner tiers, in bits of an [`address_key`].
fn tier_prefixes(ip: IpAddr) -> [u32; 2] {
    match ip {
        IpAddr::V4(_) => [96 + 24, 96 + 16],
        IpAddr::V6(_) => [64, 48],
    }
}

fn by_tiers(
    holders: &impl Holders,
    key: &Key,
    asker: SocketAddr,
    zone: &str,
    count: usize,
) -> Vec<SocketAddr> {
    let address = address_key(asker.ip());
    let within = |prefix| {
        let (low, high) = prefix_bounds(address, prefix);
        holders.range(zone, low, high)
    };
    let [near, nearby] = tier_prefixes(asker.ip());
    // One after the other, as they are needed: the nearest is enough for most.
    let tiers = (0..4).map(|tier| match tier {
        0 => within(near),
        1 => within(nearby),
        2 => holders.zone_range(zone),
        _ => 0..holders.len(),
    });
    let spread = Spread::new(asker, key);
    let mut chosen = Vec::with_capacity(count.min(holders.len()));
    let mut inner = 0..0;
    for tier in tiers {
        let ring = Ring { outer: tier.clone(), inner };
        for position in spread.over(ring.len()).map(|offset| ring.position(offset)) {
            if chosen.len() == count {
                return chosen;
            }
            let holder = holders.address(position);
            if holder != asker {
                chosen.push(holder);
            }
        }
        if chosen.len() == count {
            break;
        }
        inner = tier;
    }
    chosen
}

/// A tier without the tier inside it: the positions of `outer` that are not in `inner`.
struct Ring {
    outer: Range<usize>,
    /// The tier inside; empty, or a part of `outer`.
    inner: Range<usize>,
}

impl Ring {
    fn len(&self) -> usize {
        self.outer.len() - self.inner.len()
    }

    fn position(&self, offset: usize) -> usize {
        let position = self.outer.start + offset;
        if self.inner.is_empty() || position < self.inner.start {
            position
        } else {
            position + self.inner.len()
        }
    }
}

/// The order in which an asker meets the holders of a tier: where it begins, and with which step it goes on.
/// Both come from a hash of asker and key.
struct Spread {
    start: u64,
    step: u64,
}

impl Spread {
    fn new(asker: SocketAddr, key: &Key) -> Self {
        let mut hash = Sha256::new();
        hash.update(address_key(asker.ip()).to_be_bytes());
        hash.update(asker.port().to_be_bytes());
        match key {
            Key::Sha256(digest) => hash.update(digest),
            Key::Text(text) => hash.update(text),
        }
        let hash = hash.finalize();
        let word = |at: usize| u64::from_be_bytes(hash[at..at + 8].try_into().expect("eight bytes"));
        Self { start: word(0), step: word(8) }
    }

    /// Visits every number below `n` once: `start + i * step mod n`, with `step` coprime to `n`.
    fn over(&self, n: usize) -> impl Iterator<Item = usize> + use<> {
        let n = n as u64;
        let (start, step) = match n {
            0 | 1 => (0, 0),
            _ => (self.start % n, coprime(n, 1 + self.step % (n - 1))),
        };
        let mut next = start;
        (0..n).map(move |_| {
            let offset = next;
            // Both are below n, and n counts hosts.
            next += step;
            if next >= n {
                next -= n;
            }
            offset as usize
        })
    }
}

/// The first number from `candidate` on and below `n` that is coprime to `n`. There is one, because `n - 1`
/// is.
fn coprime(n: u64, candidate: u64) -> u64 {
    debug_assert!(0 < candidate && candidate < n);
    (candidate..n).find(|step| gcd(*step, n) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
