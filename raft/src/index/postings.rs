//! Who holds one key in one group: host ids in the order of (zone, address, port).
//!
//! Most keys have few holders and are one short slice. A base layer on 50,000 nodes is a list of
//! chunks of at most [`CHUNK_HOSTS_MAX`], so that one more holder moves at most 1 KiB and not 100.
//! Ids take two bytes as long as they fit into them, which is up to 65,536 hosts.

mod chunks;

use std::net::SocketAddr;
use std::ops::Range;

use super::host::HostSlot;
use super::order::{Labels, Order};
use super::slots::Slots;
use chunks::{CHUNK_HOSTS_MAX, Chunks, insert_into, remove_from};

/// Host ids, distinct, by ascending label.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PostingList {
    /// At most [`CHUNK_HOSTS_MAX`], all of two bytes. Exactly as long as it is full: a million of
    /// these have no room to spare.
    Small(Box<[u16]>),
    /// More, or lately more, or wider ids.
    Large(Box<Large>),
}

/// Chunks of the narrowest ids that do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Large {
    /// At least two chunks.
    Narrow(Chunks<u16>),
    /// At least one.
    Wide(Chunks<u32>),
}

impl Default for PostingList {
    fn default() -> Self {
        Self::Small(Box::default())
    }
}

impl PostingList {
    /// The list of these ids, which are distinct and in order.
    pub(super) fn from_sorted(ids: &[u32]) -> Self {
        match narrow(ids.iter().copied()) {
            Some(ids) if ids.len() <= CHUNK_HOSTS_MAX => Self::Small(ids.into()),
            Some(ids) => Self::Large(Box::new(Large::Narrow(Chunks::from_sorted(&ids)))),
            None => Self::Large(Box::new(Large::Wide(Chunks::from_sorted(ids)))),
        }
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
            Self::Small(ids) => ids[position].into(),
            Self::Large(large) => match &**large {
                Large::Narrow(chunks) => chunks.get(position),
                Large::Wide(chunks) => chunks.get(position),
            },
        }
    }

    /// How many ids have a label below `label`.
    fn count_below(&self, labels: &Labels, label: u64) -> usize {
        match self {
            Self::Small(ids) => ids.partition_point(|&id| labels.of(id.into()) < label),
            Self::Large(large) => match &**large {
                Large::Narrow(chunks) => chunks.count_below(labels, label),
                Large::Wide(chunks) => chunks.count_below(labels, label),
            },
        }
    }

    /// Adds `id`, which has a label and is not in the list.
    pub(super) fn insert(&mut self, labels: &Labels, id: u32) {
        if u16::try_from(id).is_err() {
            self.widen();
        }
        match self {
            Self::Small(ids) => {
                let mut grown = std::mem::take(ids).into_vec();
                grown.reserve_exact(1);
                insert_into(&mut grown, labels, id);
                if grown.len() <= CHUNK_HOSTS_MAX {
                    *ids = grown.into_boxed_slice();
                } else {
                    *self = Self::Large(Box::new(Large::Narrow(Chunks::from_sorted(&grown))));
                }
            }
            Self::Large(large) => match &mut **large {
                Large::Narrow(chunks) => chunks.insert(labels, id),
                Large::Wide(chunks) => chunks.insert(labels, id),
            },
        }
    }

    /// Takes `id` away, found by its label; false if it is not in the list.
    pub(super) fn remove(&mut self, labels: &Labels, id: u32) -> bool {
        let found = match self {
            Self::Small(ids) => {
                let mut shrunk = std::mem::take(ids).into_vec();
                let found = remove_from(&mut shrunk, labels, id);
                *ids = shrunk.into_boxed_slice();
                found
            }
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

    /// Ids of four bytes from now on.
    fn widen(&mut self) {
        let ids: Vec<u32> = match self {
            Self::Small(ids) => ids.iter().copied().map(u32::from).collect(),
            Self::Large(large) => match &**large {
                Large::Narrow(chunks) => chunks.ids().collect(),
                Large::Wide(_) => return,
            },
        };
        *self = Self::Large(Box::new(Large::Wide(Chunks::from_sorted(&ids))));
    }
}

impl Large {
    /// The same ids as one slice, if one chunk of two bytes each holds them.
    fn as_small(&self) -> Option<Box<[u16]>> {
        match self {
            Large::Narrow(chunks) => Some(chunks.only()?.into()),
            Large::Wide(chunks) => Some(narrow(chunks.only()?.iter().copied())?.into()),
        }
    }
}

fn narrow(ids: impl Iterator<Item = u32>) -> Option<Vec<u16>> {
    ids.map(|id| u16::try_from(id).ok()).collect()
}

/// The visible holders of one key in one group, sorted by (zone, address, port). A position counts
/// in that order; a zone, and inside it any range of addresses, is a contiguous range of positions.
#[derive(Clone, Copy)]
pub struct Postings<'a> {
    pub(super) list: &'a PostingList,
    pub(super) hosts: &'a Slots<HostSlot>,
    pub(super) order: &'a Order,
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

    /// Address and zone of the holder at a position below `len`.
    pub fn get(&self, position: usize) -> (SocketAddr, &'a str) {
        let slot = self.hosts.get(self.list.get(position)).expect("postings name known hosts only");
        (slot.address(), &slot.record.zone)
    }

    /// Positions of the holders in `zone` whose address is from `low` to `high`, both inclusive,
    /// as numbers of [`super::address_key`]. Where there are none, the range is empty and may be
    /// anywhere.
    pub fn range(&self, zone: &str, low: u128, high: u128) -> Range<usize> {
        let labels = self.order.range(self.labels, zone, low, high);
        if labels.is_empty() {
            return 0..0;
        }
        let start = self.list.count_below(self.labels, labels.start);
        start..self.list.count_below(self.labels, labels.end)
    }

    /// Positions of the holders in `zone`.
    pub fn zone_range(&self, zone: &str) -> Range<usize> {
        self.range(zone, 0, u128::MAX)
    }
}

#[cfg(test)]
#[path = "postings_tests.rs"]
mod tests;
