//! What containerd asks for: one value that travels from the mirror to the peers.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::offer::Offer;
use super::resume::RunningRange;
use crate::limits::REQUEST_DEADLINE_MARGIN;
use crate::oci::{ContentPath, Digest, RangeHeader};

/// A request for content by its digest.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) path: ContentPath,
    pub(crate) digest: Digest,
    /// The part that is asked for; `None`: all of it.
    pub(crate) range: Option<RangeHeader>,
    /// Whether the client asked for the headers only.
    pub(crate) head_only: bool,
    /// When the headers of the response must go out.
    pub(crate) deadline: Instant,
    /// What the headers may promise before the bytes are verified.
    pub(crate) offer: Offer,
    /// The range while it runs, which ends with this value.
    pub(crate) running: Option<RunningRange>,
    /// Whether the client downloads only so much at once, over all of its pulls, and queues again for each host:
    /// containerd from 2.1 on.
    pub(crate) is_limited: bool,
    /// Whether it comes by a flight.
    pub(crate) in_flight: AtomicBool,
}

/// What peers are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A manifest, which is small: all of it, also if only its headers are wanted.
    Manifest,
    /// The size of a blob.
    Size,
    /// The bytes of a blob.
    Blob,
}

impl Wanted {
    /// A request for all of the content, which no source has answered yet.
    pub(crate) fn new(path: ContentPath, digest: Digest, deadline: Instant) -> Self {
        let (range, head_only, is_limited) = (None, false, false);
        let (offer, running, in_flight) = (Offer::default(), None, AtomicBool::default());
        Self { path, digest, range, head_only, deadline, offer, running, is_limited, in_flight }
    }

    /// Notes that it comes by a flight.
    pub(super) fn joins_flight(&self) {
        self.in_flight.store(true, Ordering::Relaxed);
    }

    /// Whether the client must not ask for later ranges beside this one: it comes by a flight, which brings the bytes in
    /// order. A containerd that fetches in parallel ranges (2.1 and later) divides the length that the response names.
    pub(crate) fn is_in_order(&self) -> bool {
        self.is_limited && self.range.is_some() && self.in_flight.load(Ordering::Relaxed)
    }

    /// What peers are asked for.
    pub(crate) fn kind(&self) -> Kind {
        match (self.path.is_manifest(), self.head_only) {
            (true, _) => Kind::Manifest,
            (false, true) => Kind::Size,
            (false, false) => Kind::Blob,
        }
    }

    /// When the search for a source ends.
    pub(super) fn peers_deadline(&self) -> Instant {
        self.deadline - REQUEST_DEADLINE_MARGIN
    }

    /// The registry that the content is of.
    pub(crate) fn registry(&self) -> Option<&str> {
        self.path.registry.as_deref()
    }

    /// Offset of the first byte that is asked for; `None` if it depends on the length.
    pub(crate) fn start(&self) -> Option<u64> {
        match self.range {
            None => Some(0),
            Some(RangeHeader::From(start) | RangeHeader::Between(start, _)) => Some(start),
            Some(RangeHeader::Last(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Item;

    fn wanted(is_manifest: bool, range: Option<RangeHeader>, head_only: bool) -> Wanted {
        let digest = Digest::of(b"x");
        let item = if is_manifest { Item::Manifest(digest.clone()) } else { Item::Blob(digest.clone()) };
        let path = ContentPath { registry: None, repository: "a".to_owned(), item };
        Wanted { range, head_only, ..Wanted::new(path, digest, Instant::now()) }
    }

    #[test]
    fn only_the_bytes_of_blobs_are_transferred() {
        assert_eq!(wanted(false, None, false).kind(), Kind::Blob);
        assert_eq!(wanted(false, None, true).kind(), Kind::Size);
        assert_eq!(wanted(true, None, false).kind(), Kind::Manifest);
        assert_eq!(wanted(true, None, true).kind(), Kind::Manifest);
    }

    #[test]
    fn a_range_of_a_limited_client_is_in_order_in_a_flight() {
        for is_limited in [false, true] {
            for range in [None, Some(RangeHeader::From(0)), Some(RangeHeader::From(7))] {
                let wanted = Wanted { is_limited, ..wanted(false, range, false) };
                assert!(!wanted.is_in_order());
                wanted.joins_flight();
                assert_eq!(wanted.is_in_order(), is_limited && range.is_some(), "{is_limited} {range:?}");
            }
        }
    }

    #[test]
    fn the_last_bytes_start_at_an_offset_that_is_not_known() {
        let start = |range| wanted(false, range, false).start();
        assert_eq!(start(None), Some(0));
        assert_eq!(start(Some(RangeHeader::From(7))), Some(7));
        assert_eq!(start(Some(RangeHeader::Between(8, 9))), Some(8));
        assert_eq!(start(Some(RangeHeader::Last(9))), None);
    }
}
