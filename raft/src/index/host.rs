//! What the index knows of one holder.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::order::Place;
use crate::model::{Fingerprint, Holder, Pair};

/// One holder, as it is stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Group and address of the host.
    pub holder: Holder,
    /// Zone label, empty if none.
    pub zone: String,
    /// Length of its lease, seconds; 0: the server's default.
    pub ttl_seconds: u32,
    /// Pair of its last complete write; `None` while only clients without pairs wrote.
    pub pair: Option<Pair>,
    /// Fingerprint of the keys in its inventory.
    pub fingerprint: Fingerprint,
    /// Number of keys in its inventory.
    pub count: u64,
    /// Log index of the last command that showed it alive: a write, `SetHost` or `Unhide`.
    pub last_write_index: u64,
    /// Wall clock of the `Hide` that took it out of the answers; `None`: visible.
    pub hidden_unix_ms: Option<u64>,
}

impl HostRecord {
    /// A host at its first advertise, with nothing yet.
    pub(crate) fn new(holder: Holder) -> Self {
        Self {
            holder,
            zone: String::new(),
            ttl_seconds: 0,
            pair: None,
            fingerprint: Fingerprint::default(),
            count: 0,
            last_write_index: 0,
            hidden_unix_ms: None,
        }
    }

    /// True if answers may name it.
    pub fn is_visible(&self) -> bool {
        self.hidden_unix_ms.is_none()
    }
}

/// An address as a number, IPv4 mapped into `::ffff:0:0/96`: one order for both families.
pub fn address_key(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// A host in memory.
#[derive(Debug)]
pub(super) struct HostSlot {
    pub(super) record: HostRecord,
    /// Id of its group.
    pub(super) group: u32,
    /// [`super::hash::host`] of `record`, as the state checksum counts it.
    pub(super) hash: u128,
    /// Log index of the last change of any kind, for [`super::Index::hosts_changed_since`].
    pub(super) changed: u64,
}

impl HostSlot {
    pub(super) fn new(record: HostRecord, group: u32, hash: u128) -> Self {
        let changed = record.last_write_index;
        Self { group, hash, changed, record }
    }

    /// Where it is in its zone.
    pub(super) fn place(&self) -> Place {
        let address = self.record.holder.address;
        (address_key(address.ip()), address.port())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.record.holder.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_ordered_inside_ipv6() {
        let key = |text: &str| address_key(text.parse().unwrap());
        assert_eq!(key("10.0.0.1"), key("::ffff:10.0.0.1"));
        assert!(key("10.0.0.1") < key("10.0.1.0"));
        assert!(key("255.255.255.255") < key("fd00::1"));
    }
}
