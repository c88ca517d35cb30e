//! Why a server did not start, or did not go on.

use std::io;
use std::path::PathBuf;

use piccolo_raft::cluster::{NodeFailure, StartError};
use piccolo_raft::disk::Fault;

use super::addresses::AddressError;
use crate::http::BindError;
use crate::identity::SecretError;
use crate::task::TaskError;

/// Why a server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The addresses of the server do not fit together.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// The cluster secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The certificates of the cluster secret cannot be used.
    #[error("could not use the certificates of the cluster secret")]
    Tls(#[source] rustls::Error),
    /// A port could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener has no address.
    #[error("could not read the address of a listener")]
    Listener(#[source] io::Error),
    /// The system refused a thread.
    #[error("could not start the threads of raft")]
    Threads(#[source] io::Error),
    /// The data folder could not be opened.
    #[error("could not open data folder {}", folder.display())]
    Folder {
        /// The data folder.
        folder: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The node did not start.
    #[error("could not start in data folder {}", folder.display())]
    Start {
        /// The data folder.
        folder: PathBuf,
        /// Why the node did not start.
        #[source]
        source: StartError,
    },
    /// Raft or the storage failed: a supervisor starts the process again.
    #[error("the replicated index failed")]
    Failed(#[source] NodeFailure),
    /// The disk was broken or full at the start: a supervisor starts the process again, until somebody has
    /// helped.
    #[error("{0}")]
    Disk(Fault),
    /// The disk failed, or got full, while the server ran: likewise.
    #[error(transparent)]
    DiskFailed(NodeFailure),
    /// The other servers have removed this one: it does not start again with this data.
    #[error(transparent)]
    Removed(NodeFailure),
    /// A task ended before the server was stopped.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl From<NodeFailure> for Error {
    fn from(failure: NodeFailure) -> Self {
        match failure {
            NodeFailure::Removed { .. } => Error::Removed(failure),
            NodeFailure::Disk(_) => Error::DiskFailed(failure),
            NodeFailure::Broken(_)
            | NodeFailure::RaftEnded
            | NodeFailure::Level(_)
            | NodeFailure::TaskPanicked { .. }
            | NodeFailure::TaskEnded { .. } => Error::Failed(failure),
        }
    }
}
