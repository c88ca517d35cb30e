//! Writes. What is proposed and not yet applied is bounded before openraft sees it: its own limits
//! count entries, ours bytes.
//!
//! - `together`: which writes wait for others, to share a commit.

mod together;

use std::sync::Arc;

use futures_util::StreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardReason, RaftError};
use openraft::raft::{WriteResponse, WriteResult};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::command::{Command, Reply};
use crate::format::Level;
use crate::index::holder_of;
use crate::limits::{
    LEADER_LEASE_WAIT_MAX, LINGER, POLL_INTERVAL, PROPOSALS_MAX, PROPOSE_TIMEOUT, PROPOSED_BYTES_MAX,
};
use crate::model::COMMAND_BYTES_MAX;
use crate::network::identity::Identity;
use crate::space::{Guard, NoRoom};
use crate::state_machine::Raft;
use crate::types::{Member, TypeConfig};

use super::Node;
use super::lifetime::Lifetime;
use together::{Joined, Together, Waiting};

/// What became of a write.
type Written = WriteResult<TypeConfig>;

/// A write on its way.
type InFlight = JoinHandle<Result<Proposed, ProposeError>>;

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Log index of the entry.
    pub index: u64,
    /// Answer of `apply`.
    pub reply: Reply,
}

/// Why a proposal has no result.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed: another node leads, or nobody with a quorum.
    #[error("this node does not lead")]
    NotLeader {
        /// The member that leads, if it is known.
        leader: Option<Member>,
    },
    /// Not proposed: too much waits already.
    #[error("too many proposals wait")]
    Overloaded,
    /// Proposed, but not known to be applied in time; it may still be.
    #[error("the outcome of the proposal is unknown")]
    OutcomeUnknown,
    /// Not proposed: it could not be stored, the disks of too many servers are low.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// Not proposed: raft has ended.
    #[error("raft has stopped: {fatal}")]
    Stopped {
        /// What ended raft.
        fatal: Box<Fatal<TypeConfig>>,
    },
    /// Not proposed: the node is stopping.
    #[error("raft has stopped: this node is stopping")]
    Stopping,
    /// Not proposed: the servers have not agreed yet to write such commands.
    #[error("the command needs {needs}, the cluster runs at {active}")]
    BeyondLevel {
        /// The lowest level at which it may be written.
        needs: Level,
        /// The level at which the cluster writes.
        active: Level,
    },
    /// Not proposed: the encoded command may be larger than an entry may be.
    #[error("the command has up to {bytes} bytes, the limit is {COMMAND_BYTES_MAX}")]
    TooLarge {
        /// Largest size of the encoded command, bytes.
        bytes: usize,
    },
}

impl Node {
    /// Proposes on the leader and waits until the entry is applied here; elsewhere, says who leads.
    pub async fn propose(&self, command: Command) -> Result<Proposed, ProposeError> {
        self.inner.proposals.propose(command).await
    }

    /// On the leader: waits until every entry that was committed before is applied here, those of
    /// earlier terms included (ReadIndex). Then it may judge by its index.
    pub async fn catch_up(&self) -> Result<(), ProposeError> {
        self.inner.proposals.catch_up().await
    }

    /// On the leader: why no writes are taken, if that is so. The disks of too many voters are low.
    pub fn no_room(&self) -> Option<NoRoom> {
        self.inner.proposals.no_room()
    }
}

/// Proposes commands; clones share what bounds them.
#[derive(Clone)]
pub(super) struct Proposals {
    identity: Arc<Identity>,
    raft: Raft,
    guard: Arc<Guard>,
    lifetime: Lifetime,
    budget: Budget,
    together: Arc<Together<Written>>,
}

impl Proposals {
    pub(super) fn new(identity: Arc<Identity>, raft: Raft, guard: Arc<Guard>, lifetime: Lifetime) -> Self {
        let budget = Budget::new(PROPOSED_BYTES_MAX, PROPOSALS_MAX);
        Self { identity, raft, guard, lifetime, budget, together: Arc::default() }
    }

    /// See [`Node::no_room`].
    pub(super) fn no_room(&self) -> Option<NoRoom> {
        self.guard.no_room().filter(|_| self.raft.is_leader())
    }

    /// See [`Node::propose`].
    pub(super) async fn propose(&self, command: Command) -> Result<Proposed, ProposeError> {
        let write = self.begin(command)?;
        match tokio::time::timeout(PROPOSE_TIMEOUT, write).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }

