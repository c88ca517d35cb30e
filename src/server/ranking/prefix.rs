//! The order of the Go Piccolo: longest common prefix with the asker first, then address, then text. It is
//! strict and does not depend on zones.
//!
//! Postings are sorted by zone first, and a site may have as many zones as hosts. So the holders are found by
//! a walk over the hosts of the group, which are sorted by address: outwards from the asker, from one common
//! prefix to the next shorter one that any host has. If the walk does not find holders soon, the key has few
//! of them for its group, or they are far away: then all holders of the key are scanned once, and the best
//! are kept. Both together cost no more than a few steps for each holder.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};

use piccolo_raft::index::address_key;

use super::holders::{Holders, prefix_bounds};

use crate::limits::{PREFIX_HOLDERS_PER_STEP, PREFIX_STEPS_MIN};

/// A holder, ordered by its rank: the best one is the least.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ranked {
    /// Length of the prefix that it has in common with the asker, bits.
    common: u32,
    address: u128,
    holder: SocketAddr,
}

impl Ranked {
    fn new(asker: u128, holder: SocketAddr) -> Self {
        let address = address_key(holder.ip());
        Self { common: (address ^ asker).leading_zeros(), address, holder }
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_prefix = other.common.cmp(&self.common);
        by_prefix.then_with(|| self.address.cmp(&other.address)).then_with(|| {
            // Both have one address, so that the ports decide the order of the texts.
            match self.holder.port() == other.holder.port() {
                true => Ordering::Equal,
                false => self.holder.port().to_string().cmp(&other.holder.port().to_string()),
            }
        })
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Returns at most `count` holders in this order. Leaves out `except`, or all holders on the asker's address
/// if that is `None`.
pub(super) fn by_prefix(
    holders: &impl Holders,
    asker: IpAddr,
    except: Option<SocketAddr>,
    count: usize,
) -> Vec<SocketAddr> {
    let is_asked_for = |holder: SocketAddr| match except {
        Some(except) => holder != except,
        None => holder.ip() != asker,
    };
    let wanted = count.min(holders.len());
    let asker = address_key(asker);
    let walked =
        if holders.len() > PREFIX_STEPS_MIN { walk(holders, asker, &is_asked_for, wanted) } else { None };
    walked.unwrap_or_else(|| scan(holders, asker, &is_asked_for, wanted))
}

/// Walks outwards from `asker`; `None` if that takes too many steps.
fn walk(
    holders: &impl Holders,
    asker: u128,
    is_asked_for: &impl Fn(SocketAddr) -> bool,
    wanted: usize,
) -> Option<Vec<SocketAddr>> {
    let mut steps = PREFIX_STEPS_MIN.max(holders.len() / PREFIX_HOLDERS_PER_STEP);
    let mut chosen: Vec<SocketAddr> = Vec::with_capacity(wanted);
    // All hosts between these two, both inclusive, have been visited.
    let mut inner: Option<(u128, u128)> = None;
    while chosen.len() < wanted {
        let Some((low, high)) = next_ring(holders, asker, inner) else { break };
        let mut ring: Vec<Ranked> = Vec::new();
        for (host, holds) in holders.hosts(low, high) {
            let last = ring.last().map(|last| last.holder.ip());
            // Among hosts of one address the text decides, but they come in the order of the port number.
            if chosen.len() + ring.len() >= wanted && last != Some(host.ip()) {
                break;
            }
            steps = steps.checked_sub(1)?;
            if holds && is_asked_for(host) {
                ring.push(Ranked::new(asker, host));
            }
        }
        ring.sort_unstable();
        let left = wanted - chosen.len();
        chosen.extend(ring.into_iter().take(left).map(|ranked| ranked.holder));
        let prefix = (low ^ asker).leading_zeros().min((high ^ asker).leading_zeros());
        inner = Some(prefix_bounds(asker, prefix));
    }
    Some(chosen)
}

/// Bounds of the addresses outside of `inner` that have the longest common prefix which any host there has.
fn next_ring(holders: &impl Holders, asker: u128, inner: Option<(u128, u128)>) -> Option<(u128, u128)> {
    let (below, above) = match inner {
        None => (holders.host_at_or_below(asker), holders.host_at_or_above(asker)),
        Some((low, high)) => (
            low.checked_sub(1).and_then(|below| holders.host_at_or_below(below)),
            high.checked_add(1).and_then(|above| holders.host_at_or_above(above)),
        ),
    };
    // In sorted order, no host has more in common with the asker than its neighbours.
    let common = |address: u128| (address ^ asker).leading_zeros();
    let longest = below.into_iter().chain(above).map(common).max()?;
    Some(common_prefix_exactly(asker, longest))
}

/// Bounds of the numbers whose common prefix with `address` has exactly `prefix` bits.
fn common_prefix_exactly(address: u128, prefix: u32) -> (u128, u128) {
    if prefix == u128::BITS {
        return (address, address);
    }
    let first_other_bit = 1 << (u128::BITS - 1 - prefix);
    prefix_bounds(address ^ first_other_bit, prefix + 1)
}

/// Scans all holders once.
fn scan(
    holders: &impl Holders,
    asker: u128,
    is_asked_for: &impl Fn(SocketAddr) -> bool,
    wanted: usize,
) -> Vec<SocketAddr> {
    // The worst of the best is on top.
    let mut best: BinaryHeap<Ranked> = BinaryHeap::with_capacity(wanted + 1);
    for holder in holders.addresses().filter(|holder| is_asked_for(*holder)) {
        let ranked = Ranked::new(asker, holder);
        if best.len() < wanted {
            best.push(ranked);
        } else if let Some(mut worst) = best.peek_mut()
            && ranked < *worst
        {
            *worst = ranked;
        }
    }
    best.into_sorted_vec().into_iter().map(|ranked| ranked.holder).collect()
}
