//! `piccolo mirror install`, `remove` and `check`: containerd's `certs.d`, with our mirror in front and
//! what was there kept behind it and given back; and whether containerd asks the mirror.

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

use super::{CliError, CommandError, Exit};
use crate::config::Setting;
use crate::hosts_toml::HostsTomlError;

const CERTS_DIR: &[Setting] = &[Setting::new(
    "certs-dir",
    "DIR",
    "containerd's config_path, often /etc/containerd/certs.d; several folders as there, with colons: A:B",
)];

/// Why `piccolo mirror` failed.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Some of the files could not be changed; nothing has been written by install, and remove has
    /// done the others.
    #[error("could not change {}:{}", count(.refused.len()), list(.refused))]
    Refused {
        /// Each with its reason.
        refused: Vec<(PathBuf, FileError)>,
    },
    /// The folder is written by k3s or RKE2.
    #[error(
        "could not install into {}: {program} generates the files there anew at each start. Put this into its \
         own configuration and restart {program}:\n\n{snippet}\n{recorded}",
        .folder.display()
    )]
    Generated {
        /// The folder of `--certs-dir`.
        folder: PathBuf,
        /// The program.
        program: &'static str,
        /// What its configuration needs.
        snippet: String,
        /// What was recorded of containerd's proxy.
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
    /// Its content.
    #[error(transparent)]
    Content(#[from] HostsTomlError),
    /// It is no text.
    #[error("could not read it as text: it is not UTF-8")]
    NotText,
    /// A folder of its own would hide `_default`, where others have written something.
    #[error(
        "could not make a folder for this registry: containerd would no longer read {}, which serves it now; \
         install into _default instead",
        .default.display()
    )]
    HidesDefault {
        /// The folder `_default`.
        default: PathBuf,
    },
    /// k3s or RKE2 generates it.
    #[error(
        "could not keep an entry there: {program} generates this file anew at each start; {}",
        k3s::advice(.program)
    )]
    Generated {
        /// The program.
        program: &'static str,
    },
    /// Somebody else wrote the file at the same time.
    #[error("could not change it: somebody else changed it at this moment; run the command again")]
    ChangedMeanwhile,
    /// Another install or remove.
    #[error("could not lock it: another `piccolo mirror` has been at work there for {seconds} s")]
    Locked {
        /// How long this one waited.
        seconds: u64,
    },
    /// What install left for remove is not readable.
    #[error("could not read what install left for remove: {reason}")]
    BadState {
        /// What is wrong with it.
        reason: String,
    },
    /// The file system.
    #[error("could not {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
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
    refused.iter().map(|(path, error)| format!("\n  {}: {error}", path.display())).collect()
}
