//! `piccolo mirror install` and `remove`: containerd's `certs.d`, with our mirror in front and what
//! was there kept behind it and given back.

mod folder;
mod install;
mod remove;

use std::io;
use std::path::PathBuf;

pub(super) use install::INSTALL;
pub(super) use remove::REMOVE;

use super::Exit;
use crate::config::Setting;
use crate::hosts_toml::HostsTomlError;

const CERTS_DIR: &[Setting] = &[Setting::new(
    "certs-dir",
    "DIR",
    "containerd's config_path, often /etc/containerd/certs.d; for k3s \
     /var/lib/rancher/k3s/agent/etc/containerd/certs.d",
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
}

impl MirrorError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            MirrorError::Refused { .. } => Exit::Failed,
        }
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
        /// The file of `_default`.
        default: PathBuf,
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
