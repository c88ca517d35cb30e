//! What a manifest is, decided by its content: a peer's `Content-Type` is hearsay.

use serde::Deserialize;

/// `application/vnd.oci.image.manifest.v1+json`
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// `application/vnd.oci.image.index.v1+json`
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// `application/vnd.docker.distribution.manifest.v2+json`
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// `application/vnd.docker.distribution.manifest.list.v2+json`
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// `application/vnd.oci.artifact.manifest.v1+json`, of release candidates of the OCI image spec 1.1:
/// signatures and SBOMs were stored with it.
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// `application/vnd.cncf.oras.artifact.manifest.v1+json`, its predecessor.
pub const ORAS_ARTIFACT: &str = "application/vnd.cncf.oras.artifact.manifest.v1+json";
/// `application/vnd.docker.distribution.manifest.v1+prettyjws`
pub const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Anything that is only bytes.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// All manifest types, as a value for `Accept`.
pub const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*";

/// Types that a manifest may give itself.
const NAMED: [&str; 7] =
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, OCI_ARTIFACT, ORAS_ARTIFACT, DOCKER_SCHEMA_1];

/// The fields by which manifests are told apart; their values do not matter here.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(default)]
    config: Field,
    #[serde(default)]
    layers: Field,
    #[serde(default)]
    manifests: Field,
    #[serde(rename = "fsLayers", default)]
    fs_layers: Field,
}

/// Go writes `null` for a list that is empty, so that this is not the same as no field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Field {
    #[default]
    Absent,
    Null,
    Value,
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Option::<serde::de::IgnoredAny>::deserialize(deserializer)?;
        Ok(if value.is_some() { Self::Value } else { Self::Null })
    }
}

/// Media type of a manifest or index by its content; `None` if it is neither.
pub fn of_manifest(content: &[u8]) -> Option<&'static str> {
    let first = content.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') {
        return None;
    }
    let shape: Shape = serde_json::from_slice(content).ok()?;
    let Shape { media_type, schema_version, config, layers, manifests, fs_layers } = shape;
    if (manifests, layers) == (Field::Value, Field::Value) {
        // Two readings of one digest could be played against each other (CVE-2021-41190).
        return None;
    }
    let is_version_2 = schema_version == Some(2);
    match media_type.as_deref() {
        Some(named) => NAMED.into_iter().find(|known| *known == named),
        None if manifests == Field::Value => Some(OCI_INDEX),
        // An image's config has no schemaVersion.
        None if config == Field::Value && (layers != Field::Absent || is_version_2) => Some(OCI_MANIFEST),
        None if manifests == Field::Null && layers == Field::Absent && is_version_2 => Some(OCI_INDEX),
        None if schema_version == Some(1) && fs_layers != Field::Absent => Some(DOCKER_SCHEMA_1),
        None => None,
    }
}

/// Fields that a manifest or index has, and an image's config has not, in small letters: Go reads them
/// whatever their case.
const MANIFEST_FIELDS: [&str; 5] = ["manifests", "layers", "fslayers", "schemaversion", "mediatype"];

/// Whether somebody might read `content` as a manifest or index. Wider than [`of_manifest`]: for what
/// must not be given away, a doubt counts as yes.
pub fn may_be_manifest(content: &[u8]) -> bool {
    if !may_begin_manifest(content) {
        return false;
    }
    match serde_json::from_slice::<FieldNames>(content) {
        Ok(FieldNames(names)) => {
            names.iter().any(|name| MANIFEST_FIELDS.contains(&name.to_ascii_lowercase().as_str()))
        }
        // Not JSON to us; perhaps to others.
        Err(_) => true,
    }
}

/// Whether content that begins like this can be a manifest at all: one look spares reading a layer.
pub fn may_begin_manifest(beginning: &[u8]) -> bool {
    beginning.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|first| *first == b'{')
}

/// The names of an object's own fields, twice if they are there twice.
struct FieldNames(Vec<String>);

