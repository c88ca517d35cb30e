//! What a node that takes part in the flight of a blob asks this one: its bytes, also while they are still arriving
//! here, and how far this node is.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::{BlobServer, NotGiven};
use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::content::byte_stream::{ByteStream, Cut};
use crate::agent::content::head::Head;
use crate::agent::content::ingest_scrub::IngestScrubber;
use crate::agent::content::local::Reader;
use crate::agent::content::token_bucket::TokenBucket;
use crate::agent::flight::children::Applicant;
use crate::agent::flight::header::{Asked, FLIGHT, Known, Told};
use crate::agent::flight::running::{Answer, ChildConnection, ChildEnd};
use crate::agent::flight::table::Flights;
use crate::agent::policy::Policies;
use crate::agent::serve::conditions::range_of;
use crate::agent::serve::found::{Found, ServedFrom};
use crate::agent::serve::uploads::Upload;
use crate::limits::{FLIGHT_LOOK_PAUSE, VERIFY_BEFORE_HEADERS};
use crate::oci::{ContentPath, Digest};

/// What a request asks as a part of a flight, if it does.
pub(super) fn asked(request: &Parts, path: &ContentPath) -> Option<Asked> {
    let asked = header(&request.headers).and_then(Asked::parse)?;
    let fits = match asked {
        Asked::Receive(..) => request.method == Method::GET,
        Asked::Probe(_) => request.method == Method::HEAD,
    };
    (fits && !path.is_manifest()).then_some(asked)
}

fn header(headers: &HeaderMap) -> Option<&str> {
    headers.get(FLIGHT)?.to_str().ok()
}

impl BlobServer {
    /// Answers a node that takes part in the flight of `digest`.
    pub(super) async fn in_flight(
        &self,
        request: &Parts,
        path: &ContentPath,
        digest: Digest,
        asked: Asked,
    ) -> Result<Found, NotGiven> {
        match asked {
            Asked::Probe(from) => self.how_far(path, digest, from).await,
            Asked::Receive(applicant, known) => self.admit(request, path, digest, (applicant, known)).await,
        }
    }

    /// How far this node is with a blob that the node at `from` receives from it.
    async fn how_far(&self, path: &ContentPath, digest: Digest, from: SocketAddr) -> Result<Found, NotGiven> {
        if let Some(flight) = self.flights.get(&digest)
            && self.may_be_given(path, &digest, flight.growing().total())
        {
            let told = Some(flight.tell_child(from, self.flights.zone()));
            let found = Found::size(digest, ServedFrom::OwnStore, flight.growing().total());
            return Ok(Found { told, ..found });
        }
        let total = self.local.size(&digest).await?.ok_or(NotGiven::Unknown)?;
        let told = Some(Told { have_bytes: total, is_holder: true, ..Told::default() });
        Ok(Found { told, ..Found::size(digest, ServedFrom::OwnStore, total) })
    }

    /// Sends a blob to a node that will pass it on, or sends that node elsewhere.
    async fn admit(
        &self,
        request: &Parts,
        path: &ContentPath,
        digest: Digest,
        (applicant, known): (Applicant, Known),
    ) -> Result<Found, NotGiven> {
        let range = range_of(&request.headers, Some(&digest));
        let held = self.local.blob(&digest, Reader::Peer, Instant::now() + VERIFY_BEFORE_HEADERS).await?;
        let Some(held) = held else {
            let flight = self.flights.get(&digest).ok_or(NotGiven::Unknown)?;
            flight.is_not_held();
            let total = flight.growing().total();
            if !self.may_be_given(path, &digest, total) {
                return Err(NotGiven::Unknown);
            }
            let Ok(range) = range.map(|range| range.within(total).ok_or(())).transpose() else {
                return Ok(Found::unsatisfiable(digest, ServedFrom::OwnStore, total));
            };
            let upload = self.uploads.start().ok_or(NotGiven::Full)?;
            let child = match flight.apply(&applicant, known) {
                Answer::Admitted(child) => child,
                Answer::Elsewhere(told) => return Err(NotGiven::Elsewhere(Box::new(told))),
            };
            let (told, head) = (flight.tell_admitted(known), Head { total, range });
            let sending = Sending {
                child,
                offset: head.part().start,
                pool: self.pool.clone(),
                rate: upload.rate(),
                policies: Arc::clone(&self.policies),
                registry: path.registry.clone(),
                flights: Arc::clone(&self.flights),
                scrubber: self.scrubber.clone(),
                _upload: upload,
            };
            let found = Found::blob(digest, ServedFrom::OwnStore, head, sending.stream());
            return Ok(Found { told: Some(told), ..found });
        };
        let Some(flight) = self.flights.of_held(&digest, held.size_bytes()) else {
            return Err(NotGiven::Full);
        };
        let upload = self.uploads.start().ok_or(NotGiven::Full)?;
        let child = match flight.apply(&applicant, known) {
            Answer::Admitted(child) => child,
            Answer::Elsewhere(told) => return Err(NotGiven::Elsewhere(Box::new(told))),
        };
        let told = Some(flight.tell_admitted(known));
        let found = Found::own_blob(digest, held, range, Some(upload));
        Ok(Found { told, ..found }.noting(child))
    }

