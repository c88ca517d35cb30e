//! Which cluster this server belongs to: every answer says it, and a write that is meant for another cluster
//! is refused. Two clusters can stand behind one list of servers, after a disk was lost or by a wrong
//! address. Without this check, agents would write to whichever they meet, and the two halves of a site would
//! not find each other.
//!
//! A client that names no cluster is served: the Go `pi`, or an agent that does not know one yet.

use std::sync::{Arc, OnceLock};

use axum::http::request::Builder;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use piccolo_raft::cluster::Node;

use crate::api::header;
use crate::server::error::ApiError;

const CLUSTER: HeaderName = HeaderName::from_static(header::CLUSTER);

/// The id of this server's cluster, as headers carry it; clones share it.
#[derive(Clone)]
pub struct ClusterIdentity {
    node: Node,
    /// Set once the node knows its cluster: the id never changes.
    header: Arc<OnceLock<HeaderValue>>,
}

impl ClusterIdentity {
    /// The identity of the cluster of `node`.
    pub fn new(node: Node) -> Self {
        Self { node, header: Arc::default() }
    }

    /// The id as a header's value; `None` as long as this server belongs to no cluster.
    pub fn header(&self) -> Option<&HeaderValue> {
        if let Some(known) = self.header.get() {
            return Some(known);
        }
        let id = self.node.cluster_id()?.to_string();
        let header = HeaderValue::from_str(&id).expect("hex digits are a header value");
        Some(self.header.get_or_init(|| header))
    }

    /// Refuses a request whose headers name another cluster.
    ///
    /// # Errors
    /// [`ApiError::OtherCluster`].
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let (Some(asked), Some(own)) = (headers.get(CLUSTER), self.header()) else { return Ok(()) };
        if asked == own {
            return Ok(());
        }
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Err(ApiError::OtherCluster { own: text(own), asked: text(asked) })
    }

    /// Names the cluster on a request to another server: its address may belong to a stranger by now.
    pub fn mark_request(&self, request: Builder) -> Builder {
        match self.header() {
            Some(own) => request.header(CLUSTER, own),
            None => request,
        }
    }

    /// Names the cluster on an answer.
    pub fn mark_answer(&self, headers: &mut HeaderMap) {
        if let Some(own) = self.header() {
            headers.insert(CLUSTER, own.clone());
        }
    }
}

/// Whether an answer is the refusal of a server of another cluster, which has changed nothing.
pub fn is_refusal(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::MISDIRECTED_REQUEST && headers.contains_key(CLUSTER)
}
