//! Errors of calls to discovery servers.

use std::fmt;
use std::time::Duration;

use hyper::StatusCode;

/// Error of a call to discovery servers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// [`Client::new`](super::Client::new) got no server.
    #[error("no discovery server is given")]
    NoServer,
    /// [`Client::new`](super::Client::new) got something that is not the URL of a server.
    #[error("could not use discovery server {server:?}: {fault}")]
    BadServer {
        /// The given text.
        server: String,
        /// What is wrong with it.
        fault: UrlFault,
    },
    /// No server answered in time.
    #[error("no discovery server answered: {}", Attempt::list(servers))]
    Unreachable {
        /// Every server that was asked, with its last reason.
        servers: Vec<Attempt>,
    },
    /// A server refused the request (4xx).
    #[error("discovery server {server} refused with {status}: {message}")]
    Refused {
        /// URL of the server.
        server: String,
        /// Status of the answer.
        status: StatusCode,
        /// Reason in the answer.
        message: String,
    },
    /// At least one server answered, but none could serve (5xx): no leader, overload.
    #[error("discovery is unavailable ({status}): {}", Attempt::list(servers))]
    Unavailable {
        /// Status of the last server that answered.
        status: StatusCode,
        /// Time after which the server wants to be asked again.
        retry_after: Option<Duration>,
        /// True if the server says that the index has reached a limit.
        index_full: bool,
        /// Every server that was asked, with its reason.
        servers: Vec<Attempt>,
    },
    /// The answer is not of this API: another program listens there.
    #[error("could not read the answer of discovery server {server}: {reason}")]
    Malformed {
        /// URL of the server.
        server: String,
        /// Reason, for the message.
        reason: String,
    },
}

/// What is wrong with the URL of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// It cannot be parsed.
    #[error("is not a URL")]
    NotUrl,
    /// Servers do not speak TLS.
    #[error("https is not supported, use http://host:port")]
    Https,
    /// It does not start with `http://`.
    #[error("has no scheme, use http://host:port")]
    NoScheme,
    /// It has no host, or a query.
    #[error("is not of the form http://host:port")]
    OtherForm,
}

impl ClientError {
    /// Time after which the servers want to be asked again, if they said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// True if the index has no room for what a write would add: the write was not done, and the same write
    /// would fail again. A 507 for a full disk is not such a case.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Unavailable { index_full: true, .. })
    }
}

/// A failed attempt at one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Base URL of the server, with the address if the URL has a name.
    pub server: String,
    /// Reason of the failure.
    pub reason: String,
}

impl Attempt {
    /// All attempts in one line, for an error.
    pub(crate) fn list(attempts: &[Attempt]) -> String {
        attempts.iter().map(Attempt::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.reason)
    }
}
