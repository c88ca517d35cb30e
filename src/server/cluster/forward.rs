//! Brings a write or heartbeat to the leader: this server decides itself if it leads, and forwards the
//! request once otherwise. While no leader is known the request waits, at most [`LEADER_WAIT_MAX`].
//!
//! Only so many requests are forwarded at once (`ForwardPermits`), heartbeats apart from writes; the others
//! wait here. So a server keeps its connections to the leader, and no forwarded request waits there to be
//! accepted among clients. A client that leaves does not end the exchange with the leader: that would close
//! the connection, and the next request would need a new one.
//!
//! A forwarded request that was not sent, or that met a server which does not lead, has changed nothing and
//! is repeated. One whose answer was lost is repeated only if a repetition does no harm: a write with a pair,
//! or a heartbeat. It is repeated as soon as another server leads, because a frozen leader never answers.
//! Otherwise the client is told that the outcome is unknown: a 503 would claim that nothing has changed. The
//! same holds for any error of a repetition, because the attempt whose answer was lost may still become a log
//! entry.

use std::any::Any;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use piccolo_raft::errors::chain;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::identity::{self, ClusterIdentity};
use super::leadership::Leadership;
use super::server_client::ServerClient;
use crate::api::{header, path};
use crate::limits::{
    API_BODY_BYTES_MAX, FORWARD_TIMEOUT, FORWARDED_HEARTBEATS_MAX, FORWARDED_WRITES_MAX,
    LEADER_LOOK_INTERVAL, LEADER_WAIT_MAX,
};
use crate::server::error::ApiError;

/// Brings requests to the leader; clones share its permits.
#[derive(Clone)]
pub struct Forwarder {
    leadership: Leadership,
    identity: ClusterIdentity,
    client: ServerClient,
    permits: ForwardPermits,
    /// Exchanges with the leader run here to their end.
    exchanges: TaskTracker,
}

/// Permits for requests on their way to the leader.
#[derive(Clone, Debug)]
struct ForwardPermits {
    writes: Arc<Semaphore>,
    heartbeats: Arc<Semaphore>,
}

impl Default for ForwardPermits {
    fn default() -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self { writes: permits(FORWARDED_WRITES_MAX), heartbeats: permits(FORWARDED_HEARTBEATS_MAX) }
    }
}

impl ForwardPermits {
    /// Waits for a permit as long as a write waits for a leader; `None` if none is free by then.
    async fn take(&self, path: &str) -> Option<OwnedSemaphorePermit> {
        let permits = if path == path::KEEPALIVE { &self.heartbeats } else { &self.writes };
        tokio::time::timeout(LEADER_WAIT_MAX, permits.clone().acquire_owned()).await.ok()?.ok()
    }
}

/// A request that only the leader can answer.
pub struct LeaderRequest {
    /// Path of its endpoint.
    pub path: &'static str,
    /// Its body, as it came.
    pub body: Bytes,
    /// Whether another server has forwarded it.
    pub forwarded: bool,
    /// Whether a repetition does no harm.
    pub repeatable: bool,
    /// The permits and the memory that the request takes up. Given back when the leader has answered, whether
    /// or not the client has waited for that.
    pub held: Arc<dyn Any + Send + Sync>,
}

/// Whether a request bears the mark that another server has forwarded it.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.get(header::FORWARDED).is_some_and(|value| value == "1")
}

/// How a forwarded request ended.
enum Forwarded {
    /// The leader has answered.
    Answer(Response),
    /// Nothing has changed: look for a leader again.
    NotDone,
    /// The answer was lost; the leader may have acted.
    Lost,
    /// The answer is still missing, and another server leads by now. Only of requests that may be repeated.
    Overtaken,
    /// Nothing has changed: too many requests are on their way.
    Crowded,
}

impl Forwarder {
    /// Forwards over connections of `client`, in tasks of `exchanges`.
    pub fn new(
        leadership: Leadership,
        identity: ClusterIdentity,
        client: ServerClient,
        exchanges: TaskTracker,
    ) -> Self {
        Self { leadership, identity, client, permits: ForwardPermits::default(), exchanges }
    }

