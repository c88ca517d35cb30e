//! Policies: how content of each registry is handled.
//!
//! A tag is judged by its whole name. Content is judged by the registry and repository that it was fetched
//! from, and by its kind. Where the same content has several names, the strictest policy applies.

mod filter;
mod guarded_store;
mod manifest_sniff;
mod restriction;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::expiring_set::ExpiringSet;
use super::{FlightPolicy, RegistryPolicy, Sharing, TagPolicy};
use crate::limits::{ASKED_REMEMBERED_MAX, ASKED_TTL, FLIGHT_MANIFEST_BYTES_MAX};
use crate::oci::reference::looks_like_registry;
use crate::oci::registry;
use crate::oci::{ContentPath, Digest};

pub use filter::Filter;
pub(crate) use guarded_store::guarded;
pub(crate) use manifest_sniff::file_may_be_manifest;
use restriction::Key;
pub(crate) use restriction::Restriction;

/// Name of the table for all registries without a table of their own.
pub(crate) const DEFAULT: &str = "_default";

/// Why policy refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotOurs {
    #[error("a filter of this registry keeps it from being shared")]
    Filtered,
    #[error("manifests of this registry come from the registry only (manifests = \"origin\")")]
    Manifests,
    #[error("blobs of this registry come from the registry only (blobs = \"origin\")")]
    Blobs,
}

/// The policies of all registries.
#[derive(Debug)]
pub(crate) struct Policies {
    registries: BTreeMap<String, RegistryPolicy>,
    default: RegistryPolicy,
    /// Whether any table keeps content back.
    restricts: bool,
    /// Whether any table refuses requests.
    refuses: bool,
    /// What the mirror was recently asked for under names that keep back manifests, or blobs. The source of
    /// content is thus known when it arrives, before the store has recorded it.
    asked_manifests: ExpiringSet<Key>,
    asked_blobs: ExpiringSet<Key>,
}

impl Default for Policies {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

impl Policies {
    pub(crate) fn new(registries: BTreeMap<String, RegistryPolicy>) -> Self {
        let canonical =
            registries.into_iter().map(|(name, policy)| (registry::canonical(&name).into_owned(), policy));
        let mut registries: BTreeMap<String, RegistryPolicy> = canonical.collect();
        let default = registries.remove(DEFAULT).unwrap_or_default();
        let any = |of: fn(&RegistryPolicy) -> bool| registries.values().chain([&default]).any(of);
        let restricts = any(RegistryPolicy::restricts_content);
        let refuses = restricts || any(|policy| !policy.filter.is_empty());
        let asked = || ExpiringSet::new(ASKED_TTL, ASKED_REMEMBERED_MAX);
        Self { registries, default, restricts, refuses, asked_manifests: asked(), asked_blobs: asked() }
    }

    /// The table of `registry`, or the default table.
    pub(crate) fn of(&self, registry: Option<&str>) -> &RegistryPolicy {
        registry.and_then(|registry| self.table(registry)).unwrap_or(&self.default)
    }

    /// The table of `registry` itself, in any spelling of the registry.
    pub(crate) fn table(&self, registry: &str) -> Option<&RegistryPolicy> {
        if self.registries.is_empty() {
            return None;
        }
        self.registries.get(&*registry::canonical(registry))
    }

    /// Whether any registry keeps content back. If none does, nobody needs to know the sources of content.
    pub(crate) fn restricts(&self) -> bool {
        self.restricts
    }

    /// Whether this agent serves tags of `registry` at all.
    pub(crate) fn serves_tags(&self, registry: Option<&str>) -> bool {
        match self.of(registry).tags {
            TagPolicy::OriginFirst | TagPolicy::Peers => true,
            TagPolicy::Origin | TagPolicy::Off => false,
        }
    }

    /// Whether `registry/repository:tag` is advertised.
    pub(crate) fn advertises_tag(&self, name: &str) -> bool {
        let policy = self.of(name.split('/').next());
        policy.tags != TagPolicy::Off && policy.manifests == Sharing::Peers && !policy.refuses(name)
    }

    /// The restriction of content known as `registry/repository`, optionally followed by a tag or digest. The
    /// default table applies to a name without a registry, and to an empty name.
    ///
    /// Tags do not count here: a filter that refuses `…:latest` refuses that tag, but not the content that it
    /// shares with other tags.
    pub(crate) fn of_name(&self, name: &str) -> Restriction {
        let (name, registry) = self.without_tag(name);
        let policy = self.of(registry);
        if policy.refuses(name) {
            return Restriction::ALL;
        }
        Restriction { manifests: policy.manifests == Sharing::Origin, blobs: policy.blobs == Sharing::Origin }
    }

    /// The registry in the name of an image, if there is one.
    pub(super) fn registry_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        self.without_tag(name).1
    }

