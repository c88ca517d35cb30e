//! What answers the API port: lookups at once, everything else through the routes. A lookup takes a
//! few microseconds, and is what a pull waits for: finding its route, wrapping its answer in layers and
//! its labels up for the metrics are not worth as many.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use axum::response::IntoResponse;
use futures_util::future::Either;
use hyper::body::Incoming;
use metrics::{Counter, Histogram, counter, histogram};

use crate::api::{header, path};
use crate::http::{Answer, Connection};
use crate::server::app::Shared;
use crate::server::cluster::behind;
use crate::server::endpoints;
use crate::server::endpoints::findkey;
use crate::server::error::{ApiError, QueryError};
use crate::server::requests::query::Query;

/// All endpoints of a server; cheap to clone, as each request does.
#[derive(Clone)]
pub struct Endpoints(Arc<Inner>);

struct Inner {
    shared: Shared,
    routes: Router,
    metrics: Metrics,
}

/// As the routes count themselves, found once instead of at each request.
struct Metrics {
    seconds: Histogram,
    found: Counter,
    not_found: Counter,
}

impl Metrics {
    fn new() -> Self {
        let requests = |status: &'static str| counter!("http_requests_total", "route" => path::FINDKEY, "method" => "GET", "status" => status);
        Self {
            seconds: histogram!("http_request_duration_seconds", "route" => path::FINDKEY, "method" => "GET"),
            found: requests("200"),
            not_found: requests("404"),
        }
    }

    fn count(&self, status: u16, seconds: f64) {
        self.seconds.record(seconds);
        match status {
            200 => self.found.increment(1),
            404 => self.not_found.increment(1),
            other => {
                let labels = [
                    ("route", path::FINDKEY.to_owned()),
                    ("method", "GET".to_owned()),
                    ("status", other.to_string()),
                ];
                counter!("http_requests_total", &labels).increment(1);
            }
        }
    }
}

impl Endpoints {
    /// Over `shared`.
    pub fn new(shared: Shared) -> Self {
        let routes = endpoints::router(shared.clone());
        Self(Arc::new(Inner { shared, routes, metrics: Metrics::new() }))
    }

    fn is_lookup<B>(request: &Request<B>) -> bool {
        *request.method() == Method::GET && request.uri().path() == path::FINDKEY
    }

    /// Probes, and what is answered from memory in a few bytes.
    fn is_short<B>(request: &Request<B>) -> bool {
        const SHORT: [&str; 6] =
            [path::LIVEZ, path::READYZ, path::HEALTHZ, path::METRICS, path::FINDKEY, path::STATUS];
        [Method::GET, Method::HEAD].contains(request.method()) && SHORT.contains(&request.uri().path())
    }

    async fn look_up(self, head: Parts) -> Response<Body> {
        let Inner { shared, metrics, .. } = &*self.0;
        let start = Instant::now();
        let query = Query::parse(head.uri.query());
        let found = async { findkey::handle(shared.get()?, &query).await };
        let answer: Result<_, QueryError> = found.await;
        let answer = match answer {
            Err(QueryError(
                error @ (ApiError::KeyNotFound { behind: true, .. } | ApiError::NotServing { .. }),
            )) => {
                // In a box, because every lookup would move the room for it.
                Box::pin(Self::not_here(shared, &head, error)).await
            }
            answer => answer.into_response(),
        };
        let answer = endpoints::with_applied_index(shared, answer);
        metrics.count(answer.status().as_u16(), start.elapsed().as_secs_f64());
        answer
    }
}

impl Endpoints {
    /// A server that may lack what others have, or is no member yet, has no answer: a client that knows of
    /// other servers asks them itself. The Go `pi` knows one address and takes a 404 for the last word, so
    /// that this server asks for it.
    async fn not_here(shared: &Shared, head: &Parts, error: ApiError) -> Response<Body> {
        let asks_itself = head.headers.contains_key(header::ASKS_OTHERS);
        let target = head.uri.path_and_query().filter(|_| !asks_itself);
        if let (Ok(app), Some(target)) = (shared.get(), target)
            && let Some(answer) = behind::find(app, target.as_str()).await
        {
            return answer;
        }
        QueryError(error).into_response()
    }
}

impl Answer for Endpoints {
    fn answer(
        self,
        request: Request<Incoming>,
        connection: Connection,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        if connection.is_over_limit && !Self::is_short(&request) {
            // A write, or an answer of megabytes, could keep this connection for long.
            Either::Right(Either::Left(std::future::ready(ApiError::Overloaded.into_response())))
        } else if Self::is_lookup(&request) {
            let (head, _no_body) = request.into_parts();
            Either::Left(self.look_up(head))
        } else {
            // In a box, because every lookup would move the room for it.
            Either::Right(Either::Right(Box::pin(self.0.routes.clone().answer(request, connection))))
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn beyond_the_limit_only_what_is_short_is_answered() {
        let is_short = |method: &str, target: &str| {
            Endpoints::is_short(&Request::builder().method(method).uri(target).body(()).unwrap())
        };
        for target in [path::LIVEZ, path::READYZ, path::METRICS, path::STATUS] {
            assert!(is_short("GET", target) && is_short("HEAD", target), "{target}");
        }
        assert!(is_short("GET", &format!("{}?key=k&group=g", path::FINDKEY)));
        for (method, target) in
            [("POST", path::KEEPALIVE), ("GET", path::HOSTS), ("POST", path::LIVEZ), ("POST", path::SNAPSHOT)]
        {
            assert!(!is_short(method, target), "{method} {target}");
        }
    }

    #[tokio::test]
    async fn a_lookup_is_answered_and_counted_as_its_route_would() {
        let recorder = crate::metrics::install();
        let endpoints = Endpoints::new(Shared::default());
        let request = || {
            let target = format!("{}?key=k&group=g", path::FINDKEY);
            Request::builder().uri(target).body(Body::empty()).unwrap()
        };
        assert!(Endpoints::is_lookup(&request()));
        let mut routed = endpoints.0.routes.clone().oneshot(request()).await.unwrap();
        // hyper adds it to an answer that has none.
        routed.headers_mut().remove("content-length");
        let direct = endpoints.look_up(request().into_parts().0).await;
        assert_eq!(direct.status(), routed.status());
        // Their values differ by chance: when to come again.
        let names = |answer: &Response<Body>| {
            let mut names: Vec<_> = answer.headers().keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(&direct), names(&routed));
        let [direct, routed] = [direct, routed].map(|answer| axum::body::to_bytes(answer.into_body(), 1_000));
        assert_eq!(direct.await.unwrap(), routed.await.unwrap());
        let counted = recorder.render();
        let line = counted.lines().find(|line| {
            line.starts_with("http_requests_total") && line.contains(path::FINDKEY) && line.contains("503")
        });
        assert_eq!(line.and_then(|line| line.rsplit(' ').next()), Some("2"), "{counted}");
    }
}
