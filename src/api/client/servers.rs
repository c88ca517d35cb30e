//! The servers of a client: every address of every given name is a server of its own.
//!
//! Names are resolved beside the calls, on a thread for blocking work. Once addresses are known, no call
//! waits for the resolver, however slow it is, and addresses stay when it fails. A name is resolved again
//! when its addresses are old, or when no server has answered.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::endpoint::{Endpoint, Given};
use super::{Attempt, ClientError};
use crate::limits::{ADDRESSES_OF_A_NAME_MAX, RESOLVE_AGAIN_AFTER, RESOLVE_PAUSE_MIN};

/// Resolves a name to its addresses; blocks.
pub(super) type Resolver = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The system's resolver: A and AAAA records, `/etc/hosts`.
pub(super) fn system_resolver() -> Resolver {
    Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

/// The servers of a client; clones share them.
#[derive(Clone)]
pub(super) struct Servers(Arc<Inner>);

struct Inner {
    given: Vec<Given>,
    /// The URLs of `given`.
    urls: Vec<String>,
    resolver: Resolver,
    known: Mutex<Known>,
    /// Number of finished resolutions.
    resolved: watch::Sender<u64>,
    /// Position in the list of the server that is asked first until one has answered.
    begin: AtomicUsize,
}

/// What is known about the servers.
struct Known {
    /// Names, in the order of `given`.
    names: Vec<Name>,
    /// Endpoints in the order of `given` and of the resolver's answers, without duplicates.
    endpoints: Vec<Arc<Endpoint>>,
    /// The endpoint that answered last.
    good: Option<Arc<Endpoint>>,
}

/// What is known about the name of one given server.
#[derive(Default)]
struct Name {
    /// Addresses of the last successful resolution.
    addresses: Vec<SocketAddr>,
    /// Time of the last resolution's start.
    asked: Option<Instant>,
    /// True while a resolution runs.
    asking: bool,
    /// True if no server has answered since the last resolution: the addresses may be old.
    doubted: bool,
    /// Why the last resolution failed.
    error: Option<String>,
}

impl Name {
    fn is_due(&self) -> bool {
        let age_max =
            if self.doubted || self.addresses.is_empty() { RESOLVE_PAUSE_MIN } else { RESOLVE_AGAIN_AFTER };
        !self.asking && self.asked.is_none_or(|asked| asked.elapsed() >= age_max)
    }
}

impl Servers {
    /// The servers at these URLs.
    pub(super) fn new(urls: Vec<String>, resolver: Resolver) -> Result<Self, ClientError> {
        if urls.is_empty() {
            return Err(ClientError::NoServer);
        }
        let given = urls.into_iter().map(Given::parse).collect::<Result<Vec<_>, _>>()?;
        let name = |given: &Given| Name { addresses: given.literal.into_iter().collect(), ..Name::default() };
        let mut known = Known { names: given.iter().map(name).collect(), endpoints: Vec::new(), good: None };
        known.rebuild(&given);
        let inner = Inner {
            urls: given.iter().map(|given| given.base.clone()).collect(),
            given,
            resolver,
            known: Mutex::new(known),
            resolved: watch::Sender::new(0),
            begin: AtomicUsize::new(0),
        };
        Ok(Self(Arc::new(inner)))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment or may be repeated, so that the state is consistent after a panic.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The URLs as given, without a final slash.
    pub(super) fn urls(&self) -> &[String] {
        &self.0.urls
    }

    /// Sets the position in the list (modulo its length) of the first server to ask.
    pub(super) fn begin_at(&self, place: usize) {
        self.0.begin.store(place, Ordering::Relaxed);
        self.known().good = None;
    }

    /// Records that this endpoint answered: it is asked first from now on.
    pub(super) fn answered(&self, endpoint: &Arc<Endpoint>) {
        let mut known = self.known();
        if known.good.as_ref().is_none_or(|good| !Arc::ptr_eq(good, endpoint)) {
            known.good = Some(Arc::clone(endpoint));
        }
    }

    /// Endpoints in the order in which they are asked: the one that answered last, those after it in the
    /// list, and at the end those that failed recently.
    pub(super) fn order(&self) -> Vec<Arc<Endpoint>> {
        let known = self.known();
        let mut endpoints = known.endpoints.clone();
        let good = known.good.as_ref();
        let good = good.and_then(|good| endpoints.iter().position(|other| Arc::ptr_eq(good, other)));
        drop(known);
        if !endpoints.is_empty() {
            let count = endpoints.len();
            endpoints.rotate_left(good.unwrap_or_else(|| self.0.begin.load(Ordering::Relaxed) % count));
            endpoints.sort_by_key(|endpoint| endpoint.is_resting());
        }
        endpoints
    }

    /// True if there is only one address.
    pub(super) fn is_lone(&self) -> bool {
        self.known().endpoints.len() == 1
    }

    /// Records that no server has answered: the addresses of the names may have changed.
    pub(super) fn doubt(&self) {
        self.known().names.iter_mut().for_each(|name| name.doubted = true);
        self.refresh();
    }

    /// Starts to resolve the names that are due. Must be called inside the runtime.
    pub(super) fn refresh(&self) {
        let mut due = Vec::new();
        {
            let mut known = self.known();
            for (position, name) in known.names.iter_mut().enumerate() {
                if self.0.given[position].literal.is_none() && name.is_due() {
                    (name.asking, name.asked) = (true, Some(Instant::now()));
                    due.push(position);
                }
            }
        }
        for position in due {
            let servers = self.clone();
            // The task outlives a call that stops waiting: its result is for the next call.
            tokio::task::spawn_blocking(move || servers.resolve(position));
        }
    }

    fn resolve(&self, position: usize) {
        let given = &self.0.given[position];
        let found = (self.0.resolver)(&given.host, given.port);
        let mut known = self.known();
        let name = &mut known.names[position];
        (name.asking, name.doubted, name.error) = (false, false, None);
        match found {
            Ok(found) if found.is_empty() => name.error = Some("it has no address".to_owned()),
            Ok(mut found) => {
                found.truncate(ADDRESSES_OF_A_NAME_MAX);
                name.addresses = found;
                known.rebuild(&self.0.given);
            }
            Err(error) => name.error = Some(error.to_string()),
        }
        drop(known);
        self.0.resolved.send_modify(|count| *count += 1);
    }

    /// True if a name without any address is being resolved.
    pub(super) fn is_waiting(&self) -> bool {
        self.known().names.iter().any(|name| name.asking && name.addresses.is_empty())
    }

    /// Changes after each finished resolution.
    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        self.0.resolved.subscribe()
    }

    /// The names without any address, with the reason.
    pub(super) fn unresolved(&self, waited: Duration) -> Vec<Attempt> {
        let known = self.known();
        let unresolved = known.names.iter().zip(&self.0.given).filter(|(name, _)| name.addresses.is_empty());
        let attempt = |(name, given): (&Name, &Given)| {
            let late = || format!("no answer within {} ms", waited.as_millis());
            let reason = name.error.clone().unwrap_or_else(late);
            let reason = format!("could not resolve the name {}: {reason}", given.host);
            Attempt { server: given.base.clone(), reason }
        };
        unresolved.map(attempt).collect()
    }
}

impl Known {
    /// Makes the endpoints of all addresses. Existing endpoints stay, with what was learned about them.
    fn rebuild(&mut self, given: &[Given]) {
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        for (name, given) in self.names.iter().zip(given) {
            for address in &name.addresses {
                let endpoint = given.at(*address);
                if endpoints.iter().any(|other| other.base == endpoint.base) {
                    continue;
                }
                let known = self.endpoints.iter().find(|known| known.base == endpoint.base);
                endpoints.push(known.cloned().unwrap_or_else(|| Arc::new(endpoint)));
            }
        }
        self.endpoints = endpoints;
    }
}

/// Order of the servers in one call.
pub(super) struct Round<'a> {
    servers: &'a Servers,
    asked: Vec<Arc<Endpoint>>,
    /// True after the single server has been asked a second time.
    repeated: bool,
}

