//! One request for content, from its line in the log to its metrics: both are written when the
//! outcome is known, which is when the last byte is out or the client is gone.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::http::{Method, StatusCode};
use tokio::time::Instant;

use super::answer::Refusal;
use crate::agent::content::byte_stream::Cut;
use crate::agent::counters::Counters;
use crate::oci::{ContentPath, Item};

/// Which port was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// By containerd.
    Mirror,
    /// By another agent.
    Peer,
}

/// Where content came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nowhere.
    None,
    /// This node's own store.
    Local,
    /// Another agent.
    Peer(SocketAddr),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Record {
    side: Side,
    head_only: bool,
    what: String,
    is_manifest: bool,
    registry: Option<String>,
    client: Option<SocketAddr>,
    source: Origin,
    late_source: Arc<OnceLock<SocketAddr>>,
    status: StatusCode,
    expected_bytes: u64,
    sent_bytes: u64,
    reason: Option<String>,
    start: Instant,
    counters: Arc<Counters>,
}

impl Record {
    pub(crate) fn new(
        side: Side,
        method: &Method,
        path: &ContentPath,
        client: Option<SocketAddr>,
        counters: Arc<Counters>,
    ) -> Self {
        if side == Side::Mirror {
            counters.add_asked();
        }
        let what = match &path.item {
            Item::Tag(tag) => format!("{}:{tag}", path.repository),
            Item::Manifest(digest) | Item::Blob(digest) => digest.as_str().to_owned(),
        };
        Self {
            side,
            head_only: method == Method::HEAD,
            what,
            is_manifest: path.is_manifest(),
            registry: path.registry.clone(),
            client,
            source: Origin::None,
            late_source: Arc::default(),
            status: StatusCode::INTERNAL_SERVER_ERROR,
            expected_bytes: 0,
            sent_bytes: 0,
            reason: None,
            start: Instant::now(),
            counters,
        }
    }

    /// The head of the answer is decided.
    pub(crate) fn answered(&mut self, status: StatusCode, source: Origin, expected_bytes: u64) {
        self.status = status;
        self.source = source;
        self.expected_bytes = if self.head_only { 0 } else { expected_bytes };
        if self.side == Side::Mirror {
            ::metrics::histogram!("piccolo_resolve_duration_seconds").record(self.start.elapsed());
        }
    }

    /// The head is out before its bytes are known to be right: whoever has them sets the source.
    pub(crate) fn answered_early(
        &mut self,
        status: StatusCode,
        expected_bytes: u64,
    ) -> Arc<OnceLock<SocketAddr>> {
        self.answered(status, Origin::None, expected_bytes);
        Arc::clone(&self.late_source)
    }

    /// The answer is an error.
    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.answered(refusal.status, Origin::None, 0);
        self.reason = Some(refusal.message.clone());
    }

    /// Bytes were handed to the connection.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
    }

    /// The body ends before its end.
    pub(crate) fn cut(&mut self, cut: &Cut) {
        self.reason = Some(cut.to_string());
    }

    fn source(&self) -> Origin {
        self.late_source.get().map_or(self.source, |peer| Origin::Peer(*peer))
    }

    fn count(&self, complete: bool) {
        match self.side {
            Side::Peer => {
                self.counters.add_bytes_served(self.sent_bytes);
                ::metrics::counter!("piccolo_bytes_served_total").increment(self.sent_bytes);
            }
            Side::Mirror => {
                if let Origin::Peer(_) = self.source() {
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
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let source = match self.source() {
            Origin::None => "none".to_owned(),
            Origin::Local => "local".to_owned(),
            Origin::Peer(peer) => peer.to_string(),
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
