//! Watches a blob folder, which may not exist yet, with inotify. Its parents are watched, and folders below
//! them as they appear. The event mask excludes opens and reads, so that served blobs wake nobody.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};

use super::{ALGORITHMS, BlobFolder, digest_of, is_absent};
use crate::agent::content::store::WatchLost;
use crate::limits::WATCH_READ_BYTES;
use crate::oci::Digest;
use piccolo_raft::errors::chain;

/// A change in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent::content::store) enum Change {
    /// A blob was created or removed; the reader looks which.
    Blob(Digest),
    /// A file directly in the root was written, replaced or removed; the reader looks at it.
    RootFile(PathBuf),
    /// A folder on the way to the blobs was created. Handled in this file, and never returned.
    FolderMade,
    /// Changes may have been missed.
    Lost(WatchLost),
}

/// The watches of one folder.
pub(in crate::agent::content::store) struct FolderWatch {
    folder: BlobFolder,
    events: EventStream<Vec<u8>>,
    watched: HashMap<WatchDescriptor, PathBuf>,
    /// Whether a folder was created that is not watched yet.
    folder_made: bool,
    found: VecDeque<Change>,
}

impl FolderWatch {
    /// Sets the watches. Everything that happens after the return is reported. Must be called within a tokio
    /// runtime.
    pub(in crate::agent::content::store) fn set(folder: &BlobFolder) -> io::Result<Self> {
        let mut watch = Self {
            folder: folder.clone(),
            events: Inotify::init()?.into_event_stream(vec![0; WATCH_READ_BYTES])?,
            watched: HashMap::new(),
            folder_made: false,
            found: VecDeque::new(),
        };
        watch.arm()?;
        Ok(watch)
    }

    /// Waits for the next change. Nothing is lost if the future is dropped early.
    pub(in crate::agent::content::store) async fn next(&mut self) -> Change {
        loop {
            match self.found.pop_front() {
                Some(Change::FolderMade) => self.folder_made = true,
                Some(change) => return change,
                None if self.folder_made => {
                    if let Err(words) = self.look_into_new_folders().await {
                        return Change::Lost(WatchLost::NewFolder { words });
                    }
                    self.folder_made = false;
                }
                None => match self.events.next().await {
                    Some(Ok(event)) => self.notified(&event),
                    Some(Err(error)) => {
                        return Change::Lost(WatchLost::Notifications { words: error.to_string() });
                    }
                    None => return Change::Lost(WatchLost::NotificationsEnded),
                },
            }
        }
    }

    fn notified(&mut self, event: &EventOwned) {
        let watched = self.watched.get(&event.wd).map(PathBuf::as_path);
        self.found.extend(interpret(&self.folder, watched, event.name.as_deref(), event.mask));
        if event.mask.contains(EventMask::IGNORED) {
            self.watched.remove(&event.wd);
        }
    }

    /// Watches new folders, and treats what is in them already as just created.
    async fn look_into_new_folders(&mut self) -> Result<(), String> {
        self.arm().map_err(|error| error.to_string())?;
        let blobs = self.folder.list().await.map_err(|error| chain(&error))?;
        self.found.extend(blobs.into_keys().map(Change::Blob));
        self.found.push_back(Change::RootFile(self.folder.root().to_owned()));
        Ok(())
    }

    /// Watches whatever exists on the way to the blobs. A parent is watched before its child is looked for,
    /// so that a child that is created meanwhile is noticed in any case.
    fn arm(&mut self) -> io::Result<()> {
        if !self.arm_root()? {
            return Ok(());
        }
        if self.try_watch(&self.folder.blobs())? {
            for algorithm in ALGORITHMS {
                self.try_watch(&self.folder.of(algorithm))?;
            }
        }
        Ok(())
    }

    /// Watches the root or its nearest existing ancestor. Returns whether it was the root.
    fn arm_root(&mut self) -> io::Result<bool> {
        let root = self.folder.root().to_owned();
        loop {
            let Some(nearest) = root.ancestors().find(|path| path.is_dir()) else {
                return Err(io::ErrorKind::NotFound.into());
            };
            if !self.try_watch(nearest)? {
                continue; // removed meanwhile
            }
            if nearest == root {
                return Ok(true);
            }
            let made_meanwhile = root.ancestors().find(|path| path.parent() == Some(nearest));
            if !made_meanwhile.is_some_and(Path::is_dir) {
                return Ok(false);
            }
        }
    }

