//! `piccolo snapshot save`: checks the whole snapshot before the file gets its name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::{NamedTempFile, TempPath};

use super::report::{Checked, Report};
use super::{SnapshotCliError, file_of};
use crate::api::client::{Client, Download};
use crate::cli::client::{Asked, CLIENT};
use crate::cli::{CliError, Exit, Invocation, Subcommand, Word, process};
use crate::config::{Layers, Setting};
use crate::limits::{SNAPSHOT_PROGRESS_INTERVAL, SNAPSHOT_SILENT_MAX};

/// Suffix of the file's name while it is not whole.
const PARTIAL: &str = ".partial";

const FORCE: &[Setting] = &[Setting::switch("force", "Replace an existing file")];

/// The subcommand `piccolo snapshot save`.
pub(in crate::cli) const SAVE: Subcommand = Subcommand {
    name: "save",
    about: "Save the state of a running server to a file, and verify it",
    examples: "\
Example, on the host of a server:
  piccolo snapshot save backup.snapshot

The state is that of the server that answers; writes continue meanwhile. A call from another host needs a \
server that runs with --insecure. The file says what each node holds and which servers there are; it has no \
secrets. The agents could also send all of it again: a snapshot saves that work.",
    settings: &[("", CLIENT), ("", FORCE)],
    words: &[Word::required("FILE", "Path of the snapshot; FILE.partial until it is whole")],
    registries: false,
    run,
};

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let ((asked, force), _) = invocation.configure(read)?;
    let client = asked.client()?;
    let target = Target { path: file_of(invocation), force };
    target.check_free()?;
    let report = process::block_on_this_thread(save(&client, &target))?;
    report.print(asked.json)?;
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<(Asked, bool)> {
    let asked = Asked::read(layers);
    let force = layers.switch("force");
    Some((asked?, force))
}

async fn save(client: &Client, target: &Target) -> Result<Report, CliError> {
    let mut file = target.begin()?;
    let mut download = client.snapshot(SNAPSHOT_SILENT_MAX).await?;
    let sent = |server: &str| {
        let server = server.to_owned();
        move |source| SnapshotCliError::Sent { server, source }
    };
    let mut checked = Checked::default();
    let mut bar = Bar::default();
    while let Some(bytes) = download.next(SNAPSHOT_SILENT_MAX).await? {
        checked.push(&bytes).map_err(sent(download.server()))?;
        file.write_all(&bytes).map_err(SnapshotCliError::file("write", &target.path))?;
        bar.show(checked.bytes, &download);
    }
    bar.end();
    let report = checked.report(&target.path).map_err(sent(download.server()))?;
    target.finish(file)?;
    Ok(report)
}

/// The file to be written.
struct Target {
    path: PathBuf,
    force: bool,
}

impl Target {
    fn check_free(&self) -> Result<(), SnapshotCliError> {
        // Also true of a link whose target is missing.
        if !self.force && fs::symlink_metadata(&self.path).is_ok() {
            return Err(SnapshotCliError::Exists { path: self.path.clone() });
        }
        Ok(())
    }

    fn folder(&self) -> &Path {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or(Path::new("."))
    }

    /// Path of the partial file. It is always the same, so that the next call removes what a killed call has
    /// left.
    fn partial(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(PARTIAL);
        name.into()
    }