    /// A name without tag and digest, and the registry in it, if there is one. The first part is a registry
    /// if it looks like one, or has a table of its own, as a host without a dot may have.
    fn without_tag<'a>(&self, name: &'a str) -> (&'a str, Option<&'a str>) {
        let name = name.split_once('@').map_or(name, |(name, _)| name);
        let is_registry = |first: &str| looks_like_registry(first) || self.table(first).is_some();
        let Some((first, rest)) = name.split_once('/').filter(|(first, _)| is_registry(first)) else {
            return (name.split_once(':').map_or(name, |(name, _)| name), None);
        };
        let repository = rest.split_once(':').map_or(rest, |(repository, _)| repository);
        (&name[..first.len() + 1 + repository.len()], Some(first))
    }

    /// The restriction of content without a name.
    pub(crate) fn of_nameless(&self) -> Restriction {
        self.of_name("")
    }

    /// Whether policy admits a request, by what the request itself says. The requested content may still be
    /// held back, by its kind and its source.
    pub(crate) fn admits(&self, path: &ContentPath) -> Result<(), NotOurs> {
        if !self.refuses {
            return Ok(());
        }
        let policy = self.of(path.registry.as_deref());
        if !policy.filter.is_empty() && policy.refuses(&full_name(path)) {
            return Err(NotOurs::Filtered);
        }
        match (path.is_manifest(), policy.manifests, policy.blobs) {
            (true, Sharing::Origin, _) => Err(NotOurs::Manifests),
            (false, _, Sharing::Origin) => Err(NotOurs::Blobs),
            _ => Ok(()),
        }
    }

    /// Whether content that is requested under `registry` may be served, as a manifest or as a blob. Other
    /// names under which it was recently requested count as well.
    pub(crate) fn may_give(&self, registry: Option<&str>, digest: &Digest, is_manifest: bool) -> bool {
        if !self.restricts {
            return true;
        }
        let policy = self.of(registry);
        let sharing = if is_manifest { policy.manifests } else { policy.blobs };
        sharing == Sharing::Peers && !self.of_asked(digest).forbids(Some(is_manifest))
    }

    /// Whether a blob of `total_bytes` that is requested under `registry` may be shared while it is still arriving. Its
    /// kind cannot be told before all of it is here, so that one which may be a manifest is not shared where manifests
    /// are kept back.
    pub(crate) fn may_be_in_flight(&self, registry: Option<&str>, digest: &Digest, total_bytes: u64) -> bool {
        let may_give = |is_manifest| self.may_give(registry, digest, is_manifest);
        self.of(registry).flights == FlightPolicy::On
            && may_give(false)
            && (total_bytes > FLIGHT_MANIFEST_BYTES_MAX || may_give(true))
    }

    /// Remembers a request at the mirror: it names the source of the content, if that arrives.
    pub(crate) fn remember_asked(&self, path: &ContentPath) {
        let Some(digest) = path.digest().filter(|_| self.restricts) else { return };
        let restriction = self.of_name(&full_name(path));
        let key = Key::of(digest);
        if restriction.manifests {
            self.asked_manifests.insert(key);
        }
        if restriction.blobs {
            self.asked_blobs.insert(key);
        }
    }

    /// The restriction of content by recent requests at the mirror.
    fn of_asked(&self, digest: &Digest) -> Restriction {
        let key = Key::of(digest);
        Restriction { manifests: self.asked_manifests.contains(&key), blobs: self.asked_blobs.contains(&key) }
    }

    /// The tables by name, including the default table.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (&str, &RegistryPolicy)> {
        let named = self.registries.iter().map(|(name, policy)| (name.as_str(), policy));
        named.chain(std::iter::once((DEFAULT, &self.default)))
    }
}

impl RegistryPolicy {
    fn restricts_content(&self) -> bool {
        let may_refuse_content = self.filter.iter().any(|filter| !filter.is_of_tags());
        self.manifests == Sharing::Origin || self.blobs == Sharing::Origin || may_refuse_content
    }

    fn refuses(&self, name: &str) -> bool {
        if self.filter.is_empty() {
            return false;
        }
        // A filter is about the registry, not about the spelling that a client uses.
        let names = registry::spellings(name);
        self.filter.iter().any(|filter| names.iter().any(|name| filter.matches(name)))
    }
}

/// The name `registry/repository[:tag]` of a request, as far as the request has its parts.
fn full_name(path: &ContentPath) -> String {
    path.tag_name().unwrap_or_else(|| {
        let mut name = String::new();
        if let Some(registry) = &path.registry {
            name.push_str(registry);
            name.push('/');
        }
        name.push_str(&path.repository);
        if let crate::oci::Item::Tag(tag) = &path.item {
            name.push(':');
            name.push_str(tag);
        }
        name
    })
}
