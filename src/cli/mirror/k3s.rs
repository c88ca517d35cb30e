//! k3s and RKE2 generate `certs.d` from `registries.yaml` at each start, and remove what others put there.

use std::path::Path;

use super::registry::Registry;
use super::roots::DEFAULT;

/// The program that owns this folder, known by the path `<data dir>/agent/etc/containerd/certs.d`.
pub(super) fn owner_of(root: &Path) -> Option<&'static str> {
    if !root.ends_with("agent/etc/containerd/certs.d") {
        return None;
    }
    let is_rke2 = root.components().any(|part| part.as_os_str() == "rke2");
    Some(if is_rke2 { "rke2" } else { "k3s" })
}

/// Advice for the user: where to put the mirror instead.
pub(super) fn advice(program: &str) -> String {
    format!("put our mirror into /etc/rancher/{program}/registries.yaml and restart {program}")
}

/// Text for `registries.yaml`.
pub(super) fn snippet(program: &str, registries: &[Registry], mirror: &str) -> String {
    let mut text = format!("# /etc/rancher/{program}/registries.yaml\nmirrors:\n");
    for registry in registries {
        let name = if registry.name == DEFAULT { "*" } else { &registry.name };
        text.push_str(&format!("  \"{name}\":\n    endpoint:\n      - \"{mirror}\"\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_of_k3s_and_rke2_are_known_wherever_their_data_is() {
        let owner = |path: &str| owner_of(Path::new(path));
        assert_eq!(owner("/var/lib/rancher/k3s/agent/etc/containerd/certs.d"), Some("k3s"));
        assert_eq!(owner("/var/lib/rancher/rke2/agent/etc/containerd/certs.d/"), Some("rke2"));
        assert_eq!(owner("/data/k3s/agent/etc/containerd/certs.d"), Some("k3s"));
        assert_eq!(owner("/etc/containerd/certs.d"), None);
    }

    #[test]
    fn the_snippet_names_every_registry_as_registries_yaml_spells_it() {
        let registries = ["docker.io", "_default"].map(|name| Registry::parse(name).unwrap());
        assert_eq!(
            snippet("k3s", &registries, "http://127.0.0.1:7780"),
            "# /etc/rancher/k3s/registries.yaml\nmirrors:\n  \"docker.io\":\n    endpoint:\n      \
             - \"http://127.0.0.1:7780\"\n  \"*\":\n    endpoint:\n      - \"http://127.0.0.1:7780\"\n"
        );
    }
}
