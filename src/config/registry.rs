//! Tables of registries: `[registry."ghcr.io"]`, `[registry."host:port"]`, and `[registry._default]` for all
//! others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use super::{Layers, Problem};
use crate::agent::{Filter, FlightPolicy, RegistryPolicy, Sharing, TagPolicy};
use crate::oci::registry::canonical;
use crate::value;

/// Name of the table for registries without their own.
const DEFAULT: &str = "_default";

impl Layers {
    /// The policies of all registries in the file.
    pub(super) fn registries(&mut self) -> BTreeMap<String, RegistryPolicy> {
        let Some(tables) = self.file().registries().cloned() else { return BTreeMap::new() };
        let Value::Table(tables) = tables else {
            self.registry_problem("registry", None, "must be tables like [registry.\"ghcr.io\"]");
            return BTreeMap::new();
        };
        let mut policies = BTreeMap::new();
        let mut spelled = BTreeMap::new();
        for (name, table) in &tables {
            let place = format!("[registry.{name:?}]");
            if name != DEFAULT && value::host(name).is_err() && value::host_port(name).is_err() {
                self.registry_problem(&place, None, "must be named like host, host:port or _default");
            }
            if let Some(other) = spelled.insert(canonical(name).into_owned(), name.clone()) {
                let expected = format!("names the same registry as [registry.{other:?}]: keep one of them");
                self.registry_problem(&place, None, &expected);
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

    /// Adds the filter of tags called latest to every table, and to the default table.
    pub(super) fn filter_latest(policies: &mut BTreeMap<String, RegistryPolicy>) {
        policies.entry(DEFAULT.to_owned()).or_default();
        policies.values_mut().for_each(|policy| policy.filter.push(Filter::latest()));
    }

    fn policy(&mut self, place: &str, table: &Table) -> RegistryPolicy {
        let mut policy = RegistryPolicy::default();
        for (key, value) in table {
            let place = format!("{key} of {place}");
            if key == "filter" {
                policy.filter = self.filters(&place, value);
                continue;
            }
            let Value::String(text) = value else {
                self.registry_problem(&place, Some(value.to_string()), "a text");
                continue;
            };
            let wrong = match key.as_str() {
                "tags" => tag_policy(text).map(|tags| policy.tags = tags).err(),
                "manifests" => sharing(text).map(|manifests| policy.manifests = manifests).err(),
                "blobs" => sharing(text).map(|blobs| policy.blobs = blobs).err(),
                "origin" => value::base_url(text).map(|origin| policy.origin = Some(origin)).err(),
                "ca" => readable(text).map(|ca| policy.ca = Some(ca)).err(),
                "flights" => flights(text).map(|flights| policy.flights = flights).err(),
                _ => {
                    let known = "tags, manifests, blobs, filter, origin, ca and flights";
                    self.registry_problem(&place, None, &format!("is not known: a registry has {known}"));
                    continue;
                }
            };
            if let Some(expected) = wrong {
                self.registry_problem(&place, Some(text.clone()), &expected);
            }
        }
        if policy.manifests == Sharing::Origin && policy.tags == TagPolicy::Peers {
            let place = format!("tags of {place}");
            let expected = "\"peers\" cannot be used with manifests = \"origin\": a tag names a manifest, so its \
                 manifests would come from peers; set tags = \"origin\" or manifests = \"peers\"";
            self.registry_problem(&place, None, expected);
        }
        policy
    }

    /// Parses a list of filters; reports each invalid one.
    fn filters(&mut self, place: &str, value: &Value) -> Vec<Filter> {
        let expected = "a list of regular expressions, like [\":latest$\"]";
        let Value::Array(items) = value else {
            self.registry_problem(place, Some(value.to_string()), expected);
            return Vec::new();
        };
        let mut filters = Vec::new();
        for item in items {
            match item.as_str().map(|text| (text, text.parse::<Filter>())) {
                Some((_, Ok(filter))) => filters.push(filter),
                Some((text, Err(error))) => {
                    // The library's message has several lines; the last one has the reason.
                    let reason = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
                    let expected = format!("a regular expression ({reason})");
                    self.registry_problem(place, Some(text.to_owned()), &expected);
                }
                None => self.registry_problem(place, Some(item.to_string()), expected),
            }
        }
        filters
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

fn sharing(given: &str) -> Result<Sharing, String> {
    match given {
        "peers" => Ok(Sharing::Peers),
        "origin" => Ok(Sharing::Origin),
        _ => Err("peers or origin".to_owned()),
    }
}

fn flights(given: &str) -> Result<FlightPolicy, String> {
    match given {
        "on" => Ok(FlightPolicy::On),
        "off" => Ok(FlightPolicy::Off),
        _ => Err("on or off".to_owned()),
    }
}

/// Checks that the file of a CA can be read. A wrong path would only show when the registry is down, and then
/// as a refusal.
fn readable(given: &str) -> Result<PathBuf, String> {
    match std::fs::File::open(given) {
        Ok(_) => Ok(PathBuf::from(given)),
        Err(error) => Err(format!("a PEM file that can be read ({error})")),
    }
}