impl<'de> Deserialize<'de> for FieldNames {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = FieldNames;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<FieldNames, A::Error> {
                let mut names = Vec::new();
                while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                    names.push(name);
                }
                Ok(FieldNames(names))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_somebody_might_read_as_a_manifest_may_be_one() {
        for content in [
            r#"{"schemaVersion":2,"manifests":[]}"#,
            r#" {"Layers":[],"config":{}}"#,
            r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}"#,
            r#"{"manifests":[],"config":{},"layers":[]}"#,
            r#"{"config":{},"config":{},"layers":[]}"#,
            r#"{"layers":[], "unfinished": "#,
            "{\"layers\":[],\"x\":\"\u{1}\"}",
        ] {
            assert!(may_be_manifest(content.as_bytes()), "{content}");
        }
        assert!(may_begin_manifest(b" \n") && may_begin_manifest(b""), "nothing to tell by");
    }

    #[test]
    fn configs_and_layers_cannot_be_manifests() {
        let config = br#"{"architecture":"amd64","config":{"Cmd":["layers"]},"rootfs":{"type":"layers"},"os":"linux"}"#;
        assert!(!may_be_manifest(config));
        assert!(!may_be_manifest(b"\x1f\x8b\x08 gzip") && !may_begin_manifest(b"\x1f\x8b"));
        assert!(!may_be_manifest(b"[]"));
    }

    #[test]
    fn manifests_are_told_by_their_own_words_or_by_their_shape() {
        let named = format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST}","manifests":[]}}"#);
        assert_eq!(of_manifest(named.as_bytes()), Some(DOCKER_LIST));
        assert_eq!(of_manifest(br#"{"schemaVersion":2,"manifests":[]}"#), Some(OCI_INDEX));
        assert_eq!(of_manifest(br#" {"schemaVersion":2,"config":{},"layers":[]}"#), Some(OCI_MANIFEST));
        assert_eq!(of_manifest(br#"{"schemaVersion":1,"fsLayers":[]}"#), Some(DOCKER_SCHEMA_1));
    }

    /// What a store holds beside images: signatures, SBOMs, and manifests that Go wrote from empty lists.
    #[test]
    fn artifacts_and_manifests_without_layers_are_manifests() {
        for named in NAMED {
            let json = format!(r#"{{"mediaType":"{named}","blobs":[],"subject":{{"digest":"x"}}}}"#);
            assert_eq!(of_manifest(json.as_bytes()), Some(named));
        }
        for (json, expected) in [
            (r#"{"schemaVersion":2,"config":{},"layers":null}"#, OCI_MANIFEST),
            (r#"{"config":{},"layers":null}"#, OCI_MANIFEST),
            (r#"{"schemaVersion":2,"config":{},"subject":{}}"#, OCI_MANIFEST),
            (r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":null}"#, OCI_MANIFEST),
            (r#"{"schemaVersion":2,"manifests":[],"layers":null}"#, OCI_INDEX),
            (r#"{"schemaVersion":2,"manifests":null}"#, OCI_INDEX),
        ] {
            assert_eq!(of_manifest(json.as_bytes()), Some(expected), "{json}");
            assert!(may_be_manifest(json.as_bytes()), "{json}");
        }
    }

    #[test]
    fn layers_and_configs_are_no_manifests() {
        assert_eq!(of_manifest(b""), None);
        assert_eq!(of_manifest(b"\x1f\x8b\x08 gzip"), None);
        assert_eq!(of_manifest(br#"{"architecture":"amd64","os":"linux","config":{}}"#), None);
        assert_eq!(of_manifest(br#"{"schemaVersion":2,"layers":["#), None);
        assert_eq!(of_manifest(br#"{"manifests":[],"config":{},"layers":[]}"#), None);
        assert_eq!(of_manifest(br#"{"mediaType":"text/html","layers":[],"config":{}}"#), None);
    }
}
