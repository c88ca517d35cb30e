//! Download of a snapshot, for the command line.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use piccolo_raft::errors::chain;

use super::answer::Answer;
use super::endpoint::Endpoint;
use super::failures::Failures;
use super::servers::{Next, Round};
use super::{Client, ClientError};
use crate::api::{header, path};
use crate::limits::API_ANSWER_BYTES_MAX;

/// A snapshot that is being downloaded.
#[derive(Debug)]
pub struct Download {
    server: String,
    about_bytes: Option<u64>,
    body: Incoming,
}

impl Download {
    /// URL of the server that sends it.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Size that the server estimated, bytes.
    pub fn about_bytes(&self) -> Option<u64> {
        self.about_bytes
    }

    /// The next bytes; `None` at the end. Whether the snapshot is complete is checked by its own format.
    pub async fn next(&mut self, silent_max: Duration) -> Result<Option<Bytes>, ClientError> {
        let broken = |reason: String| ClientError::Malformed { server: self.server.clone(), reason };
        loop {
            let frame = tokio::time::timeout(silent_max, self.body.frame()).await;
            let frame = frame.map_err(|_| broken(format!("nothing for {} s", silent_max.as_secs())))?;
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(bytes) = frame.map_err(|error| broken(chain(&error)))?.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}

impl Client {
    /// Starts to download a snapshot from the first server that has one. `deadline` is for each server's
    /// headers.
    pub async fn snapshot(&self, deadline: Duration) -> Result<Download, ClientError> {
        let servers = &self.shared.servers;
        let mut resolved = servers.follow();
        let mut round = Round::new(servers);
        let mut failures = Failures::default();
        loop {
            let Some(Next { endpoint, .. }) = round.next().filter(|next| !next.fresh) else {
                if servers.is_waiting() && tokio::time::timeout(deadline, resolved.changed()).await.is_ok() {
                    continue;
                }
                return Err(self.nobody(failures, deadline));
            };
            let refused = match tokio::time::timeout(deadline, self.begin_snapshot(&endpoint)).await {
                Ok(Ok(Ok(download))) => return Ok(download),
                Ok(Ok(Err(answer))) => Ok(answer),
                Ok(Err(reason)) => Err(reason),
                Err(_) => {
                    failures.silent(&endpoint.label, deadline);
                    continue;
                }
            };
            if let Some(answer) = failures.unless_failed(&endpoint.label, refused) {
                let message = answer.message();
                return Err(ClientError::Refused { server: answer.server, status: answer.status, message });
            }
        }
    }

    async fn begin_snapshot(&self, endpoint: &Endpoint) -> Result<Result<Download, Answer>, String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{}", endpoint.base, path::SNAPSHOT))
            .header(HOST, endpoint.authority.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from_static(b"{}")))
            .map_err(|error| error.to_string())?;
        let response = self.shared.http.request(request).await.map_err(|error| chain(&error))?;
        let server = endpoint.label.clone();
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            let about_bytes = head.headers.get(header::ABOUT_BYTES);
            let about_bytes = about_bytes.and_then(|bytes| bytes.to_str().ok()?.parse().ok());
            return Ok(Ok(Download { server, about_bytes, body }));
        }
        let body = Limited::new(body, API_ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("could not read the answer: {error}"))?.to_bytes();
        Ok(Err(Answer::new(server, &head, body)))
    }
}
