//! Request paths of the distribution API, as far as a read-only mirror knows them:
//! `/v2/`, `/v2/<name>/manifests/<tag or digest>`, `/v2/<name>/blobs/<digest>`, with the registry
//! in `?ns=` (containerd) or as first component of the name (podman, CRI-O).

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::Digest;
use super::reference::{is_registry, is_repository, is_tag, looks_like_registry};

/// What a registry's name may have and a query may not: the colon in front of a port, and the brackets around an
/// IPv6 address.
const ESCAPED: &AsciiSet = &CONTROLS.add(b':').add(b'[').add(b']');

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiPath {
    /// `/v2/`: are you there?
    Base,
    /// A manifest or a blob.
    Content(ContentPath),
}

/// A manifest or a blob of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentPath {
    /// `host[:port]`; absent if the client did not say.
    pub registry: Option<String>,
    /// Without registry.
    pub repository: String,
    /// Which content.
    pub item: Item,
}

/// Which content of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Whatever the tag points to.
    Tag(String),
    /// A manifest or index by digest.
    Manifest(Digest),
    /// Any content by digest.
    Blob(Digest),
}

/// Why a path is none of ours. All of them are answered 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not of this API.
    #[error("the path is none of /v2/, /v2/<name>/manifests/<reference> and /v2/<name>/blobs/<digest>")]
    Unknown,
    /// The repository is against the grammar.
    #[error("the path has no valid repository name")]
    Name,
    /// `ns`, or the first component, is no registry.
    #[error("the parameter ns is not a registry (HOST or HOST:PORT)")]
    Registry,
    /// Behind `manifests/`.
    #[error("the reference is neither a valid tag nor a valid digest")]
    Reference,
    /// Behind `blobs/`.
    #[error("the digest is not valid: expected sha256: or sha512: and lower-case hex digits")]
    Digest,
}

impl ApiPath {
    /// Reads path and query as they stand in the request line. Nothing in a path of this API needs
    /// percent encoding, so a path with any is none.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, PathError> {
        if path == "/v2" || path == "/v2/" {
            return Ok(Self::Base);
        }
        let rest = path.strip_prefix("/v2/").ok_or(PathError::Unknown)?;
        let (head, reference) = rest.rsplit_once('/').ok_or(PathError::Unknown)?;
        let (name, kind) = head.rsplit_once('/').ok_or(PathError::Unknown)?;
        let item = match kind {
            "blobs" => Item::Blob(reference.parse().map_err(|_| PathError::Digest)?),
            "manifests" if reference.contains(':') => {
                Item::Manifest(reference.parse().map_err(|_| PathError::Digest)?)
            }
            "manifests" if is_tag(reference) => Item::Tag(reference.to_owned()),
            "manifests" => return Err(PathError::Reference),
            _ => return Err(PathError::Unknown),
        };
        let (registry, repository) = match namespace(query)? {
            Some(registry) => (Some(registry), name),
            None => match name.split_once('/') {
                Some((first, repository)) if looks_like_registry(first) => {
                    (Some(first.to_owned()), repository)
                }
                _ => (None, name),
            },
        };
        if registry.as_deref().is_some_and(|registry| !is_registry(registry)) {
            return Err(PathError::Registry);
        }
        if !is_repository(repository) {
            return Err(PathError::Name);
        }
        Ok(Self::Content(ContentPath { registry, repository: repository.to_owned(), item }))
    }
}

impl ContentPath {
    /// The path and query under which a peer is asked for the same.
    pub fn request_target(&self) -> String {
        let repository = &self.repository;
        let path = match &self.item {
            Item::Tag(tag) => format!("/v2/{repository}/manifests/{tag}"),
            Item::Manifest(digest) => format!("/v2/{repository}/manifests/{digest}"),
            Item::Blob(digest) => format!("/v2/{repository}/blobs/{digest}"),
        };
        match &self.registry {
            Some(registry) => format!("{path}?ns={}", encode(registry)),
            None => path,
        }
    }

    /// `registry/repository:tag`, the name of a tag in index and store; `None` for a digest, and for
    /// a tag whose registry is not known.
    pub fn tag_name(&self) -> Option<String> {
        match (&self.item, &self.registry) {
            (Item::Tag(tag), Some(registry)) => Some(format!("{registry}/{}:{tag}", self.repository)),
            _ => None,
        }
    }

    /// The digest asked for, if it is one.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.item {
            Item::Tag(_) => None,
            Item::Manifest(digest) | Item::Blob(digest) => Some(digest),
        }
    }

    /// Whether a manifest is asked for, by tag or digest.
    pub fn is_manifest(&self) -> bool {
        !matches!(self.item, Item::Blob(_))
    }
}

