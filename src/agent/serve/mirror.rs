//! The registry mirror that containerd asks: local content first, then peers, then 404.
//!
//! Fixed answers: 200, 206, 404, 416 and 5xx, never a status that containerd retries or acts on
//! (401, 408, 429, redirects). Nothing of the request but its path, its registry and its range goes
//! to a peer (B11).

#[cfg(test)]
mod broken_transfer_tests;
#[cfg(test)]
mod faulty_peers_tests;
#[cfg(test)]
mod flight_tests;
#[cfg(test)]
mod fresh_holder_tests;
#[cfg(test)]
mod origin_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod range_tests;
#[cfg(test)]
mod tag_peers_tests;
#[cfg(test)]
mod tag_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unreachable_peers_tests;
#[cfg(test)]
mod upstream_tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::conditions::{is_limited, range_of};
use super::found::Found;
use super::pull::Pulls;
use super::record::{Received, Side};
use super::refusal::Refusal;
use super::responder::{self, Responder};
use super::tag::Tags;
use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::content::local::Local;
use crate::agent::counters::Counters;
use crate::agent::discovery::HolderLookup;
use crate::agent::fetch::{Fetcher, Wanted};
use crate::agent::origin::Origins;
use crate::agent::policy::Policies;
use crate::http::Connection;
use crate::oci::{ApiPath, ContentPath, ErrorCode};

/// The mirror port.
pub(crate) struct Mirror {
    pulls: Pulls,
    tags: Tags,
    discovery: Arc<HolderLookup>,
    origins: Arc<Origins>,
    policies: Arc<Policies>,
    counters: Arc<Counters>,
    resolve_timeout: Duration,
}

/// What a [`Mirror`] works with.
pub(crate) struct Config {
    pub(crate) local: Local,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) discovery: Arc<HolderLookup>,
    pub(crate) origins: Origins,
    pub(crate) policies: Arc<Policies>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) pool: BufferPool,
    /// How long a request is held until its headers.
    pub(crate) resolve_timeout: Duration,
}

/// The routes of a mirror.
pub(crate) fn router(config: Config) -> Router {
    Router::new().fallback(handle).with_state(Arc::new(Mirror::new(config)))
}

async fn handle(State(mirror): State<Arc<Mirror>>, request: Request) -> Response<Body> {
    let (request, _no_body) = request.into_parts();
    match path_of(&request) {
        Ok(ApiPath::Base) => responder::base(),
        Ok(ApiPath::Content(path)) => mirror.content(&request, path).await,
        Err(refusal) => refusal.response(&request.method),
    }
}

/// What a request asks for, if this port knows it.
fn path_of(request: &Parts) -> Result<ApiPath, Refusal> {
    if request.method != Method::GET && request.method != Method::HEAD {
        // 404, not 405: see the fixed answers.
        let (status, code) = (StatusCode::NOT_FOUND, ErrorCode::Unsupported);
        return Err(Refusal::new(status, code, "a mirror knows only GET and HEAD"));
    }
    ApiPath::parse(request.uri.path(), request.uri.query()).map_err(Refusal::no_content)
}

impl Mirror {
    fn new(config: Config) -> Self {
        let Config { local, fetcher, discovery, origins, policies, counters, pool, resolve_timeout } = config;
        let origins = Arc::new(origins);
        let pulls = Pulls {
            local: local.clone(),
            fetcher: Arc::clone(&fetcher),
            policies: Arc::clone(&policies),
            pool,
            resolve_timeout,
        };
        let tags = Tags {
            local,
            fetcher,
            discovery: Arc::clone(&discovery),
            origins: Arc::clone(&origins),
            policies: Arc::clone(&policies),
            resolve_timeout,
        };
        Self { pulls, tags, discovery, origins, policies, counters, resolve_timeout }
    }

    async fn content(&self, request: &Parts, path: ContentPath) -> Response<Body> {
        let connection = request.extensions.get::<Connection>().cloned();
        let is_over_limit = connection.as_ref().is_some_and(|connection| connection.is_over_limit);
        let received = Received { side: Side::Mirror, method: &request.method, path: &path, connection };
        let responder = Responder::new(received, Arc::clone(&self.counters));
        let found = if is_over_limit {
            Err(Refusal::unknown(path.is_manifest(), "this mirror has too many requests in flight"))
        } else {
            self.find(request, path).await
        };
        responder.respond(found)
    }

    async fn find(&self, request: &Parts, path: ContentPath) -> Result<Found, Refusal> {
        self.policies.remember_asked(&path);
        if let Err(not_ours) = self.policies.admits(&path) {
            return Err(Refusal::unknown(path.is_manifest(), not_ours.to_string()));
        }
        let head_only = request.method == Method::HEAD;
        let deadline = Instant::now() + self.discovery.held_for(self.resolve_timeout);
        let Some(digest) = path.digest().cloned() else {
            return self.tags.find(&path, head_only, deadline).await;
        };
        if let Some(registry) = &path.registry {
            self.origins.fetched(registry, &path.repository);
        }
        let range = range_of(&request.headers, Some(&digest));
        let is_limited = is_limited(&request.headers);
        self.pulls.pull(Wanted { range, head_only, is_limited, ..Wanted::new(path, digest, deadline) }).await
    }
}
