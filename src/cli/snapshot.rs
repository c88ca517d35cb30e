//! `piccolo snapshot`: the state in a file, and a new cluster of it.

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

/// `piccolo snapshot verify`.
pub(super) const VERIFY: Subcommand = Subcommand {
    name: "verify",
    about: "Read a snapshot and say what it holds, if all of it is right",
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

/// Why there is no snapshot, or it is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotCliError {
    /// The file.
    #[error("could not {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is in it.
    #[error("could not use {}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: piccolo_raft::snapshot::SnapshotError,
    },
    /// What a server has sent.
    #[error("could not use the snapshot of {server}")]
    Sent {
        /// Who.
        server: String,
        /// Why not.
        #[source]
        source: piccolo_raft::snapshot::SnapshotError,
    },
    /// Another `snapshot save` writes to the same file.
    #[error("{} is being written by another call", path.display())]
    Busy {
        /// What it writes to.
        path: PathBuf,
    },
    /// There is a file already.
    #[error("{} exists already: give another name, or --force", path.display())]
    Exists {
        /// Which.
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
