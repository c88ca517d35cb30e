//! Builds the parts of an agent from its configuration.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Addresses, Error, Listeners};
use crate::agent::address::own::OwnAddress;
use crate::agent::address::{self, Listens, Seeker};
use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::content::ingest_scrub::IngestScrubber;
use crate::agent::content::local::Local;
use crate::agent::content::store::containerd::ContainerdStore;
use crate::agent::content::store::layout::LayoutStore;
use crate::agent::content::store::{Store, StoreError, StoreEvent};
use crate::agent::content::verifier::Verifier;
use crate::agent::counters::Counters;
use crate::agent::discovery::holder_reports::{self, Reports};
use crate::agent::discovery::home_cluster::HomeCluster;
use crate::agent::discovery::{HolderLookup, Lookup, Servers};
use crate::agent::fetch::{self, Fetcher};
use crate::agent::flight::progress::Progress;
use crate::agent::flight::table::Flights;
use crate::agent::health::Health;
use crate::agent::inventory::{self, Inventory};
use crate::agent::notices::Notices;
use crate::agent::origin::{self, Origins};
use crate::agent::policy::{self, Policies};
use crate::agent::serve::blob_server::BlobServer;
use crate::agent::serve::mirror;
use crate::agent::serve::mirror_bypass::{self, BypassWatch};
use crate::agent::serve::uploads::Uploads;
use crate::agent::state_dir::{InUse, Owner, StateDir};
use crate::agent::{Config, StoreConfig};
use crate::api::client::Client;
use crate::clock::SystemClock;
use crate::limits::{STATE_DIR_LOCK_RETRY, STATE_DIR_LOCK_WAIT};
use crate::task::Stop;

/// An agent that has not started.
pub(super) struct Built {
    pub(super) addresses: Addresses,
    pub(super) ports: Ports,
    pub(super) background: Background,
    /// Finished after all tasks have ended.
    pub(super) fetcher: Arc<Fetcher>,
    /// Ends the checks of content, after the uploads that wait for them.
    pub(super) checks_stop: Stop,
}

/// What answers on the three ports.
pub(super) struct Ports {
    pub(super) mirror: axum::Router,
    pub(super) blob_server: BlobServer,
    pub(super) health: Health,
}

/// What runs beside the ports.
pub(super) struct Background {
    pub(super) following: Option<address::Following>,
    pub(super) client: Client,
    pub(super) home_cluster: HomeCluster,
    pub(super) discovery: Arc<HolderLookup>,
    pub(super) reports: Reports,
    pub(super) bypass: BypassWatch,
    /// Events of the store, for `bypass`.
    pub(super) store_events: mpsc::Receiver<StoreEvent>,
    pub(super) scrubber: IngestScrubber,
    pub(super) verifier: Verifier,
    pub(super) state: StateDir,
    pub(super) inventory: Inventory,
    pub(super) progress: Progress,
}

/// What most parts of an agent share.
struct Common {
    notices: Notices,
    state: StateDir,
    client: Client,
    policies: Arc<Policies>,
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
    pool: BufferPool,
    own: OwnAddress,
    group: String,
    flights: Arc<Flights>,
}

/// What single parts of an agent are given.
struct Single {
    addresses: Addresses,
    following: Option<address::Following>,
    origins: Origins,
    uploads: Uploads,
    zone: String,
    heartbeat_interval: Duration,
    resolve_timeout: Duration,
}

/// Builds an agent for these ports. Nothing of it runs yet.
pub(super) async fn agent(listeners: &Listeners, config: Config, stop: &Stop) -> Result<Built, Error> {
    let Config {
        servers,
        group,
        mirror_listen: _,
        peer_listen: _,
        advertise,
        advertise_among,
        metrics_listen: _,
        store,
        zone,
        resolve_timeout,
        uploads_max,
        upload_bytes_per_second,
        heartbeat_interval,
        state_dir,
        supervisor,
        certs_dirs,
        registries,
    } = config;
    let notices = Notices::default();
    let state = open_state_dir(&state_dir, Owner::of(supervisor), &notices).await?;
    let client = Client::new(servers)?;
    client.begin_at(rand::random_range(..usize::MAX));
    let policies = Arc::new(Policies::new(registries));
    let opened = open(&store, &notices)?;
    let origins = Origins::new(origin::Config {
        policies: Arc::clone(&policies),
        notices: notices.clone(),
        certs_dirs,
        store: Arc::clone(&opened),
        socket: store.socket(),
        own: listeners.mirror.local_addr().ok(),
        environment: origin::environment(),
    })?;
    let store = policy::guarded(opened, &policies);
    let listens = Listens::of(&listeners.peer).map_err(Error::Listener)?;
    let fixed = address::fixed(advertise, listens)?;
    let seeker = Seeker::new(client.servers().to_vec(), listens, advertise_among);
    let (own, following) = own_address(fixed, seeker, &notices).await;
    let addresses = listeners.addresses(own.now())?;
    let (counters, pool) = (Arc::default(), BufferPool::default());
    let flights = Arc::new(Flights::new(own.clone(), zone.clone()));
    let common = Common { notices, state, client, policies, store, counters, pool, own, group, flights };
    let uploads = Uploads::new(uploads_max, upload_bytes_per_second);
    let single = Single { addresses, following, origins, uploads, zone, heartbeat_interval, resolve_timeout };
    Ok(common.build(single, stop))
}

