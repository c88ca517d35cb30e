//! What the parts of the state add to its checksum (I2).
//!
//! The bytes that are hashed are laid out here, field by field, and nowhere else: they are not those that
//! are stored or sent, so that a new version of those changes no checksum, and an older folder is whole
//! for a newer build. A field that a later level adds is hashed from that level on, by a later version.

use std::net::{IpAddr, SocketAddr};

use sha2::{Digest, Sha256};

use super::host::HostRecord;
use crate::format::{Level, Levels};
use crate::model::Pair;

/// The bytes of one part. Numbers are little endian; what varies in length has its length in front, what
/// may be absent a byte that says whether it is there.
struct Parts(Vec<u8>);

impl Parts {
    fn new(level: Level, kind: &str) -> Self {
        let mut parts = Self(Vec::with_capacity(256));
        let version = level.versions().hash;
        if version > 1 {
            parts.number(u64::from(version));
        }
        parts.text(kind);
        parts
    }

    fn text(&mut self, text: &str) {
        let length = u32::try_from(text.len()).expect("names are some hundred bytes");
        self.0.extend(length.to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn optional<T>(&mut self, value: Option<T>, add: impl FnOnce(&mut Self, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            add(self, value);
        }
    }

    /// An IPv4 address has 4 bytes, an IPv6 address 16, then comes the port.
    fn address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.0.extend([&[4][..], &ip.octets()].concat()),
            IpAddr::V6(ip) => self.0.extend([&[16][..], &ip.octets()].concat()),
        }
        self.0.extend(address.port().to_le_bytes());
    }

    /// The first 16 bytes of their SHA-256.
    fn hash(self) -> u128 {
        let digest = Sha256::digest(&self.0);
        let (first, _) = digest.split_first_chunk::<16>().expect("SHA-256 has 32 bytes");
        u128::from_be_bytes(*first)
    }
}

/// Hash of a host: all its fields. The fingerprint stands for its keys, so no pair needs a hash of its own: a restart
/// at 20 million pairs stays quick.
pub(super) fn host(level: Level, record: &HostRecord) -> u128 {
    let HostRecord { holder, zone, ttl_seconds, pair, fingerprint, count, last_write_index, hidden_unix_ms } =
        record;
    let mut parts = Parts::new(level, "host");
    parts.text(&holder.group);
    parts.address(holder.address);
    parts.text(zone);
    parts.number(u64::from(*ttl_seconds));
    parts.optional(*pair, |parts, Pair { epoch, seq }| {
        parts.number(epoch);
        parts.number(seq);
    });
    parts.0.extend(fingerprint.0.to_le_bytes());
    parts.number(*count);
    parts.number(*last_write_index);
    parts.optional(*hidden_unix_ms, Parts::number);
    parts.hash()
}

/// Hash of a removed server.
pub(super) fn tombstone(level: Level, node_id: u64) -> u128 {
    let mut parts = Parts::new(level, "tombstone");
    parts.number(node_id);
    parts.hash()
}

/// Hash of what the servers have agreed to write.
pub(super) fn levels(levels: Levels) -> u128 {
    let mut parts = Parts::new(levels.active, "levels");
    parts.number(u64::from(levels.active.0));
    parts.optional(levels.next, |parts, next| {
        parts.number(u64::from(next.level.0));
        parts.number(next.seconds);
    });
    parts.hash()
}

/// Hash of the counted advertises of the next build of tests.
#[cfg(any(test, feature = "next-format"))]
pub(super) fn noted(level: Level, count: u64) -> u128 {
    let mut parts = Parts::new(level, "noted");
    parts.number(count);
    parts.hash()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fingerprint, Holder};
    use crate::testing::holder;

    /// A checksum that changes is a server that says it is damaged, or that it differs from the others.
    #[test]
    fn version_one_gives_these_sums_for_ever() {
        assert_eq!(
            format!("{:032x}", host(Level::FIRST, &HostRecord::new(holder(1)))),
            "03c7f3b6990f75da03d6d8f318e61331"
        );
        let full = HostRecord {
            holder: Holder { group: "default".into(), address: "[fd00::1]:7781".parse().unwrap() },
            zone: "rack-7".into(),
            ttl_seconds: 90,
            pair: Some(Pair { epoch: 1_700_000_000_000, seq: 300 }),
            fingerprint: Fingerprint(1 << 100 | 7),
            count: 1,
            last_write_index: 1_000_000,
            hidden_unix_ms: Some(1_700_000_000_001),
        };
        assert_eq!(format!("{:032x}", host(Level::FIRST, &full)), "352fea24a42943588f0acc233adba1d4");
        assert_eq!(format!("{:032x}", tombstone(Level::FIRST, u64::MAX)), "eb78ccf08a1d8041b2b9c578d9918dca");
    }

    #[test]
    fn no_two_records_say_the_same() {
        let plain = HostRecord::new(holder(1));
        let others = [
            HostRecord::new(holder(2)),
            HostRecord { zone: "a".into(), ..plain.clone() },
            HostRecord { ttl_seconds: 1, ..plain.clone() },
            HostRecord { pair: Some(Pair { epoch: 0, seq: 0 }), ..plain.clone() },
            HostRecord { fingerprint: Fingerprint(1), ..plain.clone() },
            HostRecord { count: 1, ..plain.clone() },
            HostRecord { last_write_index: 1, ..plain.clone() },
            HostRecord { hidden_unix_ms: Some(0), ..plain.clone() },
            HostRecord {
                holder: Holder { group: String::new(), ..holder(1) },
                zone: "g".into(),
                ..plain.clone()
            },
        ];
        let sums: std::collections::BTreeSet<u128> =
            others.iter().chain([&plain]).map(|record| host(Level::FIRST, record)).collect();
        assert_eq!(sums.len(), others.len() + 1);
    }
}
