//! One request for content: its line in the log and its metrics. Both are written when the outcome is known,
//! which is when the last byte is out or the client is gone.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{Method, StatusCode};
use tokio::time::Instant;

use super::found::ServedFrom;
use super::refusal::Refusal;
use crate::agent::content::byte_stream::Cut;
use crate::agent::counters::Counters;
use crate::http::Connection;
use crate::oci::{ContentPath, Item};

/// Which port was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The mirror, by containerd.
    Mirror,
    /// The blob server, by another agent.
    Peer,
}

/// A request for content, as its port received it.
pub(crate) struct Received<'a> {
    pub(crate) side: Side,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a ContentPath,
    /// The connection that it came on.
    pub(crate) connection: Option<Connection>,
}

/// What is known of one request. It is counted and logged when this is dropped.
#[derive(Debug)]
pub(super) struct Record {
    side: Side,
    head_only: bool,
    /// Digest, or repository and tag.
    what: String,
    is_manifest: bool,
    registry: Option<String>,
    client: Option<SocketAddr>,
    from: ServedFrom,
    status: StatusCode,
    expected_bytes: u64,
    sent_bytes: u64,
    /// Why less was sent than was asked for.
    reason: Option<String>,
    start: Instant,
    counters: Arc<Counters>,
}

impl Record {
    /// The record of a request that begins now.
    pub(super) fn new(received: &Received<'_>, counters: Arc<Counters>) -> Self {
        let Received { side, method, path, connection } = received;
        let side = *side;
        if side == Side::Mirror {
            counters.add_asked();
        }
        let what = match &path.item {
            Item::Tag(tag) => format!("{}:{tag}", path.repository),
            Item::Manifest(digest) | Item::Blob(digest) => digest.as_str().to_owned(),
        };
        Self {
            side,
            head_only: *method == Method::HEAD,
            what,
            is_manifest: path.is_manifest(),
            registry: path.registry.clone(),
            client: connection.as_ref().map(|connection| connection.peer),
            from: ServedFrom::Nowhere,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            expected_bytes: 0,
            sent_bytes: 0,
            reason: None,
            start: Instant::now(),
            counters,
        }
    }

    /// The registry that the content is of.
    pub(super) fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    /// Notes that the headers of the response are decided.
    pub(super) fn answered(&mut self, status: StatusCode, from: ServedFrom, expected_bytes: u64) {
        self.status = status;
        self.from = from;
        self.expected_bytes = if self.head_only { 0 } else { expected_bytes };
        if self.side == Side::Mirror {
            ::metrics::histogram!("piccolo_resolve_duration_seconds").record(self.start.elapsed());
        }
    }

    /// Notes that the response is an error.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.answered(refusal.status, ServedFrom::Nowhere, 0);
        self.reason = Some(refusal.message.clone());
    }

    /// Notes that bytes were handed to the connection.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
    }

    /// Notes that the body ends early.
    pub(super) fn cut(&mut self, cut: &Cut) {
        self.reason = Some(cut.to_string());
    }

    fn count(&self, complete: bool) {
        match self.side {
            Side::Peer => {
                self.counters.add_bytes_served(self.sent_bytes);
                ::metrics::counter!("piccolo_bytes_served_total").increment(self.sent_bytes);
            }
            Side::Mirror => {
                if self.from.peer().is_some() {
                    self.counters.add_bytes_from_peers(self.sent_bytes);
                    ::metrics::counter!("piccolo_bytes_from_peers_total").increment(self.sent_bytes);
                }
                let hit = self.status.is_success() && complete;
                if !hit {
                    self.counters.add_miss();
                }
                let cache = if hit { "hit" } else { "miss" };
                let kind = if self.is_manifest { "Manifest" } else { "Blob" };
                ::metrics::counter!("piccolo_mirror_requests_total", "cache" => cache, "ref_kind" => kind)
                    .increment(1);
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let complete = self.sent_bytes == self.expected_bytes;
        self.count(complete);
        // Nodes of a flight ask each other often how far they are, and send each other on.
        let is_detail =
            self.side == Side::Peer && (self.head_only || self.status == StatusCode::SERVICE_UNAVAILABLE);
        if is_detail && !tracing::enabled!(tracing::Level::DEBUG) || !tracing::enabled!(tracing::Level::INFO)
        {
            return;
        }
        let source = match (&self.from, self.from.peer()) {
            (_, Some(peer)) => peer.to_string(),
            (ServedFrom::OwnStore, None) => "local".to_owned(),
            (_, None) => "none".to_owned(),
        };
        let reason = match (&self.reason, complete) {
            (Some(reason), _) => reason.as_str(),
            (None, false) => "the client went away",
            (None, true) => "",
        };
        tracing::info!(
            side = match self.side {
                Side::Mirror => "mirror",
                Side::Peer => "peer",
            },
            what = self.what,
            registry = self.registry.as_deref().unwrap_or_default(),
            client = self.client.map(|client| client.to_string()).unwrap_or_default(),
            head = self.head_only,
            status = self.status.as_u16(),
            source,
            bytes = self.sent_bytes,
            ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
            reason,
            "pull"
        );
    }
}
