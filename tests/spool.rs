//! The real binary: spooling of an agent with a disk that is not writable, and with one that becomes full.
//! The second test mounts a small file system, as root.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/site.rs"]
mod site;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use piccolo::limits::{STATE_DIR_RETRY, UPLOADS_MAX_DEFAULT};
use piccolo::oci::Digest;
use rustix::fs::{FallocateFlags, fallocate, statvfs, syncfs};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use site::{Agent, Layout, SOON, Server, Setup, Wire, get, head, noise, within};

const MIB: u64 = 1 << 20;
/// Size of a blob that is verified whole, and too large for memory if there is a disk.
const BLOB: usize = 12 << 20;

fn target(digest: &Digest) -> String {
    format!("/v2/library/app/blobs/{digest}")
}

/// A connection that requests a blob and reads only the first bytes of the answer.
async fn take_nothing(address: SocketAddr, digest: &Digest) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut wire = Wire::over(socket.connect(address).await.unwrap());
    wire.send(&head("GET", &target(digest), &[])).await.unwrap();
    let mut first = [0; 12];
    wire.stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    wire.stream
}

async fn readyz(agent: &Agent) -> String {
    get(agent.metrics, "/readyz").await.unwrap().text()
}

/// A server, a holder of the layout's content, and an agent with this state folder. Requests are held for as
/// long as a busy machine may need.
async fn site(layout: &Layout, own: Option<&Layout>, state_dir: &Path) -> (Server, Agent, Agent) {
    let server = Server::start().await;
    let setup = || Setup { servers: vec![server.url.clone()], ..Setup::default() };
    let holder = Agent::start(Setup { layout: Some(layout.path()), ..setup() }).await;
    // TMPDIR is a folder that is not writable.
    let launcher = ["env", "TMPDIR=/nowhere"];
    let flags = ["--resolve-timeout", "30s"];
    let own = own.map(Layout::path);
    let state_dir = Some(state_dir);
    let asker =
        Agent::start(Setup { layout: own, launcher: &launcher, flags: &flags, state_dir, ..setup() }).await;
    holder.synced().await;
    (server, holder, asker)
}

/// Without a writable TMPDIR such blobs never came from peers; on a tmpfs they took as much memory as there
/// were transfers.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_disk_twelve_pulls_and_all_uploads_at_once_stay_within_128_mib() {
    // Their bytes together exceed that memory.
    const PULLS: usize = 12;
    const MEMORY_MAX: u64 = 128 * MIB;
    let (layout, own) = (Layout::empty(), Layout::empty());
    let blobs: Vec<Vec<u8>> = (0..PULLS).map(|number| noise(number as u64, BLOB)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|bytes| layout.put(bytes)).collect();
    let uploaded = own.put(&noise(99, BLOB));
    let (server, _holder, asker) = site(&layout, Some(&own), Path::new("/dev/null/state")).await;
    assert!(readyz(&asker).await.contains("could not write to --state-dir /dev/null/state"));
    for digest in &digests {
        server.found(digest.as_str()).await;
    }
    let mut uploads = Vec::new();
    for _ in 0..UPLOADS_MAX_DEFAULT {
        uploads.push(take_nothing(asker.peer, &uploaded).await);
    }
    let mut pulls = JoinSet::new();
    for (digest, bytes) in digests.into_iter().zip(blobs) {
        let mirror = asker.mirror;
        pulls.spawn(async move {
            let answer = get(mirror, &target(&digest)).await.unwrap();
            assert!(answer.status == 200 && answer.body == bytes, "{} {}", answer.status, answer.body.len());
        });
    }
    pulls.join_all().await;
    let held = asker.process.own_memory_peak_bytes();
    println!("{} MiB at most", held / MIB);
    assert!(held < MEMORY_MAX, "{} MiB", held / MIB);
}

/// A small file system on a disk, unmounted when dropped.
struct Volume {
    folder: TempDir,
}

impl Volume {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("piccolo-spool-").tempdir_in("/var/tmp").unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(64 * MIB).unwrap();
        let volume = Self { folder };
        fs::create_dir(volume.path()).unwrap();
        let run = |program: &str, arguments: &[&str], last: &[&Path]| {
            let status = Command::new(program).args(arguments).args(last).status();
            assert!(status.unwrap().success(), "{program} has failed: this test needs root");
        };
        run("mkfs.ext4", &["-q", "-m", "0"], &[&image]);
        run("mount", &["-o", "loop"], &[&image, &volume.path()]);
        volume
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("mounted")
    }

    /// Free bytes. The space of a removed file is free after the journal's commit.
    fn free(&self) -> u64 {
        syncfs(File::open(self.path()).unwrap()).unwrap();
        let space = statvfs(self.path()).unwrap();
        space.f_bavail * space.f_frsize
    }

    /// Fills the volume except for `left` bytes.
    fn fill_up_to(&self, left: u64) {
        let filler = File::create(self.path().join("filler")).unwrap();
        let mut length = 0;
        loop {
            let more = self.free().saturating_sub(left);
            if more == 0 {
                return;
            }
            fallocate(&filler, FallocateFlags::empty(), length, more).unwrap();
            length += more;
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(self.path()).status().ok();
    }
}

/// Number of unlinked files below `folder` that the agent has open.
fn open_below(agent: &Agent, folder: &Path) -> usize {
    let files = agent.process.pids().into_iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")));
    let links = files.flatten().flatten().filter_map(|file| fs::read_link(file.path()).ok());
    // The lock of the folder is open as well, and has its name.
    let is_unlinked = |link: &PathBuf| link.as_os_str().as_encoded_bytes().ends_with(b" (deleted)");
    links.filter(|link| link.starts_with(folder) && is_unlinked(link)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_sends_blobs_to_memory_until_there_is_room_again() {
    let layout = Layout::empty();
    let blobs: Vec<Vec<u8>> = (0..3).map(|number| noise(number, BLOB)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|bytes| layout.put(bytes)).collect();
    let volume = Volume::new();
    let (server, _holder, asker) = site(&layout, None, &volume.path().join("agent")).await;
    for digest in &digests {
        server.found(digest.as_str()).await;
    }
    let pull = async |number: usize| {
        let answer = get(asker.mirror, &target(&digests[number])).await.unwrap();
        assert!(answer.status == 200 && answer.body == blobs[number], "{} {}", number, answer.status);
    };
    let is_open = || open_below(&asker, &volume.path()) > 0;
    let free = volume.free();

    let stuck = take_nothing(asker.mirror, &digests[0]).await;
    within("a spooled file in the state folder", SOON, async || is_open().then_some(())).await;
    drop(stuck);
    within("no file any more", SOON, async || (!is_open()).then_some(())).await;
    // The space is released a moment after the descriptor, when the thread that closes it continues.
    within("its room", SOON, async || (volume.free() + MIB > free).then_some(())).await;

    volume.fill_up_to(4 * MIB);
    pull(1).await;
    let reasons = readyz(&asker).await;
    assert!(
        reasons.contains("could not write to --state-dir") && reasons.contains("No space left"),
        "{reasons}"
    );

    fs::remove_file(volume.path().join("filler")).unwrap();
    within("it is found writable", STATE_DIR_RETRY + Duration::from_secs(20), async || {
        (!readyz(&asker).await.contains("state-dir")).then_some(())
    })
    .await;
    pull(2).await;
    assert!(!readyz(&asker).await.contains("state-dir"));
}
