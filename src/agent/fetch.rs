//! Content from peers. Nothing goes to containerd before a peer has answered properly.
//!
//! [`sources`] finds the holders of what is [`wanted`] and decides who is asked, by the health of [`peers`] (which
//! ones answer and deliver), and by [`registry_speed`]: how fast the registry is that containerd would ask
//! instead (I4). [`manifest`] and [`blob`] bring the bytes: nothing of a small blob is passed on before all of it
//! is verified, and a large one is verified before its last byte (I5). [`resume`] remembers how the transfers
//! of each digest went, because containerd comes back for the rest.

mod background;
mod blob;
mod fetched;
mod ingests;
mod joining;
mod manifest;
mod offer;
mod peers;
mod permits;
mod pieces;
mod registry_speed;
mod resume;
mod sources;
mod spool;
mod tag;
mod wanted;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{Method, StatusCode};

use self::background::Background;
use self::blob::BlobFetcher;
use self::blob::cut_through::CutThroughContext;
use self::blob::store_and_forward::WholeBlobs;
use self::ingests::Ingests;
use self::manifest::manifest;
use self::peers::candidates::Candidates;
use self::peers::error::PeerError;
use self::peers::health::PeerHealth;
use self::peers::probe::Prober;
use self::resume::ResumeMemory;
use self::sources::Sources;
use self::spool::space::SpoolSpace;
use super::content::buffer_pool::BufferPool;
use super::content::ingest_scrub::IngestScrubber;
use super::content::store::Store;
use super::discovery::holder_reports::Reporter;
use super::discovery::{HolderLookup, LookupError};
use super::flight::table::Flights;
use super::notices::Notices;
use super::policy::Policies;
use super::state_dir::StateDir;
use crate::task::Stop;

pub(crate) use self::fetched::{Fetched, Missed};
pub(crate) use self::joining::Joined;
pub(crate) use self::tag::{TagFetcher, TagManifest, claims_of_holders};
pub(crate) use self::wanted::{Kind, Wanted};

/// Fetches from peers. Each step of a pull is a method; `serve::pull` has their order.
pub(crate) struct Fetcher {
    sources: Arc<Sources>,
    blobs: BlobFetcher,
    tags: TagFetcher,
    resume: Arc<ResumeMemory>,
    ingests: Arc<Ingests>,
    prober: Arc<Prober>,
    flights: Arc<Flights>,
    policies: Arc<Policies>,
    background: Background,
}

/// What a [`Fetcher`] works with.
pub(crate) struct Config {
    pub(crate) discovery: Arc<HolderLookup>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) pool: BufferPool,
    pub(crate) reporter: Reporter,
    pub(crate) scrubber: IngestScrubber,
    pub(crate) state: StateDir,
    pub(crate) notices: Notices,
    pub(crate) flights: Arc<Flights>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) stop: Stop,
}

impl Fetcher {
    /// A fetcher that has asked no peer yet.
    pub(crate) fn new(config: Config) -> Self {
        let Config { discovery, store, pool, reporter, scrubber, state, notices, flights, policies, stop } =
            config;
        let background = Background::new(stop);
        let sources = Arc::new(Sources::new(discovery, PeerHealth::new(reporter, notices)));
        let health = Arc::clone(&sources.health);
        let resume = Arc::<ResumeMemory>::default();
        let ingests = Arc::new(Ingests::new(store, pool, background.clone()));
        let prober = Arc::new(Prober::new(sources.client.clone(), Arc::clone(&health), background.clone()));
        let space = SpoolSpace::new(state);
        let wholes = {
            let (resume, health, flights) = (Arc::clone(&resume), Arc::clone(&health), Arc::clone(&flights));
            WholeBlobs::new(space, resume, health, flights, background.clone())
        };
        let context = CutThroughContext {
            resume: Arc::clone(&resume),
            ingests: Arc::clone(&ingests),
            health,
            scrubber,
        };
        let blobs = BlobFetcher {
            sources: Arc::clone(&sources),
            resume: Arc::clone(&resume),
            wholes: Arc::new(wholes),
            context: Arc::new(context),
        };
        let tags = TagFetcher::new(Arc::clone(&sources), Arc::clone(&prober));
        Self { sources, blobs, tags, resume, ingests, prober, flights, policies, background }
    }

    /// Waits for work that outlives its request, such as aborts of ingests.
    pub(crate) async fn finish(&self) {
        self.sources.client.close_idle();
        self.background.finish().await;
    }

