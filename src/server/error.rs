//! Errors of the API, and the one place where they become HTTP.

mod format;
mod full;
mod unready;

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use piccolo_raft::cluster::{Behind, MembersError, ProposeError, Refusal};
use piccolo_raft::format::Level;
use piccolo_raft::index::IndexError;
use piccolo_raft::model::Pair;
use rand::Rng;

use super::headers;
use crate::api::{Message, WriteResponse, header};
use crate::limits::{
    FULL_RETRY_AFTER_SECONDS, MIN_INDEX_WAIT_MAX, NO_ROOM_RETRY_AFTER_SECONDS, OVERLOAD_RETRY_AFTER_SECONDS,
    SYNC_EVERY, UNSERVED_RETRY_AFTER_SECONDS,
};

pub use format::FormatError;
pub use full::Full;
pub use unready::{CurrentServer, Unready};

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request does not have the form that it must have.
    #[error("Wrong request format: {0}")]
    Format(#[from] FormatError),
    /// An advertise or withdraw without keys.
    #[error("No operation needed")]
    NothingToDo,
    /// The body is too long.
    #[error("request body is over the limit of {bytes_max} bytes")]
    BodyTooLarge {
        /// The limit of its endpoint.
        bytes_max: usize,
    },
    /// The body did not arrive in time.
    #[error("request body did not arrive within {} s", timeout.as_secs())]
    BodyTooSlow {
        /// The time that its endpoint gives.
        timeout: Duration,
    },
    /// The body ended before its last byte.
    #[error("could not read the request body: {0}")]
    BodyBroken(#[source] axum::Error),
    /// No visible holder of the asker's group has the key. The text is the Go Piccolo's.
    #[error("Didn't find the key {key} in piccolo")]
    KeyNotFound {
        /// The key that was asked for.
        key: String,
        /// Whether this server may lack what the others have: they may know a holder.
        behind: bool,
    },
    /// There is no such route.
    #[error("404 page not found")]
    UnknownRoute,
    /// The pair of the write is lower than the stored one.
    #[error("stale: epoch {} seq {} is stored", stored.epoch, stored.seq)]
    Stale {
        /// The pair that is stored.
        stored: Pair,
    },
    /// A write is meant for another cluster. Nothing was done.
    #[error("this server belongs to cluster {own}, and the request is for cluster {asked}")]
    OtherCluster {
        /// Id of this server's cluster.
        own: String,
        /// Id that the client names.
        asked: String,
    },
    /// A forwarded request reached a server that does not lead. Nothing was done.
    #[error("this server is not the leader")]
    NotLeader {
        /// API address of the leader; empty if unknown.
        leader: String,
    },
    /// No leader with a quorum was known in time. Nothing was done.
    #[error("there is no leader with a quorum")]
    NoLeader,
    /// Too many requests wait already. Nothing was done.
    #[error("overloaded, try again later")]
    Overloaded,
    /// Too many requests of this holder wait already. Nothing was done.
    #[error("too many requests of this holder wait, try again later")]
    HolderBusy,
    /// This holder syncs too often. Nothing was done.
    #[error("this holder syncs too often, one each {} s is enough", SYNC_EVERY.as_secs())]
    TooManySyncs {
        /// Time until the next sync is taken.
        again_after: Duration,
    },
    /// A limit of the index is reached. Nothing was done.
    #[error("could not add to the index: {0}")]
    Full(#[from] Full),
    /// This server has just been started: even if it led before, it does not lead now. Nothing was done.
    #[error("the index is loading")]
    Loading,
    /// The disks of too many servers are low. Nothing was done.
    #[error("could not write: {reason}; free space there")]
    NoRoom {
        /// Which disks, and how low they are.
        reason: String,
    },
    /// This server waits to be admitted to its cluster. Nothing was done.
    #[error("this server is not a member of its cluster yet")]
    NotMember,
    /// This server may lack what the request is about, and another server has it. Nothing was done.
    #[error(transparent)]
    Behind(Behind),
    /// Another server has everything, and should be asked. Nothing was done.
    #[error(transparent)]
    Unready(Unready),
    /// Raft has stopped, because the process stops or its storage failed. Nothing was done.
    #[error("{reason}")]
    Stopped {
        /// What raft says.
        reason: String,
    },
    /// The servers have not agreed yet to write such commands. Nothing was done.
    #[error("the {what} needs {needs}, the cluster runs at {active}")]
    BeyondLevel {
        /// What needs it: a command before it was proposed, or a write after that.
        what: &'static str,
        /// The lowest level at which it may be written.
        needs: Level,
        /// The level of the cluster.
        active: Level,
    },
    /// Raft could not change the membership. Nothing was changed.
    #[error(transparent)]
    Membership(MembersError),
    /// The write was proposed or forwarded, but no answer came in time. A retry with the same pair is safe.
    #[error("outcome unknown: the write may or may not have happened")]
    OutcomeUnknown,
    /// `min_index` was not applied in time.
    #[error("log index {wanted} was not applied within {} s, at {applied}", MIN_INDEX_WAIT_MAX.as_secs())]
    MinIndexTimeout {
        /// The log index that was asked for.
        wanted: u64,
        /// The log index that this server has applied.
        applied: u64,
    },
    /// The index could not be read.
    #[error("could not read the index: {0}")]
    Index(#[from] IndexError),
    /// An operator's call from another host.
    #[error(
        "members are changed from the leader's own host only, and snapshots taken from the server's own, as long \
         as they run without --insecure"
    )]
    NotOperator,
    /// An operator's call that has come through a proxy or from a web page.
    #[error(
        "members are changed and snapshots taken from this host only, and not through a proxy or a web page: \
         header {name} is there, and the server runs without --insecure"
    )]
    PassedOn {
        /// The header that gives it away.
        name: &'static str,
    },
    /// A call that only the other servers may make.
    #[error("only the other servers of the cluster may ask this")]
    NotServer,
    /// An operator's call that is not JSON, as any web page could send it.
    #[error("header Content-Type must be application/json")]
    NotJson,
    /// A change of the membership that must not be made. Nothing was changed.
    #[error(transparent)]
    Refused(Refusal),
    /// A defect of this program.
    #[error("internal error: {reason}")]
    Internal {
        /// What must not happen.
        reason: &'static str,
    },
}

