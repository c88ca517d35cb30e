//! `piccolo mirror remove`: everything that install did in this folder is taken back.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::{CERTS_DIR, FileError, MirrorError};
use crate::cli::output::print;
use crate::cli::{CliError, Exit, Invocation, Subcommand};
use crate::config::value;
use crate::hosts_toml;

/// The subcommand.
pub(in crate::cli) const REMOVE: Subcommand = Subcommand {
    name: "remove",
    about: "Take back what `mirror install` did: every hosts.toml is again what it was",
    examples: "\
Example:
  piccolo mirror remove --certs-dir /etc/containerd/certs.d

A file that somebody edited since keeps these edits and loses only our entry.",
    settings: &[("", CERTS_DIR)],
    words: &[],
    registries: false,
    run,
};

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let (certs_dir, _) = invocation.configure(|layers| layers.required("certs-dir", value::path))?;
    let (told, refused) = remove(&certs_dir);
    let printed = print(&told);
    if !refused.is_empty() {
        return Err(MirrorError::Refused { refused }.into());
    }
    printed.map(|()| Exit::Done)
}

/// What to tell, and what could not be done; one folder's trouble does not keep the others.
pub(super) fn remove(certs_dir: &Path) -> (String, Vec<(PathBuf, FileError)>) {
    let mut told = String::new();
    let mut refused = Vec::new();
    let mut made = BTreeSet::new();
    let folders = match folders(certs_dir) {
        Ok(folders) => folders,
        Err(error) => return (told, vec![(certs_dir.to_owned(), error)]),
    };
    for folder in folders {
        let hosts = folder.hosts_path();
        match take_back(&folder, &mut made) {
            Ok(None) => {}
            Ok(Some(what)) => told.push_str(&format!("{}: {what}\n", hosts.display())),
            Err(error) => refused.push((hosts, error)),
        }
    }
    // Innermost first; one that is not empty has got something of somebody else.
    for folder in made.iter().rev() {
        let _ = fs::remove_dir(folder);
    }
    if told.is_empty() && refused.is_empty() {
        told = format!("{}: nothing of ours is there\n", certs_dir.display());
    }
    (told, refused)
}

fn folders(certs_dir: &Path) -> Result<Vec<Folder>, FileError> {
    let entries = match fs::read_dir(certs_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(FileError::io("list it"))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(FileError::io("list it"))?.path();
        if path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(Folder::new).collect())
}

/// Takes one folder's part back; `None`: nothing of ours is there.
fn take_back(folder: &Folder, made: &mut BTreeSet<PathBuf>) -> Result<Option<&'static str>, FileError> {
    let Some(note) = folder.note()? else { return Ok(None) };
    let told = match folder.hosts()? {
        None => "is gone already",
        Some(text) if note.wrote(&text) => {
            let restored = folder.backup()?.is_some();
            folder.restore()?;
            if restored { "is again what it was" } else { "removed: there was none before" }
        }
        Some(text) => match hosts_toml::without(&text, &note.mirror)? {
            Some(theirs) => {
                folder.write_hosts(&theirs)?;
                "was edited since the install: only our entry is taken out, the edits stay"
            }
            None => "was rewritten since the install, without our entry: left as it is",
        },
    };
    folder.forget_backup()?;
    folder.forget_note()?;
    made.extend(folder.path().ancestors().take(note.folders_made).map(Path::to_owned));
    Ok(Some(told))
}
