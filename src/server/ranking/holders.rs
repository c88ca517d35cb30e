//! The holders of a key, as ranking sees them.

use std::net::SocketAddr;
use std::ops::Range;

/// The visible holders of one key in one group, sorted by (zone, [`address_key`], port).
///
/// [`address_key`]: piccolo_raft::index::address_key
pub trait Holders {
    /// How many holders there are.
    fn len(&self) -> usize;
    /// Whether no visible host holds the key.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The address at a position below [`Holders::len`].
    fn address(&self, position: usize) -> SocketAddr;
    /// Positions of the holders of `zone` with `low <= address_key <= high`.
    fn range(&self, zone: &str, low: u128, high: u128) -> Range<usize>;
    /// Positions of all holders of `zone`.
    fn zone_range(&self, zone: &str) -> Range<usize>;
    /// The addresses of all holders, by position.
    fn addresses(&self) -> impl Iterator<Item = SocketAddr>;
    /// All hosts of the group with `low <= address_key <= high`, sorted by `address_key` and port, and
    /// whether each is one of the holders.
    fn hosts(&self, low: u128, high: u128) -> impl Iterator<Item = (SocketAddr, bool)>;
    /// `address_key` of the last host of the group that is not above `address`.
    fn host_at_or_below(&self, address: u128) -> Option<u128>;
    /// `address_key` of the first host of the group that is not below `address`.
    fn host_at_or_above(&self, address: u128) -> Option<u128>;
}

/// The lowest and the highest number that share the first `prefix` bits with `address`.
pub(super) fn prefix_bounds(address: u128, prefix: u32) -> (u128, u128) {
    let host_bits = u128::MAX.checked_shr(prefix).unwrap_or(0);
    (address & !host_bits, address | host_bits)
}
