//! `Range` and `Content-Range` with one range (RFC 9110, section 14).

use std::fmt;

/// What a `Range` header asks for, before the length of the content is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeHeader {
    /// `bytes=first-`
    From(u64),
    /// `bytes=first-last`, both included.
    Between(u64, u64),
    /// `bytes=-length`
    Last(u64),
}

/// A part of content of known length, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// Length of the whole.
    pub total: u64,
}

impl RangeHeader {
    /// Reads a header. Several ranges, other units and nonsense are `None`: the RFC lets a server
    /// ignore them and send the whole.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, range) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim().split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Last(number(length)?)),
            (first, "") => Some(Self::From(number(first)?)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::Between(first, last))
            }
        }
    }

    /// Which bytes of `total` that is; `None` if none of them (416).
    pub fn within(self, total: u64) -> Option<ByteRange> {
        let (start, end) = match self {
            Self::From(first) => (first, total),
            Self::Between(first, last) => (first, last.saturating_add(1).min(total)),
            Self::Last(length) => (total.saturating_sub(length), total),
        };
        (start < end).then_some(ByteRange { start, end, total })
    }
}

impl fmt::Display for RangeHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(first) => write!(f, "bytes={first}-"),
            Self::Between(first, last) => write!(f, "bytes={first}-{last}"),
            Self::Last(length) => write!(f, "bytes=-{length}"),
        }
    }
}

// A range is never empty: `within` answers `None` instead.
#[expect(clippy::len_without_is_empty)]
impl ByteRange {
    /// All of content that is not empty.
    pub fn whole(total: u64) -> Self {
        Self { start: 0, end: total, total }
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it is all of the content.
    pub fn is_whole(&self) -> bool {
        self.start == 0 && self.end == self.total
    }

    /// Reads `bytes first-last/total`; a total of `*` is not accepted.
    pub fn parse_content_range(value: &str) -> Option<Self> {
        let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (start, last, total) = (number(first)?, number(last)?, number(total)?);
        let range = Self { start, end: last.checked_add(1)?, total };
        (range.start < range.end && range.end <= total).then_some(range)
    }
}

/// As a `Content-Range` value.
impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}/{}", self.start, self.end - 1, self.total)
    }
}

/// Digits only: `u64::from_str` would take a `+`.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_written_alike() {
        for text in ["bytes=0-", "bytes=5-9", "bytes=-3"] {
            assert_eq!(RangeHeader::parse(text).unwrap().to_string(), text);
        }
        for text in
            ["bytes=", "bytes=-", "bytes=9-5", "bytes=0-1,3-4", "items=0-1", "bytes=+1-", "bytes=a-b", "0-1"]
        {
            assert_eq!(RangeHeader::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_content() {
        let whole = ByteRange { start: 0, end: 10, total: 10 };
        assert_eq!(RangeHeader::From(0).within(10), Some(whole));
        assert_eq!(RangeHeader::Last(99).within(10), Some(whole));
        assert_eq!(RangeHeader::Between(0, u64::MAX).within(10), Some(whole));
        assert_eq!(RangeHeader::From(9).within(10).unwrap().to_string(), "bytes 9-9/10");
        assert_eq!(RangeHeader::From(10).within(10), None);
        assert_eq!(RangeHeader::Last(0).within(10), None);
        assert_eq!(RangeHeader::From(0).within(0), None);
    }

    #[test]
    fn content_ranges_that_contradict_themselves_are_refused() {
        assert_eq!(ByteRange::parse_content_range("bytes 2-9/10").unwrap().len(), 8);
        for text in [
            "bytes 2-10/10",
            "bytes 3-2/10",
            "bytes 0-9/*",
            "bytes */10",
            "0-9/10",
            "bytes 0-18446744073709551615/1",
        ] {
            assert_eq!(ByteRange::parse_content_range(text), None, "{text}");
        }
    }
}
