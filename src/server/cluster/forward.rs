//! Brings a write or keepalive to the leader: decides here if this node leads, otherwise forwards,
//! once. While there is no leader it waits, at most [`LEADER_WAIT_MAX`].
//!
//! So many are forwarded at once ([`Ways`]), keepalives apart from writes; the others wait here. So a server
//! keeps its connections to the leader, and no forward waits there among clients to be accepted. A client that
//! leaves ends no exchange with the leader: that would close the connection, and the next forward would have to
//! be accepted there anew.
//!
//! A forward that failed before it was sent, or that met a server which does not lead, has changed
//! nothing and is repeated. One whose answer was lost is repeated only if the request may be: with a
//! pair it may, and so may a keepalive; it is repeated as soon as another server leads, for a leader
//! that froze never answers. Otherwise the client is told that the outcome is unknown: a
//! 503 would claim that nothing happened. So would any other error of a repetition: the attempt that was
//! lost may still become an entry.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::api::client::chain;
use crate::api::{header, path};
use crate::limits::{
    API_BODY_BYTES_MAX, FORWARD_TIMEOUT, FORWARDED_BEATS_MAX, FORWARDED_WRITES_MAX, LEADER_WAIT_MAX,
};
use crate::server::app::App;
use crate::server::cluster::cluster_id;
use crate::server::error::ApiError;

/// Ways to the leader: who forwards something takes one, until it has the answer.
#[derive(Debug)]
pub struct Ways {
    writes: Arc<Semaphore>,
    beats: Arc<Semaphore>,
}

impl Default for Ways {
    fn default() -> Self {
        let ways = |count| Arc::new(Semaphore::new(count));
        Self { writes: ways(FORWARDED_WRITES_MAX), beats: ways(FORWARDED_BEATS_MAX) }
    }
}

impl Ways {
    /// `None` if there is none for as long as a write waits for a leader.
    async fn take(&self, path: &str) -> Option<OwnedSemaphorePermit> {
        let ways = if path == path::KEEPALIVE { &self.beats } else { &self.writes };
        tokio::time::timeout(LEADER_WAIT_MAX, ways.clone().acquire_owned()).await.ok()?.ok()
    }
}

/// Pause between two looks for a leader.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A request that only the leader can answer.
pub struct ForLeader {
    /// Its path.
    pub path: &'static str,
    /// Its body, as it came.
    pub body: Bytes,
    /// Whether another server has forwarded it.
    pub forwarded: bool,
    /// Whether a repetition does no harm.
    pub repeatable: bool,
    /// What the request takes up: places, memory. Given back when the leader has answered, whether or not
    /// the client has waited for that.
    pub held: Arc<dyn Any + Send + Sync>,
}

impl ForLeader {
    /// Reads the mark of a forwarded request.
    pub fn is_forwarded(headers: &HeaderMap) -> bool {
        headers.get(header::FORWARDED).is_some_and(|value| value == "1")
    }
}

/// How a forward ended.
enum Forwarded {
    /// The leader's answer.
    Answer(Response),
    /// Nothing was done: look for a leader again.
    NotDone,
    /// It may have been done.
    Lost,
    /// The same, and another node leads meanwhile. Only of requests that may be repeated.
    Overtaken,
    /// Nothing was done: too many are on their way.
    Crowded,
}