    /// Watches one folder. Returns false if it does not exist.
    fn try_watch(&mut self, path: &Path) -> io::Result<bool> {
        match self.events.watches().add(path, mask()) {
            Ok(descriptor) => {
                self.watched.insert(descriptor, path.to_owned());
                Ok(true)
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The requested events; [`effect_of`] interprets them.
fn mask() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::MOVED_TO
        | WatchMask::CLOSE_WRITE
        | WatchMask::DELETE
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}

/// The meaning of a notification about `name` in a watched folder, or about the folder itself.
fn interpret(
    folder: &BlobFolder,
    watched: Option<&Path>,
    name: Option<&OsStr>,
    events: EventMask,
) -> Option<Change> {
    if events.contains(EventMask::Q_OVERFLOW) {
        return Some(Change::Lost(WatchLost::Overflow));
    }
    let (effect, watched) = (effect_of(events)?, watched?);
    match name {
        Some(name) => change_at(folder, &watched.join(name), effect),
        None => change_at(folder, watched, effect),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Made,
    MovedHere,
    Written,
    Gone,
}

fn effect_of(events: EventMask) -> Option<Effect> {
    let gone = EventMask::DELETE
        | EventMask::MOVED_FROM
        | EventMask::DELETE_SELF
        | EventMask::MOVE_SELF
        | EventMask::UNMOUNT;
    let effects = [
        (EventMask::CREATE, Effect::Made),
        (EventMask::MOVED_TO, Effect::MovedHere),
        (EventMask::CLOSE_WRITE, Effect::Written),
        (gone, Effect::Gone),
    ];
    effects.into_iter().find(|(flags, _)| events.intersects(*flags)).map(|(_, effect)| effect)
}

fn change_at(folder: &BlobFolder, path: &Path, effect: Effect) -> Option<Change> {
    let blobs = folder.blobs();
    let on_the_way = folder.root().starts_with(path) || path == blobs;
    if on_the_way || ALGORITHMS.iter().any(|algorithm| path == folder.of(*algorithm)) {
        return match effect {
            Effect::Made | Effect::MovedHere => Some(Change::FolderMade),
            Effect::Gone => Some(Change::Lost(WatchLost::Removed { path: path.to_owned() })),
            Effect::Written => None,
        };
    }
    // A created file is written next, and then closed. A hard link is complete from the start.
    if effect == Effect::Made && !is_hard_link(path) {
        return None;
    }
    let parent = path.parent()?;
    if parent == folder.root() {
        return Some(Change::RootFile(path.to_owned()));
    }
    let algorithm = ALGORITHMS.into_iter().find(|algorithm| parent == folder.of(*algorithm))?;
    digest_of(algorithm, path.file_name()?).map(Change::Blob)
}

fn is_hard_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.nlink() > 1 || metadata.is_symlink())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Deadline of what must happen, generous for machines with other work.
    const SOON: Duration = Duration::from_secs(60);

    async fn expect_blob(watch: &mut FolderWatch, digest: &Digest) {
        loop {
            let change = tokio::time::timeout(SOON, watch.next()).await.expect("a change in time");
            match change {
                Change::Blob(found) if found == *digest => return,
                Change::Lost(reason) => panic!("{reason}"),
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn blobs_are_seen_in_a_folder_that_did_not_exist_when_the_watch_was_set() {
        let parent = tempfile::tempdir().unwrap();
        let folder = BlobFolder::new(parent.path().join("a/b"));
        let mut watch = FolderWatch::set(&folder).unwrap();
        let digest = Digest::of(b"layer");
        let (inner, hex) = (folder.of(digest.algorithm()), digest.hex().to_owned());
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(parent.path().join("ingest"), b"layer").unwrap();
        std::fs::rename(parent.path().join("ingest"), inner.join(&hex)).unwrap();
        expect_blob(&mut watch, &digest).await;
        std::fs::remove_file(inner.join(hex)).unwrap();
        expect_blob(&mut watch, &digest).await;
    }

    #[tokio::test]
    async fn a_recreated_root_is_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = BlobFolder::new(parent.path().join("store"));
        std::fs::create_dir_all(folder.of(ALGORITHMS[0])).unwrap();
        let mut watch = FolderWatch::set(&folder).unwrap();
        std::fs::rename(folder.root(), parent.path().join("old")).unwrap();
        std::fs::create_dir(folder.root()).unwrap();
        let lost = async {
            loop {
                if let Change::Lost(_) = watch.next().await {
                    return;
                }
            }
        };
        tokio::time::timeout(SOON, lost).await.expect("the watch gives up");
    }

    #[test]
    fn an_overflow_of_the_kernels_queue_is_a_loss() {
        let change = interpret(&BlobFolder::new("/r"), None, None, EventMask::Q_OVERFLOW);
        assert!(matches!(change, Some(Change::Lost(_))), "{change:?}");
    }

    /// Regression: the `notify` crate subscribes to opens as well, so that each served blob woke its thread
    /// twice.
    #[tokio::test]
    async fn reading_a_blob_wakes_nobody() {
        let root = tempfile::tempdir().unwrap();
        let folder = BlobFolder::new(root.path());
        let digest = Digest::of(b"layer");
        std::fs::create_dir_all(folder.of(digest.algorithm())).unwrap();
        std::fs::write(folder.path(&digest), b"layer").unwrap();
        let mut watch = FolderWatch::set(&folder).unwrap();
        assert_eq!(std::fs::read(folder.path(&digest)).unwrap(), b"layer");
        std::fs::remove_file(folder.path(&digest)).unwrap();
        let first = tokio::time::timeout(SOON, watch.events.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.mask, EventMask::DELETE, "the first notification is of the removal");
    }
}
