//! HTTP clients of probes: one for each set of certificates and each proxy, built again when a file changes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::plan::{TlsSpec, Verify};
use crate::hosts_toml::upstreams::{Stamp, stamp};
use crate::limits::{ORIGIN_CLIENTS_MAX, ORIGIN_CONNECTION_IDLE_MAX};
use piccolo_raft::errors::chain;

/// A client, and what it lacks.
#[derive(Clone, Debug)]
pub(super) struct Built {
    pub(super) client: reqwest::Client,
    /// Whether a client certificate could not be read, which containerd may be able to read.
    pub(super) lacks_certificate: bool,
}

/// Why there is no client with these certificates and this proxy.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("could not read it")]
    Unreadable(#[from] io::Error),
    /// The library rejects a certificate, a key or the proxy.
    #[error("could not use it")]
    Rejected(#[from] reqwest::Error),
    /// A file contains no certificate.
    #[error("it has no certificate")]
    Empty,
}

/// Certificates and proxy of a client.
type Key = (TlsSpec, Option<String>);

/// All clients of one agent.
#[derive(Default)]
pub(super) struct Clients {
    made: Mutex<BTreeMap<Key, (Vec<Stamp>, Built)>>,
}

impl Clients {
    /// The client for `tls` through `proxy`.
    ///
    /// # Errors
    /// A certificate that cannot be read, or a setting that the library rejects.
    pub(super) fn get(&self, tls: &TlsSpec, proxy: Option<&str>) -> Result<Built, CertificateError> {
        let (key, stamps): (Key, _) = ((tls.clone(), proxy.map(str::to_owned)), stamps(tls));
        // A panic cannot leave the map of clients half changed.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, built)) = made.get(&key).filter(|(of, _)| *of == stamps) {
            return Ok(built.clone());
        }
        let built = build(tls, proxy)?;
        if made.len() >= ORIGIN_CLIENTS_MAX {
            made.clear();
        }
        made.insert(key, (stamps, built.clone()));
        Ok(built)
    }
}

fn stamps(tls: &TlsSpec) -> Vec<Stamp> {
    let authorities: &[_] = match &tls.verify {
        Verify::Any => &[],
        Verify::With(files) => files,
        Verify::Only(file) => std::slice::from_ref(file),
    };
    let clients = tls.clients.iter().flat_map(|(certificate, key)| std::iter::once(certificate).chain(key));
    authorities.iter().chain(clients).map(|path| stamp(path)).collect()
}

fn build(tls: &TlsSpec, proxy: Option<&str>) -> Result<Built, CertificateError> {
    // Fails only if the process has a provider already, which works as well.
    _ = rustls::crypto::ring::default_provider().install_default();
    let mut lacks_certificate = false;
    let mut builder = base();
    if let Some(proxy) = proxy {
        builder = builder.proxy(reqwest::Proxy::all(proxy)?);
    }
    builder = match &tls.verify {
        Verify::Any => builder.tls_danger_accept_invalid_certs(true),
        Verify::Only(file) => builder.tls_certs_only(certificates(file)?),
        Verify::With(files) => {
            let read: Result<Vec<_>, CertificateError> =
                files.iter().map(|file| certificates(file)).collect();
            match read {
                Ok(read) => builder.tls_certs_merge(read.into_iter().flatten()),
                // The host is not judged by what only containerd can read.
                Err(error) => {
                    tracing::debug!(error = chain(&error), "any certificate counts");
                    builder.tls_danger_accept_invalid_certs(true)
                }
            }
        }
    };
    // containerd offers all of them, and TLS chooses; this library takes only one.
    if let Some((certificate, key)) = tls.clients.first() {
        match identity(certificate, key.as_deref()) {
            Ok(identity) => builder = builder.identity(identity),
            Err(error) => {
                let error = chain(&error);
                tracing::debug!(certificate = %certificate.display(), error, "no client certificate");
                lacks_certificate = true;
            }
        }
        lacks_certificate |= tls.clients.len() > 1;
    }
    let client = builder.build()?;
    Ok(Built { client, lacks_certificate })
}

fn base() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("piccolo/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .pool_idle_timeout(ORIGIN_CONNECTION_IDLE_MAX)
        .no_proxy()
}

/// Reads the certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, CertificateError> {
    let certificates = reqwest::Certificate::from_pem_bundle(&std::fs::read(path)?)?;
    if certificates.is_empty() {
        return Err(CertificateError::Empty);
    }
    Ok(certificates)
}

fn identity(certificate: &Path, key: Option<&Path>) -> Result<reqwest::Identity, CertificateError> {
    let mut pem = std::fs::read(certificate)?;
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend(std::fs::read(key)?);
    }
    Ok(reqwest::Identity::from_pem(&pem)?)
}
