//! Messages to the owners of keys, in batches: while one request to a server is on its way, the messages for it
//! gather, and go together with the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use piccolo_raft::errors::chain;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::wire::{FlightAnswer, FlightAnswers, FlightBatch, FlightMessage};
use crate::api::flight::{FlightList, FlightStatus};
use crate::api::{header, path};
use crate::limits::{
    FLIGHT_ANSWERS_BYTES_MAX, FLIGHT_BATCH_MAX, FLIGHT_MESSAGES_WAITING_MAX, FLIGHT_OWNER_TIMEOUT,
    FLIGHTS_LIST_TIMEOUT,
};
use crate::server::cluster::identity::ClusterIdentity;
use crate::server::cluster::server_client::ServerClient;
use crate::task::Stop;

/// Why an owner did not answer a message.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Too many messages wait for this server.
    #[error("{FLIGHT_MESSAGES_WAITING_MAX} messages wait already")]
    Full,
    /// No answer within [`FLIGHT_OWNER_TIMEOUT`].
    #[error("no answer in time")]
    Timeout,
    /// The request that the message was in has failed, which is in the log.
    #[error("the request has failed")]
    Failed,
}

/// Why one request failed.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("could not build the request")]
    Build(#[from] axum::http::Error),
    #[error("no connection")]
    Connection(#[from] hyper_util::client::legacy::Error),
    #[error("could not read the answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is not valid")]
    Json(#[from] serde_json::Error),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("{answers} answers to {messages} messages")]
    Count { answers: usize, messages: usize },
}

/// Sends messages to other servers; clones share the queues.
#[derive(Clone)]
pub struct Exchange {
    identity: ClusterIdentity,
    client: ServerClient,
    queues: Arc<Mutex<HashMap<String, Queue>>>,
    tasks: TaskTracker,
    stop: Stop,
}

/// The messages for one server.
#[derive(Default)]
struct Queue {
    waiting: Vec<(FlightMessage, oneshot::Sender<FlightAnswer>)>,
    /// Whether a task sends them.
    is_sent: bool,
}

impl Exchange {
    /// Sends over connections of `client` until `stop`.
    pub fn new(identity: ClusterIdentity, client: ServerClient, stop: Stop) -> Self {
        Self { identity, client, queues: Arc::default(), tasks: TaskTracker::new(), stop }
    }

    /// Sends `message` to the server with this API address.
    ///
    /// # Errors
    /// [`ExchangeError`]; the message may have come all the same.
    pub async fn send(&self, server: &str, message: FlightMessage) -> Result<FlightAnswer, ExchangeError> {
        let answer = self.queue(server, message).ok_or(ExchangeError::Full)?;
        let answer = tokio::time::timeout(FLIGHT_OWNER_TIMEOUT, answer).await;
        answer.map_err(|_| ExchangeError::Timeout)?.map_err(|_| ExchangeError::Failed)
    }

    /// Sends `message` to the server with this API address, whose answer nobody needs.
    pub fn tell(&self, server: &str, message: FlightMessage) {
        drop(self.queue(server, message));
    }

    /// The flights that `server` owns; `None` if it does not answer in time.
    pub async fn list(&self, server: &str) -> Option<Vec<FlightStatus>> {
        let list = async {
            let answer = self.call(server, Method::GET, path::FLIGHTS, Bytes::new()).await?;
            Ok::<FlightList, RequestError>(serde_json::from_slice(&answer)?)
        };
        match tokio::time::timeout(FLIGHTS_LIST_TIMEOUT, list).await {
            Ok(Ok(list)) => Some(list.flights),
            Ok(Err(error)) => {
                tracing::debug!(
                    server,
                    error = chain(&error),
                    "could not list the flights of another server"
                );
                None
            }
            Err(_) => None,
        }
    }

    /// Waits for what is on its way; that ends at the stop signal.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn queue(&self, server: &str, message: FlightMessage) -> Option<oneshot::Receiver<FlightAnswer>> {
        let (sender, answer) = oneshot::channel();
        let mut queues = self.lock();
        let queue = queues.entry(server.to_owned()).or_default();
        if queue.waiting.len() >= FLIGHT_MESSAGES_WAITING_MAX {
            return None;
        }
        queue.waiting.push((message, sender));
        if !std::mem::replace(&mut queue.is_sent, true) {
            let (this, server) = (self.clone(), server.to_owned());
            let stop = self.stop.clone();
            self.tasks.spawn(async move { stop.run_until_cancelled(this.drain(server)).await });
        }
        Some(answer)
    }

    /// Sends what waits for `server`, until nothing does.
    async fn drain(self, server: String) {
        while let Some(batch) = self.next_batch(&server) {
            let (messages, senders): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let request = self.request(&server, FlightBatch { messages });
            match tokio::time::timeout(FLIGHT_OWNER_TIMEOUT, request).await {
                Ok(Ok(answers)) => {
                    for (sender, answer) in senders.into_iter().zip(answers) {
                        // Who asked may have gone on to the next owner.
                        _ = sender.send(answer);
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(server, error = chain(&error), "could not ask the owner of keys");
                }
                Err(_) => tracing::debug!(server, "the owner of keys did not answer in time"),
            }
        }
    }

    /// The next messages for `server`; `None` ends the task that sends them.
    fn next_batch(&self, server: &str) -> Option<Vec<(FlightMessage, oneshot::Sender<FlightAnswer>)>> {
        let mut queues = self.lock();
        let queue = queues.get_mut(server)?;
        if queue.waiting.is_empty() {
            queues.remove(server);
            return None;
        }
        let count = queue.waiting.len().min(FLIGHT_BATCH_MAX);
        Some(queue.waiting.drain(..count).collect())
    }

    async fn request(&self, server: &str, batch: FlightBatch) -> Result<Vec<FlightAnswer>, RequestError> {
        let body = Bytes::from(serde_json::to_vec(&batch)?);
        let body = self.call(server, Method::POST, path::FLIGHTS_OWNED, body).await?;
        let FlightAnswers { answers } = serde_json::from_slice(&body)?;
        if answers.len() != batch.messages.len() {
            return Err(RequestError::Count { answers: answers.len(), messages: batch.messages.len() });
        }
        Ok(answers)
    }

    async fn call(
        &self,
        server: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, RequestError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{server}{path}"))
            .header(CONTENT_TYPE, "application/json")
            .header(header::FORWARDED, "1");
        let request = self.identity.mark_request(request).body(Full::new(body))?;
        let answer = self.client.request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), FLIGHT_ANSWERS_BYTES_MAX).collect().await;
        let body = body.map_err(RequestError::Body)?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(RequestError::Status(status)) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Queue>> {
        self.queues.lock().expect("no code panics while it holds this lock")
    }
}
