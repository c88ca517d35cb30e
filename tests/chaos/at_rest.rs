//! An idle site writes nothing: flash wears out, and the disk may be etcd's (docs/budgets.md).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::site::Site;
use crate::support::noise;
use crate::wire::status;

const NODES: usize = 2;
const BLOBS: u64 = 5;
/// Time for the writes of the start to settle: a durable commit follows a change within a second.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Number of windows: all but the last may be disturbed by an election.
const WINDOWS_MAX: u32 = 3;
const QUIET: Duration = Duration::from_secs(5);
/// Length in `make test`: ten heartbeats of each node.
const BRIEFLY: Duration = Duration::from_secs(30);
/// Length in the budget of docs/budgets.md.
const TEN_MINUTES: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_site_of_five_nodes_writes_nothing() {
    writes_nothing_for(BRIEFLY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_an_idle_site_of_five_nodes_writes_nothing_for_ten_minutes() {
    writes_nothing_for(TEN_MINUTES).await;
}

async fn writes_nothing_for(time: Duration) {
    let mut site = Site::of_three_on_disk().await;
    site.add_nodes(NODES, &[]).await;
    for node in &site.nodes {
        (0..BLOBS).for_each(|blob| _ = node.layout.put(&noise(blob, 3_000)));
    }
    let before = quiet_for(&site, time).await;
    // Shows that the check can fail: one new blob is written by all servers.
    site.nodes[0].layout.put(&noise(77, 3_000));
    crate::support::within("a change is observed", SETTLED_WITHIN, async || {
        let now = Seen::of(&site);
        let changed = now.files.iter().filter(|(file, stamp)| before.files.get(*file) != Some(stamp)).count();
        let wrote = now.written.iter().zip(&before.written).filter(|(now, before)| now > before).count();
        (changed >= site.servers.len() && wrote >= site.servers.len()).then_some(())
    })
    .await;
}

/// Asserts that the site does not change during `time`. If there is an election meanwhile, which writes
/// votes, it tries again.
async fn quiet_for(site: &Site, time: Duration) -> Seen {
    for window in 1..=WINDOWS_MAX {
        let before = settled(site).await;
        assert!(before.files.len() > 9, "the data of three servers is looked at: {before:?}");
        let terms = terms(site).await;
        // A comparison at the end would be enough; one each second tells when a write happened.
        let begun = Instant::now();
        let mut same = true;
        while same && begun.elapsed() < time {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Seen::of(site);
            same = now == before;
            if !same {
                let elected = terms != self::terms(site).await;
                let summary = format!("after {:?} at rest: {now:?}\nbefore: {before:?}", begun.elapsed());
                assert!(elected && window < WINDOWS_MAX, "something was written {summary}");
                println!("an election {:?} after the site was at rest", begun.elapsed());
            }
        }
        if same {
            return before;
        }
    }
    unreachable!("the last window returns or panics")
}

/// Raft terms, by server.
async fn terms(site: &Site) -> Vec<Option<u64>> {
    let mut terms = Vec::new();
    for server in &site.servers {
        terms.push(status(server.api).await.map(|status| status.term));
    }
    terms
}

/// Bytes that processes have written to disks, and stamps of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Bytes that each process caused to be written, by `/proc/<pid>/io`: servers first, then nodes.
    written: Vec<u64>,
    files: BTreeMap<PathBuf, Stamp>,
}

/// Length, blocks, and times of content and inode in nanoseconds: every write changes at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    blocks: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Seen {
    fn of(site: &Site) -> Self {
        let servers = site.servers.iter().map(|server| server.pid());
        let nodes = site.nodes.iter().flat_map(|node| node.pids());
        let written = servers.chain(nodes).map(written_bytes).collect();
        let mut files = BTreeMap::new();
        let disk = site.disk.as_ref().map(|disk| disk.path());
        [Some(site.path()), disk].into_iter().flatten().for_each(|folder| add(folder, &mut files));
        // Output of the processes, which the harness stores; it may report an election.
        files.retain(|file, _| file.extension().is_none_or(|extension| extension != "log"));
        Self { written, files }
    }
}

fn written_bytes(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    line.parse().unwrap()
}

fn add(folder: &Path, files: &mut BTreeMap<PathBuf, Stamp>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let stamp = Stamp {
            length: meta.len(),
            blocks: meta.blocks(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        };
        files.insert(path.clone(), stamp);
        if meta.is_dir() {
            add(&path, files);
        }
    }
}

/// The state after it has not changed for a while.
async fn settled(site: &Site) -> Seen {
    let end = Instant::now() + SETTLED_WITHIN;
    let (mut seen, mut since) = (Seen::of(site), Instant::now());
    while since.elapsed() < QUIET {
        assert!(Instant::now() < end, "something is still written {SETTLED_WITHIN:?} after the start");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = Seen::of(site);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    seen
}