    /// Like [`Proposals::propose`], but waits for as long as the entry may still be committed by this leader.
    pub(super) async fn propose_to_the_end(&self, command: Command) -> Result<Proposed, ProposeError> {
        self.begin(command)?.await.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    fn begin(&self, command: Command) -> Result<InFlight, ProposeError> {
        let (needs, active) = (command.needs(), self.identity.level());
        if needs > active {
            return Err(ProposeError::BeyondLevel { needs, active });
        }
        #[cfg(any(test, feature = "next-format"))]
        let command = command.newest(active);
        let bytes = command.bytes_at_most();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes });
        }
        // A tombstone is part of a change of the membership, which may be the way out.
        if !matches!(command, Command::Tombstone { .. })
            && let Some(reason) = self.no_room()
        {
            return Err(reason.into());
        }
        let permit = self.budget.take(bytes).ok_or(ProposeError::Overloaded)?;
        let proposals = self.clone();
        // A task of its own: the permit is held until the entry is applied, also if the caller goes.
        Ok(self.lifetime.tasks.spawn(async move {
            let result = proposals.write(command).await;
            drop(permit);
            result
        }))
    }

    /// See [`Node::catch_up`].
    pub(super) async fn catch_up(&self) -> Result<(), ProposeError> {
        let caught_up = self.raft.ensure_linearizable(openraft::raft::ReadPolicy::ReadIndex);
        let caught_up = self.lifetime.unless_closing(caught_up);
        match tokio::time::timeout(PROPOSE_TIMEOUT, caught_up).await {
            Ok(Some(Ok(_))) => Ok(()),
            Ok(Some(Err(RaftError::Fatal(fatal)))) => Err(ProposeError::Stopped { fatal: Box::new(fatal) }),
            Ok(None) => Err(ProposeError::Stopping),
            Ok(Some(Err(RaftError::APIError(_)))) | Err(_) => Err(ProposeError::NotLeader { leader: None }),
        }
    }

    async fn write(&self, command: Command) -> Result<Proposed, ProposeError> {
        if let Err(fatal) = &self.raft.metrics().borrow_watched().running_state {
            return Err(ProposeError::Stopped { fatal: Box::new(fatal.clone()) });
        }
        let deadline = Instant::now() + LEADER_LEASE_WAIT_MAX;
        loop {
            let forward = match self.append(&command).await? {
                Ok(written) => {
                    return Ok(Proposed { index: written.log_id.index, reply: written.response });
                }
                Err(ClientWriteError::ForwardToLeader(forward)) => forward,
                Err(_) => return Err(ProposeError::OutcomeUnknown),
            };
            // Nothing was proposed: a leader that has just been elected gets its lease with the
            // first answers.
            if forward.reason != ForwardReason::LeaseExpired || Instant::now() >= deadline {
                return Err(ProposeError::NotLeader { leader: forward.leader_node });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Puts the command into the log, where others come at the same time together with theirs. It fails when
    /// this node stops: others may still commit what it has proposed.
    async fn append(&self, command: &Command) -> Result<Written, ProposeError> {
        let joined =
            holder_of(command).and_then(|holder| self.together.join(Instant::now(), holder, command));
        let Some(Joined { result, first }) = joined else {
            let written = self.raft.client_write(command.clone());
            return match self.lifetime.unless_closing(written).await {
                Some(Ok(written)) => Ok(Ok(WriteResponse::from(written))),
                Some(Err(RaftError::APIError(error))) => Ok(Err(error)),
                Some(Err(RaftError::Fatal(_))) | None => Err(ProposeError::OutcomeUnknown),
            };
        };
        if let Some(enough) = first {
            tokio::time::timeout(LINGER, enough).await.ok();
            self.append_together(self.together.take()).await;
        }
        result.await.map_err(|_| ProposeError::OutcomeUnknown)
    }

    /// In one append. Who gets no answer does not know what became of its write.
    async fn append_together(&self, writes: Vec<Waiting<Written>>) {
        let (commands, answers): (Vec<Command>, Vec<_>) =
            writes.into_iter().map(|write| (write.command, write.done)).unzip();
        let Ok(mut results) = self.raft.client_write_many(commands).await else { return };
        for answer in answers {
            let Some(Ok(result)) = results.next().await else { return };
            answer.send(result).ok();
        }
    }
}

/// What one proposal holds until it is applied.
struct Permit {
    _bytes: OwnedSemaphorePermit,
    _one: OwnedSemaphorePermit,
}

/// What all proposals of a node may hold together; clones share it.
#[derive(Clone, Debug)]
struct Budget {
    bytes: Arc<Semaphore>,
    count: Arc<Semaphore>,
}

impl Budget {
    fn new(bytes: usize, count: usize) -> Self {
        Self { bytes: Arc::new(Semaphore::new(bytes)), count: Arc::new(Semaphore::new(count)) }
    }

    /// A permit for a command of `bytes` bytes; `None` if too much waits already.
    fn take(&self, bytes: usize) -> Option<Permit> {
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
