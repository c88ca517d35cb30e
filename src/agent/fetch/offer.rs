//! What the headers to containerd may promise while the bytes behind them are still being received
//! and verified.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::agent::content::head::Head;

/// The head that a source has offered: made by the transfer, taken by the response.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    offered: Mutex<OfferedHead>,
}

#[derive(Debug, Default)]
struct OfferedHead {
    head: Option<Head>,
    /// Whether the headers went out: from then on the head stays.
    taken: bool,
}

impl Offer {
    /// Notes that a source has answered properly with this head. Returns whether it may be used: not if other
    /// headers went out already.
    pub(crate) fn make(&self, head: Head) -> bool {
        let mut offered = self.lock();
        if offered.taken {
            return offered.head == Some(head);
        }
        offered.head = Some(head);
        true
    }

    /// Takes the offer back, because the source has failed.
    pub(crate) fn withdraw(&self) {
        let mut offered = self.lock();
        if !offered.taken {
            offered.head = None;
        }
    }

    /// The head with which the headers go out now, if there is an offer. From now on only the same head can be
    /// offered.
    pub(crate) fn take(&self) -> Option<Head> {
        let mut offered = self.lock();
        offered.taken = offered.head.is_some();
        offered.head
    }

    fn lock(&self) -> MutexGuard<'_, OfferedHead> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Head = Head { total: 10, range: None };
    const B: Head = Head { total: 11, range: None };

    #[test]
    fn what_was_promised_cannot_change() {
        let offer = Offer::default();
        assert_eq!(offer.take(), None);
        assert!(offer.make(B) && offer.make(A));
        assert_eq!(offer.take(), Some(A));
        offer.withdraw();
        assert!(!offer.make(B) && offer.make(A));
    }

    #[test]
    fn a_failed_source_promises_nothing() {
        let offer = Offer::default();
        offer.make(A);
        offer.withdraw();
        assert_eq!(offer.take(), None);
        assert!(offer.make(B), "nothing was taken");
    }
}
