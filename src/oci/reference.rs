//! Image references and the grammar of their parts (OCI distribution spec, "Pulling manifests").

use std::fmt;
use std::str::FromStr;

use super::Digest;

/// Longest repository name, bytes.
const REPOSITORY_BYTES_MAX: usize = 255;
/// Longest tag, bytes.
const TAG_BYTES_MAX: usize = 128;
/// Longest registry, bytes: a host name and a port.
const REGISTRY_BYTES_MAX: usize = 253 + 6;

/// `registry/repository[:tag][@digest]`; the registry may have a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `host[:port]`.
    pub registry: String,
    /// Without registry, with all its slashes.
    pub repository: String,
    /// Without colon.
    pub tag: Option<String>,
    /// What the tag pointed to, or the only thing named.
    pub digest: Option<Digest>,
}

/// A text that is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a reference: expected registry/repository:tag or registry/repository@digest")]
pub struct ReferenceError {
    text: String,
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).ok_or_else(|| ReferenceError { text: text.chars().take(300).collect() })
    }
}

fn parse(text: &str) -> Option<Reference> {
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest.parse().ok()?)),
        None => (text, None),
    };
    let (registry, rest) = named.split_once('/')?;
    // The colon of a port stands before the first slash: what is left can only be a tag's.
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    let well_formed = is_registry(registry)
        && is_repository(repository)
        && tag.is_none_or(is_tag)
        && (tag.is_some() || digest.is_some());
    well_formed.then(|| Reference {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/…)*`
pub(crate) fn is_repository(name: &str) -> bool {
    name.len() <= REPOSITORY_BYTES_MAX && name.split('/').all(is_repository_component)
}

fn is_repository_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends =
        bytes.first().is_some_and(|b| alphanumeric(*b)) && bytes.last().is_some_and(|b| alphanumeric(*b));
    ends && bytes.split(|byte| alphanumeric(*byte)).all(|separator| match separator {
        b"" | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|byte| *byte == b'-'),
    })
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
pub(crate) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.
pub(crate) fn is_registry(registry: &str) -> bool {
    if registry.len() > REGISTRY_BYTES_MAX {
        return false;
    }
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ipv6, rest)) => {
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("no port")) };
            return ipv6.parse::<std::net::Ipv6Addr>().is_ok() && port.is_none_or(is_port);
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    port.is_none_or(is_port) && host.split('.').all(is_host_label)
}

/// A first path component that can only be a registry (as Docker tells them apart).
pub(crate) fn looks_like_registry(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':'])
}

fn is_host_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B36: the Go version cut at the first colon, which is a port's.
    #[test]
    fn a_port_is_not_taken_for_a_tag() {
        let reference: Reference = "registry.local:5000/team/app:latest".parse().unwrap();
        assert_eq!(reference.registry, "registry.local:5000");
        assert_eq!(reference.repository, "team/app");
        assert_eq!(reference.tag.as_deref(), Some("latest"));
        assert_eq!(reference.to_string(), "registry.local:5000/team/app:latest");
        assert!("registry.local:5000/team/app".parse::<Reference>().is_err());
    }

    #[test]
    fn digests_are_kept_beside_tags() {
        let digest = Digest::of(b"x");
        let text = format!("docker.io/library/alpine:3@{digest}");
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.digest, Some(digest));
        assert_eq!(reference.to_string(), text);
        assert!("docker.io/library/alpine@sha256:12".parse::<Reference>().is_err());
    }

    /// B36: the Go version refused `__` and `--`.
    #[test]
    fn repository_names_follow_the_grammar() {
        for name in ["a", "library/alpine", "a__b/c--d", "a.b/c_d", "a---b", "0/1"] {
            assert!(is_repository(name), "{name}");
        }
        for name in
            ["", "/", "a/", "/a", "a//b", "A", "a..b", "..", "a___b", "-a", "a-", "a_-b", "a%2fb", "a:b"]
        {
            assert!(!is_repository(name), "{name}");
        }
        assert!(is_repository(&"a".repeat(255)));
        assert!(!is_repository(&"a".repeat(256)));
    }

    #[test]
    fn tags_follow_the_grammar() {
        assert!(is_tag("v1.0-rc_1") && is_tag("_x") && is_tag(&"a".repeat(128)));
        assert!(!is_tag("") && !is_tag(".a") && !is_tag("-a") && !is_tag("a/b") && !is_tag(&"a".repeat(129)));
    }

    #[test]
    fn registries_are_hosts_with_an_optional_port() {
        for registry in
            ["docker.io", "localhost", "localhost:5000", "10.0.0.1:5000", "[::1]:5000", "[fd00::1]"]
        {
            assert!(is_registry(registry), "{registry}");
        }
        for registry in
            ["", "..", "a..b", "a:", "a:0", "a:70000", "a:b", "[::1", "[::1]x", "a/b", "-a", "a b", "a@b"]
        {
            assert!(!is_registry(registry), "{registry}");
        }
    }
}
