//! containerd's content store, as far as a pull depends on it. An ingest has its length and the running hash;
//! if the store has a folder, it has files, too, which the agent may read.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;

/// Committed blobs, and ingests by ref.
#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Inner>,
    /// Folder of containerd's content.
    root: Option<PathBuf>,
    /// Whether committed blobs stay in that folder.
    keeps_blobs: bool,
    /// Offset of the byte that the disk makes wrong in each ingest.
    damaged: Mutex<Option<u64>>,
}

#[derive(Debug, Default)]
struct Inner {
    blobs: HashMap<String, u64>,
    ingests: HashMap<String, Arc<tokio::sync::Mutex<Ingest>>>,
}

#[derive(Debug, Default)]
struct Ingest {
    written: u64,
    hasher: Sha256,
    files: Option<IngestFiles>,
}

/// Files of an ingest, made before the first request: `ref`, `total` and `data` (1.6.20
/// `content/local/store.go:462` `writer`).
#[derive(Debug)]
struct IngestFiles {
    folder: PathBuf,
    data: File,
}

impl IngestFiles {
    fn create(root: &Path, reference: &str, size: u64) -> Self {
        let id = format!("{:x}", Sha256::digest(reference));
        let folder = root.join("ingest").join(id);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("ref"), format!("k8s.io/1/{reference}")).unwrap();
        std::fs::write(folder.join("total"), size.to_string()).unwrap();
        Self { data: File::create(folder.join("data")).unwrap(), folder }
    }
}

impl Drop for IngestFiles {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// The only writer of an ingest: 1.6.20 `content/local/store.go:452` `Writer` takes a lock for each ref, and
/// `content/helpers.go:98` `OpenWriter` waits for it.
#[derive(Debug)]
pub struct Writer {
    reference: String,
    ingest: OwnedMutexGuard<Ingest>,
    store: Arc<Store>,
}

impl Store {
    /// A store whose ingests are files below `root`. Committed blobs are no files: a test with a thousand of them has no
    /// room for that.
    pub fn of_ingests(root: &Path) -> Self {
        Self { root: Some(root.to_owned()), ..Self::default() }
    }

    /// A store whose ingests and blobs are files below `root`.
    pub fn at(root: &Path) -> Self {
        Self { keeps_blobs: true, ..Self::of_ingests(root) }
    }

    /// From now on the disk makes the byte at `offset` of each ingest wrong. The running hash is right: it is over what
    /// came.
    pub fn damages(&self, offset: u64) {
        *self.damaged.lock().unwrap() = Some(offset);
    }

    /// Ref of a digest: 1.6.20 `remotes/handlers.go:58` `MakeRefKey`.
    pub fn reference(digest: &str) -> String {
        format!("layer-{digest}")
    }

    /// Opens or resumes the ingest of a digest; `None`: the blob exists already (2.1.4
    /// `plugins/content/local/store.go:521` `writer`: `ErrAlreadyExists`). A resumed ingest continues after
    /// its bytes, which are hashed again (2.1.4 `store.go:489` `resumeStatus`).
    pub async fn writer(self: &Arc<Self>, digest: &str, size: u64) -> Option<Writer> {
        let reference = Self::reference(digest);
        loop {
            let ingest = {
                let mut inner = self.inner.lock().unwrap();
                if inner.blobs.contains_key(digest) {
                    return None;
                }
                Arc::clone(inner.ingests.entry(reference.clone()).or_default())
            };
            let mut ingest = ingest.lock_owned().await;
            if let (None, Some(root)) = (&ingest.files, &self.root) {
                ingest.files = Some(IngestFiles::create(root, &reference, size));
            }
            // It may have been committed or aborted during the wait: check again, like `OpenWriter`.
            let inner = self.inner.lock().unwrap();
            let current = inner.ingests.get(&reference);
            if current.is_some_and(|current| Arc::ptr_eq(current, OwnedMutexGuard::mutex(&ingest))) {
                return Some(Writer { reference, ingest, store: Arc::clone(self) });
            }
        }
    }

    /// 1.6.20 `content/local/writer.go:77` `Commit`: a wrong size or digest is an error *and leaves the
    /// ingest as it is*, so that the next pull commits it again.
    pub fn commit(&self, writer: Writer, size: u64, digest: &str) -> Result<(), String> {
        if size != writer.ingest.written {
            return Err(format!("unexpected commit size {}, expected {size}", writer.ingest.written));
        }
        let got = format!("sha256:{:x}", writer.ingest.hasher.clone().finalize());
        if got != digest {
            return Err(format!("unexpected commit digest {got}, expected {digest}"));
        }
        // The ingest's file becomes the blob, so that an open descriptor stays good; then the ingest's folder is removed.
        if let (true, Some(root), Some(files)) = (self.keeps_blobs, &self.root, &writer.ingest.files) {
            let blob = root.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
            std::fs::rename(files.folder.join("data"), blob).unwrap();
        }
        let mut inner = self.inner.lock().unwrap();
        inner.ingests.remove(&writer.reference);
        inner.blobs.insert(digest.to_owned(), size);
        Ok(())
    }

    /// 2.1.4 `plugins/content/local/store.go:616` `Abort`, which the agent calls over gRPC.
    pub fn abort(&self, digest: &str) -> bool {
        self.inner.lock().unwrap().ingests.remove(&Self::reference(digest)).is_some()
    }

    /// True if the blob is committed: its digest was right.
    pub fn holds(&self, digest: &str) -> bool {
        self.inner.lock().unwrap().blobs.contains_key(digest)
    }
}

impl Writer {
    pub fn offset(&self) -> u64 {
        self.ingest.written
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.ingest.hasher.update(bytes);
        let damaged = *self.store.damaged.lock().unwrap();
        let begin = self.ingest.written;
        if let Some(files) = &mut self.ingest.files {
            let mut stored = bytes.to_vec();
            let wrong = damaged.and_then(|at| stored.get_mut(usize::try_from(at.checked_sub(begin)?).ok()?));
            if let Some(byte) = wrong {
                *byte ^= 1;
            }
            files.data.write_all(&stored).unwrap();
        }
        self.ingest.written += bytes.len() as u64;
    }
}
