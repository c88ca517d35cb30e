//! Generated images as OCI layouts.

use std::fs;
use std::path::{Path, PathBuf};

use piccolo::oci::Digest;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

const BLOCK_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4 << 10;

/// An image in a layout folder.
pub struct Image {
    pub folder: PathBuf,
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

impl Image {
    /// Makes an image with a layer of random bytes for each size; the same seed gives the same image.
    pub fn make(folder: &Path, seed: u64, layer_bytes: &[usize]) -> Self {
        Self::of_layers(folder, &layers(seed, layer_bytes))
    }

    /// Makes an image of these layers, which other images may have, too.
    pub fn of_layers(folder: &Path, layers: &[Vec<u8>]) -> Self {
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        let layers: Vec<(Digest, usize)> = layers.iter().map(|layer| put(folder, layer)).collect();
        let diff_ids: Vec<String> = layers.iter().map(|(digest, _)| digest.to_string()).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = put(folder, config.to_string().as_bytes());
        let described: Vec<Value> = layers.iter().map(|layer| describe(LAYER, layer)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": describe(CONFIG, &config), "layers": described});
        let manifest = put(folder, manifest.to_string().as_bytes());
        let mut entry = describe(MANIFEST, &manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self {
            folder: folder.to_owned(),
            manifest: manifest.0,
            config: config.0,
            layers: layers.into_iter().map(|(digest, _)| digest).collect(),
        }
    }

    /// Digests of manifest, config and layers.
    pub fn digests(&self) -> Vec<Digest> {
        [&self.manifest, &self.config].into_iter().chain(&self.layers).cloned().collect()
    }
}

fn describe(media_type: &str, (digest, size): &(Digest, usize)) -> Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}

/// A layer of random bytes for each size; the same seed gives the same layers.
pub fn layers(seed: u64, layer_bytes: &[usize]) -> Vec<Vec<u8>> {
    let mut random = StdRng::seed_from_u64(seed);
    layer_bytes.iter().map(|size| layer(&mut random, *size)).collect()
}

/// A tar with one file of random bytes: a random block again and again, in which each page has its number. Random
/// numbers for all of it would take longer than a pull.
fn layer(random: &mut StdRng, size: usize) -> Vec<u8> {
    let mut content = vec![0; size];
    let (block, rest) = content.split_at_mut(size.min(BLOCK_BYTES));
    random.fill_bytes(block);
    rest.chunks_mut(BLOCK_BYTES).for_each(|next| next.copy_from_slice(&block[..next.len()]));
    for (number, page) in rest.chunks_exact_mut(PAGE_BYTES).enumerate() {
        page[..8].copy_from_slice(&(number as u64).to_le_bytes());
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::with_capacity(size + 4096));
    archive.append_data(&mut header, "data", content.as_slice()).unwrap();
    archive.into_inner().unwrap()
}

fn put(folder: &Path, bytes: &[u8]) -> (Digest, usize) {
    let digest = Digest::of(bytes);
    fs::write(folder.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    (digest, bytes.len())
}
