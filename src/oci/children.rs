//! What a manifest or index points to.

use serde::Deserialize;

use super::Digest;

/// Digests that a manifest or index names, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children {
    /// Further manifests or indexes.
    pub manifests: Vec<Digest>,
    /// Config, layers, and the blobs of an artifact.
    pub blobs: Vec<Digest>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    /// An artifact manifest's.
    blobs: Option<Vec<RawDescriptor>>,
    /// Docker's schema 1.
    #[serde(rename = "fsLayers")]
    fs_layers: Option<Vec<RawDescriptor>>,
}

/// One that is odd keeps only itself from being read.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawDescriptor {
    Sound {
        #[serde(alias = "blobSum")]
        digest: String,
    },
    Odd(serde::de::IgnoredAny),
}

impl RawDescriptor {
    fn digest(self) -> Option<Digest> {
        match self {
            Self::Sound { digest } => digest.parse().ok(),
            Self::Odd(_) => None,
        }
    }
}

impl Children {
    /// Reads a manifest or index; what is neither has no children, nor has a pointer by something
    /// other than a digest.
    pub fn of(content: &[u8]) -> Self {
        let Ok(raw) = serde_json::from_slice::<Raw>(content) else { return Self::default() };
        let digests = |descriptors: Option<Vec<RawDescriptor>>| {
            descriptors.into_iter().flatten().filter_map(RawDescriptor::digest)
        };
        let config = raw.config.map(|config| vec![config]);
        Self {
            manifests: digests(raw.manifests).collect(),
            blobs: digests(config)
                .chain(digests(raw.layers))
                .chain(digests(raw.blobs))
                .chain(digests(raw.fs_layers))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_name_manifests_and_manifests_name_blobs() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes));
        let index = format!(r#"{{"manifests":[{{"digest":"{a}"}},{{"digest":"../x"}},{{"digest":"{b}"}}]}}"#);
        let children = Children { manifests: vec![a.clone(), b.clone()], blobs: Vec::new() };
        assert_eq!(Children::of(index.as_bytes()), children);
        let manifest = format!(r#"{{"config":{{"digest":"{c}"}},"layers":[{{"digest":"{a}","size":1}}]}}"#);
        let children = Children { manifests: Vec::new(), blobs: vec![c, a] };
        assert_eq!(Children::of(manifest.as_bytes()), children);
        let schema_1 = format!(r#"{{"schemaVersion":1,"fsLayers":[{{"blobSum":"{b}"}}]}}"#);
        assert_eq!(Children::of(schema_1.as_bytes()).blobs, std::slice::from_ref(&b));
        let artifact =
            format!(r#"{{"blobs":[{{"digest":"{b}"}}],"subject":{{"digest":"{}"}}}}"#, Digest::of(b"a"));
        assert_eq!(Children::of(artifact.as_bytes()).blobs, std::slice::from_ref(&b));
        let odd = format!(
            r#"{{"layers":[{{"size":1}},7,{{"digest":null}},{{"digest":"sha384:00"}},{{"digest":"{b}"}}]}}"#
        );
        assert_eq!(Children::of(odd.as_bytes()).blobs, [b], "one odd descriptor hides no other");
        assert_eq!(Children::of(b"\x1f\x8b"), Children::default());
    }
}
