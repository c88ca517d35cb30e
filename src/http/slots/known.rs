//! Addresses whose connections have slots of their own.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// A set of addresses that its owner keeps up to date; clones share it.
#[derive(Clone, Debug, Default)]
pub struct KnownAddresses(Arc<RwLock<HashSet<IpAddr>>>);

impl KnownAddresses {
    /// Replaces the addresses.
    pub fn set(&self, addresses: HashSet<IpAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Whether `address` is known.
    pub fn has(&self, address: IpAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&address.to_canonical())
    }

    /// Whether connections from `address` have slots of their own. Those from this host do not: where the
    /// servers of a cluster are on one host, so are its clients, with the same address.
    pub(super) fn has_slots(&self, address: IpAddr) -> bool {
        !address.to_canonical().is_loopback() && self.has(address)
    }
}