impl From<MembersError> for ApiError {
    fn from(error: MembersError) -> Self {
        match error {
            MembersError::Refused(refusal) => ApiError::Refused(refusal),
            MembersError::Propose(error) => error.into(),
            MembersError::Raft { .. } => ApiError::Membership(error),
        }
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => {
                ApiError::NotLeader { leader: leader.map(|member| member.api_address).unwrap_or_default() }
            }
            ProposeError::Overloaded => ApiError::Overloaded,
            ProposeError::NoRoom(reason) => ApiError::NoRoom { reason: reason.to_string() },
            ProposeError::OutcomeUnknown => ApiError::OutcomeUnknown,
            ProposeError::Stopped { fatal } => ApiError::Stopped { reason: fatal.to_string() },
            ProposeError::Stopping => ApiError::Stopped { reason: "this node is stopping".to_owned() },
            ProposeError::BeyondLevel { needs, active } => {
                ApiError::BeyondLevel { what: "command", needs, active }
            }
            ProposeError::TooLarge { .. } => ApiError::Internal { reason: "a log entry is too large" },
        }
    }
}

impl ApiError {
    /// The HTTP status of an answer with this error.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::Format(_) | ApiError::NothingToDo | ApiError::BodyBroken(_) => StatusCode::BAD_REQUEST,
            ApiError::KeyNotFound { .. } | ApiError::UnknownRoute => StatusCode::NOT_FOUND,
            ApiError::BodyTooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            ApiError::NotOperator | ApiError::NotServer | ApiError::PassedOn { .. } => StatusCode::FORBIDDEN,
            ApiError::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ApiError::Stale { .. } | ApiError::Refused(_) => StatusCode::CONFLICT,
            ApiError::OtherCluster { .. } => StatusCode::MISDIRECTED_REQUEST,
            ApiError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::Index(_) | ApiError::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            ApiError::NotLeader { .. }
            | ApiError::NoLeader
            | ApiError::Overloaded
            | ApiError::HolderBusy
            | ApiError::TooManySyncs { .. }
            | ApiError::Loading
            | ApiError::NotMember
            | ApiError::Behind(_)
            | ApiError::Unready(_)
            | ApiError::Stopped { .. }
            | ApiError::BeyondLevel { .. }
            | ApiError::Membership(_) => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Full(_) | ApiError::NoRoom { .. } => StatusCode::INSUFFICIENT_STORAGE,
            ApiError::OutcomeUnknown | ApiError::MinIndexTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The range of `Retry-After`: clients that are refused together must not come back together.
    fn retry_after_seconds(&self) -> Option<RangeInclusive<u64>> {
        match self {
            ApiError::Overloaded | ApiError::HolderBusy => Some(OVERLOAD_RETRY_AFTER_SECONDS),
            ApiError::TooManySyncs { again_after } => {
                let soonest = again_after.as_secs() + 1;
                Some(soonest..=soonest + SYNC_EVERY.as_secs())
            }
            ApiError::NotLeader { .. }
            | ApiError::NoLeader
            | ApiError::Loading
            | ApiError::NotMember
            | ApiError::Behind(_)
            | ApiError::Unready(_)
            | ApiError::Stopped { .. }
            | ApiError::BeyondLevel { .. }
            | ApiError::Membership(_) => Some(UNSERVED_RETRY_AFTER_SECONDS),
            ApiError::Full(_) => Some(FULL_RETRY_AFTER_SECONDS),
            ApiError::NoRoom { .. } => Some(NO_ROOM_RETRY_AFTER_SECONDS),
            _ => None,
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        if let Some(seconds) = self.retry_after_seconds() {
            map.insert(RETRY_AFTER, HeaderValue::from(rand::rng().random_range(seconds)));
        }
        if matches!(self, ApiError::KeyNotFound { behind: true, .. }) {
            map.extend([headers::behind()]);
        }
        if matches!(self, ApiError::Full(_)) {
            let full = HeaderName::from_static(header::FULL);
            map.insert(full, HeaderValue::from_static(header::FULL_INDEX));
        }
        let leader = match self {
            ApiError::NotLeader { leader } => HeaderValue::from_str(leader).ok(),
            ApiError::Loading => None,
            _ => return map,
        };
        let leader = leader.unwrap_or(HeaderValue::from_static(""));
        map.insert(HeaderName::from_static(header::LEADER), leader);
        map
    }

    fn log(&self) {
        if self.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %self, "request failed");
        }
    }
}