    /// Fetches tags.
    pub(crate) fn tags(&self) -> &TagFetcher {
        &self.tags
    }

    /// How the transfers of each digest went lately.
    pub(crate) fn resume(&self) -> &Arc<ResumeMemory> {
        &self.resume
    }

    /// Notes that a request for bytes begins: where a response was cut before, or anew because the bytes that
    /// were passed on were of no use. An error: the response before this one was cut here, so that containerd
    /// goes on to its registry.
    pub(crate) fn begin(&self, wanted: &Wanted) -> Result<(), Missed> {
        let (Kind::Blob, Some(start)) = (wanted.kind(), wanted.start()) else { return Ok(()) };
        if self.resume.take_cut(&wanted.digest, start) {
            return Err(Missed::JustCut);
        }
        if start == 0 {
            for holder in self.resume.begins_anew(&wanted.digest) {
                self.sources.health.suspect(holder, &wanted.digest);
            }
        }
        Ok(())
    }

    /// The holders of what is `wanted`, the nearest first.
    pub(crate) async fn holders(&self, wanted: &Wanted) -> Result<Vec<SocketAddr>, LookupError> {
        self.sources.holders(&wanted.digest, wanted.peers_deadline()).await
    }

    /// The length that containerd expects of a blob, if it is known.
    pub(crate) async fn expected_total(&self, wanted: &Wanted) -> Option<u64> {
        if wanted.kind() != Kind::Blob {
            return None;
        }
        self.ingests.expected_total(&wanted.digest).await
    }

    /// Those of `holders` that are asked for what is `wanted`, in order.
    pub(crate) fn candidates(&self, wanted: &Wanted, holders: Vec<SocketAddr>) -> Result<Candidates, Missed> {
        self.sources.candidates(wanted, holders)
    }

    /// Fetches a manifest, verified.
    pub(crate) async fn manifest(
        &self,
        wanted: &Wanted,
        mut candidates: Candidates,
    ) -> Result<Fetched, Missed> {
        let (sources, digest) = (&self.sources, &wanted.digest);
        let attempt = |holder| manifest((&sources.client, &sources.health), holder, &wanted.path, digest);
        let deadline = wanted.peers_deadline();
        match sources.hedging.first_answer(&mut candidates, digest, deadline, attempt).await {
            Ok((source, (bytes, media_type))) => Ok(Fetched::Manifest { bytes, media_type, source }),
            Err(_) => Err(Missed::NoSource { attempts: candidates.attempts() }),
        }
    }

    /// Fetches the size of a blob.
    pub(crate) async fn size(&self, wanted: &Wanted, mut candidates: Candidates) -> Result<Fetched, Missed> {
        let sources = &self.sources;
        let attempt = |holder| async move {
            let answer = sources.client.ask(holder, &wanted.path, &Method::HEAD, None).await?;
            match answer.status {
                StatusCode::OK => answer.length().ok_or(PeerError::Length),
                status => Err(PeerError::Status(status)),
            }
        };
        let deadline = wanted.peers_deadline();
        match sources.hedging.first_answer(&mut candidates, &wanted.digest, deadline, attempt).await {
            Ok((source, total)) => Ok(Fetched::Size { total, source }),
            Err(_) => Err(Missed::NoSource { attempts: candidates.attempts() }),
        }
    }

    /// Fetches a blob, or the part of it that is `wanted`. Its bytes may still be on their way.
    pub(crate) async fn blob(
        &self,
        wanted: &Arc<Wanted>,
        candidates: Candidates,
        expected_total: Option<u64>,
    ) -> Result<Fetched, Missed> {
        self.blobs.fetch(wanted, candidates, expected_total).await
    }

    /// Starts what a request leaves to be done in the background: probes of peers that did not answer, and a
    /// measurement of the registry that containerd asks next because peers did not bring what was `wanted`.
    pub(crate) fn follow_up(&self, wanted: &Wanted, has_fetched: bool) {
        self.prober.start_if_needed();
        if !has_fetched {
            self.sources.speeds.measure_later(wanted, &self.ingests, &self.background);
        }
    }

    /// Notes that `registry` cannot answer for a tag, so that no content is left to it.
    pub(crate) fn registry_is_away(&self, registry: &str) {
        self.sources.speeds.is_away(registry);
    }
}
