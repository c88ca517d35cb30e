//! One pull by digest, from top to bottom:
//!
//! 1. [`Pulls::own`]: this node's own store, for half of the time.
//! 2. [`ask_peers`]: the servers say who holds it or a part of it, and containerd says how long it must be. A blob that
//!    few nodes hold comes by a flight: from one node that holds it or is receiving it. Otherwise those holders are
//!    asked that answer and deliver, and the first proper answer wins. Nothing of a manifest or a small blob is passed
//!    on before all of it is verified; a large blob is passed on as it comes.
//! 3. If the time is over before that: early headers, when a peer has offered some ([`early_headers`]); the bytes
//!    follow when they are right.
//! 4. Otherwise a refusal. containerd goes on to the registry.
//!
//! The outcome becomes the response in [`super::responder`].

mod early_headers;
mod withheld;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::found::{Found, ServedFrom};
use super::refusal::Refusal;
use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::content::byte_stream::ByteStream;
use crate::agent::content::local::{Local, LocalError, Reader};
use crate::agent::fetch::{Fetched, Fetcher, Joined, Kind, Missed, Wanted};
use crate::agent::policy::{NotOurs, Policies};
use crate::limits::STORE_ANSWER_GRACE;

/// A fetch that may go on after the headers of the response.
type Fetching = Pin<Box<dyn Future<Output = Result<Fetched, Missed>> + Send>>;

/// Finds content by its digest, for containerd.
pub(super) struct Pulls {
    pub(super) local: Local,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) policies: Arc<Policies>,
    pub(super) pool: BufferPool,
    /// How long a request is held until its headers.
    pub(super) resolve_timeout: Duration,
}

impl Pulls {
    /// Finds what is `wanted` by its deadline.
    pub(super) async fn pull(&self, mut wanted: Wanted) -> Result<Found, Refusal> {
        if let Some(found) = self.own(&wanted).await {
            return Ok(found);
        }
        wanted.running = wanted.range.and_then(|range| self.fetcher.resume().range(&wanted.digest, range));
        let wanted = Arc::new(wanted);
        let refused = |why: String| Refusal::unknown(wanted.path.is_manifest(), why);
        let mut fetching: Fetching = Box::pin(from_peers(Arc::clone(&self.fetcher), Arc::clone(&wanted)));
        let refusal = match timeout_at(wanted.deadline, &mut fetching).await {
            Ok(Ok(fetched)) => {
                let is_withheld = self.withholds(&wanted, &fetched);
                if is_withheld.await {
                    return Err(refused(NotOurs::Manifests.to_string()));
                }
                return Ok(self.fetched(&wanted, fetched));
            }
            Ok(Err(missed @ Missed::JustCut)) => return Err(refused(missed.to_string())),
            Ok(Err(Missed::Yields)) => match wanted.offer.take() {
                Some(head) => {
                    return Ok(self.early(&wanted, head, Box::pin(std::future::ready(Err(Missed::Yields)))));
                }
                None => refused(Missed::Yields.to_string()),
            },
            Ok(Err(missed)) => Refusal { attempts: missed.attempts(), ..refused(missed.to_string()) },
            Err(_) => match wanted.offer.take() {
                Some(head) => return Ok(self.early(&wanted, head, fetching)),
                None => refused("no peer answered properly in time".to_owned()),
            },
        };
        self.promised(&wanted).ok_or(refusal)
    }

    /// Content of this node, within half of the resolve timeout: a store that is slow, fails, or
    /// holds damaged content is no reason not to ask the peers.
    async fn own(&self, wanted: &Wanted) -> Option<Found> {
        let digest = &wanted.digest;
        let until = Instant::now() + self.resolve_timeout / 2;
        let find = async {
            Ok::<_, LocalError>(match wanted.kind() {
                Kind::Manifest => self
                    .local
                    .manifest(digest)
                    .await?
                    .map(|manifest| Found::own_manifest(digest.clone(), manifest, wanted.head_only)),
                Kind::Size => {
                    let total = self.local.size(digest).await?;
                    total.map(|total| Found::size(digest.clone(), ServedFrom::OwnStore, total))
                }
                Kind::Blob => {
                    let blob = self.local.blob(digest, Reader::Containerd, until).await?;
                    blob.map(|blob| Found::own_blob(digest.clone(), blob, wanted.range, None))
                }
            })
        };
        match timeout_at(until + STORE_ANSWER_GRACE, find).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(
                    %digest,
                    error = piccolo_raft::errors::chain(&error),
                    "could not use the content of this node's own store: peers are asked"
                );
                None
            }
            Err(_) => {
                tracing::warn!(%digest, "the store of this node did not answer in time: peers are asked");
                None
            }
        }
    }

    /// What peers brought in time.
    fn fetched(&self, wanted: &Arc<Wanted>, fetched: Fetched) -> Found {
        let (digest, source) = (wanted.digest.clone(), fetched.source());
        let from = ServedFrom::Peer(source);
        let (head, stream) = match fetched {
            Fetched::Manifest { bytes, media_type, .. } => {
                return Found::peer_manifest(digest, source, (bytes, media_type), wanted.head_only);
            }
            Fetched::Size { total, .. } => return Found::size(digest, from, total),
            Fetched::Unsatisfiable { total, .. } => return Found::unsatisfiable(digest, from, total),
            Fetched::Whole { whole, head, .. } => (head, whole.stream(head.part(), self.pool.clone())),
            Fetched::Stream { head, stream, .. } => (head, stream),
        };
        let found = Found::blob(digest, from, head, while_running(stream, wanted));
        Found { in_order: wanted.is_in_order(), ..found }
    }
}

/// Fetches what is `wanted` from peers. Dropping the future ends the transfer.
async fn from_peers(fetcher: Arc<Fetcher>, wanted: Arc<Wanted>) -> Result<Fetched, Missed> {
    let fetched = ask_peers(&fetcher, &wanted).await;
    fetcher.follow_up(&wanted, fetched.is_ok());
    fetched
}

async fn ask_peers(fetcher: &Fetcher, wanted: &Arc<Wanted>) -> Result<Fetched, Missed> {
    fetcher.begin(wanted)?;
    let (holders, expected_total) = match fetcher.join(wanted).await? {
        Joined::Flight(head, transfer) => return fetcher.fly(wanted, head, transfer).await,
        Joined::Holders(holders, total) => (holders, Some(total)),
        Joined::NotAsked => {
            let (holders, total) = tokio::join!(fetcher.holders(wanted), fetcher.expected_total(wanted));
            (holders?, total)
        }
    };
    let candidates = fetcher.candidates(wanted, holders)?;
    match wanted.kind() {
        Kind::Manifest => fetcher.manifest(wanted, candidates).await,
        Kind::Size => fetcher.size(wanted, candidates).await,
        Kind::Blob => fetcher.blob(wanted, candidates, expected_total).await,
    }
}

/// A body during which the range that is `wanted` runs: until the last byte is out, or the cut. The ranges behind
/// it wait for that.
fn while_running(stream: ByteStream, wanted: &Arc<Wanted>) -> ByteStream {
    if wanted.running.is_none() {
        return stream;
    }
    let wanted = Arc::clone(wanted);
    let held = stream.map(move |piece| {
        let _held_as_long_as_the_body = &wanted;
        piece
    });
    held.boxed()
}