/// Answers in the shape of the write endpoints: `{"success":false,"message":…}`.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let text = self.to_string();
        let (status, headers) = (self.status(), self.headers());
        match self {
            ApiError::Stale { stored } => {
                let body = WriteResponse {
                    success: false,
                    message: String::new(),
                    stale: true,
                    epoch: Some(stored.epoch),
                    seq: Some(stored.seq),
                    skipped: 0,
                };
                (status, headers, Json(body)).into_response()
            }
            ApiError::UnknownRoute => {
                let body = Message { success: None, message: text, error: String::new() };
                (status, headers, Json(body)).into_response()
            }
            _ => {
                let body = Message { success: Some(false), message: text, error: String::new() };
                (status, headers, Json(body)).into_response()
            }
        }
    }
}

/// An [`ApiError`] in the shape of findkey: the Go Piccolo puts the text into `error`, except of a 404.
#[derive(Debug)]
pub struct QueryError(pub ApiError);

impl<E: Into<ApiError>> From<E> for QueryError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        error.log();
        let text = error.to_string();
        let body = match &error {
            ApiError::KeyNotFound { .. } => Message { success: None, message: text, error: String::new() },
            ApiError::Index(_) | ApiError::Internal { .. } => Message {
                success: None,
                message: String::new(),
                error: format!("Error when finding holders: {text}"),
            },
            _ => Message { success: None, message: String::new(), error: text },
        };
        (error.status(), error.headers(), Json(body)).into_response()
    }
}
