//! `piccolo snapshot`: saves the state to a file, and makes a new cluster from it.

mod report;
mod restore;
mod save;

use std::io;
use std::path::{Path, PathBuf};

use super::{CliError, CommandError, Exit, Invocation, Subcommand, Word};
use crate::config::Setting;

pub(super) use report::{newcomers, summary_of};
pub(super) use restore::RESTORE;
pub(super) use save::SAVE;

use report::Report;

/// The subcommand `piccolo snapshot verify`.
pub(super) const VERIFY: Subcommand = Subcommand {
    name: "verify",
    about: "Read a whole snapshot, check it, and say what it holds",
    examples: "\
Example:
  piccolo snapshot verify backup.snapshot",
    settings: &[("", &[JSON])],
    words: &[FILE],
    registries: false,
    run: verify,
};

const JSON: Setting = Setting::switch("json", "Print what the snapshot holds as JSON");
const FILE: Word = Word::required("FILE", "The snapshot");

/// Why a snapshot could not be saved or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotCliError {
    /// The file system returned an error.
    #[error("could not {action} {}", path.display())]
    File {
        /// The action that failed, for "could not …".
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The content of a file is not a valid snapshot.
    #[error("could not use {}", path.display())]
    Content {
        /// Path of the file.
        path: PathBuf,
        /// Reason from the reader of snapshots.
        #[source]
        source: piccolo_raft::snapshot::SnapshotError,
    },
    /// A server sent something that is not a valid snapshot.
    #[error("could not use the snapshot of {server}")]
    Sent {
        /// The server.
        server: String,
        /// Reason from the reader of snapshots.
        #[source]
        source: piccolo_raft::snapshot::SnapshotError,
    },
    /// Another `snapshot save` writes to the same file.
    #[error("{} is being written by another call", path.display())]
    Busy {
        /// Path of the file that it writes to.
        path: PathBuf,
    },
    /// The file exists already.
    #[error("{} exists already: give another name, or --force", path.display())]
    Exists {
        /// Path of the file.
        path: PathBuf,
    },
}

impl From<SnapshotCliError> for CliError {
    fn from(error: SnapshotCliError) -> Self {
        CommandError::new(Exit::Failed, error).into()
    }
}

impl SnapshotCliError {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| SnapshotCliError::File { action, path, source }
    }
}

fn file_of(invocation: &Invocation) -> PathBuf {
    invocation.words.first().map(PathBuf::from).expect("clap requires the file")
}

fn verify(invocation: &Invocation) -> Result<Exit, CliError> {
    let (json, _) = invocation.configure(|layers| Some(layers.switch("json")))?;
    let path = file_of(invocation);
    Report::of_file(&path)?.print(json)?;
    Ok(Exit::Done)
}
