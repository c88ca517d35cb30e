//! One request to one address, and one call to all servers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::client::legacy::connect::capture_connection;
use piccolo_raft::errors::chain;

use super::answer::Answer;
use super::connection::OpenSince;
use super::endpoint::Endpoint;
use super::failures::Failures;
use super::servers::{Next, Round};
use super::trip::{self, Timeouts};
use super::{Client, ClientError};
use crate::api::{header, path};
use crate::limits::API_ANSWER_BYTES_MAX;

/// A request, before a server is chosen.
#[derive(Clone)]
pub(super) struct Question<'a> {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: &'a str,
    pub(super) body: Bytes,
    /// True if an answer of a server of any cluster counts.
    any_cluster: bool,
}

impl<'a> Question<'a> {
    pub(super) fn get(target: &'a str) -> Self {
        Self { method: Method::GET, target, body: Bytes::new(), any_cluster: false }
    }

    pub(super) fn post(target: &'a str, body: Bytes) -> Self {
        Self { method: Method::POST, target, body, any_cluster: false }
    }

    /// A GET that a server of any cluster may answer.
    pub(super) fn of_any(target: &'a str) -> Self {
        Self { any_cluster: true, ..Self::get(target) }
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn to(&self, endpoint: &Endpoint, alone: bool) -> Result<Request<Full<Bytes>>, String> {
        let json = HeaderValue::from_static("application/json");
        let mut request = Request::builder()
            .method(&self.method)
            .uri(format!("{}{}", endpoint.base, self.target))
            .header(HOST, endpoint.authority.clone())
            .header(ACCEPT, json.clone());
        if self.method == Method::POST {
            request = request.header(CONTENT_TYPE, json);
        } else if !alone {
            request = request.header(header::ASKS_OTHERS, "1");
        }
        request.body(Full::new(self.body.clone())).map_err(|error| error.to_string())
    }
}

impl Client {
    /// Asks one server after the other until an answer is final: not a 5xx, and not one that may be
    /// incomplete. If all servers are behind, returns the first answer.
    pub(super) async fn call(
        &self,
        question: Question<'_>,
        deadline: Duration,
    ) -> Result<Answer, ClientError> {
        let end = Instant::now() + deadline;
        let servers = &self.shared.servers;
        let mut resolved = servers.follow();
        let mut round = Round::new(servers);
        let mut failures = Failures::default();
        let mut behind = None;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let after = round.left().saturating_sub(1);
            let Some(Next { endpoint, fresh }) = round.next() else {
                if servers.is_waiting() {
                    _ = tokio::time::timeout(left, resolved.changed()).await;
                    continue;
                }
                break;
            };
            if behind.is_some() && endpoint.is_resting() {
                continue;
            }
            let least = trip::attempt_min(endpoint.trip().measured());
            // A single server is asked twice: the second attempt, on a new connection, needs time, too.
            let share = (left / (after as u32 + 1)).max(least.min(left));
            let Ok(result) = tokio::time::timeout(share, self.ask(&endpoint, &question, fresh)).await else {
                endpoint.note_failure();
                failures.silent(&endpoint.label, share);
                continue;
            };
            let is_answered = result.is_ok();
            match failures.unless_failed(&endpoint.label, result) {
                Some(answer) if answer.behind => _ = behind.get_or_insert(answer),
                Some(answer) => {
                    servers.answered(&endpoint);
                    return Ok(answer);
                }
                // A single server that is overloaded has answered: it is not asked again at once.
                None if is_answered && round.is_lone() => break,
                None => {}
            }
        }
        if let Some(answer) = behind {
            return Ok(answer);
        }
        Err(self.nobody(failures, deadline))
    }

    /// The error of a call without a final answer.
    pub(super) fn nobody(&self, mut failures: Failures, waited: Duration) -> ClientError {
        let servers = &self.shared.servers;
        failures.add(servers.unresolved(waited));
        servers.doubt();
        failures.into_error()
    }

    /// The answer of one server, or why there is none.
    pub(super) async fn ask(
        &self,
        endpoint: &Arc<Endpoint>,
        question: &Question<'_>,
        fresh: bool,
    ) -> Result<Answer, String> {
        let answer = self.exchange(endpoint, question, fresh).await;
        match &answer {
            Ok(_) => endpoint.note_answer(),
            Err(_) => endpoint.note_failure(),
        }
        answer
    }

    async fn exchange(
        &self,
        endpoint: &Arc<Endpoint>,
        question: &Question<'_>,
        fresh: bool,
    ) -> Result<Answer, String> {
        let is_lookup = matches!(question.path(), path::FINDKEY | path::LIVEZ);
        let alone = self.shared.servers.is_lone();
        let belonging = &self.shared.belonging;
        let mut request = question.to(endpoint, alone)?;
        if let Some(own) = belonging.own().filter(|_| question.method == Method::POST) {
            request.headers_mut().insert(header::CLUSTER, own);
        }
        let connection = capture_connection(&mut request);
        let is_kept = is_lookup && Timeouts::of(endpoint.trip().measured()).far;
        let http = match () {
            () if fresh => &self.shared.fresh,
            () if is_kept => &self.shared.kept,
            () => &self.shared.http,
        };
        let start = Instant::now();
        let response = http.request(request).await.map_err(|error| chain(&error))?;
        if is_lookup || question.path() == path::KEEPALIVE {
            // Lookups are answered from memory, so that the time on an open connection is the round trip.
            let open = response.extensions().get::<OpenSince>().map_or(start, |since| since.0.max(start));
            endpoint.trip().answered(open.elapsed());
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, API_ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("could not read the answer: {error}"))?.to_bytes();
        let answer = Answer::new(endpoint.label.clone(), &head, body);
        let counts = if question.any_cluster { Ok(()) } else { belonging.check(answer.cluster.as_ref()) };
        if alone && (answer.status.is_server_error() || answer.behind || counts.is_err()) {
            // A virtual address may stand for several servers, which only a new connection reaches.
            if let Some(connection) = connection.connection_metadata().as_ref() {
                connection.poison();
            }
        }
        counts.map(|()| answer)
    }
}
