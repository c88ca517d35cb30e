//! A snapshot as it comes, for the command line.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request};

use super::{Answer, Attempt, Client, ClientError, chain};
use crate::api::{header, path};
use crate::limits::API_ANSWER_BYTES_MAX;

/// A snapshot on its way.
#[derive(Debug)]
pub struct Download {
    server: String,
    about_bytes: Option<u64>,
    body: Incoming,
}

impl Download {
    /// The server that sends it.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// About how many bytes will come, by the server's guess.
    pub fn about_bytes(&self) -> Option<u64> {
        self.about_bytes
    }

    /// The next bytes; `None` at the end. That it is whole is for the snapshot itself to say.
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
    /// A snapshot of the first server that has one to give; each has `deadline` to begin.
    pub async fn snapshot(&self, deadline: Duration) -> Result<Download, ClientError> {
        let mut attempts = Vec::new();
        let mut unavailable = None;
        for server in &self.shared.servers {
            let reason = match tokio::time::timeout(deadline, self.begin_snapshot(server)).await {
                Ok(Ok(Ok(download))) => return Ok(download),
                Ok(Ok(Err(answer))) if !answer.status.is_server_error() => {
                    let message = answer.message();
                    return Err(ClientError::Refused {
                        server: answer.server,
                        status: answer.status,
                        message,
                    });
                }
                Ok(Ok(Err(answer))) => {
                    unavailable = Some((answer.status, answer.retry_after));
                    format!("{} {}", answer.status, answer.message())
                }
                Ok(Err(reason)) => reason,
                Err(_) => format!("no answer within {} ms", deadline.as_millis()),
            };
            attempts.push(Attempt { server: server.clone(), reason });
        }
        Err(match unavailable {
            Some((status, retry_after)) => {
                ClientError::Unavailable { status, retry_after, index_full: false, servers: attempts }
            }
            None => ClientError::Unreachable { servers: attempts },
        })
    }

    async fn begin_snapshot(&self, server: &str) -> Result<Result<Download, Answer>, String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{server}{}", path::SNAPSHOT))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from_static(b"{}")))
            .map_err(|error| error.to_string())?;
        let response = self.shared.http.request(request).await.map_err(|error| chain(&error))?;
        let number = |name: &str| response.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
        let server = server.to_owned();
        if response.status().is_success() {
            let about_bytes = number(header::ABOUT_BYTES);
            return Ok(Ok(Download { server, about_bytes, body: response.into_body() }));
        }
        let retry_after = number(RETRY_AFTER.as_str()).map(Duration::from_secs);
        let status = response.status();
        let body = Limited::new(response.into_body(), API_ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("could not read the answer: {error}"))?.to_bytes();
        Ok(Err(Answer { server, status, retry_after, index_full: false, body }))
    }
}
