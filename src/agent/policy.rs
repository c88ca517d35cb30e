//! What is done with which registry.

use std::collections::BTreeMap;

use super::{RegistryPolicy, TagPolicy};

/// Name of the table that holds for all registries without one of their own.
pub(crate) const DEFAULT: &str = "_default";

/// Policy per registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    registries: BTreeMap<String, RegistryPolicy>,
    default: RegistryPolicy,
}

impl Policies {
    pub(crate) fn new(mut registries: BTreeMap<String, RegistryPolicy>) -> Self {
        let default = registries.remove(DEFAULT).unwrap_or_default();
        Self { registries, default }
    }

    /// The table of `registry`, or that of all others.
    pub(crate) fn of(&self, registry: Option<&str>) -> &RegistryPolicy {
        registry.and_then(|registry| self.registries.get(registry)).unwrap_or(&self.default)
    }

    /// Whether this agent gives out tags of `registry` at all, to anyone.
    pub(crate) fn serves_tags(&self, registry: Option<&str>) -> bool {
        match self.of(registry).tags {
            TagPolicy::OriginFirst | TagPolicy::Peers => true,
            TagPolicy::Origin | TagPolicy::Off => false,
        }
    }

    /// Whether `registry/repository:tag` is made known to discovery.
    pub(crate) fn advertises_tag(&self, name: &str) -> bool {
        let registry = name.split('/').next();
        self.of(registry).tags != TagPolicy::Off
    }

    /// The tables by name, the one of all others among them.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (&str, &RegistryPolicy)> {
        let named = self.registries.iter().map(|(name, policy)| (name.as_str(), policy));
        named.chain(std::iter::once((DEFAULT, &self.default)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_without_a_table_has_that_of_the_others() {
        let tags = |tags| RegistryPolicy { tags, ..RegistryPolicy::default() };
        let tables = [("a.b:5000", tags(TagPolicy::Off)), (DEFAULT, tags(TagPolicy::Peers))];
        let policies = Policies::new(tables.map(|(name, policy)| (name.to_owned(), policy)).into());
        assert!(!policies.serves_tags(Some("a.b:5000")));
        assert!(!policies.advertises_tag("a.b:5000/c:d") && policies.advertises_tag("a.b/c:d"));
        assert_eq!(policies.of(Some("a.b")).tags, TagPolicy::Peers);
        assert_eq!(policies.of(None).tags, TagPolicy::Peers);
        assert_eq!(Policies::default().of(Some("x.y")).tags, TagPolicy::OriginFirst);
    }
}
