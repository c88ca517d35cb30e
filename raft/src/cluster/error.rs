//! Why a node does not start, and why a running one ends.

use std::error::Error;
use std::sync::Arc;

use crate::damage::WHAT_TO_DO;
use crate::disk::{Disk, Fault, FileUser};
use crate::format::UnknownLevel;
use crate::index::{IndexError, STATE_FILE};
use crate::log::{LOG_FILE, LogError};
use crate::network::IdentityError;
use crate::types::NodeId;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There must be one server at least.
    #[error("--cluster names no server")]
    NoMembers,
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state cannot be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Another process has the files open.
    #[error("another server uses this data folder: {}; stop it, or give each server a folder of its own", named(user.as_ref()))]
    InUse {
        /// That process, as far as this one can see.
        user: Option<FileUser>,
    },
    /// The identity of the node cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The raft log is gone beside the state: this node may have forgotten its vote, and could vote
    /// a second time in one term.
    #[error(
        "the data folder has a state up to log index {applied} but no raft log: {LOG_FILE} with the \
         vote and the entries is lost; put it back, or {WHAT_TO_DO}"
    )]
    LogLost {
        /// Log index of the state.
        applied: u64,
    },
    /// The raft log is an older one than the state was made with: this node has voted since.
    #[error(
        "the state has an entry of term {applied}, but the raft log knows terms up to {voted} only: {LOG_FILE} \
         was replaced by an older one; put the right one back, or {WHAT_TO_DO}"
    )]
    LogOlder {
        /// Term of the last applied entry.
        applied: u64,
        /// Term of the last vote.
        voted: u64,
    },
    /// The state is gone, or is an older one than the raft log goes on from.
    #[error(
        "the raft log begins after log index {purged} but the state ends at {applied}: {STATE_FILE} \
         is lost or was replaced by an older one; put the right one back, or {WHAT_TO_DO}"
    )]
    StateLost {
        /// The last entry that the log has no longer.
        purged: u64,
        /// Log index of the state, 0 for none.
        applied: u64,
    },
    /// The node was removed from its cluster.
    #[error(
        "server {node_id:016x} was removed from its cluster: start with an empty folder and --join to come \
         back as a new one"
    )]
    Removed {
        /// Id of this node.
        node_id: NodeId,
    },
    /// openraft did not start, or the task that started it was aborted.
    #[error("could not start raft")]
    Raft {
        /// The error of openraft, or of the task.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

fn named(user: Option<&FileUser>) -> String {
    let unseen =
        || "which process it is cannot be seen from here (another user, or another container)".to_owned();
    user.map_or_else(unseen, FileUser::to_string)
}

impl StartError {
    /// Why the files of `disk` could not be opened.
    pub(super) fn opening(error: StartError, disk: &dyn Disk) -> Self {
        let (source, name) = match &error {
            StartError::Log(LogError::Open { source }) => (source, LOG_FILE),
            StartError::Index(IndexError::Open { source }) => (source.as_ref(), STATE_FILE),
            _ => return error,
        };
        match source {
            redb::DatabaseError::DatabaseAlreadyOpen => StartError::InUse { user: disk.user(name) },
            _ => error,
        }
    }

    pub(super) fn raft(error: impl Error + Send + Sync + 'static) -> Self {
        StartError::Raft { source: Box::new(error) }
    }
}

/// Why a running node ended without being asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeFailure {
    /// The others have removed it.
    #[error(
        "server {node_id:016x} was removed from its cluster: start with an empty folder and --join to come \
         back as a new one"
    )]
    Removed {
        /// Id of this node.
        node_id: NodeId,
    },
    /// The cluster has begun to write what this build does not know.
    #[error(transparent)]
    Level(#[from] UnknownLevel),
    /// The disk failed, or is full.
    #[error(transparent)]
    Disk(#[from] Fault),
    /// Raft or the storage failed.
    #[error(transparent)]
    Broken(Arc<dyn Error + Send + Sync>),
    /// Raft ended, and nobody has said why.
    #[error("raft ended")]
    RaftEnded,
    /// A task of the node panicked, which is a defect.
    #[error("the node's task {name} panicked; the log line before says where")]
    TaskPanicked {
        /// Name of the task.
        name: &'static str,
    },
    /// A task of the node ended that should have gone on, which is a defect.
    #[error("the node's task {name} ended early")]
    TaskEnded {
        /// Name of the task.
        name: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FolderDisk;
    use crate::log::LogStore;

    #[tokio::test]
    async fn a_folder_in_use_is_refused_with_the_process_that_uses_it() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FolderDisk::open(folder.path()).unwrap();
        let _running = LogStore::open(&disk).unwrap();
        let error = LogStore::open(&disk).map(|_| ()).unwrap_err();
        let error = StartError::opening(error.into(), &disk).to_string();
        let this = format!("another server uses this data folder: process {} (", std::process::id());
        assert!(error.starts_with(&this) && error.contains("stop it"), "{error}");
    }
}