impl Common {
    fn build(self, single: Single, stop: &Stop) -> Built {
        let Single { addresses, following, origins, uploads, zone, heartbeat_interval, resolve_timeout } =
            single;
        let discovery = Arc::new(HolderLookup::new(self.lookup()));
        let scrubber = IngestScrubber::new(Arc::clone(&self.store), self.pool.clone());
        let (fetcher, reports) = self.fetcher(&discovery, &scrubber, stop);
        // Uploads that still run at the end wait for the check of what they send.
        let checks_stop = Stop::new();
        let verifier = Verifier::new(self.pool.clone(), checks_stop.clone());
        verifier.recall(&self.state);
        let local = Local::new(Arc::clone(&self.store), verifier.clone(), self.pool.clone());
        let (seen, store_events) = mirror_bypass::channel();
        let inventory = self.inventory(zone, heartbeat_interval, Box::new(seen));
        let blob_server = BlobServer {
            local: local.clone(),
            uploads,
            policies: Arc::clone(&self.policies),
            counters: Arc::clone(&self.counters),
            flights: Arc::clone(&self.flights),
            pool: self.pool.clone(),
            scrubber: scrubber.clone(),
        };
        let Self { notices, state, client, policies, store, counters, pool, own: _, group, flights } = self;
        let progress = Progress::new(flights, Arc::new(client.clone()), group);
        let bypass = BypassWatch {
            store,
            policies: Arc::clone(&policies),
            counters: Arc::clone(&counters),
            notices: notices.clone(),
        };
        let home_cluster = HomeCluster::new(client.clone(), notices.clone());
        let health = Health { inventory: inventory.state(), discovery: Arc::clone(&discovery), notices };
        let mirror = mirror::router(mirror::Config {
            local,
            fetcher: Arc::clone(&fetcher),
            discovery: Arc::clone(&discovery),
            origins,
            policies,
            counters,
            pool,
            resolve_timeout,
        });
        let background = Background {
            following,
            client,
            home_cluster,
            discovery,
            reports,
            bypass,
            store_events,
            scrubber,
            verifier,
            state,
            inventory,
            progress,
        };
        Built { addresses, ports: Ports { mirror, blob_server, health }, background, fetcher, checks_stop }
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        let (client, group, own) = (self.client.clone(), self.group.clone(), self.own.clone());
        Arc::new(Servers { client, group, own })
    }

    fn fetcher(
        &self,
        discovery: &Arc<HolderLookup>,
        scrubber: &IngestScrubber,
        stop: &Stop,
    ) -> (Arc<Fetcher>, Reports) {
        let (reporter, reports) =
            holder_reports::channel(self.client.clone(), self.own.clone(), self.group.clone());
        let fetcher = Fetcher::new(fetch::Config {
            discovery: Arc::clone(discovery),
            store: Arc::clone(&self.store),
            pool: self.pool.clone(),
            reporter,
            scrubber: scrubber.clone(),
            state: self.state.clone(),
            notices: self.notices.clone(),
            flights: Arc::clone(&self.flights),
            policies: Arc::clone(&self.policies),
            stop: stop.clone(),
        });
        (Arc::new(fetcher), reports)
    }

    fn inventory(&self, zone: String, heartbeat_interval: Duration, seen: inventory::Seen) -> Inventory {
        let (policies, flights) = (Arc::clone(&self.policies), Arc::clone(&self.flights));
        let fetching = Arc::clone(&self.flights);
        let config = inventory::Config {
            holder: self.own.clone(),
            group: self.group.clone(),
            zone,
            heartbeat_interval,
            advertises_tag: Box::new(move |name| policies.advertises_tag(name)),
            counters: Arc::clone(&self.counters),
            is_in_flight: Box::new(move || flights.are_running()),
            seen,
            lost: Box::new(move || fetching.store_is_lost()),
        };
        let client = Arc::new(self.client.clone());
        Inventory::new(Arc::clone(&self.store), client, &SystemClock::shared(), config)
    }
}

/// Opens the folder of `--state-dir`. Workers of a supervisor that was killed end a moment after it.
async fn open_state_dir(path: &Path, owner: Owner, notices: &Notices) -> Result<StateDir, InUse> {
    let deadline = Instant::now() + STATE_DIR_LOCK_WAIT;
    loop {
        match StateDir::open(path, owner, notices) {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(STATE_DIR_LOCK_RETRY).await,
            opened => return opened,
        }
    }
}

/// The address that peers are given, and the task that follows it unless it is fixed.
async fn own_address(
    fixed: Option<SocketAddr>,
    seeker: Seeker,
    notices: &Notices,
) -> (OwnAddress, Option<address::Following>) {
    if let Some(fixed) = fixed {
        return (fixed.into(), None);
    }
    let (own, following) = address::begin(Box::new(seeker), notices.clone()).await;
    (own, Some(following))
}

fn open(store: &StoreConfig, notices: &Notices) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match store {
        StoreConfig::Containerd { socket, namespace, content_path } => {
            Arc::new(ContainerdStore::new(socket, namespace, content_path.clone())?.noticing(notices))
        }
        StoreConfig::Layout { folder } => Arc::new(LayoutStore::new(folder).noticing(notices)),
    })
}
