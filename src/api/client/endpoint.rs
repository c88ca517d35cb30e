//! One address of a server, and what a client has learned of it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::Uri;
use hyper::header::HeaderValue;

use super::ClientError;
use super::trip::RoundTrip;
use crate::limits::ENDPOINT_REST;

/// A server as it was given.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Its URL without a final slash.
    pub(super) base: String,
    /// Its name, or its address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What it is called in requests: whatever stands in front of the servers may tell them apart by it.
    authority: HeaderValue,
    /// What the URL has behind the port.
    prefix: String,
    /// Its address, where no name was given.
    pub(super) literal: Option<SocketAddr>,
}

impl Given {
    /// Reads `http://host:port`; a path behind it is kept.
    pub(super) fn parse(server: String) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::BadServer { server: server.clone(), reason: reason.to_owned() };
        let base = server.trim().trim_end_matches('/');
        let uri: Uri = base.parse().map_err(|_| bad("is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(bad("https is not supported, use http://host:port")),
            _ => return Err(bad("has no scheme, use http://host:port")),
        }
        let form = || bad("is not of the form http://host:port");
        let authority = uri.authority().filter(|_| uri.query().is_none()).ok_or_else(form)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(form());
        }
        let port = authority.port_u16().unwrap_or(80);
        let literal = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
        let name = authority.as_str().rsplit('@').next().unwrap_or_default();
        let authority = HeaderValue::from_str(name).map_err(|_| form())?;
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { base: base.to_owned(), host, port, authority, prefix, literal })
    }

    /// The endpoint at that address of it.
    pub(super) fn at(&self, address: SocketAddr) -> Endpoint {
        let base = format!("http://{address}{}", self.prefix);
        let label = match self.literal {
            Some(_) => self.base.clone(),
            None => format!("{} ({address})", self.base),
        };
        let (trip, failed) = (Mutex::default(), Mutex::default());
        Endpoint { base, label, authority: self.authority.clone(), trip, failed }
    }
}

/// One address of a server.
pub(super) struct Endpoint {
    /// URL with the address, in front of a request's target.
    pub(super) base: String,
    /// What it is called in errors.
    pub(super) label: String,
    /// The `Host` of requests.
    pub(super) authority: HeaderValue,
    trip: Mutex<RoundTrip>,
    /// When a request had no answer here, if none was answered since.
    failed: Mutex<Option<Instant>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl Endpoint {
    /// The round trip to it.
    pub(super) fn trip(&self) -> MutexGuard<'_, RoundTrip> {
        // A few numbers: whole after any panic.
        self.trip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request had no answer.
    pub(super) fn note_failure(&self) {
        *self.failed() = Some(Instant::now());
    }

    /// A request was answered, with whatever.
    pub(super) fn note_answer(&self) {
        *self.failed() = None;
    }

    /// Whether it failed so lately that the others are asked first.
    pub(super) fn is_resting(&self) -> bool {
        self.failed().is_some_and(|at| at.elapsed() < ENDPOINT_REST)
    }
}
