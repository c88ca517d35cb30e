//! `piccolo mirror install`, `remove` and `check`: put our mirror first in containerd's `certs.d`, restore
//! what was there, and tell whether containerd asks the mirror.

mod check;
mod config_path;
mod folder;
mod install;
mod k3s;
mod lock;
mod proxy;
mod registry;
mod remove;
mod roots;
mod standing;
mod units;

use std::io;
use std::path::{Path, PathBuf};

pub(super) use check::CHECK;
pub(super) use install::INSTALL;
pub(super) use remove::REMOVE;

use piccolo_raft::errors::chain;

use super::{CliError, CommandError, Exit};
use crate::config::Setting;
use crate::hosts_toml::HostsTomlError;

const CERTS_DIR: &[Setting] = &[Setting::new(
    "certs-dir",
    "DIR",
    "containerd's config_path, often /etc/containerd/certs.d; several folders separated by colons, as there: A:B",
)];

/// Why `piccolo mirror` failed.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Some files could not be changed. Install has written nothing then; remove has changed all others.
    #[error("could not change {}:{}", count(.refused.len()), list(.refused))]
    Refused {
        /// The files, each with its reason.
        refused: Vec<(PathBuf, FileError)>,
    },
    /// k3s or RKE2 writes this folder.
    #[error(
        "could not install into {}: {program} generates the files there at each start. Put this into its own \
         configuration and restart {program}:\n\n{snippet}\n{recorded}",
        .folder.display()
    )]
    Generated {
        /// A folder of `--certs-dir`.
        folder: PathBuf,
        /// `k3s` or `rke2`.
        program: &'static str,
        /// Text for the program's `registries.yaml`.
        snippet: String,
        /// Message about the recorded proxy of containerd.
        recorded: String,
    },
}

impl From<MirrorError> for CliError {
    fn from(error: MirrorError) -> Self {
        CommandError::new(Exit::Failed, error).into()
    }
}

impl MirrorError {
    fn of(path: &Path, error: FileError) -> Self {
        Self::Refused { refused: vec![(path.to_owned(), error)] }
    }
}

/// Why one file could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The content of the file cannot be changed.
    #[error(transparent)]
    Content(#[from] HostsTomlError),
    /// The file is not text.
    #[error("could not read it as text: it is not UTF-8")]
    NotText,
    /// A folder for this registry would hide the files in `_default` that somebody else wrote.
    #[error(
        "could not make a folder for this registry: containerd would no longer read {}, which serves it now; \
         install into _default instead",
        .default.display()
    )]
    HidesDefault {
        /// Path of the folder `_default`.
        default: PathBuf,
    },
    /// k3s or RKE2 generates the file.
    #[error(
        "could not keep an entry there: {program} generates this file at each start; {}",
        k3s::advice(.program)
    )]
    Generated {
        /// `k3s` or `rke2`.
        program: &'static str,
    },
    /// Another process wrote the file at the same time.
    #[error("could not change it: somebody else changed it at this moment; run the command again")]
    ChangedMeanwhile,
    /// Another `piccolo mirror` holds the lock.
    #[error("could not lock it: another `piccolo mirror` has held the lock for {seconds} s")]
    Locked {
        /// How long this process waited, seconds.
        seconds: u64,
    },
    /// What install left for remove is not readable.
    #[error("could not read what install left for remove")]
    BadNote(#[source] NoteError),
    /// The file system.
    #[error("could not {action}")]
    Io {
        /// The action that failed, for "could not …".
        action: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Why what install left for remove cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// It is not what install writes.
    #[error(transparent)]
    NotOurs(#[from] toml::de::Error),
    /// Another version wrote it.
    #[error("format {format} is newer than this version's {}", folder::NOTE_FORMAT)]
    Newer {
        /// The format that it names.
        format: u32,
    },
}

impl FileError {
    fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

fn count(files: usize) -> String {
    if files == 1 { "one file".to_owned() } else { format!("{files} files") }
}

fn list(refused: &[(PathBuf, FileError)]) -> String {
    refused.iter().map(|(path, error)| format!("\n  {}: {}", path.display(), chain(error))).collect()
}