    /// Makes and locks the partial file, which is removed if this process ends before the snapshot is whole.
    fn begin(&self) -> Result<NamedTempFile, SnapshotCliError> {
        let path = self.partial();
        let failed = || SnapshotCliError::file("make", &path);
        let new = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = match new() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let left = File::open(&path).map_err(failed())?;
                Self::own(&path, &left)?;
                fs::remove_file(&path).map_err(failed())?;
                new().map_err(failed())?
            }
            file => file.map_err(failed())?,
        };
        Self::own(&path, &file)?;
        let path = TempPath::try_from_path(&path).map_err(failed())?;
        Ok(NamedTempFile::from_parts(file, path))
    }

    /// Fails if another call holds the file, or if another file has that name now. If the file system has no
    /// locks, nothing is checked.
    fn own(path: &Path, file: &File) -> Result<(), SnapshotCliError> {
        let busy = || SnapshotCliError::Busy { path: path.to_owned() };
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(busy());
        }
        let id = |is: fs::Metadata| (is.dev(), is.ino());
        let named = fs::symlink_metadata(path).map_err(|_| busy())?;
        let is = file.metadata().map_err(SnapshotCliError::file("read", path))?;
        if id(named) == id(is) { Ok(()) } else { Err(busy()) }
    }

    fn finish(&self, file: NamedTempFile) -> Result<(), SnapshotCliError> {
        let failed = SnapshotCliError::file("write", &self.path);
        file.as_file().sync_all().map_err(failed)?;
        let persisted = match self.force {
            true => file.persist(&self.path),
            false => file.persist_noclobber(&self.path),
        };
        if let Err(error) = persisted {
            return Err(match error.error.kind() {
                std::io::ErrorKind::AlreadyExists => SnapshotCliError::Exists { path: self.path.clone() },
                _ => SnapshotCliError::file("write", &self.path)(error.error),
            });
        }
        let synced = File::open(self.folder()).and_then(|folder| folder.sync_all());
        synced.map_err(SnapshotCliError::file("write the name of", &self.path))
    }
}

/// Progress bar on a terminal.
#[derive(Default)]
struct Bar {
    shown: Option<Instant>,
}

impl Bar {
    const WIDTH: u64 = 30;

    fn show(&mut self, bytes: u64, download: &Download) {
        let mut stderr = std::io::stderr().lock();
        if !stderr.is_terminal() || self.shown.is_some_and(|at| at.elapsed() < SNAPSHOT_PROGRESS_INTERVAL) {
            return;
        }
        self.shown = Some(Instant::now());
        // An error here means that stderr is closed; the download goes on.
        let _ = write!(stderr, "\r\x1b[K{}", Self::line(bytes, download.about_bytes()));
        let _ = stderr.flush();
    }

    fn line(bytes: u64, about: Option<u64>) -> String {
        let Some(about) = about.filter(|about| *about > 0) else { return format!("{} KiB", bytes / 1024) };
        // The total is an estimate.
        let filled = (bytes.saturating_mul(Self::WIDTH) / about).min(Self::WIDTH);
        let bar = "#".repeat(filled as usize) + &" ".repeat((Self::WIDTH - filled) as usize);
        format!("[{bar}] {} of about {} KiB", bytes / 1024, about.div_ceil(1024))
    }

    fn end(self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each call that was killed left a file as large as the state, under its own name.
    #[test]
    fn a_call_removes_what_a_killed_one_left_and_nothing_of_a_running_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target { path: folder.path().join("a.snapshot"), force: false };
        let partial = folder.path().join("a.snapshot.partial");
        fs::write(&partial, "half of the state").unwrap();
        let mut file = target.begin().unwrap();
        assert_eq!(fs::metadata(&partial).unwrap().len(), 0);
        assert!(matches!(target.begin(), Err(SnapshotCliError::Busy { .. })));
        file.write_all(b"whole").unwrap();
        target.finish(file).unwrap();
        assert_eq!(fs::read(&target.path).unwrap(), b"whole");
        drop(target.begin().unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        // A link at the partial name does not lead writes to another file.
        std::os::unix::fs::symlink(&target.path, &partial).unwrap();
        assert!(target.begin().is_err());
        assert_eq!(fs::read(&target.path).unwrap(), b"whole");
    }

    #[test]
    fn the_bar_is_full_at_the_guess_and_no_longer_beyond() {
        assert_eq!(Bar::line(2048, None), "2 KiB");
        assert_eq!(Bar::line(0, Some(3000)), format!("[{}] 0 of about 3 KiB", " ".repeat(30)));
        assert!(Bar::line(9000, Some(3000)).starts_with(&format!("[{}]", "#".repeat(30))));
    }
}
