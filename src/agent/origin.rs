//! Whether the origin of a tag answers: the hosts that containerd asks after us. While one does, it
//! alone says what a tag is, and what it refuses no node serves (I6).
//!
//! The origin is asked what a pull needs, the HEAD of the manifest and the token for it, at the hosts
//! that containerd's `certs.d` names, through containerd's proxy. What an answer means is decided in
//! `outcome.rs`; here are the memory of answers, one probe at a time for a repository, and what an
//! operator is told.

mod certs_dirs;
mod challenge;
mod clients;
mod cri;
mod outcome;
mod outcome_cache;
mod plan;
mod probe;
mod proxy_route;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::notices::{Notices, Topic};
use super::policy::Policies;
use crate::limits::ORIGIN_PROBE_TIMEOUT;
use crate::proxies::Proxies;
use certs_dirs::CertsDirs;
use clients::{CertificateError, Clients};
use outcome::{Last, Outcome};
use outcome_cache::{Consulted, Memory, Running};
use plan::{Plan, Sources};
use probe::{Progress, Wanted};

/// A table of a registry that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// Its CA file.
    #[error("could not read the CA of registry {registry} from {}", path.display())]
    Ca {
        /// Name of the table.
        registry: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CertificateError,
    },
    /// Its URL.
    #[error("origin {origin:?} of registry {registry} is not an http:// or https:// URL")]
    Url {
        /// Name of the table.
        registry: String,
        /// What was given.
        origin: String,
    },
}

/// What the probes are made of.
pub(crate) struct Config {
    pub(crate) policies: Arc<Policies>,
    pub(crate) notices: Notices,
    /// Folders of `--certs-dir`; found out when absent.
    pub(crate) certs_dirs: Option<Vec<PathBuf>>,
    /// containerd's socket, behind which CRI may be.
    pub(crate) socket: Option<PathBuf>,
    /// The mirror port: containerd's entry for it is not asked.
    pub(crate) own: Option<SocketAddr>,
    /// Proxies in the environment of this process.
    pub(crate) environment: Option<Proxies>,
}

/// A tag whose registry is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag<'a> {
    /// As containerd spells it.
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
    pub(crate) tag: &'a str,
}

/// What is known about the origins of all registries.
pub(crate) struct Origins {
    shared: Arc<Prober>,
    /// Probes. They end by themselves, within [`crate::limits::ORIGIN_ANSWER_TIMEOUT`] a host.
    probes: TaskTracker,
}

struct Prober {
    policies: Arc<Policies>,
    notices: Notices,
    certs_dirs: CertsDirs,
    own: Option<SocketAddr>,
    environment: Option<Proxies>,
    clients: Clients,
    memory: Mutex<Memory>,
}

/// Proxies in the environment of this process, as Go reads them.
pub(crate) fn environment() -> Option<Proxies> {
    proxy_route::of_environment(|name| std::env::var(name).ok())
}

impl Origins {
    /// Checks the tables. Must be called within a tokio runtime.
    pub(crate) fn new(config: Config) -> Result<Self, OriginError> {
        let Config { policies, notices, certs_dirs, socket, own, environment } = config;
        for (registry, policy) in policies.tables() {
            if let Some(origin) = &policy.origin
                && !is_base_url(origin)
            {
                return Err(OriginError::Url { registry: registry.to_owned(), origin: origin.clone() });
            }
            if let Some(path) = &policy.ca {
                clients::certificates(path).map_err(|source| OriginError::Ca {
                    registry: registry.to_owned(),
                    path: path.clone(),
                    source,
                })?;
            }
        }
        let shared = Prober {
            policies,
            notices,
            certs_dirs: CertsDirs::new(certs_dirs, socket.as_deref()),
            own,
            environment,
            clients: Clients::default(),
            memory: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), probes: TaskTracker::new() })
    }

    /// Whether a table or a folder of containerd's `certs.d` names `registry`. Another name may be
    /// anything that a client of this host makes up: it is asked only about what a node holds.
    pub(crate) async fn is_named(&self, registry: &str) -> bool {
        self.shared.policies.table(registry).is_some()
            || plan::is_named(&self.shared.certs_dirs.roots().await, registry)
    }

    /// Whether nodes may answer a tag in place of its origin. Waits for a probe for
    /// [`ORIGIN_PROBE_TIMEOUT`] at most; the probe goes on, for the next one to know.
    pub(crate) async fn leaves_to_nodes(&self, tag: Tag<'_>) -> bool {
        // Not by the canonical name: containerd has a folder for each spelling, and so may ask other hosts.
        let registry = tag.registry;
        let repository = format!("{registry}/{}", tag.repository);
        let (is_asked_again, consulted) = {
            let mut memory = self.shared.memory();
            let now = Instant::now();
            let is_asked_again = memory.is_asked_again(&repository, tag.tag, now);
            let mut consulted = memory.consult((registry, &repository), is_asked_again, now);
            if let Consulted::Start(last) = consulted {
                let running = self.start(tag, &repository, last);
                memory.started(&repository, running.clone());
                consulted = Consulted::Join(running);
            }
            (is_asked_again, consulted)
        };
        let outcome = match consulted {
            Consulted::Known(outcome) => outcome,
            Consulted::Join(running) => wait(running).await,
            // Without an answer to go by, nothing is served that the origin may refuse.
            Consulted::Start(_) | Consulted::Full => Outcome::Slow,
        };
        let leaves = outcome.leaves_tag_to_nodes(is_asked_again);
        if !leaves {
            self.shared.memory().sent_away(&repository, tag.tag, Instant::now());
        } else if outcome.leaves_tag_to_nodes(false) {
            // What is known holds for its whole time again.
            self.shared.memory().fetched(|| repository);
        }
        leaves
    }

    /// Content of a repository is asked for by digest: the registry has said what its tag is.
    pub(crate) fn fetched(&self, registry: &str, repository: &str) {
        self.shared.memory().fetched(|| format!("{registry}/{repository}"));
    }

    fn start(&self, tag: Tag<'_>, repository: &str, last: Option<Last>) -> Running {
        let progress = Arc::<Progress>::default();
        let (end, ended) = watch::channel(None);
        let since = Instant::now();
        let shared = Arc::clone(&self.shared);
        let wanted = Wanted { repository: tag.repository.to_owned(), tag: tag.tag.to_owned() };
        let (registry, repository) = (tag.registry.to_owned(), repository.to_owned());
        let probe_progress = Arc::clone(&progress);
        self.probes.spawn(async move {
            let (plan, outcome) = shared.probe(&registry, &wanted, &probe_progress).await;
            let last = Last { outcome, took: since.elapsed() };
            shared.memory().ended((&registry, &repository), last, Instant::now());
            shared.tell(&registry, &plan, last);
            _ = end.send(Some(outcome));
        });
        Running { since, progress, ended, last }
    }
}

