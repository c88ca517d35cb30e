//! Client of the discovery API, for agents and the command line.
//!
//! It knows several servers and remembers the one that answered last. What a server cannot answer
//! (transport error, 5xx) is asked of the next one; a 4xx is an answer. The deadline of a call is
//! shared out over the servers not yet asked, so that a frozen one cannot use it up.
//!
//! Plain HTTP on hyper's pooled client: these connections never go through a proxy, whatever the
//! environment says, and carry no TLS.

mod members;
mod snapshot;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    Capabilities, FindQuery, FindResponse, HostsResponse, KeepaliveRequest, KeepaliveResponse, Message,
    ReportRequest, ReportResponse, StatusResponse, WriteRequest, WriteResponse, header, path,
};
pub use snapshot::Download;

use crate::limits::{API_ANSWER_BYTES_MAX, API_ATTEMPT_TIMEOUT_MIN, API_CONNECT_TIMEOUT, API_IDLE_TIMEOUT};

/// Plain HTTP with a connection pool; shared with the server, which forwards writes by it.
pub(crate) type HttpClient = HyperClient<HttpConnector, Full<Bytes>>;

/// Connects within [`API_CONNECT_TIMEOUT`], closes idle connections after [`API_IDLE_TIMEOUT`].
pub(crate) fn http_client() -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(API_CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    HyperClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(API_IDLE_TIMEOUT)
        .build(connector)
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// [`Client::new`] without any server.
    #[error("no discovery server is given")]
    NoServer,
    /// [`Client::new`] with something that is not the URL of a server.
    #[error("could not use discovery server {server:?}: {reason}")]
    BadServer {
        /// What was given.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No server answered in time.
    #[error("no discovery server answered: {}", Attempt::list(servers))]
    Unreachable {
        /// Every server that was asked, with its reason.
        servers: Vec<Attempt>,
    },
    /// A server understood and said no (4xx).
    #[error("discovery server {server} refused with {status}: {message}")]
    Refused {
        /// Who.
        server: String,
        /// Its status.
        status: StatusCode,
        /// Its reason.
        message: String,
    },
    /// At least one server answered, but none could serve (5xx): no leader, overload.
    #[error("discovery is unavailable ({status}): {}", Attempt::list(servers))]
    Unavailable {
        /// Status of the last server that answered.
        status: StatusCode,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
        /// It says that the index has reached a limit.
        index_full: bool,
        /// Every server that was asked, with its reason.
        servers: Vec<Attempt>,
    },
    /// An answer that is not of this API: something else listens there.
    #[error("could not read the answer of discovery server {server}: {reason}")]
    Malformed {
        /// Who.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// When the servers want to be asked again, if they said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the index may not hold what a write would add: it was not done, and is not worth sending
    /// again as it is. Disks without room are no such thing, although that is a 507, too.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Unavailable { index_full: true, .. })
    }
}

/// One server that was asked in vain.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its base URL.
    pub server: String,
    /// Why it did not help.
    pub reason: String,
}

impl Attempt {
    fn list(attempts: &[Attempt]) -> String {
        attempts.iter().map(Attempt::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.reason)
    }
}

/// The discovery API of one cluster. Cheap to clone; clones share connections and what they learn.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Vec<String>,
    /// Index of the server that answered last.
    good: AtomicUsize,
    http: HttpClient,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.shared.servers).finish()
    }
}

/// What one server answered.
struct Answer {
    server: String,
    status: StatusCode,
    retry_after: Option<Duration>,
    index_full: bool,
    body: Bytes,
}