    /// Whether a part of a blob of `total` bytes may be given to a node that asks for it under this name.
    fn may_be_given(&self, path: &ContentPath, digest: &Digest, total: u64) -> bool {
        self.policies.may_be_in_flight(path.registry.as_deref(), digest, total)
    }
}

/// The bytes of a blob on their way to a child, as they arrive here.
struct Sending {
    child: ChildConnection,
    offset: u64,
    pool: BufferPool,
    rate: Option<Arc<TokenBucket>>,
    policies: Arc<Policies>,
    /// Registry of the name under which the child asks.
    registry: Option<String>,
    flights: Arc<Flights>,
    scrubber: IngestScrubber,
    _upload: Upload,
}

impl Sending {
    fn stream(self) -> ByteStream {
        stream::try_unfold(self, |mut sending| async move {
            let next = sending.next().await?;
            Ok(next.map(|bytes| (bytes, sending)))
        })
        .boxed()
    }

    fn may_be_given(&self) -> bool {
        let flight = &self.child.flight;
        let total = flight.growing().total();
        self.policies.may_be_in_flight(self.registry.as_deref(), flight.digest(), total)
    }

    /// Waits for the next bytes; `None` at the end of the blob.
    async fn next(&mut self) -> Result<Option<bytes::Bytes>, Cut> {
        let growing = self.child.flight.growing();
        let most = self.rate.as_ref().map_or(usize::MAX, |rate| rate.chunk_bytes());
        loop {
            if self.offset == growing.total() {
                return Ok(None);
            }
            // This node's containerd may ask for the same content under a name that keeps it back.
            if !self.may_be_given() {
                return Err(Cut::Withheld);
            }
            match self.child.end() {
                Some(ChildEnd::Wrong) => return Err(Cut::WrongBytes),
                Some(ChildEnd::Lost) => return Err(Cut::SourceBroken),
                None => {}
            }
            let have_bytes = growing.have_bytes();
            if have_bytes < self.offset {
                // What was sent may have been wrong: nothing more comes after it.
                return Err(Cut::SourceBroken);
            }
            if have_bytes > self.offset
                && let Some(bytes) = growing.read(self.offset, most, &self.pool).await.map_err(Cut::Read)?
            {
                if let Some(rate) = &self.rate {
                    rate.take(bytes.len()).await;
                }
                self.offset += bytes.len() as u64;
                self.child.sent(self.offset);
                if self.offset < growing.total() {
                    incomplete_bytes().increment(bytes.len() as u64);
                }
                return Ok(Some(bytes));
            }
            if self.child.flight.verify(&self.pool).await.map_err(Cut::Read)? {
                // containerd does not take it either, and would not get it anew before it is aborted.
                self.scrubber.look();
                self.flights.accuse(&self.child.flight).await;
            }
            sleep(FLIGHT_LOOK_PAUSE).await;
        }
    }
}

fn incomplete_bytes() -> ::metrics::Counter {
    ::metrics::counter!("piccolo_bytes_served_incomplete_total")
}
