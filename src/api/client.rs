//! Client of the discovery API, for agents and the command line.
//!
//! It knows several servers (`servers`) and remembers the one that answered last. After a transport error or
//! a 5xx it asks the next server, and also if the answer may be incomplete; a 4xx is an answer. The deadline
//! of a call is divided among the servers not yet asked, so that a frozen one cannot use it up.
//!
//! Plain HTTP on hyper's pooled client: these connections never use a proxy, whatever the environment says,
//! and have no TLS.

mod answer;
mod ask;
mod clusters;
mod connection;
mod endpoint;
mod error;
mod failures;
mod hosts;
mod lookup;
mod members;
mod servers;
mod snapshot;
mod text;
mod trip;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::watch;

use super::flight::{FlightList, FlightsRequest, FlightsResponse};
use super::{
    Capabilities, FindQuery, FindResponse, KeepaliveRequest, KeepaliveResponse, ReportRequest,
    ReportResponse, StatusResponse, WriteRequest, WriteResponse, path,
};
use ask::Question;
use clusters::Belonging;
pub use clusters::Sighting;
use connection::{TimedClient, timed_client};
pub use error::{Attempt, ClientError, UrlFault};
use servers::{Resolver, Servers, system_resolver};
pub use snapshot::Download;
use text::{find_query, json};
pub(crate) use trip::Timeouts;

use crate::limits::{API_CONNECT_TIMEOUT, API_IDLE_TIMEOUT, LOOKUP_CONNECTION_KEPT};

/// Plain HTTP client with a connection pool. Servers forward writes with it, too.
pub(crate) type HttpClient = HyperClient<HttpConnector, Full<Bytes>>;

/// Connects within [`API_CONNECT_TIMEOUT`], closes idle connections after [`API_IDLE_TIMEOUT`].
pub(crate) fn http_client() -> HttpClient {
    HyperClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(API_IDLE_TIMEOUT)
        .build(connector())
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(API_CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    connector
}

/// Client of the discovery API of one cluster. Clones are cheap and share connections and what they learn.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Transport>,
}

struct Transport {
    servers: Servers,
    http: TimedClient,
    /// Pool for lookups at far servers: one connection for each, closed only long after the last lookup.
    kept: TimedClient,
    /// Client that opens a new connection for each request.
    fresh: TimedClient,
    /// Time of the last answered lookup.
    looked_up: watch::Sender<Option<Instant>>,
    belonging: Belonging,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.servers()).finish()
    }
}

impl Client {
    /// A client of these servers, each a base URL (`http://host:port`; a path before the API's is kept). The
    /// first one is asked first. If a name has several addresses, each is a server of its own.
    pub fn new(servers: Vec<String>) -> Result<Self, ClientError> {
        Self::resolving_by(servers, system_resolver())
    }

    fn resolving_by(servers: Vec<String>, resolver: Resolver) -> Result<Self, ClientError> {
        let shared = Transport {
            servers: Servers::new(servers, resolver)?,
            http: timed_client(API_IDLE_TIMEOUT, usize::MAX),
            kept: timed_client(LOOKUP_CONNECTION_KEPT, 1),
            fresh: timed_client(API_IDLE_TIMEOUT, 0),
            looked_up: watch::Sender::new(None),
            belonging: Belonging::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The base URLs as given, without a final slash.
    pub fn servers(&self) -> &[String] {
        self.shared.servers.urls()
    }

    /// The holders of a key; `None` if the index has none that the asker may see.
    pub async fn find(
        &self,
        query: &FindQuery,
        deadline: Duration,
    ) -> Result<Option<FindResponse>, ClientError> {
        Ok(self.find_with_doubt(query, deadline).await?.0)
    }

    /// The holders of a key, and whether each server that answered may be behind: `None` is not final then.
    pub async fn find_with_doubt(
        &self,
        query: &FindQuery,
        deadline: Duration,
    ) -> Result<(Option<FindResponse>, bool), ClientError> {
        let target = format!("{}?{}", path::FINDKEY, find_query(query));
        let answer = self.lookup(&target, deadline).await?;
        let doubt = answer.behind;
        match answer.status {
            StatusCode::NOT_FOUND => answer.not_found().map(|()| (None, doubt)),
            _ => Ok((Some(answer.read()?), doubt)),
        }
    }

    /// Makes the server at this position of the list (modulo its length) the first to be asked, until one
    /// answers. In a fleet whose agents have the same list, each must begin at another server.
    pub fn begin_at(&self, place: usize) {
        self.shared.servers.begin_at(place);
    }

    /// Adds keys to the holder. A stale pair is an `Ok` with `stale`.
    pub async fn advertise(
        &self,
        request: &WriteRequest,
        deadline: Duration,
    ) -> Result<WriteResponse, ClientError> {
        self.write(path::ADVERTISE, request, deadline).await
    }

    /// Removes keys of the holder. A stale pair is an `Ok` with `stale`.
    pub async fn withdraw(
        &self,
        request: &WriteRequest,
        deadline: Duration,
    ) -> Result<WriteResponse, ClientError> {
        self.write(path::WITHDRAW, request, deadline).await
    }

    /// Replaces all keys of the holder. A stale pair is an `Ok` with `stale`.
    pub async fn sync(
        &self,
        request: &WriteRequest,
        deadline: Duration,
    ) -> Result<WriteResponse, ClientError> {
        self.write(path::SYNC, request, deadline).await
    }

    /// Renews the holder's lease.
    pub async fn keepalive(
        &self,
        request: &KeepaliveRequest,
        deadline: Duration,
    ) -> Result<KeepaliveResponse, ClientError> {
        self.call(Question::post(path::KEEPALIVE, json(request)), deadline).await?.read()
    }

    /// Reports a failure of a holder. A server that does not know the holder refuses, and so does one that
    /// knows no reports (the Go Piccolo).
    pub async fn report(
        &self,
        request: &ReportRequest,
        deadline: Duration,
    ) -> Result<ReportResponse, ClientError> {
        self.call(Question::post(path::REPORT, json(request)), deadline).await?.read()
    }

    /// Says how far the node is in its flights. A server that knows no flights refuses.
    pub async fn flights(
        &self,
        request: &FlightsRequest,
        deadline: Duration,
    ) -> Result<FlightsResponse, ClientError> {
        self.call(Question::post(path::FLIGHTS_PROGRESS, json(request)), deadline).await?.read()
    }

    /// The flights of all servers. A server that knows no flights refuses.
    pub async fn list_flights(&self, deadline: Duration) -> Result<FlightList, ClientError> {
        self.call(Question::get(path::FLIGHTS), deadline).await?.read()
    }

    /// The cluster as the answering server sees it.
    pub async fn status(&self, deadline: Duration) -> Result<StatusResponse, ClientError> {
        self.call(Question::get(path::STATUS), deadline).await?.read()
    }

    /// The native features of the answering server.
    pub async fn capabilities(&self, deadline: Duration) -> Result<Capabilities, ClientError> {
        self.call(Question::get(path::CAPABILITIES), deadline).await?.read()
    }

    async fn write(
        &self,
        path: &str,
        request: &WriteRequest,
        deadline: Duration,
    ) -> Result<WriteResponse, ClientError> {
        let answer = self.call(Question::post(path, json(request)), deadline).await?;
        match answer.status {
            StatusCode::CONFLICT => answer.parse(),
            _ => answer.read(),
        }
    }
}

#[cfg(test)]
mod tests;
