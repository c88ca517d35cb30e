//! Who holds one key in one group: host ids in the order of (zone, address, port).
//!
//! Most keys have few holders and are one short slice. A base layer on 50,000 nodes is a list of
//! chunks of at most [`CHUNK_HOSTS_MAX`], so that one more holder moves at most 1 KiB and not 100.
//! Ids take two bytes in a list whose ids all fit into them: in every list up to 65,536 hosts.

mod chunks;
mod small;

use std::net::SocketAddr;
use std::ops::Range;

use super::groups::Group;
use super::host::HostSlot;
use super::order::Labels;
use super::slots::Slots;
use chunks::Chunks;
use small::Small;

use crate::limits::CHUNK_HOSTS_MAX;

/// Host ids, distinct, by ascending label.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PostingList {
    /// One short slice of at most [`CHUNK_HOSTS_MAX`] ids.
    Small(Small),
    /// Chunks, for more ids than fit into a slice, now or a short while ago.
    Large(Box<Large>),
}

/// Chunks of the narrowest ids that do; at least two.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Large {
    /// Ids of two bytes.
    Narrow(Chunks<u16>),
    /// Ids of four bytes.
    Wide(Chunks<u32>),
}

impl Default for PostingList {
    fn default() -> Self {
        Self::Small(Small::default())
    }
}

impl PostingList {
    /// The list of these ids, which are distinct and in order.
    pub(super) fn from_sorted(ids: &[u32]) -> Self {
        if ids.len() <= CHUNK_HOSTS_MAX {
            return Self::Small(Small::from_sorted(ids.iter().copied()));
        }
        Self::Large(Box::new(match narrow(ids) {
            Some(ids) => Large::Narrow(Chunks::from_sorted(&ids)),
            None => Large::Wide(Chunks::from_sorted(ids)),
        }))
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Small(ids) => ids.len(),
            Self::Large(large) => match &**large {
                Large::Narrow(chunks) => chunks.len(),
                Large::Wide(chunks) => chunks.len(),
            },
        }
    }

    /// The id at a position below `len`.
    fn get(&self, position: usize) -> u32 {
        match self {
            Self::Small(ids) => ids.get(position),
            Self::Large(large) => match &**large {
                Large::Narrow(chunks) => chunks.get(position),
                Large::Wide(chunks) => chunks.get(position),
            },
        }
    }

    /// All ids in order.
    fn ids(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Self::Small(ids) => Box::new(ids.ids()),
            Self::Large(large) => match &**large {
                Large::Narrow(chunks) => Box::new(chunks.ids()),
                Large::Wide(chunks) => Box::new(chunks.ids()),
            },
        }
    }

    /// Whether `id`, which has a label, is in the list.
    fn contains(&self, labels: &Labels, id: u32) -> bool {
        let position = self.count_below(labels, labels.of(id));
        position < self.len() && self.get(position) == id
    }

    /// How many ids have a label below `label`.
    fn count_below(&self, labels: &Labels, label: u64) -> usize {
        match self {
            Self::Small(ids) => ids.count_below(labels, label),
            Self::Large(large) => match &**large {
                Large::Narrow(chunks) => chunks.count_below(labels, label),
                Large::Wide(chunks) => chunks.count_below(labels, label),
            },
        }
    }

    /// Adds `id`, which has a label and is not in the list.
    pub(super) fn insert(&mut self, labels: &Labels, id: u32) {
        match self {
            Self::Small(ids) => {
                ids.insert(labels, id);
                if ids.len() > CHUNK_HOSTS_MAX {
                    let ids: Vec<u32> = ids.ids().collect();
                    *self = Self::from_sorted(&ids);
                }
            }
            Self::Large(large) => large.insert(labels, id),
        }
    }

    /// Takes `id` away, found by its label; false if it is not in the list.
    pub(super) fn remove(&mut self, labels: &Labels, id: u32) -> bool {
        let found = match self {
            Self::Small(ids) => ids.remove(labels, id),
            Self::Large(large) => match &mut **large {
                Large::Narrow(chunks) => chunks.remove(labels, id),
                Large::Wide(chunks) => chunks.remove(labels, id),
            },
        };
        if let Self::Large(large) = self
            && let Some(ids) = large.as_small()
        {
            *self = Self::Small(ids);
        }
        found
    }
}

