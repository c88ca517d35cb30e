//! Tables of registries: `[registry."ghcr.io"]`, `[registry."host:port"]`, and `[registry._default]`
//! for the others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use super::{Layers, Problem, value};
use crate::agent::{RegistryPolicy, TagPolicy};

/// The table that holds for registries without one of their own.
const DEFAULT: &str = "_default";

impl Layers {
    /// The policies of all registries that the file names.
    pub(super) fn registries(&mut self) -> BTreeMap<String, RegistryPolicy> {
        let Some(tables) = self.file().registries().cloned() else { return BTreeMap::new() };
        let Value::Table(tables) = tables else {
            self.registry_problem("registry", None, "must be tables like [registry.\"ghcr.io\"]");
            return BTreeMap::new();
        };
        let mut policies = BTreeMap::new();
        for (name, table) in &tables {
            let place = format!("[registry.{name:?}]");
            if name != DEFAULT && value::host(name).is_err() && value::host_port(name).is_err() {
                self.registry_problem(&place, None, "must be named like host, host:port or _default");
            }
            match table {
                Value::Table(table) => {
                    policies.insert(name.clone(), self.policy(&place, table));
                }
                other => self.registry_problem(&place, Some(other.to_string()), "a table"),
            }
        }
        policies
    }

    fn policy(&mut self, place: &str, table: &Table) -> RegistryPolicy {
        let mut policy = RegistryPolicy::default();
        for (key, value) in table {
            let place = format!("{key} of {place}");
            let Value::String(text) = value else {
                self.registry_problem(&place, Some(value.to_string()), "a text");
                continue;
            };
            let wrong = match key.as_str() {
                "tags" => tag_policy(text).map(|tags| policy.tags = tags).err(),
                "origin" => value::base_url(text).map(|origin| policy.origin = Some(origin)).err(),
                "ca" => readable(text).map(|ca| policy.ca = Some(ca)).err(),
                _ => {
                    self.registry_problem(&place, None, "is not known: a registry has tags, origin and ca");
                    continue;
                }
            };
            if let Some(expected) = wrong {
                self.registry_problem(&place, Some(text.clone()), &expected);
            }
        }
        policy
    }

    fn registry_problem(&mut self, place: &str, value: Option<String>, expected: &str) {
        let place = self.file().place(place);
        self.push(Problem { place, value, expected: expected.to_owned() });
    }
}

fn tag_policy(given: &str) -> Result<TagPolicy, String> {
    match given {
        "origin-first" => Ok(TagPolicy::OriginFirst),
        "peers" => Ok(TagPolicy::Peers),
        "origin" => Ok(TagPolicy::Origin),
        "off" => Ok(TagPolicy::Off),
        _ => Err("origin-first, peers, origin or off".to_owned()),
    }
}

/// A mistyped CA would show only when the registry is down, and then as one that refuses.
fn readable(given: &str) -> Result<PathBuf, String> {
    match std::fs::File::open(given) {
        Ok(_) => Ok(PathBuf::from(given)),
        Err(error) => Err(format!("a PEM file that can be read ({error})")),
    }
}
