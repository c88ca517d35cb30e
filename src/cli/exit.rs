//! How a command ends.

use std::error::Error;
use std::process::ExitCode;
use std::{fmt, io};

use piccolo_raft::cluster::StartError;

use crate::agent;
use crate::api::client::{Attempt, ClientError};
use crate::config::Problems;
use crate::server;
use crate::server::offline::OfflineError;

/// Exit codes; `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Did what was asked.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage or configuration: trying again is senseless.
    Usage = 2,
    /// `find`: nobody has it.
    NotFound = 3,
    /// No server could be reached, or none could serve.
    Unreachable = 4,
    /// `server`: it was removed from its cluster, and does not start again with its data.
    Removed = 5,
    /// `server`: its disk is full or broken; the message names the file and says what to do.
    Disk = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What it was told makes no sense.
    #[error(transparent)]
    Config(#[from] Problems),
    /// A server refused, or could not serve.
    #[error(transparent)]
    Client(ClientError),
    /// No server answered.
    #[error(
        "no discovery server answered: {}; start one there, or name others with --server URL",
        Attempt::list(servers)
    )]
    Unreachable {
        /// Every server that was asked, with its last reason.
        servers: Vec<Attempt>,
    },
    /// `piccolo server`.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// `piccolo agent`.
    #[error(transparent)]
    Agent(#[from] agent::Error),
    /// An error that only one command has.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// `piccolo snapshot restore` and `piccolo server --force-new-cluster`.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// `find` was given something that is no image.
    #[error("{reference:?} is neither a digest nor the name of an image")]
    BadReference {
        /// What was given.
        reference: String,
    },
    /// A change of the membership stands still.
    #[error("gave up after {seconds} s without progress ({last}); the same command goes on from there")]
    NoProgress {
        /// How long.
        seconds: u64,
        /// What the servers said last.
        last: String,
    },
    /// The system refused something that every process needs.
    #[error("could not {action}")]
    Process {
        /// What was tried.
        action: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The parent that this process was to end with is gone already.
    #[error("the parent process {parent} is gone")]
    ParentGone {
        /// Its pid.
        parent: u32,
    },
    /// The supervisor holds other ports than the configuration says by now.
    #[error("the listening addresses have changed: that needs a restart of the agent")]
    OtherPorts,
    /// The first worker; it has told why.
    #[error("the agent could not start: its worker ended with exit code {code}; its message above says why")]
    WorkerDidNotStart {
        /// Of the worker.
        code: i32,
    },
    /// A worker was killed, or failed, after it had been told to stop.
    #[error("a worker of the agent failed, or was killed, while it was stopping; the log says which")]
    WorkerStoppedBadly,
    /// A second signal came while the process was stopping.
    #[error("told to stop twice: ended without waiting for what was running")]
    StoppedTwice,
}

/// An error of one command, with the exit code that the command gives it. The command defines the error, so this
/// file names no command.
#[derive(Debug)]
pub struct CommandError {
    exit: Exit,
    error: Box<dyn Error + Send + Sync>,
}

impl CommandError {
    /// An error that ends its command with `exit`.
    pub(super) fn new(exit: Exit, error: impl Error + Send + Sync + 'static) -> Self {
        Self { exit, error: Box::new(error) }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for CommandError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable { servers } => CliError::Unreachable { servers },
            error => CliError::Client(error),
        }
    }
}

impl CliError {
    /// Its exit code.
    pub fn exit(&self) -> Exit {
        match self {
            CliError::Config(_) | CliError::BadReference { .. } => Exit::Usage,
            CliError::Client(error) => match error {
                ClientError::NoServer | ClientError::BadServer { .. } => Exit::Usage,
                ClientError::Unreachable { .. } | ClientError::Unavailable { .. } => Exit::Unreachable,
                ClientError::Refused { .. } | ClientError::Malformed { .. } => Exit::Failed,
            },
            CliError::Unreachable { .. } => Exit::Unreachable,
            CliError::Server(server::Error::Addresses(_)) => Exit::Usage,
            CliError::Server(
                server::Error::Removed(_) | server::Error::Start { source: StartError::Removed { .. }, .. },
            ) => Exit::Removed,
            CliError::Server(server::Error::Disk(_) | server::Error::DiskFailed(_)) => Exit::Disk,
            CliError::Server(_) | CliError::Agent(_) => Exit::Failed,
            CliError::Command(error) => error.exit,
            CliError::WorkerDidNotStart { code } if *code == Exit::Usage as i32 => Exit::Usage,
            CliError::Offline(_)
            | CliError::Process { .. }
            | CliError::ParentGone { .. }
            | CliError::NoProgress { .. }
            | CliError::OtherPorts
            | CliError::WorkerDidNotStart { .. }
            | CliError::WorkerStoppedBadly
            | CliError::StoppedTwice => Exit::Failed,
        }
    }
}
