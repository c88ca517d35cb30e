//! Content that a peer had and that is not ours to give: only what it is tells. A peer need not keep
//! to a policy; this agent does.

use super::Mirror;
use crate::agent::fetch::{Fetched, Whole};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::Digest;

/// What of a peer's answer has to be looked at.
enum Doubt {
    None,
    Manifest,
    Bytes(Whole, u64),
}

impl Mirror {
    /// Whether `fetched` is, or may be, a manifest of a registry that gives its manifests itself. The
    /// future keeps nothing of `fetched` borrowed: a stream in it could not be shared.
    pub(super) fn withholds(
        &self,
        registry: Option<&str>,
        digest: &Digest,
        fetched: &Fetched,
    ) -> impl Future<Output = bool> + Send + use<> {
        let doubt = match fetched {
            _ if self.policies.may_give(registry, digest, true) => Doubt::None,
            Fetched::Stream { .. } | Fetched::Unsatisfiable { .. } => Doubt::None,
            Fetched::Manifest { .. } => Doubt::Manifest,
            Fetched::Whole { whole, head, .. } => Doubt::Bytes(whole.clone(), head.total),
            // By its size alone it cannot be told.
            Fetched::Size { total, .. } if *total <= MANIFEST_BYTES_MAX => Doubt::Manifest,
            Fetched::Size { .. } => Doubt::None,
        };
        let source = fetched.source();
        async move {
            let withheld = match doubt {
                Doubt::None => return false,
                Doubt::Manifest => true,
                Doubt::Bytes(whole, size_bytes) => whole.may_be_manifest(size_bytes).await.unwrap_or(true),
            };
            if withheld {
                tracing::info!(%source, "not passing on what may be a manifest");
            }
            withheld
        }
    }
}
