//! Finds out whether the origin of a tag answers: the hosts that containerd asks after the mirror. While one
//! of them answers, it alone says what a tag is, and no node serves what it refuses (I6).
//!
//! The origin is asked for what a pull needs, the HEAD of the manifest and the token for it, at the hosts
//! that containerd's `certs.d` names, through containerd's proxy. `outcome.rs` decides what an answer means.
//! Here are the cache of answers, the limit of one probe at a time for a repository, and the notices.

mod certs_dirs;
mod challenge;
mod clients;
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

use super::content::store::Store;
use super::notices::{Notices, Topic};
use super::policy::Policies;
use crate::limits::ORIGIN_PROBE_TIMEOUT;
use crate::proxies::Proxies;
use certs_dirs::CertsDirs;
use clients::{CertificateError, Clients};
use outcome::{Last, Outcome};
use outcome_cache::{Consulted, Memory, Running};
use plan::{Plan, Sources};
use probe::{Probe, Progress, Wanted};

/// Why the table of a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The file with its CA cannot be used.
    #[error("could not read the CA of registry {registry} from {}", path.display())]
    Ca {
        /// Name of the table.
        registry: String,
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        #[source]
        source: CertificateError,
    },
    /// Its URL cannot be used.
    #[error("origin {origin:?} of registry {registry} is not an http:// or https:// URL")]
    Url {
        /// Name of the table.
        registry: String,
        /// The given URL.
        origin: String,
    },
}

/// Settings of the probes.
pub(crate) struct Config {
    pub(crate) policies: Arc<Policies>,
    pub(crate) notices: Notices,
    /// Folders of `--certs-dir`. Absent: found out.
    pub(crate) certs_dirs: Option<Vec<PathBuf>>,
    /// The store, whose containerd may name these folders.
    pub(crate) store: Arc<dyn Store>,
    /// Path of containerd's socket, if there is one: some distributions keep the folders elsewhere.
    pub(crate) socket: Option<PathBuf>,
    /// Address of the mirror: containerd's entry for it is not probed.
    pub(crate) own: Option<SocketAddr>,
    /// Proxies from the environment of this process.
    pub(crate) environment: Option<Proxies>,
}

/// A tag whose registry is probed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag<'a> {
    /// Name of the registry, as containerd spells it.
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
    pub(crate) tag: &'a str,
}

/// Knowledge about the origins of all registries.
pub(crate) struct Origins {
    shared: Arc<Prober>,
    /// Running probes. They end by themselves, within [`crate::limits::ORIGIN_ANSWER_TIMEOUT`] for each host.
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

/// Proxies from the environment of this process, as Go reads them.
pub(crate) fn environment() -> Option<Proxies> {
    proxy_route::of_environment(|name| std::env::var(name).ok())
}

impl Origins {
    /// Checks the tables. Must be called within a tokio runtime.
    pub(crate) fn new(config: Config) -> Result<Self, OriginError> {
        let Config { policies, notices, certs_dirs, store, socket, own, environment } = config;
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
            certs_dirs: CertsDirs::new(certs_dirs, store, socket.as_deref()),
            own,
            environment,
            clients: Clients::default(),
            memory: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), probes: TaskTracker::new() })
    }

    /// Whether a table or a folder of containerd's `certs.d` names `registry`. A client of this host can make
    /// up any other name, so that such a registry is only asked about what a node holds.
    pub(crate) async fn is_named(&self, registry: &str) -> bool {
        self.shared.policies.table(registry).is_some()
            || plan::is_named(&self.shared.certs_dirs.roots().await, registry)
    }

    /// Whether nodes may answer a tag in place of its origin. Waits for a probe for up to
    /// [`ORIGIN_PROBE_TIMEOUT`]; the probe then continues for the next request.
    pub(crate) async fn leaves_to_nodes(&self, tag: Tag<'_>) -> bool {
        // Not the canonical name: containerd has a folder for each spelling, and may ask other hosts.
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
            // Without an outcome nothing is served that the origin may refuse.
            Consulted::Start(_) | Consulted::Full => Outcome::Slow,
        };
        let leaves = outcome.leaves_tag_to_nodes(is_asked_again);
        if !leaves {
            self.shared.memory().sent_away(&repository, tag.tag, Instant::now());
        } else if outcome.leaves_tag_to_nodes(false) {
            // The known outcome is valid for its whole time again.
            self.shared.memory().fetched(|| repository);
        }
        leaves
    }

    /// Records that content of a repository is asked for by digest, which means that the registry has
    /// answered for the tag.
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

/// Waits for the outcome of a probe, or returns what is known of it when a request can wait no longer.
async fn wait(running: Running) -> Outcome {
    let Running { since, progress, mut ended, last } = running;
    match timeout_at(since + ORIGIN_PROBE_TIMEOUT, ended.wait_for(Option::is_some)).await {
        Ok(Ok(outcome)) => outcome.unwrap_or(Outcome::Slow),
        // The probe panicked.
        Ok(Err(_)) => Outcome::Slow,
        Err(_) => progress.so_far(last),
    }
}

impl Prober {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic cannot leave the cache half changed.
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
        let probe = Probe { plan: &plan, clients: &self.clients, wanted, progress };
        let outcome = probe.run().await;
        (plan, outcome)
    }

    /// Updates metric, log and notices.
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

/// The notice about a registry, if there is anything that an operator should know.
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
