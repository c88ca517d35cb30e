//! What a server does while it may lack what the others have ([`Node::behind`]): it looks for one that does
//! not, sends a load balancer's lookups there (`/readyz`), and asks that server on behalf of clients that
//! know no other one.
//!
//! [`Node::behind`]: piccolo_raft::cluster::Node::behind

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full, Limited};
use piccolo_raft::cluster::{Behind, Node};
use piccolo_raft::errors::chain;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, timeout};

use super::server_client::ServerClient;
use crate::api::{StatusResponse, header, path};
use crate::limits::{
    ASKED_ELSEWHERE_AT_ONCE, CURRENCY_ASK_TIMEOUT, CURRENCY_LOOK_INTERVAL, ELSEWHERE_ANSWER_BYTES_MAX,
    ELSEWHERE_TIMEOUT, LAG_READY_MAX,
};
use crate::server::error::{CurrentServer, Unready};
use crate::task::Stop;

/// Finds another server for lookups while this one may lack something.
pub struct LookupFallback {
    node: Node,
    client: ServerClient,
    current: Mutex<CurrentServer>,
    /// Permits for lookups that another server is asked.
    asking: Semaphore,
}

impl LookupFallback {
    /// Asks the other servers with `client`.
    pub fn new(node: Node, client: ServerClient) -> Self {
        Self { node, client, current: Mutex::default(), asking: Semaphore::new(ASKED_ELSEWHERE_AT_ONCE) }
    }

    /// Why a load balancer should send lookups to another server; `None` if this one should get them. A
    /// server that is behind and sees no other that is not goes on: the last one of a site must.
    pub fn unready(&self) -> Option<Unready> {
        unready(self.node.behind()?, self.current())
    }

    /// Looks for a server that has everything while this one may not, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: Stop) -> Result<(), Infallible> {
        let mut ticks = tokio::time::interval(CURRENCY_LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut logged = false;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let current = match self.node.behind() {
                // A server that has just lost its leader stays in service until it knows of another server.
                None => CurrentServer::Nobody,
                Some(_) => match stop.run_until_cancelled(self.look()).await {
                    Some(found) => found.map_or(CurrentServer::Nobody, CurrentServer::At),
                    None => break,
                },
            };
            *self.current.lock().expect("no code panics while it holds this lock") = current;
            let reason = self.unready();
            if let Some(reason) = reason.as_ref().filter(|_| !logged) {
                tracing::warn!(%reason, "not ready: lookups should go to another server");
            }
            logged = reason.is_some();
        }
        Ok(())
    }

    /// What another server answers to a findkey for which this one has only a 404 that is not the last word.
    /// `target` is path and query. `None` if there is no such server, or if it has no better answer.
    pub async fn find(&self, target: &str) -> Option<Response> {
        let api = match self.current() {
            CurrentServer::At(api) => api,
            CurrentServer::Unknown | CurrentServer::Nobody => {
                let leader = self.node.leader().filter(|_| !self.node.is_leader());
                leader.map(|(_, member)| member.api_address)?
            }
        };
        let _permit = self.asking.try_acquire().ok()?;
        let (head, body) = match timeout(ELSEWHERE_TIMEOUT, self.get(&api, target)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!(api, error, "could not ask another server for a key");
                return None;
            }
            Err(_) => return None,
        };
        let is_last_word = !head.headers.contains_key(header::BEHIND);
        if !is_last_word || !matches!(head.status, StatusCode::OK | StatusCode::NOT_FOUND) {
            return None;
        }
        let mut answer = Response::new(Body::from(body));
        *answer.status_mut() = head.status;
        for name in [CONTENT_TYPE, HeaderName::from_static(header::APPLIED_INDEX)] {
            if let Some(value) = head.headers.get(&name) {
                answer.headers_mut().insert(name, HeaderValue::clone(value));
            }
        }
        Some(answer)
    }

    fn current(&self) -> CurrentServer {
        self.current.lock().expect("no code panics while it holds this lock").clone()
    }

    /// API address of the first other server that says it has everything.
    async fn look(&self) -> Option<String> {
        let own = self.node.status().cluster_id.map(|id| id.to_string());
        let asked = self.node.other_apis().await.into_iter().map(|api| async {
            match timeout(CURRENCY_ASK_TIMEOUT, self.status(&api)).await {
                Ok(Ok(status)) if status.current && own.as_ref().is_none_or(|own| *own == status.cluster) => {
                    Some(api)
                }
                Ok(Ok(_)) | Err(_) => None,
                Ok(Err(error)) => {
                    tracing::debug!(api, error, "could not ask another server whether it answers");
                    None
                }
            }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        while let Some(answer) = asked.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    async fn status(&self, api: &str) -> Result<StatusResponse, String> {
        let (_, body) = self.get(api, path::STATUS).await?;
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }

    async fn get(&self, api: &str, target: &str) -> Result<(axum::http::response::Parts, Bytes), String> {
        let request = Request::builder()
            .uri(format!("http://{api}{target}"))
            // The other server does not ask a third one on our behalf.
            .header(header::ASKS_OTHERS, "1")
            .body(Full::new(Bytes::new()))
            .map_err(|error| error.to_string())?;
        let answer = self.client.request(request).await.map_err(|error| chain(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ELSEWHERE_ANSWER_BYTES_MAX).collect().await;
        Ok((head, body.map_err(|error| error.to_string())?.to_bytes()))
    }
}

fn unready(behind: Behind, current: CurrentServer) -> Option<Unready> {
    match (behind, &current) {
        // If a follower is slow under load, the others must not get its load as well.
        (Behind::Lags { since, .. }, _) if since < LAG_READY_MAX => None,
        (_, CurrentServer::Nobody) => None,
        _ => Some(Unready { behind, current }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The one server that survives a power cut must go on.
    #[test]
    fn a_server_that_is_behind_is_unready_only_where_another_one_serves() {
        let another = || CurrentServer::At("10.0.0.2:7789".to_owned());
        for behind in [Behind::NoMember, Behind::Unled, Behind::CatchingUp] {
            let told = unready(behind, another()).unwrap().to_string();
            assert!(told.contains(&behind.to_string()) && told.contains("10.0.0.2:7789"), "{told}");
            assert_eq!(unready(behind, CurrentServer::Nobody), None, "{behind}");
            assert!(unready(behind, CurrentServer::Unknown).is_some(), "{behind}");
        }
        let lags = |since| Behind::Lags { applied: 1, committed: 2, since };
        assert!(unready(lags(LAG_READY_MAX), another()).is_some());
        assert_eq!(unready(lags(LAG_READY_MAX - Duration::from_millis(1)), another()), None);
    }
}
