//! The folder of one registry in `certs.d`: `hosts.toml`, the backup of the earlier file, and a note about
//! what install did.
//!
//! containerd reads only `hosts.toml` there, and certificates, which it knows by their extensions.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{FileError, NoteError};
use crate::hosts_toml::{self, Before};
use crate::oci::Digest;

const HOSTS: &str = "hosts.toml";
const BACKUP: &str = "hosts.toml.piccolo-backup";
const NOTE: &str = "hosts.toml.piccolo";
pub(super) const NOTE_FORMAT: u32 = 1;
const FILE_MODE: u32 = 0o644;

/// A note for remove about what install did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Note {
    /// Version of the note's format.
    format: u32,
    /// URL of our entry.
    pub(super) mirror: String,
    /// Digest of `hosts.toml` as install wrote it. If the file has another digest, somebody has edited it.
    pub(super) written: String,
    /// Number of folders that install made for this registry, counted from the innermost.
    pub(super) folders_made: usize,
}

impl Note {
    pub(super) fn new(mirror: &str, text: &str, folders_made: usize) -> Self {
        let written = Digest::of(text.as_bytes()).to_string();
        Self { format: NOTE_FORMAT, mirror: mirror.to_owned(), written, folders_made }
    }

    /// True if install wrote exactly `text`.
    pub(super) fn wrote(&self, text: &str) -> bool {
        Digest::of(text.as_bytes()).as_str() == self.written
    }
}

/// Files in the folder of a registry.
#[derive(Clone, Debug)]
pub(super) struct FolderState {
    /// Text of `hosts.toml`; `None` if there is none.
    pub(super) current: Option<String>,
    pub(super) note: Option<Note>,
    pub(super) has_backup: bool,
    /// What others had in `hosts.toml` before the install, or have there now.
    pub(super) before: Before,
}

impl FolderState {
    /// True if no install has left anything here.
    pub(super) fn is_untouched(&self) -> bool {
        let is_ours = self.current.is_some() && self.before != Before::NotOurs;
        !is_ours && self.note.is_none() && !self.has_backup
    }
}

/// The folder of one registry. It need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn hosts_path(&self) -> PathBuf {
        self.path.join(HOSTS)
    }

    /// Text of `hosts.toml`; `None` if there is none.
    pub(super) fn hosts(&self) -> Result<Option<String>, FileError> {
        read(&self.hosts_path(), "read it")
    }

    /// Reads the folder's state from file, note and backup.
    pub(super) fn state(&self) -> Result<FolderState, FileError> {
        let (current, note, backup) = (self.hosts()?, self.note()?, self.backup()?);
        let before = match &current {
            // If our file was removed, the earlier file went with it, perhaps by mistake: the backup counts.
            None => backup.clone().map_or(Before::Nothing, Before::Backup),
            Some(text) => {
                let noted = note.as_ref().map(|note| (note.mirror.as_str(), note.wrote(text)));
                hosts_toml::before(text, noted, backup.as_deref())?
            }
        };
        Ok(FolderState { current, note, has_backup: backup.is_some(), before })
    }

    /// Text of the file from before the install, if there was one.
    fn backup(&self) -> Result<Option<String>, FileError> {
        read(&self.path.join(BACKUP), "read its backup")
    }

    /// The note of install; `None` if there is none.
    pub(super) fn note(&self) -> Result<Option<Note>, FileError> {
        let Some(text) = read(&self.path.join(NOTE), "read what install left")? else { return Ok(None) };
        let note: Note = toml::from_str(&text).map_err(|error| FileError::BadNote(error.into()))?;
        if note.format != NOTE_FORMAT {
            return Err(FileError::BadNote(NoteError::Newer { format: note.format }));
        }
        Ok(Some(note))
    }

    /// Keeps `hosts.toml` itself as the backup, with its mode, owner and times. Fails if its text is not
    /// `expected`, the text when the plan was made.
    pub(super) fn back_up(&self, expected: Option<&str>) -> Result<(), FileError> {
        let (hosts, backup) = (self.hosts_path(), self.path.join(BACKUP));
        self.forget_backup()?;
        // Not every file system has hard links.
        fs::hard_link(&hosts, &backup)
            .or_else(|_| fs::copy(&hosts, &backup).map(drop))
            .map_err(FileError::io("back it up"))?;
        if self.backup()?.as_deref() == expected { Ok(()) } else { Err(FileError::ChangedMeanwhile) }
    }

    /// Replaces the backup by `text`.
    pub(super) fn write_backup(&self, text: &str) -> Result<(), FileError> {
        self.replace(BACKUP, text, self.mode()).map_err(FileError::io("back it up"))
    }

    pub(super) fn forget_backup(&self) -> Result<(), FileError> {
        remove(&self.path.join(BACKUP)).map_err(FileError::io("remove its backup"))
    }

    pub(super) fn write_note(&self, note: &Note) -> Result<(), FileError> {
        let body = toml::to_string(note).expect("a note is a flat table");
        let text = format!("# What `piccolo mirror install` did, for `piccolo mirror remove`.\n{body}");
        self.replace(NOTE, &text, FILE_MODE).map_err(FileError::io("note what install does"))
    }

    pub(super) fn forget_note(&self) -> Result<(), FileError> {
        remove(&self.path.join(NOTE)).map_err(FileError::io("remove what install left"))
    }

    /// Replaces `hosts.toml` and keeps its mode. Fails if its text is not `expected`, the text when the plan
    /// was made, so that no other process's change is lost.
    pub(super) fn write_hosts(&self, text: &str, expected: Option<&str>) -> Result<(), FileError> {
        if self.hosts()?.as_deref() != expected {
            return Err(FileError::ChangedMeanwhile);
        }
        self.replace(HOSTS, text, self.mode()).map_err(FileError::io("write it"))
    }

    /// Puts the backup back in place of `hosts.toml`.
    pub(super) fn restore(&self) -> Result<(), FileError> {
        fs::rename(self.path.join(BACKUP), self.hosts_path()).map_err(FileError::io("restore it"))
    }

    /// Removes `hosts.toml`.
    pub(super) fn forget_hosts(&self) -> Result<(), FileError> {
        remove(&self.hosts_path()).map_err(FileError::io("remove it"))
    }

    /// Makes the folder and its missing parents; returns how many were made.
    pub(super) fn make(&self) -> Result<usize, FileError> {
        let missing =
            self.path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let missing = missing.count();
        fs::create_dir_all(&self.path).map_err(FileError::io("make its folder"))?;
        Ok(missing)
    }

    fn mode(&self) -> u32 {
        fs::metadata(self.hosts_path()).map_or(FILE_MODE, |metadata| metadata.permissions().mode() & 0o7777)
    }

    /// Replaces a file atomically, also across a power cut.
    fn replace(&self, name: &str, text: &str, mode: u32) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }
}

fn read(path: &Path, action: &'static str) -> Result<Option<String>, FileError> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| FileError::NotText),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::Io { action, source: error }),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
