//! inotify on a blob folder that may not exist yet: parents are watched, and what is made below them
//! is watched as it appears.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::{ALGORITHMS, BlobFolder, digest_of};
use crate::oci::Digest;

/// Notifications that wait for their reader; more than that is an overflow, and leads to a rescan.
const CHANGES_WAITING_MAX: usize = 16_384;

/// What happened in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent::store) enum Change {
    /// A blob came or went: look.
    Blob(Digest),
    /// A file directly in the root was written, replaced or removed: look.
    RootFile(PathBuf),
    /// A folder on the way to the blobs was made; handled here, never handed out.
    FolderMade,
    /// Nothing seen from here on can be trusted to be all.
    Lost(String),
}

/// Watches set on one folder.
pub(in crate::agent::store) struct FolderWatch {
    folder: BlobFolder,
    watcher: notify::RecommendedWatcher,
    changes: mpsc::Receiver<Change>,
    overflowed: Arc<AtomicBool>,
    /// A folder was made that is not watched yet.
    folder_made: bool,
    found: VecDeque<Change>,
}

impl FolderWatch {
    /// Sets the watches. Everything that happens after the return is seen.
    pub(in crate::agent::store) fn set(folder: &BlobFolder) -> notify::Result<Self> {
        let (sender, changes) = mpsc::channel(CHANGES_WAITING_MAX);
        let overflowed = Arc::new(AtomicBool::new(false));
        let (flag, watched) = (Arc::clone(&overflowed), folder.clone());
        // The thread of `notify` must never wait for us, who may wait for it in `arm`.
        let watcher = notify::recommended_watcher(move |event| {
            for change in interpret(&watched, event) {
                if sender.try_send(change).is_err() {
                    flag.store(true, Ordering::Relaxed);
                }
            }
        })?;
        let (folder, found) = (folder.clone(), VecDeque::new());
        let mut watch = Self { folder, watcher, changes, overflowed, folder_made: false, found };
        watch.arm()?;
        Ok(watch)
    }

    /// Waits for the next change. Nothing is lost if the future is dropped before it is ready.
    pub(in crate::agent::store) async fn next(&mut self) -> Change {
        loop {
            if self.overflowed.load(Ordering::Relaxed) {
                return Change::Lost("too many file notifications were waiting".into());
            }
            if let Some(change) = self.found.pop_front() {
                return change;
            }
            if self.folder_made {
                if let Err(reason) = self.look_into_new_folders().await {
                    return Change::Lost(reason);
                }
                self.folder_made = false;
                continue;
            }
            match self.changes.recv().await {
                Some(Change::FolderMade) => self.folder_made = true,
                Some(change) => return change,
                None => return Change::Lost("the file notifications ended".into()),
            }
        }
    }

    /// Watches what was made, and takes what is in it already for made just now.
    async fn look_into_new_folders(&mut self) -> Result<(), String> {
        self.arm().map_err(|error| format!("could not watch a new folder: {error}"))?;
        let blobs = self.folder.list().await.map_err(|error| error.to_string())?;
        self.found.extend(blobs.into_keys().map(Change::Blob));
        self.found.push_back(Change::RootFile(self.folder.root().to_owned()));
        Ok(())
    }

    /// Watches whatever exists on the way to the blobs. A parent is watched before its child is
    /// looked for, so that a child made meanwhile is noticed in any case.
    fn arm(&mut self) -> notify::Result<()> {
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

    /// The root, or its nearest existing ancestor; tells whether it is the root.
    fn arm_root(&mut self) -> notify::Result<bool> {
        let root = self.folder.root().to_owned();
        loop {
            let Some(nearest) = root.ancestors().find(|path| path.is_dir()) else {
                return Err(notify::Error::path_not_found().add_path(root));
            };
            if !self.try_watch(nearest)? {
                continue; // gone since we looked
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

    /// False if there is no such folder.
    fn try_watch(&mut self, path: &Path) -> notify::Result<bool> {
        match self.watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What a notification means for this folder.
fn interpret(folder: &BlobFolder, event: notify::Result<Event>) -> Vec<Change> {
    let event = match event {
        Ok(event) if event.need_rescan() => {
            return vec![Change::Lost("the notification queue overflowed".into())];
        }
        Ok(event) => event,
        Err(error) => return vec![Change::Lost(format!("file notifications failed: {error}"))],
    };
    let Some(effect) = effect_of(event.kind) else { return Vec::new() };
    event.paths.iter().filter_map(|path| change_at(folder, path, effect)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Made,
    MovedHere,
    Written,
    Gone,
}

fn effect_of(kind: EventKind) -> Option<Effect> {
    match kind {
        EventKind::Create(CreateKind::File | CreateKind::Folder | CreateKind::Any) => Some(Effect::Made),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Effect::MovedHere),
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => Some(Effect::Gone),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Effect::Written),
        _ => None,
    }
}

fn change_at(folder: &BlobFolder, path: &Path, effect: Effect) -> Option<Change> {
    let blobs = folder.blobs();
    let on_the_way = folder.root().starts_with(path) || path == blobs;
    if on_the_way || ALGORITHMS.iter().any(|algorithm| path == folder.of(*algorithm)) {
        return match effect {
            Effect::Made | Effect::MovedHere => Some(Change::FolderMade),
            Effect::Gone => Some(Change::Lost(format!("{} was removed", path.display()))),
            Effect::Written => None,
        };
    }
    // A file that is made is written next, and then closed; a hard link is made complete.
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

    /// A deadline for what must happen; generous, for machines with other work.
    const SOON: Duration = Duration::from_secs(5);

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
        let event = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        let changes = interpret(&BlobFolder::new("/r"), Ok(event));
        assert!(matches!(changes.as_slice(), [Change::Lost(_)]), "{changes:?}");
    }

    #[test]
    fn reading_a_blob_is_no_change() {
        let digest = Digest::of(b"layer");
        let folder = BlobFolder::new("/r");
        let event =
            Event::new(EventKind::Access(AccessKind::Open(AccessMode::Any))).add_path(folder.path(&digest));
        assert_eq!(interpret(&folder, Ok(event)), []);
    }
}
