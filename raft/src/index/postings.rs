//! Who holds one key in one group: host ids sorted by (zone, address, port).
//!
//! Most keys have few holders and are one short vector. A base layer on 50,000 nodes is a list of
//! chunks of at most [`CHUNK_HOSTS_MAX`], so that one more holder moves at most 2 KiB and not 200.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::ops::Range;

use super::host::HostSlot;
use super::slots::Slots;

/// Host ids in one chunk.
pub(super) const CHUNK_HOSTS_MAX: usize = 512;
/// Neighbours that hold no more than this together become one: half of a full chunk, so that a
/// chunk that was just merged is not split by the next insert.
const MERGED_HOSTS_MAX: usize = CHUNK_HOSTS_MAX / 2;

/// Host ids, sorted and distinct.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PostingList {
    /// At most [`CHUNK_HOSTS_MAX`].
    Small(Vec<u32>),
    /// More, or lately more: at least two chunks.
    Large(Box<Chunks>),
}

/// Non-empty chunks in order, with the position of each one's first id.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    chunks: Vec<Vec<u32>>,
    starts: Vec<u32>,
}

impl Default for PostingList {
    fn default() -> Self {
        Self::Small(Vec::new())
    }
}

impl PostingList {
    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Small(ids) => ids.len(),
            Self::Large(chunks) => chunks.len(),
        }
    }

    /// The id at a position below `len`.
    fn get(&self, position: usize) -> u32 {
        match self {
            Self::Small(ids) => ids[position],
            Self::Large(chunks) => {
                let chunk = chunks.starts.partition_point(|&start| start as usize <= position) - 1;
                chunks.chunks[chunk][position - chunks.starts[chunk] as usize]
            }
        }
    }

    /// The first position whose id is not `before`, which must hold for a prefix.
    fn partition_point(&self, before: impl Fn(u32) -> bool) -> usize {
        match self {
            Self::Small(ids) => ids.partition_point(|&id| before(id)),
            Self::Large(large) => match large.chunks.partition_point(|chunk| before(chunk[0])) {
                0 => 0,
                next => {
                    let inside = large.chunks[next - 1].partition_point(|&id| before(id));
                    large.starts[next - 1] as usize + inside
                }
            },
        }
    }

    /// Adds `id`, which is in `hosts` and not in the list.
    pub(super) fn insert(&mut self, hosts: &Slots<HostSlot>, id: u32) {
        let order = order(hosts, id);
        match self {
            Self::Small(ids) => {
                let position = ids.partition_point(|&other| self::order(hosts, other) < order);
                insert_tight(ids, position, id);
                if ids.len() > CHUNK_HOSTS_MAX {
                    let mut large = Chunks { chunks: vec![std::mem::take(ids)], starts: vec![0] };
                    large.split(0);
                    *self = Self::Large(Box::new(large));
                }
            }
            Self::Large(large) => {
                let next = large.chunks.partition_point(|chunk| self::order(hosts, chunk[0]) < order);
                let chunk = next.saturating_sub(1);
                let ids = &mut large.chunks[chunk];
                let position = ids.partition_point(|&other| self::order(hosts, other) < order);
                insert_tight(ids, position, id);
                if ids.len() > CHUNK_HOSTS_MAX {
                    large.split(chunk);
                } else {
                    large.renumber(chunk);
                }
            }
        }
    }

    /// Takes `id` away, found by its order in `hosts`; false if it is not in the list.
    pub(super) fn remove(&mut self, hosts: &Slots<HostSlot>, id: u32) -> bool {
        let order = order(hosts, id);
        match self {
            Self::Small(ids) => {
                let position = ids.partition_point(|&other| self::order(hosts, other) < order);
                let found = ids.get(position) == Some(&id);
                if found {
                    ids.remove(position);
                }
                found
            }
            Self::Large(large) => {
                let next = large.chunks.partition_point(|chunk| self::order(hosts, chunk[0]) <= order);
                let Some(chunk) = next.checked_sub(1) else { return false };
                let ids = &mut large.chunks[chunk];
                let position = ids.partition_point(|&other| self::order(hosts, other) < order);
                if ids.get(position) != Some(&id) {
                    return false;
                }
                ids.remove(position);
                large.merge_around(chunk);
                if large.chunks.len() <= 1 {
                    *self = Self::Small(large.chunks.pop().unwrap_or_default());
                }
                true
            }
        }
    }

    /// Adds `id` behind all others, which its order allows: how the lists are built from disk.
    pub(super) fn push_last(&mut self, id: u32) {
        match self {
            Self::Small(ids) if ids.len() < CHUNK_HOSTS_MAX => insert_tight(ids, ids.len(), id),
            Self::Small(ids) => {
                let starts = vec![0, ids.len() as u32];
                let chunks = vec![std::mem::take(ids), vec![id]];
                *self = Self::Large(Box::new(Chunks { chunks, starts }));
            }
            Self::Large(large) => match large.chunks.last_mut() {
                Some(ids) if ids.len() < CHUNK_HOSTS_MAX => insert_tight(ids, ids.len(), id),
                _ => {
                    large.starts.push(large.len() as u32);
                    large.chunks.push(vec![id]);
                }
            },
        }
    }
}

