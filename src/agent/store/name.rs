//! Image names as stores spell them, and which of them are tags that may be advertised.

use piccolo_raft::command::KEY_BYTES_MAX;

/// Longest tag (OCI distribution spec, "Pulling manifests").
const TAG_BYTES_MAX: usize = 128;

/// What an image name means to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageName<'a> {
    /// `registry/repository:tag`: a key.
    Tag(&'a str),
    /// Names its content by digest, with or without a tag. The digest is a key already; and whoever
    /// pulls `repository:tag@digest` never asks where the tag points, so it is not claimed.
    Pinned,
    /// Not a full reference: containerd's CRI plugin keeps `sha256:<config>` as a name, other tools
    /// keep bare tags.
    Other,
}

impl<'a> ImageName<'a> {
    /// Never fails: a name that is no reference is [`ImageName::Other`], so that one strange image
    /// cannot hide all others.
    pub fn parse(name: &'a str) -> Self {
        if name.contains('@') {
            return Self::Pinned;
        }
        if is_full_reference(name) { Self::Tag(name) } else { Self::Other }
    }

    /// The tag, if it is one.
    pub fn tag(self) -> Option<&'a str> {
        match self {
            Self::Tag(name) => Some(name),
            Self::Pinned | Self::Other => None,
        }
    }
}

/// `registry/repository:tag` with a registry that reads like a host, as Docker's reference grammar
/// decides it: a dot, a port, or `localhost`.
fn is_full_reference(name: &str) -> bool {
    let Some((registry, rest)) = name.split_once('/') else { return false };
    let Some((repository, tag)) = rest.rsplit_once(':') else { return false };
    name.len() <= KEY_BYTES_MAX
        && is_registry(registry)
        && repository.split('/').all(is_component)
        && is_tag(tag)
}

fn is_registry(text: &str) -> bool {
    let names_a_host = text == "localhost" || text.contains(['.', ':']);
    names_a_host
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b':' | b'[' | b']'))
}

fn is_component(text: &str) -> bool {
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|c| word(c) || matches!(c, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_references_are_tags() {
        for name in [
            "docker.io/library/alpine:latest",
            "registry.example:5000/team/app_x/y-z:v1.2_3-rc",
            "localhost/app:1",
            "[2001:db8::1]:5000/app:1",
        ] {
            assert_eq!(ImageName::parse(name), ImageName::Tag(name));
        }
    }

    #[test]
    fn what_names_a_digest_claims_no_tag() {
        let digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        for name in [format!("docker.io/library/alpine@{digest}"), format!("ghcr.io/a/b:1@{digest}")] {
            assert_eq!(ImageName::parse(&name), ImageName::Pinned);
        }
        assert_eq!(ImageName::parse(digest), ImageName::Other);
    }

    #[test]
    fn what_is_no_full_reference_is_skipped() {
        let long = format!("a.example/b:{}", "x".repeat(TAG_BYTES_MAX + 1));
        for name in [
            "",
            "latest",
            "alpine:latest",
            "library/alpine:latest",
            "a.example/b",
            "a.example/:1",
            "a.example/b:",
            "a.example/B:1",
            "a.example/../etc:1",
            "a.example//b:1",
            "a b.example/c:1",
            "a.example/b:-1",
            "a.example/b:1\n",
            &long,
        ] {
            assert_eq!(ImageName::parse(name), ImageName::Other, "{name}");
        }
    }
}
