//! The fault matrix with a real containerd through the real mirror, and a registry that counts requests.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tempfile::TempDir;

use crate::blob::{Blob, LARGE, SMALL};
use crate::cells::{AtOnce, Cell, Fault, PULL_WITHIN, Peers, all_pass, indented};
use crate::fault::{Kind, Place};
use crate::harness::{LayerImage, Puller, SOON, Servers, keys_of};

const AT_ONCE: AtOnce = AtOnce { cells: 16, large: 4 };

/// The cells that differ most: every fault, every place.
const SAMPLE: [(Place, Kind, bool, u64); 24] = [
    (Place::BeforeHeaders, Kind::Nobody, true, SMALL),
    (Place::BeforeHeaders, Kind::Freeze, true, LARGE),
    (Place::BeforeHeaders, Kind::NotFound, false, SMALL),
    (Place::BeforeHeaders, Kind::Slow, false, LARGE),
    (Place::BeforeHeaders, Kind::Corrupt, true, LARGE),
    (Place::AfterHeaders, Kind::Freeze, true, SMALL),
    (Place::AfterHeaders, Kind::Reset, false, LARGE),
    (Place::AfterHeaders, Kind::InternalError, true, LARGE),
    (Place::AfterHeaders, Kind::Long, true, LARGE),
    (Place::OnePercent, Kind::CleanClose, false, LARGE),
    (Place::OnePercent, Kind::Slow, true, LARGE),
    (Place::OnePercent, Kind::Corrupt, false, SMALL),
    (Place::Half, Kind::CleanClose, true, SMALL),
    (Place::Half, Kind::Freeze, false, LARGE),
    (Place::Half, Kind::Short, true, LARGE),
    (Place::Half, Kind::Unavailable, true, LARGE),
    (Place::Half, Kind::Corrupt, true, LARGE),
    (Place::Half, Kind::Corrupt, false, LARGE),
    (Place::NinetyNine, Kind::Reset, true, LARGE),
    (Place::NinetyNine, Kind::Nobody, false, SMALL),
    (Place::LastByte, Kind::Corrupt, false, LARGE),
    (Place::LastByte, Kind::Freeze, true, LARGE),
    (Place::LastByte, Kind::Long, false, SMALL),
    (Place::LastByte, Kind::Short, false, LARGE),
];

/// Site of all cells; each has its own image.
struct Site {
    puller: Puller,
    servers: Servers,
    /// In memory: a disk that is busy with other work must not fail the test.
    _folder: TempDir,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let servers = Servers::up(folder.path()).await;
        let puller = Puller::start(&folder.path().join("node"), &servers.urls(), &[]).await;
        Self { puller, servers, _folder: folder }
    }

    async fn advertise(&self, holder: SocketAddr, blob: &Blob) {
        let request = keys_of(&holder.to_string(), None, std::slice::from_ref(&blob.digest));
        assert!(self.servers.client(1).advertise(&request, SOON).await.unwrap().success);
    }
}

/// A cell with real processes.
#[derive(Clone, Copy)]
struct Real(Fault);

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Cell for Real {
    type Site = Site;

    fn fault(self) -> Fault {
        self.0
    }

    async fn run(self, site: &Site) -> Result<(), String> {
        let image = LayerImage::of(Blob::new(self.0.size));
        let layer = &image.layer;
        let peers = self.0.peers(layer, image.registry()).await;
        site.advertise(peers.bad_address, layer).await;
        if self.0.other {
            site.advertise(peers.other.address, layer).await;
        }
        let pulled = self.pull(site, &image, &peers).await;
        let (held, sent) = (site.puller.take(layer).await, peers.registry.sent());
        let problem = match pulled {
            Err(problem) => problem,
            Ok(()) if held.as_ref() != Some(&layer.digest) => format!("containerd holds {held:?}"),
            Ok(()) if self.0.other && sent > 0 => format!("the registry sent {sent} bytes"),
            Ok(()) => return Ok(()),
        };
        Err(format!("{problem}\n{}", indented(&site.puller.log_of(&layer.digest))))
    }
}

impl Real {
    async fn pull(self, site: &Site, image: &LayerImage, peers: &Peers) -> Result<(), String> {
        let pull = || site.puller.pull(image, &peers.registry, PULL_WITHIN);
        let Err(problem) = pull().await else { return Ok(()) };
        let ended = SystemTime::now();
        let late = site.puller.detected(&image.layer).map(|at| ended.duration_since(at).unwrap_or_default());
        self.0.excuses(&problem, late)?;
        pull().await.map_err(|second| format!("second pull: {second}; first: {problem}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_of_containerd_survives_the_faults_of_a_peer_that_differ_most() {
    assert!(Kind::ALL.iter().all(|kind| SAMPLE.iter().any(|cell| cell.1 == *kind)), "a fault is left out");
    assert!(Place::ALL.iter().all(|place| SAMPLE.iter().any(|cell| cell.0 == *place)), "a place is left out");
    let cells = SAMPLE.map(|(place, kind, other, size)| Real(Fault { place, kind, other, size }));
    all_pass(Arc::new(Site::start().await), cells, AT_ONCE).await;
}

/// All 264 cells; not part of `make test`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_a_pull_of_containerd_survives_every_fault_of_a_peer() {
    let cells = Place::ALL.into_iter().flat_map(Fault::all_at).map(Real);
    all_pass(Arc::new(Site::start().await), cells, AT_ONCE).await;
}
