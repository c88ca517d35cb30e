//! Image indexes, as far as an image layout needs them: digests and their names (OCI image spec,
//! `image-index.md`, `annotations.md`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Digest, DigestError};

/// What an index points to, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Manifests, or further indexes.
    pub manifests: Vec<Descriptor>,
}

/// A pointer to content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Which content.
    pub digest: Digest,
    /// Names, among others.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Not JSON, without manifests, or with fields of wrong types.
    #[error("could not read an image index: {0}")]
    Json(#[from] serde_json::Error),
    /// A pointer by something else.
    #[error("could not read an image index: {0}")]
    Digest(#[from] DigestError),
}

#[derive(Deserialize)]
struct RawIndex {
    /// Must be there; `null` is what umoci writes into a new layout.
    #[serde(deserialize_with = "Option::deserialize")]
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
struct RawDescriptor {
    digest: String,
    annotations: Option<BTreeMap<String, String>>,
}

impl Index {
    /// Reads an index. Unknown fields are ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let raw: RawIndex = serde_json::from_slice(bytes)?;
        let manifests =
            raw.manifests.into_iter().flatten().map(Descriptor::from_raw).collect::<Result<_, _>>()?;
        Ok(Self { manifests })
    }
}

impl Descriptor {
    fn from_raw(raw: RawDescriptor) -> Result<Self, DigestError> {
        Ok(Self { digest: raw.digest.parse()?, annotations: raw.annotations.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_without_manifests_is_empty_only_if_it_says_so() {
        assert_eq!(Index::parse(br#"{"schemaVersion":2,"manifests":null}"#).unwrap().manifests, []);
        assert!(Index::parse(br#"{"schemaVersion":2}"#).is_err());
    }

    #[test]
    fn an_index_names_its_manifests() {
        let (named, bare) = (Digest::of(b"named"), Digest::of(b"bare"));
        let json = format!(
            r#"{{"schemaVersion":2,"unknown":[],"manifests":[
                {{"digest":"{named}","size":5,"annotations":{{"org.opencontainers.image.ref.name":"a.b/c:1"}}}},
                {{"digest":"{bare}","size":4,"platform":{{"os":"linux"}}}}]}}"#
        );
        let index = Index::parse(json.as_bytes()).unwrap();
        let name = index.manifests[0].annotations.get("org.opencontainers.image.ref.name");
        assert_eq!((index.manifests[0].digest.clone(), name.map(String::as_str)), (named, Some("a.b/c:1")));
        assert_eq!(index.manifests[1], Descriptor { digest: bare, annotations: BTreeMap::new() });
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for json in ["", "\x1f\u{8b}", "{}", r#"{"manifests":{}}"#, r#"{"config":{},"layers":[]}"#] {
            assert!(matches!(Index::parse(json.as_bytes()), Err(IndexError::Json(_))), "{json}");
        }
        let bad = br#"{"manifests":[{"digest":"sha256:../../x","size":1}]}"#;
        assert!(matches!(Index::parse(bad), Err(IndexError::Digest(_))));
    }
}