/// The next server to ask.
pub(super) struct Next {
    pub(super) endpoint: Arc<Endpoint>,
    /// True if it must be asked on a new connection: an open one may be dead.
    pub(super) fresh: bool,
}

impl<'a> Round<'a> {
    pub(super) fn new(servers: &'a Servers) -> Self {
        servers.refresh();
        Self { servers, asked: Vec::new(), repeated: false }
    }

    fn unasked(&self) -> impl Iterator<Item = Arc<Endpoint>> {
        let is_new = |endpoint: &Arc<Endpoint>| !self.asked.iter().any(|asked| Arc::ptr_eq(asked, endpoint));
        self.servers.order().into_iter().filter(is_new)
    }

    /// True if there is only one address.
    pub(super) fn is_lone(&self) -> bool {
        self.servers.is_lone()
    }

    /// Number of servers that are still to be asked.
    pub(super) fn left(&self) -> usize {
        self.unasked().count() + usize::from(self.is_lone() && !self.repeated)
    }

    /// The next server. A single one comes twice: several servers may be behind its address, or its
    /// connection may be dead.
    pub(super) fn next(&mut self) -> Option<Next> {
        let unasked = self.unasked().next();
        if let Some(endpoint) = unasked {
            self.asked.push(Arc::clone(&endpoint));
            return Some(Next { endpoint, fresh: false });
        }
        let lone = self.asked.first().filter(|_| self.is_lone() && !self.repeated)?;
        self.repeated = true;
        Some(Next { endpoint: Arc::clone(lone), fresh: true })
    }
}
