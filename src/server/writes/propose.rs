//! Here a write waits for its result: [`Node::propose`] returns once the entry is on the disks of a majority
//! and applied to this server's index.

use piccolo_raft::cluster::Node;
use piccolo_raft::command::{Command, Reply};

use crate::server::error::ApiError;

/// Proposes the entries of one write in their order; returns the log index of the last one.
///
/// # Errors
/// Once an entry is applied, a failure of a later one is [`ApiError::OutcomeUnknown`], because a part of the
/// write has been done.
pub async fn propose(node: &Node, commands: Vec<Command>) -> Result<u64, ApiError> {
    let mut index = None;
    for command in commands {
        let proposed = node.propose(command).await;
        let proposed = proposed.map_err(|error| after_a_part(index.is_some(), error.into()))?;
        index = Some(proposed.index);
        match proposed.reply {
            Reply::Applied { .. } => {}
            // A withdraw of an unknown host: its keys are gone already.
            Reply::UnknownHost => {}
            Reply::Stale { stored } => return Err(ApiError::Stale { stored }),
            Reply::BeyondLevel { needs, active } => {
                let error = ApiError::BeyondLevel { what: "write", needs, active };
                return Err(after_a_part(index.is_some(), error));
            }
            Reply::None | Reply::NotApplicable => {
                return Err(ApiError::Internal { reason: "a write had the reply of another command" });
            }
        }
    }
    index.ok_or(ApiError::Internal { reason: "a write without entries" })
}

/// The error that a client is told: `applied` says whether a part of the write may have been done before it.
pub fn after_a_part(applied: bool, error: ApiError) -> ApiError {
    if applied && !matches!(error, ApiError::Stale { .. }) { ApiError::OutcomeUnknown } else { error }
}

/// Refuses a write that must be stored while the disks of too many servers are low. [`propose`] would refuse
/// it as well, after more work. A write that is stored already is not refused: its answer may have been lost.
///
/// # Errors
/// [`ApiError::NoRoom`].
pub fn refuse_without_room(node: &Node) -> Result<(), ApiError> {
    node.no_room().map_or(Ok(()), |reason| Err(ApiError::NoRoom { reason: reason.to_string() }))
}