    /// Answers `request` with `decide` if this server leads, otherwise with what the leader answers.
    ///
    /// # Errors
    /// What `decide` says; [`ApiError::NotLeader`] for a request that was forwarded here,
    /// [`ApiError::NoLeader`], [`ApiError::Overloaded`], and [`ApiError::OutcomeUnknown`] if an earlier
    /// attempt may have changed something.
    pub async fn to_leader<F>(
        &self,
        request: LeaderRequest,
        decide: impl Fn() -> F,
    ) -> Result<Response, ApiError>
    where
        F: Future<Output = Result<Response, ApiError>>,
    {
        if request.forwarded {
            return if self.leadership.is_ready() { decide().await } else { Err(self.not_leader()) };
        }
        let mut end = Instant::now() + LEADER_WAIT_MAX;
        let mut lost = false;
        loop {
            if self.leadership.is_ready() {
                match decide().await {
                    Err(ApiError::NotLeader { .. }) => {}
                    Err(error) if lost && error.status().is_server_error() => {
                        return Err(ApiError::OutcomeUnknown);
                    }
                    decided => return decided,
                }
            } else if let Some(leader) = self.leadership.other_leader() {
                match self.forward(&leader, &request).await {
                    Forwarded::Answer(answer) if lost && answer.status().is_server_error() => {
                        return Err(ApiError::OutcomeUnknown);
                    }
                    Forwarded::Answer(answer) => return Ok(answer),
                    Forwarded::NotDone => {}
                    Forwarded::Lost if request.repeatable => lost = true,
                    Forwarded::Overtaken => {
                        lost = true;
                        // The new leader is given its own time to begin.
                        end = Instant::now() + LEADER_WAIT_MAX;
                    }
                    Forwarded::Lost => return Err(ApiError::OutcomeUnknown),
                    Forwarded::Crowded if lost => return Err(ApiError::OutcomeUnknown),
                    Forwarded::Crowded => return Err(ApiError::Overloaded),
                }
            }
            if Instant::now() >= end {
                return Err(if lost { ApiError::OutcomeUnknown } else { ApiError::NoLeader });
            }
            tokio::time::sleep(LEADER_LOOK_INTERVAL).await;
        }
    }

    fn not_leader(&self) -> ApiError {
        ApiError::NotLeader { leader: self.leadership.other_leader().unwrap_or_default() }
    }

    /// Sends `request` to `leader`, in a task that ends with the answer even if the client leaves.
    async fn forward(&self, leader: &str, request: &LeaderRequest) -> Forwarded {
        let Some(permit) = self.permits.take(request.path).await else { return Forwarded::Crowded };
        if self.leadership.other_leader().as_deref() != Some(leader) {
            return Forwarded::NotDone;
        }
        let outgoing = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{leader}{}", request.path))
            .header(CONTENT_TYPE, "application/json")
            .header(header::FORWARDED, "1");
        let outgoing = self.identity.mark_request(outgoing).body(Full::new(request.body.clone()));
        let outgoing = match outgoing {
            Ok(outgoing) => outgoing,
            Err(error) => {
                tracing::error!(leader, %error, "could not use the leader's API address");
                return Forwarded::NotDone;
            }
        };
        let held = (permit, Arc::clone(&request.held));
        let (client, leadership) = (self.client.clone(), self.leadership.clone());
        let (leader, repeatable) = (leader.to_owned(), request.repeatable);
        let task = self.exchanges.spawn(async move {
            let _held = held;
            tokio::select! {
                forwarded = exchange(&client, &leader, outgoing) => forwarded,
                () = overtaken(&leadership, &leader), if repeatable => {
                    tracing::warn!(leader, "repeating a forwarded write: another server leads");
                    Forwarded::Overtaken
                }
            }
        });
        task.await.unwrap_or(Forwarded::Lost)
    }
}

