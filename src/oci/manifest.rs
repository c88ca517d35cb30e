//! Image indexes and manifests, as far as the agent reads them: what they point to.
//!
//! OCI image spec: `image-index.md`, `manifest.md`, `annotations.md`; Docker's schema 2 has the same
//! fields.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Digest;

/// Media types of indexes.
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// Media types of manifests.
const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Points to manifests.
    Index,
    /// Points to a config and layers.
    Manifest,
}

/// An index or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Which of the two.
    pub kind: Kind,
    /// Its media type: its own word, or what its fields say.
    pub media_type: String,
    /// What it points to, in its order: manifests, or the config and then the layers.
    pub descriptors: Vec<Descriptor>,
}

/// A pointer to content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What kind of content, empty if it does not say.
    pub media_type: String,
    /// Which content.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// Names in an image layout, among others.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are no index and no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or fields of wrong types.
    #[error("could not read a manifest")]
    Json(#[from] serde_json::Error),
    /// JSON without what makes an index or a manifest, such as an image config.
    #[error("has neither manifests nor a config with layers")]
    OtherKind,
    /// Both at once: the two readings of one digest could be played against each other (image spec,
    /// CVE-2021-41190).
    #[error("has manifests and layers")]
    Ambiguous,
    /// A pointer to content of no known digest.
    #[error("points to content by something that is no digest")]
    Digest(#[from] super::DigestError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    media_type: String,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// Reads an index or manifest. Unknown fields are ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: RawDocument = serde_json::from_slice(bytes)?;
        let (kind, types, descriptors) = match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => (Kind::Index, INDEX_TYPES, manifests),
            (None, Some(config), Some(layers)) => {
                (Kind::Manifest, MANIFEST_TYPES, std::iter::once(config).chain(layers).collect())
            }
            (Some(_), _, _) => return Err(ManifestError::Ambiguous),
            (None, _, _) => return Err(ManifestError::OtherKind),
        };
        let media_type = if raw.media_type.is_empty() { types[0].to_owned() } else { raw.media_type };
        let descriptors = descriptors.into_iter().map(Descriptor::from_raw).collect::<Result<_, _>>()?;
        Ok(Self { kind, media_type, descriptors })
    }
}

impl Descriptor {
    fn from_raw(raw: RawDescriptor) -> Result<Self, ManifestError> {
        Ok(Self {
            media_type: raw.media_type,
            digest: raw.digest.parse()?,
            size_bytes: raw.size,
            annotations: raw.annotations.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(text: &str) -> String {
        format!(r#"{{"mediaType":"m","digest":"{}","size":{}}}"#, Digest::of(text.as_bytes()), text.len())
    }

    #[test]
    fn a_manifest_points_to_its_config_and_then_its_layers() {
        let json = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{}],"unknown":{{}}}}"#,
            descriptor("config"),
            descriptor("layer 1"),
            descriptor("layer 2")
        );
        let document = Document::parse(json.as_bytes()).unwrap();
        assert_eq!(document.kind, Kind::Manifest);
        assert_eq!(document.media_type, MANIFEST_TYPES[0]);
        let sizes: Vec<u64> = document.descriptors.iter().map(|d| d.size_bytes).collect();
        assert_eq!(sizes, [6, 7, 7]);
    }

    #[test]
    fn a_docker_list_is_an_index() {
        let json = format!(r#"{{"mediaType":"{}","manifests":[{}]}}"#, INDEX_TYPES[1], descriptor("m"));
        let document = Document::parse(json.as_bytes()).unwrap();
        assert_eq!((document.kind, document.media_type.as_str()), (Kind::Index, INDEX_TYPES[1]));
        assert_eq!(document.descriptors[0].digest, Digest::of(b"m"));
    }

    #[test]
    fn what_is_neither_or_both_is_refused() {
        let both = format!(r#"{{"manifests":[],"config":{},"layers":[]}}"#, descriptor("c"));
        assert!(matches!(Document::parse(both.as_bytes()), Err(ManifestError::Ambiguous)));
        let config = br#"{"architecture":"amd64","config":null,"rootfs":{}}"#;
        assert!(matches!(Document::parse(config), Err(ManifestError::OtherKind)));
        assert!(matches!(Document::parse(b"\x1f\x8b"), Err(ManifestError::Json(_))));
        let bad = br#"{"manifests":[{"digest":"sha256:../../x","size":1}]}"#;
        assert!(matches!(Document::parse(bad), Err(ManifestError::Digest(_))));
    }
}
