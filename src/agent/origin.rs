//! Whether the origin of a registry answers. While it does, it alone says what a tag is, and whom it
//! refuses nobody of ours serves (I6).
//!
//! `GET /v2/` there, without credentials, over https and http at once, through the usual proxy
//! variables. What https answers counts, and what http answers if https says nothing. Any HTTP
//! answer below 500 counts. Without a CA of its own any certificate does, too:
//! containerd may know CAs that we do not, and taking such an origin for absent would serve those
//! whom it refuses.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::policy::Policies;
use crate::limits::{ORIGIN_PROBE_TIMEOUT, ORIGIN_PROBE_TTL, ORIGINS_MAX};

/// A table of a registry that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// Its CA file.
    #[error("could not read the CA of registry {registry} from {}: {reason}", path.display())]
    Ca {
        /// Name of the table.
        registry: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Its URL.
    #[error("origin {origin:?} of registry {registry} is not an http:// or https:// URL")]
    Url {
        /// Name of the table.
        registry: String,
        /// What was given.
        origin: String,
    },
    /// The HTTP client.
    #[error("could not set up the probe of registry {registry}: {reason}")]
    Client {
        /// Name of the table.
        registry: String,
        /// What the library said.
        reason: String,
    },
}

/// What is known about the origins of all registries.
pub(crate) struct Origins {
    shared: Arc<Shared>,
    /// Probes. They end by themselves, within [`ORIGIN_PROBE_TIMEOUT`].
    probes: TaskTracker,
}

struct Shared {
    policies: Arc<Policies>,
    /// Clients of tables with a CA of their own.
    strict: BTreeMap<String, reqwest::Client>,
    any: reqwest::Client,
    known: Mutex<HashMap<String, Arc<Known>>>,
}

/// The lock is held while a probe runs: one at a time for a registry.
#[derive(Default)]
struct Known {
    last: tokio::sync::Mutex<Option<Probed>>,
}

#[derive(Clone, Copy)]
struct Probed {
    at: Instant,
    answers: bool,
}

impl Origins {
    /// Reads the CA files.
    pub(crate) fn new(policies: Arc<Policies>) -> Result<Self, OriginError> {
        // Fails only if the process has a provider already, which does as well.
        _ = rustls::crypto::ring::default_provider().install_default();
        let mut strict = BTreeMap::new();
        for (registry, policy) in policies.tables() {
            if let Some(origin) = &policy.origin
                && !is_base_url(origin)
            {
                return Err(OriginError::Url { registry: registry.to_owned(), origin: origin.clone() });
            }
            if let Some(path) = &policy.ca {
                strict.insert(registry.to_owned(), strict_client(registry, path)?);
            }
        }
        let any = base_client().tls_danger_accept_invalid_certs(true).build();
        let any = any.map_err(|error| OriginError::Client {
            registry: super::policy::DEFAULT.to_owned(),
            reason: error.to_string(),
        })?;
        let shared = Shared { policies, strict, any, known: Mutex::default() };
        Ok(Self { shared: Arc::new(shared), probes: TaskTracker::new() })
    }

    /// Whether the origin of `registry` answers, from memory if it was asked lately. A probe goes on
    /// when the caller has given up, for the next one to know.
    pub(crate) async fn answers(&self, registry: &str) -> bool {
        let (shared, registry) = (Arc::clone(&self.shared), registry.to_owned());
        let probe = self.probes.spawn(async move { shared.answers(&registry).await });
        // Without an answer to go by, nobody is served whom the origin may refuse.
        probe.await.unwrap_or(true)
    }
}

impl Shared {
    async fn answers(&self, registry: &str) -> bool {
        let known = self.known(registry);
        let mut last = known.last.lock().await;
        if let Some(probed) = *last
            && probed.at.elapsed() < ORIGIN_PROBE_TTL
        {
            return probed.answers;
        }
        let answers = self.probe(registry).await;
        if last.is_none_or(|before| before.answers != answers) {
            tracing::info!(registry, answers, "probed the origin");
        }
        *last = Some(Probed { at: Instant::now(), answers });
        answers
    }

    async fn probe(&self, registry: &str) -> bool {
        let policy = self.policies.of(Some(registry));
        let table = self
            .strict
            .get(registry)
            .or_else(|| policy.ca.as_ref().and_then(|_| self.strict.get(super::policy::DEFAULT)));
        let client = table.unwrap_or(&self.any);
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let bases = match &policy.origin {
            Some(origin) => vec![origin.trim_end_matches('/').to_owned()],
            None if table.is_some() => vec![format!("https://{host}")],
            None => vec![format!("https://{host}"), format!("http://{host}")],
        };
        let together = bases.len();
        let mut answers = stream::iter(bases)
            .map(|base| async move {
                let asked = client.get(format!("{base}/v2/")).send();
                match timeout(ORIGIN_PROBE_TIMEOUT, asked).await {
                    Ok(Ok(answer)) => return Some(answer.status().as_u16() < 500),
                    Ok(Err(error)) => {
                        tracing::debug!(registry, base, error = crate::api::client::chain(&error), "origin");
                    }
                    Err(_) => tracing::debug!(registry, base, "the origin did not answer in time"),
                }
                None
            })
            .buffered(together);
        while let Some(answer) = answers.next().await {
            if let Some(answers) = answer {
                return answers;
            }
        }
        false
    }

    /// The entry of `registry`; the one probed longest ago makes room for a new one.
    fn known(&self, registry: &str) -> Arc<Known> {
        // A map of handles is whole after any panic.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.get(registry) {
            return Arc::clone(entry);
        }
        if known.len() >= ORIGINS_MAX {
            let age =
                |entry: &Arc<Known>| entry.last.try_lock().ok().map(|last| last.map(|probed| probed.at));
            let oldest = known.iter().filter_map(|(name, entry)| Some((age(entry)?, name.clone()))).min();
            oldest.map(|(_, name)| known.remove(&name));
        }
        let entry = Arc::<Known>::default();
        known.insert(registry.to_owned(), Arc::clone(&entry));
        entry
    }
}

fn base_client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("piccolo/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ORIGIN_PROBE_TIMEOUT)
        // A kept connection would answer for an origin that has since become unreachable.
        .pool_max_idle_per_host(0)
}

fn strict_client(registry: &str, path: &PathBuf) -> Result<reqwest::Client, OriginError> {
    let bad = |reason: String| OriginError::Ca { registry: registry.to_owned(), path: path.clone(), reason };
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("it has no certificate".to_owned()));
    }
    base_client().tls_certs_only(certificates).build().map_err(|error| bad(error.to_string()))
}

fn is_base_url(origin: &str) -> bool {
    origin.parse::<axum::http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    })
}
