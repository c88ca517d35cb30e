//! What the headers to containerd may promise while the bytes behind them are still being received
//! and verified.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::agent::content::head::Head;

/// Made by whoever receives, taken by whoever answers.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    head: Option<Head>,
    taken: bool,
}

impl Offer {
    /// A source has answered properly with this head. False: other headers are out already.
    pub(crate) fn make(&self, head: Head) -> bool {
        let mut state = self.lock();
        if state.taken {
            return state.head == Some(head);
        }
        state.head = Some(head);
        true
    }

    /// That source has failed.
    pub(crate) fn withdraw(&self) {
        let mut state = self.lock();
        if !state.taken {
            state.head = None;
        }
    }

    /// The headers go out now, if there is an offer; from now on only the same one can be made.
    pub(crate) fn take(&self) -> Option<Head> {
        let mut state = self.lock();
        state.taken = state.head.is_some();
        state.head
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
