//! Generated images as OCI layouts: the same seed gives the same bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Header of the only file in a layer's tar, and the two empty blocks at the end, bytes.
const TAR_BYTES: u64 = 3 * 512;
const PIECE_BYTES: usize = 1 << 20;

/// A blob with its digest.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) hex: String,
    pub(crate) bytes: u64,
}

impl Blob {
    pub(crate) fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }

    /// Path at which every side serves it.
    pub(crate) fn path(&self) -> String {
        format!("/v2/bench/blobs/sha256:{}?ns=bench.invalid", self.hex)
    }
}

/// One image in a layout folder, tagged `latest`.
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(crate) layers: Vec<Blob>,
    /// Manifest and configuration.
    pub(crate) rest: Vec<Blob>,
}

impl Layout {
    /// An image with a layer for each size in bytes (multiples of 512): a tar of random bytes.
    pub(crate) fn make(folder: &Path, seed: u64, layer_bytes: &[u64]) -> Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256")).context("could not make a layout")?;
        let mut random = SmallRng::seed_from_u64(seed);
        let layers = layer_bytes.iter().map(|bytes| put_layer(folder, &mut random, *bytes));
        let layers: Vec<Blob> = layers.collect::<Result<_>>()?;
        let diff_ids: Vec<String> = layers.iter().map(Blob::digest).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = put_json(folder, &config)?;
        let described: Vec<Value> = layers.iter().map(|layer| describe(LAYER, layer)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": describe(CONFIG, &config), "layers": described});
        let manifest = put_json(folder, &manifest)?;
        let mut entry = describe(MANIFEST, &manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        write_index(folder, &[entry])?;
        Ok(Self { folder: folder.to_owned(), layers, rest: vec![manifest, config] })
    }

    /// A layout with `images` different images of tiny layers, each with a name.
    pub(crate) fn many(folder: &Path, images: u32, layers_each: u32) -> Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256")).context("could not make a layout")?;
        let put = |text: String| put_text(folder, &text);
        let mut entries = Vec::new();
        let mut all = Self { folder: folder.to_owned(), layers: Vec::new(), rest: Vec::new() };
        for image in 0..images {
            let layers = (0..layers_each).map(|layer| put(format!("layer {layer} of image {image}")));
            let layers: Vec<Blob> = layers.collect::<Result<_>>()?;
            let config = put(format!("{{\"image\":{image}}}"))?;
            let described: Vec<Value> = layers.iter().map(|layer| describe(LAYER, layer)).collect();
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
                "config": describe(CONFIG, &config), "layers": described});
            let manifest = put_json(folder, &manifest)?;
            let mut entry = describe(MANIFEST, &manifest);
            let name = format!("bench.invalid/team/app-{image}:v1");
            entry["annotations"] = json!({"io.containerd.image.name": name});
            entries.push(entry);
            all.layers.extend(layers);
            all.rest.extend([manifest, config]);
        }
        write_index(folder, &entries)?;
        Ok(all)
    }

    /// An empty layout.
    pub(crate) fn empty(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256")).context("could not make a layout")?;
        write_index(folder, &[])?;
        Ok(Self { folder: folder.to_owned(), layers: Vec::new(), rest: Vec::new() })
    }
}

fn write_index(folder: &Path, manifests: &[Value]) -> Result<()> {
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs::write(folder.join("index.json"), index.to_string()).context("could not write index.json")?;
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
        .context("could not write oci-layout")
}

fn describe(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest(), "size": blob.bytes})
}

fn put_json(folder: &Path, value: &Value) -> Result<Blob> {
    put_text(folder, &value.to_string())
}

fn put_text(folder: &Path, text: &str) -> Result<Blob> {
    let hex = hex(&Sha256::digest(text));
    fs::write(folder.join("blobs/sha256").join(&hex), text).context("could not write a blob")?;
    Ok(Blob { hex, bytes: text.len() as u64 })
}

fn put_layer(folder: &Path, random: &mut SmallRng, bytes: u64) -> Result<Blob> {
    ensure!(bytes > TAR_BYTES && bytes.is_multiple_of(512), "a layer cannot have {bytes} bytes");
    let path = folder.join("blobs/layer");
    let mut file = BufWriter::new(File::create(&path).context("could not create a blob")?);
    let mut hasher = Sha256::new();
    let mut write = |piece: &[u8]| {
        hasher.update(piece);
        file.write_all(piece).context("could not write a blob")
    };
    let mut header = tar::Header::new_gnu();
    header.set_path("data").context("could not name a file")?;
    header.set_size(bytes - TAR_BYTES);
    header.set_mode(0o644);
    header.set_cksum();
    write(header.as_bytes())?;
    let mut missing = bytes - TAR_BYTES;
    let mut piece = vec![0; PIECE_BYTES];
    while missing > 0 {
        let length = PIECE_BYTES.min(usize::try_from(missing).unwrap_or(PIECE_BYTES));
        random.fill_bytes(&mut piece[..length]);
        write(&piece[..length])?;
        missing -= length as u64;
    }
    write(&[0; 1024])?;
    file.flush().context("could not write a blob")?;
    let hex = hex(&hasher.finalize());
    fs::rename(path, folder.join("blobs/sha256").join(&hex)).context("could not name a blob")?;
    Ok(Blob { hex, bytes })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_its_size_its_digest_and_is_a_tar() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::make(folder.path(), 7, &[102_400]).unwrap();
        let bytes = fs::read(folder.path().join("blobs/sha256").join(&layout.layers[0].hex)).unwrap();
        assert_eq!(bytes.len(), 102_400);
        assert_eq!(hex(&Sha256::digest(&bytes)), layout.layers[0].hex);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let sizes: Vec<u64> = archive.entries().unwrap().map(|entry| entry.unwrap().size()).collect();
        assert_eq!(sizes, [102_400 - TAR_BYTES]);
    }
}
