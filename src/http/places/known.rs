//! Addresses whose connections have places of their own.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// Addresses that somebody keeps up to date; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<RwLock<HashSet<IpAddr>>>);

impl Known {
    /// These and no others, from now on.
    pub fn set(&self, addresses: HashSet<IpAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Whether `address` is one of them.
    pub fn has(&self, address: IpAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&address.to_canonical())
    }

    /// Whether a connection from there has a place of its own. Not one from this host: where the servers of a
    /// cluster are on one host, so are its clients, and their address is the same.
    pub(super) fn has_places(&self, address: IpAddr) -> bool {
        !address.to_canonical().is_loopback() && self.has(address)
    }
}
