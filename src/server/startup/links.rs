//! The links between servers: with which certificates this one speaks to the raft ports of the others, and
//! whom it lets in at its own.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use piccolo_raft::network::{Caller, Connect, Connected, Http, Network};
use rustls::InvalidMessage;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::phases::Phases;
use crate::clock::SharedClock;
use crate::http::{Answer, Connection, Guard};
use crate::identity::credentials::unix_seconds;
use crate::identity::{ClusterSecret, Refusal, Role, SecretError, Tls, TlsMode, file};

/// What servers of one cluster prove themselves with; `None` where they need no proof.
pub struct Proof(Option<(ClusterSecret, TlsMode)>);

impl Proof {
    /// Reads the secret, unless TLS is off.
    ///
    /// # Errors
    /// If there is no file, or if it cannot be read, is open to others or holds no secret, or if its CA has expired.
    pub fn read(file: Option<&Path>, mode: TlsMode, clock: &SharedClock) -> Result<Self, SecretError> {
        let path = match (mode, file) {
            (TlsMode::Off, _) => return Ok(Self(None)),
            (TlsMode::Accept | TlsMode::Require, None) => return Err(SecretError::NoFile),
            (TlsMode::Accept | TlsMode::Require, Some(path)) => path,
        };
        let secret = file::read(path)?;
        let expired = |source| SecretError::Content { path: path.to_owned(), source };
        secret.check_valid(unix_seconds(clock)).map_err(expired)?;
        Ok(Self(Some((secret, mode))))
    }
}

/// The links of one server.
pub struct Links(Option<(Tls, TlsMode)>);

impl Links {
    /// The links of the server with this node id, which is in its certificates.
    ///
    /// # Errors
    /// If rustls cannot use the certificate of a CA.
    pub fn new(proof: Proof, node_id: u64, clock: &SharedClock) -> Result<Self, rustls::Error> {
        let Proof(Some((secret, mode))) = proof else { return Ok(Self(None)) };
        for authority in secret.authorities() {
            let facts = authority.facts();
            tracing::info!(ca = facts.name, fingerprint = facts.fingerprint, "trusts a CA");
        }
        let tls = Tls::new(secret, Role::Server { node_id }, Arc::clone(clock))?;
        Ok(Self(Some((tls, mode))))
    }

    /// Leads to the other servers.
    pub fn network(&self) -> Arc<dyn Network> {
        match &self.0 {
            None => Arc::new(Http::default()),
            Some((tls, mode)) => {
                let connector = TlsConnector::from(Arc::clone(&tls.client));
                Arc::new(Http::over(Arc::new(TlsConnect { connector, plain_too: *mode == TlsMode::Accept })))
            }
        }
    }

    /// Stands before the raft port.
    pub fn guard(&self) -> Option<Guard> {
        let (tls, mode) = self.0.as_ref()?;
        Some(Guard::new("raft", Arc::clone(&tls.server), *mode == TlsMode::Accept))
    }

    /// Starts the task that replaces certificates before they expire.
    pub fn start_tasks(self, Phases { tasks, end, .. }: &mut Phases) {
        if let Some((tls, _)) = self.0 {
            tasks.spawn("certificates", tls.credentials.keep_fresh(end.clone()));
        }
    }
}

/// The routes of raft, which are told whose certificate a request came with.
#[derive(Clone)]
pub struct RaftRoutes(pub Router);

impl Answer for RaftRoutes {
    fn answer(
        self,
        mut request: Request<Incoming>,
        connection: Connection,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        if let Some(Role::Server { node_id }) = connection.role {
            request.extensions_mut().insert(Caller(node_id));
        }
        self.0.answer(request, connection)
    }
}

/// Connects with TLS.
struct TlsConnect {
    connector: TlsConnector,
    /// Whether a server that speaks no TLS is spoken to in the clear.
    plain_too: bool,
}

impl fmt::Debug for TlsConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnect").field("plain_too", &self.plain_too).finish_non_exhaustive()
    }
}

impl Connect for TlsConnect {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Connected>> {
        let (connector, plain_too) = (self.connector.clone(), self.plain_too);
        Box::pin(async move {
            let name = ServerName::IpAddress(to.ip().into());
            match connector.connect(name, open(to).await?).await {
                Ok(stream) => Ok(Box::new(stream) as Connected),
                Err(error) if plain_too && speaks_no_tls(&error) => {
                    metrics::counter!("piccolo_tls_plain_total", "port" => "raft", "direction" => "to")
                        .increment(1);
                    Ok(Box::new(open(to).await?) as Connected)
                }
                Err(error) => Err(explained(error)),
            }
        })
    }
}

async fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether a server has answered a handshake with something else than TLS. One that is silent or has hung up
/// has not: it may be stopping, or out of connections.
fn speaks_no_tls(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)))
}

fn explained(error: io::Error) -> io::Error {
    let said = match (Refusal::of(&error), speaks_no_tls(&error)) {
        (_, true) => Refusal::Plain.to_string(),
        (Refusal::Handshake, _) => return error,
        (refusal, _) => refusal.to_string(),
    };
    io::Error::new(error.kind(), format!("{said} ({error})"))
}
