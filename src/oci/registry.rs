//! One registry, many spellings: policies, filters and memories compare the registry itself.

use std::borrow::Cow;

/// The name under which images of Docker Hub are stored.
pub const DOCKER_HUB: &str = "docker.io";
/// Host that serves the API of Docker Hub.
pub const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// Host that old configurations name for Docker Hub.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
const HTTPS_PORT: &str = ":443";

/// The one spelling of a registry (`host[:port]`): lower case, without the dot that ends a full host
/// name, without the port of https, and `docker.io` for every host of Docker Hub.
pub fn canonical(registry: &str) -> Cow<'_, str> {
    let mut name = Cow::Borrowed(registry);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name = Cow::Owned(name.to_ascii_lowercase());
    }
    if let Some(host) = name.strip_suffix(HTTPS_PORT) {
        name = Cow::Owned(host.to_owned());
    }
    // The colon of a port; those of an IPv6 address stand in brackets.
    let port = name.rfind(':').filter(|at| !name[*at..].contains(']'));
    let host = &name[..port.unwrap_or(name.len())];
    if let Some(shorter) = host.strip_suffix('.').filter(|shorter| !shorter.is_empty()) {
        name = Cow::Owned(format!("{shorter}{}", port.map_or("", |at| &name[at..])));
    }
    match &*name {
        DOCKER_HUB_API | DOCKER_HUB_INDEX => Cow::Borrowed(DOCKER_HUB),
        _ => name,
    }
}

/// `registry/rest` in the spellings that a pattern may have been written for: as given, in the
/// canonical one, with the port of https, and with the other hosts of Docker Hub.
pub fn spellings(name: &str) -> Vec<Cow<'_, str>> {
    let mut all = vec![Cow::Borrowed(name)];
    let Some((registry, rest)) = name.split_once('/') else { return all };
    let canonical = canonical(registry);
    let mut add = |registry: &str| {
        let spelled = format!("{registry}/{rest}");
        if !all.iter().any(|known| **known == spelled) {
            all.push(Cow::Owned(spelled));
        }
    };
    add(&canonical);
    if canonical == DOCKER_HUB {
        [DOCKER_HUB_API, DOCKER_HUB_INDEX].into_iter().for_each(&mut add);
    }
    let has_port = canonical.rfind(':').is_some_and(|at| !canonical[at..].contains(']'));
    if !has_port {
        add(&format!("{canonical}{HTTPS_PORT}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_registry_is_one_registry() {
        for (spelled, expected) in [
            ("docker.io", "docker.io"),
            ("Docker.IO", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("index.docker.io:443", "docker.io"),
            ("docker.io.", "docker.io"),
            ("registry.example", "registry.example"),
            ("registry.example:443", "registry.example"),
            ("Registry.Example.:443", "registry.example"),
            ("registry.example.:5000", "registry.example:5000"),
            ("registry.example:5000", "registry.example:5000"),
            ("registry.example:4430", "registry.example:4430"),
            ("[2001:DB8::443]", "[2001:db8::443]"),
            ("[2001:db8::1]:443", "[2001:db8::1]"),
            ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
            ("_default", "_default"),
        ] {
            assert_eq!(canonical(spelled), expected, "{spelled}");
        }
    }

    #[test]
    fn a_name_is_matched_under_all_spellings_of_its_registry() {
        let hub = spellings("registry-1.docker.io/library/app:v1");
        assert!(hub.iter().any(|name| name == "docker.io/library/app:v1"), "{hub:?}");
        let plain = spellings("docker.io/library/app:v1");
        assert!(plain.iter().any(|name| name == "registry-1.docker.io/library/app:v1"), "{plain:?}");
        let port = spellings("Registry.Example/app");
        assert_eq!(port, ["Registry.Example/app", "registry.example/app", "registry.example:443/app"]);
        let other = spellings("registry.example:5000/app");
        assert_eq!(other, ["registry.example:5000/app"]);
        assert_eq!(spellings("no-registry"), ["no-registry"]);
    }
}
