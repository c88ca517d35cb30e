//! `piccolo mirror remove`: undoes everything that install did in these folders.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::lock::Lock;
use super::roots::Roots;
use super::{CERTS_DIR, FileError, MirrorError, config_path, proxy};
use crate::cli::output::print;
use crate::cli::{CliError, Exit, Invocation, Subcommand};
use crate::hosts_toml::Before;
use crate::limits::MIRROR_LOCK_WAIT;
use crate::proxies::Proxies;

/// The subcommand `piccolo mirror remove`.
pub(in crate::cli) const REMOVE: Subcommand = Subcommand {
    name: "remove",
    about: "Undo what `mirror install` did: every hosts.toml is again what it was",
    examples: "\
Example:
  piccolo mirror remove --certs-dir /etc/containerd/certs.d

A file that was edited since the install keeps the edits and loses only our entry.",
    settings: &[("", CERTS_DIR), ("", config_path::SETTINGS)],
    words: &[],
    registries: false,
    run,
};

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let (roots, _) = invocation.configure(|layers| {
        let roots = layers.required("certs-dir", Roots::parse);
        let containerd = config_path::read(layers);
        let (roots, found) = (roots?, containerd?.config_path(None));
        Some(found.whole_list(&roots).unwrap_or(roots))
    })?;
    let (message, refused) = remove(&roots);
    let printed = print(&message);
    if !refused.is_empty() {
        return Err(MirrorError::Refused { refused }.into());
    }
    printed.map(|()| Exit::Done)
}

/// A step of remove in one folder. Tests stop after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Hosts,
    Backup,
    Note,
}

/// Removes from all folders; returns the message, and what failed. A failure in one folder does not stop the
/// others.
pub(super) fn remove(roots: &Roots) -> (String, Vec<(PathBuf, FileError)>) {
    let mut message = String::new();
    let locked = Lock::take(roots, false, MIRROR_LOCK_WAIT);
    let _lock = match locked {
        Ok(lock) => lock,
        Err(error) => return (message, vec![(roots.first().to_owned(), error)]),
    };
    let mut refused = Vec::new();
    let mut made = BTreeSet::new();
    let folders = match roots.folders() {
        Ok(folders) => folders,
        Err((root, error)) => return (message, vec![(root, FileError::io("list it")(error))]),
    };
    for folder in folders {
        let hosts = folder.hosts_path();
        match take_back(&folder, &mut made, &mut |_| Ok(())) {
            Ok(None) => {}
            Ok(Some(what)) => message.push_str(&format!("{}: {what}\n", hosts.display())),
            Err(error) => refused.push((hosts, error)),
        }
    }
    if refused.is_empty() {
        match proxy::forget(roots) {
            Ok(what) => message.push_str(&what),
            Err(error) => refused.push((Proxies::path(roots.first()), error)),
        }
    }
    // Innermost first. A folder that is not empty has files of somebody else.
    for folder in made.iter().rev() {
        let _ = fs::remove_dir(folder);
    }
    if message.is_empty() && refused.is_empty() {
        message = format!("{}: nothing of ours is there\n", roots.text());
    }
    (message, refused)
}

/// Undoes the install in one folder; `None` if nothing of ours is there.
pub(super) fn take_back(
    folder: &Folder,
    made: &mut BTreeSet<PathBuf>,
    done: &mut dyn FnMut(Step) -> Result<(), FileError>,
) -> Result<Option<&'static str>, FileError> {
    let state = folder.state()?;
    if state.is_untouched() {
        return Ok(None);
    }
    let current = state.current.as_deref();
    let message = match &state.before {
        Before::Nothing if current.is_none() => "is gone already",
        Before::Nothing => {
            // The backup goes first: without `hosts.toml` it would count as the file to restore.
            folder.forget_backup()?;
            folder.forget_hosts()?;
            "removed: there was none before"
        }
        Before::Backup(_) => {
            folder.restore()?;
            "is again what it was"
        }
        Before::Edited(theirs) => {
            folder.write_hosts(theirs, current)?;
            "was edited since the install: only our entry is taken out, the edits stay"
        }
        Before::NotOurs => "was rewritten since the install, without our entry: left as it is",
    };
    done(Step::Hosts)?;
    folder.forget_backup()?;
    done(Step::Backup)?;
    folder.forget_note()?;
    done(Step::Note)?;
    let folders_made = match &state.note {
        Some(note) => note.folders_made,
        // An empty folder would hide `_default` and the other folders of config_path.
        None => usize::from(state.before == Before::Nothing),
    };
    made.extend(folder.path().ancestors().take(folders_made).map(Path::to_owned));
    Ok(Some(message))
}
