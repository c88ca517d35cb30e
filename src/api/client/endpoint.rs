//! One address of a server, and what a client has learned about it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::Uri;
use hyper::header::HeaderValue;

use super::trip::RoundTrip;
use super::{ClientError, UrlFault};
use crate::limits::ENDPOINT_REST;

/// A server as it was given, by its URL.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// URL without a final slash.
    pub(super) base: String,
    /// Host name, or IP address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Name of the server in `Host` headers: a proxy in front of the servers may use it.
    authority: HeaderValue,
    /// Path of the URL.
    prefix: String,
    /// Socket address, if the URL has an IP address.
    pub(super) literal: Option<SocketAddr>,
}

impl Given {
    /// Parses `http://host:port`; a path after it is kept.
    pub(super) fn parse(server: String) -> Result<Self, ClientError> {
        let bad = |fault| ClientError::BadServer { server: server.clone(), fault };
        let base = server.trim().trim_end_matches('/');
        let uri: Uri = base.parse().map_err(|_| bad(UrlFault::NotUrl))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(bad(UrlFault::Https)),
            _ => return Err(bad(UrlFault::NoScheme)),
        }
        let form = || bad(UrlFault::OtherForm);
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

    /// The endpoint of this server at one of its addresses.
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
    /// URL with the address, the prefix of request targets.
    pub(super) base: String,
    /// Name of the endpoint in errors.
    pub(super) label: String,
    /// `Host` header of requests.
    pub(super) authority: HeaderValue,
    trip: Mutex<RoundTrip>,
    /// Time of the last unanswered request, if none was answered after it.
    failed: Mutex<Option<Instant>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl Endpoint {
    /// The measured round trip.
    pub(super) fn trip(&self) -> MutexGuard<'_, RoundTrip> {
        // The value is a few numbers, which are consistent even after a panic.
        self.trip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request without an answer.
    pub(super) fn note_failure(&self) {
        *self.failed() = Some(Instant::now());
    }

    /// Records an answer, whatever its status.
    pub(super) fn note_answer(&self) {
        *self.failed() = None;
    }

    /// True if a request failed recently, so that other servers are asked first.
    pub(super) fn is_resting(&self) -> bool {
        self.failed().is_some_and(|at| at.elapsed() < ENDPOINT_REST)
    }
}
