//! Why a server did not start, or did not go on.

use std::io;
use std::path::PathBuf;

use piccolo_raft::cluster::{NodeFailure, StartError};

use super::addresses::AddressError;
use crate::http::BindError;
use crate::task::TaskError;

/// Why a server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its addresses do not fit together.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// A port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener has no address.
    #[error("could not read the address of a listener")]
    Listener(#[source] io::Error),
    /// The system gives no threads.
    #[error("could not start the threads of raft")]
    Threads(#[source] io::Error),
    /// The data folder cannot be had.
    #[error("could not open data folder {}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node did not start.
    #[error("could not start in data folder {}", folder.display())]
    Start {
        /// Its data.
        folder: PathBuf,
        /// Why.
        #[source]
        source: StartError,
    },
    /// Raft or the storage failed: a supervisor starts the process again.
    #[error("the replicated index failed: {reason}")]
    Failed {
        /// What it said.
        reason: String,
    },
    /// The disk is broken or full: a supervisor starts the process again, until somebody has helped.
    #[error("{reason}")]
    Disk {
        /// Which file, why, and what to do.
        reason: String,
    },
    /// The other servers have removed this one: it does not start again with this data.
    #[error("{reason}")]
    Removed {
        /// Whom, and what to do.
        reason: String,
    },
    /// A task ended that should have gone on.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl From<NodeFailure> for Error {
    fn from(failure: NodeFailure) -> Self {
        match failure {
            NodeFailure::Removed { .. } => Error::Removed { reason: failure.to_string() },
            NodeFailure::Disk { reason } => Error::Disk { reason },
            NodeFailure::Broken { reason } => Error::Failed { reason },
            NodeFailure::Level(unknown) => Error::Failed { reason: unknown.to_string() },
        }
    }
}
