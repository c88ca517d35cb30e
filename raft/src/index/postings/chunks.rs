//! A long posting list: chunks of ids, with what finds the right one without looking into it.

use super::super::order::Labels;

use crate::limits::{CHUNK_HOSTS_MAX, MERGED_HOSTS_MAX};

/// A host id of two or four bytes.
pub(in super::super) trait Id: Copy + PartialEq + Into<u32> + TryFrom<u32> {
    /// A host id that is known to fit.
    fn of(id: u32) -> Self {
        Self::try_from(id).ok().expect("the list was widened for it")
    }
}

impl Id for u16 {}
impl Id for u32 {}

/// Non-empty chunks in order.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    /// The first id of each, so that a search reads one array and one chunk.
    firsts: Vec<T>,
    /// The position of each one's first id.
    starts: Vec<u32>,
}

impl<T: Id> Chunks<T> {
    /// The chunks of ids that are distinct and in order.
    pub(super) fn from_sorted(ids: &[T]) -> Self {
        // Three quarters full: room for the next ones, little waste.
        let mut made = Self {
            chunks: ids.chunks(CHUNK_HOSTS_MAX / 4 * 3).map(<[T]>::to_vec).collect(),
            firsts: Vec::new(),
            starts: Vec::new(),
        };
        made.count_from(0);
        made
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        let before = self.starts.last().map_or(0, |&start| start as usize);
        before + self.chunks.last().map_or(0, Vec::len)
    }

    /// The id at a position below `len`.
    pub(super) fn get(&self, position: usize) -> u32 {
        let chunk = self.starts.partition_point(|&start| start as usize <= position) - 1;
        self.chunks[chunk][position - self.starts[chunk] as usize].into()
    }

    /// All ids in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().flatten().map(|&id| id.into())
    }

    /// The ids, if there is one chunk or none.
    pub(super) fn only(&self) -> Option<&[T]> {
        match &self.chunks[..] {
            [] => Some(&[]),
            [only] => Some(only),
            _ => None,
        }
    }

    /// How many ids have a label below `label`.
    pub(super) fn count_below(&self, labels: &Labels, label: u64) -> usize {
        match self.firsts.partition_point(|&first| labels.of(first.into()) < label) {
            0 => 0,
            next => {
                let inside = self.chunks[next - 1].partition_point(|&id| labels.of(id.into()) < label);
                self.starts[next - 1] as usize + inside
            }
        }
    }

    /// Adds `id`, which has a label and is not there.
    pub(super) fn insert(&mut self, labels: &Labels, id: u32) {
        if self.chunks.is_empty() {
            self.chunks.push(vec![T::of(id)]);
            return self.count_from(0);
        }
        let label = labels.of(id);
        let next = self.firsts.partition_point(|&first| labels.of(first.into()) < label);
        let chunk = next.saturating_sub(1);
        let ids = &mut self.chunks[chunk];
        if ids.len() == ids.capacity() {
            // A quarter more, not twice as much.
            ids.reserve_exact((ids.len() / 4).max(1));
        }
        insert_into(ids, labels, id);
        self.firsts[chunk] = ids[0];
        if ids.len() > CHUNK_HOSTS_MAX {
            let upper = ids.split_off(ids.len() / 2);
            ids.shrink_to_fit();
            self.chunks.insert(chunk + 1, upper);
            self.count_from(chunk);
        } else {
            self.starts[chunk + 1..].iter_mut().for_each(|start| *start += 1);
        }
    }

    /// Takes `id` away, found by its label; false if it is not there.
    pub(super) fn remove(&mut self, labels: &Labels, id: u32) -> bool {
        let label = labels.of(id);
        let next = self.firsts.partition_point(|&first| labels.of(first.into()) <= label);
        let Some(chunk) = next.checked_sub(1) else { return false };
        if !remove_from(&mut self.chunks[chunk], labels, id) {
            return false;
        }
        let length = |chunk: usize| self.chunks.get(chunk).map_or(usize::MAX / 2, Vec::len);
        if self.chunks[chunk].is_empty() {
            self.chunks.remove(chunk);
        } else if length(chunk) + length(chunk + 1) <= MERGED_HOSTS_MAX {
            let upper = self.chunks.remove(chunk + 1);
            self.chunks[chunk].extend(upper);
        } else if chunk > 0 && length(chunk - 1) + length(chunk) <= MERGED_HOSTS_MAX {
            let upper = self.chunks.remove(chunk);
            self.chunks[chunk - 1].extend(upper);
        } else {
            self.firsts[chunk] = self.chunks[chunk][0];
            self.starts[chunk + 1..].iter_mut().for_each(|start| *start -= 1);
            return true;
        }
        self.count_from(chunk.saturating_sub(1));
        true
    }

    /// Counts `firsts` and `starts` anew from `chunk` on.
    fn count_from(&mut self, chunk: usize) {
        self.starts.truncate(chunk);
        self.firsts.truncate(chunk);
        let mut start = match chunk.checked_sub(1) {
            Some(before) => self.starts[before] + self.chunks[before].len() as u32,
            None => 0,
        };
        for ids in &self.chunks[chunk.min(self.chunks.len())..] {
            self.starts.push(start);
            self.firsts.push(ids[0]);
            start += ids.len() as u32;
        }
    }
}

/// Puts `id` into its place.
fn insert_into<T: Id>(ids: &mut Vec<T>, labels: &Labels, id: u32) {
    let label = labels.of(id);
    let position = ids.partition_point(|&other| labels.of(other.into()) < label);
    ids.insert(position, T::of(id));
}

/// Takes `id` out of its place; false if it is not there.
fn remove_from<T: Id>(ids: &mut Vec<T>, labels: &Labels, id: u32) -> bool {
    let label = labels.of(id);
    let position = ids.partition_point(|&other| labels.of(other.into()) < label);
    let found = ids.get(position).is_some_and(|&other| other.into() == id);
    if found {
        ids.remove(position);
    }
    found
}

#[cfg(test)]
mod checks;
