//! Consecutive entries in one value: the storage version, the index of the first entry (`u64` little
//! endian), then for each entry its length (`u32` little endian) and its own versioned bytes.

use std::borrow::Cow;

#[cfg(doc)]
use crate::format::Format;
use crate::format::{FormatError, Level, STORAGE};
use crate::limits::SEGMENT_BYTES_MAX;

const WHAT: &str = "segment of the raft log";
/// Bytes in front of the first entry: version and index.
const HEAD_BYTES: usize = 2 + 8;
const LENGTH_BYTES: usize = 4;

/// Entries that are gathered for one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    first: u64,
    count: u64,
    /// As it is stored, without what [`Format::sealed`] adds; empty without entries.
    bytes: Vec<u8>,
}

impl Segment {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        let (version, body) = STORAGE.open(WHAT, bytes)?;
        let bytes = [&version.to_le_bytes(), body].concat();
        let entries = entries_of(body)?;
        let mut segment = Self { first: entries.next, count: 0, bytes };
        for entry in entries {
            entry?;
            segment.count += 1;
        }
        Ok(segment)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Index of the first entry, and the index after the last; equal without entries.
    pub(super) fn range(&self) -> (u64, u64) {
        (self.first, self.first + self.count)
    }

    /// The bytes of the segment, as they are stored.
    pub(super) fn bytes(&self) -> Cow<'_, [u8]> {
        STORAGE.sealed(&self.bytes)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() > SEGMENT_BYTES_MAX
    }

    /// Whether an entry of `bytes` bytes can be put behind those that are here.
    pub(super) fn takes(&self, index: u64, bytes: usize) -> bool {
        let size = self.bytes.len() + LENGTH_BYTES + bytes;
        self.is_empty() || (index == self.range().1 && size <= SEGMENT_BYTES_MAX)
    }

    /// Puts an entry behind the others. It follows them: see [`Segment::takes`].
    pub(super) fn push(&mut self, level: Level, index: u64, entry: &[u8]) {
        if self.is_empty() {
            self.first = index;
            self.bytes = STORAGE.at(level).to_le_bytes().to_vec();
            self.bytes.extend(index.to_le_bytes());
        }
        let length = u32::try_from(entry.len()).expect("an entry is far smaller than 4 GiB");
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(entry);
        self.count += 1;
    }

    /// Drops the entries from `end` on.
    pub(super) fn cut(&mut self, end: u64) {
        let keep = end.saturating_sub(self.first).min(self.count);
        if keep == 0 {
            return *self = Self::default();
        }
        let mut size = HEAD_BYTES;
        for _ in 0..keep {
            let length = self.bytes[size..size + LENGTH_BYTES].try_into().expect("four bytes");
            size += LENGTH_BYTES + u32::from_le_bytes(length) as usize;
        }
        self.bytes.truncate(size);
        self.count = keep;
    }
}

/// Index and bytes of each entry.
pub(super) fn entries(bytes: &[u8]) -> Result<Entries<'_>, FormatError> {
    let (_, body) = STORAGE.open(WHAT, bytes)?;
    entries_of(body)
}

fn entries_of(body: &[u8]) -> Result<Entries<'_>, FormatError> {
    let (first, rest) = body.split_first_chunk::<8>().ok_or_else(cut)?;
    Ok(Entries { next: u64::from_le_bytes(*first), rest })
}

/// The entries of a segment: see [`entries`].
pub(super) struct Entries<'a> {
    next: u64,
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(u64, &'a [u8]), FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.rest.split_first_chunk::<LENGTH_BYTES>().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
        });
        let Some((entry, rest)) = entry else {
            self.rest = &[];
            return Some(Err(cut()));
        };
        let index = self.next;
        (self.next, self.rest) = (index.wrapping_add(1), rest);
        Some(Ok((index, entry)))
    }
}

fn cut() -> FormatError {
    FormatError::Damaged { what: WHAT, reason: "ends inside an entry".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Level, next};

    fn of(entries: &[(u64, &[u8])]) -> Segment {
        let mut segment = Segment::default();
        entries.iter().for_each(|(index, entry)| segment.push(Level::FIRST, *index, entry));
        segment
    }

    #[test]
    fn what_is_gathered_is_read_back_and_can_be_cut() {
        let mut segment = of(&[(7, b"one"), (8, b""), (9, b"three")]);
        assert_eq!(Segment::read(&segment.bytes()).unwrap(), segment);
        assert_eq!(segment.range(), (7, 10));
        for (end, left) in [(12, 10), (10, 10), (9, 9), (8, 8)] {
            segment.cut(end);
            assert_eq!(segment.range(), (7, left), "cut at {end}");
            assert_eq!(Segment::read(&segment.bytes()).unwrap(), segment);
        }
        segment.cut(3);
        assert_eq!(segment, Segment::default());
    }

    #[test]
    fn a_segment_of_the_next_level_has_its_sum_behind_all_of_its_entries() {
        let _next = next::on_this_thread();
        let mut segment = Segment::default();
        for index in 7..10 {
            segment.push(Level::NEXT_BUILD, index, b"entry");
            assert_eq!(Segment::read(&segment.bytes()).unwrap(), segment);
        }
        segment.cut(8);
        let stored = segment.bytes().into_owned();
        assert_eq!(entries(&stored).unwrap().map(Result::unwrap).collect::<Vec<_>>(), [(7, &b"entry"[..])]);
        let mut damaged = stored;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(matches!(Segment::read(&damaged), Err(FormatError::Damaged { .. })));
    }

    #[test]
    fn only_the_next_entry_is_taken_and_no_more_than_a_page() {
        let segment = of(&[(7, b"one")]);
        assert!(segment.takes(8, 10) && !segment.takes(9, 10) && !segment.takes(7, 10));
        let room = SEGMENT_BYTES_MAX - segment.bytes().len() - LENGTH_BYTES;
        assert!(segment.takes(8, room) && !segment.takes(8, room + 1));
        assert!(Segment::default().takes(1, SEGMENT_BYTES_MAX * 9), "a large one is alone");
    }

    #[test]
    fn what_was_never_written_is_damage() {
        let segment = of(&[(7, b"one"), (8, b"two")]);
        let whole = segment.bytes();
        let ends = [HEAD_BYTES, HEAD_BYTES + LENGTH_BYTES + 3, whole.len()];
        for length in 0..=whole.len() {
            let read = Segment::read(&whole[..length]);
            assert_eq!(read.is_ok(), ends.contains(&length), "{length} bytes: {read:?}");
        }
        let mut newer = whole.to_vec();
        newer[0] = 9;
        assert!(matches!(Segment::read(&newer), Err(FormatError::Newer { found: 9, .. })));
    }
}