/// The outcome of a probe, or what is known of it when a request can wait no longer.
async fn wait(running: Running) -> Outcome {
    let Running { since, progress, mut ended, last } = running;
    match timeout_at(since + ORIGIN_PROBE_TIMEOUT, ended.wait_for(Option::is_some)).await {
        Ok(Ok(outcome)) => outcome.unwrap_or(Outcome::Slow),
        // A probe that panicked.
        Ok(Err(_)) => Outcome::Slow,
        Err(_) => progress.so_far(last),
    }
}

impl Prober {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each change of the memory is whole after any panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn probe(
        self: &Arc<Self>,
        registry: &str,
        wanted: &Wanted,
        progress: &Progress,
    ) -> (Plan, Outcome) {
        let roots = self.certs_dirs.roots().await;
        let (shared, name) = (Arc::clone(self), registry.to_owned());
        let planned = tokio::task::spawn_blocking(move || {
            let sources = Sources {
                policy: shared.policies.of(Some(&name)),
                roots: &roots,
                own: shared.own,
                environment: shared.environment.as_ref(),
            };
            plan::plan(&name, &sources)
        });
        let Ok(plan) = planned.await else { return (Plan::default(), Outcome::Slow) };
        let outcome = probe::probe(&plan, &self.clients, wanted, progress).await;
        (plan, outcome)
    }

    /// Metric, log and notices.
    fn tell(&self, registry: &str, plan: &Plan, last: Last) {
        metrics::counter!("piccolo_origin_probes_total", "outcome" => last.outcome.label()).increment(1);
        tracing::debug!(registry, outcome = last.outcome.label(), took = ?last.took, "probed the origin");
        let hosts: Vec<&str> = plan.hosts.iter().flatten().map(|target| target.base.as_str()).collect();
        match notice(registry, &hosts.join(", "), last) {
            Some(text) => self.notices.set(Topic::Origin, registry, text),
            None => self.notices.clear(Topic::Origin, registry),
        }
        let files = format!("files of {registry}");
        match &plan.problem {
            Some(problem) => {
                self.notices.set(Topic::Origin, &files, format!("registry {registry}: {problem}"))
            }
            None => self.notices.clear(Topic::Origin, &files),
        }
    }
}

/// What an operator should know about a registry, if it is anything.
fn notice(registry: &str, hosts: &str, last: Last) -> Option<String> {
    const NODES: &str = "this node and its neighbours answer its tags";
    let hosts = if hosts.is_empty() { "containerd is told of no host that resolves tags" } else { hosts };
    let of = format!("registry {registry} ({hosts})");
    Some(match last.outcome {
        Outcome::Answers | Outcome::Slow if last.took > ORIGIN_PROBE_TIMEOUT => format!(
            "{of} takes over {} s to answer; its tags are left to it, so every pull of one waits for it",
            ORIGIN_PROBE_TIMEOUT.as_secs()
        ),
        Outcome::Answers | Outcome::Slow => return None,
        Outcome::Gone => format!("{of} could not be reached when it was last asked for a tag: {NODES}"),
        Outcome::HalfDown => format!(
            "{of} answered the last request for a manifest or for its token with 429, 5xx or not at all: {NODES}"
        ),
        Outcome::Silent => {
            format!("{of} accepts connections and does not answer the request for a manifest: {NODES}")
        }
        Outcome::NotRegistry => format!(
            "{of} answers, but not as a registry does; a captive portal or a web page may stand in its place: {NODES}"
        ),
        Outcome::Unsure => format!(
            "{of} could not be asked: a proxy or a certificate failed. Its tags are left to it unless containerd \
             fails to have them too; check the proxy and the CA that `piccolo mirror install` recorded, and those \
             of the agent's environment"
        ),
    })
}

fn is_base_url(origin: &str) -> bool {
    origin.parse::<axum::http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    })
}