impl Client {
    /// A client of these servers, each a base URL (`http://host:port`, a path in front of the API's
    /// is kept). The first is asked first.
    pub fn new(servers: Vec<String>) -> Result<Self, ClientError> {
        if servers.is_empty() {
            return Err(ClientError::NoServer);
        }
        let servers = servers.into_iter().map(base_url).collect::<Result<Vec<_>, _>>()?;
        let shared = Shared { servers, good: AtomicUsize::new(0), http: http_client() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The base URLs, as given but without a final slash.
    pub fn servers(&self) -> &[String] {
        &self.shared.servers
    }

    /// Who holds a key; `None` if nobody that the asker may see.
    pub async fn find(
        &self,
        query: &FindQuery,
        deadline: Duration,
    ) -> Result<Option<FindResponse>, ClientError> {
        let target = format!("{}?{}", path::FINDKEY, find_query(query));
        let answer = self.call(Method::GET, &target, Bytes::new(), deadline).await?;
        match answer.status {
            StatusCode::NOT_FOUND => not_found(&answer).map(|()| None),
            _ => answer.read().map(Some),
        }
    }

    /// Asks the server at this place of the list first (counted round), until one answers: a fleet whose
    /// agents all have the same list must not ask the same server.
    pub fn begin_at(&self, place: usize) {
        self.shared.good.store(place % self.shared.servers.len(), Ordering::Relaxed);
    }

    /// The holder has these keys. A stale pair is an `Ok` with `stale`.
    pub async fn advertise(
        &self,
        request: &WriteRequest,
        deadline: Duration,
    ) -> Result<WriteResponse, ClientError> {
        self.write(path::ADVERTISE, request, deadline).await
    }

    /// The holder has these keys no longer. A stale pair is an `Ok` with `stale`.
    pub async fn withdraw(
        &self,
        request: &WriteRequest,
        deadline: Duration,
    ) -> Result<WriteResponse, ClientError> {
        self.write(path::WITHDRAW, request, deadline).await
    }

    /// The holder has exactly these keys. A stale pair is an `Ok` with `stale`.
    pub async fn sync(
        &self,
        request: &WriteRequest,
        deadline: Duration,
    ) -> Result<WriteResponse, ClientError> {
        self.write(path::SYNC, request, deadline).await
    }

    /// The holder is alive.
    pub async fn keepalive(
        &self,
        request: &KeepaliveRequest,
        deadline: Duration,
    ) -> Result<KeepaliveResponse, ClientError> {
        self.call(Method::POST, path::KEEPALIVE, json(request), deadline).await?.read()
    }

    /// What this node lived through with a holder. A server that does not know the holder, or
    /// reports at all (the Go Piccolo), refuses.
    pub async fn report(
        &self,
        request: &ReportRequest,
        deadline: Duration,
    ) -> Result<ReportResponse, ClientError> {
        self.call(Method::POST, path::REPORT, json(request), deadline).await?.read()
    }

    /// The cluster as the answering server sees it.
    pub async fn status(&self, deadline: Duration) -> Result<StatusResponse, ClientError> {
        self.call(Method::GET, path::STATUS, Bytes::new(), deadline).await?.read()
    }

    /// All holders, or those of one group.
    pub async fn hosts(&self, group: Option<&str>, deadline: Duration) -> Result<HostsResponse, ClientError> {
        let target = match group {
            Some(group) => format!("{}?group={}", path::HOSTS, percent_encoded(group)),
            None => path::HOSTS.to_owned(),
        };
        self.call(Method::GET, &target, Bytes::new(), deadline).await?.read()
    }

    /// What the answering server offers beyond the Go Piccolo's API.
    pub async fn capabilities(&self, deadline: Duration) -> Result<Capabilities, ClientError> {
        self.call(Method::GET, path::CAPABILITIES, Bytes::new(), deadline).await?.read()
    }

    async fn write(
        &self,
        path: &str,
        request: &WriteRequest,
        deadline: Duration,
    ) -> Result<WriteResponse, ClientError> {
        let answer = self.call(Method::POST, path, json(request), deadline).await?;
        match answer.status {
            StatusCode::CONFLICT => answer.parse(),
            _ => answer.read(),
        }
    }

    /// Asks one server after the other until one answers other than 5xx.
    async fn call(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Answer, ClientError> {
        let end = Instant::now() + deadline;
        let count = self.shared.servers.len();
        let first = self.shared.good.load(Ordering::Relaxed);
        let mut attempts = Vec::new();
        let mut unavailable = None;
        for asked in 0..count {
            let position = (first + asked) % count;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let share = (left / (count - asked) as u32).max(API_ATTEMPT_TIMEOUT_MIN.min(left));
            let server = &self.shared.servers[position];
            let attempt = self.ask(server, method.clone(), target, body.clone());
            let reason = match tokio::time::timeout(share, attempt).await {
                Ok(Ok(answer)) if !answer.status.is_server_error() => {
                    self.shared.good.store(position, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Ok(answer)) => {
                    unavailable = Some((answer.status, answer.retry_after, answer.index_full));
                    format!("{} {}", answer.status, answer.message())
                }
                Ok(Err(reason)) => reason,
                Err(_) => format!("no answer within {} ms", share.as_millis()),
            };
            attempts.push(Attempt { server: server.clone(), reason });
        }
        Err(match unavailable {
            Some((status, retry_after, index_full)) => {
                ClientError::Unavailable { status, retry_after, index_full, servers: attempts }
            }
            None => ClientError::Unreachable { servers: attempts },
        })
    }

    async fn ask(&self, server: &str, method: Method, target: &str, body: Bytes) -> Result<Answer, String> {
        let mut request = Request::builder()
            .method(&method)
            .uri(format!("{server}{target}"))
            .header(ACCEPT, HeaderValue::from_static("application/json"));
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let response = self.shared.http.request(request).await.map_err(|error| chain(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, API_ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("could not read the answer: {error}"))?.to_bytes();
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let index_full = head.headers.get(header::FULL).is_some_and(|value| value == header::FULL_INDEX);
        Ok(Answer {
            server: server.to_owned(),
            status: head.status,
            retry_after: retry_after.map(Duration::from_secs),
            index_full,
            body,
        })
    }
}

impl Answer {
    /// The text of an error answer, whichever field it is in.
    fn message(&self) -> String {
        match serde_json::from_slice::<Message>(&self.body) {
            Ok(message) if !message.message.is_empty() => message.message,
            Ok(message) => message.error,
            Err(_) => String::from_utf8_lossy(&self.body).chars().take(200).collect(),
        }
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Malformed {
            server: self.server.clone(),
            reason: error.to_string(),
        })
    }

    /// The body of a 2xx; anything else is the server's no.
    fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        if self.status.is_success() {
            return self.parse();
        }
        Err(ClientError::Refused {
            server: self.server.clone(),
            status: self.status,
            message: self.message(),
        })
    }
}

/// A 404 of findkey says so in JSON; any other 404 means that something else listens there.
fn not_found(answer: &Answer) -> Result<(), ClientError> {
    answer.parse::<Message>().map(|_| ())
}

fn base_url(server: String) -> Result<String, ClientError> {
    let bad = |reason: &str| ClientError::BadServer { server: server.clone(), reason: reason.to_owned() };
    let trimmed = server.trim().trim_end_matches('/');
    let uri: Uri = trimmed.parse().map_err(|_| bad("is not a URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(bad("https is not supported, use http://host:port")),
        _ => return Err(bad("has no scheme, use http://host:port")),
    }
    if uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
        return Err(bad("is not of the form http://host:port"));
    }
    Ok(trimmed.to_owned())
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("wire types are plain data with string keys").into()
}

fn find_query(query: &FindQuery) -> String {
    let mut text = format!("key={}&group={}", percent_encoded(&query.key), percent_encoded(&query.group));
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("&{name}={}", percent_encoded(&value)));
        }
    };
    add("count", query.count.map(|count| count.to_string()));
    add("request_host", query.request_host.clone());
    add("min_index", query.min_index.map(|index| index.to_string()));
    add("rank", query.rank.clone());
    text
}

/// RFC 3986: everything but unreserved characters as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// An error with its causes: hyper's own text says only that it could not connect.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