impl Large {
    fn insert(&mut self, labels: &Labels, id: u32) {
        // Ids of four bytes from now on.
        if let Self::Narrow(chunks) = self
            && u16::try_from(id).is_err()
        {
            let ids: Vec<u32> = chunks.ids().collect();
            *self = Self::Wide(Chunks::from_sorted(&ids));
        }
        match self {
            Self::Narrow(chunks) => chunks.insert(labels, id),
            Self::Wide(chunks) => chunks.insert(labels, id),
        }
    }

    /// The same ids as one slice, if one chunk holds them.
    fn as_small(&self) -> Option<Small> {
        match self {
            Self::Narrow(chunks) => {
                chunks.only().map(|ids| Small::from_sorted(ids.iter().map(|&id| id.into())))
            }
            Self::Wide(chunks) => chunks.only().map(|ids| Small::from_sorted(ids.iter().copied())),
        }
    }
}

fn narrow(ids: &[u32]) -> Option<Vec<u16>> {
    ids.iter().map(|&id| u16::try_from(id).ok()).collect()
}

/// The visible holders of one key in one group, sorted by (zone, address, port). A position counts
/// in that order; a zone, and inside it any range of addresses, is a contiguous range of positions.
#[derive(Clone, Copy)]
pub struct Postings<'a> {
    pub(super) list: &'a PostingList,
    pub(super) hosts: &'a Slots<HostSlot>,
    pub(super) group: &'a Group,
    pub(super) labels: &'a Labels,
}

impl<'a> Postings<'a> {
    /// Number of holders; never 0 in what [`super::Index::find`] shows.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True if nobody holds the key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Address of the holder at a position below `len`.
    pub fn address(&self, position: usize) -> SocketAddr {
        self.labels.address(self.list.get(position))
    }

    /// Zone of the host of this group at `address`, whether or not it holds the key; `None` if it is
    /// not known.
    pub fn zone_of(&self, address: SocketAddr) -> Option<&'a str> {
        self.group.host(address).map(|id| self.zone_of_host(id))
    }

    fn zone_of_host(&self, id: u32) -> &'a str {
        &self.hosts.get(id).expect("postings name known hosts only").record.zone
    }

    /// Positions of the holders in `zone` whose address is from `low` to `high`, both inclusive,
    /// as numbers of [`super::address_key`]. Where there are none, the range is empty and may be
    /// anywhere.
    pub fn range(&self, zone: &str, low: u128, high: u128) -> Range<usize> {
        let labels = self.group.order().range(self.labels, zone, low, high);
        if labels.is_empty() {
            return 0..0;
        }
        let start = self.list.count_below(self.labels, labels.start);
        start..self.list.count_below(self.labels, labels.end)
    }

    /// Addresses of all holders, by position.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.list.ids().map(|id| self.labels.address(id))
    }

    /// All hosts of the group, hidden ones included, whose address is from `low` to `high`, sorted by
    /// address and port; and whether each is one of the holders.
    pub fn hosts(&self, low: u128, high: u128) -> impl Iterator<Item = (SocketAddr, bool)> {
        let hosts = self.group.hosts().range((low, 0)..=(high, u16::MAX));
        hosts.map(|(_, &id)| (self.labels.address(id), self.list.contains(self.labels, id)))
    }

    /// Address of the last host of the group that is not above `address`.
    pub fn host_at_or_below(&self, address: u128) -> Option<u128> {
        self.group.hosts().range(..=(address, u16::MAX)).next_back().map(|((address, _), _)| *address)
    }

    /// Address of the first host of the group that is not below `address`.
    pub fn host_at_or_above(&self, address: u128) -> Option<u128> {
        self.group.hosts().range((address, 0)..).next().map(|((address, _), _)| *address)
    }

    /// Positions of the holders in `zone`.
    pub fn zone_range(&self, zone: &str) -> Range<usize> {
        self.range(zone, 0, u128::MAX)
    }
}

#[cfg(test)]
#[path = "postings_tests.rs"]
mod tests;
