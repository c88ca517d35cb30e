//! Decides where a containerd's bytes are read: in its content folder, or over gRPC where that folder cannot
//! be read or is not the right one. A folder that was found wrong stays wrong until it is seen to be right,
//! so that the decision does not change with every look.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ContainerdStore;
use crate::agent::content::store::StoreError;
use crate::agent::content::store::folder::BlobFolder;
use crate::agent::notices::Topic;
use crate::limits::FILELESS_SAMPLES_MAX;
use crate::oci::Digest;

/// Subject of the notices about the content folder.
const SUBJECT: &str = "content path";

/// Where bytes are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum View {
    Folder(BlobFolder),
    /// The blobs are read over gRPC.
    Remote,
}

/// What a look found out about a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The folder holds containerd's content.
    Right,
    /// containerd has content that is not in the folder.
    Wrong,
    /// There is no content to tell by.
    Open,
}

/// Judges a folder by how many of containerd's blobs have a file in it, and by whether containerd can read a
/// blob that has none. A file that is lost is readable for nobody.
fn standing(with_file: usize, absent_is_read: bool) -> Standing {
    match (with_file, absent_is_read) {
        (_, true) => Standing::Wrong,
        (0, false) => Standing::Open,
        (_, false) => Standing::Right,
    }
}

impl ContainerdStore {
    /// The folder that is configured or that containerd names, whether or not it is the right one; `None`,
    /// with a notice, if it cannot be read.
    async fn candidate(&self) -> Result<Option<BlobFolder>, StoreError> {
        let root = match &self.content_path {
            Some(path) => Some(path.clone()),
            None => self.client.content_root().await?,
        };
        let Some(root) = root else {
            self.notices.set(
                Topic::Store,
                SUBJECT,
                "containerd does not say where its content is, so it is read over gRPC, which costs more: set \
                 --containerd-content-path",
            );
            return Ok(None);
        };
        let folder = BlobFolder::new(root);
        if let Err(error) = folder.check_visible() {
            self.notices.set(Topic::Store, SUBJECT, unreadable(folder.root(), &error));
            return Ok(None);
        }
        Ok(Some(folder))
    }

    /// Finds out again where bytes are read.
    pub(super) async fn find_view(&self) -> Result<View, StoreError> {
        let folder = self.candidate().await?;
        let right = folder.filter(|folder| lock(&self.wrong_folder).as_ref() != Some(folder));
        Ok(self.remember(right.map_or(View::Remote, View::Folder)))
    }

    fn remember(&self, view: View) -> View {
        let before = lock(&self.view).replace(view.clone());
        if let View::Folder(folder) = &view {
            self.notices.clear(Topic::Store, SUBJECT);
            if before.as_ref() != Some(&view) {
                tracing::info!(path = %folder.root().display(), "reading blobs from files");
            }
        }
        view
    }

    pub(super) async fn view(&self) -> Result<View, StoreError> {
        let known = lock(&self.view).clone();
        match known {
            Some(view) => Ok(view),
            None => self.find_view().await,
        }
    }

    /// The content that the namespace knows and that is really present.
    pub(super) async fn look(&self) -> Result<(View, BTreeMap<Digest, u64>), StoreError> {
        let folder = self.candidate().await?;
        let mut listed = self.client.list_content().await?;
        let Some(folder) = folder else { return Ok((self.remember(View::Remote), listed)) };
        // Listed after the content, so that what is removed in between is missing here.
        let files = folder.list().await?;
        let with_file = listed.keys().filter(|digest| files.contains_key(digest)).count();
        let standing = standing(with_file, self.can_read_any_absent(&listed, &files).await?);
        let was_wrong = lock(&self.wrong_folder).as_ref() == Some(&folder);
        if standing == Standing::Wrong || (was_wrong && standing == Standing::Open) {
            let text = self.wrong(folder.root()).await;
            self.notices.set(Topic::Store, SUBJECT, text);
            *lock(&self.wrong_folder) = Some(folder);
            return Ok((self.remember(View::Remote), listed));
        }
        *lock(&self.wrong_folder) = None;
        listed.retain(|digest, size_bytes| files.get(digest) == Some(size_bytes));
        Ok((self.remember(View::Folder(folder)), listed))
    }

    /// Whether containerd can read content that has no file here. A failed read says nothing: a scan that
    /// took it for lost content would withdraw everything (I3).
    async fn can_read_any_absent(
        &self,
        listed: &BTreeMap<Digest, u64>,
        files: &BTreeMap<Digest, u64>,
    ) -> Result<bool, StoreError> {
        let absent =
            listed.iter().filter(|(digest, size_bytes)| **size_bytes > 0 && !files.contains_key(digest));
        for (digest, _) in absent.take(FILELESS_SAMPLES_MAX) {
            if self.client.can_read(digest).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Text of the notice about a folder that is not containerd's.
    async fn wrong(&self, given: &Path) -> String {
        let given = given.display();
        let known = self.client.content_root().await.ok().flatten();
        let expected = known.filter(|root| self.content_path.as_ref().is_some_and(|path| path != root));
        match expected {
            Some(root) => format!(
                "{given} (--containerd-content-path) does not hold the content of this containerd, which keeps it \
                 in {}: it is read over gRPC, which costs more. Set --containerd-content-path to where this \
                 process sees that folder",
                root.display()
            ),
            None => format!(
                "{given}, where containerd keeps its content, does not hold it for this process: it is read over \
                 gRPC, which costs more. Mount that folder of the host here, or set --containerd-content-path to \
                 where it is mounted"
            ),
        }
    }
}

/// Text of the notice about a folder that cannot be read.
fn unreadable(root: &Path, error: &io::Error) -> String {
    format!(
        "could not read containerd's content folder {} ({error}): blobs are read over gRPC, which costs more. Let \
         this process read it (as root, or with the folder mounted), or set --containerd-content-path",
        root.display()
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The value is only replaced as a whole, so that no panic can leave it half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_wrong_only_if_containerd_has_what_it_has_not() {
        for (with_file, absent_is_read, expected) in [
            (0, false, Standing::Open),
            (0, true, Standing::Wrong),
            (5, false, Standing::Right),
            // The folder of another containerd, with base images in common.
            (5, true, Standing::Wrong),
        ] {
            assert_eq!(standing(with_file, absent_is_read), expected, "{with_file} {absent_is_read}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_path_and_the_systems_words() {
        let error = io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("/c/blobs: {}", io::Error::from_raw_os_error(13)),
        );
        let text = unreadable(Path::new("/c"), &error);
        assert!(text.contains("/c/blobs: Permission denied"), "{text}");
    }
}
