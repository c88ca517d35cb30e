//! What a server does that may lack what the others have ([`Node::behind`]): it looks for one that does
//! not, leaves the lookups of a load balancer to that one (`/readyz`), and asks it on behalf of clients
//! that cannot ask another server themselves.
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
use piccolo_raft::cluster::Behind;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, timeout};

use crate::api::client::chain;
use crate::api::{StatusResponse, header, path};
use crate::limits::{
    ASKED_ELSEWHERE_AT_ONCE, CURRENCY_ASK_TIMEOUT, CURRENCY_LOOK_INTERVAL, ELSEWHERE_ANSWER_BYTES_MAX,
    ELSEWHERE_TIMEOUT, LAG_READY_MAX,
};
use crate::server::app::App;
use crate::task::Stop;

/// Who answers lookups while this server may lack something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Serving {
    /// Nobody has been asked since the start.
    #[default]
    Unknown,
    /// No other server that has everything, as far as this one can see.
    Nobody,
    /// The one with this API address.
    Another(String),
}

/// The other servers, seen from one that may lack something.
#[derive(Debug)]
pub struct Elsewhere {
    serving: Mutex<Serving>,
    /// Lookups that are asked there at once.
    asking: Semaphore,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self { serving: Mutex::default(), asking: Semaphore::new(ASKED_ELSEWHERE_AT_ONCE) }
    }
}

impl Elsewhere {
    fn serving(&self) -> Serving {
        self.serving.lock().expect("nothing panics with it in hand").clone()
    }

    fn set(&self, serving: Serving) {
        *self.serving.lock().expect("nothing panics with it in hand") = serving;
    }
}

/// Why a load balancer should send lookups to another server, if that is so. A server that is behind and
/// sees no other that is not goes on: the last one of a site must.
pub fn unready(app: &App) -> Option<String> {
    reason(app.node.behind()?, app.elsewhere.serving())
}

fn reason(behind: Behind, serving: Serving) -> Option<String> {
    match (behind, serving) {
        // Of a follower that is slow under load the others must not get the load, too.
        (Behind::Lags { since, .. }, _) if since < LAG_READY_MAX => None,
        (_, Serving::Nobody) => None,
        (behind, Serving::Unknown) => Some(format!("{behind}; asks the other servers whether they answer")),
        (behind, Serving::Another(api)) => Some(format!("{behind}; {api} answers lookups")),
    }
}

/// Looks for a server that has everything, while this one may not. Until `stop`.
pub async fn watch(app: Arc<App>, stop: Stop) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(CURRENCY_LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let serving = match app.node.behind() {
            // Who has just lost its leader is not out of service before it knows of another server.
            None => Serving::Nobody,
            Some(_) => match stop.run_until_cancelled(look(&app)).await {
                Some(found) => found.map_or(Serving::Nobody, Serving::Another),
                None => break,
            },
        };
        app.elsewhere.set(serving);
        let reason = unready(&app);
        if let Some(reason) = reason.as_ref().filter(|_| !told) {
            tracing::warn!(reason, "not ready: lookups should go to another server");
        }
        told = reason.is_some();
    }
    Ok(())
}

/// API address of the first other server that says it has everything.
async fn look(app: &App) -> Option<String> {
    let own = app.node.status().cluster_id.map(|id| id.to_string());
    let asked = app.node.other_apis().await.into_iter().map(|api| async {
        match timeout(CURRENCY_ASK_TIMEOUT, status(app, &api)).await {
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

async fn status(app: &App, api: &str) -> Result<StatusResponse, String> {
    let (_, body) = get(app, api, path::STATUS).await?;
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

async fn get(app: &App, api: &str, target: &str) -> Result<(axum::http::response::Parts, Bytes), String> {
    let request = Request::builder()
        .uri(format!("http://{api}{target}"))
        // It does not ask anybody else on our behalf.
        .header(header::ASKS_OTHERS, "1")
        .body(Full::new(Bytes::new()))
        .map_err(|error| error.to_string())?;
    let answer = app.http.request(request).await.map_err(|error| chain(&error))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ELSEWHERE_ANSWER_BYTES_MAX).collect().await;
    Ok((head, body.map_err(|error| error.to_string())?.to_bytes()))
}

/// What another server answers to a findkey that this one would answer with a 404 that is no last word.
/// `None`: there is no such server, or it does not know either. `target` is path and query.
pub async fn find(app: &App, target: &str) -> Option<Response> {
    let api = match app.elsewhere.serving() {
        Serving::Another(api) => api,
        Serving::Unknown | Serving::Nobody => {
            app.node.leader().filter(|_| !app.node.is_leader()).map(|(_, member)| member.api_address)?
        }
    };
    let _permit = app.elsewhere.asking.try_acquire().ok()?;
    let (head, body) = match timeout(ELSEWHERE_TIMEOUT, get(app, &api, target)).await {
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

/// The header of an answer that is no last word.
pub fn behind_header() -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(header::BEHIND), HeaderValue::from_static("1"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Section 6 of the design: one survivor of a power cut must go on.
    #[test]
    fn a_server_that_is_behind_is_unready_only_where_another_one_serves() {
        let another = || Serving::Another("10.0.0.2:7789".to_owned());
        for behind in [Behind::NoMember, Behind::Unled, Behind::CatchingUp] {
            let told = reason(behind, another()).unwrap();
            assert!(told.contains(&behind.to_string()) && told.contains("10.0.0.2:7789"), "{told}");
            assert_eq!(reason(behind, Serving::Nobody), None, "{behind}");
            assert!(reason(behind, Serving::Unknown).is_some(), "{behind}");
        }
        let lags = |since| Behind::Lags { applied: 1, committed: 2, since };
        assert!(reason(lags(LAG_READY_MAX), another()).is_some());
        assert_eq!(reason(lags(LAG_READY_MAX - Duration::from_millis(1)), another()), None);
    }
}
