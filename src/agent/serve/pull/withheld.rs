//! Content of a peer that this node must not give: what it is decides, and its bytes tell that. A peer need not
//! keep to a policy; this agent does.

use super::Pulls;
use crate::agent::fetch::{Fetched, Wanted};
use crate::limits::MANIFEST_BYTES_MAX;

impl Pulls {
    /// Whether what was `fetched` is, or may be, a manifest of a registry that gives its manifests itself. The
    /// future borrows nothing of `fetched`, because a stream in it could not be shared.
    pub(super) fn withholds(
        &self,
        wanted: &Wanted,
        fetched: &Fetched,
    ) -> impl Future<Output = bool> + Send + use<> {
        let (may_be_withheld, bytes) = match fetched {
            _ if self.policies.may_give(wanted.registry(), &wanted.digest, true) => (false, None),
            Fetched::Stream { .. } | Fetched::Unsatisfiable { .. } => (false, None),
            Fetched::Manifest { .. } => (true, None),
            Fetched::Whole { whole, head, .. } => (true, Some((whole.clone(), head.total))),
            // Its size alone does not tell.
            Fetched::Size { total, .. } => (*total <= MANIFEST_BYTES_MAX, None),
        };
        let source = fetched.source();
        async move {
            let is_withheld = match bytes {
                Some((whole, size_bytes)) => whole.may_be_manifest(size_bytes).await.unwrap_or(true),
                None => may_be_withheld,
            };
            if is_withheld {
                tracing::info!(%source, "not passing on what may be a manifest");
            }
            is_withheld
        }
    }
}
