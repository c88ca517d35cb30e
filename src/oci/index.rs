//! Image indexes, as far as an image layout needs them: digests and their names (OCI image spec,
//! `image-index.md`, `annotations.md`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Digest;

/// What an index points to, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Manifests, or further indexes.
    pub manifests: Vec<Descriptor>,
    /// Entries that cannot be read, each with its place and why.
    pub skipped: Vec<String>,
}

/// A pointer to content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Which content.
    pub digest: Digest,
    /// Names, among others.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are no index: not JSON, or without a list of manifests.
#[derive(Debug, thiserror::Error)]
#[error("could not read an image index")]
pub struct IndexError(#[from] serde_json::Error);

#[derive(Deserialize)]
struct RawIndex {
    /// Must be there; `null` is what umoci writes into a new layout.
    #[serde(deserialize_with = "Option::deserialize")]
    manifests: Option<Vec<RawEntry>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawEntry {
    Descriptor { digest: String, annotations: Option<BTreeMap<String, String>> },
    Odd(serde::de::IgnoredAny),
}

impl Index {
    /// Reads an index. Unknown fields are ignored, and entries that cannot be read are skipped: another
    /// tool's odd entry must not hide the images beside it.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let raw: RawIndex = serde_json::from_slice(bytes)?;
        let mut index = Self { manifests: Vec::new(), skipped: Vec::new() };
        for (place, entry) in raw.manifests.into_iter().flatten().enumerate() {
            match entry.read() {
                Ok(descriptor) => index.manifests.push(descriptor),
                Err(why) => index.skipped.push(format!("entry {}: {why}", place + 1)),
            }
        }
        Ok(index)
    }
}

impl RawEntry {
    fn read(self) -> Result<Descriptor, String> {
        match self {
            Self::Descriptor { digest, annotations } => {
                let digest = digest.parse().map_err(|error: super::DigestError| error.to_string())?;
                Ok(Descriptor { digest, annotations: annotations.unwrap_or_default() })
            }
            Self::Odd(_) => Err("it has no digest, or annotations that are not text".to_owned()),
        }
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
            assert!(Index::parse(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn an_odd_entry_is_skipped_and_named_and_hides_no_other() {
        let sound = Digest::of(b"sound");
        let json = format!(
            r#"{{"manifests":[{{"digest":"sha384:{}","size":1}},{{"digest":"{sound}","size":5}},
                {{"digest":"sha256:../../x"}},{{"size":1}},7,{{"digest":"{sound}","annotations":{{"a":1}}}}]}}"#,
            "0".repeat(96)
        );
        let index = Index::parse(json.as_bytes()).unwrap();
        assert_eq!(index.manifests, [Descriptor { digest: sound, annotations: BTreeMap::new() }]);
        assert_eq!(index.skipped.len(), 5);
        assert!(index.skipped[0].starts_with("entry 1: \"sha384:000"), "{:?}", index.skipped);
        assert!(index.skipped[3].starts_with("entry 5: it has no digest"), "{:?}", index.skipped);
    }
}
