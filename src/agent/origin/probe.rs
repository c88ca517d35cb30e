//! One probe: the HEAD of a manifest at the hosts that containerd asks after the mirror, without credentials,
//! but with the token that a registry gives to anybody.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::http::header::{ACCEPT, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::{Method, Response, Url};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::challenge;
use super::clients::{Built, Clients};
use super::outcome::{self, Failure, Last, Location, Outcome, Reply, Step};
use super::plan::{Plan, Target, Verify};
use super::proxy_route::proxy_for;
use crate::limits::{
    ORIGIN_ANSWER_TIMEOUT, ORIGIN_HOST_PATIENCE, ORIGIN_REDIRECTS_MAX, ORIGIN_TOKEN_BYTES_MAX,
    PROXY_CONNECT_TIMEOUT,
};
use crate::proxies::Proxies;

/// Media types that containerd accepts for a tag.
const MANIFESTS: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, */*";

/// Progress of a probe, for requests that cannot wait for its end.
#[derive(Debug)]
pub(super) struct Progress {
    done: Mutex<Vec<Outcome>>,
    /// Conversations that are connected and have not ended.
    connected: AtomicUsize,
    /// Hosts that have not been asked; [`HOSTS_UNKNOWN`] until the plan is made.
    waiting: AtomicUsize,
}

/// Number of hosts in [`Progress`] while the plan is not made.
const HOSTS_UNKNOWN: usize = usize::MAX;

impl Default for Progress {
    fn default() -> Self {
        let (done, connected, waiting) = Default::default();
        let progress = Self { done, connected, waiting };
        progress.waiting(HOSTS_UNKNOWN);
        progress
    }
}

impl Progress {
    /// The outcome as far as it is known. A host that was not asked yet may answer.
    pub(super) fn so_far(&self, last: Option<Last>) -> Outcome {
        let pending = match self.waiting.load(Ordering::Relaxed) {
            0 => outcome::unfinished(self.connected.load(Ordering::Relaxed) > 0, last),
            _ => Outcome::Slow,
        };
        Outcome::of_all(self.done().iter().copied().chain([pending]))
    }

    /// Sets the number of hosts that have not been asked.
    fn waiting(&self, hosts: usize) {
        self.waiting.store(hosts, Ordering::Relaxed);
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Vec<Outcome>> {
        // A panic cannot leave a list of outcomes half changed.
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is probed.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) repository: String,
    pub(super) tag: String,
}

/// One probe of the hosts of a registry.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    pub(super) plan: &'a Plan,
    pub(super) clients: &'a Clients,
    pub(super) wanted: &'a Wanted,
    /// Where the probe notes how far it is.
    pub(super) progress: &'a Progress,
}

impl<'a> Probe<'a> {
    /// Asks the hosts of the plan in their order; the next one when one has failed or takes long. One definite
    /// answer ends the probe.
    pub(super) async fn run(self) -> Outcome {
        let mut waiting = self.plan.hosts.iter();
        let mut running = FuturesUnordered::new();
        let start = |host: &'a Vec<Target>| self.host_outcome(host);
        running.extend(waiting.next().map(start));
        let mut outcomes = Vec::new();
        loop {
            self.progress.waiting(waiting.len());
            tokio::select! {
                ended = running.next() => match ended {
                    Some(Outcome::Answers) => return Outcome::Answers,
                    Some(outcome) => {
                        outcomes.push(outcome);
                        running.extend(waiting.next().map(start));
                    }
                    None => return Outcome::of_all(outcomes),
                },
                () = sleep(ORIGIN_HOST_PATIENCE), if waiting.len() > 0 => {
                    running.extend(waiting.next().map(start));
                }
            }
        }
    }

    /// The outcome of one host, over every URL and every way by which containerd may ask it.
    async fn host_outcome(self, targets: &'a [Target]) -> Outcome {
        let mut asked: Vec<(&str, Option<String>)> = Vec::new();
        let mut running = FuturesUnordered::new();
        for target in targets {
            for way in &self.plan.ways {
                let Ok(url) = Url::parse(&target.base) else { continue };
                let this = (target.base.as_str(), proxy_for(way, &url));
                if !asked.contains(&this) {
                    asked.push(this);
                    running.push(Conversation::new(self, target, way).outcome());
                }
            }
        }
        let mut outcomes = Vec::new();
        while let Some(outcome) = running.next().await {
            if outcome == Outcome::Answers {
                return outcome;
            }
            outcomes.push(outcome);
        }
        Outcome::of_all(outcomes)
    }
}

/// The requests to one host that belong together.
struct Conversation<'a> {
    probe: Probe<'a>,
    target: &'a Target,
    way: &'a Proxies,
    is_connected: AtomicBool,
}

impl<'a> Conversation<'a> {
    fn new(probe: Probe<'a>, target: &'a Target, way: &'a Proxies) -> Self {
        Self { probe, target, way, is_connected: AtomicBool::new(false) }
    }

    async fn outcome(self) -> Outcome {
        let progress = self.probe.progress;
        let outcome = match timeout(ORIGIN_ANSWER_TIMEOUT, self.converse()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let is_connected = self.is_connected.load(Ordering::Relaxed);
                outcome::of_failure(Failure::Late { is_connected })
            }
        };
        if self.is_connected.load(Ordering::Relaxed) {
            progress.connected.fetch_sub(1, Ordering::Relaxed);
        }
        progress.done().push(outcome);
        tracing::debug!(base = self.target.base, ?outcome, "asked a registry");
        outcome
    }

    async fn converse(&self) -> Outcome {
        let Some(mut url) = self.manifest() else { return Outcome::Gone };
        let mut token: Option<String> = None;
        for _ in 0..=ORIGIN_REDIRECTS_MAX + 1 {
            let answer = match self.send(Method::HEAD, &url, token.as_deref()).await {
                Ok(answer) => answer,
                Err(failure) => return outcome::of_failure(failure),
            };
            let reply = self.reply(&answer, &url);
            match outcome::of_manifest(&reply, self.target.trust) {
                Step::Done(outcome) => return outcome,
                Step::Follow(next) => {
                    let Ok(next) = Url::parse(&next) else { return Outcome::Answers };
                    // Like Go's client: credentials stay with the host that they are for.
                    token = token.filter(|_| next.host_str() == url.host_str());
                    url = next;
                }
                // A registry that does not accept the token which it asked for refuses.
                Step::Token(_) if token.is_some() => return Outcome::Answers,
                Step::Token(service) => match self.token(&service).await {
                    Ok(Some(given)) => token = Some(given),
                    Ok(None) => return Outcome::Answers,
                    Err(outcome) => return outcome,
                },
            }
        }
        // A host that redirects without end is there.
        Outcome::Answers
    }

    fn manifest(&self) -> Option<Url> {
        let Wanted { repository, tag } = self.probe.wanted;
        let mut url = Url::parse(&format!("{}/{repository}/manifests/{tag}", self.target.base)).ok()?;
        if let Some(ns) = &self.target.ns {
            url.query_pairs_mut().append_pair("ns", ns);
        }
        Some(url)
    }

    /// A token without credentials; `None` if the service is there and gives none.
    async fn token(&self, service: &str) -> Result<Option<String>, Outcome> {
        let url = Url::parse(service).map_err(|_| Outcome::Answers)?;
        let answer = self.send(Method::GET, &url, None).await.map_err(|failure| match failure {
            // The registry is there, but a pull needs this service as well.
            Failure::Connect => Outcome::HalfDown,
            other => outcome::of_failure(other),
        })?;
        let may_be_of_proxy = proxy_for(self.way, &url).is_some() && url.scheme() == "http";
        if let Some(outcome) = outcome::of_token(answer.status().as_u16(), may_be_of_proxy) {
            return Err(outcome);
        }
        if !answer.status().is_success() {
            return Ok(None);
        }
        let mut body = Vec::new();
        let mut answer = answer;
        while let Ok(Some(piece)) = answer.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > ORIGIN_TOKEN_BYTES_MAX {
                return Ok(None);
            }
        }
        Ok(challenge::token(&body))
    }

    async fn send(&self, method: Method, url: &Url, token: Option<&str>) -> Result<Response, Failure> {
        let proxy = proxy_for(self.way, url);
        let built = self.probe.clients.get(&self.target.tls, proxy.as_deref()).map_err(|error| {
            tracing::debug!(%url, error = piccolo_raft::errors::chain(&error), "no client for a probe");
            Failure::ClientCertificate
        })?;
        let mut request = built.client.request(method, url.clone()).header(ACCEPT, MANIFESTS);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let dialed = proxy.as_deref().and_then(|proxy| Url::parse(proxy).ok());
        let dialed = dialed.as_ref().unwrap_or(url);
        let look = async {
            sleep(ORIGIN_HOST_PATIENCE).await;
            if dial(dialed).await {
                self.connected();
            }
            std::future::pending::<()>().await;
        };
        let sent = tokio::select! {
            sent = request.send() => sent,
            () = look => return Err(Failure::Late { is_connected: false }),
        };
        match sent {
            Ok(answer) => {
                self.connected();
                Ok(answer)
            }
            Err(error) => {
                tracing::debug!(%url, error = piccolo_raft::errors::chain(&error), "no answer of a registry");
                Err(self.failure(&error, &built, proxy.is_some().then_some(dialed)).await)
            }
        }
    }

    fn connected(&self) {
        if !self.is_connected.swap(true, Ordering::Relaxed) {
            self.probe.progress.connected.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn failure(&self, error: &reqwest::Error, built: &Built, proxy: Option<&Url>) -> Failure {
        let tls = tls_error(error);
        if built.lacks_certificate && (tls.is_some() || !error.is_connect()) {
            return Failure::ClientCertificate;
        }
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return Failure::Certificate { strict: matches!(self.target.tls.verify, Verify::Only(_)) };
        }
        match proxy {
            Some(proxy) if error.is_connect() => {
                let is_there = timeout(PROXY_CONNECT_TIMEOUT, dial(proxy)).await.unwrap_or(false);
                if is_there { Failure::Tunnel } else { Failure::Connect }
            }
            None if error.is_connect() => Failure::Connect,
            _ => Failure::Broken,
        }
    }

    fn reply(&self, answer: &Response, url: &Url) -> Reply {
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let kind = header(CONTENT_TYPE.as_str()).unwrap_or_default().to_ascii_lowercase();
        let is_registry_like = ["docker-distribution-api-version", "docker-content-digest"]
            .iter()
            .any(|name| header(name).is_some())
            || header(WWW_AUTHENTICATE.as_str()).is_some()
            || kind.starts_with("application/vnd.")
            || kind.starts_with("application/json");
        let challenges =
            answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let location = header(LOCATION.as_str()).and_then(|location| url.join(location).ok());
        let location = location.filter(|url| matches!(url.scheme(), "http" | "https"));
        Reply {
            status: answer.status().as_u16(),
            is_registry_like,
            token_url: challenge::token_url(challenges, &self.probe.wanted.repository),
            location: location.map(|to| Location {
                is_same_host: to.host_str() == url.host_str(),
                is_api: to.path().starts_with("/v2/") && to.path().contains("/manifests/"),
                url: to.into(),
            }),
            // A proxy cannot make up an answer inside a tunnel.
            may_be_of_proxy: url.scheme() == "http" && proxy_for(self.way, url).is_some(),
        }
    }
}

/// Whether something accepts a connection there.
async fn dial(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(DEFAULT_PROXY_PORT);
    TcpStream::connect((host, port)).await.is_ok()
}

/// Default port of SOCKS, which the URL library does not know.
const DEFAULT_PROXY_PORT: u16 = 1080;

/// The TLS error among the causes.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(inner) = inner {
            if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                return Some(tls);
            }
            source = Some(inner);
            continue;
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Files may be slow to read, and a list of hosts may be long, which says nothing about the hosts.
    #[test]
    fn a_probe_that_has_not_asked_every_host_takes_the_registry_for_slow() {
        let progress = Progress::default();
        assert_eq!(progress.so_far(None), Outcome::Slow, "no host is known yet");
        let gone = Some(Last { outcome: Outcome::Gone, took: Duration::from_millis(5) });
        assert_eq!(progress.so_far(gone), Outcome::Slow);
        progress.waiting(1);
        assert_eq!(progress.so_far(None), Outcome::Slow, "one host is not asked yet");
        progress.waiting(0);
        assert_eq!(progress.so_far(None), Outcome::Gone);
    }
}
