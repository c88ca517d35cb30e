//! Why lookups should go to another server.

use std::fmt;

use piccolo_raft::cluster::Behind;

/// Which server answers lookups while this one may lack something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CurrentServer {
    /// No server has been asked since the start.
    #[default]
    Unknown,
    /// No other server has everything, as far as this one can see.
    Nobody,
    /// The server with this API address has everything.
    At(String),
}

/// This server may lack something, and another server may have it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unready {
    /// Why this server may lack something.
    pub behind: Behind,
    /// The server that has everything.
    pub current: CurrentServer,
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { behind, current } = self;
        match current {
            CurrentServer::Unknown => write!(f, "{behind}; asks the other servers whether they answer"),
            CurrentServer::Nobody => write!(f, "{behind}"),
            CurrentServer::At(api) => write!(f, "{behind}; {api} answers lookups"),
        }
    }
}
