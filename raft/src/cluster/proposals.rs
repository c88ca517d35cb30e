//! Writes. What is proposed and not yet applied is bounded before openraft sees it: its own limits
//! count entries, ours bytes.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, RaftError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::command::{COMMAND_BYTES_MAX, Command, Reply};
use crate::types::Member;

use super::{Inner, Node, POLL_INTERVAL};

/// Encoded commands that are proposed and not yet applied, bytes.
pub const PROPOSED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Proposals that wait for their result.
pub const PROPOSALS_MAX: usize = 4096;

/// How long a proposal waits for its result; then its outcome is unknown.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A leader whose lease ended (nothing was proposed) is asked again for so long.
const LEASE_WAIT_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(COMMAND_BYTES_MAX < PROPOSED_BYTES_MAX);

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its log index.
    pub index: u64,
    /// What `apply` answered.
    pub reply: Reply,
}

/// Why a proposal has no result.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed: another node leads, or nobody with a quorum.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if that is known.
        leader: Option<Member>,
    },
    /// Not proposed: too much waits already.
    #[error("too many proposals wait")]
    Overloaded,
    /// Proposed, but not known to be applied in time; it may still be.
    #[error("the outcome of the proposal is unknown")]
    OutcomeUnknown,
    /// Not proposed: it could not be stored, the disks of too many servers are low.
    #[error("{reason}")]
    NoRoom {
        /// Which, and how low.
        reason: String,
    },
    /// Not proposed: the node has stopped.
    #[error("raft has stopped: {reason}")]
    Stopped {
        /// What it said.
        reason: String,
    },
    /// Not proposed: the encoded command may be larger than an entry may be.
    #[error("the command has up to {bytes} bytes, the limit is {COMMAND_BYTES_MAX}")]
    TooLarge {
        /// How large.
        bytes: usize,
    },
}

impl Node {
    /// Proposes on the leader and waits until the entry is applied here; elsewhere, says who leads.
    pub async fn propose(&self, command: Command) -> Result<Proposed, ProposeError> {
        let bytes = command.bytes_at_most();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes });
        }
        // A tombstone is part of a change of the membership, which may be the way out.
        if !matches!(command, Command::Tombstone { .. })
            && let Some(reason) = self.no_room()
        {
            return Err(ProposeError::NoRoom { reason });
        }
        let permit = self.inner.budget.take(bytes).ok_or(ProposeError::Overloaded)?;
        let inner = self.inner.clone();
        // A task of its own: the permit is held until the entry is applied, also if the caller goes.
        let write = self.inner.tasks.spawn(async move {
            let result = inner.write(command).await;
            drop(permit);
            result
        });
        match tokio::time::timeout(PROPOSE_TIMEOUT, write).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }

    /// On the leader: waits until every entry that was committed before is applied here, those of
    /// earlier terms included (ReadIndex). Then it may judge by its index.
    pub async fn catch_up(&self) -> Result<(), ProposeError> {
        let caught_up = self.inner.raft.ensure_linearizable(openraft::raft::ReadPolicy::ReadIndex);
        match tokio::time::timeout(PROPOSE_TIMEOUT, caught_up).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ProposeError::Stopped { reason: fatal.to_string() }),
            Ok(Err(RaftError::APIError(_))) | Err(_) => Err(ProposeError::NotLeader { leader: None }),
        }
    }
}

impl Inner {
    async fn write(&self, command: Command) -> Result<Proposed, ProposeError> {
        if let Err(fatal) = &self.raft.metrics().borrow_watched().running_state {
            return Err(ProposeError::Stopped { reason: fatal.to_string() });
        }
        let deadline = Instant::now() + LEASE_WAIT_MAX;
        loop {
            let error = match self.raft.client_write(command.clone()).await {
                Ok(written) => return Ok(Proposed { index: written.log_id.index, reply: written.data }),
                Err(error) => error,
            };
            let forward = match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => forward,
                // Others may commit what this node proposed, also if it stops.
                RaftError::APIError(_) | RaftError::Fatal(_) => return Err(ProposeError::OutcomeUnknown),
            };
            // Nothing was proposed: a leader that has just been elected gets its lease with the
            // first answers.
            if forward.reason != ForwardReason::LeaseExpired || Instant::now() >= deadline {
                return Err(ProposeError::NotLeader { leader: forward.leader_node });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

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
