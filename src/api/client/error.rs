//! Why a call has no result.

use std::fmt;
use std::time::Duration;

use hyper::StatusCode;

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// [`Client::new`](super::Client::new) without any server.
    #[error("no discovery server is given")]
    NoServer,
    /// [`Client::new`](super::Client::new) with something that is not the URL of a server.
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
        /// Every server that was asked, with its last reason.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its base URL, with the address behind it where a name was given.
    pub server: String,
    /// Why it did not help.
    pub reason: String,
}

impl Attempt {
    /// All of them in one line, for an error.
    pub(crate) fn list(attempts: &[Attempt]) -> String {
        attempts.iter().map(Attempt::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.reason)
    }
}
