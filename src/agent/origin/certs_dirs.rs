//! Finds the folders in which containerd looks for the hosts of a registry: those of `--certs-dir`, or those
//! that containerd names, or the usual ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::agent::content::store::Store;
use crate::limits::{CERTS_DIRS_RETRY, CERTS_DIRS_TTL};

/// Default of containerd 2.2 and later. Earlier versions have no default, and packages configure the first.
const USUAL: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];
/// The folders that k3s and RKE2 write, and the folder of the socket of both. Their containerd does not name
/// them over CRI from 2.0 on.
const OF_K3S: [&str; 2] = [
    "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
    "/var/lib/rancher/rke2/agent/etc/containerd/certs.d",
];
const RUN_OF_K3S: &str = "/run/k3s";

/// Folders in the order in which containerd looks; empty if it reads none, or if they cannot be seen from
/// here.
pub(super) type Roots = Arc<[PathBuf]>;

/// The folders, and how they are found.
pub(super) struct CertsDirs {
    given: Option<Roots>,
    store: Arc<dyn Store>,
    /// Folders that are used if containerd does not name any.
    usual: [&'static str; 2],
    found: Mutex<Option<Found>>,
}

struct Found {
    roots: Roots,
    until: Instant,
    by_containerd: bool,
}

impl CertsDirs {
    pub(super) fn new(given: Option<Vec<PathBuf>>, store: Arc<dyn Store>, socket: Option<&Path>) -> Self {
        let usual = if socket.is_some_and(|socket| socket.starts_with(RUN_OF_K3S)) { OF_K3S } else { USUAL };
        Self { given: given.map(Into::into), store, usual, found: Mutex::default() }
    }

    /// The current folders. Asks containerd again after a while, because it may have been restarted with
    /// others.
    pub(super) async fn roots(&self) -> Roots {
        if let Some(given) = &self.given {
            return Arc::clone(given);
        }
        let mut found = self.found.lock().await;
        let now = Instant::now();
        if let Some(found) = found.as_ref().filter(|found| now < found.until) {
            return Arc::clone(&found.roots);
        }
        let said = self.store.registry_host_folders().await;
        let ttl = if said.is_some() { CERTS_DIRS_TTL } else { CERTS_DIRS_RETRY };
        let (roots, by_containerd): (Roots, bool) = match (said, found.take()) {
            (Some(said), _) => (seen(said.into_iter()), true),
            // containerd does not answer now: what it said before still holds.
            (None, Some(before)) if before.by_containerd => (before.roots, true),
            (None, _) => (seen(self.usual.iter().map(PathBuf::from)), false),
        };
        *found = Some(Found { roots: Arc::clone(&roots), until: now + ttl, by_containerd });
        roots
    }
}

/// Selects the folders that exist, as this process sees them.
fn seen(folders: impl Iterator<Item = PathBuf>) -> Roots {
    folders.filter(|folder| folder.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::content::store::MemoryStore;

    #[tokio::test]
    async fn the_folders_of_k3s_are_looked_at_behind_its_socket() {
        for (socket, expected) in [
            (None, USUAL),
            (Some("/run/containerd/containerd.sock"), USUAL),
            (Some("/run/k3s/containerd/containerd.sock"), OF_K3S),
        ] {
            let store = Arc::new(MemoryStore::new());
            let dirs = CertsDirs::new(None, store, socket.map(Path::new));
            assert_eq!(dirs.usual, expected, "{socket:?}");
        }
    }
}