async fn exchange(client: &ServerClient, leader: &str, outgoing: Request<Full<Bytes>>) -> Forwarded {
    let exchange = async {
        let answer = client.request(outgoing).await;
        let answer = answer.map_err(|error| (!error.is_connect(), chain(&error)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, API_BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| (true, error.to_string()))?.to_bytes();
        Ok::<_, (bool, String)>((head, body))
    };
    let (sent, reason) = match tokio::time::timeout(FORWARD_TIMEOUT, exchange).await {
        Ok(Ok((head, body))) => return read(head.status, &head.headers, body),
        Ok(Err(failure)) => failure,
        Err(_) => (true, format!("no answer within {} s", FORWARD_TIMEOUT.as_secs())),
    };
    tracing::warn!(leader, reason, sent, "could not forward a write to the leader");
    if sent { Forwarded::Lost } else { Forwarded::NotDone }
}

/// Waits until another server than the one at `leader` leads.
async fn overtaken(leadership: &Leadership, leader: &str) {
    while !leadership.has_moved_from(leader) {
        tokio::time::sleep(LEADER_LOOK_INTERVAL).await;
    }
}

fn read(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Forwarded {
    if status == StatusCode::SERVICE_UNAVAILABLE && headers.contains_key(header::LEADER) {
        return Forwarded::NotDone;
    }
    if identity::is_refusal(status, headers) {
        return Forwarded::NotDone;
    }
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    let ours = [header::APPLIED_INDEX, header::FULL].map(HeaderName::from_static);
    for name in [CONTENT_TYPE, RETRY_AFTER].into_iter().chain(ours) {
        if let Some(value) = headers.get(&name) {
            answer.headers_mut().insert(name, HeaderValue::clone(value));
        }
    }
    Forwarded::Answer(answer)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;
    use crate::server::error::Full;

    fn received(error: ApiError) -> Forwarded {
        let answer = error.into_response();
        read(answer.status(), answer.headers(), Bytes::new())
    }

    /// A leader that was killed and started again at once answers while its index loads. Its answer was
    /// passed on to clients, which then waited for `Retry-After` although the other servers were about to
    /// elect.
    #[test]
    fn a_server_that_does_not_lead_or_is_starting_is_not_the_last_word_and_an_overload_is() {
        assert!(matches!(received(ApiError::NotLeader { leader: "a:1".into() }), Forwarded::NotDone));
        assert!(matches!(received(ApiError::Loading), Forwarded::NotDone));
        assert!(matches!(received(ApiError::Overloaded), Forwarded::Answer(_)));
        assert!(matches!(received(ApiError::Stopped { reason: "x".into() }), Forwarded::Answer(_)));
    }

    /// With a connection for each, the requests of a herd waited at the leader to be accepted behind its
    /// clients.
    #[tokio::test(start_paused = true)]
    async fn so_many_are_on_their_way_at_once_and_heartbeats_need_no_permit_of_writes() {
        let permits = ForwardPermits::default();
        let mut writes = Vec::new();
        for _ in 0..FORWARDED_WRITES_MAX {
            writes.push(permits.take(path::SYNC).await.unwrap());
        }
        assert!(permits.take(path::ADVERTISE).await.is_none(), "one more is on its way");
        assert!(permits.take(path::KEEPALIVE).await.is_some());
        let (waited, ()) = tokio::join!(permits.take(path::ADVERTISE), async { drop(writes.pop()) });
        assert!(waited.is_some());
    }

    #[test]
    fn a_full_index_and_a_full_disk_are_distinguished_also_through_another_server() {
        let full = |error| match received(error) {
            Forwarded::Answer(answer) => {
                assert_eq!(answer.status(), StatusCode::INSUFFICIENT_STORAGE);
                assert!(answer.headers().contains_key(RETRY_AFTER));
                answer.headers().get(header::FULL).is_some_and(|full| full == header::FULL_INDEX)
            }
            _ => panic!("not an answer"),
        };
        assert!(full(ApiError::Full(Full::Hosts)));
        assert!(!full(ApiError::NoRoom { reason: "x".into() }));
    }
}