/// The value of `ns`. Two of them that differ are not for us to choose from.
fn namespace(query: Option<&str>) -> Result<Option<String>, PathError> {
    let mut found = None;
    for pair in query.unwrap_or_default().split('&') {
        let Some(value) = pair.strip_prefix("ns=") else { continue };
        let value = decode(value).ok_or(PathError::Registry)?;
        if found.as_ref().is_some_and(|known| *known != value) {
            return Err(PathError::Registry);
        }
        found = Some(value);
    }
    Ok(found)
}

/// Undoes percent encoding; `None` if it is broken or not ASCII. No registry has a `%` in its name, so one that is
/// left was not followed by two hexadecimal digits.
fn decode(text: &str) -> Option<String> {
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    (decoded.is_ascii() && !decoded.contains('%')).then(|| decoded.into_owned())
}

fn encode(registry: &str) -> String {
    utf8_percent_encode(registry, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        Digest::of(b"test")
    }

    fn content(path: &str, query: Option<&str>) -> ContentPath {
        match ApiPath::parse(path, query) {
            Ok(ApiPath::Content(content)) => content,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn containerd_names_the_registry_in_the_query() {
        let found = content("/v2/library/alpine/manifests/3.20", Some("ns=registry.local%3A5000"));
        assert_eq!(found.registry.as_deref(), Some("registry.local:5000"));
        assert_eq!(found.tag_name().as_deref(), Some("registry.local:5000/library/alpine:3.20"));
        assert_eq!(found.request_target(), "/v2/library/alpine/manifests/3.20?ns=registry.local%3A5000");
        let found = content(&format!("/v2/a/manifests/{}", digest()), Some("x=1&ns=docker.io"));
        assert_eq!(found.item, Item::Manifest(digest()));
        assert_eq!(found.digest(), Some(&digest()));
    }

    #[test]
    fn podman_names_the_registry_in_the_path() {
        let found = content(&format!("/v2/quay.io:443/a/b/blobs/{}", digest()), None);
        assert_eq!((found.registry.as_deref(), found.repository.as_str()), (Some("quay.io:443"), "a/b"));
        let found = content("/v2/localhost/a/manifests/x", None);
        assert_eq!(found.registry.as_deref(), Some("localhost"));
        let found = content("/v2/library/alpine/manifests/x", None);
        assert_eq!((found.registry, found.repository.as_str()), (None, "library/alpine"));
    }

    #[test]
    fn repositories_may_be_called_like_parts_of_the_path() {
        let found = content("/v2/blobs/manifests/manifests/v2", Some("ns=a.b"));
        assert_eq!(found.repository, "blobs/manifests");
    }

    #[test]
    fn base_paths_have_two_spellings() {
        assert_eq!(ApiPath::parse("/v2", None), Ok(ApiPath::Base));
        assert_eq!(ApiPath::parse("/v2/", Some("ns=a.b")), Ok(ApiPath::Base));
    }

    #[test]
    fn what_could_climb_or_hide_is_no_path() {
        let good = digest();
        for path in [
            "".to_owned(),
            "/".to_owned(),
            "/v1/".to_owned(),
            "/v2//".to_owned(),
            "/v2/_catalog".to_owned(),
            "/v2/a/tags/list".to_owned(),
            "/v2/manifests/x".to_owned(),
            "/v2//manifests/x".to_owned(),
            "/v2/a/../b/manifests/x".to_owned(),
            "/v2/../manifests/x".to_owned(),
            "/v2/a%2fb/manifests/x".to_owned(),
            "/v2/a/manifests/..".to_owned(),
            "/v2/a/manifests/".to_owned(),
            "/v2/a/manifests/%2e%2e".to_owned(),
            format!("/v2/a//blobs/{good}"),
            format!("/v2/a/blobs/{good}/"),
            format!("/v2/a/blobs//{good}"),
            format!("/v2/A/blobs/{good}"),
            "/v2/a/blobs/latest".to_owned(),
            "/v2/a/blobs/sha256:../../../etc/passwd".to_owned(),
            "/v2/a/blobs/sha256:%2e%2e%2fpasswd".to_owned(),
            "/v2/a/blobs/sha256:12".to_owned(),
            "/v2/a/manifests/sha256:12".to_owned(),
            format!("/v2/x.y/a:b/blobs/{good}"),
        ] {
            assert!(ApiPath::parse(&path, None).is_err(), "{path}");
        }
    }

    #[test]
    fn registries_that_are_none_are_refused() {
        for query in ["ns=", "ns=..", "ns=a/b", "ns=a%2Fb", "ns=a%", "ns=a%zz", "ns=a%C3%A4", "ns=a.b&ns=c.d"]
        {
            assert!(ApiPath::parse("/v2/a/manifests/x", Some(query)).is_err(), "{query}");
        }
        assert!(ApiPath::parse("/v2/a/manifests/x", Some("ns=a.b&ns=a.b")).is_ok());
    }
}
