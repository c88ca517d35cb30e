//! The simulated fleet of the index benches: its hosts, and the keys of each. A pure function of its size, so
//! that every run and every side have the same fleet.
//!
//! There are three kinds of keys, as in a real fleet: layers of base images that every node has, keys that
//! follow Zipf's law (the most popular on nearly every node), and a few that only one node holds.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// Group of all hosts.
pub(crate) const GROUP: &str = "default";
/// Port of every blob server.
const PORT: u16 = 7781;
/// Number of zones over which the /24s are spread.
const ZONES: u32 = 3;
const SEED: u64 = 0x5eed;

/// Size of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fleet {
    /// Number of nodes.
    pub(crate) hosts: u32,
    /// Number of keys of each node.
    pub(crate) keys_per_host: u32,
    /// Number of distinct keys.
    pub(crate) distinct_keys: u32,
    /// Number of keys that every node holds, which are the first ones.
    pub(crate) common_keys: u32,
}

impl Fleet {
    /// The fleet of the budgets: 50,000 hosts × 400 keys of a million distinct keys.
    pub(crate) const FULL: Self =
        Self { hosts: 50_000, keys_per_host: 400, distinct_keys: 1_000_000, common_keys: 20 };

    /// A fleet with another number of hosts, the same number of own keys for each, and the same common keys.
    pub(crate) fn with_hosts(self, hosts: u32) -> Self {
        let distinct = u64::from(self.distinct_keys) * u64::from(hosts) / u64::from(self.hosts);
        let distinct_keys = u32::try_from(distinct).unwrap_or(u32::MAX).max(2 * self.keys_per_host);
        Self { hosts, distinct_keys, ..self }
    }

    /// A fleet with the same hosts and fewer keys for each.
    pub(crate) fn with_keys(self, keys_per_host: u32) -> Self {
        let keys_per_host = keys_per_host.clamp(self.common_keys + 1, self.keys_per_host);
        Self { keys_per_host, ..self }
    }

    /// Number of pairs of host and key.
    pub(crate) fn pairs(self) -> u64 {
        u64::from(self.hosts) * u64::from(self.keys_per_host)
    }

    /// Address of a host's blob server: in 10.0.0.0/8, with 250 hosts in each /24.
    pub(crate) fn address(self, host: u32) -> SocketAddr {
        let ip = Ipv4Addr::from((10 << 24) + ((host / 250) << 8) + host % 250 + 1);
        SocketAddrV4::new(ip, PORT).into()
    }

    /// Zone of a host.
    pub(crate) fn zone(self, host: u32) -> String {
        format!("zone-{}", host / 250 % ZONES)
    }

    /// A key as text: `sha256:` and 64 hex digits.
    pub(crate) fn key(self, key: u32) -> String {
        use std::fmt::Write as _;
        let digest = Sha256::digest((SEED + u64::from(key)).to_be_bytes());
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in digest {
            write!(text, "{byte:02x}").expect("a string takes everything");
        }
        text
    }

    /// Keys of a host, ascending and distinct: the common ones, those that only it holds, and the rest by
    /// Zipf's law with exponent 1 (a key's rank is log-uniform).
    pub(crate) fn inventory(self, host: u32) -> Vec<u32> {
        let own = self.distinct_keys.saturating_sub(self.common_keys) / self.hosts;
        let own = own.min((self.keys_per_host - self.common_keys) / 2);
        let mut keys: Vec<u32> = (0..self.common_keys).collect();
        keys.extend((0..own).map(|n| self.distinct_keys - 1 - (host * own + n)));
        let mut random = StdRng::seed_from_u64(SEED ^ u64::from(host));
        let ranks = f64::from(self.distinct_keys - self.common_keys);
        let mut taken: std::collections::HashSet<u32> = keys.iter().copied().collect();
        while keys.len() < self.keys_per_host as usize {
            let rank = (ranks.ln() * random.random::<f64>()).exp() as u32;
            let key = self.common_keys + rank.saturating_sub(1);
            if taken.insert(key) {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_its_own_address_and_as_many_distinct_keys_as_stated() {
        let fleet = Fleet::FULL.with_hosts(500);
        assert_eq!((fleet.distinct_keys, fleet.pairs()), (10_000, 200_000));
        let mut holders = vec![0u32; fleet.distinct_keys as usize];
        let mut addresses = std::collections::BTreeSet::new();
        for host in 0..fleet.hosts {
            assert!(addresses.insert(fleet.address(host)));
            let inventory = fleet.inventory(host);
            assert_eq!(inventory, fleet.inventory(host), "the same each time");
            assert!(inventory.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(inventory.len(), 400);
            inventory.iter().for_each(|&key| holders[key as usize] += 1);
        }
        assert!(holders[..20].iter().all(|&holders| holders == 500));
        assert!(holders.iter().filter(|&&holders| holders > 0).count() > 9_900);
        assert!(holders[20] > 300 && holders[5_000] < 40, "popular ones first");
    }

    #[test]
    fn a_key_is_a_digest() {
        let key = Fleet::FULL.key(7);
        assert_eq!(key.len(), 71);
        assert_ne!(key, Fleet::FULL.key(8));
    }
}
