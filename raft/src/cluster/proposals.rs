//! Bounds what is proposed and not yet applied, before openraft sees it: its own limits count
//! entries, ours bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Encoded commands that are proposed and not yet applied, bytes.
pub const PROPOSED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Proposals that wait for their result.
pub const PROPOSALS_MAX: usize = 4096;

const _: () = assert!(crate::command::COMMAND_BYTES_MAX < PROPOSED_BYTES_MAX);

/// What one proposal holds until it is applied.
pub(super) struct Permit {
    _bytes: OwnedSemaphorePermit,
    _one: OwnedSemaphorePermit,
}

/// Shared by all proposals of a node.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: Arc<Semaphore>,
    count: Arc<Semaphore>,
}

impl Budget {
    pub(super) fn new(bytes: usize, count: usize) -> Self {
        Self { bytes: Arc::new(Semaphore::new(bytes)), count: Arc::new(Semaphore::new(count)) }
    }

    /// `None`: overloaded.
    pub(super) fn take(&self, bytes: usize) -> Option<Permit> {
        let bytes = u32::try_from(bytes).ok()?;
        let _bytes = self.bytes.clone().try_acquire_many_owned(bytes).ok()?;
        let _one = self.count.clone().try_acquire_owned().ok()?;
        Some(Permit { _bytes, _one })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_are_given_back() {
        let budget = Budget::new(100, 3);
        let held: Vec<Permit> = (0..3).map(|_| budget.take(10).unwrap()).collect();
        assert!(budget.take(1).is_none(), "three wait");
        drop(held);
        let held = budget.take(90).unwrap();
        assert!(budget.take(11).is_none(), "101 bytes");
        assert!(budget.take(10).is_some());
        drop(held);
        assert!(budget.take(100).is_some());
    }
}
