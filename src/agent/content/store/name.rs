//! Image names as stores spell them, and which of them are tags that may be advertised.

use piccolo_raft::model::KEY_BYTES_MAX;

use crate::oci::Reference;
use crate::oci::reference::looks_like_registry;

/// What an image name means for the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageName<'a> {
    /// A full tag `registry/repository:tag`, which is a key of the index.
    Tag(&'a str),
    /// A name with a digest, with or without a tag. The digest is a key already. A client that pulls
    /// `repository:tag@digest` never asks where the tag points, so that the tag is not claimed.
    Pinned,
    /// Not a full reference: containerd's CRI plugin keeps `sha256:<config>` as a name, and other tools keep
    /// bare tags.
    Other,
}

impl<'a> ImageName<'a> {
    /// Parses a name. A name that is no reference is [`ImageName::Other`] and no error, so that one strange
    /// image cannot hide all others.
    pub fn parse(name: &'a str) -> Self {
        if name.contains('@') {
            return Self::Pinned;
        }
        if is_full_reference(name) { Self::Tag(name) } else { Self::Other }
    }

    /// The tag, if the name is one.
    pub fn tag(self) -> Option<&'a str> {
        match self {
            Self::Tag(name) => Some(name),
            Self::Pinned | Self::Other => None,
        }
    }
}

/// Whether a text is `registry/repository:tag` with a registry that can be nothing else.
fn is_full_reference(name: &str) -> bool {
    let parsed: Option<Reference> = name.parse().ok();
    name.len() <= KEY_BYTES_MAX
        && parsed.is_some_and(|reference| reference.tag.is_some() && looks_like_registry(&reference.registry))
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
        let long = format!("a.example/b:{}", "x".repeat(129));
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