impl Chunks {
    fn len(&self) -> usize {
        let before = self.starts.last().map_or(0, |&start| start as usize);
        before + self.chunks.last().map_or(0, Vec::len)
    }

    /// Cuts a chunk in halves.
    fn split(&mut self, chunk: usize) {
        let ids = &mut self.chunks[chunk];
        let upper = ids.split_off(ids.len() / 2);
        ids.shrink_to_fit();
        self.chunks.insert(chunk + 1, upper);
        self.renumber(chunk);
    }

    /// After a removal from `chunk`: drops it if empty, joins it with a neighbour if both are small.
    fn merge_around(&mut self, chunk: usize) {
        let length = |chunk: usize| self.chunks.get(chunk).map_or(usize::MAX / 2, Vec::len);
        if self.chunks[chunk].is_empty() {
            self.chunks.remove(chunk);
        } else if length(chunk) + length(chunk + 1) <= MERGED_HOSTS_MAX {
            let upper = self.chunks.remove(chunk + 1);
            self.chunks[chunk].extend(upper);
        } else if chunk > 0 && length(chunk - 1) + length(chunk) <= MERGED_HOSTS_MAX {
            let upper = self.chunks.remove(chunk);
            self.chunks[chunk - 1].extend(upper);
        }
        self.renumber(chunk.saturating_sub(1));
    }

    /// Counts `starts` anew from `chunk` on.
    fn renumber(&mut self, chunk: usize) {
        self.starts.truncate(chunk);
        let mut start = match chunk.checked_sub(1) {
            Some(before) => self.starts[before] + self.chunks[before].len() as u32,
            None => 0,
        };
        for ids in &self.chunks[chunk.min(self.chunks.len())..] {
            self.starts.push(start);
            start += ids.len() as u32;
        }
    }
}

fn order(hosts: &Slots<HostSlot>, id: u32) -> (&str, u128, u16) {
    hosts.get(id).expect("postings name known hosts only").order()
}

/// Inserts with a capacity that grows by a quarter, not by doubling: a million short lists.
fn insert_tight(ids: &mut Vec<u32>, position: usize, id: u32) {
    if ids.len() == ids.capacity() {
        ids.reserve_exact((ids.len() / 4).max(1));
    }
    ids.insert(position, id);
}

/// The visible holders of one key in one group, sorted by (zone, address, port). A position counts
/// in that order; a zone, and inside it any range of addresses, is a contiguous range of positions.
#[derive(Clone, Copy)]
pub struct Postings<'a> {
    pub(super) list: &'a PostingList,
    pub(super) hosts: &'a Slots<HostSlot>,
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
        let slot = self.slot(position);
        (slot.address(), &slot.record.zone)
    }

    /// Positions of the holders in `zone` whose address is from `low` to `high`, both inclusive,
    /// as numbers of [`super::address_key`].
    pub fn range(&self, zone: &str, low: u128, high: u128) -> Range<usize> {
        let at = |id| {
            let (zone, address, _) = order(self.hosts, id);
            (zone, address)
        };
        let start = self.list.partition_point(|id| at(id) < (zone, low));
        let end = self.list.partition_point(|id| at(id) <= (zone, high));
        start..end.max(start)
    }

    /// Positions of the holders in `zone`.
    pub fn zone_range(&self, zone: &str) -> Range<usize> {
        self.range(zone, 0, u128::MAX)
    }

    /// Every zone among the holders with its positions, in order.
    pub fn zones(&self) -> Vec<(&'a str, Range<usize>)> {
        let mut zones = Vec::new();
        let mut start = 0;
        while start < self.len() {
            let zone = self.get(start).1;
            let end = self.list.partition_point(|id| order(self.hosts, id).0 <= zone);
            zones.push((zone, start..end));
            start = end;
        }
        zones
    }

    /// Positions of the holders from address `low` to `high`, both inclusive, of all zones, sorted
    /// by (address, port): a merge of the zones that looks at no holder before it is asked for.
    pub fn by_address(&self, low: u128, high: u128) -> ByAddress<'a> {
        let mut merged = ByAddress { postings: *self, heads: BinaryHeap::new() };
        for (zone, _) in self.zones() {
            merged.push(self.range(zone, low, high));
        }
        merged
    }

    fn slot(&self, position: usize) -> &'a HostSlot {
        self.hosts.get(self.list.get(position)).expect("postings name known hosts only")
    }
}

/// Iterator of [`Postings::by_address`].
pub struct ByAddress<'a> {
    postings: Postings<'a>,
    /// Per zone: address and port of its next holder, and the positions from there on.
    heads: BinaryHeap<Reverse<(u128, u16, usize, usize)>>,
}

impl ByAddress<'_> {
    fn push(&mut self, range: Range<usize>) {
        if !range.is_empty() {
            let (_, address, port) = self.postings.slot(range.start).order();
            self.heads.push(Reverse((address, port, range.start, range.end)));
        }
    }
}

impl Iterator for ByAddress<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let Reverse((_, _, position, end)) = self.heads.pop()?;
        self.push(position + 1..end);
        Some(position)
    }
}

#[cfg(test)]
#[path = "postings_tests.rs"]
mod tests;