/// Answers `request` by `decide` on the leader, here or there.
pub async fn to_leader<F>(
    app: &Arc<App>,
    request: ForLeader,
    decide: impl Fn() -> F,
) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Response, ApiError>>,
{
    if request.forwarded {
        return if app.leads() { decide().await } else { Err(not_leader(app)) };
    }
    let mut end = Instant::now() + LEADER_WAIT_MAX;
    let mut lost = false;
    loop {
        if app.leads() {
            match decide().await {
                Err(ApiError::NotLeader { .. }) => {}
                Err(error) if lost && error.status().is_server_error() => {
                    return Err(ApiError::OutcomeUnknown);
                }
                decided => return decided,
            }
        } else if let Some(leader) = other_leader(app) {
            match forward(app, &leader, &request).await {
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
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// API address of the leader, if another node leads and has been heard of lately.
fn other_leader(app: &App) -> Option<String> {
    if app.node.is_leader() || !app.node.has_quorum() {
        return None;
    }
    app.node.leader().map(|(_, member)| member.api_address)
}

fn not_leader(app: &App) -> ApiError {
    ApiError::NotLeader { leader: other_leader(app).unwrap_or_default() }
}

/// Sends `request` to `leader`, in a task that ends with the answer: also when the client leaves.
async fn forward(app: &Arc<App>, leader: &str, request: &ForLeader) -> Forwarded {
    let Some(way) = app.ways.take(request.path).await else { return Forwarded::Crowded };
    if other_leader(app).as_deref() != Some(leader) {
        return Forwarded::NotDone;
    }
    let outgoing = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{leader}{}", request.path))
        .header(CONTENT_TYPE, "application/json")
        .header(header::FORWARDED, "1");
    let outgoing = match cluster_id::name(app, outgoing).body(Full::new(request.body.clone())) {
        Ok(outgoing) => outgoing,
        Err(error) => {
            tracing::error!(leader, %error, "could not use the leader's API address");
            return Forwarded::NotDone;
        }
    };
    let held = (way, Arc::clone(&request.held));
    let (app, leader, repeatable) = (Arc::clone(app), leader.to_owned(), request.repeatable);
    let task = Arc::clone(&app).writes.spawn(async move {
        let _held = held;
        tokio::select! {
            forwarded = exchange(&app, &leader, outgoing) => forwarded,
            () = overtaken(&app, &leader), if repeatable => {
                tracing::warn!(leader, "repeats a forwarded write: another server leads");
                Forwarded::Overtaken
            }
        }
    });
    task.await.unwrap_or(Forwarded::Lost)
}

async fn exchange(app: &App, leader: &str, outgoing: Request<Full<Bytes>>) -> Forwarded {
    let exchange = async {
        let answer = app.http.request(outgoing).await;
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

/// Until another node than the one at `leader` leads.
async fn overtaken(app: &App, leader: &str) {
    let still =
        || app.node.leader().is_none_or(|(_, member)| !app.node.is_leader() && member.api_address == leader);
    while still() {
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

fn read(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Forwarded {
    if status == StatusCode::SERVICE_UNAVAILABLE && headers.contains_key(header::LEADER) {
        return Forwarded::NotDone;
    }
    if cluster_id::is_refusal(status, headers) {
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
    use crate::server::writes::capacity::Full;

    fn heard(error: ApiError) -> Forwarded {
        let answer = error.into_response();
        read(answer.status(), answer.headers(), Bytes::new())
    }

    /// A leader that was killed and started again at once answers while its index loads. Its word was passed
    /// on to clients, who then waited for `Retry-After` although the others were about to elect.
    #[test]
    fn who_does_not_lead_or_is_just_starting_is_not_the_last_word_and_an_overload_is() {
        assert!(matches!(heard(ApiError::NotLeader { leader: "a:1".into() }), Forwarded::NotDone));
        assert!(matches!(heard(ApiError::Loading), Forwarded::NotDone));
        assert!(matches!(heard(ApiError::Overloaded), Forwarded::Answer(_)));
        assert!(matches!(heard(ApiError::NotServing { reason: "x".into() }), Forwarded::Answer(_)));
    }

    /// With a connection for each forward, a herd's waited at the leader behind its clients to be accepted.
    #[tokio::test(start_paused = true)]
    async fn so_many_are_on_their_way_at_once_and_keepalives_need_no_way_of_writes() {
        let ways = Ways::default();
        let mut writes = Vec::new();
        for _ in 0..FORWARDED_WRITES_MAX {
            writes.push(ways.take(path::SYNC).await.unwrap());
        }
        assert!(ways.take(path::ADVERTISE).await.is_none(), "one more is on its way");
        assert!(ways.take(path::KEEPALIVE).await.is_some());
        let (waited, ()) = tokio::join!(ways.take(path::ADVERTISE), async { drop(writes.pop()) });
        assert!(waited.is_some());
    }

    #[test]
    fn a_full_index_and_a_full_disk_are_told_apart_also_through_another_server() {
        let full = |error| match heard(error) {
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
