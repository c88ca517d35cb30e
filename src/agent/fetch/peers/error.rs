//! Why a peer did not deliver, and how that is counted.

use std::io;

use axum::http::StatusCode;

/// Why a peer did not deliver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("could not connect: {0}")]
    Connect(io::Error),
    #[error("no connection in time")]
    ConnectTimeout,
    #[error("no headers in time")]
    HeaderTimeout,
    #[error("could not exchange headers: {0}")]
    Exchange(hyper::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("its answer has another length or range than was asked for")]
    Length,
    #[error("its content has {total} bytes, which is not what was expected")]
    OtherLength { total: u64 },
    #[error("the range is outside of its {total} bytes")]
    Unsatisfiable { total: u64 },
    #[error("its bytes do not have the digest")]
    WrongBytes,
    #[error("it is not a manifest")]
    NotManifest,
    #[error("broke off: {0}")]
    Broken(hyper::Error),
    #[error("broke off at its end")]
    Short,
    #[error("stalled")]
    Stalled,
    #[error("too slow")]
    Slow,
    #[error("slower by far than this node's registry")]
    SlowerThanRegistry,
    #[error("could not spool: {0}")]
    Spool(io::Error),
}

impl PeerError {
    /// Label of the metric of attempts.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            PeerError::Connect(_) | PeerError::ConnectTimeout => "unreachable",
            PeerError::HeaderTimeout => "silent",
            PeerError::Exchange(_) | PeerError::Broken(_) | PeerError::Short => "broken",
            PeerError::Status(StatusCode::NOT_FOUND) => "stale",
            PeerError::Status(StatusCode::SERVICE_UNAVAILABLE) => "busy",
            PeerError::Unsatisfiable { .. } => "unsatisfiable",
            PeerError::Status(_) => "refused",
            PeerError::Length | PeerError::WrongBytes | PeerError::NotManifest => "wrong",
            PeerError::OtherLength { .. } => "other_length",
            PeerError::SlowerThanRegistry => "slower",
            PeerError::Stalled | PeerError::Slow => "stalled",
            PeerError::Spool(_) => "spool",
        }
    }

    /// Whether the peer sent something that is not what was asked for.
    pub(crate) fn is_wrong(&self) -> bool {
        matches!(self, PeerError::Length | PeerError::WrongBytes | PeerError::NotManifest)
    }

    /// Whether the peer did not answer at all.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, PeerError::Connect(_) | PeerError::ConnectTimeout | PeerError::HeaderTimeout)
    }

    /// Whether the peer's bytes stopped coming, or come too slowly.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_slow() || matches!(self, PeerError::Broken(_) | PeerError::Short | PeerError::Stalled)
    }

    /// Whether the peer's bytes come, but too slowly.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self, PeerError::Slow | PeerError::SlowerThanRegistry)
    }

    /// Whether all upload slots of the peer are taken.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, PeerError::Status(StatusCode::SERVICE_UNAVAILABLE))
    }

    /// Whether the peer may do better soon: its connection ended, or it answered that it is busy.
    pub(crate) fn is_worth_a_second_try(&self) -> bool {
        let ended = matches!(self, PeerError::Broken(_) | PeerError::Short | PeerError::Exchange(_));
        ended || self.is_busy()
    }
}

/// Counts one request to a peer by its result.
pub(crate) fn count_attempt(result: &'static str) {
    ::metrics::counter!("piccolo_peer_attempts_total", "result" => result).increment(1);
}
