//! Entries of one commit on their way to the disk.
//!
//! A commit of redb writes each page that it changes anew, and with it every page on the way there from the
//! root: four pages for a small entry in a tree of some hundred thousand. So new entries are gathered in one
//! row, the tail, whose table is one page; when it is full it becomes a segment, and only then the tree of
//! the segments is touched.

use redb::{ReadableTable, Table, WriteTransaction};

use crate::format::{Level, STORAGE};
use crate::types::LogId;

use super::segment::{self, Segment};
use super::tables::{SEGMENTS, TAIL, TAIL_COMMITTED, TAIL_ENTRIES, read_tail, segment_of};

/// The tables of one commit.
pub(super) struct StoredEntries<'t> {
    segments: Table<'t, u64, &'static [u8]>,
    tail: Table<'t, &'static str, &'static [u8]>,
    /// What the row of the tail will be.
    gathered: Segment,
    level: Level,
    is_changed: bool,
    /// Segments that this commit has added.
    added: usize,
}

impl<'t> StoredEntries<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, level: Level) -> Result<Self, redb::Error> {
        let segments = transaction.open_table(SEGMENTS)?;
        let tail = transaction.open_table(TAIL)?;
        let gathered = read_tail(&tail)?;
        Ok(Self { segments, tail, gathered, level, is_changed: false, added: 0 })
    }

    /// Puts the versioned bytes of an entry behind all others.
    pub(super) fn append(&mut self, index: u64, entry: &[u8]) -> Result<(), redb::Error> {
        if !self.gathered.takes(index, entry.len()) {
            self.store_gathered()?;
        }
        self.gathered.push(self.level, index, entry);
        self.is_changed = true;
        Ok(())
    }

    fn store_gathered(&mut self) -> Result<(), redb::Error> {
        let full = std::mem::take(&mut self.gathered);
        self.segments.insert(full.range().0, &*full.bytes())?;
        self.added += 1;
        self.is_changed = true;
        Ok(())
    }

    /// Deletes the entries from `first` on.
    pub(super) fn truncate(&mut self, first: u64) -> Result<(), redb::Error> {
        self.segments.retain_in::<u64, _>(first.., |_, _| false)?;
        if self.gathered.is_empty() || self.gathered.range().0 >= first {
            // What is left of the last segment is the tail again.
            self.gathered = match self.segments.pop_last()? {
                Some((_, bytes)) => segment_of(bytes.value())?,
                None => Segment::default(),
            };
        }
        self.gathered.cut(first);
        self.is_changed = true;
        Ok(())
    }

    /// Deletes segments that end at `upto` or before, the oldest first: so many, or twice as many as were
    /// added, so that the backlog shrinks. How many there were.
    pub(super) fn delete_purged(&mut self, upto: u64, count: usize) -> Result<usize, redb::Error> {
        if !self.gathered.is_empty() && self.gathered.range().1 <= upto + 1 {
            self.gathered = Segment::default();
            self.is_changed = true;
        }
        let purged = purged_segments(&self.segments, upto, count.max(2 * self.added))?;
        for first in &purged {
            self.segments.remove(first)?;
        }
        Ok(purged.len())
    }

    /// Index of the last entry.
    pub(super) fn last(&self) -> Result<Option<u64>, redb::Error> {
        if !self.gathered.is_empty() {
            return Ok(Some(self.gathered.range().1 - 1));
        }
        let Some((_, bytes)) = self.segments.last()? else { return Ok(None) };
        Ok(segment_of(bytes.value())?.range().1.checked_sub(1))
    }

    /// Writes the tail, and up to where the log is known to be committed.
    pub(super) fn finish(mut self, committed: Option<LogId>) -> Result<(), redb::Error> {
        if self.gathered.is_full() {
            self.store_gathered()?;
        }
        if let Some(committed) = committed {
            self.tail.insert(TAIL_COMMITTED, STORAGE.encode(self.level, &committed).as_slice())?;
        }
        match () {
            () if !self.is_changed => {}
            () if self.gathered.is_empty() => drop(self.tail.remove(TAIL_ENTRIES)?),
            () => drop(self.tail.insert(TAIL_ENTRIES, &*self.gathered.bytes())?),
        }
        Ok(())
    }
}

/// Keys of the first segments, at most so many, that hold no entry after `upto`.
fn purged_segments(
    segments: &impl ReadableTable<u64, &'static [u8]>,
    upto: u64,
    count: usize,
) -> Result<Vec<u64>, redb::Error> {
    let mut purged = Vec::new();
    for row in segments.range(..=upto)?.take(count) {
        let (first, bytes) = row?;
        let end = segment::entries(bytes.value()).and_then(|entries| entries.last().transpose());
        let end = end.map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        if end.is_some_and(|(last, _)| last > upto) {
            break;
        }
        purged.push(first.value());
    }
    Ok(purged)
}
