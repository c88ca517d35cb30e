//! Answer of one server.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::http::response::Parts;
use serde::de::DeserializeOwned;

use super::ClientError;
use crate::api::{Message, header};

/// Default port of a server's API.
const API_PORT_DEFAULT: u16 = 7789;

/// Answer of one server.
pub(super) struct Answer {
    pub(super) server: String,
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) index_full: bool,
    /// True if the server may be behind the others; see [`header::BEHIND`].
    pub(super) behind: bool,
    /// Cluster id of the answering server.
    pub(super) cluster: Option<HeaderValue>,
    body: Bytes,
}

impl Answer {
    /// An answer whose body has been read to its end.
    pub(super) fn new(server: String, head: &Parts, body: Bytes) -> Self {
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let index_full = head.headers.get(header::FULL).is_some_and(|value| value == header::FULL_INDEX);
        Self {
            server,
            status: head.status,
            retry_after: retry_after.map(Duration::from_secs),
            index_full,
            behind: head.headers.contains_key(header::BEHIND),
            cluster: head.headers.get(header::CLUSTER).cloned(),
            body,
        }
    }

    /// True if the answer is not from a discovery API, but from a raft port, an agent or another program. The
    /// API itself sends these statuses with a JSON body.
    pub(super) fn is_of_something_else(&self) -> bool {
        match self.status {
            StatusCode::MISDIRECTED_REQUEST => true,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                serde_json::from_slice::<Message>(&self.body)
                    .map_or(true, |message| message.message.is_empty() && message.error.is_empty())
            }
            _ => false,
        }
    }

    /// Error text for such an answer.
    pub(super) fn of_something_else(&self) -> String {
        let said = self.message();
        let said = said.lines().next().unwrap_or_default().trim();
        if self.status == StatusCode::MISDIRECTED_REQUEST && !said.is_empty() {
            return format!("not the discovery API: {said}");
        }
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        format!(
            "not the discovery API: {}{said}. It may be the raft port of a server or a port of an agent; the \
             API has port {API_PORT_DEFAULT} by default",
            self.status
        )
    }

    /// Text of an error answer, whichever field has it.
    pub(super) fn message(&self) -> String {
        match serde_json::from_slice::<Message>(&self.body) {
            Ok(message) if !message.message.is_empty() => message.message,
            Ok(message) => message.error,
            Err(_) => String::from_utf8_lossy(&self.body).chars().take(200).collect(),
        }
    }

    /// Parses the body, whatever the status is.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Malformed {
            server: self.server.clone(),
            reason: error.to_string(),
        })
    }

    /// Parses the body of a 2xx; any other status is a refusal.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        if self.status.is_success() {
            return self.parse();
        }
        Err(ClientError::Refused {
            server: self.server.clone(),
            status: self.status,
            message: self.message(),
        })
    }

    /// `Ok` if this is a 404 of findkey, which has a JSON body.
    pub(super) fn not_found(&self) -> Result<(), ClientError> {
        self.parse::<Message>().map(|_| ())
    }
}
