//! Exit codes and errors of commands.

use std::error::Error;
use std::process::ExitCode;
use std::{fmt, io};

use piccolo_raft::cluster::StartError;

use crate::agent;
use crate::api::client::{Attempt, ClientError};
use crate::config::Problems;
use crate::server;
use crate::server::offline::OfflineError;

/// Exit codes. `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Success.
    Done = 0,
    /// Failure.
    Failed = 1,
    /// Wrong usage or configuration: a retry cannot succeed.
    Usage = 2,
    /// `find`: no node has the image or digest.
    NotFound = 3,
    /// No server could be reached, or none could serve.
    Unreachable = 4,
    /// `server`: this server was removed from its cluster; it does not start again with its data.
    Removed = 5,
    /// `server`: the disk is full or broken. The message names the file and says what to do.
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
    /// Invalid configuration.
    #[error(transparent)]
    Config(#[from] Problems),
    /// A server refused the request, or could not serve it.
    #[error(transparent)]
    Client(ClientError),
    /// No server answered.
    #[error(
        "no discovery server answered: {}; start one there, or name others with --server URL",
        Attempt::list(servers)
    )]
    Unreachable {
        /// Every server that was asked, with the reason of its last failure.
        servers: Vec<Attempt>,
    },
    /// Error of `piccolo server`.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// Error of `piccolo agent`.
    #[error(transparent)]
    Agent(#[from] agent::Error),
    /// An error that only one command has.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Error of `piccolo snapshot restore` or `piccolo server --force-new-cluster`.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// The argument of `find` is not an image.
    #[error("{reference:?} is neither a digest nor the name of an image")]
    BadReference {
        /// The argument.
        reference: String,
    },
    /// A change of the membership makes no progress.
    #[error("gave up after {seconds} s without progress ({last}); run the same command again to continue")]
    NoProgress {
        /// Time without progress, seconds.
        seconds: u64,
        /// The last state that the servers reported.
        last: String,
    },
    /// The system refused something that every process needs.
    #[error("could not {action}")]
    Process {
        /// The action that failed, for "could not …".
        action: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The process of `--exit-with-parent` ended before this one could watch it.
    #[error("the parent process {parent} is gone")]
    ParentGone {
        /// Pid of the parent.
        parent: u32,
    },
    /// The supervisor's listeners have other addresses than the configuration now has.
    #[error("the listening addresses have changed: that needs a restart of the agent")]
    OtherPorts,
    /// The first worker ended before it was ready. It has logged the reason.
    #[error("the agent could not start: its worker ended with exit code {code}; its message above says why")]
    WorkerDidNotStart {
        /// Exit code of the worker.
        code: i32,
    },
    /// A worker failed or was killed while it was stopping.
    #[error("a worker of the agent failed, or was killed, while it was stopping; the log says which")]
    WorkerStoppedBadly,
    /// A second signal came while the process was stopping.
    #[error("received a second stop signal: ended without waiting for running work")]
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
    /// Exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            CliError::Config(_) | CliError::BadReference { .. } => Exit::Usage,
            CliError::Client(error) => match error {
                ClientError::NoServer | ClientError::BadServer { .. } => Exit::Usage,
                ClientError::Unreachable { .. } | ClientError::Unavailable { .. } => Exit::Unreachable,
                ClientError::Refused { .. } | ClientError::Malformed { .. } => Exit::Failed,
            },
            CliError::Unreachable { .. } => Exit::Unreachable,
            CliError::Server(server::Error::Addresses(_) | server::Error::Secret(_)) => Exit::Usage,
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
