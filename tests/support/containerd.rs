//! A containerd for tests: its folders and socket are in a temporary folder, and it ends with the test. Needs
//! root, and the packages `containerd` and `tar`.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use piccolo::oci::Digest;
use serde_json::json;

/// Time for containerd to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Containerd {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

/// Digests of an image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) layers: Vec<Digest>,
}

impl Image {
    /// Digests of manifest, config and layers.
    pub(crate) fn content(&self) -> Vec<Digest> {
        [&self.manifest, &self.config].into_iter().chain(&self.layers).cloned().collect()
    }
}

impl Containerd {
    /// Makes the folders of a containerd that does not run yet.
    pub(crate) fn prepare() -> Self {
        let folder = tempfile::Builder::new().prefix("piccolo-ctd").tempdir().expect("a temporary folder");
        let path = folder.path().display();
        let config = format!(
            r#"version = 2
root = "{path}/root"
state = "{path}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{path}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{path}/opt"
"#
        );
        std::fs::write(folder.path().join("config.toml"), config).expect("a written config");
        Self { folder, child: None }
    }

    /// Starts a containerd and waits until it serves.
    pub(crate) fn start() -> Self {
        let mut containerd = Self::prepare();
        containerd.run();
        containerd
    }

    /// Starts the daemon and waits until it serves.
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "runs already");
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log file");
        let child = Command::new("containerd")
            .arg("--config")
            .arg(self.folder.path().join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        self.child = Some(child);
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.try_ctr(&["version"]).is_ok_and(|output| output.status.success()) {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "containerd does not serve: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the daemon. Its content stays.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("c.sock")
    }

    pub(crate) fn content_path(&self) -> PathBuf {
        self.folder.path().join("root/io.containerd.content.v1.content")
    }

    /// A folder for files of the test, removed with the rest.
    pub(crate) fn scratch(&self) -> &Path {
        self.folder.path()
    }

    fn try_ctr(&self, arguments: &[&str]) -> std::io::Result<std::process::Output> {
        Command::new("ctr").arg("-a").arg(self.socket()).args(arguments).output()
    }

    /// Runs `ctr` with this daemon; returns the output.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        let output = self.try_ctr(arguments).expect("ctr is installed");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Makes an image of these layers and imports it.
    pub(crate) fn import(&self, namespace: &str, name: &str, layers: &[&[u8]]) -> Image {
        let layout = tempfile::tempdir_in(self.scratch()).expect("a temporary folder");
        let image = write_layout(layout.path(), name, layers);
        let archive = layout.path().join("image.tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(layout.path())
            .arg("-cf")
            .arg(&archive)
            .args(["oci-layout", "index.json", "blobs"])
            .status();
        assert!(packed.expect("tar is installed").success());
        let archive = archive.to_str().expect("a path of UTF-8");
        self.ctr(&["-n", namespace, "images", "import", "--no-unpack", archive]);
        image
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes a layout of one image.
pub(crate) fn write_layout(folder: &Path, name: &str, layers: &[&[u8]]) -> Image {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a folder for blobs");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).expect("a written blob");
        digest
    };
    let layers: Vec<(Digest, usize)> = layers.iter().map(|bytes| (put(bytes), bytes.len())).collect();
    let diff_ids: Vec<&str> = layers.iter().map(|(digest, _)| digest.as_str()).collect();
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string();
    let config_digest = put(config.as_bytes());
    let layer_type = "application/vnd.oci.image.layer.v1.tar";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest.as_str(),
            "size": config.len()},
        "layers": layers.iter().map(|(digest, size)| json!({"mediaType": layer_type, "digest": digest.as_str(),
            "size": size})).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string();
    let manifest_digest = put(manifest.as_bytes());
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest.as_str(), "size": manifest.len(),
            "annotations": {"io.containerd.image.name": name}}],
    });
    std::fs::write(folder.join("index.json"), index.to_string()).expect("a written index");
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a written marker");
    let layers = layers.into_iter().map(|(digest, _)| digest).collect();
    Image { name: name.to_owned(), manifest: manifest_digest, config: config_digest, layers }
}
